//! `kylo doctor`: everything that must work before the workers can, one line per check, with what to do.
//!
//! Reads only: it joins no group, makes no topic and writes no cell. (With posting on it sends Google one request that cannot be valid, because only that
//! tells an editor from a reader.) What must never happen here: one thing that does not answer hiding the state of the others.

mod kafka;
mod postgres;
mod sheets;

use serde::Serialize;

use super::{Outcome, output};
use crate::cli::company::real_company_id;
use crate::config::Settings;

/// Check everything the workers need, and say what to do about what does not work
///
/// Kafka: DNS, TCP, TLS, login, topics and rights, groups, advertised names. Postgres: the control database, its schema, each company's database.
/// Google: credentials, each spreadsheet's sharing, tabs and headers, the quota. Changes nothing; works in shadow mode and beside running workers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo doctor\n  kylo doctor --company 710\n  kylo doctor --json\n\n\
    Exit codes: 0 everything works, 1 something does not, 2 usage or configuration.")]
pub struct Args {
    /// Of the companies only this one
    #[arg(long)]
    company: Option<String>,
    /// Print JSON (schemas/cli/doctor.json)
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Failed,
    /// Not needed now, or not possible because of an earlier line.
    Skipped,
}

/// One line.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    target: String,
    state: State,
    /// Stable name of the cause of a failure.
    class: Option<&'static str>,
    detail: String,
    fix: Option<String>,
}

/// Why a check failed: class, what is wrong, what to do.
type Fault = (&'static str, String, String);

impl Check {
    fn ok(name: &'static str, target: &str, detail: impl Into<String>) -> Self {
        Self { name, target: target.to_owned(), state: State::Ok, class: None, detail: detail.into(), fix: None }
    }

    fn failed(name: &'static str, target: &str, (class, detail, fix): Fault) -> Self {
        Self { name, target: target.to_owned(), state: State::Failed, class: Some(class), detail, fix: Some(fix) }
    }

    fn skipped(name: &'static str, target: &str, detail: impl Into<String>) -> Self {
        Self { name, target: target.to_owned(), state: State::Skipped, class: None, detail: detail.into(), fix: None }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Outcome> {
    let only = args.company.as_deref().map(real_company_id).transpose()?;
    // The broker and the databases do not depend on each other.
    let (mut checks, databases) = tokio::join!(kafka::look(settings), postgres::look(settings, only.as_ref()));
    checks.extend(databases.checks);
    checks.extend(sheets::look(settings, databases.control.as_ref(), &databases.routes).await);
    let report = Report { ok: checks.iter().all(|check| check.state != State::Failed), checks };
    if args.json {
        output::json(&report)?;
    } else {
        let rows: Vec<_> = report.checks.iter().map(row).collect();
        output::table(["STATE", "CHECK", "OF", "DETAIL", "FIX"], &rows)?;
    }
    Ok(if report.ok { Outcome::Done } else { Outcome::No })
}

fn row(check: &Check) -> [String; 5] {
    let state = match check.state {
        State::Ok => "ok",
        State::Failed => "FAILED",
        State::Skipped => "skipped",
    };
    let fix = check.fix.clone().unwrap_or_default();
    [state.to_owned(), check.name.to_owned(), check.target.clone(), check.detail.clone(), fix]
}
