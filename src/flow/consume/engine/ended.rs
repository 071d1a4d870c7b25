//! What the end of a job changes.

use std::sync::Arc;

use tokio::time::Instant;

use super::{CONTROL_PAUSE, DRAINERS, Engine};
use crate::domain::ids::CompanyId;
use crate::faults::{Bug, CrashPoint, planted};
use crate::flow::consume::handle::Outcome;
use crate::flow::consume::jobs::{self, Burial, Ended, Look};
use crate::flow::consume::partitions::Phase;
use crate::flow::consume::status::MessageOutcome;
use crate::flow::consume::topics::Topic;
use crate::flow::hold::{Drained, PARKED_RETRY};
use crate::flow::lanes::{Entry, Holding, LaneKey};
use crate::flow::offsets::{Offsets, Ticket};
use crate::flow::routing::Routing;
use crate::flow::source::NextOffset;
use crate::flow::work::Stuck;
use crate::store::control::dead_letters::Kept;
use crate::store::control::held::Join;
use crate::store::control::trouble::{Trouble, TroubleState};

impl<T: Topic> Engine<T> {
    pub(super) fn ended(&mut self, ended: Ended<T::Work>) {
        match ended {
            Ended::Call { key, companies, outcomes } => self.call_ended(&key, &companies, outcomes),
            Ended::Held { holding, result } => self.holding_ended(holding, result),
            Ended::Buried { burial, result } => self.burial_ended(burial, result),
            Ended::Routed { company, result } => self.route_ended(&company, result),
            Ended::Prepared { partitions, result } => match result {
                Ok(look) => self.prepared(&partitions, &look),
                Err(reason) => {
                    self.preparing.extend(partitions.into_iter().filter(|partition| self.offsets.is_assigned(*partition)));
                    self.control_failed(&reason);
                }
            },
            Ended::Looked { stopped, result } => self.looked(&stopped, result),
            Ended::Drained { company, result } => self.drained(company, result),
        }
    }

    /// The head of the inbox may be another message by now (a revoke took the one that asked): the answer is for its company only.
    fn route_ended(&mut self, company: &CompanyId, result: Result<Routing, String>) {
        let asked = self.blocked.as_mut().filter(|blocked| blocked.company == *company);
        match (result, asked) {
            (Ok(routing), Some(_)) => {
                self.control_answered();
                self.routed(routing);
            }
            (Ok(_), None) => self.control_answered(),
            (Err(reason), asked) => {
                if let Some(blocked) = asked {
                    blocked.asked = false;
                }
                self.control_failed(&reason);
            }
        }
    }

    /// A message is finished: its effects are durable.
    pub(super) fn done(&mut self, ticket: Ticket, bytes: usize) {
        self.unload(bytes);
        if let Some(next) = self.position(ticket) {
            self.handler.faults.passed(CrashPoint::OffsetStoring);
            self.source.store(ticket.partition(), next);
            self.handler.faults.passed(CrashPoint::OffsetStored);
        }
    }

    /// The partition's new position, if it has moved.
    fn position(&mut self, ticket: Ticket) -> Option<NextOffset> {
        let is_stale = |offsets: &Offsets| !offsets.is_current(ticket);
        if planted(Bug::OffsetPastTheHead) && !is_stale(&self.offsets) || planted(Bug::OffsetOfAnOldAssignment) && is_stale(&self.offsets) {
            self.offsets.finish(ticket);
            return Some(NextOffset::after(ticket.offset()));
        }
        let next = self.offsets.finish(ticket)?;
        Some(if planted(Bug::OffsetOfTheMessage) { NextOffset::after(next.get() - 2) } else { next })
    }

    fn call_ended(&mut self, key: &LaneKey, companies: &[CompanyId], outcomes: Vec<(Entry<T::Work>, Outcome)>) {
        let now = Instant::now();
        let mut back = Vec::new();
        let mut seen: Option<CompanyId> = None;
        for (entry, outcome) in outcomes {
            match outcome {
                Outcome::Done(what) => {
                    self.lanes.up(&entry.company);
                    self.handler.metrics.messages(&self.handler.name, what, 1);
                    self.done(entry.ticket, entry.bytes());
                }
                Outcome::Stuck(_) if planted(Bug::LaneSkipsFailed) => self.done(entry.ticket, entry.bytes()),
                Outcome::Stuck(stuck) => {
                    // The first of a company that is stuck says why; the later ones only follow it.
                    if seen.as_ref() != Some(&entry.company) {
                        seen = Some(entry.company.clone());
                        self.stuck(&entry.company, stuck, now);
                    }
                    if self.offsets.is_current(entry.ticket) {
                        back.push(entry);
                    } else {
                        self.unload(entry.bytes());
                    }
                }
            }
        }
        self.lanes.put_back(back);
        self.lanes.end_call(key, companies, now);
        if let Some(leaving) = &self.leaving {
            // What waits for a database that is down cannot be finished now; the next owner gets it.
            let partitions = leaving.partitions.clone();
            self.untake(&partitions);
        }
    }

    fn stuck(&mut self, company: &CompanyId, stuck: Stuck, now: Instant) {
        match stuck {
            Stuck::Down { reason, .. } => {
                tracing::warn!(company = company.as_str(), %reason, "the company's database is down: its messages wait");
                self.lanes.down(company, reason, now, rand::random());
            }
            Stuck::Parked { reason, .. } => {
                tracing::warn!(company = company.as_str(), %reason, "the company is parked: its messages are held");
                let kind = self.handler.topic.kind();
                // The version it was tried with. When that is not known any more, none that exists: it is tried again soon.
                let config_version = match self.handler.routes.fresh(company) {
                    Some(Routing::Known(route)) => Some(route.version),
                    Some(Routing::Refused(refused)) => Some(refused.version),
                    Some(Routing::Unknown) | None => Some(0),
                };
                self.lanes.hold(company, Trouble { kind, state: TroubleState::Parked, reason, config_version, retry_after: PARKED_RETRY });
            }
            Stuck::Control(reason) => self.control_failed(&reason),
        }
    }

    fn holding_ended(&mut self, holding: Holding<T::Work>, result: Result<Join, String>) {
        self.holding -= 1;
        let Holding { company, cause, entries } = holding;
        match result {
            Ok(Join::Held) => {
                self.control_answered();
                if let Some(cause) = cause {
                    tracing::warn!(company = company.as_str(), reason = %cause.reason, state = cause.state.as_str(), "the company's messages are held");
                }
                self.lanes.set_held(&company);
                self.look_at = self.look_at.min(Instant::now() + self.settings.look_busy);
                for entry in entries {
                    self.handler.metrics.messages(&self.handler.name, MessageOutcome::Held, 1);
                    self.done(entry.ticket, entry.bytes());
                }
            }
            Ok(Join::QueueEmpty) => {
                self.control_answered();
                tracing::info!(company = company.as_str(), "nothing of the company is held any more: it goes on");
                self.lanes.set_open(&company);
                self.back(entries);
            }
            Err(reason) => {
                self.back(entries);
                self.control_failed(&reason);
            }
        }
        self.lanes.end_holding(&company, Instant::now());
    }

    /// Entries go back before the others of their company, unless their partition is gone.
    fn back(&mut self, entries: Vec<Entry<T::Work>>) {
        let (current, stale): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| self.offsets.is_current(entry.ticket));
        for entry in stale {
            self.unload(entry.bytes());
        }
        self.lanes.put_back(current);
    }

    fn burial_ended(&mut self, burial: Burial, result: Result<Vec<Kept>, String>) {
        self.burying = false;
        match result {
            Ok(kept) => {
                self.control_answered();
                self.partitions.saved(&burial.counts);
                if burial.counts.iter().any(|count| count.stopped) {
                    self.look_at = self.look_at.min(Instant::now() + self.settings.look_busy);
                }
                for ((ticket, bytes, letter), kept) in burial.letters.into_iter().zip(kept) {
                    if kept.fresh && self.offsets.is_current(ticket) {
                        self.count_new_letter(&letter.record.position);
                    }
                    self.handler.metrics.messages(&self.handler.name, MessageOutcome::DeadLetter, 1);
                    self.done(ticket, bytes);
                }
            }
            Err(reason) => {
                self.partitions.mark_dirty(&burial.counts);
                let mut letters = burial.letters;
                letters.append(&mut self.burial.letters);
                let (current, stale): (Vec<_>, Vec<_>) = letters.into_iter().partition(|(ticket, _, _)| self.offsets.is_current(*ticket));
                for (_, bytes, _) in stale {
                    self.unload(bytes);
                }
                self.burial.letters = current;
                self.control_failed(&reason);
            }
        }
    }

    fn prepared(&mut self, partitions: &[i32], look: &Look) {
        self.control_answered();
        self.note_held(look);
        for partition in partitions {
            let count = look.counts.iter().find(|count| count.partition == *partition).copied();
            let Some(state) = self.partitions.get_mut(*partition).filter(|state| state.phase == Phase::Preparing) else { continue };
            state.prepared(count);
            if state.phase == Phase::Open {
                self.unstash(*partition);
            } else {
                tracing::error!(topic = %self.settings.topic, partition, "partition is stopped by the poison cap; run `kylo dlq resume` to go on");
                self.source.pause(&[*partition]);
            }
        }
        self.report_at = Instant::now();
    }

    /// What waited of a partition goes before everything that came later.
    fn unstash(&mut self, partition: i32) {
        if let Some(state) = self.partitions.get_mut(partition) {
            for record in std::mem::take(&mut state.stash).into_iter().rev() {
                self.inbox.push_front(record);
            }
        }
    }

    fn looked(&mut self, stopped: &[i32], result: Result<Look, String>) {
        self.looking = false;
        let busy = match result {
            Ok(look) => {
                self.control_answered();
                self.note_held(&look);
                for partition in stopped {
                    let still = look.counts.iter().any(|count| count.partition == *partition && count.stopped);
                    if !still {
                        self.let_go_on(*partition);
                    }
                }
                self.start_drains(&look);
                !look.held.is_empty() || !self.partitions.in_phase(|phase| matches!(phase, Phase::Stopped { .. })).is_empty()
            }
            Err(reason) => {
                self.control_failed(&reason);
                false
            }
        };
        self.look_at = Instant::now() + if busy { self.settings.look_busy } else { self.settings.look_idle };
    }

    fn let_go_on(&mut self, partition: i32) {
        let Some(state) = self.partitions.get_mut(partition).filter(|state| matches!(state.phase, Phase::Stopped { .. })) else { return };
        tracing::info!(topic = %self.settings.topic, partition, "partition goes on: it was resumed");
        state.resumed();
        self.unstash(partition);
        if !self.paused && !self.stopping {
            self.source.resume(&[partition]);
        }
        self.report_at = Instant::now();
    }

    /// Companies that have a queue: their new messages join it. A company that is believed to have one and has none finds out by joining.
    fn note_held(&mut self, look: &Look) {
        self.held = (look.held.len(), look.held.iter().map(|(_, n)| n).sum());
        for (company, _) in &look.held {
            if let Ok(company) = CompanyId::parse(company) {
                self.lanes.set_held(&company);
            }
        }
    }

    fn start_drains(&mut self, look: &Look) {
        let due = look.due.iter().filter_map(|company| CompanyId::parse(company).ok());
        for company in due {
            if self.draining.len() >= DRAINERS || self.stopping {
                return;
            }
            if self.draining.insert(company.clone()) {
                let attempt = self.drain_attempts.get(&company).copied().unwrap_or(0);
                self.jobs.spawn(jobs::drain(Arc::clone(&self.handler), company, self.worker, attempt, self.stop_drains.clone()));
            }
        }
    }

    fn drained(&mut self, company: CompanyId, result: Result<Drained, String>) {
        self.draining.remove(&company);
        self.look_at = self.look_at.min(Instant::now() + self.settings.look_busy);
        match result {
            Ok(Drained::Empty) => {
                self.control_answered();
                tracing::info!(company = company.as_str(), "everything held of the company is done");
                self.drain_attempts.remove(&company);
            }
            Ok(Drained::Stuck { reason }) => {
                tracing::debug!(company = company.as_str(), %reason, "the company is still stuck");
                let attempts = self.drain_attempts.entry(company).or_default();
                *attempts = attempts.saturating_add(1);
            }
            Ok(Drained::Elsewhere | Drained::Stopped) => {}
            Err(reason) => self.control_failed(&reason),
        }
    }

    fn control_answered(&mut self) {
        self.control_until = None;
        if self.control.over() {
            tracing::info!(topic = %self.settings.topic, "the control database answers again");
        }
    }

    pub(super) fn control_failed(&mut self, reason: &str) {
        let now = Instant::now();
        self.control_until = Some(now + CONTROL_PAUSE);
        self.report_at = now;
        if self.control.there(reason, now) {
            tracing::error!(topic = %self.settings.topic, reason, "the control database does not answer: everything waits, nothing is lost");
        }
    }
}
