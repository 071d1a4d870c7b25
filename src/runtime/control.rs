//! The control database at start: waited for as long as it takes, refused if its schema is wrong.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use secrecy::ExposeSecret;
use sqlx::PgPool;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::config::{ConfigError, Settings};
use crate::store::error::describe;
use crate::store::migrate::{self, ControlSchema};
use crate::store::pools::{PoolOptions, lazy_pool};
use crate::telemetry::health::{Check, HealthBoard};

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two lines that say so.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Name of the check in `/health/ready`.
pub const CHECK: &str = "control_database";

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
        match migrate::check_control(&pool).await {
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
