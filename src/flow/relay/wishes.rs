//! What people have decided on given up rows, with `kylo dlq`: publish it now, or never.
//!
//! What must never happen here: a letter closed whose event is not in the topic, or a replay that does not say that it is one.

use super::Shared;
use super::refused::ReplayWish;
use super::status::Why;
use super::work::{Trouble, Work};
use crate::domain::outbox::{Event, OutboxRow, REPLAY_HEADER};
use crate::flow::dead_letter;
use crate::ports::PublishFault;
use crate::store::control::relay;
use crate::store::outbox::{self, Statements};

/// Publishes what is to be replayed, and marks and forgets what is settled.
pub(super) async fn fulfil(shared: &Shared, work: &mut Work, statements: &Statements) -> Result<(), Trouble> {
    settle(shared, work, statements).await?;
    let wishes = work.refused.take_replays();
    if wishes.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = wishes.iter().map(|wish| wish.id.clone()).collect();
    let rows = outbox::rows(&work.pool, statements, &ids).await.map_err(|error| work.database(&error))?;
    for wish in wishes {
        match rows.iter().find(|row| row.id == wish.id) {
            Some(row) => replay(shared, work, statements, &wish, row).await?,
            None => refuse(shared, &wish, "its row is no longer in the outbox").await?,
        }
    }
    Ok(())
}

async fn replay(shared: &Shared, work: &mut Work, statements: &Statements, wish: &ReplayWish, row: &OutboxRow) -> Result<(), Trouble> {
    let event = match work.outbox.event(row) {
        Ok(event) => marked_as_replay(event, wish.letter),
        Err(reason) => return refuse(shared, wish, &reason).await,
    };
    match shared.options.publisher.publish(std::slice::from_ref(&event)).await.pop() {
        Some(Ok(())) => {}
        Some(Err(PublishFault::Refused(reason) | PublishFault::Topic(reason))) => return refuse(shared, wish, &reason).await,
        Some(Err(PublishFault::Later(reason))) => return Err(Trouble::new(Why::Broker, reason)),
        None => return Err(Trouble::new(Why::Broker, "no answer")),
    }
    shared.options.metrics.events("published", 1);
    let ids = [wish.id.clone()];
    work.mark_settled(statements, &ids).await?;
    relay::resolve(&shared.options.control, &work.outbox.name, wish.letter, &wish.id)
        .await
        .map_err(|error| Trouble::control("close the letter of a replayed event", &error))?;
    work.refused.forget(&ids);
    tracing::info!(outbox = work.outbox.name, row = wish.id, letter = wish.letter, "a given up event was published");
    Ok(())
}

fn marked_as_replay(mut event: Event, letter: i64) -> Event {
    event.headers.push((REPLAY_HEADER.to_owned(), "dlq".to_owned()));
    event.headers.push((dead_letter::HEADER.to_owned(), letter.to_string()));
    event
}

/// The letter is open again, with one attempt more.
async fn refuse(shared: &Shared, wish: &ReplayWish, reason: &str) -> Result<(), Trouble> {
    shared.options.metrics.events("refused", 1);
    tracing::warn!(letter = wish.letter, reason, "a replayed event was refused again");
    let opened = relay::reopen(&shared.options.control, wish.letter, reason).await;
    opened.map_err(|error| Trouble::control("count an attempt of a letter", &error))
}

/// Marks given up rows whose letters are resolved or discarded, then forgets them. In this order: after a crash in between they are marked again.
async fn settle(shared: &Shared, work: &mut Work, statements: &Statements) -> Result<(), Trouble> {
    let settled = work.refused.take_settled();
    if settled.is_empty() {
        return Ok(());
    }
    // The outbox's own word for failure stays on what was discarded.
    let to_mark: Vec<String> = settled.iter().filter(|row| row.replayed || statements.fail.is_none()).map(|row| row.id.clone()).collect();
    work.mark_settled(statements, &to_mark).await?;
    let ids: Vec<String> = settled.into_iter().map(|row| row.id).collect();
    let forgotten = relay::forget(&shared.options.control, &work.outbox.name, &ids).await;
    forgotten.map_err(|error| Trouble::control("forget settled rows", &error))?;
    work.refused.forget(&ids);
    Ok(())
}
