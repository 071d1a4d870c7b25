//! What Postgres says of the due companies, and the plan that makes their tabs say the same.
//!
//! What must never happen here: a company whose database is down stopping the others of its spreadsheet, or an older snapshot than the tab's
//! (Postgres is read after the spreadsheet, so a key seen there is known here).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tracing::warn;

use super::read::{Located, Look, configured, look};
use super::store::{PostStore, Projection, Shown};
use super::{CompanyWork, Halt, Poster, Session, Step};
use crate::domain::company::Route;
use crate::domain::ids::TxnUid;
use crate::domain::plan::{self, ActiveInput, Budget, Found, PendingInput, TabPlan, TypedCells};
use crate::domain::sheet::ObservedTab;
use crate::domain::tab::{self, ActiveRule, HeaderError, OpenRow, Role};
use crate::ports::CallError;
use crate::store::company::projection::StateRow;
use crate::store::control::PATIENCE;
use crate::store::control::tabs::TabRow;
use crate::store::error::{Fault, classify, describe};
use crate::store::pools::within;

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
    /// What was remembered of people's cells before the tabs were looked at.
    pub typed: TypedCells,
    /// A post of its tabs is in doubt.
    pub in_doubt: bool,
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
            answer_seq: self.wanted.state.answer_seq,
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
                let Self { open, gone, typed, in_doubt, .. } = self;
                let input = PendingInput { company, title, tab: found, open, gone, typed, posted_seq, in_doubt: *in_doubt };
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
    store: &dyn PostStore,
    route: &Route,
    roles: &BTreeSet<Role>,
    pending: Option<&ObservedTab>,
    typed: TypedCells,
) -> Result<Wanted, sqlx::Error> {
    let mut seen = pending.and_then(|tab| tab::read_pending(tab).ok()).map(|view| view.uids()).unwrap_or_default();
    seen.extend(typed.keys());
    let Projection { state, open, gone, rules } = store.project(route, roles, &seen).await?;
    Ok(Wanted { state, open, gone, rules, typed, in_doubt: false })
}

impl Session<'_> {
    /// Plans for the companies that have waited longest, until the batch is full.
    pub(super) async fn plan_all(&mut self, look: &Look, in_doubt: &BTreeSet<String>) -> Result<Vec<CompanyPlan>, Halt> {
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
            if let Some(plan) = self.plan_company(&work, look, in_doubt.contains(work.route.company.as_str()), &mut budget).await? {
                plans.push(plan);
            }
        }
        Ok(plans)
    }

    /// `None` = the company is out of this pass, and why is recorded.
    async fn plan_company(&mut self, work: &CompanyWork, look: &Look, in_doubt: bool, budget: &mut Budget) -> Result<Option<CompanyPlan>, Halt> {
        let route = &work.route;
        let located = |role| look.tabs.get(&(route.company.clone(), role));
        let observed = |role| located(role).and_then(|located| located.sheet_id).and_then(|id| look.tab(id));
        let typed = self.known.remove(&route.company).unwrap_or_default();
        let wanted = match bounded(DATABASE_WITHIN, load(&*self.options.store, route, &work.due, observed(Role::Pending), typed)).await {
            Ok(wanted) => Wanted { in_doubt, ..wanted },
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
        for mut plan in plans {
            match bounded(DATABASE_WITHIN, store_answers(&*self.options.store, &mut plan)).await {
                Ok(()) => stored.push(plan),
                Err(error) => self.database_failed(&plan.route, &error).await?,
            }
        }
        Ok(stored)
    }

    /// Nothing differs: the tabs show what Postgres says up to here.
    pub(super) async fn record_equal(&mut self, plans: Vec<CompanyPlan>) -> Result<Step, Halt> {
        let mut shown = Vec::new();
        for plan in &plans {
            let typed = |tab| Some(tab).filter(|tab: &&TabPlan| tab.role == Role::Pending).map(|tab| (&plan.wanted.typed, &tab.typed));
            shown.extend(plan.tabs.iter().map(|tab| Shown { tab: plan.row(tab), typed: typed(&tab.plan) }));
        }
        // Who was frozen since the read would put an older state in the place of a newer one.
        if !self.options.store.bind_equal(self.spreadsheet.as_str(), self.options.holder, &shown).await? {
            return Err(Halt::LeaseLost);
        }
        // A tab that cannot be used, or whose company's database is down, is not equal.
        if !plans.is_empty() && (self.round.parked, self.round.waiting) == (0, 0) {
            self.round.unchanged += 1;
        }
        self.finish(&plans, &[]).await
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
                self.options.store.clear_trouble(plan.route.company.as_str()).await?;
            }
        }
        self.todo.retain(|work| !work.due.is_empty());
        // Whose tabs did not fit goes on behind those that have not had a turn yet: a huge backlog delays its neighbours by one batch.
        let is_cut = |plan: &&CompanyPlan| plan.tabs.iter().any(|tab| !tab.plan.complete);
        let cut: BTreeSet<_> = plans.iter().filter(is_cut).map(|plan| &plan.route.company).collect();
        self.todo.sort_by_key(|work| cut.contains(&work.route.company));
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
        self.options.store.set_trouble(route.company.as_str(), "down", &reason, route.version, retry_at).await?;
        self.round.waiting += 1;
        self.round.retry_at(retry_at);
        self.todo.retain(|work| work.route.company != route.company);
        Ok(())
    }
}

async fn store_answers(store: &dyn PostStore, plan: &mut CompanyPlan) -> Result<(), sqlx::Error> {
    for tab in plan.tabs.iter().filter(|tab| !tab.plan.answers.is_empty() || !tab.plan.left.is_empty()) {
        let seq = store.store_answers(&plan.route, &tab.plan.answers, &tab.plan.left).await?;
        // Answers that somebody else has stored since the snapshot are not in this plan: the tab stays due for them.
        if seq.before == plan.wanted.state.answer_seq {
            plan.wanted.state.answer_seq = seq.after;
        }
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

impl Preview {
    fn refused(route: &Route, role: Role, reason: &str) -> Self {
        Self { role, title: configured(route, role).to_owned(), seen: None, plan: Err(reason.to_owned()) }
    }
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
        let bindings = within(PATIENCE, self.options.store.bindings()).await?;
        let wanted_tabs: Vec<_> = Role::ALL.into_iter().map(|role| (Arc::clone(route), role)).collect();
        let control = self.options.store.control_tab(route.spreadsheet.as_str()).await?;
        let typed = match within(PATIENCE, self.options.store.known(route.company.as_str())).await {
            Ok(known) => known.typed,
            Err(error @ sqlx::Error::Decode(_)) => return Ok(Role::ALL.map(|role| Preview::refused(route, role, &describe(&error))).into()),
            Err(error) => return Err(error.into()),
        };
        let look = look(gateway, &route.spreadsheet, &wanted_tabs, &bindings, &control, true).await.map_err(PreviewError::Call)?;
        let observed = |role| {
            let located = look.tabs.get(&(route.company.clone(), role))?;
            located.sheet_id.and_then(|id| look.tab(id))
        };
        let roles = BTreeSet::from(Role::ALL);
        let wanted = within(PATIENCE, load(&*self.options.store, route, &roles, observed(Role::Pending), typed)).await;
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
