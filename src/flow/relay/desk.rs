//! Which outboxes there are, which of them this process holds, and which have rows waiting.
//!
//! What must never happen here: a database that does not answer holding up the outboxes of another, or an idle relay that asks a database more
//! than twice a second.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::refused::Refused;
use super::status::{OutboxTrouble, RelayStatus, Why};
use super::work::{Lease, Trouble, Work};
use super::{Shared, own_outboxes};
use crate::domain::outbox::{Outbox, Place};
use crate::store::control::relay::{self, Renewal};
use crate::store::error::{Fault, classify};
use crate::store::outbox::{self, Statements};
use crate::store::pools::within;

/// A database that has not said by now whether there is anything to publish counts as down for this look.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);
/// A database that had nothing the last times it was asked because of a signal is not asked again sooner than this (doubled each time, up to the
/// second): signals do not say whose events they are about, and many databases must not be asked for the events of one.
const QUIET: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));
/// Between two lines about the same trouble.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// An outbox as the desk knows it.
#[derive(Debug)]
struct Entry {
    outbox: Arc<Outbox>,
    lease: Arc<Lease>,
    /// `None` = not ours, or being drained.
    work: Option<Work>,
    is_busy: bool,
    /// Nobody wants it any more; the drain that is under way ends at its next step.
    is_leaving: bool,
    /// It was asked for, or a signal came, while it was busy.
    again: bool,
    polled: bool,
    trouble: Option<Trouble>,
    said: Option<(Why, Instant)>,
    oldest_seconds: f64,
}

/// The outboxes of one relay.
#[derive(Debug)]
pub struct Desk {
    shared: Arc<Shared>,
    stop: CancellationToken,
    entries: BTreeMap<String, Entry>,
    /// Keeps leases from being renewed, if anything does.
    trouble: Option<Trouble>,
    said: Option<(Why, Instant)>,
    renewed_at: Instant,
    quiet: HashMap<Place, Quiet>,
    /// Outboxes of companies that are gone, which the control database still counts.
    gone: BTreeSet<String>,
    /// A signal came since the last look.
    signalled: bool,
}

/// How often in a row a database had nothing, and when it was last asked.
#[derive(Debug)]
struct Quiet {
    empty: u32,
    asked_at: Instant,
}

impl Quiet {
    fn until(&self) -> Instant {
        self.asked_at + if self.empty == 0 { Duration::ZERO } else { QUIET.0.saturating_mul(1 << self.empty.min(10)).min(QUIET.1) }
    }
}

impl Desk {
    pub(super) fn new(shared: Arc<Shared>, stop: CancellationToken) -> Self {
        Self {
            shared,
            stop,
            entries: BTreeMap::new(),
            trouble: None,
            said: None,
            renewed_at: Instant::now(),
            quiet: HashMap::new(),
            gone: BTreeSet::new(),
            signalled: false,
        }
    }

    /// Looks which outboxes there are, takes what is free and renews what is ours.
    pub(super) async fn renew(&mut self) {
        let renewed = self.try_renew().await;
        if renewed.is_ok() {
            self.renewed_at = Instant::now();
        } else if self.renewed_at.elapsed() >= self.shared.options.limits.lease {
            // Our leases have run out, and others may have them. What is known stays: rows that were published can still be marked.
            for entry in self.entries.values_mut() {
                entry.lease.held.store(false, Ordering::Relaxed);
            }
        }
        self.trouble = renewed.err();
        say("all outboxes", self.trouble.as_ref(), &mut self.said);
    }

    async fn try_renew(&mut self) -> Result<(), Trouble> {
        self.refresh().await?;
        let options = &self.shared.options;
        let stay = self.entries.iter_mut().filter(|(_, entry)| !entry.is_leaving);
        let renewals: Vec<Renewal> = stay.map(|(name, entry)| entry.renewal(name)).collect();
        let renewed = relay::renew(&options.control, options.holder, options.limits.lease.as_secs_f64(), &renewals).await;
        let ours = match renewed {
            Ok(ours) => ours,
            Err(error) => {
                for renewal in &renewals {
                    self.count_again(&renewal.source, renewal.published);
                }
                return Err(Trouble::control("renew the leases of outboxes", &error));
            }
        };
        let with_refused: Vec<String> = ours.iter().filter(|(_, has_refused)| *has_refused).map(|(name, _)| name.clone()).collect();
        let refused = if with_refused.is_empty() { Ok(HashMap::new()) } else { relay::refused(&options.control, &with_refused).await };
        let refused = refused.map_err(|error| Trouble::control("read refused rows", &error))?;
        for (name, entry) in &mut self.entries {
            let is_ours = ours.iter().any(|(ours, _)| ours == name);
            entry.lease.held.store(is_ours, Ordering::Relaxed);
            if !is_ours {
                entry.trouble = None;
                continue;
            }
            if entry.work.is_none() && !entry.is_busy {
                match pool_of(&self.shared, &entry.outbox.place) {
                    Ok(pool) => entry.work = Some(Work::new(Arc::clone(&entry.outbox), pool, Arc::clone(&entry.lease), self.stop.clone())),
                    Err(error) => entry.trouble = Some(Trouble::control("reach an outbox", &error)),
                }
            }
            if let Some(work) = &mut entry.work {
                work.refused = refused.get(name).map(|rows| Refused::load(rows)).unwrap_or_default();
            }
        }
        Ok(())
    }

    fn count_again(&self, source: &str, published: i64) {
        if let Some(entry) = self.entries.get(source) {
            entry.lease.published.fetch_add(published, Ordering::Relaxed);
        }
    }

    /// The outboxes as configured now. One whose company is gone is forgotten.
    async fn refresh(&mut self) -> Result<(), Trouble> {
        let options = &self.shared.options;
        let topic = &options.topic_events;
        let routes = options.routing.all().await.map_err(|error| Trouble::control("read the companies", &error))?;
        let mut wanted = own_outboxes(&options.control_name, &routes, topic);
        for outbox in &options.configured {
            wanted.entry(outbox.name.clone()).or_insert_with(|| outbox.clone());
        }
        self.entries.retain(|name, entry| {
            entry.is_leaving = wanted.get(name).is_none_or(|outbox| outbox.place != entry.outbox.place);
            if entry.is_leaving {
                entry.lease.held.store(false, Ordering::Relaxed);
            }
            let is_kept = !entry.is_leaving || entry.is_busy;
            if !is_kept {
                self.gone.insert(name.clone());
            }
            is_kept
        });
        self.gone.retain(|name| !wanted.contains_key(name));
        // A company that only cannot be routed just now will be back, and with it its outbox and what it counts.
        if routes.values().all(Result::is_ok) {
            let gone: Vec<String> = self.gone.iter().cloned().collect();
            match relay::forget_outboxes(&options.control, options.holder, &gone).await {
                Ok(()) => self.gone.clear(),
                Err(error) => {
                    let error = crate::store::error::describe(&error);
                    warn!(outboxes = gone.join(", "), error, "outboxes of companies that are gone stay in `kylo status` for now");
                }
            }
        }
        for (name, outbox) in wanted {
            self.entries.entry(name).or_insert_with(|| Entry::new(outbox));
        }
        Ok(())
    }

    /// A signal came: outboxes that are being drained may have more by the time they end.
    pub(super) fn woken(&mut self) {
        self.signalled = true;
        for entry in self.entries.values_mut().filter(|entry| entry.is_busy) {
            entry.again = true;
        }
    }

    /// Asks every database once what waits. Gives the outboxes that are to be drained, and when to look again at the latest.
    pub(super) async fn look(&mut self) -> (Vec<Work>, Instant) {
        let (now, by_signal) = (Instant::now(), std::mem::take(&mut self.signalled));
        let mut due: Vec<String> = Vec::new();
        let mut groups: HashMap<Place, Vec<Asked>> = HashMap::new();
        let shared = Arc::clone(&self.shared);
        for (name, entry) in &mut self.entries {
            let is_held = entry.lease.held.load(Ordering::Relaxed);
            let Some(work) = entry.work.as_ref().filter(|work| is_held && work.not_before <= now) else { continue };
            match &work.statements {
                // Whatever waits there: a drain finds out more than a look can, and clears the trouble.
                _ if work.trouble.is_some() || !work.unmarked.is_empty() || work.refused.has_wishes() => due.push(name.clone()),
                None => due.push(name.clone()),
                // Said of an outbox that is idle, too: what comes into it could not be published.
                _ if !shared.is_all_checked(&work.outbox) => due.push(name.clone()),
                Some(statements) => {
                    groups.entry(entry.outbox.place.clone()).or_default().push((name.clone(), Arc::clone(statements), work.refused.given_up()));
                }
            }
        }
        let mut again_at = now + self.shared.options.limits.poll;
        groups.retain(|place, _| match self.quiet.get(place).map(Quiet::until).filter(|until| *until > now) {
            Some(until) => {
                again_at = again_at.min(until);
                false
            }
            None => true,
        });
        let places: Vec<Place> = groups.keys().cloned().collect();
        let mut busy: HashSet<Place> = HashSet::new();
        let asked = groups.into_iter().map(|(place, tables)| ask(&shared, place, tables));
        for found in futures::future::join_all(asked).await.into_iter().flatten() {
            let Some(entry) = self.entries.get_mut(&found.name) else { continue };
            entry.polled = true;
            entry.oldest_seconds = found.oldest.clone().ok().flatten().unwrap_or(0.0);
            match found.oldest {
                Ok(None) => {}
                Ok(Some(_)) => {
                    busy.insert(entry.outbox.place.clone());
                    due.push(found.name);
                }
                Err(trouble) => {
                    if let Some(work) = &mut entry.work {
                        work.is_troubled(trouble.clone());
                    }
                    entry.trouble = Some(trouble);
                    say(&found.name, entry.trouble.as_ref(), &mut entry.said);
                }
            }
        }
        // What the timer finds empty says nothing about signals.
        for place in places.into_iter().filter(|place| by_signal || busy.contains(place)) {
            let empty = if busy.contains(&place) { 0 } else { self.quiet.get(&place).map_or(1, |quiet| quiet.empty.saturating_add(1)) };
            self.quiet.insert(place, Quiet { empty, asked_at: now });
        }
        (due.iter().filter_map(|name| self.entries.get_mut(name)?.start()).collect(), again_at)
    }

    /// A drain has ended. Gives the time of the next look it asks for.
    pub(super) fn put_back(&mut self, ended: Result<Work, tokio::task::JoinError>) -> Instant {
        let now = Instant::now();
        let work = match ended {
            Ok(work) => work,
            // The loop's supervisor counts it and starts everything anew.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return now,
            },
        };
        let Some(entry) = self.entries.get_mut(&work.outbox.name) else { return now };
        entry.is_busy = false;
        entry.trouble.clone_from(&work.trouble);
        if work.trouble.is_none() {
            entry.oldest_seconds = 0.0;
            entry.polled = true;
        }
        say(&work.outbox.name, entry.trouble.as_ref(), &mut entry.said);
        let again = std::mem::take(&mut entry.again);
        let next_attempt = work.refused.next_attempt();
        let look_at = match &work.trouble {
            Some(_) => work.not_before,
            None if again => now,
            None => next_attempt.unwrap_or(now + self.shared.options.limits.poll),
        };
        entry.work = Some(work);
        look_at
    }

    pub(super) fn status(&self) -> RelayStatus {
        let mut troubles: Vec<OutboxTrouble> = Vec::new();
        let known = self.trouble.iter().map(|trouble| ("control.relay_state", trouble));
        let own = self.entries.iter().filter_map(|(name, entry)| Some((name.as_str(), entry.trouble.as_ref()?)));
        for (source, trouble) in known.chain(own) {
            troubles.push(OutboxTrouble { source: source.to_owned(), why: trouble.why, reason: trouble.reason.clone() });
        }
        let held = self.entries.values().filter(|entry| entry.lease.held.load(Ordering::Relaxed)).count();
        let oldest_seconds = self.entries.values().map(|entry| entry.oldest_seconds).fold(0.0, f64::max);
        RelayStatus { outboxes: self.entries.len(), held, oldest_seconds, troubles }
    }

    /// Gives the leases back. Drains have ended.
    pub(super) async fn release(&self) {
        let of = |(name, entry): (&String, &Entry)| (name.clone(), entry.lease.published.swap(0, Ordering::Relaxed), entry.polled);
        let done: Vec<_> = self.entries.iter().map(of).collect();
        let options = &self.shared.options;
        if let Err(error) = relay::release(&options.control, options.holder, &done).await {
            tracing::debug!(error = crate::store::error::describe(&error), "the leases of outboxes run out by themselves");
        }
    }
}

impl Entry {
    fn new(outbox: Outbox) -> Self {
        Self {
            outbox: Arc::new(outbox),
            lease: Arc::default(),
            work: None,
            is_busy: false,
            is_leaving: false,
            again: false,
            polled: false,
            trouble: None,
            said: None,
            oldest_seconds: 0.0,
        }
    }

    fn renewal(&mut self, name: &str) -> Renewal {
        Renewal {
            source: name.to_owned(),
            schema: self.outbox.schema.clone(),
            table: self.outbox.table.clone(),
            published: self.lease.published.swap(0, Ordering::Relaxed),
            polled: std::mem::take(&mut self.polled),
            state: self.trouble.as_ref().map_or("ok", |trouble| trouble.why.state()),
            reason: self.trouble.as_ref().map(|trouble| trouble.reason.clone()),
        }
    }

    fn start(&mut self) -> Option<Work> {
        let work = self.work.take()?;
        self.is_busy = true;
        Some(work)
    }
}

/// An outbox that is asked for waiting rows: its name, how to ask, and the ids that do not count.
type Asked = (String, Arc<Statements>, Vec<String>);

/// What one outbox was found to have.
struct Found {
    name: String,
    /// Age of the oldest waiting row in seconds; `None` = nothing waits.
    oldest: Result<Option<f64>, Trouble>,
}

/// Asks one database. If it cannot answer for all its outboxes because of one (a schema that is not migrated), each is asked alone.
async fn ask(shared: &Shared, place: Place, tables: Vec<Asked>) -> Vec<Found> {
    let pool = match pool_of(shared, &place) {
        Ok(pool) => pool,
        Err(error) => return all_failed(&tables, &error),
    };
    let asked: Vec<(&Statements, Vec<String>)> = tables.iter().map(|(_, statements, but)| (&**statements, but.clone())).collect();
    match within(LOOK_PATIENCE, outbox::waiting(&pool, &asked)).await {
        Ok(found) => {
            let ages: HashMap<usize, f64> = found.into_iter().collect();
            tables.into_iter().enumerate().map(|(n, (name, ..))| Found { name, oldest: Ok(ages.get(&n).copied()) }).collect()
        }
        Err(error) if classify(&error) == Fault::Schema && tables.len() > 1 => {
            let mut found = Vec::new();
            for table in tables {
                found.extend(Box::pin(ask(shared, place.clone(), vec![table])).await);
            }
            found
        }
        Err(error) => all_failed(&tables, &error),
    }
}

fn all_failed(tables: &[Asked], error: &sqlx::Error) -> Vec<Found> {
    let reason = |name: &str| {
        let advice = if classify(error) == Fault::Schema { ": run `kylo migrate`, or correct the sources file" } else { "" };
        format!("outbox {name} cannot be read: {}{advice}", crate::store::error::describe(error))
    };
    tables.iter().map(|(name, ..)| Found { name: name.clone(), oldest: Err(Trouble::new(Why::Database, reason(name))) }).collect()
}

fn pool_of(shared: &Shared, place: &Place) -> Result<PgPool, sqlx::Error> {
    match place {
        Place::Control => Ok(shared.options.control.clone()),
        Place::Elsewhere(dsn) => shared.options.pools.pool(dsn),
    }
}

/// One line a minute while the same kind of trouble lasts.
fn say(what: &str, trouble: Option<&Trouble>, said: &mut Option<(Why, Instant)>) {
    let Some(trouble) = trouble else {
        *said = None;
        return;
    };
    if said.is_none_or(|(why, at)| why != trouble.why || at.elapsed() >= SAY_EVERY) {
        *said = Some((trouble.why, Instant::now()));
        warn!(outbox = what, reason = trouble.reason, "the relay waits");
    }
}
