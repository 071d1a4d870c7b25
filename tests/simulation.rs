//! The poster with Postgres, the spreadsheet service and the people in memory: tens of thousands of histories in seconds, each replayed by its
//! seed (`KYLO_SIM_SEED`).
#![expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "grids of tests are small")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing helper fails its test")]

#[expect(dead_code, reason = "other test binaries use the rest of it")]
mod post_support;

#[path = "support/database.rs"]
#[expect(dead_code, reason = "other test binaries use the rest of it")]
mod database;

#[path = "simulation/active.rs"]
mod active;
#[path = "simulation/consumer.rs"]
mod consumer;
#[path = "simulation/consumers.rs"]
mod consumers;
#[path = "simulation/contract.rs"]
mod contract;
#[path = "simulation/dice.rs"]
mod dice;
#[path = "simulation/frozen.rs"]
mod frozen;
#[path = "simulation/interleavings.rs"]
mod interleavings;
#[path = "simulation/ledger.rs"]
mod ledger;
#[path = "simulation/outcomes.rs"]
mod outcomes;
#[path = "simulation/outside.rs"]
mod outside;
#[path = "simulation/people.rs"]
mod people;
#[path = "simulation/quota.rs"]
mod quota;
#[path = "simulation/replay.rs"]
mod replay;
#[path = "simulation/sheets.rs"]
mod sheets;
#[path = "simulation/store.rs"]
mod store;
#[path = "simulation/tables.rs"]
mod tables;
#[path = "simulation/world.rs"]
mod world;
