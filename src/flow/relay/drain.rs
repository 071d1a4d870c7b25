//! One outbox until it is empty, or until something keeps it from moving.
//!
//! Three things at a time: a batch is published, the next is claimed, the one before is marked. What must never happen here: a row marked that was
//! not acknowledged, or a batch published on top of one that failed.

use std::sync::Arc;

use super::publish::{self, Sent};
use super::status::Why;
use super::work::{Trouble, Work};
use super::{Shared, wishes};
use crate::domain::outbox::OutboxRow;
use crate::faults::CrashPoint;
use crate::store::control::relay;
use crate::store::outbox::Statements;

/// Rows that are looked at one by one after a refusal; what is behind them is claimed again.
const MOST_ALONE: usize = 500;

/// Drains, and gives the outbox back with what keeps it from moving, if anything does.
pub(super) async fn drain(shared: Arc<Shared>, mut work: Work) -> Work {
    // Whoever waits in vain for a database that is down takes no slot from those whose databases are not.
    if work.trouble.as_ref().is_some_and(|trouble| trouble.why == Why::Database)
        && let Err(trouble) = work.is_answered().await
    {
        work.is_troubled(trouble);
        return work;
    }
    // Never closed, so there is always a slot to wait for.
    let _slot = shared.slots.acquire().await;
    match run(&shared, &mut work).await {
        Ok(()) => work.is_well(),
        Err(trouble) => work.is_troubled(trouble),
    }
    work
}

async fn run(shared: &Shared, work: &mut Work) -> Result<(), Trouble> {
    let statements = work.statements().await?;
    let mut to_mark = std::mem::take(&mut work.unmarked);
    let ended = run_from(shared, work, &statements, &mut to_mark).await;
    if ended.is_err() && !to_mark.is_empty() && work.mark(&statements, &to_mark).await.is_ok() {
        to_mark.clear();
    }
    // What was published and could not be marked is marked first the next time.
    work.unmarked = to_mark;
    ended
}

/// `to_mark`: acknowledged rows, empty at a good end.
async fn run_from(shared: &Shared, work: &mut Work, statements: &Statements, to_mark: &mut Vec<String>) -> Result<(), Trouble> {
    wishes::fulfil(shared, work, statements).await?;
    publish::check_topics(shared, work, &[]).await?;
    let limit = shared.options.limits.batch;
    let mut batch = take(shared, work, statements, to_mark, limit).await?;
    loop {
        if !work.goes_on() {
            batch = Vec::new();
        }
        if batch.is_empty() {
            mark(shared, work, statements, to_mark).await?;
            if !work.goes_on() {
                return Ok(());
            }
            batch = take(shared, work, statements, to_mark, limit).await?;
            if batch.is_empty() {
                return Ok(());
            }
        }
        shared.options.faults.reached(CrashPoint::RelayClaimed).await;
        let ids: Vec<String> = batch.iter().map(|row| row.id.clone()).chain(to_mark.iter().cloned()).collect();
        let marking = std::mem::take(to_mark);
        let (sent, marked, next) = {
            let work = &*work;
            tokio::join!(publish::all(shared, work, batch), marked(shared, work, statements, &marking), next(work, statements, &ids, limit))
        };
        shared.options.faults.reached(CrashPoint::RelayAcknowledged).await;
        if marked.is_err() {
            to_mark.extend(marking);
        }
        batch = follow(shared, work, sent, next, to_mark).await?;
        marked?;
    }
}

/// What comes after a batch: the next one if all went well, nothing if it has to be claimed anew.
async fn follow(
    shared: &Shared,
    work: &mut Work,
    mut sent: Sent,
    next: Result<Vec<OutboxRow>, Trouble>,
    to_mark: &mut Vec<String>,
) -> Result<Vec<OutboxRow>, Trouble> {
    let is_clean = sent.left.is_empty();
    let has_left = sent.has_left();
    to_mark.extend(sent.acknowledged);
    if let Some(trouble) = sent.trouble {
        return Err(trouble);
    }
    if has_left {
        sent.left.truncate(MOST_ALONE);
        let alone = publish::one_by_one(shared, work, sent.left).await;
        recovered(shared, work, &alone.acknowledged).await?;
        to_mark.extend(alone.acknowledged);
        if let Some(trouble) = alone.trouble {
            return Err(trouble);
        }
        check_given_up(shared, work)?;
    }
    let next = next?;
    // What was claimed meanwhile may have keys that are held back now.
    Ok(if is_clean { next } else { Vec::new() })
}

async fn next(work: &Work, statements: &Statements, but: &[String], limit: u32) -> Result<Vec<OutboxRow>, Trouble> {
    if work.goes_on() { work.claim(statements, but, limit).await } else { Ok(Vec::new()) }
}

async fn take(shared: &Shared, work: &Work, statements: &Statements, but: &[String], limit: u32) -> Result<Vec<OutboxRow>, Trouble> {
    check_given_up(shared, work)?;
    next(work, statements, but, limit).await
}

async fn mark(shared: &Shared, work: &Work, statements: &Statements, to_mark: &mut Vec<String>) -> Result<(), Trouble> {
    marked(shared, work, statements, to_mark).await?;
    to_mark.clear();
    Ok(())
}

async fn marked(shared: &Shared, work: &Work, statements: &Statements, ids: &[String]) -> Result<(), Trouble> {
    if ids.is_empty() {
        return Ok(());
    }
    work.mark(statements, ids).await?;
    shared.options.faults.reached(CrashPoint::RelayMarked).await;
    Ok(())
}

/// Rows that had been refused before and are published now.
async fn recovered(shared: &Shared, work: &mut Work, acknowledged: &[String]) -> Result<(), Trouble> {
    let known = work.refused.known(acknowledged);
    if known.is_empty() {
        return Ok(());
    }
    // Forgotten here whatever happens: an entry that stays behind is found published, and forgotten, when it is tried again.
    work.refused.forget(&known);
    relay::forget(&shared.options.control, &work.outbox.name, &known).await.map_err(|error| Trouble::control("forget refused rows", &error))
}

fn check_given_up(shared: &Shared, work: &Work) -> Result<(), Trouble> {
    let (n, most) = (work.refused.n_given_up(), shared.options.limits.most_given_up);
    if n < most {
        return Ok(());
    }
    let reason = format!(
        "{n} events of outbox {} were given up and none of them is settled (KYLO_RELAY_DEAD_CAP): mend what refuses them, then `kylo dlq replay` or `discard` them",
        work.outbox.name
    );
    Err(Trouble::new(Why::GivenUp, reason))
}
