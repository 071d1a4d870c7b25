//! Databases that are restored to a backup, and a schema that is moved.

use kylo::audit::report::Class;

use super::database::Database;
use super::messages::{batch, row};
use super::steps::becomes;
use super::world::{Mode, Place, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_company_database_restored_to_a_backup_empties_no_tab_and_is_filled_again_from_the_topic() {
    let mut world = World::with_partitions(1).await;
    world.add(&["710"]).await;
    world.start(&Mode::Post);
    world.one_more(&["710"], 0, "ALPHA").await;
    world.one_more(&["710"], 1, "BRAVO").await;
    world.approve("710", "ALPHA", "OPEX", "COFFEE");
    world.decide("710", "r-1").await;
    world.stop().await;
    let backup = Database::create().await;
    becomes(&backup, &world.books).await;

    world.start(&Mode::Post);
    world.one_more(&["710"], 2, "CHARLIE").await;
    world.one_more(&["710"], 3, "DELTA").await;
    let corrected = world.publish(&batch("710", "b-corrected", 4, &[row("BRAVO", "-2.00", "BRAVO"), row("a-2", "-9.00", "ALPHA")])).await;
    world.consumed(&[corrected]).await;
    world.settled(&["710"]).await;
    world.type_in("710", "CHARLIE", "Match_Notes", "mine");
    world.stop().await;
    becomes(&world.books, &backup).await;

    world.start(&Mode::Post);
    // What the backup does not know stays on the tab, and says so.
    world
        .eventually("rows that the backup does not know are told", async || {
            let unknown = world.pending("710").iter().filter(|row| row.shown("Status").starts_with("unknown:")).count();
            if unknown == 2 { Ok(()) } else { Err(format!("{unknown}: {:?}", world.sources("710"))) }
        })
        .await;
    world.audit_finds("the database has forgotten a batch", Class::Lost, "batch b-CHARLIE").await;
    let run = world.kylo(&["backfill", "--source", "topic", "--company", "710", "--since", "2020-01-01T00:00:00Z", "--yes"]).await;
    assert_eq!(run.code, 0, "{run:?}");
    world.company_counts("710", "SELECT count(*) FROM ingest_batches", 5).await;
    world.settled(&["710"]).await;
    world.pending_shows("710", &["BRAVO", "CHARLIE", "DELTA"]).await;
    let row = world.pending_row("710", "CHARLIE").unwrap();
    assert_eq!((row.shown("Match_Notes"), row.shown("Status")), ("mine", ""));
    assert_eq!(world.number("710", "SELECT count(*) FROM matched_txns WHERE state = 'queued'").await, 2);
    world.stop().await;
    let report = world.audit().await;
    assert!(report.is_clean() && report.books_recomputed == 1, "{}\n{}", report.summary(), super::judge::lines(&report));
    let taken: Vec<_> = report.taken_from_postgres.iter().map(|taken| (taken.what, taken.count)).collect();
    assert_eq!(taken, [("messages", 3)], "the batches since the backup, as the backfill says");
    // Without its record they are lost.
    world.control_execute("DELETE FROM control.backfills").await;
    world.audit_finds("the backfill is not on record", Class::Lost, "batch b-DELTA").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_database_restored_to_a_backup_doubles_nothing_and_what_it_has_forgotten_is_named() {
    let mut world = World::with_partitions(1).await;
    world.add(&["710", "711"]).await;
    world.start(&Mode::Post);
    world.one_more(&["710", "711"], 0, "ALPHA").await;
    world.one_more(&["710", "711"], 1, "BRAVO").await;
    world.stop().await;
    let backup = Database::create().await;
    becomes(&backup, &world.control).await;

    world.start(&Mode::Post);
    world.one_more(&["710", "711"], 2, "CHARLIE").await;
    world.approve("710", "ALPHA", "OPEX", "COFFEE");
    world.decide("710", "r-1").await;
    world.stop().await;
    let before: Vec<_> = ["710", "711"].map(|company| world.sources(company)).into();
    becomes(&world.control, &backup).await;

    // Its posts are forgotten, the tabs are due again: each row stays once, and the fence goes on from what the spreadsheet says.
    world.start(&Mode::Post);
    world.settled(&["710", "711"]).await;
    assert_eq!(["710", "711"].map(|company| world.sources(company)).to_vec(), before);
    world.one_more(&["710", "711"], 3, "DELTA").await;
    world.pending_shows("710", &["BRAVO", "CHARLIE", "DELTA"]).await;
    world.pending_shows("711", &["ALPHA", "BRAVO", "CHARLIE", "DELTA"]).await;
    world.stop().await;
    world.audit_is_clean("after the control database was restored").await;

    // A dead letter since the backup is nowhere any more: the auditor names it, and nothing else.
    world.start(&Mode::Post);
    let poison = world.publish_raw(&world.topic_txns(), Some("710"), Some(b"{not json"), &[]).await;
    world.consumed(&[poison]).await;
    world.stop().await;
    world.audit_is_clean("with the letter").await;
    becomes(&backup, &world.control).await;
    world.control_execute("DELETE FROM control.dead_letters").await;
    let report = world.audit().await;
    let named: Vec<_> = report.findings.iter().map(|finding| finding.origin.clone()).collect();
    assert_eq!(named, [format!("{}/{}/{}", world.topic_txns(), poison.partition, poison.offset)], "{}", super::judge::lines(&report));
    becomes(&world.control, &backup).await;
    world.end_with_zero("with the letter back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_company_whose_schema_is_moved_waits_until_the_configuration_follows_and_goes_on_in_order() {
    let mut world = World::with_partitions(2).await;
    world.add(&["710", "711"]).await;
    world.start(&Mode::Post);
    world.one_more(&["710", "711"], 0, "ALPHA").await;
    sqlx::raw_sql("ALTER SCHEMA app_710 RENAME TO app_moved").execute(&world.books.pool).await.unwrap();
    let mut delivered = Vec::new();
    for at in 1..6 {
        for company in ["710", "711"] {
            delivered.push(world.publish(&batch(company, &format!("b-{at}"), at, &[row("ALPHA", &format!("-{}.00", at + 1), "ALPHA")])).await);
        }
    }
    world.company_counts("711", "SELECT count(*) FROM ingest_batches", 6).await;
    let trouble = "SELECT count(*) FROM control.company_trouble WHERE company_id = '710' AND work = 'ingest' AND state = 'parked'";
    world.control_counts(trouble, 1).await;
    world.add_at(Place { schema: "app_moved".to_owned(), ..world.usual_place("710") }).await;
    world.consumed(&delivered).await;
    world.company_counts("710", "SELECT count(*) FROM ingest_batches", 6).await;
    world.settled(&["710", "711"]).await;
    assert_eq!(world.pending_row("710", "ALPHA").unwrap().cells["Amount"].value, -6.0);
    world.control_counts("SELECT count(*) FROM control.company_trouble", 0).await;
    world.end_with_zero("after the schema was moved").await;
}
