//! An audit beside running workers, and books that are not where they were.

use kylo::audit::report::Class;

use super::messages::{batch, row};
use super::world::{Mode, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_beside_running_workers_finds_nothing() {
    let mut world = World::with_partitions(2).await;
    world.add(&["720", "721"]).await;
    world.start(&Mode::Post);
    let mut all = Vec::new();
    for round in 0..6 {
        for company in ["720", "721"] {
            let messages: Vec<_> = (0..15)
                .map(|n| {
                    let rows = [row(&format!("t{n}"), &format!("{round}.00"), "AGAIN AND AGAIN"), row(&format!("u{round}-{n}"), "1.00", "ONCE")];
                    batch(company, &format!("b-{round}-{n}"), round, &rows)
                })
                .collect();
            all.extend(world.publish_all(&messages).await);
        }
        let report = world.audit().await;
        assert!(report.is_clean(), "round {round}: {}\n{}", report.summary(), super::judge::lines(&report));
    }
    world.consumed(&all).await;
    world.settled(&["720", "721"]).await;
    world.audit_is_clean("when all is drained").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_company_that_moved_to_another_schema_is_judged_in_both_and_a_lost_book_is_missed() {
    let mut world = World::with_partitions(1).await;
    world.add(&["730"]).await;
    world.start(&Mode::Shadow);
    let at = world.publish(&batch("730", "b-1", 0, &[row("t1", "-1.00", "BEFORE")])).await;
    world.consumed(&[at]).await;
    world.stop().await;
    let mut place = world.usual_place("730");
    place.schema = "app_730_new".to_owned();
    world.add_at(place).await;
    world.start(&Mode::Shadow);
    let mut all = Vec::new();
    for n in 2..5 {
        all.push(world.publish(&batch("730", &format!("b-{n}"), n, &[row(&format!("t{n}"), "-2.00", "AFTER")])).await);
    }
    world.consumed(&all).await;
    world.stop().await;
    let report = world.audit_is_clean("after the move").await;
    assert_eq!((report.books_recomputed, report.companies), (2, 1), "{}", report.summary());

    world.execute("730", "DROP SCHEMA app_730 CASCADE").await;
    world.audit_finds("the old book is gone", Class::Lost, "batch b-1").await;

    // What is older than the record of order is believed, and said.
    let first = "UPDATE ingest_batches SET applied_at = now() - interval '91 days'; DELETE FROM outbox_events WHERE payload ->> 'batch_id' = 'b-2'";
    world.execute("730", first).await;
    let report = world.audit().await;
    assert_eq!((report.books_partly, report.findings.len()), (1, 1), "{}", report.summary());
    assert!(report.taken_from_postgres.iter().any(|taken| taken.what == "decisions and their order"), "{:?}", report.taken_from_postgres);
    let swap = "UPDATE outbox_events e SET payload = jsonb_set(e.payload, '{seq}', o.payload -> 'seq') FROM outbox_events o
                WHERE e.event_type = 'batch.ingested' AND o.event_type = 'batch.ingested' AND e.seq <> o.seq";
    world.execute("730", swap).await;
    world.audit_finds("two batches change places in a record whose beginning is pruned", Class::Reordered, "batch at ").await;
    world.execute("730", swap).await;
    world.execute("730", "DELETE FROM pending_txns WHERE txn_uid = (SELECT txn_uid FROM pending_txns LIMIT 1)").await;
    world.audit_finds("a pending row is gone from a book that is believed", Class::Lost, "transactions").await;
    world.end().await;
}
