//! Connections to company databases: one pool per DSN, shared by every schema in that database.
//!
//! What must never happen here: a connection that still points at another company's schema. So the pool's own search_path names no company
//! schema at all, and the only way to a company's tables is [`Pools::begin`], which sets it for that transaction alone (`SET LOCAL`).

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgTransaction};
use sqlx::{AssertSqlSafe, Connection};

use crate::domain::company::{Dsn, SchemaName};
use crate::faults::{Bug, planted};

/// How long a server is waited for in the middle of something, as seen from here. See [`within`].
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A connection that is handed back must answer within this time, or is thrown away.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);

/// Gives up on a server that was lost in the middle of a statement. A frozen host, a cut cable or a failover sends no goodbye, and the server's
/// own timeouts do not reach us: without this bound the answer would be waited for for ever.
///
/// # Errors
/// The work's own, or `Io` when it took longer than `limit`: whether it was done is not known then.
pub async fn within<T, E: From<sqlx::Error>>(limit: Duration, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => {
            let said = format!("the server gave no answer for {} s", limit.as_secs());
            Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, said)).into())
        }
    }
}

/// Rolls back what was given up, or finds out that nobody is there. Without a bound a lost connection would keep its place in the pool.
async fn still_there(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    within(RELEASE_PATIENCE, connection.ping()).await.map(|()| true)
}

/// How a pool behaves. All times are bounds; nothing waits for ever.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Connections per database and process. Enough for all that works on one database at a time (2 calls of ingest, promotes, drains, the poster, the
    /// gauges): a wait for a free connection must not look like a database that is down.
    pub max_connections: u32,
    /// To connect, and to wait for a free connection.
    pub acquire_timeout: Duration,
    pub application_name: String,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { max_connections: 10, acquire_timeout: Duration::from_secs(5), application_name: "kylo".to_owned() }
    }
}

/// The pools of all company databases that this process has used.
#[derive(Debug, Default)]
pub struct Pools {
    options: PoolOptions,
    pools: Mutex<HashMap<Dsn, PgPool>>,
}

impl Pools {
    pub fn new(options: PoolOptions) -> Arc<Self> {
        Arc::new(Self { options, pools: Mutex::default() })
    }

    /// # Errors
    /// `Configuration` if the DSN cannot be parsed. Does not connect yet.
    pub fn pool(&self, dsn: &Dsn) -> Result<PgPool, sqlx::Error> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(dsn) {
            return Ok(pool.clone());
        }
        let pool = lazy_pool(dsn.expose(), &self.options)?;
        pools.insert(dsn.clone(), pool.clone());
        Ok(pool)
    }

    /// A transaction in one company schema.
    ///
    /// # Errors
    /// Whatever connecting or the first statement gives.
    pub async fn begin(&self, dsn: &Dsn, schema: &SchemaName) -> Result<PgTransaction<'static>, sqlx::Error> {
        // One round trip. SchemaName's grammar leaves nothing to quote, and SET takes no parameters.
        // Every look-up here is by key. A cached plan made while a table was small would go on reading all of it after it has grown, so whole-table
        // plans are ruled out.
        let local = if planted(Bug::SearchPathLeaks) { "" } else { "LOCAL" };
        let begin = format!(
            "BEGIN; SET {local} search_path = \"{}\", pg_catalog; SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off",
            schema.as_str()
        );
        self.pool(dsn)?.begin_with(AssertSqlSafe(begin)).await
    }

    /// Closes every pool.
    pub async fn close(&self) {
        let pools: Vec<_> = self.pools.lock().unwrap_or_else(PoisonError::into_inner).drain().map(|(_, pool)| pool).collect();
        for pool in pools {
            pool.close().await;
        }
    }
}

/// How a connection is made: with the session settings that every connection of Kylo has. Nothing may hang for ever, and nothing may hold a
/// lock while its process is frozen.
///
/// # Errors
/// `Configuration` if the DSN cannot be parsed.
pub fn connect_options(dsn: &str, options: &PoolOptions) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(PgConnectOptions::from_str(dsn)?.application_name(&options.application_name).options([
        ("search_path", "pg_catalog"),
        ("idle_in_transaction_session_timeout", "60s"),
        ("lock_timeout", "10s"),
        ("statement_timeout", "60s"),
        ("tcp_keepalives_idle", "30"),
        ("tcp_keepalives_interval", "10"),
        ("tcp_keepalives_count", "3"),
    ]))
}

/// A pool that connects when it is first used, see [`connect_options`].
///
/// # Errors
/// `Configuration` if the DSN cannot be parsed.
pub fn lazy_pool(dsn: &str, options: &PoolOptions) -> Result<PgPool, sqlx::Error> {
    let connect = connect_options(dsn, options)?;
    Ok(PgPoolOptions::new()
        .max_connections(options.max_connections)
        .min_connections(0)
        .acquire_timeout(options.acquire_timeout)
        .idle_timeout(Duration::from_secs(60))
        .max_lifetime(Duration::from_secs(1800))
        .after_release(|connection, _| Box::pin(still_there(connection)))
        .connect_lazy_with(connect))
}
