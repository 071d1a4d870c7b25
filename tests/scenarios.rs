//! Named scenarios: what administrators, people and machines do to a system that works, each ending in the auditor's zero. The table of
//! docs/guarantees.md names what is promised in each.
//!
//! Needs `PG_DSN_RW` and `KAFKA_BROKERS` as tests/e2e.rs does, whose world, workers and waits these are.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/database.rs"]
mod database;
#[path = "e2e/databases.rs"]
mod databases;
#[path = "e2e/health.rs"]
mod health;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "audit/judge.rs"]
mod judge;
#[path = "scenarios/many.rs"]
mod many;
#[path = "e2e/messages.rs"]
mod messages;
#[path = "e2e/offsets.rs"]
mod offsets;
#[path = "scenarios/outages.rs"]
mod outages;
#[path = "support/patience.rs"]
mod patience;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "e2e/process.rs"]
mod process;
#[path = "e2e/proxy.rs"]
mod proxy;
#[path = "scenarios/restored.rs"]
mod restored;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "e2e/sheets.rs"]
mod sheets;
#[path = "scenarios/spreadsheets.rs"]
mod spreadsheets;
#[path = "scenarios/steps.rs"]
mod steps;
#[path = "scenarios/topics.rs"]
mod topics;
#[path = "scenarios/two_systems.rs"]
mod two_systems;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "e2e/world.rs"]
mod world;
