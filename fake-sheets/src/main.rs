//! The `fake-sheets` binary: arguments in, exit code out. Everything else is in the library.

use std::io::Write;
use std::process::ExitCode;

use fake_sheets::serve::{ServeError, ServeOptions, USAGE, serve};

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match ServeOptions::parse(std::env::args().skip(1)) {
        Ok(None) => std::io::stdout().write_all(USAGE.as_bytes()).map_err(ServeError::Io),
        Ok(Some(options)) => serve(options).await,
        Err(error) => Err(error),
    };
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    let mut text = format!("fake-sheets: {error}");
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    // Nobody is left to tell where stderr is gone.
    let _told = writeln!(std::io::stderr(), "{text}");
    if matches!(error, ServeError::Usage(_)) { ExitCode::from(2) } else { ExitCode::FAILURE }
}
