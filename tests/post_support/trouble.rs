//! What waits, what is parked, what stays in shadow; and that it costs nobody else anything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kylo::domain::fence;
use kylo::domain::ids::CompanyId;
use kylo::domain::sheet::{MetadataEntry, Value};
use kylo::flow::post::{PendingRead, PostRound, Poster};
use kylo::ports::CallError;
use tokio_util::sync::CancellationToken;

use crate::post_support::book::{Book, Grid};
use crate::post_support::gateway::Fault;
use crate::post_support::world::{SHEET, World};

async fn world_of_two_companies() -> World {
    let world = World::new(&["710", "711"]).await;
    world.add("710", "a", "A", 1).await;
    world.add("711", "b", "B", 2).await;
    world
}

async fn reason(world: &World) -> String {
    world.text("SELECT state || ': ' || reason FROM control.spreadsheets").await
}

#[tokio::test]
async fn in_shadow_mode_no_call_is_made_and_nothing_is_written_and_switching_on_posts_what_was_held_back() {
    let world = world_of_two_companies().await;
    let mut options = world.options();
    options.gateway = None;
    let shadow = Poster::new(options);
    assert_eq!(shadow.post_once().await.unwrap(), PostRound::default());
    assert_eq!(shadow.read_pending(&world.route("710").await).await.unwrap(), PendingRead::Shadow);
    assert!(world.service.lock().calls.is_empty());
    let rows = "SELECT (SELECT count(*) FROM control.spreadsheets) + (SELECT count(*) FROM control.sheet_tabs)
                + (SELECT count(*) FROM control.sheet_posts) + (SELECT count(*) FROM control.sheet_intents)";
    assert_eq!(world.count(rows).await, 0);
    world.assert_equal("710").await;
    world.assert_equal("711").await;
}

#[tokio::test]
async fn companies_outside_the_canary_list_are_in_shadow_in_every_respect() {
    let world = world_of_two_companies().await;
    let mut options = world.options();
    options.canary = BTreeSet::from([CompanyId::parse("711").unwrap()]);
    let poster = Poster::new(options);
    poster.post_once().await.unwrap();
    assert!(world.book().has("711 Pending") && !world.book().has("710 Pending"));
    assert_eq!(poster.read_pending(&world.route("710").await).await.unwrap(), PendingRead::Shadow);
    assert_eq!(world.count("SELECT count(*) FROM control.sheet_tabs WHERE company_id = '710'").await, 0);
    world.assert_equal("710").await;
}

#[tokio::test]
async fn a_company_whose_database_is_down_does_not_stop_the_others_of_its_spreadsheet() {
    let world = World::new(&["710"]).await;
    world.configure("711", "postgres://nobody@127.0.0.1:1/nowhere").await;
    world.add("710", "a", "A", 1).await;
    world.add("711", "b", "B", 2).await;
    let round = world.post().await;
    assert_eq!((round.posted, round.waiting), (1, 1));
    assert_eq!(world.pending("710").texts("Source"), ["A"]);
    assert_eq!(world.text("SELECT company_id || ' ' || state FROM control.company_trouble").await, "711 down");
    sqlx::query("UPDATE control.company_config SET db_dsn_rw = $1 WHERE company_id = '711'").bind(&world.dsn).execute(&world.pool).await.unwrap();
    world.settle().await;
    assert_eq!(world.pending("711").texts("Source"), ["B"]);
    assert_eq!(world.count("SELECT count(*) FROM control.company_trouble").await, 0);
}

#[tokio::test]
async fn a_company_with_a_missing_or_doubled_header_is_parked_alone_and_goes_on_when_it_is_back() {
    let world = world_of_two_companies().await;
    world.settle().await;
    world.edit("710", |tab| tab.rows[0][2] = Value::Text("Quelle".to_owned()));
    world.add("710", "a2", "A2", 1).await;
    world.add("711", "b2", "B2", 2).await;
    let round = world.post().await;
    assert_eq!((round.posted, round.parked), (1, 1));
    assert_eq!(world.pending("711").texts("Source"), ["B", "B2"]);
    let trouble = world.text("SELECT company_id || ' ' || state || ' ' || reason FROM control.company_trouble").await;
    assert!(trouble.starts_with("710 parked") && trouble.contains("Source") && trouble.contains("put it back by hand"), "{trouble}");
    world.edit("710", |tab| tab.rows[0][2] = Value::Text(" Source ".to_owned()));
    assert_eq!(world.post().await.posted, 0, "not before 15 minutes");
    world.clock.advance(Duration::from_secs(901));
    world.post().await;
    world.edit("710", |tab| tab.rows[0][2] = Value::Text("Source".to_owned()));
    world.assert_equal("710").await;
}

#[tokio::test]
async fn a_company_whose_remembered_cells_are_rubbish_is_parked_alone_and_says_what_to_do() {
    let world = world_of_two_companies().await;
    world.settle().await;
    let put = async |typed: &'static str| sqlx::query(typed).execute(&world.pool).await.unwrap();
    // Also while one of its posts is in doubt, which is settled for both.
    world.add("710", "a1", "A1", 1).await;
    world.service.fault(Fault::AppliedAnswerLost);
    world.post().await;
    let rubbish =
        "UPDATE control.sheet_tabs SET typed = jsonb_build_object(gen_random_uuid(), 'PRIVATE NOTE') WHERE company_id = '710' AND role = 'pending'";
    put(rubbish).await;
    world.clock.advance(Duration::from_secs(10));
    world.add("710", "a2", "A2", 1).await;
    world.add("711", "b2", "B2", 2).await;
    let round = world.post().await;
    assert_eq!((round.posted, round.parked), (2, 1), "one was found to have landed: {round:?}");
    assert_eq!(world.pending("711").texts("Source"), ["B", "B2"]);
    let reason = world.text("SELECT company_id || ' ' || state || ' ' || reason FROM control.company_trouble").await;
    assert!(reason.starts_with("710 parked") && reason.contains("set it to '{}'") && !reason.contains("PRIVATE"), "{reason}");
    let previews = world.poster().preview(&world.route("710").await).await.unwrap();
    assert!(previews.iter().all(|preview| preview.plan.as_ref().is_err_and(|refused| refused.contains("set it to '{}'"))), "{previews:?}");
    let unread = world.poster().read_pending(&world.route("710").await).await.unwrap_err().to_string();
    assert!(unread.contains("set it to '{}'"), "{unread}");

    put("UPDATE control.sheet_tabs SET typed = '{}' WHERE company_id = '710' AND role = 'pending'").await;
    world.clock.advance(Duration::from_secs(901));
    world.settle().await;
    assert_eq!(world.pending("710").texts("Source"), ["A", "A1", "A2"]);
}

#[tokio::test]
async fn an_unshared_and_a_missing_spreadsheet_are_parked_with_the_fix_and_tried_again_when_the_configuration_changes() {
    for (error, fix) in [(CallError::Forbidden("no".to_owned()), "share spreadsheet"), (CallError::NotFound("no".to_owned()), "check its id")] {
        let world = world_of_two_companies().await;
        world.service.lock().read_error = Some(error);
        assert_eq!(world.post().await.parked, 1);
        assert!(reason(&world).await.contains(fix), "{}", reason(&world).await);
        world.service.lock().read_error = None;
        assert_eq!(world.post().await.posted, 0);
        sqlx::query("UPDATE control.company_config SET updated_at = now() WHERE company_id = '710'").execute(&world.pool).await.unwrap();
        assert_eq!(world.post().await.posted, 1);
        world.assert_equal("710").await;
    }
}

#[tokio::test]
async fn a_refused_batch_is_planned_afresh_three_times_and_then_only_the_guilty_company_is_parked() {
    let world = world_of_two_companies().await;
    world.settle().await;
    // Google refuses whatever 711 sends; the double stands for a protected range.
    world.add("710", "a2", "A2", 1).await;
    world.add("711", "b2", "B2", 2).await;
    for _ in 0..3 {
        world.service.fault(Fault::Says(CallError::Refused("protected".to_owned())));
    }
    world.service.fault(Fault::PeopleFirst(Box::new(|_| ())));
    world.service.fault(Fault::Says(CallError::Refused("protected".to_owned())));
    let round = world.post().await;
    assert_eq!((round.refused, round.posted, round.parked), (3, 1, 1), "{round:?}");
    assert_eq!(world.pending("710").texts("Source"), ["A", "A2"]);
    assert!(world.text("SELECT company_id || ' ' || reason FROM control.company_trouble").await.starts_with("711 the spreadsheet service refuses"));
    world.clock.advance(Duration::from_secs(901));
    world.assert_equal("711").await;
}

#[tokio::test]
async fn a_fence_id_under_a_foreign_key_parks_the_spreadsheet_by_name() {
    let world = world_of_two_companies().await;
    world.service.edit(SHEET, |book| {
        book.metadata.push(MetadataEntry { id: fence::id(1).unwrap(), key: "someone.else".to_owned(), value: String::new() });
    });
    assert_eq!(world.post().await.parked, 1);
    assert!(reason(&world).await.contains("someone.else") && reason(&world).await.contains(SHEET), "{}", reason(&world).await);
    world.service.edit(SHEET, |book| book.metadata.clear());
    world.clock.advance(Duration::from_secs(901));
    world.assert_equal("710").await;
}

#[tokio::test]
async fn a_spreadsheet_of_another_environment_is_left_alone() {
    let world = world_of_two_companies().await;
    world.settle().await;
    world.add("710", "a2", "A2", 1).await;
    let before = world.service.n_calls("apply");
    let mut options = world.options();
    options.environment = "staging".to_owned();
    let staging = Poster::new(options);
    assert_eq!(staging.post_once().await.unwrap().parked, 1);
    assert_eq!(world.service.n_calls("apply"), before);
    assert!(reason(&world).await.contains("kylo company take-over"), "{}", reason(&world).await);
    assert!(staging.read_pending(&world.route("710").await).await.is_err());
}

#[tokio::test]
async fn a_tab_bound_to_another_company_is_never_used() {
    let world = world_of_two_companies().await;
    world.settle().await;
    world.service.edit(SHEET, |book| book.grid_mut("710 Pending").title = "Shared".to_owned());
    sqlx::query("UPDATE control.company_config SET tab_pending = 'Shared' WHERE company_id = '711'").execute(&world.pool).await.unwrap();
    world.add("711", "b2", "B2", 2).await;
    assert_eq!(world.post().await.parked, 1);
    assert!(world.text("SELECT reason FROM control.company_trouble").await.contains("company 710"));
    assert_eq!(world.book().grid("Shared").texts("Source"), ["A"]);
}

#[tokio::test]
async fn a_new_title_in_company_config_makes_a_new_tab_and_leaves_the_old_one() {
    let world = world_of_two_companies().await;
    world.settle().await;
    sqlx::query("UPDATE control.company_config SET tab_pending = 'Fresh' WHERE company_id = '710'").execute(&world.pool).await.unwrap();
    world.settle().await;
    assert_eq!(world.book().grid("Fresh").texts("Source"), ["A"]);
    assert_eq!(world.book().grid("710 Pending").texts("Source"), ["A"]);
}

#[tokio::test]
async fn an_empty_tab_that_a_person_made_gets_header_and_rows() {
    let world = world_of_two_companies().await;
    world.service.edit(SHEET, |book| book.grids.push(crate::post_support::book::Grid::new(77, "710 pending", 1, 3)));
    world.settle().await;
    let tab = world.book().grid("710 pending").clone();
    assert_eq!((tab.sheet_id, tab.frozen_rows), (77, 1));
    assert_eq!(tab.texts("Source"), ["A"]);
}

#[tokio::test]
async fn the_sweep_repairs_drift_although_nothing_is_due() {
    let world = world_of_two_companies().await;
    world.settle().await;
    world.edit("710", |tab| tab.set(1, "Source", Value::Text("DRIFT".to_owned())));
    let mut options = world.options();
    options.sweep = Duration::from_secs(3600);
    let poster = Poster::new(options);
    assert_eq!(poster.post_once().await.unwrap(), PostRound::default());
    world.clock.advance(Duration::from_secs(3601));
    assert_eq!(poster.post_once().await.unwrap().posted, 1);
    assert_eq!(world.pending("710").texts("Source"), ["A"]);
    assert_eq!(poster.post_once().await.unwrap(), PostRound::default(), "and then rests for another hour");
}

#[tokio::test]
async fn a_spreadsheet_under_a_living_lease_is_left_to_its_holder_and_passes_on_when_the_lease_runs_out() {
    let world = world_of_two_companies().await;
    let take = "WITH s AS (INSERT INTO control.spreadsheets (spreadsheet_id, lease_holder, leased_until)
                VALUES ('sheet-1', gen_random_uuid(), now() + interval '45 s') RETURNING 1) SELECT count(*) FROM s";
    world.count(take).await;
    assert_eq!(world.post().await.held_elsewhere, 1);
    assert!(world.service.lock().calls.is_empty());
    world.count("WITH s AS (UPDATE control.spreadsheets SET leased_until = now() - interval '1 s' RETURNING 1) SELECT count(*) FROM s").await;
    world.assert_equal("710").await;
}

#[tokio::test]
async fn a_preview_changes_nothing_and_says_what_a_post_would_change() {
    let world = world_of_two_companies().await;
    let previews = world.poster().preview(&world.route("710").await).await.unwrap();
    assert!(previews.iter().all(|preview| preview.seen.is_none()));
    assert_eq!(previews[0].plan.as_ref().unwrap().appended, 1);
    assert_eq!(world.service.n_calls("apply"), 0);
    assert_eq!(world.count("SELECT count(*) FROM control.sheet_tabs").await, 0);
    world.settle().await;
    let previews = world.poster().preview(&world.route("710").await).await.unwrap();
    assert!(previews.iter().all(|preview| preview.plan.as_ref().unwrap().is_empty()));
}

#[tokio::test]
async fn the_loop_posts_what_was_waiting_and_what_another_process_announces_and_ends_when_cancelled() {
    let world = Arc::new(world_of_two_companies().await);
    let mut options = world.options();
    options.clock = Arc::new(kylo::domain::clock::SystemClock);
    let poster = Arc::new(Poster::new(options));
    let cancel = CancellationToken::new();
    let running = tokio::spawn({
        let (poster, cancel) = (Arc::clone(&poster), cancel.clone());
        async move { poster.run(cancel).await }
    });
    let shows = async |source: &str| {
        loop {
            if world.book().has("710 Pending") && world.pending("710").texts("Source").contains(&source.to_owned()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), shows("A")).await.expect("what was waiting at the start is posted");
    world.add("710", "late", "LATE", 1).await;
    kylo::store::control::due::announce(&world.pool).await.unwrap();
    tokio::time::timeout(Duration::from_secs(120), shows("LATE")).await.expect("it is posted");
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(120), running).await.expect("the loop ends").unwrap();
}

#[tokio::test]
async fn a_spreadsheet_whose_call_hangs_holds_up_no_other_spreadsheet() {
    let world = Arc::new(world_of_two_companies().await);
    let book = Book { grids: vec![Grid::new(0, "Sheet1", 100, 26)], metadata: Vec::new() };
    world.service.lock().books.insert("sheet-2".to_owned(), book);
    world.count("WITH moved AS (UPDATE control.company_config SET spreadsheet_id = 'sheet-2' WHERE company_id = '711' RETURNING 1) SELECT count(*) FROM moved").await;
    world.settle().await;
    world.service.fault(Fault::Freezes);
    world.add("710", "late", "LATE", 1).await;
    let poster = Poster::new(world.options());
    let cancel = CancellationToken::new();
    let running = tokio::spawn({
        let cancel = cancel.clone();
        async move { poster.run(cancel).await }
    });
    let until = async |is_so: &dyn Fn() -> bool| {
        let waited = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), waited).await.expect("it comes to be so");
    };
    world.service.holds_a_call().await;
    world.add("711", "other", "OTHER", 1).await;
    let grid_shows = || world.service.book("sheet-2").grid("711 Pending").texts("Source").contains(&"OTHER".to_owned());
    until(&grid_shows).await;
    cancel.cancel();
    running.abort();
}

#[tokio::test]
async fn the_tabs_of_a_company_that_was_removed_can_be_used_under_a_new_id() {
    let world = world_of_two_companies().await;
    world.settle().await;
    kylo::store::control::admin::remove(&world.pool, &CompanyId::parse("711").unwrap()).await.unwrap();
    world.configure("712", &world.dsn).await;
    sqlx::query("UPDATE control.company_config SET tab_pending = '711 Pending', tab_active = '711 Active' WHERE company_id = '712'")
        .execute(&world.pool)
        .await
        .unwrap();
    world.add("712", "c", "C", 3).await;
    assert_eq!(world.post().await.parked, 0);
    assert_eq!(world.grid("711 Pending").texts("Source"), ["B", "C"]);
}

#[tokio::test]
async fn a_post_found_to_have_landed_in_a_spreadsheet_that_the_company_has_left_takes_nothing_from_the_new_binding() {
    let world = world_of_two_companies().await;
    world.service.fault(Fault::AppliedAnswerLost);
    world.post().await;
    let book = Book { grids: vec![Grid::new(0, "Sheet1", 100, 26)], metadata: Vec::new() };
    world.service.lock().books.insert("sheet-2".to_owned(), book);
    sqlx::query("UPDATE control.company_config SET spreadsheet_id = 'sheet-2' WHERE company_id = '711'").execute(&world.pool).await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    world.settle().await;
    let bound = "SELECT string_agg(DISTINCT spreadsheet_id, ' ') FROM control.sheet_tabs WHERE company_id = '711'";
    assert_eq!(world.text(bound).await, "sheet-2");
    assert_eq!(world.count("SELECT count(*) FROM control.sheet_intents WHERE state = 'in_doubt'").await, 0);
}

#[tokio::test]
async fn a_post_in_doubt_of_a_spreadsheet_that_is_no_companys_any_more_is_abandoned_after_a_day() {
    let world = World::new(&["710"]).await;
    world.add("710", "a", "A", 1).await;
    world.service.fault(Fault::Lost);
    world.post().await;
    sqlx::query("DELETE FROM control.company_config").execute(&world.pool).await.unwrap();
    world.post().await;
    assert_eq!(world.text("SELECT state FROM control.sheet_intents").await, "in_doubt", "it may still come back");
    sqlx::query("UPDATE control.sheet_intents SET created_at = now() - interval '25 hours'").execute(&world.pool).await.unwrap();
    world.post().await;
    assert_eq!(world.text("SELECT state FROM control.sheet_intents").await, "abandoned");
}
