//! `kylo audit`: is everything right? Recomputes from the topics what must hold and compares. Reads only.

use super::company::real_company_id;
use super::{Outcome, output};
use crate::audit::report::Report;
use crate::config::Settings;
use crate::runtime::audit::{Options, Tabs, audit};

/// Recompute from the topics what every company must hold, and compare
///
/// Reads both topics from the first offset, the control database, every company's database and, with GOOGLE_APPLICATION_CREDENTIALS set, the live tabs.
/// Changes nothing, and may run beside the workers: messages that are still on their way are counted as such. Everything is read into memory, so
/// run it where there is room for the topics. Each finding is a line: class (lost, doubled, misrouted, reordered, altered), invariant, company, what is
/// expected, what is there, and which message says so. What the topics no longer hold is taken from Postgres and counted by itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo audit\n  kylo audit --company 710\n  kylo audit --no-tabs --json | jq .counts\n\n\
    Exit codes: 0 nothing found, 1 something found or something could not be read, 2 usage or configuration.")]
pub struct Args {
    /// Only this company; what is among the wrong company's rows is found only without it
    #[arg(long)]
    company: Option<String>,
    /// Read the live tabs, and fail without credentials
    #[arg(long, conflicts_with = "no_tabs")]
    tabs: bool,
    /// Do not read the live tabs, whatever is configured
    #[arg(long)]
    no_tabs: bool,
    /// Print JSON (schemas/cli/audit.json)
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Outcome> {
    let company = args.company.as_deref().map(real_company_id).transpose()?.map(|id| id.to_string());
    if args.tabs {
        settings.sheets.key_file()?;
    }
    let tabs = match (args.tabs, args.no_tabs) {
        (true, _) => Tabs::Read,
        (_, true) => Tabs::Skip,
        _ => Tabs::IfConfigured,
    };
    // A wrong schema would make every answer wrong: it is checked like for every other command.
    super::connect::control(settings).await?.close().await;
    let report = audit(settings, &Options { company, tabs }).await?;
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.is_clean() { Outcome::Done } else { Outcome::No })
}

fn print(report: &Report) -> std::io::Result<()> {
    for finding in &report.findings {
        output::line(&finding.to_string())?;
    }
    for taken in &report.taken_from_postgres {
        output::line(&format!("taken from Postgres: company {}: {} {}: {}", taken.company, taken.count, taken.what, taken.why))?;
    }
    for tab in &report.not_judged {
        output::line(&format!("not judged: {tab}"))?;
    }
    for reason in &report.incomplete {
        output::line(&format!("could not be read: {reason}"))?;
    }
    output::line(&report.summary())
}
