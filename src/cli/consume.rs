//! `kylo consume txns|promote`: the runbook's two background workers, each with its poster.

use clap::ValueEnum;

use super::{Outcome, run::start};
use crate::config::Settings;
use crate::runtime::Workers;

/// Run one of the two consumers, with its poster
///
/// The same as `kylo run` with one topic: for those who want the two apart. Start as many as there are partitions to share.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo consume txns\n  kylo consume promote\n\n\
    Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 usage or configuration.")]
pub struct Args {
    /// Which topic: batches of transactions, or promote requests
    topic: Topic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Topic {
    Txns,
    Promote,
}

pub async fn run(args: Args, settings: Settings) -> anyhow::Result<Outcome> {
    let workers = match args.topic {
        Topic::Txns => Workers { command: "consume txns", txns: true, promote: false, poster: true, relay: false, http: Some(8088) },
        Topic::Promote => Workers { command: "consume promote", txns: false, promote: true, poster: true, relay: false, http: Some(8089) },
    };
    start(settings, workers).await
}
