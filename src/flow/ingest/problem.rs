//! Why a transaction of a company came to nothing: shared by ingest and promote.
//!
//! What must never happen here: an outage judged to be the data's fault.

use std::time::Duration;

use super::schemas::Unusable;
use crate::store::error::{Fault, classify, describe};

/// How often a transaction that lost to another session (deadlock, serialisation) is tried in all.
pub(crate) const MAX_TRIES: u32 = 5;

/// Why a transaction came to nothing.
#[derive(Clone, Debug)]
pub(crate) enum Problem {
    /// SQLSTATE: the data of one of its rows, or of one of its companies' triggers.
    Data(String),
    /// One company's schema is not what it must be.
    Parked(String),
    /// A lock or a statement took too long: perhaps one company's fault, nothing is lost by waiting.
    Slow(String),
    /// The database as a whole.
    Down(String),
}

/// Judges by SQLSTATE. `schema`: for the reason.
pub(crate) fn judge(error: Unusable, schema: &str) -> Problem {
    let error = match error {
        Unusable::Version(reason) => return Problem::Parked(reason),
        Unusable::Sql(error) => error,
    };
    if let sqlx::Error::Configuration(_) = error {
        return Problem::Parked(format!("db_dsn_rw: {}", describe(&error)));
    }
    match (classify(&error), code(&error).as_str()) {
        (Fault::Data, code) => Problem::Data(code.to_owned()),
        (Fault::Schema, _) => {
            let reason = describe(&error);
            Problem::Parked(format!("schema {schema} cannot be used: {reason}: run `kylo migrate`, and check the rights of the login in db_dsn_rw"))
        }
        (Fault::Down, "55P03" | "57014") => Problem::Slow(describe(&error)),
        (Fault::Down, _) => Problem::Down(describe(&error)),
    }
}

/// Deadlock or serialisation failure: worth another try at once.
pub(crate) fn lost_to_another(error: &Unusable) -> bool {
    matches!(error, Unusable::Sql(error) if code(error).starts_with("40"))
}

/// Before the next of [`MAX_TRIES`]: at most 100 ms.
pub(crate) async fn pause(tries: u32) {
    tokio::time::sleep(Duration::from_millis(rand::random_range(5..=20 * u64::from(tries)))).await;
}

/// The SQLSTATE, for people.
pub(crate) fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).map_or_else(|| "unknown".to_owned(), std::borrow::Cow::into_owned)
}
