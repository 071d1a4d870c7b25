//! What must hold of batches on their way into Postgres.

use std::sync::Arc;

use kylo::faults::{CrashPoint, Faults};
use kylo::flow::ingest::{Ingest, IngestOptions, NoMetrics};
use kylo::flow::work::Handled;
use serde_json::json;

use crate::company_world::{World, row};
use crate::desk::eventually;

async fn one_company() -> World {
    World::new(&[("a", "app_a")]).await
}

/// Another process.
pub fn ingest(world: &World, faults: &Faults) -> Arc<Ingest> {
    let options = IngestOptions { control: world.control.clone(), pools: Arc::clone(&world.pools), metrics: Arc::new(NoMetrics) };
    Arc::new(Ingest::new(options).with_faults(faults.clone()))
}

pub async fn i1_a_batch_that_is_delivered_again_does_nothing() {
    let world = one_company().await;
    let rows = json!([row("t1", "-1.00", "X"), row("t2", "-2.00", "Y")]);
    assert_eq!(world.ingest("a", "b-1", 0, &rows).await, Handled::Applied);
    let books = "SELECT seq, (SELECT count(*) FROM outbox_events) AS events FROM company_state WHERE company_id = $1";
    let before = world.rows("a", books).await;
    assert_eq!(world.ingest("a", "b-1", 0, &rows).await, Handled::Duplicate);
    assert_eq!(world.rows("a", books).await, before);
}

pub async fn i1_a_crash_before_the_commit_leaves_neither_rows_nor_ledger() {
    let world = one_company().await;
    let faults = Faults::default();
    faults.arm(CrashPoint::IngestWritten);
    let work = world.batch("a", "b-1", 0, &json!([row("t1", "-1.00", "X")]));
    let (dying, first) = (ingest(&world, &faults), work.clone());
    let dying = tokio::spawn(async move { dying.apply(vec![first]).await });
    faults.hit().await;
    dying.abort();
    assert!(dying.await.unwrap_err().is_cancelled());
    let answers = ingest(&world, &Faults::default()).apply(vec![work]).await;
    assert!(matches!(answers.as_slice(), [Ok(Handled::Applied)]), "{answers:?}");
    assert_eq!(world.count("a", "SELECT count(*) FROM pending_txns WHERE status = 'open'").await, 1);
    world.assert_each_decided_once("a").await;
}

pub async fn i11_two_ingests_of_one_company_take_one_seq_after_the_other() {
    let world = one_company().await;
    world.sql("a", "INSERT INTO company_state (company_id) VALUES ('a')").await;
    world.ingest("a", "b-0", 0, &json!([row("t0", "-1.00", "X")])).await;
    let faults = Faults::default();
    faults.arm(CrashPoint::IngestOpened);
    let apply = |faults: &Faults, batch: &str, id: &str| {
        let (ingest, work) = (ingest(&world, faults), world.batch("a", batch, 0, &json!([row(id, "-1.00", "X")])));
        tokio::spawn(async move { ingest.apply(vec![work]).await })
    };
    let first = apply(&faults, "b-1", "t1");
    faults.hit().await;
    let second = apply(&Faults::default(), "b-2", "t2");
    eventually("the second to wait for the lock, or to be done", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        second.is_finished() || world.count("a", waits).await > 0
    })
    .await;
    faults.thaw();
    assert!(first.await.unwrap().iter().chain(&second.await.unwrap()).all(Result::is_ok));
    assert_eq!(
        world.rows("a", "SELECT batch_id AS a, seq AS b FROM ingest_batches WHERE company_id = $1 ORDER BY 1").await,
        ["b-0|1", "b-1|2", "b-2|3"]
    );
}

pub async fn i2_a_connection_goes_back_pointing_at_no_companys_schema() {
    let world = one_company().await;
    world.ingest("a", "b-1", 0, &json!([row("t1", "-1.00", "X")])).await;
    let pool = world.pools.pool(&world.route("a").dsn).unwrap();
    eventually("the connection to be back in its pool", async || pool.num_idle() > 0).await;
    let mut connection = pool.acquire().await.unwrap();
    let path: String = sqlx::query_scalar("SHOW search_path").fetch_one(&mut *connection).await.unwrap();
    assert_eq!(path, "pg_catalog");
}

pub async fn an_older_batch_never_overwrites_a_newer_one() {
    let world = one_company().await;
    world.ingest("a", "b-new", 5, &json!([row("t1", "-10.00", "X")])).await;
    world.ingest("a", "b-old", 1, &json!([row("t1", "-12.00", "X")])).await;
    assert_eq!(world.rows("a", "SELECT amount_cents FROM transactions WHERE company_id = $1").await, ["-1000"]);
}

pub async fn a_known_batch_whose_rows_have_changed_is_compared_again() {
    let world = one_company().await;
    for amount in ["-10.00", "-12.00", "-10.00"] {
        world.ingest("a", "b", 0, &json!([row("t1", amount, "X")])).await;
    }
    assert_eq!(world.rows("a", "SELECT amount_cents FROM transactions WHERE company_id = $1").await, ["-1000"], "on a tie the later arrival wins");
}

pub async fn i11_a_row_that_comes_after_its_rule_is_matched() {
    let world = one_company().await;
    world.ingest("a", "b-1", 0, &json!([row("t1", "-1.00", "OTHER")])).await;
    world.rule("a", "STARBUCKS", "OPEX", "COFFEE").await;
    world.ingest("a", "b-2", 0, &json!([row("t2", "-1.00", "STARBUCKS")])).await;
    assert_eq!(world.rows("a", "SELECT target_sheet FROM matched_txns WHERE company_id = $1").await, ["OPEX"]);
}

pub async fn i5_a_bad_row_is_a_dead_letter_and_its_neighbours_are_applied() {
    let world = one_company().await;
    world.ingest("a", "b-1", 0, &json!([row("t1", "-1.00", "X"), row("t2", "5-", "Y")])).await;
    assert_eq!(world.count("a", "SELECT count(*) FROM transactions").await, 1);
    assert_eq!(world.count("a", "SELECT count(*) FROM control.dead_letters WHERE kind = 'row' AND pointer = '/transactions/1'").await, 1);
}
