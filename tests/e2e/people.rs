//! What people do in the tabs, before a post and in the middle of one, seen through the production client.

use std::collections::BTreeMap;

use fake_sheets::{Edit, Fault, FaultKind, Tab};
use serde_json::{Value, json};

use super::messages::{batch, row};
use super::sheets::Row;
use super::world::{Mode, World};

const THREE: [&str; 3] = ["ALPHA", "BRAVO", "CHARLIE"];

/// One company for each thing that people do, with three rows on its tab.
async fn three_rows_each(companies: &[&str]) -> World {
    let mut world = World::new().await;
    world.add(companies).await;
    let rows: Vec<Value> = THREE.iter().enumerate().map(|(n, source)| row(source, &format!("-{}.00", n + 1), source)).collect();
    let messages: Vec<Value> = companies.iter().map(|company| batch(company, "b-1", 0, &rows)).collect();
    let at = world.publish_all(&messages).await;
    world.start(&Mode::Post);
    world.consumed(&at).await;
    for company in companies {
        world.pending_shows(company, &THREE).await;
    }
    world.settled(companies).await;
    world
}

async fn one_more_row(world: &World, companies: &[&str], source: &str) {
    let messages: Vec<Value> = companies.iter().map(|company| batch(company, &format!("b-{source}"), 1, &[row(source, "-4.00", source)])).collect();
    let at = world.publish_all(&messages).await;
    world.consumed(&at).await;
    world.settled(companies).await;
}

fn tab(world: &World, company: &str) -> Tab {
    Tab::from(world.place(company).pending.as_str())
}

/// Sorts the rows under the header by Source, from Z to A.
fn sort(world: &World, company: &str, from_column: &str) -> Edit {
    Edit::SortRange { tab: tab(world, company), range: format!("{from_column}2:J4"), by: "C".to_owned(), descending: true }
}

fn by_source(rows: Vec<Row>) -> BTreeMap<String, Row> {
    rows.into_iter().map(|row| (row.shown("Source").to_owned(), row)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_people_sort_rename_insert_delete_and_edit_and_the_next_post_keeps_what_they_typed_and_puts_back_the_rest() {
    let companies = ["sorted", "sortedwithoutkey", "renamed", "deleted", "edited", "inserted"];
    let world = three_rows_each(&companies).await;
    for company in companies {
        world.type_in(company, "ALPHA", "Target_Sheet", "OPEX");
        world.type_in(company, "ALPHA", "Match_Notes", "seen by me");
    }
    world.type_in("sortedwithoutkey", "ALPHA", "Target_Header", "COFFEE");
    world.type_in("sortedwithoutkey", "ALPHA", "Approved", "TRUE");
    one_more_row(&world, &["deleted"], "DELTA").await;

    world.edit("sorted", &[sort(&world, "sorted", "A")]);
    world.edit("sortedwithoutkey", &[sort(&world, "sortedwithoutkey", "B")]);
    world.edit("renamed", &[Edit::RenameTab { tab: tab(&world, "renamed"), to: "Waiting list".to_owned() }]);
    let alpha = world.pending_row("deleted", "ALPHA").unwrap().at;
    world.edit("deleted", &[Edit::DeleteRows { tab: tab(&world, "deleted"), at: alpha, count: 1 }]);
    world.type_in("edited", "CHARLIE", "Amount", "999");
    world.type_in("edited", "BRAVO", "Source", "HACKED");
    world.edit("inserted", &[Edit::InsertRows { tab: tab(&world, "inserted"), at: 2, count: 2 }]);
    world.edit("inserted", &[Edit::SetCell { tab: tab(&world, "inserted"), cell: "H3".to_owned(), typed: "a note of my own".to_owned() }]);
    one_more_row(&world, &companies, "ECHO").await;

    assert_eq!(world.sources("sorted"), ["CHARLIE", "BRAVO", "ALPHA", "ECHO"], "the order people give is never undone, new rows follow");
    let kept = world.pending_row("sorted", "ALPHA").unwrap();
    assert_eq!((kept.shown("Target_Sheet"), kept.shown("Match_Notes"), kept.shown("Status")), ("OPEX", "seen by me", ""));

    let rows = by_source(world.pending("sortedwithoutkey"));
    assert!(rows.values().all(|row| row.shown("Approved") == "FALSE"), "an approval that moved to another key does not count");
    let moved = &rows["CHARLIE"];
    assert_eq!((moved.shown("Target_Sheet"), moved.shown("Target_Header")), ("OPEX", "COFFEE"), "typed cells stay where people put them");
    assert!(moved.shown("Status").starts_with("changed:"), "{:?}", moved.shown("Status"));

    let renamed = by_source(world.tab("sheet-renamed", "Waiting list"));
    assert_eq!(renamed.len(), 4, "a renamed tab is still the tab");
    assert!(world.model().tab("sheet-renamed", "renamed Pending").is_none(), "no second tab is made");
    assert_eq!(renamed["ALPHA"].shown("Target_Sheet"), "OPEX");

    let back = world.pending_row("deleted", "ALPHA").unwrap();
    assert_eq!((back.shown("Target_Sheet"), back.shown("Match_Notes"), back.shown("Approved")), ("OPEX", "seen by me", "FALSE"));

    let edited = by_source(world.pending("edited"));
    assert_eq!(edited["CHARLIE"].cells["Amount"].value, -3.0);
    assert!(edited["CHARLIE"].shown("Status").starts_with("changed: Amount"), "{:?}", edited["CHARLIE"].shown("Status"));
    assert!(edited["BRAVO"].shown("Status").starts_with("changed: Source"), "{:?}", edited["BRAVO"].shown("Status"));

    let inserted = world.pending("inserted");
    let note = inserted.iter().find(|row| row.shown("Match_Notes") == "a note of my own").expect("rows without key are left alone");
    assert_eq!(note.shown("Txn_UID"), "");
    for company in ["sorted", "sortedwithoutkey", "deleted", "edited"] {
        world.assert_tab_equals_postgres(company).await;
    }
    // A promotion after all that applies nothing that was not approved.
    world.promote("sortedwithoutkey", "r-1").await;
    world.promoted("sortedwithoutkey", "r-1").await;
    assert_eq!(world.number("sortedwithoutkey", "SELECT count(*) FROM rules_active").await, 0);
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_people_sort_rename_insert_delete_and_edit_between_our_read_and_our_write_and_the_tab_heals() {
    let companies = ["sorted", "renamed", "deleted", "edited", "inserted", "typed"];
    let world = three_rows_each(&companies).await;
    let cell = |company: &str, source: &str, header: &str| world.cell(company, world.pending_row(company, source).unwrap().at, header);
    let set = |company: &str, source: &str, header: &str, text: &str| Edit::SetCell {
        tab: tab(&world, company),
        cell: cell(company, source, header),
        typed: text.to_owned(),
    };
    let edits = [
        ("sorted", vec![set("sorted", "ALPHA", "Target_Sheet", "OPEX"), sort(&world, "sorted", "A")]),
        ("renamed", vec![Edit::RenameTab { tab: tab(&world, "renamed"), to: "Waiting list".to_owned() }]),
        ("deleted", vec![Edit::DeleteRows { tab: tab(&world, "deleted"), at: 1, count: 1 }]),
        ("edited", vec![set("edited", "BRAVO", "Source", "HACKED")]),
        ("inserted", vec![Edit::InsertRows { tab: tab(&world, "inserted"), at: 1, count: 2 }]),
        ("typed", vec![set("typed", "CHARLIE", "Target_Header", "RENT")]),
    ];
    for (company, edits) in edits {
        let spreadsheet = &world.place(company).spreadsheet;
        world.model().push_fault(Fault::once("batchUpdate", FaultKind::Edit { edits }).for_spreadsheet(spreadsheet));
    }
    one_more_row(&world, &companies, "DELTA").await;
    world
        .eventually(
            "every edit happened",
            async || if world.model().faults().is_empty() { Ok(()) } else { Err(format!("{:?}", world.model().faults())) },
        )
        .await;
    for company in ["sorted", "deleted", "inserted", "typed"] {
        world.pending_shows(company, &["ALPHA", "BRAVO", "CHARLIE", "DELTA"]).await;
    }
    // What nobody can see in an answer, a machine cell edited in that moment, is put back by the next post.
    one_more_row(&world, &companies, "ECHO").await;
    for company in ["sorted", "deleted", "edited", "inserted", "typed"] {
        world.assert_tab_equals_postgres(company).await;
    }
    assert_eq!(world.sources("sorted")[..3], ["CHARLIE", "BRAVO", "ALPHA"]);
    assert_eq!(world.pending_row("sorted", "ALPHA").unwrap().shown("Target_Sheet"), "OPEX");
    assert_eq!(world.pending_row("typed", "CHARLIE").unwrap().shown("Target_Header"), "RENT");
    assert_eq!(world.tab("sheet-renamed", "Waiting list").len(), 5);
    assert!(world.model().tab("sheet-renamed", "renamed Pending").is_none());
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_text_that_looks_like_a_formula_or_is_sixty_thousand_characters_long_is_shown_as_text_and_can_be_promoted() {
    let mut world = World::new().await;
    world.add(&["710"]).await;
    world.start(&Mode::Post);
    let long = "Überweisung €".repeat(4_700)[..].chars().take(60_000).collect::<String>();
    let odd = ["=IMPORTXML(\"http://x/\",\"//a\")", "+1-800", "-5 OFF", "@SUM(A1)", "'quoted", "TRUE", "1e3", "2025-08-26"];
    let mut rows: Vec<Value> = odd.iter().enumerate().map(|(n, text)| row(&format!("t{n}"), "-1.00", text)).collect();
    rows.push(row("long", "-2.00", &long));
    let at = [world.publish(&batch("710", "b-1", 0, &rows)).await];
    world.consumed(&at).await;
    world.settled(&["710"]).await;

    for text in odd {
        let shown = world.pending_row("710", text).unwrap();
        assert_eq!((shown.cells["Source"].kind, shown.cells["Source"].value.clone()), ("text", json!(text)), "I9");
    }
    let cut = world.pending("710").into_iter().find(|row| row.shown("Source").ends_with(" … [cut]")).expect("the long text is shown cut");
    assert!(cut.shown("Source").encode_utf16().count() <= 49_010, "{}", cut.shown("Source").encode_utf16().count());
    assert_eq!(
        world.texts("710", "SELECT description FROM pending_txns WHERE length(description) > 1000").await,
        [long.as_str()],
        "whole in Postgres"
    );

    world.approve("710", odd[0], "OPEX", "=1+1");
    let source = cut.shown("Source").to_owned();
    world.approve("710", &source, "OPEX", "LONG");
    // A formula in a person's cell is not read, and Status says so.
    world.promote("710", "r-1").await;
    world.promoted("710", "r-1").await;
    world.settled(&["710"]).await;
    let status = world.pending_row("710", odd[0]).unwrap().shown("Status").to_owned();
    assert!(status.starts_with("invalid: Target_Header holds a formula"), "{status}");
    world.type_in("710", odd[0], "Target_Header", "FEEDS");
    world.promote("710", "r-2").await;
    world.promoted("710", "r-2").await;
    world.settled(&["710"]).await;
    let rules = world.active("710");
    assert_eq!(rules.len(), 2);
    assert!(rules.iter().any(|rule| rule.cells["Source"].kind == "text" && rule.shown("Source") == odd[0]));
    assert!(rules.iter().any(|rule| rule.shown("Source").ends_with(" … [cut]")));
    world.assert_decided_once("710").await;
    world.end_with_zero("in the end").await;
}
