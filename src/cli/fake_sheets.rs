//! `kylo fake-sheets`: the Sheets API emulator as a server, for tests and for trying Kylo without Google.

use std::net::SocketAddr;
use std::path::PathBuf;

use fake_sheets::serve::{ServeOptions, serve};

use super::{Outcome, usage};

/// Serve an emulator of the Google Sheets API, with a page that shows the tabs
///
/// Prints one line of JSON, {"url", "key_file", "account"}: set KYLO_SHEETS_ENDPOINT to the url and GOOGLE_APPLICATION_CREDENTIALS to the key
/// file. Open the url in a browser to see the tabs and to edit them as a bookkeeper would. Nothing is kept when it stops.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo fake-sheets\n  kylo fake-sheets --addr 127.0.0.1:0 --key-file /tmp/key.json --spreadsheet my-book\n\n\
    Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 usage or configuration.")]
pub struct Args {
    /// Where to listen, loopback only; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8090")]
    addr: SocketAddr,
    /// Where to write the service account's key file; without it a new file among the temporary ones
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// Reads and writes per minute and account (Google: 60); without it nothing is counted
    #[arg(long)]
    quota: Option<usize>,
    /// Every account may open every spreadsheet
    #[arg(long)]
    open: bool,
    /// Begin with an empty spreadsheet of this id, shared with the key file's account; may be given again
    #[arg(long, value_name = "ID")]
    spreadsheet: Vec<String>,
}

pub async fn run(args: Args) -> anyhow::Result<Outcome> {
    if !args.addr.ip().is_loopback() {
        return Err(usage(
            format!("--addr is {}, which is not loopback", args.addr),
            "give 127.0.0.1:PORT or [::1]:PORT: the emulator has no real access control",
        ));
    }
    let Args { addr, key_file, quota, open, spreadsheet } = args;
    serve(ServeOptions { addr, key_file, quota, open, spreadsheets: spreadsheet, ..ServeOptions::default() }).await?;
    Ok(Outcome::Done)
}
