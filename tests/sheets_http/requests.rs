//! What each request does to a spreadsheet, and that what comes back is what is there.

use fake_sheets::Edit;
use kylo::domain::company::SpreadsheetId;
use kylo::domain::sheet::{Applied, CellWrite, MetadataEntry, Request, Value};
use kylo::ports::{CallError, SheetGateway};
use serde_json::json;

use crate::world::{BOOK, World, fence, kind, new_tab, seen, text, write};

#[tokio::test]
async fn a_batch_that_makes_a_tab_echoes_what_it_holds_afterwards() {
    let world = World::start().await;
    let rows = vec![
        vec![text("Txn_UID"), text("Amount"), text("Approved"), text("Status")],
        vec![text("u1"), CellWrite::Money(12.5), CellWrite::Checkbox(false), CellWrite::Empty],
        vec![text("u2"), CellWrite::Money(-0.07), CellWrite::Checkbox(true), text("fine")],
    ];
    let applied =
        world.apply(vec![fence(1_263_000_001, "v"), new_tab(710, "710 Pending"), write(710, 0, rows)], &[("710 Pending", 4)]).await.unwrap();
    let tab = &applied.tabs[&710];
    assert_eq!((tab.title.as_str(), tab.row_count, tab.column_count, tab.frozen_rows, tab.hidden), ("710 Pending", 20, 10, 1, false));
    assert_eq!(tab.rows[0], [seen("Txn_UID"), seen("Amount"), seen("Approved"), seen("Status")]);
    assert_eq!(tab.rows[1][..3], [seen("u1"), Value::Number(12.5), Value::Bool(false)]);
    assert_eq!(tab.rows[2], [seen("u2"), Value::Number(-0.07), Value::Bool(true), seen("fine")]);
    assert_eq!(applied.tabs.len(), 1, "only what was asked for");
    let read = world.read(&["710 Pending"]).await.unwrap();
    assert_eq!(read.tabs.len(), 1);
    assert_eq!(read.tabs[0], *tab, "a read shows the same");
    assert_eq!(read.metadata, [MetadataEntry { id: 1_263_000_001, key: "kylo.fence".to_owned(), value: "v".to_owned() }]);
}

#[tokio::test]
async fn an_echo_is_limited_to_the_columns_asked_for() {
    let world = World::start().await;
    let batch = vec![new_tab(7, "T"), write(7, 0, vec![vec![text("a"), text("b"), text("c")]])];
    let applied = world.apply(batch, &[("T", 2)]).await.unwrap();
    assert_eq!(applied.tabs[&7].rows, [vec![seen("a"), seen("b")]]);
    assert_eq!(world.apply(vec![write(7, 1, vec![vec![text("d")]])], &[]).await.unwrap(), Applied::default());
}

#[tokio::test]
async fn every_kind_of_layout_request_does_what_it_says() {
    let world = World::start().await;
    let header = vec![vec![text("a"), text("b"), text("c")], vec![text("1")], vec![text("2")], vec![text("3")]];
    world.apply(vec![new_tab(7, "T"), new_tab(8, "Doomed"), fence(5, "x"), write(7, 0, header)], &[]).await.unwrap();
    let batch = vec![
        Request::StyleHeader { sheet_id: 7, columns: 3 },
        Request::HideColumn { sheet_id: 7, column: 0 },
        Request::ColumnWidth { sheet_id: 7, column: 1, pixels: 222 },
        Request::AppendColumns { sheet_id: 7, count: 3 },
        Request::InsertRows { sheet_id: 7, start: 2, count: 2, inherit_from_before: true },
        Request::DeleteRows { sheet_id: 7, start: 1, count: 1 },
        Request::InsertRows { sheet_id: 7, start: 21, count: 1, inherit_from_before: true },
        Request::FreezeRows { sheet_id: 7, rows: 2 },
        Request::WarnOnEdit { sheet_id: 7, rows: Some(1), description: "head".to_owned() },
        Request::WarnOnEdit { sheet_id: 8, rows: None, description: "all".to_owned() },
        Request::RenameSheet { sheet_id: 7, title: "Renamed".to_owned() },
        Request::DeleteSheet { sheet_id: 8 },
        Request::DeleteMetadata { id: 5 },
        Request::DeleteMetadata { id: 6 },
    ];
    let applied = world.apply(batch, &[("Renamed", 3)]).await.unwrap();
    assert_eq!(applied.tabs[&7].rows[0], [seen("a"), seen("b"), seen("c")]);
    let empty = |row: &Vec<Value>| row.iter().all(|value| *value == Value::Empty);
    assert!(empty(&applied.tabs[&7].rows[1]) && empty(&applied.tabs[&7].rows[2]), "two rows came in, the one above them went");
    assert_eq!(applied.tabs[&7].rows[3][0], seen("2"));
    let view = world.model().tab(BOOK, "Renamed").unwrap();
    assert_eq!((view.row_count, view.column_count, view.frozen_rows), (22, 13, 2));
    assert_eq!((view.hidden_columns, view.widths.contains(&(1, 222))), (vec![0], true));
    let look = view.cells[0][2].format.clone().unwrap();
    assert_eq!((&look["textFormat"]["bold"], &look["wrapStrategy"]), (&json!(true), &json!("WRAP")));
    let book = world.model().book(BOOK).unwrap();
    let protections = &book.sheet(7).unwrap().protections;
    assert!(protections.len() == 1 && protections[0].warns, "{protections:?}");
    let directory = world.gateway.directory(&world.book).await.unwrap();
    assert_eq!(directory.tabs.iter().map(|tab| tab.title.as_str()).collect::<Vec<_>>(), ["First", "Renamed"]);
    assert!(directory.metadata.is_empty());
}

#[tokio::test]
async fn a_hidden_tab_is_made_hidden_and_seen_to_be() {
    let world = World::start().await;
    let tab = Request::AddSheet { sheet_id: 9, title: "_kylo".to_owned(), rows: 5, columns: 2, frozen_rows: 0, hidden: true, tab_color: None };
    world.apply(vec![tab, write(9, 0, vec![vec![text("environment"), text("default")]])], &[]).await.unwrap();
    let directory = world.gateway.directory(&world.book).await.unwrap();
    assert_eq!(directory.title, "Books");
    let tabs: Vec<_> = directory.tabs.iter().map(|tab| (tab.sheet_id, tab.title.as_str(), tab.hidden, tab.rows.len())).collect();
    assert_eq!(tabs, [(0, "First", false, 0), (9, "_kylo", true, 0)], "all tabs, the first has id 0, no cells");
}

#[tokio::test]
async fn text_that_looks_like_a_formula_stays_text_and_a_persons_formula_is_seen_as_one() {
    let world = World::start().await;
    let texts =
        ["=1+1", "=HYPERLINK(\"http://x\")", "+1", "-1", "@SUM(A1)", "007", "1e3", "TRUE", "2026-01-31", "'x", "a\nb\tc", "ünï 🦀", "\u{202e}x"];
    let row: Vec<_> = texts.map(text).to_vec();
    world.apply(vec![write(0, 0, vec![row])], &[]).await.unwrap();
    world.model().edit(BOOK, &[Edit::SetCell { tab: "First".into(), cell: "A2".to_owned(), typed: "=A1".to_owned() }]).unwrap();
    let tabs = world.read(&["First"]).await.unwrap().tabs;
    assert_eq!(tabs[0].rows[0], texts.map(seen).to_vec());
    assert_eq!(tabs[0].rows[1], [Value::Formula("=A1".to_owned())]);
    assert!(world.model().tab(BOOK, "First").unwrap().cells[0].iter().all(|cell| cell.kind == "text"));
}

#[tokio::test]
async fn a_write_changes_no_format_and_no_checkbox_that_it_does_not_speak_of() {
    let world = World::start().await;
    let range = |column: u32| json!({"sheetId": 0, "startRowIndex": 0, "endRowIndex": 1, "startColumnIndex": column, "endColumnIndex": column + 1});
    let format = json!({"userEnteredFormat": {"numberFormat": {"type": "PERCENT", "pattern": "0%"}, "textFormat": {"italic": true}}, "note": "mine"});
    let checkbox = json!({"dataValidation": {"condition": {"type": "BOOLEAN"}}});
    let repeat = |column, cell: &serde_json::Value, fields: &str| json!({"repeatCell": {"range": range(column), "cell": cell, "fields": fields}});
    let requests = vec![
        repeat(0, &format, "userEnteredFormat,note"),
        repeat(1, &format, "userEnteredFormat,note"),
        repeat(2, &checkbox, "dataValidation"),
        repeat(3, &checkbox, "dataValidation"),
        repeat(4, &format, "userEnteredFormat,note"),
    ];
    world.model().edit(BOOK, &[Edit::Requests { requests }]).unwrap();
    let row = vec![text("t"), CellWrite::Empty, text("t"), CellWrite::Money(1.5), CellWrite::Money(2.5), CellWrite::Checkbox(true)];
    world.apply(vec![write(0, 0, vec![row])], &[]).await.unwrap();
    let cells = &world.model().tab(BOOK, "First").unwrap().cells[0];
    for column in [0, 1] {
        assert_eq!(cells[column].format.as_ref().unwrap()["numberFormat"]["type"], "PERCENT", "column {column}");
        assert_eq!(cells[column].note.as_deref(), Some("mine"));
    }
    assert!(cells[2].checkbox && cells[3].checkbox && cells[5].checkbox, "a checkbox is removed by nobody but who set it");
    let money = cells[4].format.as_ref().unwrap();
    assert_eq!((&money["numberFormat"]["pattern"], &money["textFormat"]["italic"]), (&json!("#,##0.00"), &json!(true)));
}

#[tokio::test]
async fn titles_of_any_spelling_are_made_read_and_echoed() {
    let titles = [
        "It's",
        "''",
        "a#b",
        "a?b&c=d",
        "100%",
        "%41",
        "Ünï 🦀",
        "A1",
        "R1C1",
        "2026",
        "x!y",
        "a/b:c",
        "plus+sign",
        "comma, semi;",
        "{curly}",
        "TRUE",
        "New'Tab'!A1",
        "\"double\"",
        "back\\slash",
    ];
    let world = World::start().await;
    let mut batch = Vec::new();
    for (id, title) in (100..).zip(titles) {
        batch.extend([new_tab(id, title), write(id, 0, vec![vec![text(title)]])]);
    }
    let echo: Vec<_> = titles.iter().map(|title| (*title, 1)).collect();
    let applied = world.apply(batch, &echo).await.unwrap();
    let read = world.read(&titles).await.unwrap();
    assert_eq!((applied.tabs.len(), read.tabs.len()), (titles.len(), titles.len()));
    for tab in read.tabs.iter().chain(applied.tabs.values()) {
        assert_eq!(tab.rows, [vec![seen(&tab.title)]]);
    }
}

#[tokio::test]
async fn reading_a_tab_that_is_not_there_is_refused_and_reading_none_shows_no_cells() {
    let world = World::start().await;
    world.apply(vec![write(0, 0, vec![vec![text("secret")]])], &[]).await.unwrap();
    assert_eq!(kind(&world.read(&["First", "Gone"]).await), "refused");
    let none = world.read(&[]).await.unwrap();
    assert!(none.tabs.iter().all(|tab| tab.rows.is_empty()), "{none:?}");
}

#[tokio::test]
async fn a_metadata_entry_is_found_by_id_and_a_missing_spreadsheet_is_not_a_missing_entry() {
    let world = World::start().await;
    world.apply(vec![fence(41, "mine"), new_tab(7, "T")], &[]).await.unwrap();
    let on_a_tab = json!({"metadataId": 42, "metadataKey": "k", "metadataValue": "w", "visibility": "DOCUMENT", "location": {"sheetId": 7}});
    world.model().edit(BOOK, &[Edit::AddMetadata { metadata: on_a_tab }]).unwrap();
    let entry = |id, key: &str, value: &str| Some(MetadataEntry { id, key: key.to_owned(), value: value.to_owned() });
    assert_eq!(world.gateway.metadata(&world.book, 41).await, Ok(entry(41, "kylo.fence", "mine")));
    assert_eq!(world.gateway.metadata(&world.book, 42).await, Ok(entry(42, "k", "w")), "wherever it is attached");
    assert_eq!(world.gateway.metadata(&world.book, 43).await, Ok(None));
    let gone = SpreadsheetId::parse("no-such-spreadsheet").unwrap();
    assert_eq!(kind(&world.gateway.metadata(&gone, 41).await), "not_found");
    assert_eq!(kind(&world.gateway.directory(&gone).await), "not_found");
}

#[tokio::test]
async fn a_fence_that_exists_refuses_the_whole_batch() {
    let world = World::start().await;
    world.apply(vec![fence(41, "first")], &[]).await.unwrap();
    let second = world.apply(vec![write(0, 0, vec![vec![text("late")]]), fence(41, "second")], &[]).await;
    assert_eq!(kind(&second), "refused");
    assert!(world.model().texts(BOOK, "First").is_empty());
    assert_eq!(world.gateway.metadata(&world.book, 41).await.unwrap().unwrap().value, "first");
    assert_eq!(kind(&world.apply(vec![write(12_345, 0, vec![vec![text("x")]])], &[]).await), "refused", "a sheetId that is gone");
}

#[tokio::test]
async fn what_google_would_clear_silently_is_refused_without_a_call() {
    let world = World::start().await;
    let result = world.apply(vec![write(0, 0, vec![vec![CellWrite::Money(f64::NAN)]])], &[]).await;
    assert!(matches!(&result, Err(CallError::Refused(reason)) if reason.contains("finite")), "{result:?}");
    assert!(world.api_calls().is_empty());
}

#[tokio::test]
async fn a_cell_of_49_000_units_and_thousands_of_rows_go_there_and_back() {
    let world = World::start().await;
    let long = "🦀".repeat(24_500);
    let rows: Vec<_> = (0..3000).map(|row| vec![text(&format!("uid-{row}")), CellWrite::Money(f64::from(row) / 100.0), text(&long[..8])]).collect();
    let grow = Request::InsertRows { sheet_id: 0, start: 1000, count: 2001, inherit_from_before: true };
    let applied = world.apply(vec![grow, write(0, 0, vec![vec![text(&long)]]), write(0, 1, rows)], &[("First", 2)]).await.unwrap();
    assert_eq!(applied.tabs[&0].rows.len(), 3001);
    let tabs = world.read(&["First"]).await.unwrap().tabs;
    assert_eq!(tabs[0].rows[0], [seen(&long)]);
    assert_eq!(tabs[0].rows[3000], [seen("uid-2999"), Value::Number(29.99), seen("🦀🦀")]);
    assert_eq!(world.model().counts().writes, 1);
}
