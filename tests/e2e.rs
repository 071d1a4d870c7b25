//! The whole system in one process: a real broker, a real PostgreSQL, the emulated Sheets service, and the real workers.
//!
//! Needs `PG_DSN_RW` and `KAFKA_BROKERS` (environment, or `.local/env` as scripts/up.sh writes it). Each test has databases, topics, groups
//! and spreadsheets of its own, so they run side by side.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "e2e/commands.rs"]
mod commands;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "support/database.rs"]
mod database;
#[path = "e2e/databases.rs"]
mod databases;
#[path = "e2e/faults.rs"]
mod faults;
#[path = "e2e/health.rs"]
mod health;
#[path = "e2e/isolation.rs"]
mod isolation;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "audit/judge.rs"]
mod judge;
#[path = "e2e/letters.rs"]
mod letters;
#[path = "e2e/messages.rs"]
mod messages;
#[path = "e2e/offsets.rs"]
mod offsets;
#[path = "e2e/outages.rs"]
mod outages;
#[path = "support/patience.rs"]
mod patience;
#[path = "e2e/people.rs"]
mod people;
#[path = "e2e/process.rs"]
mod process;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "e2e/proxy.rs"]
mod proxy;
#[path = "e2e/scale.rs"]
mod scale;
#[path = "e2e/sheets.rs"]
mod sheets;
#[path = "e2e/story.rs"]
mod story;
#[path = "e2e/world.rs"]
mod world;
