//! Once a day: old rows out of the control database and of every company schema, as docs/retention.md says.
//!
//! Started by every worker process; no leader is needed, because each statement is idempotent and small. What must never happen here: a prune
//! that holds up the workers or their stop, or one schema's fault that keeps the others from being pruned.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::gauges::Sources;
use crate::domain::company::Route;
use crate::store::company::prune as company;
use crate::store::control::prune as control;
use crate::store::error::describe;
use crate::store::pools::{PATIENCE, within};

const EVERY: Duration = Duration::from_secs(24 * 3600);
/// The first time is somewhere in this span after the start, so that processes started together do not prune together.
const FIRST_WITHIN_SECONDS: std::ops::Range<u64> = 300..3_600;
/// Rows of one statement.
const CHUNK: u64 = 2_000;
/// Statements for one table and day: what is left goes the next day.
const MOST_CHUNKS: usize = 500;

/// Prunes until `stop`; what is under way then is rolled back.
pub async fn run(sources: Sources, stop: CancellationToken) {
    let daily = async {
        tokio::time::sleep(Duration::from_secs(rand::random_range(FIRST_WITHIN_SECONDS))).await;
        loop {
            round(&sources).await;
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::select! {
        () = daily => {}
        () = stop.cancelled() => {}
    }
}

/// One day's work.
async fn round(sources: &Sources) {
    let (pool, limit) = (&sources.control, CHUNK.cast_signed());
    chunks("control.dead_letters", || control::dead_letters(pool, limit)).await;
    chunks("control.sheet_intents (typed cells)", || control::typed_cells(pool, limit)).await;
    chunks("control.sheet_intents", || control::intents(pool, limit)).await;
    chunks("control.sheet_posts", || control::posts(pool, limit)).await;
    chunks("control.outbox_events", || control::events(pool, limit)).await;
    let routes = match sources.routing.all().await {
        Ok(routes) => routes,
        Err(error) => return tracing::warn!(error = describe(&error), "company schemas are pruned tomorrow"),
    };
    // Several companies may share a schema.
    let schemas: BTreeMap<(&str, &str), &Arc<Route>> =
        routes.values().flatten().map(|route| ((route.dsn.expose(), route.schema.as_str()), route)).collect();
    for route in schemas.into_values() {
        chunks("outbox_events", || async {
            let mut tx = sources.pools.begin(&route.dsn, &route.schema).await?;
            let n = company::events(&mut tx, limit).await?;
            tx.commit().await.map(|()| n)
        })
        .await;
        chunks("rules_pending", || async {
            let mut tx = sources.pools.begin(&route.dsn, &route.schema).await?;
            let n = company::promoted_rules(&mut tx, limit).await?;
            tx.commit().await.map(|()| n)
        })
        .await;
    }
}

/// One table, until nothing old is left in it.
async fn chunks<Fut>(table: &'static str, step: impl Fn() -> Fut)
where
    Fut: Future<Output = Result<u64, sqlx::Error>>,
{
    let mut rows = 0;
    for _ in 0..MOST_CHUNKS {
        match within(PATIENCE, step()).await {
            Ok(n) => {
                rows += n;
                if n < CHUNK {
                    break;
                }
            }
            Err(error) => {
                tracing::warn!(table, error = describe(&error), "old rows could not be pruned; tried again tomorrow");
                break;
            }
        }
    }
    if rows > 0 {
        tracing::info!(table, rows, "old rows pruned");
    }
}
