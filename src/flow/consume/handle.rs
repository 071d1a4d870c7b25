//! One call: messages of one lane are routed (again, if they waited), applied, and their dead letters written or closed.
//!
//! Called by the consumer's jobs and by the drainer of held messages, so both do exactly the same. What must never happen here: an answer
//! `Done` for a message whose effects are not durable, or a company's message applied after one of the same company that was stuck.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::PgPool;

use super::status::{ConsumeMetrics, MessageOutcome};
use super::topics::{Read, Topic};
use crate::domain::ids::CompanyId;
use crate::faults::{Bug, Faults, planted};
use crate::flow::decode::{Counts, Poison, PoisonClass};
use crate::flow::lanes::LaneKey;
use crate::flow::routing::{Routing, RoutingCache};
use crate::flow::work::{Handled, LetterKind, NewLetter, Record, Stuck};
use crate::store::control::dead_letters;
use crate::store::error::describe;

/// What came of a message.
#[derive(Debug)]
pub enum Outcome {
    /// Its effects are durable.
    Done(MessageOutcome),
    /// Nothing was written; the same message is to be tried again.
    Stuck(Stuck),
}

/// What handling needs beside the messages.
#[derive(Debug)]
pub struct Handler<T> {
    pub topic: T,
    pub name: Arc<str>,
    pub control: PgPool,
    pub routes: Arc<RoutingCache>,
    pub metrics: Arc<dyn ConsumeMetrics>,
    pub faults: Faults,
}

/// A message with its work, or still to be decoded and routed.
#[derive(Debug)]
pub struct Item<W> {
    pub company: CompanyId,
    pub record: Arc<Record>,
    pub work: Option<W>,
}

enum Prepared<W> {
    Work(W),
    Poison(Poison),
    Tombstone,
    Stuck(Stuck),
}

impl<T: Topic> Handler<T> {
    /// Handles messages of one lane, in order; one outcome for each.
    pub async fn handle(&self, items: Vec<Item<T::Work>>) -> Vec<Outcome> {
        let mut outcomes: Vec<Option<Outcome>> = items.iter().map(|_| None).collect();
        let places: Vec<(CompanyId, Arc<Record>)> = items.iter().map(|item| (item.company.clone(), Arc::clone(&item.record))).collect();
        let mut stuck: HashMap<CompanyId, Stuck> = HashMap::new();
        let mut run: Vec<(usize, T::Work)> = Vec::new();
        let mut run_key: Option<LaneKey> = None;
        for (n, item) in items.into_iter().enumerate() {
            let Some((company, record)) = places.get(n) else { continue };
            let prepared = match (stuck.get(company), item.work) {
                (Some(reason), _) => Prepared::Stuck(again(reason)),
                (None, Some(work)) => match self.routes.of(company).await {
                    // Work may have waited since it was routed, and a change of the company's row is to be seen within 5 s.
                    Ok(Routing::Known(route)) if route == self.topic.route_of(&work) => Prepared::Work(work),
                    _ => self.prepare(record).await,
                },
                (None, None) => self.prepare(record).await,
            };
            match prepared {
                Prepared::Work(work) => {
                    let key = self.topic.key(&work);
                    if run_key.as_ref().is_some_and(|present| *present != key) {
                        self.apply(std::mem::take(&mut run), &places, &mut outcomes, &mut stuck).await;
                    }
                    run_key = Some(key);
                    run.push((n, work));
                }
                Prepared::Poison(poison) => set(&mut outcomes, n, self.bury(record, poison).await),
                Prepared::Tombstone => set(&mut outcomes, n, Outcome::Done(MessageOutcome::Tombstone)),
                Prepared::Stuck(reason) => {
                    stuck.entry(company.clone()).or_insert_with(|| again(&reason));
                    set(&mut outcomes, n, Outcome::Stuck(reason));
                }
            }
        }
        self.apply(run, &places, &mut outcomes, &mut stuck).await;
        self.close_letters(&places, &mut outcomes).await;
        let missing = || Outcome::Stuck(Stuck::Control("the handler gave no answer for a message".to_owned()));
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect()
    }

    async fn apply(
        &self,
        run: Vec<(usize, T::Work)>,
        places: &[(CompanyId, Arc<Record>)],
        outcomes: &mut [Option<Outcome>],
        stuck: &mut HashMap<CompanyId, Stuck>,
    ) {
        // A company may have become stuck in an earlier run of the same call: what follows of it waits.
        let (mut numbers, mut works) = (Vec::new(), Vec::new());
        for (n, work) in run {
            match places.get(n).and_then(|(company, _)| stuck.get(company)) {
                Some(reason) => set(outcomes, n, Outcome::Stuck(again(reason))),
                None => {
                    numbers.push(n);
                    works.push(work);
                }
            }
        }
        if works.is_empty() {
            return;
        }
        let answers = self.topic.apply(works).await;
        for (n, answer) in numbers.into_iter().zip(answers) {
            let outcome = match answer {
                Ok(Handled::Applied) => Outcome::Done(MessageOutcome::Applied),
                Ok(Handled::Duplicate) => Outcome::Done(MessageOutcome::Duplicate),
                Ok(Handled::DeadLettered) => Outcome::Done(MessageOutcome::DeadLetter),
                Err(Stuck::Down { .. }) if planted(Bug::LetterOnOutage) => match places.get(n) {
                    Some((company, record)) => self.bury(record, unknown_company(company)).await,
                    None => continue,
                },
                Err(reason) => {
                    if let Some((company, _)) = places.get(n) {
                        stuck.entry(company.clone()).or_insert_with(|| again(&reason));
                    }
                    Outcome::Stuck(reason)
                }
            };
            set(outcomes, n, outcome);
        }
    }

    async fn prepare(&self, record: &Arc<Record>) -> Prepared<T::Work> {
        match self.topic.read(record) {
            Read::Tombstone => Prepared::Tombstone,
            Read::Poison(poison) => Prepared::Poison(poison),
            Read::Message { company, message, .. } => match self.routes.of(&company).await {
                Ok(Routing::Known(route)) => match self.topic.route(record, message, &route) {
                    Ok(work) => Prepared::Work(work),
                    Err(poison) => Prepared::Poison(poison),
                },
                Ok(Routing::Refused(refused)) => Prepared::Stuck(Stuck::Parked { company: company.to_string(), reason: refused.reason }),
                Ok(Routing::Unknown) => Prepared::Poison(unknown_company(&company)),
                Err(error) => Prepared::Stuck(Stuck::Control(describe(&error))),
            },
        }
    }

    /// Writes a poison message's letter.
    async fn bury(&self, record: &Arc<Record>, poison: Poison) -> Outcome {
        match dead_letters::insert(&self.control, &[letter(record, poison)]).await {
            Ok(_) => Outcome::Done(MessageOutcome::DeadLetter),
            Err(error) => Outcome::Stuck(Stuck::Control(describe(&error))),
        }
    }

    /// Closes the letters whose replays are done now. A letter that failed again is open again already and stays so; a message that only claims
    /// to be a replay and is poison closes nothing.
    async fn close_letters(&self, places: &[(CompanyId, Arc<Record>)], outcomes: &mut [Option<Outcome>]) {
        let replays: Vec<(usize, i64)> = outcomes
            .iter()
            .enumerate()
            .filter(|(_, outcome)| matches!(outcome, Some(Outcome::Done(done)) if *done != MessageOutcome::DeadLetter))
            .filter_map(|(n, _)| Some((n, places.get(n)?.1.dead_letter_id()?)))
            .collect();
        if replays.is_empty() {
            return;
        }
        let ids: Vec<i64> = replays.iter().map(|(_, id)| *id).collect();
        if let Err(error) = dead_letters::resolve(&self.control, &self.name, &ids).await {
            let reason = describe(&error);
            for (n, _) in replays {
                set(outcomes, n, Outcome::Stuck(Stuck::Control(reason.clone())));
            }
        }
    }

    /// Counts what was tolerated in a message, once, when it comes in.
    pub fn count(&self, counts: &Counts) {
        let tolerated = [
            ("unknown_field", u64::from(counts.unknown_fields)),
            ("collapsed_in_batch", u64::from(counts.collapsed_in_batch)),
            ("null_key", u64::from(counts.null_key)),
            ("enveloped", u64::from(counts.enveloped)),
        ];
        for (what, n) in tolerated.into_iter().filter(|(_, n)| *n > 0) {
            self.metrics.tolerated(&self.name, what, n);
        }
    }
}

fn set(outcomes: &mut [Option<Outcome>], n: usize, outcome: Outcome) {
    if let Some(place) = outcomes.get_mut(n) {
        *place = Some(outcome);
    }
}

/// The same reason for a later message of the same company.
fn again(stuck: &Stuck) -> Stuck {
    match stuck {
        Stuck::Down { company, reason } => Stuck::Down { company: company.clone(), reason: reason.clone() },
        Stuck::Parked { company, reason } => Stuck::Parked { company: company.clone(), reason: reason.clone() },
        Stuck::Control(reason) => Stuck::Control(reason.clone()),
    }
}

/// The dead letter of a poison message.
pub fn letter(record: &Arc<Record>, poison: Poison) -> NewLetter {
    NewLetter {
        record: Arc::clone(record),
        pointer: String::new(),
        kind: LetterKind::Message,
        class: poison.class.as_str(),
        reason: poison.reason,
        company_id: poison.company_id.map(|id| id.to_string()),
        batch_id: None,
        row_text: None,
        envelope: None,
    }
}

/// A company that is not configured.
pub fn unknown_company(company: &CompanyId) -> Poison {
    Poison {
        class: PoisonClass::UnknownCompany,
        pointer: Some("/company_id".to_owned()),
        reason: format!("company {:?} is not in control.company_config: add it with `kylo company set`, then replay", company.as_str()),
        company_id: Some(company.clone()),
    }
}
