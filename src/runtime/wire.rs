//! Glue: where the flow's ports meet the adapters, and where counts meet the metrics. No decisions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::future::BoxFuture;
use rand::Rng;
use sqlx::PgPool;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::adapters::kafka::client::KafkaSettings;
use crate::adapters::sheets::{GoogleSheets, KeyFile, SheetsOptions, endpoint};
use crate::config::{ConfigError, Settings};
use crate::domain::clock::Clock;
use crate::domain::company::Route;
use crate::domain::ids::CompanyId;
use crate::domain::tab::TabView;
use crate::faults::Faults;
use crate::flow::consume::{ConsumeMetrics, MessageOutcome, PromoteHandler, TxnsHandler};
use crate::flow::ingest::{Ingest, IngestMetrics};
use crate::flow::post::{PendingRead, PgPostStore, PostRound, Poster, PosterOptions, ReadError};
use crate::flow::promote::{PendingTabReader, Promote, TabUnread};
use crate::flow::routing::RoutingCache;
use crate::flow::work::{Handled, PromoteWork, Stuck, TxnsWork};
use crate::ports::{CallError, SheetGateway};
use crate::store::control::budget::Budget;
use crate::store::error::describe;
use crate::store::pools::Pools;
use crate::telemetry::metrics::Metrics;

/// The production gateway to Google Sheets.
///
/// # Errors
/// Configuration: key file or endpoint cannot be used.
pub fn gateway(settings: &Settings, control: &PgPool, metrics: &Arc<Metrics>) -> Result<Arc<dyn SheetGateway>> {
    let sheets = &settings.sheets;
    let unusable = |error: &dyn std::error::Error, hint: &str| ConfigError::one(error.to_string(), hint.to_owned());
    let key = KeyFile::open(sheets.key_file()?)
        .map_err(|error| unusable(&error, "set GOOGLE_APPLICATION_CREDENTIALS to the path of a service account's key file"))?;
    let endpoint =
        endpoint(&sheets.endpoint).map_err(|error| unusable(&error, "set KYLO_SHEETS_ENDPOINT to a base URL, or leave it out for Google"))?;
    let budget = Arc::new(Budget::new(control.clone(), key.client_email(), sheets.reads_per_minute, sheets.writes_per_minute));
    let counted = Arc::clone(metrics);
    let options = SheetsOptions::new(endpoint, key, budget, Arc::new(move |op, outcome| counted.sheets_call(op, outcome)));
    let gateway = GoogleSheets::new(options).map_err(|error| unusable(&error, "KYLO_SHEETS_POST=0 runs without Google"))?;
    Ok(Arc::new(gateway))
}

/// What a poster of this process is made of.
#[expect(missing_debug_implementations, reason = "a bag of arguments, one of which is a clock")]
pub struct PosterParts {
    pub control: PgPool,
    pub pools: Arc<Pools>,
    pub routing: Arc<RoutingCache>,
    pub gateway: Option<Arc<dyn SheetGateway>>,
    pub clock: Arc<dyn Clock>,
    pub holder: Uuid,
}

/// A poster with this configuration.
pub fn poster(settings: &Settings, parts: PosterParts) -> Arc<Poster> {
    let PosterParts { control, pools, routing, gateway, clock, holder } = parts;
    Arc::new(Poster::new(PosterOptions {
        store: PgPostStore::new(control, pools, routing),
        gateway,
        clock,
        environment: settings.environment.clone(),
        canary: canary(settings).iter().filter_map(|id| CompanyId::parse(id).ok()).collect(),
        sweep: settings.sheets.sweep.unwrap_or(Duration::ZERO),
        holder,
        ids: Arc::new(|| Uuid::from_u128(rand::rng().random())),
        wake: Arc::new(Notify::new()),
        faults: faults(),
    }))
}

/// Ids of the companies that post; empty = all.
pub fn canary(settings: &Settings) -> BTreeSet<String> {
    settings.sheets.canary.iter().cloned().collect()
}

/// Counts a pass of the poster.
pub fn count_round(metrics: &Metrics, round: &PostRound) {
    let counts = [
        ("confirmed", round.posted),
        ("nothing_to_do", round.unchanged),
        ("damaged", round.damaged),
        ("in_doubt", round.in_doubt),
        ("refused", round.refused),
        ("waiting", round.waiting),
        ("parked", round.parked),
    ];
    for (outcome, n) in counts.into_iter().filter(|(_, n)| *n > 0) {
        metrics.post(outcome, u64::try_from(n).unwrap_or(u64::MAX));
    }
}

impl TxnsHandler for Ingest {
    fn apply(&self, works: Vec<TxnsWork>) -> BoxFuture<'_, Vec<Result<Handled, Stuck>>> {
        Box::pin(Self::apply(self, works))
    }
}

impl PromoteHandler for Promote {
    fn apply<'a>(&'a self, work: &'a PromoteWork) -> BoxFuture<'a, Result<Handled, Stuck>> {
        Box::pin(Self::apply(self, work))
    }
}

impl PendingTabReader for Poster {
    fn read_pending<'a>(&'a self, route: &'a Route) -> BoxFuture<'a, Result<Option<TabView>, TabUnread>> {
        Box::pin(async move {
            let route = Arc::new(route.clone());
            match Self::read_pending(self, &route).await {
                Ok(PendingRead::Shadow | PendingRead::NoTab) => Ok(None),
                Ok(PendingRead::Tab(view)) => Ok(Some(view)),
                Err(error) => Err(unread(&route, error)),
            }
        })
    }
}

fn unread(route: &Route, error: ReadError) -> TabUnread {
    match error {
        ReadError::Parked { reason, .. } => TabUnread::Parked(reason),
        ReadError::Control(error) => TabUnread::Control(describe(&error)),
        ReadError::Call { source: source @ (CallError::Forbidden(_) | CallError::NotFound(_)), .. } => {
            TabUnread::Parked(format!("{source}: share spreadsheet {} with the service account as editor", route.spreadsheet))
        }
        ReadError::Call { source, .. } => TabUnread::Wait(format!("the Pending tab could not be read: {source}")),
    }
}

impl IngestMetrics for Metrics {
    fn rows(&self, outcome: &'static str, n: u64) {
        Self::rows(self, outcome, n);
    }

    fn batches(&self, outcome: &'static str, n: u64) {
        Self::batches(self, outcome, n);
    }
}

impl ConsumeMetrics for Metrics {
    fn messages(&self, topic: &str, outcome: MessageOutcome, n: u64) {
        Self::message(self, topic, outcome.as_str(), n);
    }

    fn tolerated(&self, topic: &str, what: &'static str, n: u64) {
        Self::tolerated(self, topic, what, n);
    }
}

/// How the consumers' clients are set.
///
/// # Errors
/// The password file cannot be read.
pub fn kafka(kafka: &crate::config::settings::Kafka) -> Result<KafkaSettings, ConfigError> {
    let settings = KafkaSettings::from_config(kafka)?;
    #[cfg(feature = "faults")]
    let settings = KafkaSettings { session_timeout: faults().session().unwrap_or(settings.session_timeout), ..settings };
    Ok(settings)
}

/// What is to go wrong in this process.
#[cfg(feature = "faults")]
pub fn faults() -> Faults {
    static OF_PROCESS: std::sync::OnceLock<Faults> = std::sync::OnceLock::new();
    OF_PROCESS.get_or_init(|| Faults::of_process(&crate::config::env::faults())).clone()
}

/// Nothing is made to go wrong.
#[cfg(not(feature = "faults"))]
pub fn faults() -> Faults {
    Faults
}
