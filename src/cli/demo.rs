//! `kylo demo`: the runbook on one machine with nothing to set up.

use std::io;

use super::Outcome;
use crate::config::{Settings, env};
use crate::runtime::demo::{self, BrokerChoice, DemoOptions};

/// Play the whole flow on this machine, with nothing to set up
///
/// Starts a throwaway PostgreSQL from the local install, an in-process Kafka broker (or uses KAFKA_BROKERS, if that is set), and an emulator of
/// Google Sheets, and plays the runbook on the real workers: shadow ingest, posting on, the same payload again, an approval, promote. Prints each
/// step's effect. Everything is removed at the end.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kylo demo\n  kylo demo --keep        # and leave the spreadsheet open in your browser, with the workers behind it\n\n\
    Exit codes: 0 every step did what it should, 1 one did not."
)]
pub struct Args {
    /// Leave the page and the workers up at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Outcome> {
    let broker = if settings.is_given(&env::KAFKA_BROKERS) { BrokerChoice::Given(settings.kafka.brokers.clone()) } else { BrokerChoice::InProcess };
    let options = DemoOptions { keep: args.keep, broker, environment: Vec::new() };
    let stop = async {
        // Without a handler the process ends at once, and the throwaway parts with it.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    demo::run(options, &mut io::stdout(), stop).await?;
    Ok(Outcome::Done)
}
