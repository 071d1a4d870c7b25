//! The runbook's story, and what each of its steps promises.

use serde_json::json;

use super::messages::{batch, row};
use super::world::{Mode, World};

/// The three sample transactions, as the webhook's workflow publishes them: one message per company.
async fn publish_samples(world: &World) {
    let rows_710 = [row("t1", "-12.34", "STARBUCKS"), row("t2", "-8.00", "UBER TRIP")];
    let at =
        [world.publish(&batch("710", "b-1", 0, &rows_710)).await, world.publish(&batch("711", "b-1", 0, &[row("t3", "-99.95", "AWS EMEA")])).await];
    world.consumed(&at).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_the_runbooks_story_shadow_then_posting_then_the_same_again_then_promote() {
    let mut world = World::new().await;
    world.add(&["710", "711"]).await;

    world.start(&Mode::Shadow);
    publish_samples(&world).await;
    assert_eq!(world.number("710", "SELECT count(*) FROM pending_txns WHERE status = 'open'").await, 2);
    assert_eq!(world.number("711", "SELECT count(*) FROM pending_txns WHERE status = 'open'").await, 1);
    assert_eq!(world.model().calls(0).len(), 0, "I3: shadow mode made a call, be it for a token");
    for table in ["sheet_posts", "sheet_intents", "spreadsheets", "sheet_tabs"] {
        assert_eq!(world.control_number(&format!("SELECT count(*) FROM control.{table}")).await, 0, "I3: shadow mode left something in {table}");
    }

    world.restart(&Mode::Post).await;
    world.pending_shows("710", &["STARBUCKS", "UBER TRIP"]).await;
    world.pending_shows("711", &["AWS EMEA"]).await;
    world.settled(&["710", "711"]).await;
    assert_eq!(world.posts("710").await, ["710 Pending 2"]);
    assert_eq!(world.posts("711").await, ["711 Pending 1"]);
    let starbucks = world.pending_row("710", "STARBUCKS").unwrap();
    assert_eq!(starbucks.shown("Txn_UID"), "67e315f9-7fc3-5460-8e04-f020465bab6a");
    assert_eq!((starbucks.shown("Date"), starbucks.shown("Company_ID"), starbucks.shown("Approved")), ("2025-08-26", "710", "FALSE"));
    assert_eq!(starbucks.cells["Amount"].value, json!(-12.34));

    let (calls, tab) = (world.applied("710"), world.model().texts("sheet-710", "710 Pending"));
    publish_samples(&world).await;
    world.settled(&["710", "711"]).await;
    assert_eq!(world.applied("710"), calls, "the same payload again led to a write");
    assert_eq!(world.model().texts("sheet-710", "710 Pending"), tab);
    assert_eq!(world.posts("710").await, ["710 Pending 2"]);
    assert_eq!(world.number("710", "SELECT deliveries::bigint FROM ingest_batches").await, 2);

    world.approve("710", "STARBUCKS", "OPEX", "COFFEE");
    world.promote("710", "r-1").await;
    world.pending_shows("710", &["UBER TRIP"]).await;
    world.settled(&["710"]).await;
    let active = world.active("710");
    assert_eq!(active.len(), 1);
    let rule = &active[0];
    assert_eq!((rule.shown("Source"), rule.shown("Target_Sheet"), rule.shown("Target_Header")), ("STARBUCKS", "OPEX", "COFFEE"));
    assert_eq!(rule.shown("Ruleset_Version"), "1");
    assert_eq!(world.posts("710").await.len(), 3, "one ledger row per tab and post");
    assert_eq!(world.texts("710", "SELECT state || ' ' || target_sheet || ' ' || amount_cents FROM matched_txns").await, ["queued OPEX -1234"]);
    world.assert_decided_once("710").await;
    assert_eq!(world.posts("711").await, ["711 Pending 1"], "company 711 was not touched by 710's promotion");
    world.end_with_zero("in the end").await;
}
