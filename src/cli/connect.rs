//! How a command reaches the control database: at once or not at all, and only if its schema is the right one.
//! (Workers wait for it instead: see `runtime`.)

use std::time::Duration;

use anyhow::Context;
use secrecy::ExposeSecret;
use sqlx::PgPool;

use super::failure::Failed;
use crate::config::secret::masked_dsn;
use crate::config::{ConfigError, Settings};
use crate::store::error::describe;
use crate::store::migrate::{self, ControlSchema};
use crate::store::pools::{PoolOptions, Pools, lazy_pool};

fn options() -> PoolOptions {
    PoolOptions { max_connections: 4, acquire_timeout: Duration::from_secs(10), application_name: "kylo-cli".to_owned() }
}

/// Pools for company databases.
pub fn company_pools() -> std::sync::Arc<Pools> {
    Pools::new(options())
}

/// The control database, whatever its schema is: for `kylo migrate`.
///
/// # Errors
/// `PG_DSN_RW` is missing or no DSN (exit code 2); the server does not answer.
pub async fn control_unchecked(settings: &Settings) -> anyhow::Result<PgPool> {
    let dsn = settings.control()?.current()?;
    let pool = lazy_pool(dsn.expose_secret(), &options()).map_err(|error| {
        ConfigError::one(format!("PG_DSN_RW cannot be used: {}", describe(&error)), "give postgres://user:password@host:5432/database")
    })?;
    if let Err(error) = pool.acquire().await {
        let failed = Failed::new(format!("cannot connect to the control database {}: {}", masked_dsn(&dsn), describe(&error)));
        return Err(failed.hint("check that it runs, and host, port, user, password and database in PG_DSN_RW").into());
    }
    Ok(pool)
}

/// The control database with the schema that this program needs.
///
/// # Errors
/// As [`control_unchecked`]; a wrong schema (exit code 2).
pub async fn control(settings: &Settings) -> anyhow::Result<PgPool> {
    let pool = control_unchecked(settings).await?;
    match migrate::check_control(&pool).await.context("cannot check the schema of the control database")? {
        ControlSchema::UpToDate => Ok(pool),
        ControlSchema::Wrong(text) => Err(ConfigError::one(text, "`kylo migrate --status` shows what is missing").into()),
    }
}

/// A failed statement as an error without row contents.
pub fn failed(attempt: &str, error: &sqlx::Error) -> anyhow::Error {
    Failed::new(format!("cannot {attempt}: {}", describe(error))).into()
}
