//! An emulator of the parts of the Google Sheets API v4 that programs write through: a library for tests, and a server
//! (`fake-sheets`) for everything else. It knows nothing of the programs that use it.
//!
//! A request goes `server` (connections) → `http` (faults, tokens, quota, log) → `execute` (access) → `api` (methods) →
//! `apply` (requests of a batch) → `model` (spreadsheets). Batches work on a clone of their spreadsheet that shares all
//! rows with the original until they are written; the clone replaces the original when every request has succeeded.
//!
//! What it must never do: apply a part of a batch; compute a formula and be wrong; accept a field Google does not have.

pub mod a1;
mod admin;
pub mod api;
pub mod apply;
pub mod auth;
pub mod calls;
pub mod clock;
pub mod edits;
pub mod error;
mod execute;
pub mod faults;
pub mod fields;
mod http;
pub mod json;
pub mod model;
pub mod quota;
pub mod schema;
pub mod serve;
pub mod server;
pub mod state;
pub mod view;

pub use apply::Behaviour;
pub use calls::{CallRecord, Counts};
pub use edits::{Edit, Tab};
pub use error::ApiError;
pub use faults::{Answer, Commit, Fault, FaultKind};
pub use model::book::Book;
pub use model::cell::CellValue;
pub use quota::Limits;
pub use serve::serve;
pub use server::{FakeSheets, Handle, Options, StartError};
pub use state::{Model, Role, Snapshot};
pub use view::{CellView, TabView};
