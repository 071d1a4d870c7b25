//! Wiring, supervision, shutdown: the only place that builds adapters.
//!
//! Called by `cli`. What must never happen here: a worker that starts on a wrong control schema, or a stop that waits for ever.

pub mod audit;
pub mod backfill;
mod control;
pub mod demo;
mod gauges;
mod process;
mod prune;
mod relay;
pub mod selftest;
mod supervise;
pub mod tools;
pub mod wire;
mod workers;

use std::future::Future;

use tokio::time::Instant;

use crate::config::Settings;
pub use process::Process;

/// Which workers run in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// As heartbeats and logs name the process: `run`, `consume txns`, `consume promote`, `relay`.
    pub command: &'static str,
    pub txns: bool,
    pub promote: bool,
    pub poster: bool,
    pub relay: bool,
    /// Health and metrics, on this port unless `KYLO_HTTP_ADDR` names another.
    pub http: Option<u16>,
}

/// Runs the workers until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// A configuration that cannot be used ([`crate::config::ConfigError`]: exit code 2), or a worker that cannot go on.
pub async fn run(settings: Settings, workers: Workers) -> anyhow::Result<()> {
    run_until(settings, workers, stop_signal()).await
}

/// Runs the workers until `stop_signal` is done, then drains.
///
/// # Errors
/// As [`run`].
pub async fn run_until(settings: Settings, workers: Workers, stop_signal: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
    let Some(process) = Process::start(settings, workers, stop_signal).await? else { return Ok(()) };
    let mut loops = workers::start(&process, workers)?;
    let ended = tokio::select! {
        () = process.stopped() => Ok(()),
        ended = first_failure(&mut loops) => ended,
    };
    process.stop.cancel();
    // One deadline for all that a stop does: the consumers keep to it by themselves, and what is left of it is for the rest.
    let drain = process.settings.drain;
    let deadline = Instant::now() + drain;
    let drained = tokio::time::timeout_at(deadline, async { while loops.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(seconds = drain.as_secs(), "the workers did not end in time; what was not finished is delivered again, nothing is lost");
    }
    process.finish(deadline).await;
    ended
}

/// The first worker that cannot go on; never, if all end as they should.
async fn first_failure(loops: &mut tokio::task::JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(joined) = loops.join_next().await {
        joined??;
    }
    std::future::pending().await
}

/// Done when the process is asked to stop.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    // Without a handler the default action (to end at once) stays, which is safe too: everything is durable or redelivered.
    let Ok(mut term) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = term.recv() => tracing::info!("SIGTERM: finishing what is in hand"),
        _ = tokio::signal::ctrl_c() => tracing::info!("SIGINT: finishing what is in hand"),
    }
}
