//! `kylo run`: all workers in one process.

use clap::ValueEnum;

use super::{Outcome, output};
use crate::config::Settings;
use crate::runtime::{self, Workers};

/// Run the workers: both consumers, the poster, the relay, and HTTP for health and metrics
///
/// Shadow is the default: Kafka is read and Postgres is written, Google is never called. Posting is on with KYLO_SHEETS_POST=1 and
/// GOOGLE_APPLICATION_CREDENTIALS. A broker, topic or database that is missing is waited for; SIGTERM finishes what is in hand.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo run\n  KYLO_SHEETS_POST=1 KYLO_SHEETS_POST_COMPANIES=710 kylo run\n  kylo run --workers txns,promote\n\n\
    Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 usage or configuration (such as a control schema that needs `kylo migrate`).")]
pub struct Args {
    /// Only these, separated by commas
    #[arg(long, value_delimiter = ',', default_values = ["txns", "promote", "poster", "relay", "http"])]
    workers: Vec<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Txns,
    Promote,
    Poster,
    Relay,
    Http,
}

pub async fn run(args: Args, settings: Settings) -> anyhow::Result<Outcome> {
    let has = |kind| args.workers.contains(&kind);
    let workers = Workers {
        command: "run",
        txns: has(Kind::Txns),
        promote: has(Kind::Promote),
        poster: has(Kind::Poster),
        relay: has(Kind::Relay),
        http: has(Kind::Http).then_some(8088),
    };
    start(settings, workers).await
}

/// Says what is going to run, refuses what cannot, and runs it until it is stopped.
pub async fn start(settings: Settings, workers: Workers) -> anyhow::Result<Outcome> {
    settings.check_worker()?;
    output::note(&format!("kylo {} {}, mode {}, with\n{settings}", crate::telemetry::version(), workers.command, settings.sheets.mode()));
    runtime::run(settings, workers).await?;
    Ok(Outcome::Done)
}
