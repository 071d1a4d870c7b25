//! Which company schemas have the version this build writes to. Checked once per schema, and again after a statement said otherwise.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use sqlx::PgConnection;

use crate::domain::company::{Dsn, Route, SchemaName};
use crate::store::company::schema;

/// Why a company schema could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// The text says what to run.
    #[error("{0}")]
    Version(String),
}

/// The schemas found good.
#[derive(Debug, Default)]
pub(crate) struct Schemas {
    good: Mutex<HashSet<(Dsn, SchemaName)>>,
}

impl Schemas {
    /// `conn` must be inside a transaction in that schema.
    pub(crate) async fn check(&self, conn: &mut PgConnection, route: &Route) -> Result<(), Unusable> {
        let key = (route.dsn.clone(), route.schema.clone());
        if self.good.lock().unwrap_or_else(PoisonError::into_inner).contains(&key) {
            return Ok(());
        }
        let version = schema::version(conn).await?;
        if version < schema::REQUIRED_VERSION {
            let (schema, needed) = (&route.schema, schema::REQUIRED_VERSION);
            return Err(Unusable::Version(format!("schema {schema} has version {version}, version {needed} is needed: run `kylo migrate`")));
        }
        self.good.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        Ok(())
    }

    /// Checks again the next time.
    pub(crate) fn doubt(&self, route: &Route) {
        self.good.lock().unwrap_or_else(PoisonError::into_inner).remove(&(route.dsn.clone(), route.schema.clone()));
    }
}
