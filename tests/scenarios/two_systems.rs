//! A staging system made from a copy of the control database, with posting on.

use kylo::runtime::Workers;

use super::database::Database;
use super::steps::becomes;
use super::world::{ALL, Mode, World};

/// The companies' databases and the spreadsheets are in the copied configuration, so a poster is all it takes to do harm.
const POSTER: Workers = Workers { txns: false, promote: false, ..ALL };

/// Starts a poster of the staging system.
fn start_staging(world: &mut World, staging: &Database, environment: &str) {
    let before = world.variables.clone();
    world.variables.insert("PG_DSN_RW", staging.dsn.clone());
    world.variables.insert("KYLO_ENVIRONMENT", environment.to_owned());
    world.start_workers(&Mode::Post, POSTER);
    world.variables = before;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_staging_copy_of_the_control_database_with_posting_on_writes_nothing_and_says_why() {
    let mut world = World::with_partitions(1).await;
    world.add(&["710"]).await;
    world.start(&Mode::Post);
    world.one_more(&["710"], 0, "ALPHA").await;
    world.stop().await;
    let staging = Database::create().await;
    becomes(&staging, &world.control).await;

    world.start(&Mode::Post);
    world.one_more(&["710"], 1, "BRAVO").await;
    world.stop().await;
    let applied = world.applied("710");
    start_staging(&mut world, &staging, "staging");
    let parked = "SELECT count(*) FROM control.spreadsheets WHERE state = 'parked' AND reason LIKE '%take-over%'";
    world
        .eventually("staging parks the spreadsheet by name", async || {
            if staging.scalar::<i64>(parked).await == 1 { Ok(()) } else { Err("not parked".to_owned()) }
        })
        .await;
    assert_eq!(world.applied("710"), applied, "staging has written into the spreadsheet");
    // Production goes on beside it.
    world.start(&Mode::Post);
    world.one_more(&["710"], 2, "CHARLIE").await;
    world.stop().await;
    world.audit_is_clean("beside a staging system with a name of its own").await;

    // Where nobody gave it a name of its own, two systems take each other for one: still each row stands once.
    staging.execute("UPDATE control.spreadsheets SET state = 'ok', retry_at = now()").await;
    start_staging(&mut world, &staging, "default");
    world.start(&Mode::Post);
    for at in 3..9 {
        world.one_more(&["710"], at, &format!("ROW {at}")).await;
    }
    world.assert_tab_equals_postgres("710").await;
    world.end_with_zero("beside a staging system with the same name").await;
}
