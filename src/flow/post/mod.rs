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
//! `run` is the loop around them.
//!
//! A batch carries as many companies as fit 2 MB, those that have waited longest first; what does not fit, and what the answer shows as
//! damaged by people's edits, goes into the next round at once.
//!
//! What must never happen here: any call to the spreadsheet service without a gateway (shadow mode) or for a company outside the canary
//! list; a batch sent without its intent; a verdict about an unknown outcome from anything but the fence.

mod lease;
mod project;
mod read;
mod round;
mod run;
mod send;
mod settle;
mod wake;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use sqlx::PgPool;
use tokio::sync::Notify;
use tracing::{info, warn};
use uuid::Uuid;

use crate::domain::clock::Clock;
use crate::domain::company::{Route, SpreadsheetId};
use crate::domain::ids::CompanyId;
use crate::domain::tab::Role;
use crate::faults::{CrashPoint, Faults};
use crate::flow::routing::RoutingCache;
use crate::ports::{CallError, SheetGateway};
use crate::store::control::intents;
use crate::store::control::spreadsheets::{self, SpreadsheetRow};
use crate::store::error::{Fault, classify, describe};
use crate::store::pools::Pools;

pub use project::{Preview, PreviewError};
pub use read::{PendingRead, ReadError};
pub use round::PostRound;

/// Spreadsheets posted to at the same time. The shared budget of calls is what really limits it.
const AT_ONCE: usize = 8;
/// Rounds of one spreadsheet in one pass: batches that were too large for one call, and damage healed.
const MAX_ROUNDS: usize = 12;
/// Plans made afresh after a refusal, before the companies are tried one by one.
const MAX_REFUSALS: usize = 3;
/// Unknown outcomes one after the other, before it is found out whether one company's part is to blame.
const MAX_IN_DOUBT: usize = 8;
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
    pub control: PgPool,
    pub pools: Arc<Pools>,
    pub routing: Arc<RoutingCache>,
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
    /// Titles may have changed: ask for the directory before reading.
    distrust_titles: bool,
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
        self.options.gateway.is_some() && (self.options.canary.is_empty() || self.options.canary.contains(company))
    }

    /// One pass over all spreadsheets with work.
    ///
    /// # Errors
    /// The control database's. Everything else is recorded and told in the answer.
    pub async fn post_once(&self) -> Result<PostRound, sqlx::Error> {
        let Some(gateway) = self.options.gateway.clone() else { return Ok(PostRound::default()) };
        let (work, mut round) = self.find_work().await?;
        let mut passes = futures::stream::iter(work).map(|work| self.post_spreadsheet(Arc::clone(&gateway), work)).buffer_unordered(AT_ONCE);
        while let Some(pass) = passes.next().await {
            round.merge(&pass?);
        }
        Ok(round)
    }

    async fn post_spreadsheet(&self, gateway: Arc<dyn SheetGateway>, work: Work) -> Result<PostRound, sqlx::Error> {
        let control = &self.options.control;
        let id = work.spreadsheet.as_str();
        let Some(row) = spreadsheets::lease(control, id, self.options.holder).await? else {
            return Ok(PostRound { held_elsewhere: 1, ..PostRound::default() });
        };
        let lease = lease::Lease::hold(control.clone(), id.to_owned(), self.options.holder);
        self.options.faults.reached(CrashPoint::PostLeased).await;
        let (failures, was_never_swept) = (row.failures, row.swept_at.is_none());
        let mut session = Session {
            options: &self.options,
            gateway: gateway.as_ref(),
            spreadsheet: &work.spreadsheet,
            row,
            todo: work.companies.clone(),
            distrust_titles: false,
            round: PostRound::default(),
        };
        let ended = session.rounds().await;
        let mut round = session.round;
        match ended {
            Ok(()) => {
                spreadsheets::set_ok(control, id).await?;
                if work.is_sweep || was_never_swept {
                    spreadsheets::set_swept(control, id, self.options.clock.now()).await?;
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
        spreadsheets::set_back(&self.options.control, work.spreadsheet.as_str(), state, &reason, retry_at, &work.config_version).await
    }

    /// 0.5 s, doubled with each failure in a row, at least half of it random so that processes do not march in step.
    fn backoff(&self, failures: i32, most: Duration) -> Duration {
        let doublings = u32::try_from(failures).unwrap_or(0).min(10);
        let full = Duration::from_millis(500).saturating_mul(1 << doublings).min(most);
        let jitter = u32::from((self.options.ids)().as_bytes()[15]);
        full / 2 + full / 2 * jitter / 255
    }
}

impl Session<'_> {
    async fn rounds(&mut self) -> Result<(), Halt> {
        if intents::open(&self.options.control, self.spreadsheet.as_str()).await?.len() >= MAX_IN_DOUBT {
            return self.after_doubts().await;
        }
        let mut refusals = 0;
        // A sweep of many companies takes more than one read.
        for _ in 0..MAX_ROUNDS + self.todo.len() / 8 {
            match self.one_round().await? {
                Step::Done => return Ok(()),
                Step::Again => {}
                Step::Refused(reason) => {
                    self.round.refused += 1;
                    self.distrust_titles = true;
                    refusals += 1;
                    if refusals >= MAX_REFUSALS {
                        return self.one_by_one(Some(&reason)).await;
                    }
                }
            }
        }
        self.round.again = true;
        Ok(())
    }

    /// Post after post stays in doubt. The fence alone tells whose trouble it is: if even that gets no answer, the service is down and everything
    /// waits; if it lands, it closes the posts in doubt, and each company's part is tried by itself.
    async fn after_doubts(&mut self) -> Result<(), Halt> {
        let companies = std::mem::take(&mut self.todo);
        for _ in 0..MAX_REFUSALS {
            if self.one_round().await? == Step::Done {
                self.todo = companies;
                return self.one_by_one(None).await;
            }
        }
        self.round.again = true;
        Ok(())
    }

    /// Which company's part of the batch is it that fails? Without a refusal, posts that stayed in doubt are the reason to ask.
    async fn one_by_one(&mut self, refused: Option<&str>) -> Result<(), Halt> {
        let companies = std::mem::take(&mut self.todo);
        if let (Some(reason), true) = (refused, companies.is_empty()) {
            // Nothing but the fence was in the batch: no company is to blame.
            return Err(Halt::Parked(format!("the spreadsheet service refuses Kylo's own marks in spreadsheet {}: {reason}", self.spreadsheet)));
        }
        let alone = companies.len() == 1;
        let says_no = |reason: &str| format!("the spreadsheet service refuses this company's post: {reason}");
        for company in companies {
            self.todo = vec![company.clone()];
            let mut failed = refused.filter(|_| alone).map(says_no);
            for _ in 0..MAX_ROUNDS {
                if failed.is_some() {
                    break;
                }
                match self.one_round().await {
                    Ok(Step::Done) => break,
                    Ok(Step::Again) => {}
                    Ok(Step::Refused(reason)) => failed = Some(says_no(&reason)),
                    // The next company's post carries the same fence id, so at most one of them lands.
                    Err(Halt::InDoubt(reason)) if refused.is_none() => {
                        failed = Some(format!("the spreadsheet service takes Kylo's marks but never answers this company's post: {reason}"));
                    }
                    Err(halt) => return Err(halt),
                }
            }
            if let Some(reason) = failed {
                self.park(&company.route, &reason).await?;
            }
        }
        self.todo = Vec::new();
        Ok(())
    }

    /// Read, settle, plan, send.
    async fn one_round(&mut self) -> Result<Step, Halt> {
        if self.todo.is_empty() && intents::open(&self.options.control, self.spreadsheet.as_str()).await?.is_empty() {
            return Ok(Step::Done);
        }
        let look = self.look().await?;
        let settled = self.settle(&look.observed.metadata).await?;
        if settled.landed > 0 {
            // Bindings and what is due have changed.
            self.round.again = true;
            return Ok(Step::Again);
        }
        let plans = self.plan_all(&look).await?;
        self.options.faults.reached(CrashPoint::PostRead).await;
        let plans = self.store_answers(plans).await?;
        self.options.faults.reached(CrashPoint::PostAnswered).await;
        if !self.is_current(&plans).await? {
            // Another pass begins with the new configuration.
            self.todo.clear();
            self.round.again = true;
            return Ok(Step::Done);
        }
        let must_send = settled.is_lingering || settled.is_restored;
        if !must_send && plans.iter().all(project::CompanyPlan::is_empty) {
            return self.record_equal(plans).await;
        }
        self.send(&look, plans, settled.is_restored).await
    }

    /// Whether these companies are still configured as when this pass began: it may have waited for the quota meanwhile.
    async fn is_current(&self, plans: &[project::CompanyPlan]) -> Result<bool, Halt> {
        let routes = self.options.routing.all().await?;
        let is_same = |route: &Route| matches!(routes.get(&route.company), Some(Ok(now)) if now.version == route.version);
        Ok(plans.iter().all(|plan| is_same(&plan.route)))
    }

    /// Takes a company out of this pass and says why.
    async fn park(&mut self, route: &Route, reason: &str) -> Result<(), Halt> {
        let retry_at = self.options.clock.now() + PARKED_RETRY;
        warn!(company = %route.company, reason, "company parked");
        spreadsheets::set_trouble(&self.options.control, route.company.as_str(), "parked", reason, route.version, retry_at).await?;
        self.round.parked += 1;
        self.todo.retain(|work| work.route.company != route.company);
        Ok(())
    }
}
