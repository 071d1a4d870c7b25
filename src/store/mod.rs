//! Every SQL statement of the service. Concrete Postgres on purpose. Statements are checked against `ddl/` at compile time
//! (`scripts/sqlx.sh` makes the database for it; `.sqlx/` is the committed result).

pub mod company;
pub mod control;
pub mod error;
pub mod migrate;
pub mod outbox;
pub mod pools;
