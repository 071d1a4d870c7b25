//! The Google Sheets edge: [`gateway::GoogleSheets`] implements [`crate::ports::SheetGateway`].
//!
//! A call goes: `auth` (a token) -> `quota` (a permit, a time limit, a count) -> `encode` -> `send` or the crate's hub -> `decode`, or `classify` if it
//! failed. Nothing outside this folder names google-sheets4, yup-oauth2 or hyper. What must never happen here: a rule about what a post means.

mod a1;
pub mod answers;
mod auth;
mod cells;
mod classify;
mod client;
mod decode;
mod encode;
pub mod gateway;
pub mod key;
pub mod quota;
mod send;

pub use auth::TokenOptions;
pub use gateway::{GOOGLE, GoogleSheets, SetupError, SheetsOptions, endpoint};
pub use key::{KeyError, KeyFile};
pub use quota::CallHook;
