//! The poster: keeps the tabs of every spreadsheet equal to Postgres, exactly once, whatever crashes, times out or is edited meanwhile.
//!
//! A reconciler: a pass takes no input, finds out what is due, and does it; being woken only makes it happen sooner. `runtime` runs it beside
//! each worker, tests and commands call its single steps. Of one spreadsheet's pass:
//!
//! | file | step |
//! |---|---|
//! | `wake`    | which spreadsheets have work: `company_state` against `sheet_tabs.posted_seq`, unsettled intents, the sweep |
//! | `lease`   | take the spreadsheet for 45 s, renewed every 15 s |
//! | `read`    | find the tabs (by sheet id, else by title) and read them, `_kylo` and the fence in one call |
//! | `settle`  | what became of posts whose answer never came, by the fence just read |
//! | `project` | Postgres in one snapshot per company, the plan, answers stored |
//! | `send`    | intent, one atomic batch, the answer checked by planning again on what it shows, ledger |
//!
//! `rounds` repeats these steps until nothing is left, `run` is the loop around them; `mend` makes a pass on a person's request.
//!
//! A batch carries as many companies as fit 2 MB, those that have waited longest first; what does not fit, and what the answer shows as
//! damaged by people's edits, goes into the next round at once.
//!
//! What must never happen here: any call to the spreadsheet service without a gateway (shadow mode) or for a company outside the canary
//! list; a batch sent without its intent; a verdict about an unknown outcome from anything but the fence.

mod lease;
mod mend;
mod project;
mod read;
mod round;
mod rounds;
mod run;
mod send;
mod settle;
mod store;
mod wake;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::Notify;
use tracing::{info, warn};
use uuid::Uuid;

use crate::domain::clock::Clock;
use crate::domain::company::{Route, SELFTEST_COMPANY, SpreadsheetId};
use crate::domain::ids::CompanyId;
use crate::domain::plan::TypedCells;
use crate::domain::tab::Role;
use crate::faults::{Bug, CrashPoint, Faults, planted};
use crate::ports::{CallError, SheetGateway};
use crate::store::company::projection::StateRow;
use crate::store::control::spreadsheets::SpreadsheetRow;
use crate::store::error::{Fault, classify, describe};

pub use mend::{CallFault, Mend, Owner};
pub use project::{Preview, PreviewError};
pub use read::{PendingRead, ReadError};
pub use round::PostRound;
pub use store::{PgPostStore, PostStore, Projection, Reply, Shown};

/// Spreadsheets posted to at the same time. The shared budget of calls is what really limits it.
const AT_ONCE: usize = 8;
/// What is parked is tried again after this time, or when its configuration changes.
const PARKED_RETRY: Duration = Duration::from_secs(15 * 60);
/// The longest pause after an outage: the poster is back within 5 s of the service.
const MAX_BACKOFF: Duration = Duration::from_secs(4);
/// The longest pause when the quota is used up.
const MAX_THROTTLE: Duration = Duration::from_secs(32);

/// Makes unguessable ids: intents, and from their bits sheet ids.
pub type RandomIds = Arc<dyn Fn() -> Uuid + Send + Sync>;

/// What a poster needs.
#[derive(Clone)]
pub struct PosterOptions {
    /// Postgres.
    pub store: Arc<dyn PostStore>,
    /// `None` = shadow mode: the poster does nothing at all.
    pub gateway: Option<Arc<dyn SheetGateway>>,
    pub clock: Arc<dyn Clock>,
    /// `KYLO_ENVIRONMENT`.
    pub environment: String,
    /// Companies that are posted; empty = all. The others are in shadow in every respect.
    pub canary: BTreeSet<CompanyId>,
    /// How often every tab is compared although nothing is due; zero = never.
    pub sweep: Duration,
    /// Names this process in leases and intents.
    pub holder: Uuid,
    pub ids: RandomIds,
    /// Notified by whoever in this process has made a tab due.
    pub wake: Arc<Notify>,
    pub faults: Faults,
}

impl std::fmt::Debug for PosterOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PosterOptions").field("holder", &self.holder).field("canary", &self.canary).finish_non_exhaustive()
    }
}

/// Keeps tabs equal to Postgres. Cheap to share by `Arc`.
pub struct Poster {
    options: PosterOptions,
}

impl std::fmt::Debug for Poster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poster").field("holder", &self.options.holder).field("shadow", &self.options.gateway.is_none()).finish_non_exhaustive()
    }
}

/// One company's share of a spreadsheet's work.
#[derive(Clone, Debug)]
struct CompanyWork {
    route: Arc<Route>,
    due: BTreeSet<Role>,
    /// How far its content was when it was found to be due; `None`: it is to be compared in any case.
    state: Option<StateRow>,
    /// Trouble is on record and is to be cleared once a post works.
    has_trouble: bool,
}

/// One spreadsheet's work.
#[derive(Clone, Debug)]
struct Work {
    spreadsheet: SpreadsheetId,
    /// Those that have waited longest first.
    companies: Vec<CompanyWork>,
    /// Fingerprint of the company rows: what is parked is tried again when it changes.
    config_version: String,
    is_sweep: bool,
}

/// Why a spreadsheet's pass ends early.
#[derive(Debug)]
enum Halt {
    /// The control database's trouble: everything waits.
    Control(sqlx::Error),
    /// A call that applied nothing.
    Call(CallError),
    /// Somebody must act. The text says what to do.
    Parked(String),
    /// A batch may or may not have landed.
    InDoubt(String),
    /// The lease has passed on: another process goes on.
    LeaseLost,
}

impl From<sqlx::Error> for Halt {
    fn from(error: sqlx::Error) -> Self {
        Self::Control(error)
    }
}

/// How a round ended.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing more to do.
    Done,
    /// Something is left for another round, or has changed under us.
    Again,
    /// The service refused the batch and the fence shows that it has not landed.
    Refused(String),
}

/// One spreadsheet's pass under its lease.
struct Session<'a> {
    options: &'a PosterOptions,
    gateway: &'a dyn SheetGateway,
    spreadsheet: &'a SpreadsheetId,
    row: SpreadsheetRow,
    /// What is left to do.
    todo: Vec<CompanyWork>,
    /// What was remembered of people's cells before the last look.
    known: BTreeMap<CompanyId, TypedCells>,
    /// Titles may have changed: ask for the directory before reading.
    distrust_titles: bool,
    /// What a person has asked for on top.
    mend: Mend,
    round: PostRound,
}

impl Poster {
    pub fn new(options: PosterOptions) -> Self {
        Self { options }
    }

    /// The handle to notify when a tab has become due.
    pub fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.options.wake)
    }

    /// Whether this company's tabs are posted at all.
    pub fn is_posted(&self, company: &CompanyId) -> bool {
        let is_canary = self.options.canary.is_empty() || self.options.canary.contains(company) || planted(Bug::CanaryIgnored);
        self.options.gateway.is_some() && is_canary && company.as_str() != SELFTEST_COMPANY
    }

    /// One pass over all spreadsheets with work.
    ///
    /// # Errors
    /// The control database's. Everything else is recorded and told in the answer.
    pub async fn post_once(&self) -> Result<PostRound, sqlx::Error> {
        let Some(gateway) = self.options.gateway.clone() else { return Ok(PostRound::default()) };
        let (work, mut round) = self.find_work().await?;
        let mut passes =
            futures::stream::iter(work).map(|work| self.post_spreadsheet(Arc::clone(&gateway), work, Mend::default())).buffer_unordered(AT_ONCE);
        while let Some(pass) = passes.next().await {
            round.merge(&pass?);
        }
        Ok(round)
    }

    async fn post_spreadsheet(&self, gateway: Arc<dyn SheetGateway>, work: Work, mend: Mend) -> Result<PostRound, sqlx::Error> {
        let store = &self.options.store;
        let id = work.spreadsheet.as_str();
        let Some(row) = store.lease(id, self.options.holder).await? else {
            return Ok(PostRound { held_elsewhere: 1, ..PostRound::default() });
        };
        let lease = lease::Lease::hold(Arc::clone(store), id.to_owned(), self.options.holder);
        self.options.faults.reached(CrashPoint::PostLeased).await;
        let (failures, was_never_swept) = (row.failures, row.swept_at.is_none());
        let mut session = Session {
            options: &self.options,
            gateway: gateway.as_ref(),
            spreadsheet: &work.spreadsheet,
            row,
            todo: work.companies.clone(),
            known: BTreeMap::new(),
            distrust_titles: false,
            mend,
            round: PostRound::default(),
        };
        let ended = session.pass(work.is_sweep).await;
        let mut round = session.round;
        match ended {
            Ok(()) => {
                store.set_ok(id).await?;
                if work.is_sweep || was_never_swept {
                    store.set_swept(id, self.options.clock.now()).await?;
                }
            }
            Err(halt) => self.set_back(&work, halt, failures, &mut round).await?,
        }
        lease.release().await?;
        Ok(round)
    }

    /// Records why a spreadsheet waits, and when it is tried again.
    async fn set_back(&self, work: &Work, halt: Halt, failures: i32, round: &mut PostRound) -> Result<(), sqlx::Error> {
        let (state, reason, pause) = match halt {
            // The control database is well: it is this spreadsheet's data that it does not take, which must not stop the others.
            Halt::Control(error) if classify(&error) == Fault::Data => {
                ("parked", format!("the control database rejects what this spreadsheet's post is to record: {}", describe(&error)), PARKED_RETRY)
            }
            // The same of what stands there and is not Kylo's: a person must look at it, and the other spreadsheets go on.
            Halt::Control(error @ (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))) => (
                "parked",
                format!("the control database holds something about this spreadsheet that Kylo did not write: {}", describe(&error)),
                PARKED_RETRY,
            ),
            Halt::Control(error) => return Err(error),
            Halt::LeaseLost => {
                round.held_elsewhere += 1;
                return Ok(());
            }
            Halt::InDoubt(reason) => {
                ("waiting", format!("a post is in doubt and will be settled by its fence: {reason}"), self.backoff(failures, MAX_BACKOFF))
            }
            Halt::Parked(reason) => ("parked", reason, PARKED_RETRY),
            Halt::Call(CallError::Forbidden(reason)) => (
                "parked",
                format!("no permission ({reason}): share spreadsheet {} with the service account as editor", work.spreadsheet),
                PARKED_RETRY,
            ),
            Halt::Call(CallError::NotFound(reason)) => (
                "parked",
                format!("spreadsheet {} was not found ({reason}): check its id with `kylo company list`, and that it is shared", work.spreadsheet),
                PARKED_RETRY,
            ),
            Halt::Call(CallError::Throttled { retry_after, message }) => {
                let pause = retry_after.unwrap_or_else(|| self.backoff(failures, MAX_THROTTLE));
                ("waiting", format!("the quota is used up: {message}"), pause)
            }
            Halt::Call(error) => ("waiting", error.to_string(), self.backoff(failures, MAX_BACKOFF)),
        };
        let retry_at = self.options.clock.now() + pause;
        if state == "parked" {
            round.parked += 1;
            warn!(spreadsheet = %work.spreadsheet, reason, "spreadsheet parked");
        } else {
            round.waiting += 1;
            round.retry_at(retry_at);
            info!(spreadsheet = %work.spreadsheet, reason, "spreadsheet waits");
        }
        self.options.store.set_back(work.spreadsheet.as_str(), state, &reason, retry_at, &work.config_version).await
    }

    /// 0.5 s, doubled with each failure in a row, at least half of it random so that processes do not march in step.
    fn backoff(&self, failures: i32, most: Duration) -> Duration {
        let doublings = u32::try_from(failures).unwrap_or(0).min(10);
        let full = Duration::from_millis(500).saturating_mul(1 << doublings).min(most);
        let jitter = u32::from((self.options.ids)().as_bytes()[15]);
        full / 2 + full / 2 * jitter / 255
    }
}
