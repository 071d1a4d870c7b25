//! What Postgres says of the due companies, and the plan that makes their tabs say the same.
//!
//! What must never happen here: a company whose database is down stopping the others of its spreadsheet, or an older snapshot than the tab's
//! (Postgres is read after the spreadsheet, so a key seen there is known here).

use std::collections::HashMap;
use std::sync::Arc;

use chrono::DateTime;
use tracing::warn;
use uuid::Uuid;

use super::read::{Located, Look, configured, look};
use super::{CompanyWork, Halt, Poster, Session, Step};
use crate::domain::company::Route;
use crate::domain::ids::TxnUid;
use crate::domain::plan::{self, ActiveInput, Budget, Found, PendingInput, TabPlan, TypedCells};
use crate::domain::sheet::ObservedTab;
use crate::domain::tab::{self, ActiveRule, HeaderError, OpenRow, Role};
use crate::ports::CallError;
use crate::store::company::projection::{self, StateRow};
use crate::store::control::PATIENCE;
use crate::store::control::spreadsheets;
use crate::store::control::tabs::{self, TabRow};
use crate::store::error::{Fault, classify, describe};
use crate::store::pools::{Pools, within};

/// Requests of one batch, in bytes. Google recommends at most 2 MB.
const BATCH_BYTES: usize = 2_000_000;
/// A company whose database is down is tried again after this time.
const DOWN_RETRY: std::time::Duration = std::time::Duration::from_secs(4);

/// To read or to write one company's side of a post. The server's own limit of a statement does not run while the server is
/// frozen.
pub(super) const DATABASE_WITHIN: std::time::Duration = std::time::Duration::from_secs(45);

/// A server that is frozen keeps its connections and answers nothing: only this side can give up.
pub(super) async fn bounded<T>(within: std::time::Duration, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(within, answer).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// A company's tabs as Postgres wants them, at one instant.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub state: StateRow,
    pub open: Vec<OpenRow>,
    pub gone: HashMap<TxnUid, String>,
    pub rules: Vec<ActiveRule>,
    pub typed: TypedCells,
}

/// One tab's plan and where it goes.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub located: Located,
    pub plan: TabPlan,
}

/// One company's plans.
#[derive(Clone, Debug)]
pub(super) struct CompanyPlan {
    pub route: Arc<Route>,
    pub wanted: Wanted,
    pub tabs: Vec<Planned>,
}

impl CompanyPlan {
    pub fn is_empty(&self) -> bool {
        self.tabs.iter().all(|tab| tab.plan.is_empty())
    }

    /// The seq that a tab shows once its plan has landed; -1 if the plan was cut, so that the tab stays due.
    pub fn seq(&self, plan: &TabPlan) -> i64 {
        match plan.role {
            _ if !plan.complete => -1,
            Role::Pending => self.wanted.state.pending_seq,
            Role::Active => self.wanted.state.active_seq,
        }
    }

    pub fn row(&self, tab: &Planned) -> TabRow {
        TabRow {
            company_id: self.route.company.to_string(),
            role: tab.plan.role.as_str().to_owned(),
            spreadsheet_id: self.route.spreadsheet.to_string(),
            sheet_id: tab.plan.sheet_id,
            configured_title: configured(&self.route, tab.plan.role).to_owned(),
            title: tab.located.title.clone(),
            posted_seq: self.seq(&tab.plan),
        }
    }
}

impl Wanted {
    /// # Errors
    /// [`HeaderError::Missing`] or [`HeaderError::Doubled`].
    pub fn plan(&self, route: &Route, role: Role, found: Found<'_>, posted_seq: i64, budget: &mut Budget) -> Result<TabPlan, HeaderError> {
        let (company, title) = (route.company.as_str(), configured(route, role));
        match role {
            Role::Pending => {
                let input = PendingInput { company, title, tab: found, open: &self.open, gone: &self.gone, typed: &self.typed, posted_seq };
                plan::plan_pending(&input, budget)
            }
            Role::Active => plan::plan_active(&ActiveInput { company, title, tab: found, rules: &self.rules }, budget),
        }
    }
}

/// Reads a company's side of its tabs. `pending` is the Pending tab, if that is wanted and there.
///
/// # Errors
/// The company database's.
async fn load(
    pools: &Pools,
    route: &Route,
    roles: impl Fn(Role) -> bool,
    pending: Option<&ObservedTab>,
    typed: TypedCells,
) -> Result<Wanted, sqlx::Error> {
    let company = route.company.as_str();
    let mut tx = pools.begin(&route.dsn, &route.schema).await?;
    projection::freeze(&mut tx).await?;
    let state = projection::states(&mut tx, &[company.to_owned()]).await?.pop();
    let state = state.unwrap_or_else(|| StateRow { company_id: company.to_owned(), pending_seq: 0, active_seq: 0, updated_at: DateTime::UNIX_EPOCH });
    let mut wanted = Wanted { state, open: Vec::new(), gone: HashMap::new(), rules: Vec::new(), typed };
    if roles(Role::Pending) {
        wanted.open = projection::open_rows(&mut tx, company).await?;
        let seen = pending.and_then(|tab| tab::read_pending(tab).ok()).map(|view| view.uids()).unwrap_or_default();
        let open: std::collections::HashSet<TxnUid> = wanted.open.iter().map(|row| row.uid).collect();
        let asked: Vec<Uuid> = seen.iter().chain(wanted.typed.keys()).filter(|uid| !open.contains(uid)).map(|uid| uid.0).collect();
        if !asked.is_empty() {
            wanted.gone = projection::gone(&mut tx, company, &asked).await?;
        }
    }
    if roles(Role::Active) {
        wanted.rules = projection::active_rules(&mut tx, company).await?;
    }
    tx.commit().await?;
    Ok(wanted)
}

impl Session<'_> {
    /// Plans for the companies that have waited longest, until the batch is full.
    pub(super) async fn plan_all(&mut self, look: &Look) -> Result<Vec<CompanyPlan>, Halt> {
        let mut budget = Budget::new(BATCH_BYTES);
        let mut plans = Vec::new();
        for work in self.todo.clone() {
            if budget.is_spent() {
                break;
            }
            // Those that did not fit into this read have another round.
            if !work.due.iter().any(|role| look.tabs.contains_key(&(work.route.company.clone(), *role))) {
                continue;
            }
            if let Some(plan) = self.plan_company(&work, look, &mut budget).await? {
                plans.push(plan);
            }
        }
        Ok(plans)
    }

    /// `None` = the company is out of this pass, and why is recorded.
    async fn plan_company(&mut self, work: &CompanyWork, look: &Look, budget: &mut Budget) -> Result<Option<CompanyPlan>, Halt> {
        let route = &work.route;
        let located = |role| look.tabs.get(&(route.company.clone(), role));
        let observed = |role| located(role).and_then(|located| located.sheet_id).and_then(|id| look.tab(id));
        let typed = tabs::typed(&self.options.control, route.company.as_str(), Role::Pending.as_str()).await?;
        let is_due = |role: Role| work.due.contains(&role);
        let wanted = match bounded(DATABASE_WITHIN, load(&self.options.pools, route, is_due, observed(Role::Pending), typed)).await {
            Ok(wanted) => wanted,
            Err(error) => return self.database_failed(route, &error).await.map(|()| None),
        };
        let mut planned = Vec::new();
        for role in &work.due {
            let Some(located) = located(*role) else { continue };
            let fresh_id = fresh_sheet_id(self.options);
            let found = observed(*role).map_or(Found::Missing { sheet_id: fresh_id }, Found::There);
            match wanted.plan(route, *role, found, located.posted_seq, budget) {
                Ok(plan) => planned.push(Planned { located: located.clone(), plan }),
                Err(error) => match self.mend_header(*role, found) {
                    Some(Ok(plan)) => planned.push(Planned { located: located.clone(), plan }),
                    mended => {
                        let more = mended.and_then(Result::err).map(|more| format!(". It was not mended: {more}")).unwrap_or_default();
                        let reason = format!("tab {:?} of spreadsheet {}: {error}{more}", located.title, self.spreadsheet);
                        return self.park(route, &reason).await.map(|()| None);
                    }
                },
            }
        }
        Ok(Some(CompanyPlan { route: Arc::clone(route), wanted, tabs: planned }))
    }

    /// Stores the answers before they are shown. A company whose database fails now is left out of the batch.
    pub(super) async fn store_answers(&mut self, plans: Vec<CompanyPlan>) -> Result<Vec<CompanyPlan>, Halt> {
        let mut stored = Vec::with_capacity(plans.len());
        for plan in plans {
            match bounded(DATABASE_WITHIN, store_answers(&self.options.pools, &plan)).await {
                Ok(()) => stored.push(plan),
                Err(error) => self.database_failed(&plan.route, &error).await?,
            }
        }
        Ok(stored)
    }

    /// Nothing differs: the tabs show what Postgres says up to here.
    pub(super) async fn record_equal(&mut self, plans: Vec<CompanyPlan>) -> Result<Step, Halt> {
        if !within(PATIENCE, self.bind_equal(&plans)).await? {
            return Err(Halt::LeaseLost);
        }
        self.round.unchanged += 1;
        self.finish(&plans, &[]).await
    }

    /// False = the lease has passed on: who was frozen since the read would put an older state in the place of a newer one.
    async fn bind_equal(&self, plans: &[CompanyPlan]) -> Result<bool, sqlx::Error> {
        let mut tx = self.options.control.begin().await?;
        for plan in plans {
            for tab in &plan.tabs {
                tabs::bind(&mut tx, &plan.row(tab)).await?;
                if tab.plan.role == Role::Pending {
                    tabs::set_typed(&mut tx, plan.route.company.as_str(), Role::Pending.as_str(), &tab.plan.typed).await?;
                }
            }
        }
        let is_ours = spreadsheets::renew(&mut *tx, self.spreadsheet.as_str(), self.options.holder).await?;
        if is_ours {
            tx.commit().await?;
        }
        Ok(is_ours)
    }

    /// Takes what is done off the list: everything of these plans but the tabs named in `unfinished`, which stay due.
    pub(super) async fn finish(&mut self, plans: &[CompanyPlan], unfinished: &[i32]) -> Result<Step, Halt> {
        for plan in plans {
            let Some(work) = self.todo.iter_mut().find(|work| work.route.company == plan.route.company) else { continue };
            for tab in &plan.tabs {
                if tab.plan.complete && !unfinished.contains(&tab.plan.sheet_id) {
                    work.due.remove(&tab.plan.role);
                }
            }
            if work.due.is_empty() && work.has_trouble {
                spreadsheets::clear_trouble(&self.options.control, plan.route.company.as_str()).await?;
            }
        }
        self.todo.retain(|work| !work.due.is_empty());
        Ok(if self.todo.is_empty() { Step::Done } else { Step::Again })
    }

    /// Takes a company out of this pass because of its database.
    async fn database_failed(&mut self, route: &Route, error: &sqlx::Error) -> Result<(), Halt> {
        let reason = describe(error);
        if classify(error) == Fault::Schema {
            return self.park(route, &format!("its schema {} is not what it must be ({reason}): run `kylo migrate`", route.schema)).await;
        }
        warn!(company = %route.company, reason, "company database down");
        let retry_at = self.options.clock.now() + DOWN_RETRY;
        spreadsheets::set_trouble(&self.options.control, route.company.as_str(), "down", &reason, route.version, retry_at).await?;
        self.round.waiting += 1;
        self.round.retry_at(retry_at);
        self.todo.retain(|work| work.route.company != route.company);
        Ok(())
    }
}

async fn store_answers(pools: &Pools, plan: &CompanyPlan) -> Result<(), sqlx::Error> {
    for tab in plan.tabs.iter().filter(|tab| !tab.plan.answers.is_empty() || !tab.plan.left.is_empty()) {
        let mut tx = pools.begin(&plan.route.dsn, &plan.route.schema).await?;
        projection::store(&mut tx, plan.route.company.as_str(), &tab.plan.answers, &tab.plan.left).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// A random sheet id: positive, below 2^31.
pub(super) fn fresh_sheet_id(options: &super::PosterOptions) -> i32 {
    let [a, b, c, d, ..] = *(options.ids)().as_bytes();
    i32::from_be_bytes([a & 0x7f, b, c, d]).max(1)
}

/// What a post would change in one of a company's tabs.
#[derive(Clone, Debug)]
pub struct Preview {
    pub role: Role,
    pub title: String,
    /// The tab as it was read; `None` if it would be made.
    pub seen: Option<ObservedTab>,
    /// What would be sent, or why the tab cannot be used.
    pub plan: Result<TabPlan, String>,
}

/// Why a preview could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    #[error("no gateway: looking at a spreadsheet needs credentials")]
    NoGateway,
    #[error("spreadsheet could not be read")]
    Call(#[source] CallError),
    #[error("the database of the company could not be read: {0}")]
    Company(String),
    #[error("the control database could not be read")]
    Control(#[from] sqlx::Error),
}

impl Poster {
    /// What a post of this company would change in its live tabs. Reads only, and does not ask for the canary list: a person wants to look.
    ///
    /// # Errors
    /// [`PreviewError`]
    pub async fn preview(&self, route: &Arc<Route>) -> Result<Vec<Preview>, PreviewError> {
        let gateway = self.options.gateway.as_deref().ok_or(PreviewError::NoGateway)?;
        let bindings = within(PATIENCE, tabs::all(&self.options.control)).await?;
        let wanted_tabs: Vec<_> = Role::ALL.into_iter().map(|role| (Arc::clone(route), role)).collect();
        let known = spreadsheets::control_tab(&self.options.control, route.spreadsheet.as_str()).await?;
        let look = look(gateway, &route.spreadsheet, &wanted_tabs, &bindings, &known, true).await.map_err(PreviewError::Call)?;
        let observed = |role| {
            let located = look.tabs.get(&(route.company.clone(), role))?;
            located.sheet_id.and_then(|id| look.tab(id))
        };
        let typed = within(PATIENCE, tabs::typed(&self.options.control, route.company.as_str(), Role::Pending.as_str())).await?;
        let wanted = within(PATIENCE, load(&self.options.pools, route, |_| true, observed(Role::Pending), typed)).await;
        let wanted = wanted.map_err(|error| PreviewError::Company(describe(&error)))?;
        let mut previews = Vec::new();
        for role in Role::ALL {
            let refused = || look.refused.first().map_or_else(String::new, |(_, reason)| reason.clone());
            let located = look.tabs.get(&(route.company.clone(), role));
            let posted_seq = located.map_or(-1, |located| located.posted_seq);
            let found = observed(role).map_or(Found::Missing { sheet_id: 1 }, Found::There);
            let plan = match located {
                None => Err(refused()),
                Some(_) => wanted.plan(route, role, found, posted_seq, &mut Budget::new(usize::MAX)).map_err(|error| error.to_string()),
            };
            let title = located.map_or_else(|| configured(route, role).to_owned(), |located| located.title.clone());
            previews.push(Preview { role, title, seen: observed(role).cloned(), plan });
        }
        Ok(previews)
    }
}
