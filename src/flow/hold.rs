//! Draining a company's held messages: in order, through the same handler as live ones, by one process at a time.
//!
//! Called by the consumer for companies whose trouble is due. What must never happen here: a held message removed before its effects are
//! durable, or one handled before an earlier one of its company.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::consume::handle::{Handler, Item, Outcome};
use super::consume::status::MessageOutcome;
use super::consume::topics::Topic;
use super::routing::Routing;
use super::work::Stuck;
use crate::domain::ids::CompanyId;
use crate::faults::{Bug, CrashPoint, planted};
use crate::store::control::held;
use crate::store::control::trouble::{self, Trouble, TroubleState};
use crate::store::pools::{PATIENCE, within};

/// How long one process may drain a company without saying so again; another takes over after that.
pub const DRAIN_LEASE: Duration = Duration::from_secs(60);
/// A parked company is tried again after this time.
pub const PARKED_RETRY: Duration = Duration::from_secs(15 * 60);
/// Messages and payload bytes drained at once.
const CHUNK_MESSAGES: i64 = 256;
const CHUNK_BYTES: i64 = 8 << 20;

/// What came of trying to drain a company.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Its queue is empty: live messages go the ordinary way again.
    Empty,
    /// Another process drains it.
    Elsewhere,
    /// Its trouble goes on.
    Stuck { reason: String },
    /// Asked to stop; the rest stays in the queue.
    Stopped,
}

/// Drains one company until its queue is empty or it is stuck. `attempt` (from 0) sets the pause before the next try.
///
/// # Errors
/// The control database's; the queue is as it was, but for what was drained.
pub async fn drain<T: Topic>(
    handler: &Handler<T>,
    company: &CompanyId,
    holder: Uuid,
    attempt: u32,
    stop: &CancellationToken,
) -> Result<Drained, sqlx::Error> {
    let (pool, kind, name) = (&handler.control, handler.topic.kind(), company.as_str());
    loop {
        if !within(PATIENCE, trouble::lease_drain(pool, name, kind, holder, DRAIN_LEASE)).await? {
            return Ok(Drained::Elsewhere);
        }
        handler.faults.reached(CrashPoint::DrainLeased).await;
        if stop.is_cancelled() {
            within(PATIENCE, trouble::release_drain(pool, name, kind, holder, None)).await?;
            return Ok(Drained::Stopped);
        }
        // Taken before the try: what changes meanwhile is another version, and tried again.
        let config_version = match handler.routes.of(company).await? {
            Routing::Known(route) => Some(route.version),
            Routing::Refused(refused) => Some(refused.version),
            Routing::Unknown => None,
        };
        let chunk = within(PATIENCE, held::head(pool, name, &handler.name, CHUNK_MESSAGES, CHUNK_BYTES)).await?;
        handler.faults.reached(CrashPoint::DrainRead).await;
        if chunk.is_empty() {
            if within(PATIENCE, held::finish(pool, name, kind, &handler.name)).await? {
                handler.faults.reached(CrashPoint::DrainFinished).await;
                return Ok(Drained::Empty);
            }
            continue;
        }
        let ids: Vec<i64> = chunk.iter().map(|message| message.id).collect();
        let items = chunk.into_iter().map(|message| Item { company: company.clone(), record: message.record, work: None }).collect();
        let outcomes = handler.handle(items).await;
        handler.faults.reached(CrashPoint::DrainApplied).await;
        if let Some(stuck) = settle(handler, pool, &ids, outcomes).await? {
            let trouble = match stuck {
                Stuck::Control(_) => None,
                Stuck::Down { ref reason, .. } => {
                    Some(Trouble { kind, state: TroubleState::Down, reason: reason.clone(), config_version, retry_after: pause(attempt) })
                }
                Stuck::Parked { ref reason, .. } => {
                    Some(Trouble { kind, state: TroubleState::Parked, reason: reason.clone(), config_version, retry_after: PARKED_RETRY })
                }
            };
            within(PATIENCE, trouble::release_drain(pool, name, kind, holder, trouble.as_ref())).await?;
            return Ok(Drained::Stuck { reason: stuck.to_string() });
        }
    }
}

/// Removes what is done, up to the first that is stuck; gives that one's reason.
async fn settle<T: Topic>(handler: &Handler<T>, pool: &PgPool, ids: &[i64], outcomes: Vec<Outcome>) -> Result<Option<Stuck>, sqlx::Error> {
    let mut done: Vec<(i64, MessageOutcome)> = Vec::new();
    let mut stuck = None;
    for (id, outcome) in ids.iter().zip(outcomes) {
        match outcome {
            Outcome::Done(what) => done.push((*id, what)),
            Outcome::Stuck(reason) => {
                stuck = Some(reason);
                break;
            }
        }
    }
    let done_ids: Vec<i64> = done.iter().map(|(id, _)| *id).collect();
    within(PATIENCE, held::remove(pool, if planted(Bug::QueueEmptiedUnapplied) { ids } else { &done_ids })).await?;
    handler.faults.reached(CrashPoint::DrainRemoved).await;
    for (_, what) in done {
        handler.metrics.messages(&handler.name, what, 1);
    }
    Ok(stuck)
}

/// 1 s doubling to 15 s, so a database that is back is noticed soon and one that stays away costs little.
fn pause(attempt: u32) -> Duration {
    Duration::from_secs((1u64 << attempt.min(4)).min(15))
}
