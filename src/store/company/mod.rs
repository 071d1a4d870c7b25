//! Statements against a company schema, one file per table or concern. Tables are unqualified: the transaction's search_path, set by
//! [`super::pools::Pools::begin`], chooses the schema.

pub mod books;
pub mod matched;
pub mod pending;
pub mod projection;
pub mod promotion;
pub mod prune;
pub mod rules;
pub mod schema;
pub mod selftest;
pub mod state;
pub mod status;
pub mod transactions;

/// What a deferred constraint would say at COMMIT, it says now.
///
/// # Errors
/// The constraint's.
pub async fn check_deferred(connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(connection).await.map(drop)
}
