//! What the poster reads and writes in Postgres: one method for each transaction.
//!
//! The poster's promise is a protocol between Postgres, a spreadsheet and several posters, any of which can stop at any point. It is played
//! through tens of thousands of orders of events in seconds (`tests/simulation.rs`), which a server cannot do; so this is
//! the one place where Postgres has a port. Because each method is one transaction, a double that does each of them at once sees every order of
//! transactions there is. What happens inside a transaction stays Postgres' own matter and is tested there (`tests/post.rs`); that the double
//! answers like Postgres is tested by `tests/simulation/contract.rs`.
//!
//! What must never happen here: two transactions behind one method, or a decision.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tracing::debug;
use uuid::Uuid;

use crate::domain::company::{Dsn, Route, Routes, SchemaName};
use crate::domain::ids::TxnUid;
use crate::domain::plan::{Answer, Left, TypedCells};
use crate::domain::tab::{ActiveRule, OpenRow, Role};
use crate::faults::{Bug, planted};
use crate::flow::routing::RoutingCache;
use crate::store::company::projection::{self, AnswerSeq, StateRow};
use crate::store::control::intents::{self, NewIntent, OpenIntent};
use crate::store::control::posts::{self, Landed};
use crate::store::control::spreadsheets::{self, SpreadsheetRow, TroubleRow};
use crate::store::control::tabs::{self, Known, TabRow};
use crate::store::control::{PATIENCE, due};
use crate::store::error::describe;
use crate::store::pools::{Pools, within};

/// The database's answer, or its error: then a write may or may not have been done.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, sqlx::Error>>;

/// A pause before the listening connection is made anew.
const LISTEN_AGAIN: Duration = Duration::from_secs(2);

/// A company's side of its tabs, at one instant.
#[derive(Clone, Debug)]
pub struct Projection {
    pub state: StateRow,
    pub open: Vec<OpenRow>,
    /// Of the transactions asked about: those that are known and not open, with their descriptions.
    pub gone: HashMap<TxnUid, String>,
    pub rules: Vec<ActiveRule>,
}

/// A tab that was read and found to show what Postgres says up to `tab.posted_seq`.
#[derive(Clone, Debug)]
pub struct Shown<'a> {
    pub tab: TabRow,
    /// What was remembered of people's cells before it was read, and what was read; `None` for a tab that has none.
    pub typed: Option<(&'a TypedCells, &'a TypedCells)>,
}

/// Postgres as the poster sees it. What each method promises is said where [`PgPostStore`]'s statements are.
pub trait PostStore: Send + Sync + std::fmt::Debug {
    /// `control.company_config`, at most 5 s old.
    fn routes(&self) -> Reply<'_, Arc<Routes>>;
    /// Notifies `wake` whenever another process says that a tab has become due. Ends only by being dropped.
    fn listen(&self, wake: Arc<Notify>) -> BoxFuture<'_, ()>;

    fn bindings(&self) -> Reply<'_, Vec<TabRow>>;
    fn spreadsheets(&self) -> Reply<'_, Vec<SpreadsheetRow>>;
    fn unsettled(&self) -> Reply<'_, Vec<String>>;
    fn troubles(&self) -> Reply<'_, Vec<TroubleRow>>;
    /// Sheet id and title of a spreadsheet's `_kylo`, as last seen.
    fn control_tab<'a>(&'a self, spreadsheet: &'a str) -> Reply<'a, Option<(i32, String)>>;

    fn lease<'a>(&'a self, spreadsheet: &'a str, holder: Uuid) -> Reply<'a, Option<SpreadsheetRow>>;
    fn renew<'a>(&'a self, spreadsheet: &'a str, holder: Uuid) -> Reply<'a, bool>;
    fn release<'a>(&'a self, spreadsheet: &'a str, holder: Uuid) -> Reply<'a, ()>;
    fn set_back<'a>(
        &'a self,
        spreadsheet: &'a str,
        state: &'a str,
        reason: &'a str,
        retry_at: DateTime<Utc>,
        config_version: &'a str,
    ) -> Reply<'a, ()>;
    fn set_ok<'a>(&'a self, spreadsheet: &'a str) -> Reply<'a, ()>;
    fn set_swept<'a>(&'a self, spreadsheet: &'a str, at: DateTime<Utc>) -> Reply<'a, ()>;
    /// `version`: of the company's configuration when the trouble was met.
    fn set_trouble<'a>(&'a self, company: &'a str, state: &'a str, reason: &'a str, version: i64, retry_at: DateTime<Utc>) -> Reply<'a, ()>;
    fn clear_trouble<'a>(&'a self, company: &'a str) -> Reply<'a, ()>;

    fn open_intents<'a>(&'a self, spreadsheet: &'a str) -> Reply<'a, Vec<OpenIntent>>;
    /// The intent in state `planned`, and what people had typed when it was planned. False = its holder's lease has passed on, nothing is written.
    fn write_intent<'a>(&'a self, intent: &'a NewIntent<'a>) -> Reply<'a, bool>;
    fn mark_sent(&self, intent: Uuid) -> Reply<'_, bool>;
    fn mark_in_doubt<'a>(&'a self, intent: Uuid, reason: &'a str) -> Reply<'a, ()>;
    fn settle_intent<'a>(&'a self, intent: Uuid, state: &'a str, reason: &'a str) -> Reply<'a, ()>;
    fn abandon_intent(&self, intent: Uuid) -> Reply<'_, bool>;
    fn abandon_unrouted<'a>(&'a self, posted: &'a [String]) -> Reply<'a, ()>;
    fn confirm<'a>(&'a self, landed: &'a Landed<'a>) -> Reply<'a, bool>;

    /// False = the lease has passed on, nothing is written.
    fn bind_equal<'a>(&'a self, spreadsheet: &'a str, holder: Uuid, shown: &'a [Shown<'a>]) -> Reply<'a, bool>;
    fn set_all_due<'a>(&'a self, spreadsheet: &'a str) -> Reply<'a, ()>;
    /// People's cells of a company's Pending tab as last read. To be asked before the tab is looked at.
    fn known<'a>(&'a self, company: &'a str) -> Reply<'a, Known>;
    /// What was read beside the posts; `known` before that.
    fn add_typed<'a>(&'a self, company: &'a str, sheet_id: i32, known: &'a Known, read: &'a TypedCells) -> Reply<'a, ()>;

    fn states<'a>(&'a self, dsn: &'a Dsn, schema: &'a SchemaName, companies: &'a [String]) -> Reply<'a, Vec<StateRow>>;
    /// `seen`: transactions whose rows stand on the Pending tab or stood there, to be told about if they are gone.
    fn project<'a>(&'a self, route: &'a Route, roles: &'a BTreeSet<Role>, seen: &'a [TxnUid]) -> Reply<'a, Projection>;
    fn store_answers<'a>(&'a self, route: &'a Route, answers: &'a [Answer], left: &'a [Left]) -> Reply<'a, AnswerSeq>;
}

/// The real one.
#[derive(Debug)]
pub struct PgPostStore {
    control: PgPool,
    pools: Arc<Pools>,
    routing: Arc<RoutingCache>,
}

impl PgPostStore {
    pub fn new(control: PgPool, pools: Arc<Pools>, routing: Arc<RoutingCache>) -> Arc<Self> {
        Arc::new(Self { control, pools, routing })
    }

    async fn write_intent_in_one(&self, intent: &NewIntent<'_>) -> Result<bool, sqlx::Error> {
        let mut tx = self.control.begin().await?;
        intents::insert(&mut tx, intent).await?;
        let none = TypedCells::new();
        for (company, typed) in intent.typed.iter().filter(|_| !planted(Bug::TypedForgotten)) {
            let known = intent.known.get(company.as_str()).copied().unwrap_or(&none);
            tabs::set_typed(&mut tx, company, Role::Pending.as_str(), known, typed).await?;
        }
        let is_ours = spreadsheets::renew(&mut *tx, intent.spreadsheet_id, intent.holder).await?;
        if is_ours {
            tx.commit().await?;
        }
        Ok(is_ours)
    }

    async fn settle_in_one(&self, intent: Uuid, state: &str, reason: &str) -> Result<(), sqlx::Error> {
        let mut connection = self.control.acquire().await?;
        intents::settle(&mut connection, intent, state, Some(reason)).await.map(drop)
    }

    async fn bind_in_one(&self, spreadsheet: &str, holder: Uuid, shown: &[Shown<'_>]) -> Result<bool, sqlx::Error> {
        let mut tx = self.control.begin().await?;
        for Shown { tab, typed } in shown {
            tabs::bind(&mut tx, tab).await?;
            if let Some((known, seen)) = typed {
                tabs::set_typed(&mut tx, &tab.company_id, &tab.role, known, seen).await?;
            }
        }
        let is_ours = spreadsheets::renew(&mut *tx, spreadsheet, holder).await?;
        if is_ours {
            tx.commit().await?;
        }
        Ok(is_ours)
    }

    async fn states_in_one(&self, dsn: &Dsn, schema: &SchemaName, companies: &[String]) -> Result<Vec<StateRow>, sqlx::Error> {
        let mut tx = self.pools.begin(dsn, schema).await?;
        let states = projection::states(&mut tx, companies).await?;
        tx.commit().await?;
        Ok(states)
    }

    async fn project_in_one(&self, route: &Route, roles: &BTreeSet<Role>, seen: &[TxnUid]) -> Result<Projection, sqlx::Error> {
        let company = route.company.as_str();
        let mut tx = self.pools.begin(&route.dsn, &route.schema).await?;
        projection::freeze(&mut tx).await?;
        let state = projection::states(&mut tx, &[company.to_owned()]).await?.pop();
        let never = || StateRow { company_id: company.to_owned(), pending_seq: 0, active_seq: 0, answer_seq: 0, updated_at: DateTime::UNIX_EPOCH };
        let mut found = Projection { state: state.unwrap_or_else(never), open: Vec::new(), gone: HashMap::new(), rules: Vec::new() };
        if roles.contains(&Role::Pending) {
            found.open = projection::open_rows(&mut tx, company).await?;
            let open: std::collections::HashSet<TxnUid> = found.open.iter().map(|row| row.uid).collect();
            let asked: Vec<Uuid> = seen.iter().filter(|uid| !open.contains(uid)).map(|uid| uid.0).collect();
            if !asked.is_empty() {
                found.gone = projection::gone(&mut tx, company, &asked).await?;
            }
        }
        if roles.contains(&Role::Active) {
            found.rules = projection::active_rules(&mut tx, company).await?;
        }
        tx.commit().await?;
        Ok(found)
    }

    async fn store_in_one(&self, route: &Route, answers: &[Answer], left: &[Left]) -> Result<AnswerSeq, sqlx::Error> {
        let mut tx = self.pools.begin(&route.dsn, &route.schema).await?;
        let seq = projection::store(&mut tx, route.company.as_str(), answers, left).await?;
        tx.commit().await?;
        Ok(seq)
    }

    /// Until the connection is lost.
    async fn hear(&self, wake: &Notify) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(&self.control).await?;
        listener.listen(due::CHANNEL).await?;
        loop {
            listener.recv().await?;
            wake.notify_one();
        }
    }
}

impl PostStore for PgPostStore {
    fn routes(&self) -> Reply<'_, Arc<Routes>> {
        Box::pin(self.routing.all())
    }

    fn listen(&self, wake: Arc<Notify>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            loop {
                if let Err(error) = self.hear(&wake).await {
                    debug!(reason = describe(&error), "not listening for due tabs");
                }
                tokio::time::sleep(LISTEN_AGAIN).await;
            }
        })
    }

    fn bindings(&self) -> Reply<'_, Vec<TabRow>> {
        Box::pin(tabs::all(&self.control))
    }

    fn spreadsheets(&self) -> Reply<'_, Vec<SpreadsheetRow>> {
        Box::pin(spreadsheets::all(&self.control))
    }

    fn unsettled(&self) -> Reply<'_, Vec<String>> {
        Box::pin(intents::unsettled(&self.control))
    }

    fn troubles(&self) -> Reply<'_, Vec<TroubleRow>> {
        Box::pin(spreadsheets::troubles(&self.control))
    }

    fn control_tab<'a>(&'a self, spreadsheet: &'a str) -> Reply<'a, Option<(i32, String)>> {
        Box::pin(spreadsheets::control_tab(&self.control, spreadsheet))
    }

    fn lease<'a>(&'a self, spreadsheet: &'a str, holder: Uuid) -> Reply<'a, Option<SpreadsheetRow>> {
        Box::pin(spreadsheets::lease(&self.control, spreadsheet, holder))
    }

    fn renew<'a>(&'a self, spreadsheet: &'a str, holder: Uuid) -> Reply<'a, bool> {
        Box::pin(spreadsheets::renew(&self.control, spreadsheet, holder))
    }

    fn release<'a>(&'a self, spreadsheet: &'a str, holder: Uuid) -> Reply<'a, ()> {
        Box::pin(spreadsheets::release(&self.control, spreadsheet, holder))
    }

    fn set_back<'a>(
        &'a self,
        spreadsheet: &'a str,
        state: &'a str,
        reason: &'a str,
        retry_at: DateTime<Utc>,
        config_version: &'a str,
    ) -> Reply<'a, ()> {
        Box::pin(spreadsheets::set_back(&self.control, spreadsheet, state, reason, retry_at, config_version))
    }

    fn set_ok<'a>(&'a self, spreadsheet: &'a str) -> Reply<'a, ()> {
        Box::pin(spreadsheets::set_ok(&self.control, spreadsheet))
    }

    fn set_swept<'a>(&'a self, spreadsheet: &'a str, at: DateTime<Utc>) -> Reply<'a, ()> {
        Box::pin(spreadsheets::set_swept(&self.control, spreadsheet, at))
    }

    fn set_trouble<'a>(&'a self, company: &'a str, state: &'a str, reason: &'a str, version: i64, retry_at: DateTime<Utc>) -> Reply<'a, ()> {
        Box::pin(spreadsheets::set_trouble(&self.control, company, state, reason, version, retry_at))
    }

    fn clear_trouble<'a>(&'a self, company: &'a str) -> Reply<'a, ()> {
        Box::pin(spreadsheets::clear_trouble(&self.control, company))
    }

    fn open_intents<'a>(&'a self, spreadsheet: &'a str) -> Reply<'a, Vec<OpenIntent>> {
        Box::pin(intents::open(&self.control, spreadsheet))
    }

    fn write_intent<'a>(&'a self, intent: &'a NewIntent<'a>) -> Reply<'a, bool> {
        Box::pin(within(PATIENCE, self.write_intent_in_one(intent)))
    }

    fn mark_sent(&self, intent: Uuid) -> Reply<'_, bool> {
        Box::pin(intents::mark_sent(&self.control, intent))
    }

    fn mark_in_doubt<'a>(&'a self, intent: Uuid, reason: &'a str) -> Reply<'a, ()> {
        Box::pin(intents::mark_in_doubt(&self.control, intent, reason))
    }

    fn settle_intent<'a>(&'a self, intent: Uuid, state: &'a str, reason: &'a str) -> Reply<'a, ()> {
        Box::pin(within(PATIENCE, self.settle_in_one(intent, state, reason)))
    }

    fn abandon_intent(&self, intent: Uuid) -> Reply<'_, bool> {
        Box::pin(intents::abandon(&self.control, intent))
    }

    fn abandon_unrouted<'a>(&'a self, posted: &'a [String]) -> Reply<'a, ()> {
        Box::pin(intents::abandon_unrouted(&self.control, posted))
    }

    fn confirm<'a>(&'a self, landed: &'a Landed<'a>) -> Reply<'a, bool> {
        Box::pin(posts::confirm(&self.control, landed))
    }

    fn bind_equal<'a>(&'a self, spreadsheet: &'a str, holder: Uuid, shown: &'a [Shown<'a>]) -> Reply<'a, bool> {
        Box::pin(within(PATIENCE, self.bind_in_one(spreadsheet, holder, shown)))
    }

    fn set_all_due<'a>(&'a self, spreadsheet: &'a str) -> Reply<'a, ()> {
        Box::pin(tabs::set_all_due(&self.control, spreadsheet))
    }

    fn known<'a>(&'a self, company: &'a str) -> Reply<'a, Known> {
        Box::pin(tabs::known(&self.control, company, Role::Pending.as_str()))
    }

    fn add_typed<'a>(&'a self, company: &'a str, sheet_id: i32, known: &'a Known, read: &'a TypedCells) -> Reply<'a, ()> {
        Box::pin(tabs::add_typed(&self.control, company, Role::Pending.as_str(), sheet_id, known, read))
    }

    fn states<'a>(&'a self, dsn: &'a Dsn, schema: &'a SchemaName, companies: &'a [String]) -> Reply<'a, Vec<StateRow>> {
        Box::pin(self.states_in_one(dsn, schema, companies))
    }

    fn project<'a>(&'a self, route: &'a Route, roles: &'a BTreeSet<Role>, seen: &'a [TxnUid]) -> Reply<'a, Projection> {
        Box::pin(self.project_in_one(route, roles, seen))
    }

    fn store_answers<'a>(&'a self, route: &'a Route, answers: &'a [Answer], left: &'a [Left]) -> Reply<'a, AnswerSeq> {
        Box::pin(self.store_in_one(route, answers, left))
    }
}
