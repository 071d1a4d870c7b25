//! What the engine starts and does not wait for: everything that asks a database. Each job ends with exactly one [`Ended`].
//!
//! What must never happen here: a job that keeps the engine's state, or one that never ends (whatever asks a database is bounded on this
//! side too: a server that is lost sends no error).

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::handle::{Handler, Item, Outcome};
use super::topics::Topic;
use crate::domain::ids::CompanyId;
use crate::faults::{Bug, CrashPoint, planted};
use crate::flow::hold::{self, Drained};
use crate::flow::lanes::{Call, Entry, Holding, LaneKey};
use crate::flow::offsets::Ticket;
use crate::flow::routing::Routing;
use crate::flow::work::NewLetter;
use crate::store::control::dead_letters::{self, Kept};
use crate::store::control::held::{self, Join};
use crate::store::control::poison::{self, Count};
use crate::store::error::describe;
use crate::store::pools::{PATIENCE, within};

/// Why a job failed: the control database, in words.
pub type ControlDown = String;

/// Poison messages on their way to the dead letters, and counts to be written after them.
#[derive(Debug, Default)]
pub struct Burial {
    pub letters: Vec<(Ticket, usize, NewLetter)>,
    pub counts: Vec<Count>,
}

/// What is known after a look at the control database.
#[derive(Debug)]
pub struct Look {
    pub held: Vec<(String, i64)>,
    pub due: Vec<String>,
    /// Counts of the partitions asked about.
    pub counts: Vec<Count>,
}

/// How a job ended.
#[derive(Debug)]
pub enum Ended<W> {
    Call { key: LaneKey, companies: Vec<CompanyId>, outcomes: Vec<(Entry<W>, Outcome)> },
    Held { holding: Holding<W>, result: Result<Join, ControlDown> },
    Buried { burial: Burial, result: Result<Vec<Kept>, ControlDown> },
    Routed { company: CompanyId, result: Result<Routing, ControlDown> },
    Prepared { partitions: Vec<i32>, result: Result<Look, ControlDown> },
    Looked { stopped: Vec<i32>, result: Result<Look, ControlDown> },
    Drained { company: CompanyId, result: Result<Drained, ControlDown> },
}

pub async fn call<T: Topic>(handler: Arc<Handler<T>>, mut call: Call<T::Work>) -> Ended<T::Work> {
    let item = |entry: &mut Entry<T::Work>| Item { company: entry.company.clone(), record: Arc::clone(&entry.record), work: entry.work.take() };
    let items = call.entries.iter_mut().map(item).collect();
    let outcomes = handler.handle(items).await;
    let mut companies: Vec<CompanyId> = call.entries.iter().map(|entry| entry.company.clone()).collect();
    companies.dedup();
    Ended::Call { key: call.key, companies, outcomes: call.entries.into_iter().zip(outcomes).collect() }
}

pub async fn hold<T: Topic>(handler: Arc<Handler<T>>, holding: Holding<T::Work>) -> Ended<T::Work> {
    let records: Vec<_> = holding.entries.iter().map(|entry| Arc::clone(&entry.record)).collect();
    let company = holding.company.as_str();
    handler.faults.reached(CrashPoint::HoldWriting).await;
    let result = match &holding.cause {
        _ if planted(Bug::HeldNotWritten) => Ok(Join::Held),
        None if planted(Bug::QueueOvertaken) => Ok(Join::QueueEmpty),
        Some(cause) => within(PATIENCE, held::hold(&handler.control, company, cause, &records)).await.map(|()| Join::Held),
        None => within(PATIENCE, held::join(&handler.control, company, handler.topic.kind(), &handler.name, &records)).await,
    };
    handler.faults.reached(CrashPoint::HoldWritten).await;
    Ended::Held { result: result.map_err(|error| describe(&error)), holding }
}

/// Letters first, then the counts, so that a stop is never known without the letters that led to it.
pub async fn bury<T: Topic>(handler: Arc<Handler<T>>, group: Arc<str>, burial: Burial) -> Ended<T::Work> {
    let letters: Vec<NewLetter> = burial.letters.iter().map(|(_, _, letter)| letter.clone()).collect();
    let written = async {
        let kept = write_letters(&handler, &letters).await?;
        if !burial.counts.is_empty() {
            within(PATIENCE, poison::save(&handler.control, &group, &handler.name, &burial.counts)).await?;
        }
        Ok::<_, sqlx::Error>(kept)
    };
    let result = written.await.map_err(|error| describe(&error));
    Ended::Buried { burial, result }
}

async fn write_letters<T: Topic>(handler: &Handler<T>, letters: &[NewLetter]) -> Result<Vec<Kept>, sqlx::Error> {
    if letters.is_empty() {
        return Ok(Vec::new());
    }
    if planted(Bug::LetterNotWritten) {
        return Ok(letters.iter().map(|_| Kept { id: 0, fresh: false }).collect());
    }
    handler.faults.reached(CrashPoint::MessageLettersWriting).await;
    let kept = dead_letters::insert(&handler.control, letters).await?;
    handler.faults.reached(CrashPoint::MessageLettersWritten).await;
    Ok(kept)
}

pub async fn route<T: Topic>(handler: Arc<Handler<T>>, company: CompanyId) -> Ended<T::Work> {
    let result = handler.routes.of(&company).await.map_err(|error| describe(&error));
    Ended::Routed { company, result }
}

pub async fn prepare<T: Topic>(handler: Arc<Handler<T>>, group: Arc<str>, partitions: Vec<i32>) -> Ended<T::Work> {
    let result = within(PATIENCE, look(&handler, &group, &partitions)).await.map_err(|error| describe(&error));
    Ended::Prepared { partitions, result }
}

pub async fn look_around<T: Topic>(handler: Arc<Handler<T>>, group: Arc<str>, stopped: Vec<i32>) -> Ended<T::Work> {
    let result = within(PATIENCE, look(&handler, &group, &stopped)).await.map_err(|error| describe(&error));
    Ended::Looked { stopped, result }
}

async fn look<T: Topic>(handler: &Handler<T>, group: &str, partitions: &[i32]) -> Result<Look, sqlx::Error> {
    let held = held::companies(&handler.control, &handler.name).await?;
    let due = held::due(&handler.control, handler.topic.kind(), &handler.name).await?;
    let counts = if partitions.is_empty() { Vec::new() } else { poison::load(&handler.control, group, &handler.name, partitions).await? };
    Ok(Look { held, due, counts })
}

pub async fn drain<T: Topic>(handler: Arc<Handler<T>>, company: CompanyId, holder: Uuid, attempt: u32, stop: CancellationToken) -> Ended<T::Work> {
    let result = hold::drain(&handler, &company, holder, attempt, &stop).await.map_err(|error| describe(&error));
    Ended::Drained { company, result }
}
