//! Statements against the control database, one file per table or concern. Tables are always written `control.<table>`.

pub mod company_config;
pub mod due;
pub mod intents;
pub mod posts;
pub mod spreadsheets;
pub mod tabs;
