//! `kylo demo`: the runbook on one machine with nothing to set up. The real workers, on embedded parts: a throwaway PostgreSQL cluster,
//! librdkafka's in-process broker (or `KAFKA_BROKERS`), and fake-sheets.
//!
//! Called by `cli`. What must never happen here: a step that is shown as done without having been looked at, or a wait on a clock: each step waits
//! for what it claims, and fails if that does not come.

mod parts;
mod postgres;
mod show;
mod story;

use std::future::Future;
use std::io::Write;

use anyhow::Result;

pub use parts::BrokerChoice;
use parts::Parts;

/// How to play the demo.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Leave the page and the workers up at the end until the process is stopped.
    pub keep: bool,
    pub broker: BrokerChoice,
    /// The environment of the process without what the demo sets itself (log settings and the like).
    pub environment: Vec<(String, String)>,
}

/// Plays the runbook and prints each step's effect. `stop` ends it early, or ends `keep`.
///
/// # Errors
/// A part that does not start, or a step whose effect did not come; the message says which and what was seen instead.
pub async fn run(options: DemoOptions, out: &mut (dyn Write + Send), stop: impl Future<Output = ()> + Send) -> Result<()> {
    let parts = Parts::start(&options).await?;
    let played = tokio::select! {
        played = story::play(&parts, out, options.keep) => played,
        () = stop => Ok(()),
    };
    parts.stop().await?;
    played
}
