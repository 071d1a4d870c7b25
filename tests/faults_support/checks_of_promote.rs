//! What must hold of approvals on their way to rules.

use kylo::faults::Faults;
use kylo::flow::promote::TabUnread;
use kylo::flow::work::{Handled, Stuck};
use serde_json::json;

use crate::company_world::{World, row};
use crate::typed_tab::{TypedTab, promoter, request};

async fn two_open_rows() -> World {
    let world = World::new(&[("a", "app_a")]).await;
    world.ingest("a", "b-1", 0, &json!([row("t1", "-1.00", "STARBUCKS"), row("t2", "-2.00", "WALMART")])).await;
    world
}

const BOTH: [(&str, &str, &str); 2] = [("STARBUCKS", "OPEX", "COFFEE"), ("WALMART", "HOME", "FOOD")];

pub async fn a_promote_request_is_applied_once() {
    let world = two_open_rows().await;
    let tab = TypedTab::of(&world, "a", &BOTH).await;
    let promote = promoter(&world, &tab, Faults::default());
    assert_eq!(promote.apply(&request(&world, "a", "r-1")).await.unwrap(), Handled::Applied);
    let events = world.count("a", "SELECT count(*) FROM outbox_events").await;
    assert_eq!(promote.apply(&request(&world, "a", "r-1")).await.unwrap(), Handled::Duplicate);
    assert_eq!(world.count("a", "SELECT count(*) FROM outbox_events").await, events);
}

pub async fn i7_i11_an_approval_counts_for_its_own_row_and_nothing_stays_open() {
    let world = two_open_rows().await;
    let tab = TypedTab::of(&world, "a", &BOTH).await;
    promoter(&world, &tab, Faults::default()).apply(&request(&world, "a", "r-1")).await.unwrap();
    let rules = "SELECT source AS a, target_sheet AS b, target_header AS c FROM rules_active WHERE company_id = $1 ORDER BY 1";
    assert_eq!(world.rows("a", rules).await, ["STARBUCKS|OPEX|COFFEE", "WALMART|HOME|FOOD"]);
    assert_eq!(world.count("a", "SELECT count(*) FROM pending_txns WHERE status = 'open'").await, 0);
    world.assert_each_decided_once("a").await;
}

pub async fn a_promotion_waits_while_the_tab_cannot_be_read() {
    let world = two_open_rows().await;
    let tab = TypedTab::of(&world, "a", &BOTH).await;
    *tab.0.lock().unwrap() = Err(TabUnread::Wait("503".to_owned()));
    let waits = promoter(&world, &tab, Faults::default()).apply(&request(&world, "a", "r-1")).await;
    assert!(matches!(waits, Err(Stuck::Down { .. })), "{waits:?}");
    assert_eq!(world.count("a", "SELECT count(*) FROM promote_requests").await, 0);
}
