//! The routing cache: every company's [`Route`], never older than five seconds, and a company that is not in it is looked up before it is
//! called unknown.
//!
//! What must never happen here: a route from anything but `control.company_config` (invariant I2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::RwLock;

use crate::domain::company::{self, Route, Routes, Unroutable};
use crate::domain::ids::CompanyId;
use crate::store::control::company_config;
use crate::store::pools::{PATIENCE, within};

/// Changes to `company_config` are seen within this time.
pub const MAX_AGE: Duration = Duration::from_secs(5);

/// What the cache says of a company.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routing {
    Known(Arc<Route>),
    /// Configured, but cannot be served: its messages are held.
    Refused(Unroutable),
    /// Not configured: its messages are dead letters.
    Unknown,
}

/// A shared, self-refreshing view of `control.company_config`.
#[derive(Debug)]
pub struct RoutingCache {
    pool: PgPool,
    state: RwLock<Option<(Instant, Arc<Routes>)>>,
}

impl RoutingCache {
    pub fn new(pool: PgPool) -> Arc<Self> {
        Arc::new(Self { pool, state: RwLock::new(None) })
    }

    /// All routes, at most [`MAX_AGE`] old.
    ///
    /// # Errors
    /// The control database's; then nobody can be routed and everything waits.
    pub async fn all(&self) -> Result<Arc<Routes>, sqlx::Error> {
        self.not_older_than(MAX_AGE).await
    }

    /// One company's routing.
    ///
    /// # Errors
    /// The control database's.
    pub async fn of(&self, company: &CompanyId) -> Result<Routing, sqlx::Error> {
        if let found @ (Routing::Known(_) | Routing::Refused(_)) = look_up(&*self.all().await?, company) {
            return Ok(found);
        }
        // It may have been configured a moment ago. One row is asked for, so that a flood of unknown companies does not read the table each time.
        if !company_config::exists(&self.pool, company.as_str()).await? {
            return Ok(Routing::Unknown);
        }
        Ok(look_up(&*self.not_older_than(Duration::ZERO).await?, company))
    }

    /// One company's routing without waiting: `None` when the view is too old, is being renewed, or does not know the company.
    pub fn fresh(&self, company: &CompanyId) -> Option<Routing> {
        let state = self.state.try_read().ok()?;
        let (at, routes) = state.as_ref()?;
        if at.elapsed() >= MAX_AGE {
            return None;
        }
        Some(look_up(routes, company)).filter(|routing| !matches!(routing, Routing::Unknown))
    }

    async fn not_older_than(&self, age: Duration) -> Result<Arc<Routes>, sqlx::Error> {
        if let Some((at, routes)) = &*self.state.read().await
            && at.elapsed() < age
        {
            return Ok(Arc::clone(routes));
        }
        let mut state = self.state.write().await;
        if let Some((at, routes)) = &*state
            && at.elapsed() < age
        {
            return Ok(Arc::clone(routes));
        }
        let started = Instant::now();
        let rows = within(PATIENCE, company_config::load(&self.pool)).await?;
        let bound = within(PATIENCE, company_config::bound(&self.pool)).await?;
        let routes = Arc::new(company::routes(&rows, &bound));
        *state = Some((started, Arc::clone(&routes)));
        Ok(routes)
    }
}

fn look_up(routes: &Routes, company: &CompanyId) -> Routing {
    match routes.get(company) {
        Some(Ok(route)) => Routing::Known(Arc::clone(route)),
        Some(Err(refused)) => Routing::Refused(refused.clone()),
        None => Routing::Unknown,
    }
}
