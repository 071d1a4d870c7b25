//! The schema, embedded: which versions a database has, and applying what is missing.
//!
//! Called by `kylo migrate`, `kylo company set`, and by every start, which refuses a control database that is not up to date.
//! Each version is applied in its own transaction under an advisory lock that the transaction holds: two runs at the same time wait for each
//! other for at most [`LOCK_WAIT`], and a process that dies in the middle leaves nothing behind.
//! What must never happen here: a version that was changed after it was applied passing as applied, or a company's tables in another's schema.

use sha2::{Digest, Sha256};
use sqlx::postgres::{PgPool, PgTransaction};
use sqlx::{AssertSqlSafe, Executor, Row};

use super::error::describe;
use crate::domain::company::SchemaName;

/// How long a run waits for another one, and for locks on the tables it changes.
pub const LOCK_WAIT: &str = "30s";
/// A single version may rewrite a large table.
const STATEMENT_LIMIT: &str = "600s";
/// First key of the advisory locks ("kylo" in ASCII); the second is a hash of the schema's name.
const LOCK_SPACE: i32 = 0x6b79_6c6f;

/// One file of `ddl/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    pub version: i32,
    pub name: &'static str,
    pub sql: &'static str,
}

impl Migration {
    /// Lower-case hex SHA-256 of the file.
    pub fn checksum(&self) -> String {
        Sha256::digest(self.sql.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The control database's versions, in order.
pub const CONTROL: &[Migration] = &[Migration { version: 1, name: "0001_control", sql: include_str!("../../ddl/control/0001_control.sql") }];

/// A company schema's versions, in order.
pub const COMPANY: &[Migration] = &[Migration { version: 1, name: "0001_company", sql: include_str!("../../ddl/company/0001_company.sql") }];

/// What a run found or did with one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionState {
    /// Not there: `kylo migrate` applies it.
    Missing,
    /// Just applied by this run.
    Applied,
    /// There already.
    Present,
    /// Recorded with another checksum than this program's file.
    Changed,
}

impl VersionState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Applied => "applied",
            Self::Present => "present",
            Self::Changed => "changed",
        }
    }

    pub fn is_fine(self) -> bool {
        matches!(self, Self::Applied | Self::Present)
    }
}

/// One version in one schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub version: i32,
    pub name: &'static str,
    pub state: VersionState,
}

/// Why a schema could not be looked at or brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(
        "version {version} ({name}) in schema {schema} was applied with other contents than this program has: it was edited after it was applied. Use the kylo that applied it, or compare ddl/ with the database and correct schema_migrations.checksum by hand"
    )]
    Changed { schema: String, version: i32, name: &'static str },
    #[error("cannot {attempt} in schema {schema}: {}", describe(.source))]
    Database { attempt: String, schema: String, source: sqlx::Error },
}

/// Which schema of the database behind a pool.
#[derive(Clone, Debug)]
pub enum Scope {
    Control,
    Company(SchemaName),
}

impl Scope {
    pub fn schema(&self) -> &str {
        match self {
            Self::Control => "control",
            Self::Company(schema) => schema.as_str(),
        }
    }

    fn versions(&self) -> &'static [Migration] {
        match self {
            Self::Control => CONTROL,
            Self::Company(_) => COMPANY,
        }
    }

    fn error(&self, attempt: impl Into<String>) -> impl FnOnce(sqlx::Error) -> MigrateError {
        let (attempt, schema) = (attempt.into(), self.schema().to_owned());
        move |source| MigrateError::Database { attempt, schema, source }
    }
}

/// Which versions the schema has. Changes nothing.
///
/// # Errors
/// The database's.
pub async fn status(pool: &PgPool, scope: &Scope) -> Result<Vec<Version>, MigrateError> {
    let mut tx = pool.begin().await.map_err(scope.error("connect"))?;
    let recorded = recorded(&mut tx, scope).await?;
    let states = scope.versions().iter().map(|migration| {
        let state = match recorded.iter().find(|(version, _)| *version == migration.version) {
            None => VersionState::Missing,
            Some((_, Some(checksum))) if *checksum != migration.checksum() => VersionState::Changed,
            Some(_) => VersionState::Present,
        };
        Version { version: migration.version, name: migration.name, state }
    });
    Ok(states.collect())
}

/// Applies what is missing, each version in a transaction of its own. Makes the company's schema if there is none.
///
/// # Errors
/// A version that was changed after it was applied; the database's. What was applied before stays.
pub async fn apply(pool: &PgPool, scope: &Scope) -> Result<Vec<Version>, MigrateError> {
    let mut done = Vec::new();
    for migration in scope.versions() {
        let state = apply_one(pool, scope, migration).await?;
        done.push(Version { version: migration.version, name: migration.name, state });
    }
    Ok(done)
}

/// What a start asks of the control database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlSchema {
    UpToDate,
    /// Says what is wrong and which command mends it.
    Wrong(String),
}

/// Whether the control schema is the one this program needs.
///
/// # Errors
/// The database does not answer: then nothing is known, and a worker waits.
pub async fn check_control(pool: &PgPool) -> Result<ControlSchema, MigrateError> {
    let versions = status(pool, &Scope::Control).await?;
    let bad: Vec<_> =
        versions.iter().filter(|version| !version.state.is_fine()).map(|version| format!("{} is {}", version.name, version.state.as_str())).collect();
    if bad.is_empty() {
        return Ok(ControlSchema::UpToDate);
    }
    Ok(ControlSchema::Wrong(format!("the schema of the control database is not the one this kylo needs: {}. Run `kylo migrate`", bad.join(", "))))
}

async fn apply_one(pool: &PgPool, scope: &Scope, migration: &Migration) -> Result<VersionState, MigrateError> {
    let mut tx = begin_locked(pool, scope).await?;
    let recorded = recorded(&mut tx, scope).await?;
    let checksum = migration.checksum();
    let state = match recorded.into_iter().find(|(version, _)| *version == migration.version) {
        Some((_, Some(theirs))) if theirs != checksum => {
            return Err(MigrateError::Changed { schema: scope.schema().to_owned(), version: migration.version, name: migration.name });
        }
        Some((_, Some(_))) => return Ok(VersionState::Present),
        // psql applied it: from now on its contents are pinned.
        Some((_, None)) => VersionState::Present,
        None => {
            if let Scope::Company(schema) = scope {
                // SchemaName's grammar leaves nothing to quote.
                let sql = format!("CREATE SCHEMA IF NOT EXISTS \"{}\"", schema.as_str());
                tx.execute(AssertSqlSafe(sql)).await.map_err(scope.error("create the schema"))?;
            }
            sqlx::raw_sql(migration.sql).execute(&mut *tx).await.map_err(scope.error(format!("apply {}", migration.name)))?;
            VersionState::Applied
        }
    };
    let pin = format!("UPDATE {}.schema_migrations SET checksum = $2 WHERE version = $1", quoted(scope));
    sqlx::query(AssertSqlSafe(pin))
        .bind(migration.version)
        .bind(&checksum)
        .execute(&mut *tx)
        .await
        .map_err(scope.error(format!("record {}", migration.name)))?;
    tx.commit().await.map_err(scope.error(format!("commit {}", migration.name)))?;
    Ok(state)
}

/// A transaction that no other run of this scope is in, with the company's schema chosen for it alone.
async fn begin_locked(pool: &PgPool, scope: &Scope) -> Result<PgTransaction<'static>, MigrateError> {
    let mut tx = pool.begin().await.map_err(scope.error("connect"))?;
    let settings =
        format!("SET LOCAL lock_timeout = '{LOCK_WAIT}'; SET LOCAL statement_timeout = '{STATEMENT_LIMIT}'; SET LOCAL client_min_messages = warning");
    sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut *tx).await.map_err(scope.error("set limits"))?;
    sqlx::query("SELECT pg_advisory_xact_lock($1, hashtext($2))")
        .bind(LOCK_SPACE)
        .bind(scope.schema())
        .execute(&mut *tx)
        .await
        .map_err(scope.error("wait for another `kylo migrate`"))?;
    let path = match scope {
        Scope::Control => "SET LOCAL search_path = pg_catalog".to_owned(),
        Scope::Company(schema) => format!("SET LOCAL search_path = \"{}\", pg_catalog", schema.as_str()),
    };
    tx.execute(AssertSqlSafe(path)).await.map_err(scope.error("choose the schema"))?;
    Ok(tx)
}

/// The versions that the schema says it has, with their checksums (`None` = psql applied it).
async fn recorded(tx: &mut PgTransaction<'static>, scope: &Scope) -> Result<Vec<(i32, Option<String>)>, MigrateError> {
    let attempt = || scope.error("read schema_migrations");
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(format!("{}.schema_migrations", quoted(scope)))
        .fetch_one(&mut **tx)
        .await
        .map_err(attempt())?;
    if !exists {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT version, checksum FROM {}.schema_migrations ORDER BY version", quoted(scope));
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut **tx).await.map_err(attempt())?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>().map_err(attempt())
}

fn quoted(scope: &Scope) -> String {
    format!("\"{}\"", scope.schema())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &str) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(format!("{}/ddl/{folder}", env!("CARGO_MANIFEST_DIR")))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn every_file_of_ddl_is_embedded_in_order() {
        for (folder, versions) in [("control", CONTROL), ("company", COMPANY)] {
            let embedded: Vec<_> = versions.iter().map(|migration| format!("{}.sql", migration.name)).collect();
            assert_eq!(embedded, files(folder));
            for (index, migration) in versions.iter().enumerate() {
                assert_eq!(usize::try_from(migration.version).unwrap(), index + 1, "{}", migration.name);
                assert!(migration.name.starts_with(&format!("{:04}_", migration.version)), "{}", migration.name);
            }
        }
    }

    #[test]
    fn every_file_records_its_own_version_for_psql() {
        for migration in CONTROL.iter().chain(COMPANY) {
            let line =
                format!("schema_migrations (version, name) VALUES ({}, '{}') ON CONFLICT (version) DO NOTHING", migration.version, migration.name);
            assert!(migration.sql.contains(&line), "{}", migration.name);
        }
    }
}
