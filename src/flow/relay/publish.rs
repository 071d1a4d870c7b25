//! One claimed batch to the broker: all at once, and where that shows a row that is refused, one by one.
//!
//! What must never happen here: a row sent while an earlier row of its key is neither acknowledged nor given up, unless both are in the same call of the
//! publisher.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;

use serde_json::Value;

use super::Shared;
use super::refused::wait_after;
use super::status::Why;
use super::work::{Trouble, Work};
use crate::domain::outbox::{Event, OutboxRow};
use crate::ports::PublishFault;
use crate::store::control::relay::{self, EventLetter, RefusedRow};
use crate::store::outbox;

/// What came of a batch.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Ids of acknowledged rows, to be marked.
    pub acknowledged: Vec<String>,
    /// Rows that the broker did not take, in order. Nothing behind one of them, of its key, was sent.
    pub left: Vec<OutboxRow>,
    pub trouble: Option<Trouble>,
}

impl Sent {
    /// Some row must be looked at alone.
    pub fn has_left(&self) -> bool {
        !self.left.is_empty() && self.trouble.is_none()
    }
}

/// Publishes a batch; rows of keys with a refusal in their past are left for [`one_by_one`].
pub(super) async fn all(shared: &Shared, work: &Work, batch: Vec<OutboxRow>) -> Sent {
    if let Err(trouble) = check_topics(shared, work, &batch).await {
        return Sent { left: batch, trouble: Some(trouble), ..Sent::default() };
    }
    let mut sent = Sent::default();
    let mut doubtful: HashSet<Option<String>> = HashSet::new();
    let (mut events, mut rows) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for row in batch {
        let key = work.outbox.order_key(&row);
        let is_behind = key.is_some() && doubtful.contains(&key);
        match work.outbox.event(&row) {
            Ok(event) if !is_behind && work.refused.attempts(&row.id) == 0 => {
                events.push(event);
                rows.push(row);
            }
            _ => {
                doubtful.insert(key);
                sent.left.push(row);
            }
        }
    }
    let (mut unsent, mut is_refused) = (Vec::new(), false);
    for (answer, row) in shared.options.publisher.publish(&events).await.into_iter().zip(rows) {
        match answer {
            Ok(()) => sent.acknowledged.push(row.id),
            Err(fault) => {
                is_refused |= matches!(fault, PublishFault::Refused(_));
                sent.trouble = sent.trouble.or_else(|| trouble_of(shared, fault));
                unsent.push(row);
            }
        }
    }
    if is_refused {
        // The others were not sent, or not acknowledged, because of it: looked at alone they show whether there is more.
        sent.trouble = None;
    }
    // Behind them of the same key are only rows that were left before anything was sent.
    unsent.append(&mut sent.left);
    sent.left = unsent;
    count(shared, work, sent.acknowledged.len());
    sent
}

/// Publishes what is left of a batch one row at a time, each acknowledged before the next of its key is sent. Counts refusals.
pub(super) async fn one_by_one(shared: &Shared, work: &mut Work, left: Vec<OutboxRow>) -> Sent {
    let mut sent = Sent::default();
    let mut held_back: BTreeSet<String> = BTreeSet::new();
    for row in left {
        let key = work.outbox.order_key(&row);
        if key.as_ref().is_some_and(|key| held_back.contains(key)) {
            continue;
        }
        if !work.goes_on() {
            return sent;
        }
        let (event, answer) = match work.outbox.event(&row) {
            Err(reason) => (None, Err(PublishFault::Refused(reason))),
            Ok(event) => {
                let mut answers = shared.options.publisher.publish(std::slice::from_ref(&event)).await;
                (Some(event), answers.pop().unwrap_or_else(|| Err(PublishFault::Later("no answer".to_owned()))))
            }
        };
        let refused = match answer {
            Ok(()) => {
                sent.acknowledged.push(row.id);
                count(shared, work, 1);
                continue;
            }
            Err(PublishFault::Refused(reason)) => refuse(shared, work, &row, event, reason).await,
            Err(fault) => Err(trouble_of(shared, fault).unwrap_or_else(|| Trouble::new(Why::Broker, "no answer"))),
        };
        match refused {
            Ok(Verdict::Waits) => held_back.extend(key),
            Ok(Verdict::GivenUp) => {}
            Err(trouble) => {
                sent.trouble = Some(trouble);
                return sent;
            }
        }
    }
    sent
}

enum Verdict {
    Waits,
    GivenUp,
}

/// Counts a refusal: the row waits, or is given up.
async fn refuse(shared: &Shared, work: &mut Work, row: &OutboxRow, event: Option<Event>, reason: String) -> Result<Verdict, Trouble> {
    let limits = &shared.options.limits;
    let attempts = work.refused.attempts(&row.id) + 1;
    let after = wait_after(attempts, limits.retry_after);
    let refused = RefusedRow {
        source: work.outbox.name.clone(),
        row_id: row.id.clone(),
        order_key: work.outbox.order_key(row),
        attempts,
        wait_seconds: after.as_secs_f64(),
        reason,
        letter_id: None,
        letter_state: None,
    };
    let control = &shared.options.control;
    if u32::try_from(attempts).unwrap_or(u32::MAX) <= limits.max_retries {
        relay::set_refused(control, &refused).await.map_err(|error| Trouble::control("count a refusal", &error))?;
        tracing::warn!(outbox = refused.source, row = refused.row_id, attempts, reason = refused.reason, "an event was refused and is tried again");
        shared.options.metrics.events("refused", 1);
        work.refused.wait(&row.id, refused.order_key, attempts, after);
        return Ok(Verdict::Waits);
    }
    let letter = relay::give_up(control, &refused, &letter(row, event)).await.map_err(|error| Trouble::control("write a dead letter", &error))?;
    tracing::error!(outbox = refused.source, row = refused.row_id, letter, reason = refused.reason, "an event was given up: see `kylo dlq show`");
    shared.options.metrics.events("given_up", 1);
    work.refused.give_up(&row.id);
    if let Some(statements) = work.statements.clone() {
        outbox::mark_failed(&work.pool, &statements, &row.id).await.map_err(|error| work.database(&error))?;
    }
    Ok(Verdict::GivenUp)
}

fn letter(row: &OutboxRow, event: Option<Event>) -> EventLetter {
    let class = if event.is_some() { "event_refused" } else { "event_unroutable" };
    let quiet = row.event_type.as_deref() == Some("dead_letter.created");
    let company = row.company.clone().filter(|company| !company.is_empty());
    let (topic, key, headers) = event.map_or_else(|| (String::new(), None, Vec::new()), |event| (event.topic, event.key, event.headers));
    let headers: serde_json::Map<_, _> = headers.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
    EventLetter { topic, class, company, key, headers: headers.into(), payload: row.payload.clone(), quiet }
}

/// `None` = a refusal, which is the row's own trouble.
fn trouble_of(shared: &Shared, fault: PublishFault) -> Option<Trouble> {
    match fault {
        PublishFault::Refused(_) => None,
        PublishFault::Topic(reason) => {
            shared.doubt_topics();
            Some(Trouble::new(Why::Topic, reason))
        }
        PublishFault::Later(reason) => Some(Trouble::new(Why::Broker, reason)),
    }
}

/// Topics that are written to for the first time since there was trouble with one. With an empty batch those that are known before any row is: an
/// outbox that nobody adds to yet says, too, that its events could not be published.
pub(super) async fn check_topics(shared: &Shared, work: &Work, batch: &[OutboxRow]) -> Result<(), Trouble> {
    let unknown = |topic: &str| !shared.is_checked(topic);
    let mut topics: BTreeSet<String> = work.outbox.topics.known().filter(|topic| unknown(topic)).map(str::to_owned).collect();
    let rows = if work.outbox.topics_differ_by_row() { batch } else { &[] };
    for row in rows {
        // A row that fits no rule is refused later.
        if let Ok(topic) = work.outbox.topic(row)
            && unknown(&topic)
        {
            topics.insert(topic);
        }
    }
    for topic in topics {
        shared.check(&topic).await?;
    }
    Ok(())
}

fn count(shared: &Shared, work: &Work, n: usize) {
    if n > 0 {
        work.lease.published.fetch_add(i64::try_from(n).unwrap_or(0), Ordering::Relaxed);
        shared.options.metrics.events("published", u64::try_from(n).unwrap_or(0));
    }
}
