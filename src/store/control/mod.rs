//! Statements against the control database, one file per table or concern. Tables are always written `control.<table>`.

pub mod admin;
pub mod budget;
pub mod company_config;
pub mod dead_letters;
pub mod due;
pub mod held;
pub mod intents;
pub mod poison;
pub mod posts;
pub mod prune;
pub mod spreadsheets;
pub mod status;
pub mod tabs;
pub mod trouble;
pub mod workers;
