//! The emulator over HTTP, as a program sees it, and its model, as a test sees it.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod admin;
mod atomicity;
mod binary;
mod faults;
mod people;
mod quota;
mod speed;
mod support;
mod tokens;
