//! Which spreadsheets have work, and the loop that does it.
//!
//! A tab is due when `company_state.<role>_seq` differs from its `posted_seq`. The loop is woken by this process (`wake`), by other processes
//! (NOTIFY on the control database) and by a timer, so a lost signal costs two seconds, never work. What must never happen here: a look at
//! any company outside the canary list.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use sqlx::postgres::PgListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::read::binding;
use super::{CompanyWork, PostRound, Poster, Work};
use crate::domain::company::{Dsn, Route, SchemaName, SpreadsheetId};
use crate::domain::tab::{Role, hex};
use crate::store::company::projection::{self, StateRow};
use crate::store::control::spreadsheets::{self, SpreadsheetRow, TroubleRow};
use crate::store::control::tabs::{self, TabRow};
use crate::store::control::{due, intents};
use crate::store::error::{Fault, classify, describe};
use crate::store::pools::Pools;

/// Without any signal, due tabs are found after this time.
const TIMER: Duration = Duration::from_millis(1_500);
/// After a signal, others are waited for, so that one post carries them all.
const GATHER: Duration = Duration::from_millis(300);
/// When the control database is down.
const CONTROL_PAUSE: Duration = Duration::from_secs(2);
/// A pass waits this long for a company's database; its answer counts in the first pass after it has come.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// A company whose database is down is looked at again after this time.
const DOWN_RETRY: Duration = Duration::from_secs(4);

type Target = (Dsn, SchemaName);
type Asked = JoinHandle<Result<Vec<StateRow>, sqlx::Error>>;

/// Questions to company databases that a pass did not wait for: one that does not answer must not delay everybody's posts (I6).
#[derive(Debug, Default)]
pub(super) struct Slow(Mutex<HashMap<Target, Asked>>);

impl Slow {
    fn take(&self, target: &Target) -> Option<Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(target)
    }

    fn keep(&self, target: Target, asked: Asked) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(target, asked);
    }
}

async fn states_of(pools: Arc<Pools>, (dsn, schema): Target, companies: Vec<String>) -> Result<Vec<StateRow>, sqlx::Error> {
    let mut tx = pools.begin(&dsn, &schema).await?;
    let states = projection::states(&mut tx, &companies).await?;
    tx.commit().await?;
    Ok(states)
}

/// The control database's view of all posting.
struct Ledger {
    bindings: Vec<TabRow>,
    sheets: HashMap<String, SpreadsheetRow>,
    unsettled: BTreeSet<String>,
    troubles: HashMap<String, TroubleRow>,
}

impl Poster {
    /// All spreadsheets with work, and what the round can already say (what waits, and until when).
    pub(super) async fn find_work(&self) -> Result<(Vec<Work>, PostRound), sqlx::Error> {
        let now = self.options.clock.now();
        let mut round = PostRound::default();
        let routes = self.options.routing.all().await?;
        let ledger = self.ledger().await?;
        let mut by_spreadsheet: BTreeMap<SpreadsheetId, Vec<Arc<Route>>> = BTreeMap::new();
        for route in routes.values().flatten().filter(|route| self.is_posted(&route.company)) {
            by_spreadsheet.entry(route.spreadsheet.clone()).or_default().push(Arc::clone(route));
        }
        let open: Vec<_> =
            by_spreadsheet.into_iter().filter(|(id, routes)| is_open(ledger.sheets.get(id.as_str()), routes, now, &mut round)).collect();
        let ready = |route: &&Arc<Route>| is_ready(ledger.troubles.get(route.company.as_str()), route, now);
        let asked: Vec<_> = open.iter().flat_map(|(_, routes)| routes.iter().filter(ready)).cloned().collect();
        for waiting in ledger.troubles.values().filter_map(|trouble| trouble.retry_at).filter(|at| *at > now) {
            round.retry_at(waiting);
        }
        let states = self.states(asked, &mut round).await?;
        let work = open.into_iter().filter_map(|(id, routes)| self.work(id, &routes, &ledger, &states, now)).collect();
        Ok((work, round))
    }

    async fn ledger(&self) -> Result<Ledger, sqlx::Error> {
        let control = &self.options.control;
        Ok(Ledger {
            bindings: tabs::all(control).await?,
            sheets: spreadsheets::all(control).await?.into_iter().map(|row| (row.spreadsheet_id.clone(), row)).collect(),
            unsettled: intents::unsettled(control).await?.into_iter().collect(),
            troubles: spreadsheets::troubles(control).await?.into_iter().map(|row| (row.company_id.clone(), row)).collect(),
        })
    }

    /// The states of these companies, one query per schema. A database that fails costs its own companies only.
    async fn states(&self, routes: Vec<Arc<Route>>, round: &mut PostRound) -> Result<HashMap<String, StateRow>, sqlx::Error> {
        let mut targets: HashMap<Target, Vec<Arc<Route>>> = HashMap::new();
        for route in routes {
            targets.entry((route.dsn.clone(), route.schema.clone())).or_default().push(route);
        }
        let asked = targets.into_iter().map(|(target, routes)| async move {
            let answer = self.ask(target, &routes).await;
            (routes, answer)
        });
        let mut found = HashMap::new();
        for (routes, answer) in futures::future::join_all(asked).await {
            match answer {
                Some(Ok(states)) => found.extend(states.into_iter().map(|state| (state.company_id.clone(), state))),
                Some(Err(error)) => self.record_failure(&routes, &error, round).await?,
                None => {}
            }
        }
        Ok(found)
    }

    /// Asks one database, or hears what it has answered to an earlier pass. `None`: it has not answered yet; a later pass looks again.
    async fn ask(&self, target: Target, routes: &[Arc<Route>]) -> Option<Result<Vec<StateRow>, sqlx::Error>> {
        let mut asked = match self.slow.take(&target) {
            Some(asked) if !asked.is_finished() => {
                self.slow.keep(target, asked);
                return None;
            }
            Some(asked) => asked,
            None => {
                let companies = routes.iter().map(|route| route.company.to_string()).collect();
                tokio::spawn(states_of(Arc::clone(&self.options.pools), target.clone(), companies))
            }
        };
        match tokio::time::timeout(ANSWER_WITHIN, &mut asked).await {
            Ok(answer) => answer.ok(),
            Err(_) => {
                self.slow.keep(target, asked);
                None
            }
        }
    }

    async fn record_failure(&self, routes: &[Arc<Route>], error: &sqlx::Error, round: &mut PostRound) -> Result<(), sqlx::Error> {
        let reason = describe(error);
        let (state, pause) = match classify(error) {
            Fault::Schema => ("parked", super::PARKED_RETRY),
            Fault::Data | Fault::Down => ("down", DOWN_RETRY),
        };
        let retry_at = self.options.clock.now() + pause;
        for route in routes {
            debug!(company = %route.company, reason, "company database not readable");
            let company = route.company.as_str();
            spreadsheets::set_trouble(&self.options.control, company, state, &reason, route.version, retry_at).await?;
            if state == "parked" {
                round.parked += 1;
            } else {
                round.waiting += 1;
            }
        }
        round.retry_at(retry_at);
        Ok(())
    }

    fn work(
        &self,
        spreadsheet: SpreadsheetId,
        routes: &[Arc<Route>],
        ledger: &Ledger,
        states: &HashMap<String, StateRow>,
        now: DateTime<Utc>,
    ) -> Option<Work> {
        let swept_at = ledger.sheets.get(spreadsheet.as_str()).and_then(|row| row.swept_at);
        let is_sweep = !self.options.sweep.is_zero() && swept_at.is_some_and(|at| at + self.options.sweep <= now);
        let mut companies: Vec<(DateTime<Utc>, CompanyWork)> = Vec::new();
        for route in routes {
            let Some(state) = states.get(route.company.as_str()) else { continue };
            let has_trouble = ledger.troubles.contains_key(route.company.as_str());
            let is_due = |role: &Role| is_sweep || has_trouble || is_due(&ledger.bindings, route, *role, state);
            let due: BTreeSet<Role> = Role::ALL.into_iter().filter(is_due).collect();
            if !due.is_empty() {
                companies.push((state.updated_at, CompanyWork { route: Arc::clone(route), due, has_trouble }));
            }
        }
        companies.sort_by(|(a_at, a), (b_at, b)| (a_at, &a.route.company).cmp(&(b_at, &b.route.company)));
        let has_work = !companies.is_empty() || ledger.unsettled.contains(spreadsheet.as_str());
        let companies = companies.into_iter().map(|(_, work)| work).collect();
        has_work.then(|| Work { config_version: config_version(routes), spreadsheet, companies, is_sweep })
    }

    /// Posts whatever is due until it is cancelled. A pass under way is finished first; the caller bounds that time.
    pub async fn run(&self, cancel: CancellationToken) {
        self.run_observed(cancel, |_| {}).await;
    }

    /// Like [`Poster::run`]; `observe` hears of every pass (heartbeat, metrics).
    pub async fn run_observed(&self, cancel: CancellationToken, observe: impl Fn(&Result<PostRound, sqlx::Error>) + Send) {
        if self.options.gateway.is_none() {
            cancel.cancelled().await;
            return;
        }
        let listening = tokio::spawn(listen(self.options.control.clone(), self.wake()));
        while !cancel.is_cancelled() {
            let passed = self.post_once().await;
            observe(&passed);
            let pause = match passed {
                Ok(round) if round.again => continue,
                Ok(round) => {
                    let until = round.next_retry.and_then(|at| (at - self.options.clock.now()).to_std().ok());
                    until.unwrap_or(TIMER).min(TIMER).max(Duration::from_millis(50))
                }
                Err(error) => {
                    warn!(reason = describe(&error), "the control database is down: posting waits");
                    CONTROL_PAUSE
                }
            };
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.options.wake.notified() => {
                    tokio::select! {
                        () = cancel.cancelled() => {}
                        () = tokio::time::sleep(GATHER) => {}
                    }
                }
            }
        }
        listening.abort();
    }
}

/// Turns NOTIFY of other processes into wake-ups. A connection that is lost is made anew; the timer covers the gap.
async fn listen(control: sqlx::PgPool, wake: Arc<tokio::sync::Notify>) {
    loop {
        let heard = async {
            let mut listener = PgListener::connect_with(&control).await?;
            listener.listen(due::CHANNEL).await?;
            loop {
                listener.recv().await?;
                wake.notify_one();
            }
        };
        let ended: Result<(), sqlx::Error> = heard.await;
        if let Err(error) = ended {
            debug!(reason = describe(&error), "not listening for due tabs");
        }
        tokio::time::sleep(CONTROL_PAUSE).await;
    }
}

/// Not waiting and not parked, or its time has come, or its configuration has changed.
fn is_open(row: Option<&SpreadsheetRow>, routes: &[Arc<Route>], now: DateTime<Utc>, round: &mut PostRound) -> bool {
    let Some(row) = row else { return true };
    let Some(retry_at) = row.retry_at.filter(|at| row.state != "ok" && *at > now) else { return true };
    if row.config_version.as_deref() != Some(config_version(routes).as_str()) {
        return true;
    }
    round.retry_at(retry_at);
    false
}

fn is_ready(trouble: Option<&TroubleRow>, route: &Route, now: DateTime<Utc>) -> bool {
    trouble.is_none_or(|trouble| trouble.config_version != Some(route.version) || trouble.retry_at.is_none_or(|at| at <= now))
}

fn is_due(bindings: &[TabRow], route: &Route, role: Role, state: &StateRow) -> bool {
    let seq = match role {
        Role::Pending => state.pending_seq,
        Role::Active => state.active_seq,
    };
    binding(bindings, route, role).is_none_or(|bound| bound.posted_seq != seq)
}

/// Changes with every UPDATE of a row of `company_config` that names the spreadsheet.
fn config_version(routes: &[Arc<Route>]) -> String {
    let mut hash = Sha256::new();
    for route in routes {
        hash.update(format!("{}:{}:{};", route.company.as_str().len(), route.company, route.version));
    }
    hex(&hash.finalize()[..8])
}
