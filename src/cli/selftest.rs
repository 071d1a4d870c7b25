//! `kylo selftest`: does what runs now really move an event and a message?

use std::time::Duration;

use serde::Serialize;

use super::connect::control;
use super::{Outcome, output};
use crate::config::Settings;
use crate::runtime::selftest::{self, Step};

/// Send a test event and a test message through the workers that run now, and see them arrive
///
/// The event: written to the control database's outbox, seen on the events topic, seen marked. The message: a batch of the reserved company
/// __kylo_selftest, which has a schema of its own in the control database and is never posted, published, seen in Postgres, its event seen on the topic.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo selftest\n  kylo selftest --only relay --timeout 10\n  kylo selftest --json\n\n\
    Exit codes: 0 everything arrived, 1 something did not, 2 usage or configuration.")]
pub struct Args {
    /// relay: only the event; all: the message too
    #[arg(long, default_value = "all", value_parser = ["relay", "all"])]
    only: String,
    /// Seconds that each step may take
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=600))]
    timeout: u16,
    /// Print JSON (schemas/cli/selftest.json)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    steps: Vec<Step>,
}

pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Outcome> {
    let control = control(settings).await?;
    let steps = selftest::run(settings, &control, Duration::from_secs(args.timeout.into()), args.only == "all").await?;
    let report = Report { ok: steps.iter().all(|step| step.ok), steps };
    if args.json {
        output::json(&report)?;
    } else {
        let word = |step: &Step| if step.ok { "ok" } else { "FAILED" }.to_owned();
        let rows: Vec<_> =
            report.steps.iter().map(|step| [step.name.to_owned(), word(step), format!("{} ms", step.milliseconds), step.detail.clone()]).collect();
        output::table(["STEP", "RESULT", "TOOK", "WHAT"], &rows)?;
    }
    Ok(if report.ok { Outcome::Done } else { Outcome::No })
}
