//! What every worker process has, whatever it works on: the control database, a heartbeat, gauges, health over HTTP, and a stop.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Workers, control, gauges, prune};
use crate::adapters::http::{Server, bind};
use crate::config::{ConfigError, Secret, Settings};
use crate::flow::routing::RoutingCache;
use crate::store::control::workers::{self, Heartbeat};
use crate::store::error::describe;
use crate::store::pools::{PATIENCE, PoolOptions, Pools, connect_options, within};
use crate::telemetry::health::{Check, HealthBoard, State};
use crate::telemetry::metrics::Metrics;

const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// After one that was not written.
const HEARTBEAT_AGAIN: Duration = Duration::from_secs(1);
const GAUGES_EVERY: Duration = Duration::from_secs(15);

/// Topic -> partitions assigned to this process, as the heartbeat tells them.
pub type Assigned = Arc<Mutex<BTreeMap<String, Vec<i32>>>>;

/// A running worker process. Loops take what they need from it, and end when [`Process::stop`] is cancelled.
#[derive(Debug)]
pub struct Process {
    pub settings: Arc<Settings>,
    pub id: Uuid,
    /// The databases, and who is where.
    pub sources: gauges::Sources,
    pub board: Arc<HealthBoard>,
    pub metrics: Arc<Metrics>,
    pub assigned: Assigned,
    /// Cancelled when the process is asked to stop, or a loop of it cannot go on.
    pub stop: CancellationToken,
    background: JoinSet<()>,
}

impl Process {
    /// Starts everything that is the same for all workers: HTTP first, so that probes are answered while the control database is waited for.
    /// `None`: it was asked to stop before that database answered.
    ///
    /// # Errors
    /// An explicit HTTP address that is taken; a DSN that is none; a wrong control schema.
    pub async fn start(settings: Settings, workers: Workers, stop_signal: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<Option<Self>> {
        let (settings, stop, board) = (Arc::new(settings), CancellationToken::new(), HealthBoard::new());
        let metrics = Metrics::new(settings.sheets.post)?;
        let mut background = JoinSet::new();
        background.spawn(watch(stop_signal, stop.clone()));
        board.set(control::CHECK, Check::failed("has not answered yet"));
        let deep = Arc::new(OnceLock::new());
        if let Some(port) = workers.http {
            let server = Server {
                board: Arc::clone(&board),
                metrics: Arc::clone(&metrics),
                deep: gauges::deep_probe(Arc::clone(&deep)),
                token: settings.http.token.clone(),
            };
            background.spawn(serve(settings.http.address(port), server, stop.clone()).await?);
        }
        let Some(control) = control::connect(&settings, &board, &stop).await? else { return Ok(None) };
        let options = PoolOptions { application_name: format!("kylo {}", workers.command), ..PoolOptions::default() };
        let sources = gauges::Sources { routing: RoutingCache::new(control.clone()), pools: Pools::new(options), control };
        // Set once, here.
        let _ = deep.set(sources.clone());
        let mut process = Self { settings, id: Uuid::new_v4(), sources, board, metrics, assigned: Assigned::default(), stop, background };
        process.beat(workers.command)?;
        process.warn_of_unknown_companies().await;
        process.gauge();
        process.background.spawn(prune::run(process.sources.clone(), process.stop.clone()));
        Ok(Some(process))
    }

    /// Done when the process was asked to stop.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// The end: takes the heartbeat away and closes connections, until `deadline` at most.
    pub async fn finish(mut self, deadline: tokio::time::Instant) {
        self.stop.cancel();
        let tidy = async {
            while self.background.join_next().await.is_some() {}
            if let Err(error) = workers::leave(&self.sources.control, self.id).await {
                tracing::debug!(error = describe(&error), "the heartbeat stays until it is pruned");
            }
            self.sources.pools.close().await;
            self.sources.control.close().await;
        };
        if tokio::time::timeout_at(deadline, tidy).await.is_err() {
            tracing::warn!(seconds = self.settings.drain.as_secs(), "not everything ended in time; nothing is lost");
        }
    }

    /// A misspelt id in the canary list would leave its company in shadow without a word.
    async fn warn_of_unknown_companies(&self) {
        let Ok(routes) = self.sources.routing.all().await else { return };
        for id in self.settings.sheets.canary.iter().filter(|id| !routes.keys().any(|known| known.as_str() == id.as_str())) {
            tracing::warn!(company = id.as_str(), "KYLO_SHEETS_POST_COMPANIES names a company that is not in control.company_config");
        }
    }

    /// Heartbeat, and with it: does the control database take writes, and was its DSN file changed? Beside it the watch over that database.
    fn beat(&mut self, command: &'static str) -> Result<(), ConfigError> {
        let secret = self.settings.control()?.clone();
        self.background.spawn(control::watch(secret.clone(), Arc::clone(&self.board), self.stop.clone()));
        let mut heartbeat = Heartbeat {
            worker_id: self.id,
            command: command.to_owned(),
            host: host(),
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            version: crate::telemetry::version(),
            mode: self.settings.sheets.mode().to_owned(),
            canary: self.settings.sheets.canary.clone(),
            partitions: serde_json::json!({}),
            trouble: None,
        };
        let (pool, board, assigned, stop) = (self.sources.control.clone(), Arc::clone(&self.board), Arc::clone(&self.assigned), self.stop.clone());
        self.background.spawn(async move {
            while !stop.is_cancelled() {
                heartbeat.partitions = serde_json::json!(*assigned.lock().unwrap_or_else(PoisonError::into_inner));
                heartbeat.trouble = trouble(&board);
                let beaten = within(PATIENCE, workers::beat(&pool, &heartbeat)).await;
                match &beaten {
                    Ok(()) => board.set(control::CHECK_WRITES, Check::ok("takes writes")),
                    Err(error) if error.as_database_error().is_some() => board.set(control::CHECK_WRITES, Check::failed(describe(error))),
                    // That it does not answer, the watch says.
                    Err(error) => tracing::debug!(error = describe(error), "the heartbeat was not written"),
                }
                board.tick("heartbeat", HEARTBEAT_EVERY * 6);
                // New connections use the password that the file has now.
                if let (Secret::File { .. }, Ok(dsn)) = (&secret, secret.current())
                    && let Ok(options) = connect_options(dsn.expose_secret(), &PoolOptions::default())
                {
                    pool.set_connect_options(options);
                }
                tokio::select! {
                    () = tokio::time::sleep(if beaten.is_ok() { HEARTBEAT_EVERY } else { HEARTBEAT_AGAIN }) => {}
                    () = stop.cancelled() => {}
                }
            }
        });
        Ok(())
    }

    fn gauge(&mut self) {
        let gauges = gauges::Gauges {
            sources: self.sources.clone(),
            metrics: Arc::clone(&self.metrics),
            board: Arc::clone(&self.board),
            settings: Arc::clone(&self.settings),
        };
        let stop = self.stop.clone();
        self.background.spawn(async move {
            while !stop.is_cancelled() {
                if let Err(error) = gauges.refresh().await {
                    tracing::debug!(error = describe(&error), "gauges keep their last values");
                }
                tokio::select! {
                    () = tokio::time::sleep(GAUGES_EVERY) => {}
                    () = stop.cancelled() => {}
                }
            }
        });
    }
}

/// Why the process is not ready, for `kylo status`, which cannot ask it.
fn trouble(board: &HealthBoard) -> Option<String> {
    let checks = board.ready().checks;
    let is_told = |name: &str| name != control::CHECK && name != control::CHECK_WRITES;
    let failed = checks.iter().filter(|(name, check)| check.status == State::Failed && is_told(name));
    let told: Vec<_> = failed.map(|(name, check)| format!("{name}: {}", check.detail)).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

async fn watch(signal: impl Future<Output = ()> + Send + 'static, stop: CancellationToken) {
    tokio::select! {
        () = signal => stop.cancel(),
        () = stop.cancelled() => {}
    }
}

/// Listens now, so that a taken address is an error of the start; the future serves.
async fn serve(
    (address, explicit): (SocketAddr, bool),
    server: Server,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let (listener, warning) = bind(address, explicit).await?;
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    tracing::info!(address = %listener.local_addr()?, "health and metrics are served over HTTP");
    Ok(async move {
        if let Err(error) = server.serve(listener, stop.cancelled_owned()).await {
            tracing::error!(%error, "the HTTP server ended");
        }
    })
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
