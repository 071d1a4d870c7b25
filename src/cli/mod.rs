//! Commands. stdout is data, stderr is for people; exit codes: 0 ok, 1 failed, 2 usage or configuration.
//!
//! Called by `main` alone. Each command has a file: its arguments, its help, what it does. What must never happen here: a secret on argv or
//! in a message, or a command that changes something without `--yes` where it cannot be undone.

mod args;
mod audit;
mod backfill;
mod company;
mod connect;
mod consume;
mod demo;
mod dlq;
mod doctor;
mod failure;
mod fake_sheets;
mod mask;
mod migrate;
pub mod output;
mod plan;
mod publish;
mod relay;
mod run;
mod selftest;
mod sheets;
mod status;
mod topics;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use futures::FutureExt;

use crate::config::env::{self, Typed};
use crate::config::{ConfigError, Settings};
use crate::telemetry::logging;
use args::Command;
use failure::Failed;

/// What a command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It did its work and the answer is no: something is missing, differs, or cannot be reached. Already said.
    No,
}

/// The program: parse, dispatch, print the error chain once, pick the exit code.
pub fn main() -> ExitCode {
    let (command, flags) = match args::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(refusal) => refusal.exit(),
    };
    failure::report_panics();
    let settings = Typed::from_process(&flags).and_then(|typed| Settings::resolve(&typed));
    let result = settings.map_err(anyhow::Error::from).and_then(|mut settings| {
        if !command.is_worker() && !settings.is_given(&env::RUST_LOG) {
            // What a command did is its output; only trouble belongs beside it.
            "warn".clone_into(&mut settings.log.filter);
        }
        logging::init(&settings.log);
        for warning in &settings.warnings {
            output::note(&format!("warning: {warning}"));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(AssertUnwindSafe(dispatch(command, settings)).catch_unwind());
        // A blocking call that never returns (closing a consumer of a dead broker) must not keep the process.
        runtime.shutdown_background();
        result.unwrap_or_else(|_| Err(Failed::new("kylo panicked; the place is said above").into()))
    });
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Err(error) => {
            output::note(&failure::text(&error));
            ExitCode::from(if failure::is_usage(&error) { 2 } else { 1 })
        }
    }
}

async fn dispatch(command: Command, settings: Settings) -> anyhow::Result<Outcome> {
    match command {
        Command::Run(args) => run::run(args, settings).await,
        Command::Consume(args) => consume::run(args, settings).await,
        Command::Relay(args) => relay::run(args, settings).await,
        Command::Migrate(args) => migrate::run(args, &settings).await,
        Command::Topics(args) => topics::run(args, &settings).await,
        Command::Company(args) => company::run(args, &settings).await,
        Command::Publish(args) => publish::run(args, &settings).await,
        Command::Dlq(args) => dlq::run(args, &settings).await,
        Command::Doctor(args) => doctor::run(args, &settings).await,
        Command::Selftest(args) => selftest::run(args, &settings).await,
        Command::Backfill(args) => backfill::run(args, &settings).await,
        Command::Status(args) => status::run(args, &settings).await,
        Command::Demo(args) => demo::run(args, &settings).await,
        Command::Audit(args) => audit::run(args, &settings).await,
        Command::Plan(args) => plan::run(args, &settings).await,
        Command::Sheets(args) => sheets::run(args, &settings).await,
        Command::FakeSheets(args) => fake_sheets::run(args).await,
    }
}

/// A wrong combination of arguments that clap cannot see. Exit code 2.
fn usage(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    ConfigError::one(message, hint).into()
}
