//! The exact JSON of every kind of request.

use serde_json::json;

use super::*;
use crate::domain::sheet::CellWrite;

fn all(batch: &[Request]) -> Vec<Json> {
    requests(batch).unwrap().iter().map(|raw| serde_json::from_str(raw.get()).unwrap()).collect()
}

fn sent(request: Request) -> Json {
    let mut all = all(&[request]);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn text(text: &str) -> CellWrite {
    CellWrite::Text(text.to_owned())
}

#[test]
fn metadata_is_created_on_the_spreadsheet_for_everyone_and_deleted_by_id() {
    let create = sent(Request::CreateMetadata { id: 1_263_000_001, key: "kylo.fence".to_owned(), value: "v".to_owned() });
    assert_eq!(
        create,
        json!({"createDeveloperMetadata": {"developerMetadata": {
            "metadataId": 1_263_000_001, "metadataKey": "kylo.fence", "metadataValue": "v", "visibility": "DOCUMENT", "location": {"spreadsheet": true}}}})
    );
    let delete = sent(Request::DeleteMetadata { id: 7 });
    assert_eq!(delete, json!({"deleteDeveloperMetadata": {"dataFilter": {"developerMetadataLookup": {"metadataId": 7}}}}));
}

fn new_tab(sheet_id: i32, frozen_rows: u32, hidden: bool, tab_color: Option<[f32; 3]>) -> Json {
    sent(Request::AddSheet { sheet_id, title: "710 Pending".to_owned(), rows: 100, columns: 10, frozen_rows, hidden, tab_color })
}

#[test]
fn a_new_tab_has_its_id_grid_and_look() {
    assert_eq!(
        new_tab(42, 1, true, Some([0.5, 0.25, 0.0])),
        json!({"addSheet": {"properties": {"sheetId": 42, "title": "710 Pending", "hidden": true,
            "gridProperties": {"rowCount": 100, "columnCount": 10, "frozenRowCount": 1},
            "tabColorStyle": {"rgbColor": {"red": 0.5, "green": 0.25, "blue": 0.0}}}}})
    );
    let plain = json!({"addSheet": {"properties": {"sheetId": 42, "title": "710 Pending", "gridProperties": {"rowCount": 100, "columnCount": 10}}}});
    assert_eq!(new_tab(42, 0, false, None), plain);
}

#[test]
fn a_new_tab_never_asks_for_id_0() {
    assert!(new_tab(0, 0, false, None).pointer("/addSheet/properties/sheetId").is_none());
}

#[test]
fn tabs_rows_and_columns_are_named_by_sheet_id_also_when_it_is_0() {
    let cases = [
        (Request::DeleteSheet { sheet_id: 0 }, json!({"deleteSheet": {"sheetId": 0}})),
        (
            Request::RenameSheet { sheet_id: 5, title: "neu".to_owned() },
            json!({"updateSheetProperties": {"properties": {"sheetId": 5, "title": "neu"}, "fields": "title"}}),
        ),
        (
            Request::FreezeRows { sheet_id: 5, rows: 1 },
            json!({"updateSheetProperties": {"properties": {"sheetId": 5, "gridProperties": {"frozenRowCount": 1}}, "fields": "gridProperties.frozenRowCount"}}),
        ),
        (
            Request::InsertRows { sheet_id: 5, start: 3, count: 2, inherit_from_before: true },
            json!({"insertDimension": {"range": {"sheetId": 5, "dimension": "ROWS", "startIndex": 3, "endIndex": 5}, "inheritFromBefore": true}}),
        ),
        (
            Request::DeleteRows { sheet_id: 5, start: 0, count: 1 },
            json!({"deleteDimension": {"range": {"sheetId": 5, "dimension": "ROWS", "startIndex": 0, "endIndex": 1}}}),
        ),
        (Request::AppendColumns { sheet_id: 5, count: 3 }, json!({"appendDimension": {"sheetId": 5, "dimension": "COLUMNS", "length": 3}})),
        (
            Request::HideColumn { sheet_id: 5, column: 0 },
            json!({"updateDimensionProperties": {"range": {"sheetId": 5, "dimension": "COLUMNS", "startIndex": 0, "endIndex": 1},
                "properties": {"hiddenByUser": true}, "fields": "hiddenByUser"}}),
        ),
        (
            Request::ColumnWidth { sheet_id: 5, column: 2, pixels: 180 },
            json!({"updateDimensionProperties": {"range": {"sheetId": 5, "dimension": "COLUMNS", "startIndex": 2, "endIndex": 3},
                "properties": {"pixelSize": 180}, "fields": "pixelSize"}}),
        ),
        (
            Request::WarnOnEdit { sheet_id: 5, rows: Some(1), description: "d".to_owned() },
            json!({"addProtectedRange": {"protectedRange": {"range": {"sheetId": 5, "startRowIndex": 0, "endRowIndex": 1}, "description": "d", "warningOnly": true}}}),
        ),
        (
            Request::WarnOnEdit { sheet_id: 5, rows: None, description: "d".to_owned() },
            json!({"addProtectedRange": {"protectedRange": {"range": {"sheetId": 5}, "description": "d", "warningOnly": true}}}),
        ),
    ];
    for (request, expected) in cases {
        assert_eq!(sent(request), expected);
    }
}

#[test]
fn the_header_look_touches_row_0_and_only_the_fields_it_sets() {
    let style = sent(Request::StyleHeader { sheet_id: 5, columns: 10 });
    let repeat = &style["repeatCell"];
    assert_eq!(repeat["range"], json!({"sheetId": 5, "startRowIndex": 0, "endRowIndex": 1, "startColumnIndex": 0, "endColumnIndex": 10}));
    let fields = repeat["fields"].as_str().unwrap();
    assert!(
        fields.contains("userEnteredFormat.textFormat.bold") && !fields.contains("userEnteredValue") && !fields.contains("numberFormat"),
        "{fields}"
    );
    assert_eq!(repeat["cell"]["userEnteredFormat"]["textFormat"]["bold"], json!(true));
}

fn write(cells: Vec<Vec<CellWrite>>) -> Vec<Json> {
    all(&[Request::WriteCells { sheet_id: 5, row: 10, column: 2, cells }])
}

#[test]
fn text_is_sent_as_text_whatever_it_looks_like() {
    let cells = ["=1+1", "+1", "007", "2026-01-31", "TRUE", "", "'quoted"].map(text).to_vec();
    let sent = write(vec![cells]);
    assert_eq!(sent.len(), 1);
    let values = sent[0]["updateCells"]["rows"][0]["values"].as_array().unwrap();
    assert_eq!(values[0], json!({"userEnteredValue": {"stringValue": "=1+1"}}));
    assert!(values.iter().all(|value| value["userEnteredValue"]["stringValue"].is_string()), "{values:?}");
    assert!(!sent[0].to_string().contains("formulaValue"));
}

#[test]
fn an_empty_cell_keeps_its_place_and_is_cleared() {
    let sent = write(vec![vec![text("a"), CellWrite::Empty, text("b")], vec![]]);
    assert_eq!(
        sent,
        [json!({"updateCells": {"start": {"sheetId": 5, "rowIndex": 10, "columnIndex": 2}, "fields": "userEnteredValue",
            "rows": [{"values": [{"userEnteredValue": {"stringValue": "a"}}, {}, {"userEnteredValue": {"stringValue": "b"}}]}]}})]
    );
}

#[test]
fn each_request_masks_only_what_all_its_cells_carry() {
    let row = |amount, ticked| vec![text("k"), text("d"), CellWrite::Money(amount), text("s"), CellWrite::Checkbox(ticked), text("")];
    let sent = write(vec![row(12.5, false), row(-0.01, true), row(1e15, false)]);
    let masks: Vec<_> = sent.iter().map(|request| request["updateCells"]["fields"].as_str().unwrap()).collect();
    assert_eq!(
        masks,
        [
            "userEnteredValue",
            "userEnteredValue,userEnteredFormat.numberFormat",
            "userEnteredValue",
            "userEnteredValue,dataValidation",
            "userEnteredValue"
        ]
    );
    let starts: Vec<_> = sent.iter().map(|request| request["updateCells"]["start"]["columnIndex"].as_u64().unwrap()).collect();
    assert_eq!(starts, [2, 4, 5, 6, 7]);
    assert!(sent.iter().all(|request| request["updateCells"]["rows"].as_array().unwrap().len() == 3), "like rows travel together");
    assert_eq!(
        sent[1]["updateCells"]["rows"][1]["values"][0],
        json!({"userEnteredValue": {"numberValue": -0.01}, "userEnteredFormat": {"numberFormat": {"type": "NUMBER", "pattern": "#,##0.00"}}})
    );
    assert_eq!(
        sent[3]["updateCells"]["rows"][1]["values"][0],
        json!({"userEnteredValue": {"boolValue": true}, "dataValidation": {"condition": {"type": "BOOLEAN"}, "strict": true, "showCustomUi": true}})
    );
}

#[test]
fn a_long_table_is_cut_into_requests_that_follow_each_other() {
    let sent = write((0..601).map(|row| vec![text(&row.to_string())]).collect());
    let places: Vec<_> = sent.iter().map(|request| request["updateCells"]["start"]["rowIndex"].as_u64().unwrap()).collect();
    assert_eq!(places, [10, 260, 510]);
    let rows: Vec<_> = sent.iter().flat_map(|request| request["updateCells"]["rows"].as_array().unwrap()).collect();
    assert_eq!(rows.len(), 601);
    assert_eq!(rows[600]["values"][0]["userEnteredValue"]["stringValue"], "600");
}

#[test]
fn rows_of_another_make_up_are_sent_apart_at_their_own_place() {
    let sent = write(vec![vec![CellWrite::Money(1.0)], vec![text("99999999999999999.99")], vec![CellWrite::Money(2.0)]]);
    let places: Vec<_> = sent
        .iter()
        .map(|request| (request["updateCells"]["start"]["rowIndex"].as_u64().unwrap(), request["updateCells"]["fields"].clone()))
        .collect();
    assert_eq!(
        places,
        [
            (10, json!("userEnteredValue,userEnteredFormat.numberFormat")),
            (11, json!("userEnteredValue")),
            (12, json!("userEnteredValue,userEnteredFormat.numberFormat"))
        ]
    );
}

#[test]
fn what_cannot_be_expressed_is_refused_before_it_is_sent() {
    let cell = |cell| Request::WriteCells { sheet_id: 1, row: 0, column: 0, cells: vec![vec![cell]] };
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(requests(&[cell(CellWrite::Money(number))]).unwrap_err().contains("finite"));
    }
    assert!(requests(&[Request::DeleteRows { sheet_id: 1, start: u32::MAX, count: 1 }]).is_err());
    assert!(requests(&[Request::WriteCells { sheet_id: 1, row: u32::MAX, column: 0, cells: vec![vec![text("x")]] }]).is_err());
    assert!(requests(&[Request::FreezeRows { sheet_id: 1, rows: 3_000_000_000 }]).is_err());
}
