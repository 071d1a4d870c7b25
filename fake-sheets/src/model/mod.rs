//! Spreadsheets as plain data: cells, grids, tabs, developer metadata. Pure; no HTTP, no clock, no accounts.

pub mod book;
pub mod cell;
pub mod format;
pub mod grid;
pub mod metadata;
pub mod sheet;
