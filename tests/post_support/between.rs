//! What people do in the tabs between our read and our write, and while nobody knows whether a write has landed.

use std::time::Duration;

use kylo::domain::sheet::Value;
use kylo::domain::tab::Approved;
use kylo::flow::post::PendingRead;

use crate::people::world_of_three;
use crate::post_support::book::{Book, Grid};
use crate::post_support::gateway::Fault;
use crate::post_support::world::World;

/// Runs a post in which people edit just before the batch arrives: a removal, an append and a put-back are on the way.
async fn edited_between(edit: impl FnOnce(&mut Book) + Send + 'static) -> World {
    let world = world_of_three().await;
    world.edit("710", |tab| {
        tab.type_in("STARBUCKS", "Target_Sheet", "KEEP1");
        tab.type_in("UBER", "Target_Header", "KEEP2");
        let row = tab.row_of("UBER");
        tab.set(row, "Amount", Value::Number(77.0));
    });
    world.resolve("710", "WALMART").await;
    world.add("710", "t4", "AMAZON", 5).await;
    world.service.fault(Fault::PeopleFirst(Box::new(edit)));
    world
}

async fn assert_healed(world: &World) {
    world.assert_equal("710").await;
    let tab = world.pending("710");
    assert_eq!(tab.text(tab.row_of("STARBUCKS"), "Target_Sheet"), "KEEP1");
    assert_eq!(tab.text(tab.row_of("UBER"), "Target_Header"), "KEEP2");
}

#[tokio::test]
async fn a_row_inserted_between_our_read_and_our_write_costs_nothing_that_was_typed() {
    let world = edited_between(|book| book.grid_mut("710 Pending").insert(1, 1, true).unwrap()).await;
    let round = world.post().await;
    assert_eq!(round.damaged, 1, "{round:?}");
    assert_healed(&world).await;
}

#[tokio::test]
async fn a_row_deleted_between_our_read_and_our_write_costs_nothing_that_was_typed() {
    let world = edited_between(|book| book.grid_mut("710 Pending").delete(1, 1).unwrap()).await;
    world.post().await;
    assert_healed(&world).await;
}

#[tokio::test]
async fn rows_sorted_between_our_read_and_our_write_cost_nothing_that_was_typed() {
    let world = edited_between(|book| book.grid_mut("710 Pending").sort("Source", 0)).await;
    world.post().await;
    assert_healed(&world).await;
}

#[tokio::test]
async fn a_tick_that_is_lost_because_rows_moved_under_our_write_is_answered() {
    for delete in [true, false] {
        let world = world_of_three().await;
        world.edit("710", |tab| {
            tab.approve("WALMART", "OPEX", "FOOD");
            tab.approve("UBER", "OPEX", "TRAVEL");
            let row = tab.row_of("WALMART");
            tab.set(row, "Amount", Value::Number(77.0));
        });
        if delete {
            world.resolve("710", "STARBUCKS").await;
        } else {
            world.add("710", "t4", "AMAZON", 5).await;
        }
        // What is meant for WALMART in row 2 falls on UBER; so does the removal of row 1 in the other case.
        world.service.fault(Fault::PeopleFirst(Box::new(|book| {
            let tab = book.grid_mut("710 Pending");
            tab.delete(1, 1).unwrap();
        })));
        world.assert_equal("710").await;
        let tab = world.pending("710");
        let row = tab.row_of("UBER");
        assert_eq!((tab.text(row, "Approved"), tab.text(row, "Target_Header")), ("FALSE".into(), "TRAVEL".into()));
        assert!(tab.text(row, "Status").starts_with("changed:"), "{delete}: {}", tab.text(row, "Status"));
        assert_eq!(tab.text(tab.row_of("WALMART"), "Target_Header"), "FOOD");
    }
}

#[tokio::test]
async fn a_tab_renamed_between_our_read_and_our_write_is_found_again() {
    let world = edited_between(|book| book.grid_mut("710 Pending").title = "Neu".to_owned()).await;
    world.settle().await;
    let tab = world.book().grid("Neu").clone();
    assert_eq!(tab.texts("Source"), ["STARBUCKS", "UBER", "AMAZON"]);
}

#[tokio::test]
async fn a_tab_deleted_between_our_read_and_our_write_is_made_again_with_what_was_typed() {
    let world = edited_between(|book| book.grids.retain(|grid| grid.title != "710 Pending")).await;
    assert!(world.post().await.refused > 0);
    assert_healed(&world).await;
}

#[tokio::test]
async fn the_control_tab_deleted_by_a_person_is_made_again() {
    let world = edited_between(|book| book.grids.retain(|grid| grid.title != "_kylo")).await;
    world.post().await;
    assert!(world.book().grid("_kylo").hidden);
    assert_healed(&world).await;
}

#[tokio::test]
async fn what_promote_has_read_is_not_lost_when_the_row_is_deleted_before_the_next_post() {
    let world = world_of_three().await;
    world.edit("710", |tab| tab.type_in("WALMART", "Target_Sheet", "SEEN BY PROMOTE"));
    promote_reads(&world).await;
    world.edit("710", |tab| {
        let row = tab.row_of("WALMART");
        tab.delete(row, 1).unwrap();
    });
    world.add("710", "t4", "AMAZON", 5).await;
    world.settle().await;
    let tab = world.pending("710");
    assert_eq!(tab.text(tab.row_of("WALMART"), "Target_Sheet"), "SEEN BY PROMOTE");
}

#[tokio::test]
async fn an_edited_machine_cell_is_answered_also_after_a_post_that_was_found_to_have_landed() {
    let world = World::new(&["710"]).await;
    world.add("710", "a", "A", 1).await;
    world.settle().await;
    world.add("710", "b", "B", 2).await;
    world.service.fault(crate::post_support::gateway::Fault::AppliedAnswerLost);
    world.post().await;
    world.edit("710", |tab| tab.set(1, "Source", Value::Text("EDITED".to_owned())));
    world.settle().await;
    let tab = world.pending("710");
    assert_eq!(tab.texts("Source"), ["A", "B"]);
    assert!(tab.text(1, "Status").starts_with("changed: Source was edited"), "{}", tab.text(1, "Status"));
}

#[tokio::test]
async fn a_tick_set_while_a_correction_was_on_its_way_is_taken_back_and_the_next_one_counts() {
    let world = world_of_three().await;
    world.settle().await;
    world.add("710", "t2", "WALMART SUPERCENTER", 4567).await;
    world.service.fault(Fault::PeopleFirst(Box::new(|book| book.grid_mut("710 Pending").approve("WALMART", "OPEX", "FOOD"))));
    world.settle().await;
    let tab = world.pending("710");
    let row = tab.row_of("WALMART SUPERCENTER");
    assert_eq!((tab.text(row, "Approved"), tab.text(row, "Target_Header")), ("FALSE".into(), "FOOD".into()));
    assert!(tab.text(row, "Status").starts_with("changed: the bank's data changed"), "{}", tab.text(row, "Status"));
    world.edit("710", |tab| tab.approve("WALMART SUPERCENTER", "OPEX", "FOOD"));
    world.add("710", "t4", "EBAY", 1).await;
    world.settle().await;
    let tab = world.pending("710");
    let row = tab.row_of("WALMART SUPERCENTER");
    assert_eq!((tab.text(row, "Approved"), tab.text(row, "Status")), ("TRUE".into(), String::new()));
    world.assert_equal("710").await;
}

/// A soak had ended with a rule that nobody had meant. This is how one comes about: the poster dies between its call and the answer, or a promotion
/// reads before it has stored what it saw, and takes the tick for one of the new content.
#[tokio::test]
async fn a_tick_set_while_a_row_was_being_rewritten_counts_for_nothing_whoever_asks_and_whether_the_answer_comes_or_not() {
    let corrected = "WALMART SUPERCENTER";
    for is_correction in [true, false] {
        let world = world_of_three().await;
        world.settle().await;
        if is_correction {
            world.add("710", "t2", corrected, 4567).await;
        } else {
            // As after a sort without the key column.
            world.edit("710", |tab| tab.type_in("WALMART", "Source", "SORTED HERE"));
            world.add("710", "t4", "EBAY", 1).await;
        }
        let (seen, now) = if is_correction { ("WALMART", corrected) } else { ("SORTED HERE", "WALMART") };
        world.service.fault(Fault::LandsLater);
        world.post().await;
        world.edit("710", |tab| tab.approve(seen, "OPEX", "FOOD"));
        assert_eq!(world.service.land_late(), 1);
        // This is what a promotion reads now.
        let PendingRead::Tab(view) = world.poster().read_pending(&world.route("710").await).await.unwrap() else { panic!("there is a tab") };
        let of_now = view.rows.iter().filter(|row| row.source == Value::Text(now.to_owned()));
        assert_eq!(of_now.map(|row| row.typed.approved.clone()).collect::<Vec<_>>(), [Approved::No], "nobody has approved {now}");
        world.clock.advance(Duration::from_secs(10));
        world.settle().await;
        let tab = world.pending("710");
        assert_eq!((tab.text(tab.row_of(now), "Approved"), tab.text(tab.row_of(now), "Target_Header")), ("FALSE".into(), "FOOD".into()));
        world.assert_equal("710").await;
    }
}

#[tokio::test]
async fn a_tick_that_fell_to_an_approved_false_meant_for_another_row_is_answered() {
    let world = world_of_three().await;
    world.settle().await;
    world.edit("710", |tab| {
        tab.approve("WALMART", "OPEX", "FOOD");
        tab.approve("UBER", "OPEX", "TRAVEL");
        tab.type_in("UBER", "Source", "EDITED");
    });
    world.add("710", "t4", "EBAY", 1).await;
    world.service.fault(Fault::PeopleFirst(Box::new(|book| {
        let tab = book.grid_mut("710 Pending");
        let (walmart, uber) = (tab.row_of("WALMART"), tab.row_of("EDITED"));
        tab.rows.swap(walmart, uber);
    })));
    world.settle().await;
    let tab = world.pending("710");
    for source in ["WALMART", "UBER"] {
        let row = tab.row_of(source);
        assert_eq!(tab.text(row, "Approved"), "FALSE", "{source}");
        assert!(tab.text(row, "Status").starts_with("changed:"), "{source}: {}", tab.text(row, "Status"));
    }
    world.assert_equal("710").await;
}

#[tokio::test]
async fn what_a_person_sorts_into_a_row_that_a_post_in_doubt_removes_is_kept_although_promote_reads_in_between() {
    for read_before_it_lands in [true, false] {
        let world = world_of_three().await;
        world.edit("710", |tab| tab.type_in("WALMART", "Target_Sheet", "KEEP"));
        world.settle().await;
        world.resolve("710", "STARBUCKS").await;
        world.service.fault(Fault::LandsLater);
        world.post().await;
        // A person sorts all but the key column, so that the cells of WALMART stand in the row of STARBUCKS, and types in the row of WALMART.
        world.edit("710", |tab| {
            let (starbucks, walmart) = (tab.row_of("STARBUCKS"), tab.row_of("WALMART"));
            tab.type_in("WALMART", "Target_Sheet", "");
            tab.type_in("STARBUCKS", "Target_Sheet", "KEEP");
            assert!(starbucks < walmart);
            tab.type_in("WALMART", "Match_Notes", "NEW");
        });
        if read_before_it_lands {
            promote_reads(&world).await;
        }
        assert_eq!(world.service.land_late(), 1);
        promote_reads(&world).await;
        world.settle().await;
        let tab = world.pending("710");
        assert_eq!(tab.texts("Source"), ["WALMART", "UBER"]);
        assert_eq!(tab.text(tab.row_of("WALMART"), "Match_Notes"), "NEW");
        let kept = "SELECT count(*) FROM app_710.rules_pending WHERE origin = 'left' AND source = 'WALMART' AND target_sheet = 'KEEP'";
        let kept: i64 = sqlx::query_scalar(kept).fetch_one(&world.pool).await.unwrap();
        assert_eq!(kept, 1, "read before it lands: {read_before_it_lands}");
    }
}

async fn promote_reads(world: &World) {
    assert!(matches!(world.poster().read_pending(&world.route("710").await).await.unwrap(), PendingRead::Tab(_)));
}

async fn left_of(world: &World, source: &str) -> String {
    let sql =
        "SELECT string_agg(concat_ws(' ', nullif(target_sheet, ''), nullif(target_header, ''), nullif(match_notes, '')), '; ' ORDER BY target_sheet)";
    world.text(&format!("{sql} FROM app_710.rules_pending WHERE origin = 'left' AND source = '{source}'")).await
}

/// What becomes of a post in doubt, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Landing {
    BeforeTheEdit,
    BeforeTheDeletion,
    AfterTheDeletion,
    Never,
}

const LANDINGS: [Landing; 4] = [Landing::BeforeTheEdit, Landing::BeforeTheDeletion, Landing::AfterTheDeletion, Landing::Never];

/// WALMART holds OLD in Target_Sheet. While the post that removes STARBUCKS is in doubt, a person edits, promote reads, and the row of WALMART is
/// deleted; then all comes to rest.
async fn deleted_in_doubt(landing: Landing, edits: &[fn(&mut Grid)]) -> World {
    let world = world_of_three().await;
    world.edit("710", |tab| tab.type_in("WALMART", "Target_Sheet", "OLD"));
    world.settle().await;
    world.resolve("710", "STARBUCKS").await;
    world.service.fault(Fault::LandsLater);
    world.post().await;
    let lands = |at: Landing| assert!(at != landing || world.service.land_late() == 1);
    lands(Landing::BeforeTheEdit);
    for edit in edits {
        world.edit("710", edit);
        promote_reads(&world).await;
    }
    lands(Landing::BeforeTheDeletion);
    world.edit("710", |tab| tab.delete(tab.row_of("WALMART"), 1).unwrap());
    lands(Landing::AfterTheDeletion);
    world.assert_equal("710").await;
    world
}

#[tokio::test]
async fn a_row_deleted_while_a_removing_post_is_in_doubt_comes_back_with_what_promote_read_and_what_that_replaced_is_left_behind() {
    for landing in LANDINGS {
        let world = deleted_in_doubt(landing, &[|tab| tab.type_in("WALMART", "Target_Sheet", "NEW")]).await;
        let tab = world.pending("710");
        assert_eq!(tab.text(tab.row_of("WALMART"), "Target_Sheet"), "NEW", "{landing:?}");
        assert_eq!(left_of(&world, "WALMART").await, "OLD", "{landing:?}");
    }
}

#[tokio::test]
async fn of_several_reads_in_doubt_the_last_comes_back_and_all_the_others_are_left_behind_once() {
    for landing in LANDINGS {
        let first: fn(&mut Grid) = |tab| tab.type_in("WALMART", "Target_Sheet", "FIRST");
        let last: fn(&mut Grid) = |tab| tab.type_in("WALMART", "Target_Sheet", "LAST");
        let world = deleted_in_doubt(landing, &[first, last, first, last]).await;
        let tab = world.pending("710");
        assert_eq!(tab.text(tab.row_of("WALMART"), "Target_Sheet"), "LAST", "{landing:?}");
        assert_eq!(left_of(&world, "WALMART").await, "FIRST; OLD", "{landing:?}");
    }
}

#[tokio::test]
async fn what_comes_back_with_a_row_deleted_in_doubt_is_not_left_behind_as_well() {
    for landing in LANDINGS {
        let world = deleted_in_doubt(landing, &[|tab| tab.type_in("WALMART", "Match_Notes", "MORE")]).await;
        let tab = world.pending("710");
        let row = tab.row_of("WALMART");
        assert_eq!((tab.text(row, "Target_Sheet"), tab.text(row, "Match_Notes")), ("OLD".into(), "MORE".into()), "{landing:?}");
        assert_eq!(left_of(&world, "WALMART").await, "", "{landing:?}");
    }
}

#[tokio::test]
async fn what_a_removing_post_in_doubt_took_is_left_behind_although_promote_has_read_something_newer_in_its_row() {
    for landing in [Landing::BeforeTheDeletion, Landing::AfterTheDeletion] {
        // All but the key column is sorted: OLD stands in the row of STARBUCKS now, which the post takes, and NEW is typed in the row of WALMART.
        let sorted_apart: fn(&mut Grid) = |tab| {
            tab.type_in("STARBUCKS", "Target_Sheet", "OLD");
            tab.type_in("WALMART", "Target_Sheet", "NEW");
        };
        let world = deleted_in_doubt(landing, &[sorted_apart]).await;
        let tab = world.pending("710");
        assert_eq!(tab.text(tab.row_of("WALMART"), "Target_Sheet"), "NEW", "{landing:?}");
        assert_eq!(left_of(&world, "WALMART").await, "OLD", "{landing:?}");
    }
}

#[tokio::test]
async fn a_removing_post_that_is_found_late_puts_back_nothing_older_than_what_a_later_post_has_read() {
    let world = world_of_three().await;
    world.edit("710", |tab| tab.type_in("WALMART", "Target_Sheet", "OLD"));
    world.settle().await;
    world.resolve("710", "STARBUCKS").await;
    world.service.fault(Fault::LandsLater);
    world.post().await;
    world.edit("710", |tab| tab.type_in("WALMART", "Target_Sheet", "NEW"));
    world.clock.advance(Duration::from_secs(5));
    world.service.fault(Fault::Lost);
    assert_eq!(world.post().await.in_doubt, 1);
    assert_eq!(world.service.land_late(), 1);
    world.edit("710", |tab| tab.delete(tab.row_of("WALMART"), 1).unwrap());
    world.assert_equal("710").await;
    let tab = world.pending("710");
    assert_eq!(tab.text(tab.row_of("WALMART"), "Target_Sheet"), "NEW");
    assert_eq!(left_of(&world, "WALMART").await, "OLD");
}

#[tokio::test]
async fn what_promote_read_while_a_removing_post_was_in_doubt_is_left_behind_if_the_post_took_it() {
    let world = world_of_three().await;
    world.settle().await;
    world.resolve("710", "STARBUCKS").await;
    world.service.fault(Fault::LandsLater);
    world.post().await;
    world.edit("710", |tab| tab.type_in("WALMART", "Target_Sheet", "NEW"));
    promote_reads(&world).await;
    // All but the key column is sorted: NEW stands in the row of STARBUCKS now.
    world.edit("710", |tab| {
        tab.type_in("WALMART", "Target_Sheet", "");
        tab.type_in("STARBUCKS", "Target_Sheet", "NEW");
    });
    assert_eq!(world.service.land_late(), 1);
    world.assert_equal("710").await;
    assert_eq!(world.pending("710").texts("Target_Sheet"), ["", ""]);
    assert_eq!(left_of(&world, "WALMART").await, "NEW");
}
