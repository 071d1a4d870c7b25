use std::time::{Duration, Instant};

use fake_sheets::Edit;
use serde_json::json;

use crate::support::{BOOK, TAB, World};

const ROWS: usize = 100_000;

fn cells(texts: &[&str]) -> serde_json::Value {
    let values: Vec<_> = texts.iter().map(|text| json!({"userEnteredValue": {"stringValue": text}})).collect();
    json!({ "values": values })
}

/// Generous bounds for an unoptimised build on a busy machine: quadratic behaviour would take hours.
#[tokio::test]
async fn a_tab_of_a_hundred_thousand_rows_is_written_read_and_edited_without_delay() {
    let world = World::start().await;
    let started = Instant::now();
    let rows: Vec<_> = (0..ROWS).map(|n| cells(&[&format!("key {n}"), "a", "b"])).collect();
    let append = json!({"appendCells": {"sheetId": TAB, "fields": "userEnteredValue", "rows": rows}});
    assert_eq!(world.batch(json!([append])).await.unwrap().status, 200);
    let path = format!("/v4/spreadsheets/{BOOK}/values/Data!A:A");
    let values = world.call("GET", &path, &serde_json::Value::Null).await.unwrap().json();
    assert_eq!(values["values"].as_array().unwrap().len(), ROWS);
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());

    let started = Instant::now();
    let inserts: Vec<_> = (0..500)
        .map(|n| json!({"insertDimension": {"range": {"sheetId": TAB, "dimension": "ROWS", "startIndex": n * 2 + 1, "endIndex": n * 2 + 2}}}))
        .collect();
    assert_eq!(world.batch(json!(inserts)).await.unwrap().status, 200);
    for n in 0..100 {
        let edit = Edit::SetCell { tab: TAB.into(), cell: format!("B{}", n + 1), typed: "typed".into() };
        world.model().edit(BOOK, &[edit]).unwrap();
    }
    let sort = Edit::SortRange { tab: TAB.into(), range: "A1:C100500".into(), by: "A".into(), descending: true };
    world.model().edit(BOOK, &[sort]).unwrap();
    assert_eq!(world.column()[0], "key 99999");
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}
