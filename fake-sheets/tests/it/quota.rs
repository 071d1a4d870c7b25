use std::time::Duration;

use fake_sheets::{Limits, Options, Role};
use serde_json::{Value, json};

use crate::support::{BOOK, SCOPE, World, append, token};

#[tokio::test]
async fn the_write_after_the_limit_gets_429_until_a_minute_has_passed_on_the_clock() {
    let world = World::with(Options { quota: Limits { writes: Some(3), reads: Some(2) }, ..Options::default() }).await;
    world.model().clock().stop();
    for _ in 0..3 {
        assert_eq!(world.batch(json!([append("x")])).await.unwrap().status, 200);
    }
    let refused = world.batch(json!([append("x")])).await.unwrap();
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["details"][0]["metadata"]["quota_limit_value"], "3");
    assert!(!refused.head.to_lowercase().contains("retry-after"));
    assert_eq!(world.column().len(), 3, "a refused call changes nothing");
    assert_eq!(world.get("").await.unwrap().status, 200, "reads have a quota of their own");
    world.model().clock().advance(Duration::from_millis(59_999));
    assert_eq!(world.batch(json!([append("x")])).await.unwrap().status, 429);
    world.model().clock().advance(Duration::from_millis(1));
    assert_eq!(world.batch(json!([append("x")])).await.unwrap().status, 200);
    assert_eq!(world.model().counts().writes, 6);
    assert_eq!(world.model().counts().applied, 4);
}

#[tokio::test]
async fn each_account_has_its_own_minute() {
    let world = World::with(Options { quota: Limits { writes: Some(1), reads: None }, ..Options::default() }).await;
    let other = world.sheets.add_account("other@fake-sheets.iam.gserviceaccount.com").unwrap();
    world.model().share(BOOK, "other@fake-sheets.iam.gserviceaccount.com", Role::Writer).unwrap();
    let other = token(&world.sheets, &other, SCOPE).await;
    assert_eq!(world.batch(json!([append("x")])).await.unwrap().status, 200);
    assert_eq!(world.batch(json!([append("x")])).await.unwrap().status, 429);
    let path = format!("/v4/spreadsheets/{BOOK}:batchUpdate");
    assert_eq!(world.call_as(&other, "POST", &path, &json!({"requests": [append("y")]})).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_spreadsheet_opens_to_whom_it_is_shared_with_and_as_far_as_it_is() {
    let world = World::start().await;
    let email = "reader@fake-sheets.iam.gserviceaccount.com";
    let key = world.sheets.add_account(email).unwrap();
    let token = token(&world.sheets, &key, SCOPE).await;
    let (read, write) = (format!("/v4/spreadsheets/{BOOK}"), format!("/v4/spreadsheets/{BOOK}:batchUpdate"));
    let mut seen = Vec::new();
    for role in [None, Some(Role::Reader), Some(Role::Writer)] {
        if let Some(role) = role {
            world.model().share(BOOK, email, role).unwrap();
        }
        let got = world.call_as(&token, "GET", &read, &Value::Null).await.unwrap().status;
        let put = world.call_as(&token, "POST", &write, &json!({"requests": [append("x")]})).await.unwrap().status;
        seen.push((got, put));
    }
    assert_eq!(seen, [(403, 403), (200, 403), (200, 200)]);
    world.model().unshare(BOOK, email).unwrap();
    assert_eq!(world.call_as(&token, "GET", &read, &Value::Null).await.unwrap().status, 403);
    world.model().open_to_all(BOOK).unwrap();
    assert_eq!(world.call_as(&token, "GET", &read, &Value::Null).await.unwrap().status, 200);
}
