//! The one task of a consumer: takes events and ends of jobs, one after the other, and starts what may start.
//!
//! Called by [`super::Consumer`]. What must never happen here: waiting for anything but the next event or the next end of a job.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::handle::Handler;
use super::jobs::{self, Burial, Ended};
use super::partitions::{Partitions, Phase};
use super::status::ConsumerStatus;
use super::topics::Topic;
use super::trouble_log::TroubleLog;
use super::{ConsumeError, ConsumeParts, ConsumeSettings};
use crate::domain::ids::CompanyId;
use crate::faults::Faults;
use crate::flow::lanes::Lanes;
use crate::flow::offsets::Offsets;
use crate::flow::source::{MessageSource, SourceEvent};
use crate::flow::work::Record;

mod ended;
mod feed;
mod report;

/// Without this the offsets of the last moment would never be committed where the drain time is 0.
const LEAST_CLOSE: Duration = Duration::from_millis(250);
/// Queues drained at the same time by one process.
const DRAINERS: usize = 4;
/// Companies whose messages are put into their queues at the same time.
const HOLDERS: usize = 4;
/// Pause after the control database has failed.
const CONTROL_PAUSE: Duration = Duration::from_millis(500);
/// Letters of one statement.
const MAX_LETTERS: usize = 256;
/// The status is renewed at least this often.
const TICK: Duration = Duration::from_secs(1);

/// The head of the inbox, read but not routed.
struct Blocked<M> {
    record: Arc<Record>,
    company: CompanyId,
    message: M,
    /// A routing job is under way.
    asked: bool,
}

/// Partitions that are being given up: what is in hand is finished until the deadline.
#[derive(Debug)]
struct Leaving {
    partitions: Vec<i32>,
    deadline: Instant,
    /// `None` when the whole consumer stops.
    ack: Option<oneshot::Sender<()>>,
}

pub(super) struct Engine<T: Topic> {
    settings: ConsumeSettings,
    group: Arc<str>,
    worker: Uuid,
    handler: Arc<Handler<T>>,
    source: Box<dyn MessageSource>,
    jobs: JoinSet<Ended<T::Work>>,
    status: watch::Sender<ConsumerStatus>,
    /// Messages in the order in which they came, not taken yet.
    inbox: VecDeque<Arc<Record>>,
    blocked: Option<Blocked<T::Message>>,
    offsets: Offsets,
    partitions: Partitions,
    lanes: Lanes<T::Work>,
    burial: Burial,
    burying: bool,
    holding: usize,
    /// Messages and bytes that were given and are not finished.
    load: (usize, usize),
    paused: bool,
    leaving: Option<Leaving>,
    stopping: bool,
    control: TroubleLog,
    /// Jobs that ask the control database wait until then.
    control_until: Option<Instant>,
    source_log: TroubleLog,
    preparing: HashSet<i32>,
    looking: bool,
    look_at: Instant,
    held: (usize, i64),
    draining: HashSet<CompanyId>,
    drain_attempts: HashMap<CompanyId, u32>,
    report_at: Instant,
    stop_drains: CancellationToken,
    /// When a stop must be over.
    stop_by: Option<Instant>,
}

impl<T: Topic> fmt::Debug for Engine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("settings", &self.settings).field("load", &self.load).finish_non_exhaustive()
    }
}

impl<T: Topic> Engine<T> {
    pub(super) fn new(
        settings: ConsumeSettings,
        parts: ConsumeParts,
        topic: T,
        source: Box<dyn MessageSource>,
        status: watch::Sender<ConsumerStatus>,
    ) -> Self {
        let (limits, kind) = (topic.limits(), topic.kind());
        let name: Arc<str> = Arc::from(settings.topic.as_str());
        let handler = Handler { topic, name, control: parts.control, routes: parts.routes, metrics: parts.metrics, faults: Faults::default() };
        let now = Instant::now();
        Self {
            group: Arc::from(settings.group.as_str()),
            settings,
            worker: parts.worker,
            handler: Arc::new(handler),
            source,
            jobs: JoinSet::new(),
            status,
            inbox: VecDeque::new(),
            blocked: None,
            offsets: Offsets::default(),
            partitions: Partitions::default(),
            lanes: Lanes::new(limits, kind),
            burial: Burial::default(),
            burying: false,
            holding: 0,
            load: (0, 0),
            paused: false,
            leaving: None,
            stopping: false,
            control: TroubleLog::default(),
            control_until: None,
            source_log: TroubleLog::default(),
            preparing: HashSet::new(),
            looking: false,
            look_at: now,
            held: (0, 0),
            draining: HashSet::new(),
            drain_attempts: HashMap::new(),
            report_at: now,
            stop_drains: CancellationToken::new(),
            stop_by: None,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), ConsumeError> {
        loop {
            let now = self.advance();
            if self.stopping && self.leaving.is_none() {
                break;
            }
            let wake = self.wake_at(now);
            tokio::select! {
                biased;
                Some(ended) = self.jobs.join_next(), if !self.jobs.is_empty() => match ended {
                    Ok(ended) => self.ended(ended),
                    Err(error) => return Err(ConsumeError::Panicked { topic: self.settings.topic, detail: error.to_string() }),
                },
                () = stop.cancelled(), if !self.stopping => self.begin_stop(),
                event = self.source.next() => match event {
                    Some(event) => self.event(event),
                    None => return Err(ConsumeError::SourceEnded(self.settings.topic)),
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.finish().await;
        Ok(())
    }

    /// Everything that can go on without anything new coming in. Leaves the engine with nothing to do but wait.
    fn advance(&mut self) -> Instant {
        let now = Instant::now();
        if self.control_until.is_some_and(|until| until <= now) {
            self.control_until = None;
        }
        self.feed();
        self.press();
        if self.control_until.is_none() {
            self.start_burial();
            self.start_preparing();
            self.start_look(now);
            let pressed = self.is_full();
            while self.holding < HOLDERS
                && let Some(holding) = self.lanes.take_holding(now, pressed)
            {
                self.holding += 1;
                self.jobs.spawn(jobs::hold(Arc::clone(&self.handler), holding));
            }
            while let Some(call) = self.lanes.take(now) {
                self.jobs.spawn(jobs::call(Arc::clone(&self.handler), call));
            }
        }
        self.leave(now);
        if self.report_at <= now {
            self.report(now);
        }
        now
    }

    fn wake_at(&self, now: Instant) -> Instant {
        let leaving = self.leaving.as_ref().map(|leaving| leaving.deadline);
        let look = (!self.looking && !self.stopping).then_some(self.look_at);
        let times = [Some(self.report_at), leaving, self.control_until, look.filter(|_| self.control_until.is_none())];
        let lanes = self.lanes.next_wake(now).filter(|_| self.control_until.is_none());
        times.into_iter().flatten().chain(lanes).min().unwrap_or(self.report_at)
    }

    fn event(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Messages(records) => {
                for record in records {
                    let wanted = self.offsets.is_assigned(record.position.partition) && !self.is_leaving(record.position.partition);
                    if wanted {
                        self.load.0 += 1;
                        self.load.1 += record.payload.as_ref().map_or(0, Vec::len);
                        self.inbox.push_back(Arc::new(record));
                    }
                }
            }
            SourceEvent::Assigned(partitions) => self.assigned(&partitions),
            SourceEvent::Revoking { partitions, lost, ack } => self.revoking(partitions, lost, ack),
        }
    }

    fn assigned(&mut self, partitions: &[i32]) {
        tracing::info!(topic = %self.settings.topic, ?partitions, "partitions assigned");
        for partition in partitions {
            self.offsets.assign(*partition);
            self.partitions.assign(*partition);
            self.preparing.insert(*partition);
        }
        if self.paused || self.stopping {
            self.source.pause(partitions);
        }
        self.report_at = Instant::now();
    }

    fn revoking(&mut self, partitions: Vec<i32>, lost: bool, ack: oneshot::Sender<()>) {
        tracing::info!(topic = %self.settings.topic, ?partitions, lost, "partitions taken away");
        if lost || partitions.is_empty() {
            self.forget(&partitions);
            drop(ack);
            return;
        }
        let earlier = self.leaving.take();
        self.untake(&partitions);
        let deadline = Instant::now() + self.settings.drain;
        self.leaving = Some(Leaving { partitions, deadline, ack: Some(ack) });
        if let Some(earlier) = earlier {
            // The source asks for one thing at a time; when the whole consumer stops, everything is leaving already.
            self.forget_quietly(&earlier);
        }
    }

    fn begin_stop(&mut self) {
        self.stopping = true;
        self.stop_drains.cancel();
        let all = self.offsets.assigned();
        tracing::info!(topic = %self.settings.topic, in_flight = self.load.0, "stopping: what is in hand is finished first");
        self.source.pause(&all);
        self.untake(&all);
        let now = Instant::now();
        self.stop_by = Some(now + self.settings.drain);
        // The drain time is for the whole stop: committing and leaving the group need their part of it.
        let deadline = now + self.settings.drain.saturating_sub(leaving_time(self.settings.drain));
        match &mut self.leaving {
            Some(leaving) => (leaving.partitions, leaving.deadline) = (all, leaving.deadline.min(deadline)),
            None => self.leaving = Some(Leaving { partitions: all, deadline, ack: None }),
        }
    }

    /// A revoke while stopping (or after one that was not answered yet): the earlier one is answered.
    fn forget_quietly(&mut self, earlier: &Leaving) {
        if earlier.ack.is_none()
            && let Some(leaving) = &mut self.leaving
        {
            let mut all = earlier.partitions.clone();
            all.extend(&leaving.partitions);
            all.sort_unstable();
            all.dedup();
            leaving.partitions = all;
            leaving.deadline = leaving.deadline.min(earlier.deadline);
        }
    }

    /// Drops what was given of these partitions but not taken in hand, and what waits for a database that is down: the next owner gets it.
    fn untake(&mut self, partitions: &[i32]) {
        let mut dropped: Vec<Arc<Record>> = Vec::new();
        self.inbox.retain(|record| {
            let stays = !partitions.contains(&record.position.partition);
            if !stays {
                dropped.push(Arc::clone(record));
            }
            stays
        });
        if let Some(blocked) = self.blocked.take_if(|blocked| partitions.contains(&blocked.record.position.partition)) {
            dropped.push(blocked.record);
        }
        for partition in partitions {
            if let Some(state) = self.partitions.get_mut(*partition) {
                dropped.extend(std::mem::take(&mut state.stash));
            }
        }
        for record in &dropped {
            self.unload(record.payload.as_ref().map_or(0, Vec::len));
        }
        for entry in self.lanes.forget(partitions, true) {
            self.offsets.abandon(entry.ticket);
            self.unload(entry.bytes());
        }
    }

    fn is_leaving(&self, partition: i32) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.partitions.contains(&partition))
    }

    /// Gives up what is leaving once it is finished, or can not be finished, or the deadline is over.
    fn leave(&mut self, now: Instant) {
        let Some(leaving) = &self.leaving else { return };
        let finished = leaving.partitions.iter().all(|partition| self.offsets.in_hand(*partition) == 0) && !self.burying;
        if !finished && now < leaving.deadline && self.control_until.is_none() {
            return;
        }
        let Some(leaving) = self.leaving.take() else { return };
        if !finished {
            let left: usize = leaving.partitions.iter().map(|partition| self.offsets.in_hand(*partition)).sum();
            tracing::warn!(topic = %self.settings.topic, left, "not everything in hand could be finished; it will be delivered again");
        }
        self.forget(&leaving.partitions);
        if let Some(ack) = leaving.ack {
            let _gone = ack.send(());
        }
        if self.stopping && !self.offsets.assigned().is_empty() {
            let partitions = self.offsets.assigned();
            self.leaving = Some(Leaving { partitions, deadline: leaving.deadline, ack: None });
        }
    }

    fn forget(&mut self, partitions: &[i32]) {
        self.untake(partitions);
        for entry in self.lanes.forget(partitions, false) {
            self.unload(entry.bytes());
        }
        let mut kept = Vec::new();
        for (ticket, bytes, letter) in std::mem::take(&mut self.burial.letters) {
            if partitions.contains(&ticket.partition()) {
                self.unload(bytes);
            } else {
                kept.push((ticket, bytes, letter));
            }
        }
        self.burial.letters = kept;
        for partition in partitions {
            self.offsets.forget(*partition);
            self.partitions.forget(*partition);
            self.preparing.remove(partition);
        }
        self.report_at = Instant::now();
    }

    fn unload(&mut self, bytes: usize) {
        self.load.0 = self.load.0.saturating_sub(1);
        self.load.1 = self.load.1.saturating_sub(bytes);
    }

    /// The load that moves on. What waits in stopped partitions is bounded by what was under way when they stopped, and must not keep the others.
    fn moving(&self) -> (usize, usize) {
        let (n, bytes) = self.partitions.at_a_stop();
        (self.load.0.saturating_sub(n), self.load.1.saturating_sub(bytes))
    }

    fn is_full(&self) -> bool {
        let (n, bytes) = self.moving();
        n >= self.settings.max_in_flight || bytes >= self.settings.max_in_flight_bytes
    }

    /// Pauses reading above the limit, resumes below half of it. Polling goes on all the time.
    fn press(&mut self) {
        let (n, bytes) = self.moving();
        let calm = n * 2 <= self.settings.max_in_flight && bytes * 2 <= self.settings.max_in_flight_bytes;
        if !self.paused && self.is_full() {
            self.paused = true;
            self.source.pause(&self.offsets.assigned());
        } else if self.paused && calm && !self.stopping {
            self.paused = false;
            self.source.resume(&self.partitions.in_phase(|phase| !matches!(phase, Phase::Stopped { .. })));
        }
    }

    async fn finish(mut self) {
        let now = Instant::now();
        let stop_by = self.stop_by.unwrap_or(now + self.settings.drain).max(now + LEAST_CLOSE);
        // Jobs that still run (a drainer between two chunks, a call that outlived the deadline) are given up: their transactions roll back.
        let end = now + Duration::from_millis(500).min((stop_by - now) / 2);
        while let Ok(Some(_)) = tokio::time::timeout_at(end, self.jobs.join_next()).await {}
        self.jobs.abort_all();
        self.report(Instant::now());
        let topic = self.settings.topic;
        if self.source.close(stop_by.saturating_duration_since(Instant::now())).await {
            tracing::info!(%topic, "committed and left the group");
        } else {
            tracing::warn!(%topic, "could not leave the group in time; what was not committed will be delivered again and dismissed");
        }
    }
}

/// The part of the drain time that a stop keeps for committing and for leaving the group.
fn leaving_time(drain: Duration) -> Duration {
    (drain / 4).min(Duration::from_secs(2))
}
