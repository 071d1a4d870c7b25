//! Keeps the worker loops running: one that panics or fails is started again, visibly; one that keeps failing ends the process, so that
//! whoever runs it (systemd, Kubernetes) sees it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::Metrics;

/// More failures than this within [`WINDOW`] end the process.
const MOST_FAILURES: usize = 5;
const WINDOW: Duration = Duration::from_secs(600);
/// Before a loop is started again; doubled with each failure in the window.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Runs what `start` makes until it ends by itself after `stop`, starting it again after a failure or panic.
///
/// # Errors
/// The last failure, when there were too many.
pub async fn supervise<F, Fut>(name: &'static str, stop: CancellationToken, metrics: Arc<Metrics>, mut start: F) -> Result<()>
where
    F: FnMut() -> Fut + Send,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let mut failures: Vec<Instant> = Vec::new();
    loop {
        let error = match tokio::spawn(start()).await {
            Ok(Ok(())) if stop.is_cancelled() => return Ok(()),
            Ok(Ok(())) => anyhow!("the {name} loop ended without being told to"),
            Ok(Err(error)) => error,
            Err(joined) if joined.is_panic() => anyhow!("the {name} loop panicked: this is a fault of kylo's own"),
            Err(_) => return Ok(()),
        };
        if stop.is_cancelled() {
            return Err(error);
        }
        metrics.restarted(name);
        failures.retain(|at| at.elapsed() < WINDOW);
        failures.push(Instant::now());
        if failures.len() > MOST_FAILURES {
            return Err(error.context(format!("the {name} loop failed {} times within {} minutes", failures.len(), WINDOW.as_secs() / 60)));
        }
        let pause = FIRST_PAUSE * 2_u32.pow(u32::try_from(failures.len() - 1).unwrap_or(0));
        tracing::error!(worker = name, error = format!("{error:#}"), pause_ms = pause.as_millis(), "a worker loop failed and is started again");
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_panics_once_is_started_again_and_counted() {
        let (starts, stop) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
        let metrics = Metrics::new(false).unwrap();
        let (counted, stopper) = (Arc::clone(&starts), stop.clone());
        let run = supervise("test", stop, Arc::clone(&metrics), move || {
            let (nth, stopper) = (counted.fetch_add(1, Ordering::SeqCst), stopper.clone());
            async move {
                assert!(nth > 0, "the first start panics");
                stopper.cancel();
                Ok(())
            }
        });
        run.await.unwrap();
        assert_eq!(starts.load(Ordering::SeqCst), 2);
        assert!(metrics.render().unwrap().contains("kylo_loop_restarts_total{loop=\"test\"} 1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_keeps_failing_ends_the_process_with_its_reason() {
        let result = supervise("test", CancellationToken::new(), Metrics::new(false).unwrap(), || async { Err(anyhow!("broken")) }).await;
        assert!(format!("{:#}", result.unwrap_err()).contains("broken"));
    }
}
