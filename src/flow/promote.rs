//! Approved rows become rules: read the approvals, make the next version, decide again what was waiting.
//!
//! Called by the consumer's lanes with one request at a time per company, and again with the same request after it was stuck. In posting mode
//! the Pending tab is read first, outside of any transaction; then one transaction under the company's lock ([`transaction`]) takes what
//! counts, answers what does not, and replays open rows. What the tab said is judged against what Postgres has under that lock, so a
//! correction that came meanwhile makes an approval void instead of wrong.
//!
//! While the spreadsheet does not answer, or is parked, the request waits (it is held like any message): promoting without the approvals that
//! the request was about would lose them. In shadow mode, and for companies outside the canary list, no tab is read; only what SQL approved
//! counts.
//!
//! What must never happen here: an approval applied to a row other than the one it was given to (I7), an open row left behind whose key has a
//! rule (I11), a request applied twice.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use sqlx::PgPool;

use super::ingest::DueBell;
use super::ingest::letters;
use super::ingest::problem::{self, MAX_TRIES, Problem, lost_to_another};
use super::ingest::schemas::{Schemas, Unusable};
use crate::domain::clock::Clock;
use crate::domain::company::Route;
use crate::domain::tab::TabView;
use crate::faults::{Bug, CrashPoint, Faults, planted};
use crate::flow::work::{Handled, PromoteWork, Stuck};
use crate::store::control::dead_letters;
use crate::store::error::describe;
use crate::store::pools::{PATIENCE, Pools, within};

mod transaction;
mod verdicts;

/// Reads a company's Pending tab as it stands now. Implemented by the poster, which knows tabs by sheet id and shares the call budget.
pub trait PendingTabReader: Send + Sync + fmt::Debug {
    /// `None`: the tab does not exist yet, so nobody can have typed anything.
    fn read_pending<'a>(&'a self, route: &'a Route) -> BoxFuture<'a, Result<Option<TabView>, TabUnread>>;
}

/// Why a Pending tab could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TabUnread {
    /// Passes by itself: network, quota, 5xx, token endpoint.
    #[error("{0}")]
    Wait(String),
    /// Needs a person: not shared, gone, header missing, clash.
    #[error("{0}")]
    Parked(String),
    /// The control database, where tabs are remembered.
    #[error("{0}")]
    Control(String),
}

/// What promote works with.
#[derive(Clone)]
pub struct PromoteOptions {
    /// The control database: the signal to the posters, dead letters.
    pub control: PgPool,
    pub pools: Arc<Pools>,
    pub clock: Arc<dyn Clock>,
    /// `None` in shadow mode.
    pub tab: Option<Arc<dyn PendingTabReader>>,
    /// Companies that are posted; empty = all. The others are in shadow in every respect.
    pub canary: BTreeSet<String>,
}

impl fmt::Debug for PromoteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromoteOptions").field("tab", &self.tab).field("canary", &self.canary).finish_non_exhaustive()
    }
}

/// Applies promote requests.
#[derive(Debug)]
pub struct Promote {
    options: PromoteOptions,
    schemas: Schemas,
    due: DueBell,
    faults: Faults,
}

impl Promote {
    pub fn new(options: PromoteOptions) -> Self {
        let due = DueBell::new(options.control.clone());
        Self { options, schemas: Schemas::default(), due, faults: Faults::default() }
    }

    /// With faults of a test.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// Applies one request. `Applied` also where nothing was approved: the request is recorded, and its outcome says so.
    ///
    /// # Errors
    /// [`Stuck`]: nothing was written, the request is to be tried again.
    pub async fn apply(&self, work: &PromoteWork) -> Result<Handled, Stuck> {
        let company = &work.route.company;
        match within(PATIENCE, self.is_known(work)).await {
            Ok(true) => return Ok(Handled::Duplicate),
            Ok(false) => {}
            Err(error) => return self.settle(work, error).await,
        }
        let tab = match self.tab_of(&work.route) {
            Some(reader) => match reader.read_pending(&work.route).await {
                Err(_) if planted(Bug::PromotedUnread) => None,
                read => read.map_err(|unread| stuck(work, unread))?,
            },
            None => None,
        };
        self.faults.reached(CrashPoint::PromoteTabRead).await;
        let mut tries = 1;
        loop {
            match within(PATIENCE, self.commit(work, tab.as_ref())).await {
                Ok(Some(outcome)) => {
                    let key = work.request.request_key.as_str();
                    tracing::info!(%company, request = key, outcome = %outcome.json, "{}", outcome.said());
                    self.due.ring(outcome.due.then_some(company.as_str()));
                    return Ok(Handled::Applied);
                }
                Ok(None) => return Ok(Handled::Duplicate),
                Err(error) if lost_to_another(&error) && tries < MAX_TRIES => {
                    problem::pause(tries).await;
                    tries += 1;
                }
                Err(error) => return self.settle(work, error).await,
            }
        }
    }

    fn tab_of(&self, route: &Route) -> Option<&Arc<dyn PendingTabReader>> {
        let canary = &self.options.canary;
        self.options.tab.as_ref().filter(|_| canary.is_empty() || canary.contains(route.company.as_str()))
    }

    async fn settle(&self, work: &PromoteWork, error: Unusable) -> Result<Handled, Stuck> {
        let company = work.route.company.to_string();
        match problem::judge(error, work.route.schema.as_str()) {
            Problem::Parked(reason) => {
                self.schemas.doubt(&work.route);
                Err(Stuck::Parked { company, reason })
            }
            Problem::Slow(reason) | Problem::Down(reason) => Err(Stuck::Down { company, reason }),
            Problem::Data(code) => {
                let letter = letters::of_promote(work, &code);
                let kept = dead_letters::insert(&self.options.control, &[letter]).await;
                kept.map(|_| Handled::DeadLettered).map_err(|error| Stuck::Control(describe(&error)))
            }
        }
    }
}

fn stuck(work: &PromoteWork, unread: TabUnread) -> Stuck {
    let company = work.route.company.to_string();
    let said = |reason: String| format!("its Pending tab cannot be read, and promoting without the approvals in it would lose them: {reason}");
    match unread {
        TabUnread::Wait(reason) => Stuck::Down { company, reason: said(reason) },
        TabUnread::Parked(reason) => Stuck::Parked { company, reason: said(reason) },
        TabUnread::Control(reason) => Stuck::Control(reason),
    }
}
