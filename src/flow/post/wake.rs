//! Which spreadsheets have work.
//!
//! A tab is due when `company_state.<role>_seq` differs from its `posted_seq`, a Pending tab also when `answer_seq` does: a process that was frozen
//! before it stored its answers stores them when it wakes, long after others have posted, and has no lease to show them. What must never happen here: a look at any company outside the
//! canary list, or a company's database holding up the others'.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use tracing::debug;

use super::project::bounded;
use super::read::binding;
use super::{CompanyWork, PostRound, Poster, Work};
use crate::domain::company::{Dsn, Route, SchemaName, SpreadsheetId};
use crate::domain::tab::{Role, hex};
use crate::store::company::projection::StateRow;
use crate::store::control::spreadsheets::{SpreadsheetRow, TroubleRow};
use crate::store::control::tabs::TabRow;
use crate::store::error::{Fault, classify, describe};

/// A company whose database is down is looked at again after this time.
const DOWN_RETRY: Duration = Duration::from_secs(4);
/// A database that has not said by now how far its companies are counts as down. Everybody waits for the slowest, so one that was down when it
/// was last asked gets less time.
const STATES_WITHIN: Duration = Duration::from_secs(5);
const STATES_WITHIN_AFTER_TROUBLE: Duration = Duration::from_secs(2);

type Target = (Dsn, SchemaName);

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
        let routes = self.options.store.routes().await?;
        let ledger = self.ledger().await?;
        let mut by_spreadsheet: BTreeMap<SpreadsheetId, Vec<Arc<Route>>> = BTreeMap::new();
        for route in routes.values().flatten().filter(|route| self.is_posted(&route.company)) {
            by_spreadsheet.entry(route.spreadsheet.clone()).or_default().push(Arc::clone(route));
        }
        if ledger.unsettled.iter().any(|id| !by_spreadsheet.keys().any(|posted| posted.as_str() == id)) {
            let posted: Vec<String> = by_spreadsheet.keys().map(ToString::to_string).collect();
            self.options.store.abandon_unrouted(&posted).await?;
        }
        let open: Vec<_> =
            by_spreadsheet.into_iter().filter(|(id, routes)| is_open(ledger.sheets.get(id.as_str()), routes, now, &mut round)).collect();
        let ready = |route: &&Arc<Route>| is_ready(ledger.troubles.get(route.company.as_str()), route, now);
        let asked: Vec<_> = open.iter().flat_map(|(_, routes)| routes.iter().filter(ready)).cloned().collect();
        for waiting in ledger.troubles.values().filter_map(|trouble| trouble.retry_at).filter(|at| *at > now) {
            round.retry_at(waiting);
        }
        let states = self.states(asked, &ledger.troubles, &mut round).await?;
        let work = open.into_iter().filter_map(|(id, routes)| self.work(id, &routes, &ledger, &states, now)).collect();
        Ok((work, round))
    }

    async fn ledger(&self) -> Result<Ledger, sqlx::Error> {
        let store = &self.options.store;
        Ok(Ledger {
            bindings: store.bindings().await?,
            sheets: store.spreadsheets().await?.into_iter().map(|row| (row.spreadsheet_id.clone(), row)).collect(),
            unsettled: store.unsettled().await?.into_iter().collect(),
            troubles: store.troubles().await?.into_iter().map(|row| (row.company_id.clone(), row)).collect(),
        })
    }

    /// The states of these companies, one query per schema. A database that fails costs its own companies only.
    async fn states(
        &self,
        routes: Vec<Arc<Route>>,
        troubles: &HashMap<String, TroubleRow>,
        round: &mut PostRound,
    ) -> Result<HashMap<String, StateRow>, sqlx::Error> {
        let mut targets: BTreeMap<Target, Vec<Arc<Route>>> = BTreeMap::new();
        for route in routes {
            targets.entry((route.dsn.clone(), route.schema.clone())).or_default().push(route);
        }
        let is_troubled = |route: &Arc<Route>| troubles.contains_key(route.company.as_str());
        let asked = targets.into_iter().map(|(target, routes)| async move {
            let within = if routes.iter().any(is_troubled) { STATES_WITHIN_AFTER_TROUBLE } else { STATES_WITHIN };
            let answer = bounded(within, self.states_of(&target, &routes)).await;
            (routes, answer)
        });
        let mut found = HashMap::new();
        for (routes, answer) in futures::future::join_all(asked).await {
            match answer {
                Ok(states) => {
                    found.extend(states.into_iter().map(|state| (state.company_id.clone(), state)));
                    // A company without a batch has nothing to post, so no post will show that it is well again.
                    for route in routes.iter().filter(|route| is_troubled(route) && !found.contains_key(route.company.as_str())) {
                        self.options.store.clear_trouble(route.company.as_str()).await?;
                    }
                }
                Err(error) => self.record_failure(&routes, &error, round).await?,
            }
        }
        Ok(found)
    }

    async fn states_of(&self, (dsn, schema): &Target, routes: &[Arc<Route>]) -> Result<Vec<StateRow>, sqlx::Error> {
        let companies: Vec<String> = routes.iter().map(|route| route.company.to_string()).collect();
        self.options.store.states(dsn, schema, &companies).await
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
            self.options.store.set_trouble(company, state, &reason, route.version, retry_at).await?;
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
                companies.push((state.updated_at, CompanyWork { route: Arc::clone(route), due, state: Some(state.clone()), has_trouble }));
            }
        }
        companies.sort_by(|(a_at, a), (b_at, b)| (a_at, &a.route.company).cmp(&(b_at, &b.route.company)));
        let has_work = !companies.is_empty() || ledger.unsettled.contains(spreadsheet.as_str());
        let companies = companies.into_iter().map(|(_, work)| work).collect();
        has_work.then(|| Work { config_version: config_version(routes), spreadsheet, companies, is_sweep })
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

pub(super) fn is_due(bindings: &[TabRow], route: &Route, role: Role, state: &StateRow) -> bool {
    binding(bindings, route, role).is_none_or(|bound| match role {
        Role::Pending => (bound.posted_seq, bound.answer_seq) != (state.pending_seq, state.answer_seq),
        Role::Active => bound.posted_seq != state.active_seq,
    })
}

/// Changes with every UPDATE of a row of `company_config` that names the spreadsheet.
pub(super) fn config_version(routes: &[Arc<Route>]) -> String {
    let mut hash = Sha256::new();
    for route in routes {
        hash.update(format!("{}:{}:{};", route.company.as_str().len(), route.company, route.version));
    }
    hex(&hash.finalize()[..8])
}
