//! Statements against the control database, one file per table or concern. Tables are always written `control.<table>`.

use std::time::Duration;

/// How long the poster waits for a statement of its own here. Well below a lease, so that who cannot reach the control database does not hold one.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub mod admin;
pub mod backfills;
pub mod budget;
pub mod company_config;
pub mod dead_letters;
pub mod due;
pub mod held;
pub mod intents;
pub mod poison;
pub mod posts;
pub mod prune;
pub mod relay;
pub mod spreadsheets;
pub mod status;
pub mod tabs;
pub mod trouble;
pub mod workers;
