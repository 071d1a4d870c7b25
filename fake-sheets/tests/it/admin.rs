use serde_json::{Value, json};

use crate::support::{BOOK, World, append, exchange};

async fn ask(world: &World, method: &str, path: &str, body: Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = exchange(world.sheets.addr(), method, &format!("/_fake/{path}"), &[], body.as_bytes()).await.unwrap();
    assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    answer.json()
}

#[tokio::test]
async fn another_process_makes_shares_edits_and_reads_a_spreadsheet() {
    let world = World::start().await;
    let made =
        ask(&world, "POST", "spreadsheets", json!({"spreadsheetId": "chosen", "title": "T", "tabs": ["One", "Two"], "writers": ["a@b.c"]})).await;
    assert_eq!((made["spreadsheetId"].as_str(), made["tabs"][1]["title"].as_str()), (Some("chosen"), Some("Two")));
    let edits = json!({"edits": [{"edit": "setCell", "tab": "Two", "cell": "B2", "typed": "5"}, {"edit": "renameTab", "tab": "One", "to": "Uno"}]});
    ask(&world, "POST", "spreadsheets/chosen/edits", edits).await;
    let grid = ask(&world, "GET", "spreadsheets/chosen/grid?tab=two", Value::Null).await;
    assert_eq!((grid["cells"][1][1]["value"].as_i64(), grid["cells"][1][1]["kind"].as_str()), (Some(5), Some("number")));
    ask(&world, "POST", "spreadsheets/chosen/copy", json!({"spreadsheetId": "copied"})).await;
    let all = ask(&world, "GET", "spreadsheets", Value::Null).await;
    let ids: Vec<_> = all["spreadsheets"].as_array().unwrap().iter().map(|b| b["spreadsheetId"].clone()).collect();
    assert_eq!(ids, [json!(BOOK), json!("chosen"), json!("copied")]);
}

#[tokio::test]
async fn another_process_sets_faults_and_reads_the_call_log() {
    let world = World::start().await;
    ask(&world, "POST", "faults", json!({"on": "batchUpdate", "fault": "answer", "answer": "unavailable"})).await;
    assert_eq!(world.batch(json!([append("x")])).await.unwrap().status, 503);
    ask(&world, "POST", "faults", json!({"on": "batchUpdate", "fault": "hang", "hangMs": 1, "commit": {"when": "onRelease"}})).await;
    assert!(world.batch(json!([append("late")])).await.is_none());
    assert_eq!(ask(&world, "GET", "faults", Value::Null).await, json!({"faults": [], "waiting": 1}));
    assert_eq!(ask(&world, "POST", "release", Value::Null).await, json!({"statuses": [200]}));
    let log = ask(&world, "GET", "calls?op=batchUpdate&bodies=true", Value::Null).await;
    let seen: Vec<_> = log["calls"].as_array().unwrap().iter().map(|c| (c["status"].as_u64(), c["late"].as_bool())).collect();
    assert_eq!(seen, [(Some(503), Some(false)), (Some(0), Some(false)), (Some(200), Some(true))]);
    assert_eq!(log["calls"][0]["body"]["requests"][0], append("x"));
    assert_eq!(log["counts"]["writes"], 2);
    ask(&world, "DELETE", "calls", Value::Null).await;
    assert_eq!(ask(&world, "GET", "calls", Value::Null).await["calls"], json!([]));
}

#[tokio::test]
async fn a_wrong_edit_or_fault_is_named_and_a_foreign_page_is_refused() {
    let world = World::start().await;
    let edit = json!({"edits": [{"edit": "setCel", "tab": "Data"}]}).to_string();
    let answer = exchange(world.sheets.addr(), "POST", &format!("/_fake/spreadsheets/{BOOK}/edits"), &[], edit.as_bytes()).await.unwrap();
    assert!(answer.status == 400 && answer.message().contains("setCel"), "{}", answer.text());
    let fault = json!({"on": "batchUpdate", "fault": "dropBefore", "tmes": 3}).to_string();
    let answer = exchange(world.sheets.addr(), "POST", "/_fake/faults", &[], fault.as_bytes()).await.unwrap();
    assert!(answer.status == 400 && answer.message().contains("tmes"), "{}", answer.text());
    assert!(world.model().faults().is_empty());
    let foreign = [("origin", "http://evil.example")];
    assert_eq!(exchange(world.sheets.addr(), "GET", "/_fake/spreadsheets", &foreign, b"").await.unwrap().status, 403);
}

#[tokio::test]
async fn the_page_is_served_and_a_change_ends_its_wait() {
    let world = World::start().await;
    let page = exchange(world.sheets.addr(), "GET", "/", &[], b"").await.unwrap();
    assert!(page.status == 200 && page.text().contains("<title>fake-sheets</title>"));
    let now = ask(&world, "GET", "changes?after=999999", Value::Null).await["change"].as_u64().unwrap();
    let path = format!("changes?after={now}");
    let (waited, wrote) = tokio::join!(ask(&world, "GET", &path, Value::Null), world.batch(json!([append("x")])));
    assert_eq!(wrote.unwrap().status, 200);
    assert!(waited["change"].as_u64().unwrap() > now);
}
