//! Batches into Postgres: one transaction per company schema and call.
//!
//! Called by the consumer's lanes with decoded, routed batches of one database (several may be coalesced), and again with the same works after
//! they were stuck. Steps: dead letters of bad rows, then per schema one transaction ([`transaction`]): lock the companies, read ledger, rules
//! and present rows, fold in memory ([`fold`]), write each table by one statement. What Postgres rejects is split ([`settle`]).
//!
//! What must never happen here: an effect without its ledger entry or the other way round (I1), one company's rows under another's routing
//! (I2), a later batch of a company applied when an earlier one is stuck (I6), a row dropped without a dead letter (I5).

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::PgPool;

use crate::domain::company::Dsn;
use crate::faults::{Bug, CrashPoint, Faults, planted};
use crate::flow::work::{Handled, Stuck, TxnsWork};
use crate::store::control::dead_letters;
use crate::store::error::describe;
use crate::store::pools::Pools;

pub use counts::{Counts, IngestMetrics, NoMetrics};
pub use due::DueBell;

mod counts;
mod due;
mod fold;
pub(super) mod letters;
mod line;
pub(crate) mod problem;
mod rules_cache;
pub(crate) mod schemas;
mod settle;
mod transaction;

use rules_cache::RulesCache;
use schemas::Schemas;

use fold::Piece;

/// What ingest works with.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// The control database: dead letters, and the signal to the posters.
    pub control: PgPool,
    /// The company databases.
    pub pools: Arc<Pools>,
    /// Receives counts of committed rows and batches.
    pub metrics: Arc<dyn IngestMetrics>,
}

/// Applies batches. Cheap to share; calls for disjoint companies may run side by side.
#[derive(Debug)]
pub struct Ingest {
    control: PgPool,
    pools: Arc<Pools>,
    metrics: Arc<dyn IngestMetrics>,
    rules: RulesCache,
    schemas: Schemas,
    due: DueBell,
    faults: Faults,
}

impl Ingest {
    pub fn new(options: IngestOptions) -> Self {
        let IngestOptions { control, pools, metrics } = options;
        let due = DueBell::new(control.clone());
        Self { control, pools, metrics, rules: RulesCache::default(), schemas: Schemas::default(), due, faults: Faults::default() }
    }

    /// With faults of a test.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// Applies batches of one database; one result per work, in order. `Ok`: its effects, dead letters included, are durable. `Err`: nothing of
    /// it was written but perhaps dead letters of its bad rows (which the next try only counts), and nothing of a later work of that company.
    pub async fn apply(&self, works: Vec<TxnsWork>) -> Vec<Result<Handled, Stuck>> {
        let bad: Vec<_> = works.iter().flat_map(|work| work.bad.iter().map(|bad| letters::of_bad_row(work, bad))).collect();
        if !bad.is_empty() && !planted(Bug::BadRowDropped) {
            self.faults.reached(CrashPoint::RowLettersWriting).await;
            if let Err(error) = dead_letters::insert(&self.control, &bad).await {
                return works.iter().map(|_| Err(Stuck::Control(describe(&error)))).collect();
            }
            self.faults.reached(CrashPoint::RowLettersWritten).await;
        }
        let mut groups: BTreeMap<_, Vec<Piece<'_>>> = BTreeMap::new();
        for (index, work) in works.iter().enumerate() {
            groups.entry((work.route.dsn.clone(), work.route.schema.clone())).or_default().push(Piece::whole(index, work));
        }
        let mut results: Vec<Option<Result<Handled, Stuck>>> = works.iter().map(|_| None).collect();
        let mut down: BTreeMap<Dsn, String> = BTreeMap::new();
        for ((dsn, _), pieces) in groups {
            let settled = match down.get(&dsn) {
                Some(reason) => settle::all_down(&pieces, reason),
                None => self.settle(&pieces).await,
            };
            for (index, result) in settled.results {
                results[index] = Some(result);
            }
            if let Some(reason) = settled.down {
                down.insert(dsn, reason);
            }
        }
        let unsettled = || Err(Stuck::Control("the work was not settled: this is a fault of kylo's own".to_owned()));
        results.into_iter().map(|result| result.unwrap_or_else(unsettled)).collect()
    }
}
