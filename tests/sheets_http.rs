//! The production gateway (google-sheets4's client, yup-oauth2's tokens, the shared budget) over HTTP against the emulator.
//!
//! Needs a Postgres server for the budget: `PG_DSN_RW` in the environment or in `.local/env` (scripts/up.sh writes it).

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a failing helper fails its test")]

#[path = "support/control.rs"]
mod control;
#[expect(dead_code, reason = "only the server's address is needed of it")]
#[path = "support/database.rs"]
mod database;
#[path = "sheets_http/faults.rs"]
mod faults;
#[path = "sheets_http/requests.rs"]
mod requests;
#[path = "sheets_http/tokens.rs"]
mod tokens;
#[path = "support/sheets_world.rs"]
mod world;
