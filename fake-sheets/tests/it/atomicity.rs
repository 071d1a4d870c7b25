use fake_sheets::{Behaviour, Options};
use serde_json::json;

use crate::support::{BOOK, TAB, World, append, marker};

#[tokio::test]
async fn a_batch_with_one_invalid_request_changes_nothing_and_names_the_first() {
    let world = World::start().await;
    let before = world.model().snapshot(BOOK).unwrap();
    let requests = json!([
        append("x"),
        {"addSheet": {"properties": {"sheetId": 7, "title": "New"}}},
        marker(5, "m"),
        {"deleteSheet": {"sheetId": 999}},
        {"deleteSheet": {"sheetId": 998}},
    ]);
    let answer = world.batch(requests).await.unwrap();
    assert_eq!((answer.status, answer.message().as_str()), (400, "Invalid requests[3].deleteSheet: No sheet with id: 999"));
    assert!(world.column().is_empty());
    let book = world.model().book(BOOK).unwrap();
    assert!(book.metadata.is_empty() && book.sheets.len() == 1, "{before:?}");
}

#[tokio::test]
async fn a_marker_that_exists_refuses_the_whole_batch_and_says_nothing_else_than_400() {
    let world = World::start().await;
    let fenced = json!([append("row"), marker(1_263_000_001, "intent-1")]);
    assert_eq!(world.batch(fenced.clone()).await.unwrap().status, 200);
    let again = world.batch(fenced).await.unwrap();
    assert_eq!(again.status, 400);
    assert!(again.message().starts_with("Invalid requests[1].createDeveloperMetadata: Cannot add developer metadata with ID [1263000001]"));
    assert_eq!(world.column(), ["row"]);
}

#[tokio::test]
async fn of_batches_that_race_for_one_marker_exactly_one_lands() {
    let world = std::sync::Arc::new(World::start().await);
    let racers: Vec<_> = (0..8)
        .map(|n| {
            let world = std::sync::Arc::clone(&world);
            tokio::spawn(async move { world.batch(json!([append(&format!("row {n}")), marker(9, &n.to_string())])).await.unwrap().status })
        })
        .collect();
    let mut statuses = Vec::new();
    for racer in racers {
        statuses.push(racer.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400, 400, 400, 400, 400, 400, 400]);
    assert_eq!(world.column().len(), 1);
}

#[tokio::test]
async fn a_batch_names_a_tab_that_is_gone_and_is_refused_whole() {
    let world = World::start().await;
    let epoch = json!([{"addSheet": {"properties": {"sheetId": 55, "title": "epoch", "hidden": true}}}]);
    assert_eq!(world.batch(epoch).await.unwrap().status, 200);
    assert_eq!(world.batch(json!([{"deleteSheet": {"sheetId": 55}}])).await.unwrap().status, 200);
    let write = json!({"updateCells": {"start": {"sheetId": 55, "rowIndex": 0, "columnIndex": 0}, "rows": [], "fields": "userEnteredValue"}});
    let answer = world.batch(json!([append("x"), write])).await.unwrap();
    assert_eq!((answer.status, answer.message().as_str()), (400, "Invalid requests[1].updateCells: No grid with id: 55"));
    assert!(world.column().is_empty());
}

#[tokio::test]
async fn an_unknown_field_at_any_depth_refuses_the_batch() {
    let world = World::start().await;
    let typo = json!({"updateSheetProperties": {"properties": {"sheetId": TAB, "gridProperties": {"frozenRowCnt": 1}}, "fields": "*"}});
    let answer = world.batch(json!([append("x"), typo])).await.unwrap();
    assert_eq!(answer.status, 400);
    assert!(
        answer.message().contains("Unknown name \"frozenRowCnt\" at 'requests[1].update_sheet_properties.properties.grid_properties'"),
        "{}",
        answer.message()
    );
    assert!(world.column().is_empty());
}

#[tokio::test]
async fn the_answer_of_a_batch_shows_the_state_it_left_masked_and_ranged() {
    let world = World::start().await;
    let body = json!({"requests": [append("a"), append("b"), marker(3, "m")], "includeSpreadsheetInResponse": true,
                      "responseRanges": ["Data!A:A"], "responseIncludeGridData": true});
    let fields = "updatedSpreadsheet(developerMetadata.metadataId,sheets.data.rowData.values.userEnteredValue)";
    let answer = world.call("POST", &format!("/v4/spreadsheets/{BOOK}:batchUpdate?fields={fields}"), &body).await.unwrap();
    let cell = |text: &str| json!({"values": [{"userEnteredValue": {"stringValue": text}}]});
    assert_eq!(
        answer.json(),
        json!({"updatedSpreadsheet": {"developerMetadata": [{"metadataId": 3}], "sheets": [{"data": [{"rowData": [cell("a"), cell("b")]}]}]}})
    );
}

#[tokio::test]
async fn grid_data_comes_for_a_mask_that_selects_it_and_otherwise_only_if_asked_for() {
    let world = World::start().await;
    world.batch(json!([append("a")])).await.unwrap();
    for (query, data) in
        [("", false), ("?includeGridData=true", true), ("?fields=*", true), ("?fields=sheets", true), ("?fields=sheets.properties", false)]
    {
        let got = world.get(query).await.unwrap().json();
        assert_eq!(got["sheets"][0].get("data").is_some(), data, "{query}");
    }
}

#[tokio::test]
async fn the_cell_limit_is_a_setting_and_texts_of_refusals_can_change_their_language() {
    let behaviour = Behaviour { max_cells: 100, localized: true, ..Behaviour::default() };
    let world = World::with(Options { behaviour, ..Options::default() }).await;
    let grow = json!({"appendDimension": {"sheetId": TAB, "dimension": "ROWS", "length": 5}});
    let answer = world.batch(json!([grow])).await.unwrap();
    assert_eq!(answer.status, 400);
    assert!(answer.message().starts_with("Invalid requests[0].appendDimension: A solicita"), "{}", answer.message());
    assert!(world.model().calls(0).last().unwrap().error.as_ref().unwrap().contains("above the limit of 100 cells"));
}
