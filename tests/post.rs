//! The poster against real Postgres and a stateful double of the spreadsheet service; the planner against a grid in memory.
#![expect(clippy::cast_possible_truncation, reason = "grids of tests are small")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing helper fails its test")]

mod post_support;

#[path = "support/database.rs"]
#[expect(dead_code, reason = "other test binaries use the rest of it")]
mod database;

#[path = "post_support/bench.rs"]
mod bench;
#[path = "post_support/between.rs"]
mod between;
#[path = "post_support/crashes.rs"]
#[cfg(feature = "faults")]
mod crashes;
#[path = "post_support/mend.rs"]
mod mend;
#[path = "post_support/over_http.rs"]
mod over_http;
#[path = "post_support/people.rs"]
mod people;
#[path = "post_support/planner.rs"]
mod planner;
#[path = "post_support/trouble.rs"]
mod trouble;
#[path = "post_support/unknown_outcomes.rs"]
mod unknown_outcomes;
