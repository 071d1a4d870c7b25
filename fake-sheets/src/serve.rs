//! The `fake-sheets` command: arguments, one line of JSON when ready, until a signal. `main.rs` and other programs'
//! subcommands call `serve`; stdout carries that line and nothing else.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::json;

use crate::quota::Limits;
use crate::server::{FakeSheets, Options, StartError};
use crate::state::Role;

/// What the command was asked for.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where to listen; loopback only, port 0 takes a free one.
    pub addr: SocketAddr,
    /// Where to write the key file; `None` puts it into the directory for temporary files.
    pub key_file: Option<PathBuf>,
    /// The key file's account; `None` is the default one.
    pub account: Option<String>,
    /// Reads and writes per minute and account.
    pub quota: Option<usize>,
    /// Every account may open every spreadsheet.
    pub open: bool,
    /// Refuse tokens to accounts that were not made here.
    pub only_known_accounts: bool,
    /// Spreadsheets to begin with, by id, shared with the key file's account.
    pub spreadsheets: Vec<String>,
}

/// How the command is used.
pub const USAGE: &str = "\
An emulator of the Google Sheets API v4, with a page that shows its spreadsheets.

usage: fake-sheets [--addr 127.0.0.1:PORT] [--key-file PATH] [--account EMAIL] [--quota N] [--open] [--only-known-accounts] [--spreadsheet ID]...

  --addr ADDR            where to listen, loopback only; port 0 takes a free one (default 127.0.0.1:8090)
  --key-file PATH        where to write the service account's key file (default: a new file among the temporary ones)
  --account EMAIL        the service account of the key file
  --quota N              reads and writes per minute and account (Google: 60); without it nothing is counted
  --open                 every account may open every spreadsheet
  --only-known-accounts  refuse tokens to accounts other than the key file's
  --spreadsheet ID       begin with an empty spreadsheet of this id, shared with the key file's account; may be given again

Prints one line of JSON, {\"url\":...,\"key_file\":...,\"account\":...}, when it is ready. Ctrl-C or SIGTERM stops it.
";

/// Why the command ended other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Called wrongly.
    #[error("{0}; --help shows how it is used")]
    Usage(String),
    /// Did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A spreadsheet to begin with cannot be made.
    #[error("cannot make spreadsheet {id:?}: {reason}")]
    Spreadsheet {
        /// The id that was asked for.
        id: String,
        /// Why.
        reason: String,
    },
    /// The line of JSON could not be written, or signals cannot be received.
    #[error("cannot talk to the caller")]
    Io(#[from] std::io::Error),
}

impl Default for ServeOptions {
    fn default() -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], 8090));
        Self { addr, key_file: None, account: None, quota: None, open: false, only_known_accounts: false, spreadsheets: Vec::new() }
    }
}

impl ServeOptions {
    /// Reads the arguments after the program's name; `None` where help is asked for.
    ///
    /// # Errors
    /// Names the argument that is wrong.
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Option<Self>, ServeError> {
        let mut options = Self::default();
        let mut args = args;
        while let Some(arg) = args.next() {
            let (name, inline) = match arg.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (arg, None),
            };
            let mut value = || inline.clone().or_else(|| args.next()).ok_or_else(|| ServeError::Usage(format!("{name} needs a value")));
            let wrong = |value: &str| ServeError::Usage(format!("{name} cannot be {value:?}"));
            match name.as_str() {
                "--addr" => options.addr = value().and_then(|v| v.parse().map_err(|_| wrong(&v)))?,
                "--quota" => options.quota = Some(value().and_then(|v| v.parse().map_err(|_| wrong(&v)))?),
                "--key-file" => options.key_file = Some(value()?.into()),
                "--account" => options.account = Some(value()?),
                "--open" => options.open = true,
                "--only-known-accounts" => options.only_known_accounts = true,
                "--spreadsheet" => options.spreadsheets.push(value()?),
                "--help" | "-h" => return Ok(None),
                other => return Err(ServeError::Usage(format!("unknown argument {other:?}"))),
            }
        }
        Ok(Some(options))
    }
}

/// Runs the emulator until SIGTERM or ctrl-c.
///
/// # Errors
/// Where it cannot start; it never ends by itself afterwards.
pub async fn serve(options: ServeOptions) -> Result<(), ServeError> {
    let key_file = options
        .key_file
        .unwrap_or_else(|| std::env::temp_dir().join(format!("fake-sheets-{}-{:08x}.json", std::process::id(), rand::random::<u32>())));
    let defaults = Options::default();
    let handle = FakeSheets::start(Options {
        addr: options.addr,
        key_file: Some(key_file.clone()),
        account: options.account.unwrap_or(defaults.account),
        open: options.open,
        only_known_accounts: options.only_known_accounts,
        quota: Limits { reads: options.quota, writes: options.quota },
        ..Options::default()
    })
    .await?;
    for id in options.spreadsheets {
        let made = handle.model().create_spreadsheet(Some(&id), &id, &["Sheet1"]);
        made.and_then(|made| handle.model().share(&made, handle.account(), Role::Writer))
            .map_err(|error| ServeError::Spreadsheet { id, reason: error.message })?;
    }
    let ready = json!({"url": handle.url(), "key_file": key_file, "account": handle.account()});
    let mut out = std::io::stdout().lock();
    writeln!(out, "{ready}")?;
    out.flush()?;
    drop(out);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        pressed = tokio::signal::ctrl_c() => pressed?,
    }
    handle.shutdown().await;
    Ok(())
}
