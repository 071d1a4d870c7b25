//! Answers in Google's shapes, zero and empty fields left out as Google does.

use serde_json::json;

use super::*;

fn spreadsheet(sheets: &serde_json::Value) -> SpreadsheetWire {
    serde_json::from_value(json!({
        "spreadsheetId": "S", "properties": {"title": "Books"}, "sheets": sheets,
        "developerMetadata": [{"metadataId": 9, "metadataKey": "k", "metadataValue": "v", "location": {"locationType": "SPREADSHEET"}}, {"metadataId": 10, "metadataKey": "e"}]
    }))
    .unwrap()
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn the_first_tab_has_id_0_although_google_leaves_zeros_out() {
    let wire = spreadsheet(&json!([
        {"properties": {"title": "First", "gridProperties": {"rowCount": 1000, "columnCount": 26}}},
        {"properties": {"sheetId": 7, "title": "_kylo", "hidden": true, "gridProperties": {"rowCount": 3, "columnCount": 2, "frozenRowCount": 1}}}
    ]));
    let observed = wire.observed(None);
    assert_eq!(observed.title, "Books");
    let seen: Vec<_> =
        observed.tabs.iter().map(|tab| (tab.sheet_id, tab.title.as_str(), tab.hidden, tab.row_count, tab.column_count, tab.frozen_rows)).collect();
    assert_eq!(seen, [(0, "First", false, 1000, 26, 0), (7, "_kylo", true, 3, 2, 1)]);
    let entry = |id, key: &str, value: &str| MetadataEntry { id, key: key.to_owned(), value: value.to_owned() };
    assert_eq!(observed.metadata, [entry(9, "k", "v"), entry(10, "e", "")]);
}

#[test]
fn every_kind_of_cell_is_told_apart() {
    let wire = spreadsheet(&json!([{"properties": {"title": "T"}, "data": [{"rowData": [
        {"values": [{"userEnteredValue": {"stringValue": "=1"}}, {}, {"userEnteredValue": {"numberValue": 0}}, {"userEnteredValue": {"boolValue": false}}]},
        {},
        {"values": [{"userEnteredValue": {"formulaValue": "=1"}}, {"userEnteredValue": {"errorValue": {"type": "N_A", "message": "no"}}}, {"userEnteredValue": {}}]}
    ]}]}]));
    let tabs = wire.observed(Some(&["T".to_owned()])).tabs;
    assert_eq!(
        tabs[0].rows,
        [
            vec![text("=1"), Value::Empty, Value::Number(0.0), Value::Bool(false)],
            vec![],
            vec![Value::Formula("=1".to_owned()), Value::Error("no".to_owned()), Value::Empty]
        ]
    );
}

#[test]
fn a_block_is_put_where_it_says_it_starts() {
    let wire = spreadsheet(&json!([{"properties": {"title": "T"}, "data": [
        {"startRow": 1, "startColumn": 2, "rowData": [{"values": [{"userEnteredValue": {"stringValue": "c2"}}]}]},
        {"rowData": [{"values": [{"userEnteredValue": {"stringValue": "a1"}}]}]}
    ]}]));
    let tabs = wire.observed(Some(&["T".to_owned()])).tabs;
    assert_eq!(tabs[0].rows, [vec![text("a1")], vec![Value::Empty, Value::Empty, text("c2")]]);
}

#[test]
fn a_tab_that_was_not_asked_for_does_not_pass_for_an_empty_one() {
    let sheets = json!([{"properties": {"sheetId": 1, "title": "T"}, "data": [{}]}, {"properties": {"sheetId": 2, "title": "Other"}}, {"properties": {"sheetId": 3, "title": "Bare"}}]);
    let tabs = spreadsheet(&sheets).observed(Some(&["T".to_owned(), "Bare".to_owned()])).tabs;
    assert_eq!(tabs.iter().map(|tab| tab.sheet_id).collect::<Vec<_>>(), [1, 3]);
    let batch: BatchWire = serde_json::from_value(json!({"spreadsheetId": "S", "replies": [{}], "updatedSpreadsheet": {"sheets": sheets}})).unwrap();
    assert_eq!(batch.applied(&[EchoRange { title: "T".to_owned(), columns: 0 }]).tabs.into_keys().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_batch_without_echo_shows_no_tab() {
    let batch: BatchWire = serde_json::from_value(json!({"spreadsheetId": "S"})).unwrap();
    assert_eq!(batch.applied(&[]), Applied::default());
}

#[test]
fn a_cell_takes_no_more_memory_than_its_value() {
    assert_eq!(size_of::<Cell>(), size_of::<Value>());
    assert!(size_of::<Value>() <= 32, "a tab of 100,000 rows is held in memory twice: {} bytes a cell", size_of::<Value>());
}
