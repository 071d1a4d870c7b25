use fake_sheets::{Edit, Fault, FaultKind, Tab};
use serde_json::json;

use crate::support::{BOOK, TAB, World, append, marker};

fn typed(cell: &str, text: &str) -> Edit {
    Edit::SetCell { tab: "Data".into(), cell: cell.into(), typed: text.into() }
}

fn grid(world: &World) -> Vec<Vec<String>> {
    world.model().texts(BOOK, "Data")
}

fn fill(world: &World, rows: &[[&str; 3]]) {
    let edits: Vec<Edit> = rows
        .iter()
        .enumerate()
        .flat_map(|(r, row)| row.iter().enumerate().map(move |(c, text)| typed(&format!("{}{}", ["A", "B", "C"][c], r + 1), text)))
        .collect();
    world.model().edit(BOOK, &edits).unwrap();
}

#[tokio::test]
async fn people_edit_between_a_clients_read_and_its_write() {
    let world = World::start().await;
    fill(&world, &[["k", "v", ""], ["1", "one", ""], ["2", "two", ""]]);
    let insert = Edit::InsertRows { tab: "Data".into(), at: 1, count: 1 };
    world.model().push_fault(Fault::once("batchUpdate", FaultKind::Edit { edits: vec![insert, typed("A2", "new")] }));
    assert_eq!(world.get("?fields=sheets.properties").await.unwrap().status, 200);
    assert_eq!(grid(&world).len(), 3, "the read does not trigger it");
    let write = json!({"updateCells": {"start": {"sheetId": TAB, "rowIndex": 1, "columnIndex": 2}, "fields": "userEnteredValue",
                                       "rows": [{"values": [{"userEnteredValue": {"stringValue": "meant for 1"}}]}]}});
    assert_eq!(world.batch(json!([write])).await.unwrap().status, 200);
    assert_eq!(grid(&world)[1], ["new", "", "meant for 1"], "the write met the moved row");
    assert_eq!(grid(&world)[2], ["1", "one"]);
}

#[tokio::test]
async fn a_sort_of_some_columns_leaves_the_others_and_a_sort_of_all_takes_them_along() {
    let world = World::start().await;
    fill(&world, &[["k3", "c", "x"], ["k1", "a", "y"], ["k2", "b", "z"]]);
    let sort = |range: &str, by: &str| Edit::SortRange { tab: "Data".into(), range: range.into(), by: by.into(), descending: false };
    world.model().edit(BOOK, &[sort("B1:C3", "B")]).unwrap();
    assert_eq!(grid(&world), [["k3", "a", "y"], ["k1", "b", "z"], ["k2", "c", "x"]]);
    world.model().edit(BOOK, &[sort("A1:C3", "A")]).unwrap();
    assert_eq!(grid(&world), [["k1", "b", "z"], ["k2", "c", "x"], ["k3", "a", "y"]]);
}

#[tokio::test]
async fn tabs_and_rows_are_changed_as_people_change_them() {
    let world = World::start().await;
    fill(&world, &[["a", "1", ""], ["b", "2", ""], ["c", "3", ""]]);
    let tab = || Tab::from("data");
    let edits = [
        Edit::CopyRow { tab: tab(), at: 0, to: 2 },
        Edit::DeleteRows { tab: tab(), at: 1, count: 1 },
        Edit::MoveRows { tab: tab(), at: 2, count: 1, to: 0 },
        Edit::RenameTab { tab: tab(), to: "Renamed".into() },
        Edit::AddTab { title: "Other".into() },
        Edit::HideTab { tab: "Other".into(), show: false },
        Edit::HideColumns { tab: TAB.into(), at: 0, count: 1, show: false },
        Edit::ClearRange { tab: TAB.into(), range: "B1".into() },
        Edit::AddMetadata { metadata: json!({"metadataId": 5, "metadataKey": "k", "visibility": "DOCUMENT", "location": {"spreadsheet": true}}) },
    ];
    world.model().edit(BOOK, &edits).unwrap();
    let view = world.model().tab(BOOK, "Renamed").unwrap();
    assert_eq!(view.texts(), [vec!["c".to_owned()], vec!["a".into(), "1".into()], vec!["a".into(), "1".into()]]);
    assert_eq!((view.sheet_id, view.hidden_columns), (TAB, vec![0]));
    assert!(world.model().tab(BOOK, "Other").unwrap().hidden);
    world.model().edit(BOOK, &[Edit::DeleteTab { tab: "Other".into() }, Edit::DeleteMetadata { id: 5 }]).unwrap();
    let book = world.model().book(BOOK).unwrap();
    assert_eq!((book.sheets.len(), book.metadata.len()), (1, 0));
}

#[tokio::test]
async fn edits_are_all_done_or_none() {
    let world = World::start().await;
    let error = world.model().edit(BOOK, &[typed("A1", "x"), Edit::DeleteTab { tab: "Nowhere".into() }]).unwrap_err();
    assert!(error.message.contains("Nowhere"), "{}", error.message);
    assert!(grid(&world).is_empty());
}

#[tokio::test]
async fn typing_reads_text_as_a_person_means_it_and_emptying_a_checkbox_unticks_it() {
    let world = World::start().await;
    let rule = json!({"setDataValidation": {"range": {"sheetId": TAB, "startColumnIndex": 1, "endColumnIndex": 2},
                                            "rule": {"condition": {"type": "BOOLEAN"}}}});
    world.model().edit(BOOK, &[Edit::Requests { requests: vec![rule] }]).unwrap();
    world.model().edit(BOOK, &[typed("A1", "'=1"), typed("A2", "=1"), typed("B1", "TRUE"), typed("B2", "")]).unwrap();
    let tab = world.model().tab(BOOK, "Data").unwrap();
    let kinds: Vec<_> = tab.cells[..2].iter().map(|row| (row[0].kind, row[1].kind, row[1].value.clone())).collect();
    assert_eq!(kinds, [("text", "bool", json!(true)), ("formula", "bool", json!(false))]);
    assert!(tab.cells[0][1].checkbox);
}

#[tokio::test]
async fn a_restored_version_has_the_old_cells_and_the_old_markers() {
    let world = World::start().await;
    world.batch(json!([append("one"), marker(1, "g1")])).await.unwrap();
    let old = world.model().snapshot(BOOK).unwrap();
    world.model().name_snapshot(BOOK, "monday").unwrap();
    world.batch(json!([append("two"), marker(2, "g2")])).await.unwrap();
    world.model().restore(BOOK, &old).unwrap();
    assert_eq!(world.column(), ["one"]);
    world.batch(json!([append("three"), marker(2, "again")])).await.unwrap();
    world.model().edit(BOOK, &[Edit::Restore { snapshot: "monday".into() }]).unwrap();
    assert_eq!(world.column(), ["one"]);
    assert_eq!(world.model().book(BOOK).unwrap().metadata.keys().copied().collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_copy_carries_cells_and_markers_and_is_shared_with_nobody() {
    let world = World::start().await;
    world.batch(json!([append("one"), marker(1, "g1")])).await.unwrap();
    let copy = world.model().copy_spreadsheet(BOOK, Some("copy-1")).unwrap();
    assert_eq!(world.model().texts(&copy, "Data"), [["one"]]);
    assert_eq!(world.model().book(&copy).unwrap().metadata.len(), 1);
    let answer = world.call("GET", "/v4/spreadsheets/copy-1", &serde_json::Value::Null).await.unwrap();
    assert_eq!(answer.status, 403);
}
