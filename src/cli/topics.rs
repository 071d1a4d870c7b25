//! `kylo topics`: the three topics as they must be.

use super::{Outcome, output};
use crate::config::Settings;
use crate::runtime::tools::{self, TopicReport, TopicState};

/// Make the topics, or compare them with what they must be
///
/// txns has 16 partitions, promote 8, events 8; all keep 90 days. Partitions are never added to a topic that exists: that would break the
/// order per company (RUNBOOK: "More partitions").
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 the topics are as they must be, 1 one is missing, differs, or the broker does not answer, 2 usage or configuration."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Ensure(Form),
    Verify(VerifyForm),
}

/// Make the topics that are missing
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo topics ensure\n  KAFKA_BROKERS=broker:9092 kylo topics ensure\n\n\
    Exit codes: 0 the topics are as they must be, 1 one differs or could not be made, 2 usage or configuration.")]
struct Form {
    /// Print JSON (schemas/cli/topics.json)
    #[arg(long)]
    json: bool,
}

/// Compare the topics and change nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo topics verify\n  kylo topics verify --json\n\n\
    Exit codes: 0 the topics are as they must be, 1 one is missing or differs, 2 usage or configuration.")]
struct VerifyForm {
    /// Print JSON (schemas/cli/topics.json)
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Outcome> {
    let (create, json) = match args.command {
        Command::Ensure(form) => (true, form.json),
        Command::Verify(form) => (false, form.json),
    };
    let reports = tools::topics(settings, create).await?;
    if json {
        output::json(&reports)?;
    } else {
        output::table(["TOPIC", "STATE", "DETAIL"], &reports.iter().map(row).collect::<Vec<_>>())?;
    }
    let good = reports.iter().all(TopicReport::is_good);
    if !good && !create && reports.iter().any(|report| report.state == TopicState::Missing) {
        output::note("`kylo topics ensure` makes what is missing");
    }
    Ok(if good { Outcome::Done } else { Outcome::No })
}

fn row(report: &TopicReport) -> [String; 3] {
    let (state, detail) = match &report.state {
        TopicState::Created => ("created", String::new()),
        TopicState::Ok { partitions } => ("ok", format!("{partitions} partitions")),
        TopicState::Missing => ("missing", String::new()),
        TopicState::Drift { differences } => ("differs", differences.join("; ")),
        TopicState::Failed { reason } => ("failed", reason.clone()),
    };
    [report.name.clone(), state.to_owned(), detail]
}
