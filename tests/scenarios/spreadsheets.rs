//! What people and administrators do to spreadsheets.

use fake_sheets::faults::Commit;
use fake_sheets::{Edit, Fault, FaultKind, Role, Tab};

use super::messages::{batch, row};
use super::world::{Mode, Place, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_version_of_the_spreadsheet_is_brought_up_to_date_also_while_a_post_is_under_way() {
    let mut world = World::with_partitions(1).await;
    world.add(&["710"]).await;
    world.start(&Mode::Post);
    world.one_more(&["710"], 0, "ALPHA").await;
    world.one_more(&["710"], 1, "BRAVO").await;
    world.type_in("710", "ALPHA", "Match_Notes", "from the old version");
    let version = world.model().snapshot("sheet-710").unwrap();
    world.one_more(&["710"], 2, "CHARLIE").await;
    world.approve("710", "BRAVO", "OPEX", "COFFEE");
    world.decide("710", "r-1").await;

    // Nothing is under way: the next post brings everything back, the approved row away and its rule onto the Active tab.
    world.model().restore("sheet-710", &version).unwrap();
    world.one_more(&["710"], 3, "DELTA").await;
    world.pending_shows("710", &["ALPHA", "CHARLIE", "DELTA"]).await;
    assert_eq!(world.pending_row("710", "ALPHA").unwrap().shown("Match_Notes"), "from the old version");
    assert_eq!(world.active("710").len(), 1);

    // A batch that was planned before the version came back arrives after it.
    let hang = FaultKind::Hang { hang_ms: 60_000, commit: Commit::OnRelease };
    world.model().push_fault(Fault::once("batchUpdate", hang).for_spreadsheet("sheet-710"));
    let at = world.publish(&batch("710", "b-ECHO", 4, &[row("ECHO", "-1.00", "ECHO")])).await;
    world.eventually("a post is under way", async || if world.model().waiting() > 0 { Ok(()) } else { Err("none".to_owned()) }).await;
    world.model().restore("sheet-710", &version).unwrap();
    world.model().release();
    world.consumed(&[at]).await;
    world.settled(&["710"]).await;
    world.one_more(&["710"], 5, "FOXTROT").await;
    world.pending_shows("710", &["ALPHA", "CHARLIE", "DELTA", "ECHO", "FOXTROT"]).await;
    assert_eq!(world.pending_row("710", "ALPHA").unwrap().shown("Match_Notes"), "from the old version");
    world.end_with_zero("after two restored versions").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_spreadsheet_that_is_configured_is_gone_on_with_and_the_original_is_left_alone() {
    let mut world = World::with_partitions(1).await;
    world.add(&["710"]).await;
    world.start(&Mode::Post);
    for (at, source) in ["ALPHA", "BRAVO", "CHARLIE"].into_iter().enumerate() {
        world.one_more(&["710"], i64::try_from(at).unwrap(), source).await;
    }
    world.approve("710", "ALPHA", "OPEX", "COFFEE");
    world.decide("710", "r-1").await;
    world.type_in("710", "BRAVO", "Match_Notes", "mine");

    // The company moves into the copy.
    copied(&world, "sheet-710", "copy-710");
    world.add_at(Place { spreadsheet: "copy-710".to_owned(), ..world.usual_place("710") }).await;
    let bound = "SELECT count(*) FROM control.sheet_tabs WHERE company_id = '710' AND spreadsheet_id = 'copy-710' AND posted_seq >= 0";
    world.control_counts(bound, 2).await;
    let original = world.model().texts("sheet-710", "710 Pending");
    world.one_more(&["710"], 3, "DELTA").await;
    assert_eq!(world.sources("710"), ["BRAVO", "CHARLIE", "DELTA"]);
    assert_eq!(world.pending_row("710", "BRAVO").unwrap().shown("Match_Notes"), "mine");
    assert_eq!(world.active("710").len(), 1);
    assert_eq!(world.model().texts("sheet-710", "710 Pending"), original);

    // Another company begins in a copy, under tab names of its own.
    copied(&world, "copy-710", "copy-711");
    world.add_at(Place { spreadsheet: "copy-711".to_owned(), ..world.usual_place("711") }).await;
    world.one_more(&["710", "711"], 4, "ECHO").await;
    assert_eq!(world.sources("711"), ["ECHO"]);
    assert_eq!(world.model().texts("copy-711", "710 Pending").len(), 4, "the copied tab of the other company stays as it was");
    world.end_with_zero("after two copies").await;
}

fn copied(world: &World, from: &str, to: &str) {
    world.model().copy_spreadsheet(from, Some(to)).unwrap();
    world.model().share(to, world.sheets.account(), Role::Writer).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_range_was_sorted_without_its_key_column_no_approval_counts_for_another_row() {
    let mut world = World::with_partitions(1).await;
    world.add(&["710"]).await;
    world.start(&Mode::Post);
    for (at, source) in ["ALPHA", "BRAVO", "CHARLIE"].into_iter().enumerate() {
        world.one_more(&["710"], i64::try_from(at).unwrap(), source).await;
    }
    // All are approved, and then only the middle one still stands beside its key.
    for source in ["ALPHA", "BRAVO", "CHARLIE"] {
        world.approve("710", source, "OPEX", &format!("FOR {source}"));
    }
    let range = Edit::SortRange { tab: Tab::from("710 Pending"), range: "B2:J4".to_owned(), by: "C".to_owned(), descending: true };
    world.edit("710", &[range]);
    world.decide("710", "r-1").await;
    let rules = world.texts("710", "SELECT source || ': ' || target_header FROM rules_active").await;
    assert_eq!(rules, ["BRAVO: FOR BRAVO"]);
    world.pending_shows("710", &["ALPHA", "CHARLIE"]).await;
    for source in ["ALPHA", "CHARLIE"] {
        let row = world.pending_row("710", source).unwrap();
        assert_eq!((row.shown("Approved"), row.shown("Status").starts_with("changed:")), ("FALSE", true), "{row:?}");
    }
    // Approved again where they stand now, they count.
    for source in ["ALPHA", "CHARLIE"] {
        world.approve("710", source, "OPEX", &format!("FOR {source}"));
    }
    world.decide("710", "r-2").await;
    let rules = world.texts("710", "SELECT source || ': ' || target_header FROM rules_active ORDER BY 1").await;
    assert_eq!(rules, ["ALPHA: FOR ALPHA", "BRAVO: FOR BRAVO", "CHARLIE: FOR CHARLIE"]);
    world.end_with_zero("after the range was sorted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posters_with_two_credentials_on_one_spreadsheet_post_each_row_once() {
    let companies = ["710", "711"];
    let mut world = World::with_partitions(4).await;
    for company in companies {
        world.add_at(Place { spreadsheet: "sheet-both".to_owned(), ..world.usual_place(company) }).await;
    }
    let second = "second@fake.example";
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), world.sheets.add_account(second).unwrap().to_string()).unwrap();
    world.model().share("sheet-both", second, Role::Writer).unwrap();
    world.start(&Mode::Post);
    world.variables.insert("GOOGLE_APPLICATION_CREDENTIALS", key.path().display().to_string());
    world.start(&Mode::Post);

    let wrote = |account: &str| world.calls().iter().any(|call| call.op == "batchUpdate" && call.applied && call.account == account);
    let mut rounds = 0;
    while !(wrote(second) && wrote(world.sheets.account())) {
        assert!(rounds < 60, "one of the credentials never posts");
        world.one_more(&companies, rounds, &format!("ROW {rounds}")).await;
        rounds += 1;
    }
    // One of them is stuck in a call until its lease is over and the other one has posted.
    let hang = FaultKind::Hang { hang_ms: 60_000, commit: Commit::OnRelease };
    world.model().push_fault(Fault::once("batchUpdate", hang).for_spreadsheet("sheet-both"));
    let at = world.publish(&batch("710", "b-stuck", rounds, &[row("STUCK", "-1.00", "STUCK")])).await;
    world.eventually("a call hangs", async || if world.model().waiting() > 0 { Ok(()) } else { Err("none".to_owned()) }).await;
    world.control_execute("UPDATE control.spreadsheets SET leased_until = now() - interval '1 s'").await;
    world.eventually("the other one posts", async || world.pending_row("710", "STUCK").map(drop)).await;
    world.model().release();
    world.consumed(&[at]).await;
    world.one_more(&companies, rounds + 1, "LAST").await;
    for company in companies {
        world.assert_tab_equals_postgres(company).await;
    }
    world.end_with_zero("after two credentials have posted").await;
}
