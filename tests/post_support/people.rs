//! What people do in the tabs before a post; what they do in the middle of one is in `between.rs`.

use kylo::domain::ids::TxnUid;
use kylo::domain::sheet::Value;
use kylo::domain::tab::{Approval, approval};
use kylo::flow::post::PendingRead;

use crate::post_support::world::{SHEET, World};

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub async fn world_of_three() -> World {
    let world = World::new(&["710"]).await;
    for (id, description, cents) in [("t1", "STARBUCKS", -1234), ("t2", "WALMART", 4567), ("t3", "UBER", -100)] {
        world.add("710", id, description, cents).await;
    }
    world.settle().await;
    world
}

#[tokio::test]
async fn both_tabs_are_made_with_header_frozen_row_and_rows_in_order_and_the_ledger_counts_only_row_operations() {
    let world = world_of_three().await;
    let tab = world.pending("710");
    assert_eq!(tab.texts("Source"), ["STARBUCKS", "WALMART", "UBER"]);
    assert_eq!(tab.texts("Amount"), ["-12.34", "45.67", "-1"]);
    assert_eq!(tab.texts("Approved"), ["FALSE"; 3]);
    assert_eq!(tab.frozen_rows, 1);
    assert!(world.book().has("710 Active"));
    assert!(world.book().grid("_kylo").hidden);
    assert_eq!(world.count("SELECT count(*) FROM control.sheet_posts").await, 1, "making tabs counts for none");
    assert_eq!(world.text("SELECT tab_name || ' ' || row_count FROM control.sheet_posts").await, "710 Pending 3");
    assert_eq!(world.count("SELECT count(*) FROM control.outbox_events WHERE event_type = 'sheet.posted'").await, 1);
    assert_eq!(world.book().metadata[0].id, 1_263_000_001);
    world.assert_equal("710").await;
}

#[tokio::test]
async fn what_has_been_posted_is_not_posted_again() {
    let world = world_of_three().await;
    let (writes, reads) = (world.service.n_calls("apply"), world.service.n_calls("read"));
    world.settle().await;
    assert_eq!((world.service.n_calls("apply"), world.service.n_calls("read")), (writes, reads));
    // A change that ends where it began is read and found equal: nothing is sent.
    world.sql("710", "UPDATE company_state SET seq = seq + 1, pending_seq = seq + 1").await;
    let round = world.post().await;
    assert_eq!((round.posted, round.unchanged), (0, 1));
    assert_eq!(world.count("SELECT count(*) FROM control.sheet_posts").await, 1);
}

#[tokio::test]
async fn one_read_and_one_write_carry_all_companies_of_a_spreadsheet() {
    let world = World::new(&["710", "711"]).await;
    world.add("710", "a", "A", 1).await;
    world.add("711", "b", "B", 2).await;
    world.settle().await;
    assert_eq!(world.service.n_calls("apply"), 1);
    world.add("710", "c", "C", 3).await;
    world.add("711", "d", "D", 4).await;
    let reads = world.service.n_calls("read");
    world.settle().await;
    assert_eq!((world.service.n_calls("apply"), world.service.n_calls("read") - reads, world.service.n_calls("directory")), (2, 1, 1));
    assert_eq!(world.pending("710").texts("Source"), ["A", "C"]);
    assert_eq!(world.pending("711").texts("Source"), ["B", "D"]);
    world.assert_equal("710").await;
    world.assert_equal("711").await;
}

#[tokio::test]
async fn rows_sorted_with_the_key_column_stay_in_the_persons_order_and_new_rows_follow() {
    let world = world_of_three().await;
    world.edit("710", |tab| tab.approve("UBER", "OPEX", "TRAVEL"));
    world.edit("710", |tab| tab.sort("Source", 0));
    world.add("710", "t4", "AMAZON", 5).await;
    world.settle().await;
    let tab = world.pending("710");
    assert_eq!(tab.texts("Source"), ["WALMART", "UBER", "STARBUCKS", "AMAZON"]);
    assert_eq!(tab.texts("Approved"), ["FALSE", "TRUE", "FALSE", "FALSE"]);
    assert_eq!(tab.texts("Status"), [""; 4]);
    world.assert_equal("710").await;
}

#[tokio::test]
async fn rows_sorted_without_the_key_column_are_put_back_and_their_approvals_do_not_count() {
    let world = world_of_three().await;
    world.edit("710", |tab| {
        tab.approve("UBER", "OPEX", "TRAVEL");
        tab.sort("Source", 1);
    });
    let PendingRead::Tab(view) = world.poster().read_pending(&world.route("710").await).await.unwrap() else { panic!("no tab") };
    let wanted = kylo::domain::tab::OpenRow {
        uid: TxnUid(uuid::Uuid::nil()),
        occurred_on: chrono::NaiveDate::from_ymd_opt(2025, 8, 26).unwrap(),
        description: "WALMART".to_owned(),
        amount_cents: 4567,
        answer: String::new(),
        answer_input: None,
        seq: 1,
        content_seq: 1,
    };
    assert_eq!(approval(&view.rows[1], &wanted), Approval::Mismatch(vec!["Source", "Amount"]));
    world.add("710", "t4", "AMAZON", 5).await;
    world.settle().await;
    let tab = world.pending("710");
    assert_eq!(tab.texts("Source"), ["STARBUCKS", "WALMART", "UBER", "AMAZON"]);
    assert_eq!(tab.texts("Approved"), ["FALSE"; 4]);
    assert!(tab.text(2, "Status").starts_with("changed:"), "{}", tab.text(2, "Status"));
    world.assert_equal("710").await;
    // The person looks, and ticks again: the answer goes.
    world.edit("710", |tab| tab.set(2, "Approved", Value::Bool(true)));
    world.add("710", "t5", "EBAY", 6).await;
    world.settle().await;
    assert_eq!(world.pending("710").text(2, "Status"), "");
    assert_eq!(world.pending("710").text(2, "Approved"), "TRUE");
}

#[tokio::test]
async fn inserted_rows_notes_below_and_unticked_boxes_do_not_push_new_rows_out_of_sight() {
    let world = world_of_three().await;
    world.edit("710", |tab| {
        tab.insert(1, 2, true).unwrap();
        tab.set(1, "Match_Notes", text("my note"));
        for row in 20..80 {
            tab.set(row, "Approved", Value::Bool(false));
        }
        tab.set(70, "Source", text("a note far below"));
    });
    world.add("710", "t4", "AMAZON", 5).await;
    world.settle().await;
    let tab = world.pending("710");
    assert_eq!(tab.row_of("AMAZON"), tab.row_of("UBER") + 1);
    assert_eq!(tab.text(1, "Match_Notes"), "my note");
    assert!(tab.texts("Source").contains(&"a note far below".to_owned()));
}

#[tokio::test]
async fn a_renamed_tab_is_kept_and_so_are_moved_columns() {
    let world = world_of_three().await;
    world.service.edit(SHEET, |book| {
        let tab = book.grid_mut("710 Pending");
        tab.title = "Unsere Buchungen".to_owned();
        tab.rows.iter_mut().for_each(|row| row.rotate_left(3));
    });
    world.add("710", "t4", "AMAZON", 5).await;
    world.settle().await;
    let book = world.book();
    assert!(!book.has("710 Pending"));
    assert_eq!(book.grid("Unsere Buchungen").texts("Source"), ["STARBUCKS", "WALMART", "UBER", "AMAZON"]);
    assert_eq!(world.text("SELECT title FROM control.sheet_tabs WHERE role = 'pending'").await, "Unsere Buchungen");
}

#[tokio::test]
async fn a_row_deleted_while_open_comes_back_with_the_cells_last_read_and_approved_false() {
    let world = world_of_three().await;
    world.edit("710", |tab| tab.approve("WALMART", "OPEX", "FOOD"));
    world.add("710", "t4", "AMAZON", 5).await;
    world.settle().await;
    world.edit("710", |tab| {
        let row = tab.row_of("WALMART");
        tab.delete(row, 1).unwrap();
    });
    world.add("710", "t5", "EBAY", 6).await;
    world.settle().await;
    let tab = world.pending("710");
    let row = tab.row_of("WALMART");
    assert_eq!(
        (tab.text(row, "Target_Sheet"), tab.text(row, "Target_Header"), tab.text(row, "Approved")),
        ("OPEX".into(), "FOOD".into(), "FALSE".into())
    );
    assert!(tab.text(row, "Status").starts_with("changed:"));
    world.assert_equal("710").await;
}

#[tokio::test]
async fn an_edited_machine_cell_is_put_back_and_status_says_so() {
    let world = world_of_three().await;
    world.edit("710", |tab| {
        let row = tab.row_of("WALMART");
        tab.set(row, "Amount", Value::Number(1.0));
        tab.set(row, "Company_ID", text("999"));
        tab.set(row, "Status", text("done!"));
    });
    world.add("710", "t4", "AMAZON", 5).await;
    world.settle().await;
    let tab = world.pending("710");
    assert!(tab.text(tab.row_of("WALMART"), "Status").starts_with("changed: Amount, Company_ID"));
    world.assert_equal("710").await;
}

#[tokio::test]
async fn a_correction_changes_the_row_and_takes_back_an_approval_given_to_the_old_content() {
    let world = world_of_three().await;
    world.edit("710", |tab| tab.approve("WALMART", "OPEX", "FOOD"));
    world.add("710", "t2", "WALMART SUPERCENTER", 4567).await;
    world.add("710", "t1", "STARBUCKS 17", -1234).await;
    world.settle().await;
    let tab = world.pending("710");
    let row = tab.row_of("WALMART SUPERCENTER");
    assert_eq!((tab.text(row, "Approved"), tab.text(row, "Target_Header")), ("FALSE".into(), "FOOD".into()));
    assert!(tab.text(row, "Status").starts_with("changed: Source"));
    assert_eq!(tab.text(tab.row_of("STARBUCKS 17"), "Status"), "", "nobody had approved it");
    world.assert_equal("710").await;
}

#[tokio::test]
async fn odd_approvals_and_formulas_are_answered_and_the_answer_goes_when_they_are_mended() {
    let world = world_of_three().await;
    world.edit("710", |tab| {
        tab.type_in("WALMART", "Approved", "yes");
        let row = tab.row_of("UBER");
        tab.set(row, "Target_Sheet", Value::Formula("=A1".to_owned()));
    });
    world.add("710", "t4", "AMAZON", 5).await;
    world.settle().await;
    let tab = world.pending("710");
    assert!(tab.text(tab.row_of("WALMART"), "Status").starts_with("invalid: Approved"));
    assert!(tab.text(tab.row_of("UBER"), "Status").starts_with("invalid: Target_Sheet holds a formula"));
    world.edit("710", |tab| {
        tab.type_in("WALMART", "Approved", "true");
        tab.type_in("UBER", "Target_Sheet", "OPEX");
    });
    world.add("710", "t5", "EBAY", 6).await;
    world.settle().await;
    assert_eq!(world.pending("710").texts("Status"), [""; 5]);
}

#[tokio::test]
async fn of_a_copied_row_equal_and_empty_copies_go_and_another_waits_for_a_person() {
    let world = world_of_three().await;
    world.edit("710", |tab| {
        tab.approve("WALMART", "OPEX", "FOOD");
        let row = tab.row_of("WALMART");
        for (header, value) in [("Match_Notes", None), ("Target_Header", Some("RENT"))] {
            let mut copy = tab.rows[row].clone();
            let column = tab.column(header);
            if let Some(value) = value {
                copy[column] = text(value);
            }
            tab.rows.insert(row + 2, copy);
        }
    });
    world.add("710", "t4", "AMAZON", 5).await;
    world.settle().await;
    let tab = world.pending("710");
    let copies: Vec<_> = tab.filled().into_iter().filter(|row| tab.text(*row, "Source") == "WALMART").collect();
    assert_eq!(copies.len(), 2, "the equal copy is gone, the other one is not");
    for row in &copies {
        assert!(tab.text(*row, "Status").starts_with("duplicate:"));
        assert_eq!(tab.text(*row, "Approved"), "FALSE");
    }
    world.edit("710", |tab| tab.delete(copies[0], 1).unwrap());
    world.add("710", "t5", "EBAY", 6).await;
    world.settle().await;
    let tab = world.pending("710");
    assert_eq!(tab.text(tab.row_of("WALMART"), "Status"), "");
    assert_eq!(tab.text(tab.row_of("WALMART"), "Target_Header"), "RENT");
    world.assert_equal("710").await;
}

#[tokio::test]
async fn only_rows_that_postgres_knows_as_resolved_leave_and_what_was_typed_in_them_is_kept() {
    let world = world_of_three().await;
    world.edit("710", |tab| {
        tab.type_in("WALMART", "Target_Sheet", "HALF DONE");
        let mut stranger = tab.rows[1].clone();
        stranger[0] = text("6f1bdc9e-0000-4000-8000-000000000000");
        stranger[2] = text("FROM A BACKUP");
        tab.rows.insert(1, stranger);
        tab.rows.insert(1, vec![Value::Empty; 10]);
        tab.set(1, "Source", text("a person's own line"));
    });
    world.resolve("710", "WALMART").await;
    world.settle().await;
    let tab = world.pending("710");
    assert_eq!(tab.texts("Source"), ["a person's own line", "FROM A BACKUP", "STARBUCKS", "UBER"]);
    assert!(tab.text(2, "Status").starts_with("unknown:"));
    assert_eq!(tab.text(1, "Status"), "");
    assert_eq!(world.text("SELECT target_sheet || ' ' || approved || ' ' || origin FROM app_710.rules_pending").await, "HALF DONE false left");
}

#[tokio::test]
async fn every_row_may_be_resolved_although_google_does_not_delete_all_rows() {
    let world = world_of_three().await;
    world.edit("710", |tab| tab.rows.truncate(4));
    for source in ["STARBUCKS", "WALMART", "UBER"] {
        world.resolve("710", source).await;
    }
    world.settle().await;
    assert!(world.pending("710").filled().is_empty());
    world.add("710", "t9", "AGAIN", 1).await;
    world.assert_equal("710").await;
}

#[tokio::test]
async fn formula_looking_text_is_written_as_text_and_sixty_thousand_characters_are_shown_cut() {
    let world = World::new(&["710"]).await;
    let long = "é".repeat(60_000);
    for (id, description) in [("a", "=IMPORTXML(\"http://evil\")"), ("b", "+1"), ("c", "'quoted"), ("d", long.as_str())] {
        world.add("710", id, description, 1).await;
    }
    world.settle().await;
    let tab = world.pending("710");
    assert_eq!(tab.rows[1][2], text("=IMPORTXML(\"http://evil\")"));
    assert!(tab.text(4, "Source").ends_with(" … [cut]"));
    assert_eq!(world.text("SELECT length(description)::text FROM app_710.pending_txns ORDER BY length(description) DESC LIMIT 1").await, "60000");
    world.assert_equal("710").await;
}

#[tokio::test]
async fn rules_going_from_a_to_b_to_a_show_a_again() {
    let world = World::new(&["710"]).await;
    world.add("710", "t", "X", 1).await;
    for (version, target) in [(1, "COFFEE"), (2, "FOOD"), (3, "COFFEE")] {
        world.rules("710", &[("STARBUCKS", "OPEX", target), ("UBER", "OPEX", "TRAVEL")], version).await;
        world.settle().await;
        let tab = world.book().grid("710 Active").clone();
        assert_eq!(tab.texts("Target_Header"), [target, "TRAVEL"]);
        assert_eq!(tab.texts("Ruleset_Version"), [version.to_string(), version.to_string()]);
    }
    assert_eq!(world.count("SELECT count(*) FROM control.sheet_posts WHERE tab_name = '710 Active'").await, 3);
}

#[tokio::test]
async fn in_the_active_tab_unknown_rows_copies_and_edits_go_and_blank_rows_stay() {
    let world = World::new(&["710"]).await;
    world.add("710", "t", "X", 1).await;
    world.rules("710", &[("STARBUCKS", "OPEX", "COFFEE"), ("UBER", "OPEX", "TRAVEL")], 1).await;
    world.settle().await;
    world.service.edit(SHEET, |book| {
        let tab = book.grid_mut("710 Active");
        tab.set(1, "Target_Header", text("HACKED"));
        let copy = tab.rows[2].clone();
        tab.rows.insert(3, copy);
        tab.rows.insert(1, vec![Value::Empty; 8]);
        tab.set(30, "Source", text("NO SUCH RULE"));
        tab.set(31, "Match_Notes", text("scribble"));
    });
    world.rules("710", &[("STARBUCKS", "OPEX", "COFFEE"), ("UBER", "OPEX", "TRAVEL")], 1).await;
    world.settle().await;
    let tab = world.book().grid("710 Active").clone();
    assert_eq!(tab.texts("Source"), ["STARBUCKS", "UBER"]);
    assert_eq!(tab.texts("Target_Header"), ["COFFEE", "TRAVEL"]);
    assert_eq!(tab.row_of("STARBUCKS"), 2, "the blank row is left alone");
}
