//! Wiring, supervision, shutdown: the only place that builds adapters.
//!
//! Called by `cli`. What must never happen here: a worker that starts on a wrong control schema, or a stop that waits for ever.

mod control;
pub mod demo;
mod gauges;
mod process;
mod supervise;

use std::future::Future;

use crate::config::Settings;
pub use process::Process;

/// Which workers run in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// As heartbeats and logs name the process: `run`, `consume txns`, `consume promote`.
    pub command: &'static str,
    pub txns: bool,
    pub promote: bool,
    pub poster: bool,
    /// Health and metrics, on this port unless `KYLO_HTTP_ADDR` names another.
    pub http: Option<u16>,
}

/// Runs the workers until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// A configuration that cannot be used ([`crate::config::ConfigError`]: exit code 2), or a worker that cannot go on.
pub async fn run(settings: Settings, workers: Workers) -> anyhow::Result<()> {
    let Some(process) = Process::start(settings, workers, stop_signal()).await? else { return Ok(()) };
    process.stopped().await;
    process.finish().await;
    Ok(())
}

/// Done when the process is asked to stop.
fn stop_signal() -> impl Future<Output = ()> + Send + 'static {
    async {
        use tokio::signal::unix::{SignalKind, signal};
        // Without a handler the default action (to end at once) stays, which is safe too: everything is durable or redelivered.
        let Ok(mut term) = signal(SignalKind::terminate()) else { return std::future::pending().await };
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: finishing what is in hand"),
            _ = tokio::signal::ctrl_c() => tracing::info!("SIGINT: finishing what is in hand"),
        }
    }
}
