//! The auditor: a real history through the real workers is found right, and each single tampering is found by its name.
//!
//! Needs `PG_DSN_RW` and `KAFKA_BROKERS` (environment, or `.local/env` as scripts/up.sh writes it).

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use company_world::database;

#[expect(dead_code, reason = "other tests use the rest of it")]
mod company_world;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "e2e/databases.rs"]
mod databases;
#[path = "audit/history.rs"]
mod history;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "audit/judge.rs"]
mod judge;
#[path = "e2e/messages.rs"]
mod messages;
#[path = "audit/moving.rs"]
mod moving;
#[path = "e2e/offsets.rs"]
mod offsets;
#[path = "support/patience.rs"]
mod patience;
#[path = "e2e/process.rs"]
mod process;
#[path = "audit/random.rs"]
mod random;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "e2e/sheets.rs"]
mod sheets;
#[path = "audit/tampering.rs"]
mod tampering;
#[path = "audit/unjudged.rs"]
mod unjudged;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "e2e/world.rs"]
mod world;
