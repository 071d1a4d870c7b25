//! The control database: at start waited for as long as it takes, refused if its schema is wrong; from then on looked at every second.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use secrecy::ExposeSecret;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::config::{ConfigError, Secret, Settings};
use crate::store::error::describe;
use crate::store::migrate::{self, ControlSchema};
use crate::store::pools::{PoolOptions, connect_options, lazy_pool, within};
use crate::telemetry::health::{Check, HealthBoard};

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two lines that say so.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Between two looks at a database that has answered, and how long each may take.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_WITHIN: Duration = Duration::from_secs(1);
/// Names of the checks in `/health/ready`: it answers, and it takes what is written (a standby does not).
pub const CHECK: &str = "control_database";
pub const CHECK_WRITES: &str = "control_database_writes";

/// A pool to the control database, once it answers with the right schema. `None` if `stop` came first.
///
/// # Errors
/// Configuration: `PG_DSN_RW` cannot be used, or the schema needs `kylo migrate`.
pub async fn connect(settings: &Settings, board: &Arc<HealthBoard>, stop: &CancellationToken) -> Result<Option<PgPool>> {
    let options = PoolOptions { max_connections: 8, ..PoolOptions::default() };
    let mut said: Option<Instant> = None;
    loop {
        // Read again at each try: a secret's file may have been replaced.
        let dsn = settings.control()?.current()?;
        let pool = lazy_pool(dsn.expose_secret(), &options).map_err(|error| {
            ConfigError::one(format!("PG_DSN_RW cannot be used: {}", describe(&error)), "give postgres://user:password@host:5432/database")
        })?;
        let checked = tokio::select! {
            checked = migrate::check_control(&pool) => checked,
            () = stop.cancelled() => return Ok(None),
        };
        match checked {
            Ok(ControlSchema::UpToDate) => {
                board.set(CHECK, Check::ok("answers"));
                return Ok(Some(pool));
            }
            Ok(ControlSchema::Wrong(text)) => {
                return Err(ConfigError::one(text, "run `kylo migrate`; `kylo migrate --status` shows what is missing").into());
            }
            Err(error) => {
                let reason = error.to_string();
                board.set(CHECK, Check::failed(reason.clone()));
                if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                    said = Some(Instant::now());
                    tracing::warn!(reason, "the control database does not answer; waiting for it");
                }
            }
        }
        pool.close().await;
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

/// Looks every second whether the database answers, so that readiness tells within two seconds that it is gone. On a connection of its own, because
/// a wait for a free one of the pool must not look like a database that is down; and without a statement.
pub async fn watch(dsn: Secret, board: Arc<HealthBoard>, stop: CancellationToken) {
    let mut connection = None;
    while !stop.is_cancelled() {
        let check = match within(LOOK_WITHIN, look(connection.take(), &dsn)).await {
            Ok(kept) => {
                connection = Some(kept);
                Check::ok("answers")
            }
            Err(error) => Check::failed(describe(&error)),
        };
        board.set(CHECK, check);
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// On the connection that is kept; if that one is lost, on another, with the password that the file has now.
async fn look(kept: Option<PgConnection>, dsn: &Secret) -> Result<PgConnection, sqlx::Error> {
    if let Some(mut kept) = kept
        && kept.ping().await.is_ok()
    {
        return Ok(kept);
    }
    let dsn = dsn.current().map_err(|error| sqlx::Error::Configuration(error.into()))?;
    let mut fresh = PgConnection::connect_with(&connect_options(dsn.expose_secret(), &PoolOptions::default())?).await?;
    fresh.ping().await?;
    Ok(fresh)
}
