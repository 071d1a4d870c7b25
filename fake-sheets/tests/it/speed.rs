use std::time::{Duration, Instant};

use fake_sheets::Edit;
use serde_json::{Value, json};

use crate::support::{BOOK, TAB, World, exchange};

const ROWS: usize = 100_000;
/// Generous for an unoptimised build on a busy machine: work that grows with the square of the rows would take hours.
const BOUND: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_tab_of_a_hundred_thousand_rows_is_written_read_and_edited_without_delay() {
    let world = World::start().await;
    let started = Instant::now();
    let cell = |text: &str| format!(r#"{{"userEnteredValue":{{"stringValue":"{text}"}}}}"#);
    let rows: Vec<String> = (0..ROWS).map(|n| format!(r#"{{"values":[{},{}]}}"#, cell(&format!("key {n}")), cell("a"))).collect();
    let body = format!(r#"{{"requests":[{{"appendCells":{{"sheetId":{TAB},"fields":"userEnteredValue","rows":[{}]}}}}]}}"#, rows.join(","));
    let bearer = format!("Bearer {}", world.token);
    let path = format!("/v4/spreadsheets/{BOOK}:batchUpdate");
    let answer = exchange(world.sheets.addr(), "POST", &path, &[("authorization", &bearer)], body.as_bytes()).await.unwrap();
    assert_eq!(answer.status, 200);
    let values = world.call("GET", &format!("/v4/spreadsheets/{BOOK}/values/Data!A:A"), &Value::Null).await.unwrap().json();
    assert_eq!(values["values"].as_array().unwrap().len(), ROWS);

    let span = |n: usize| json!({"sheetId": TAB, "dimension": "ROWS", "startIndex": n * 2 + 1, "endIndex": n * 2 + 2});
    let inserts: Vec<_> = (0..500).map(|n| json!({"insertDimension": {"range": span(n)}})).collect();
    assert_eq!(world.batch(json!(inserts)).await.unwrap().status, 200);
    for n in 0..20 {
        let edit = Edit::SetCell { tab: TAB.into(), cell: format!("B{}", n + 1), typed: "typed".into() };
        world.model().edit(BOOK, &[edit]).unwrap();
    }
    let sort = Edit::SortRange { tab: TAB.into(), range: format!("A1:C{}", ROWS + 500), by: "A".into(), descending: true };
    world.model().edit(BOOK, &[sort]).unwrap();
    let book = world.model().book(BOOK).unwrap();
    assert_eq!(book.sheet(TAB).unwrap().cell(0, 0).formatted(), "key 99999");
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
}
