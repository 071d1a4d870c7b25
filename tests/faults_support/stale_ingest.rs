//! Two processes with the same message: a batch, a promote request.

use std::time::Duration;

use kylo::faults::{CrashPoint, Faults};
use kylo::flow::work::Handled;
use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::company_world::{World, row};
use crate::of_ingest::ingest;
use crate::typed_tab::{TypedTab, promoter, request, view};

pub const INGEST: [CrashPoint; 5] =
    [CrashPoint::RowLettersWriting, CrashPoint::RowLettersWritten, CrashPoint::IngestOpened, CrashPoint::IngestWritten, CrashPoint::IngestCommitted];
pub const PROMOTE: [CrashPoint; 4] =
    [CrashPoint::PromoteTabRead, CrashPoint::PromoteOpened, CrashPoint::PromoteRecorded, CrashPoint::PromoteCommitted];

/// The company's schema and the letters, but for counts of deliveries and attempts, and for what a batch tells that is compared again with rows which have been
/// corrected since: that it has changed nothing.
async fn seen(world: &World) -> Vec<String> {
    let mut seen = Vec::new();
    let mut conn = world.conn("a").await;
    for sql in [
        "SELECT txn_uid, amount_cents, void, as_of, seq, content_seq, batch_signature FROM transactions",
        "SELECT txn_uid, status, answer, seq, resolved_seq, last_seen_batch FROM pending_txns",
        "SELECT txn_uid, target_sheet, revision, state, seq FROM matched_txns",
        "SELECT batch_signature, batch_id, as_of FROM ingest_batches",
        "SELECT source, target_sheet, ruleset_version FROM rules_active",
        "SELECT version FROM ruleset_versions",
        "SELECT request_key, version, outcome, seq FROM promote_requests",
        "SELECT source, target_sheet, answer, promoted_in FROM rules_pending",
        "SELECT event_id, payload FROM outbox_events WHERE event_type <> 'batch.ingested' OR 0 < (payload->>'new')::int + (payload->>'corrected')::int + (payload->>'voided')::int",
        "SELECT pending_seq, active_seq, changed_seq, ruleset_version FROM company_state",
        "SELECT pointer, class, state FROM control.dead_letters",
    ] {
        let sql = format!("SELECT to_jsonb(q)::text FROM ({sql}) q ORDER BY 1");
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut conn).await.unwrap();
        seen.extend(rows);
    }
    seen
}

/// What the server does to a session that is frozen in a transaction for a minute.
async fn the_server_gives_up_on_the_frozen(world: &World) {
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'";
    world.count("a", ended).await;
}

#[tokio::test]
async fn r3_an_ingest_that_was_frozen_at_any_stage_changes_nothing_when_it_wakes() {
    for point in INGEST {
        let world = World::new(&[("a", "app_a")]).await;
        world.ingest("a", "b-0", 0, &json!([row("t0", "-1.00", "BEFORE")])).await;
        let first = world.batch("a", "b-1", 1, &json!([row("t1", "-1.00", "X"), row("t2", "5-", "BAD"), row("t3", "-3.00", "Y")]));
        let second = world.batch(
            "a",
            "b-2",
            2,
            &json!([row("t1", "-1.50", "X"), {"id": "t3", "date": "2025-08-26", "amount": "-3.00", "description": "Y", "void": true}]),
        );
        let faults = Faults::default();
        faults.arm(point);
        let (stale, work) = (ingest(&world, &faults), first.clone());
        let running = {
            let stale = stale.clone();
            tokio::spawn(async move { stale.apply(vec![work]).await })
        };
        tokio::time::timeout(Duration::from_secs(120), faults.hit()).await.expect("the point is reached");
        the_server_gives_up_on_the_frozen(&world).await;
        let successor = ingest(&world, &Faults::default());
        for work in [&first, &second] {
            let answers = successor.apply(vec![work.clone()]).await;
            assert!(matches!(answers.as_slice(), [Ok(_)]), "{point:?}: {answers:?}");
        }
        let before = seen(&world).await;
        faults.thaw();
        let answers = running.await.unwrap();
        assert_eq!(seen(&world).await, before, "{point:?}: {answers:?}");
        // Its lane tries what could not be applied again, in order.
        let again = stale.apply(vec![first, second]).await;
        assert!(again.iter().all(|answer| matches!(answer, Ok(Handled::Duplicate))), "{point:?}: {again:?}");
        assert_eq!(seen(&world).await, before, "{point:?}: again");
        world.assert_each_decided_once("a").await;
    }
}

#[tokio::test]
async fn r3_a_promotion_that_was_frozen_at_any_stage_changes_nothing_when_it_wakes() {
    for point in PROMOTE {
        let world = World::new(&[("a", "app_a")]).await;
        world.ingest("a", "b-1", 0, &json!([row("t1", "-1.00", "STARBUCKS"), row("t2", "-2.00", "WALMART"), row("t3", "-3.00", "UBER")])).await;
        let tab = TypedTab::of(&world, "a", &[("STARBUCKS", "OPEX", "COFFEE"), ("WALMART", "HOME", "FOOD")]).await;
        let faults = Faults::default();
        faults.arm(point);
        let stale = std::sync::Arc::new(promoter(&world, &tab, faults.clone()));
        let running = {
            let (stale, request) = (stale.clone(), request(&world, "a", "r-1"));
            tokio::spawn(async move { stale.apply(&request).await })
        };
        tokio::time::timeout(Duration::from_secs(120), faults.hit()).await.expect("the point is reached");
        the_server_gives_up_on_the_frozen(&world).await;
        let successor = promoter(&world, &tab, Faults::default());
        successor.apply(&request(&world, "a", "r-1")).await.unwrap();
        // The person thinks again, and another request is made.
        *tab.0.lock().unwrap() = Ok(view(&world, "a", &[("UBER", "TRAVEL", "TAXI")]).await);
        successor.apply(&request(&world, "a", "r-2")).await.unwrap();
        world.ingest("a", "b-2", 1, &json!([row("t4", "-4.00", "STARBUCKS")])).await;
        let before = seen(&world).await;
        faults.thaw();
        let answer = running.await.unwrap();
        assert_eq!(seen(&world).await, before, "{point:?}: {answer:?}");
        let again = stale.apply(&request(&world, "a", "r-1")).await.unwrap();
        assert_eq!(again, Handled::Duplicate, "{point:?}");
        assert_eq!(seen(&world).await, before, "{point:?}: again");
    }
}
