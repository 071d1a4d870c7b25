//! A failover to a read-only standby, and a full disk: of companies' databases while others flow, and of the control database.

use std::time::{Duration, Instant};

use kylo::runtime::Workers;
use serde_json::Value;

use super::database::Database;
use super::databases::server;
use super::messages::{batch, row};
use super::proxy::Proxy;
use super::steps::{end_sessions, execute, name};
use super::world::{ALL, Mode, Place, World};

const COMPANIES: [&str; 3] = ["standby", "full", "well"];
/// What PostgreSQL says when it cannot extend a file.
const FULL: &str = "CREATE FUNCTION disk_is_full() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'could not extend file \"base/16384/2619\": No space left on device' USING ERRCODE = '53100'; END $$;";

async fn publish(world: &World, from: i64, to: i64) -> Vec<kylo::adapters::kafka::producer::Delivered> {
    let one = |at: i64| {
        COMPANIES.map(|company| {
            batch(company, &format!("b-{at}"), at, &[row("t", &format!("-{at}.00"), "CORRECTED"), row(&format!("n{at}"), "-1.00", "NEW")])
        })
    };
    let messages: Vec<Value> = (from..to).flat_map(one).collect();
    world.publish_all(&messages).await
}

/// As after a failover to a standby: every session ends, and new ones cannot write.
async fn read_only(database: &Database, is_read_only: bool) {
    let (admin, name) = (server().await, name(database));
    execute(&admin, format!("ALTER DATABASE {name} SET default_transaction_read_only = {is_read_only}")).await.unwrap();
    end_sessions(&admin, &name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn companies_on_a_read_only_standby_or_a_full_disk_wait_held_in_order_while_others_flow() {
    let mut world = World::with_partitions(2).await;
    let (standby, full) = (Database::create().await, Database::create().await);
    for (company, database) in [("standby", &standby), ("full", &full)] {
        world.add_at(Place { dsn: database.dsn.clone(), pool: database.pool.clone(), ..world.usual_place(company) }).await;
    }
    world.add(&["well"]).await;
    world.start(&Mode::Post);
    let delivered = publish(&world, 1, 3).await;
    world.consumed(&delivered).await;
    world.settled(&COMPANIES).await;

    read_only(&standby, true).await;
    world
        .execute("full", &format!("{FULL} CREATE TRIGGER full_disk BEFORE INSERT ON transactions FOR EACH ROW EXECUTE FUNCTION disk_is_full()"))
        .await;
    let delivered = publish(&world, 3, 8).await;
    world.company_counts("well", "SELECT count(*) FROM ingest_batches", 7).await;
    world.settled(&["well"]).await;
    // Down for half a minute: their messages are durable in the queue, so no offset waits for them.
    world.consumed(&delivered).await;
    world.control_counts("SELECT count(*) FROM control.held_messages", 10).await;
    let reasons =
        world.control_texts("SELECT company_id || ' ' || state || ' ' || reason FROM control.company_trouble WHERE work = 'ingest' ORDER BY 1").await;
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[0].starts_with("full down") && reasons[1].starts_with("standby down"), "{reasons:?}");
    assert_eq!(world.control_number("SELECT count(*) FROM control.dead_letters").await, 0, "an outage is no poison");

    read_only(&standby, false).await;
    world.execute("full", "DROP TRIGGER full_disk ON transactions").await;
    let delivered = publish(&world, 8, 10).await;
    world.consumed(&delivered).await;
    for company in COMPANIES {
        world.company_counts(company, "SELECT count(*) FROM ingest_batches", 9).await;
    }
    world.control_counts("SELECT count(*) FROM control.held_messages", 0).await;
    world.settled(&COMPANIES).await;
    for company in COMPANIES {
        assert_eq!(world.pending_row(company, "CORRECTED").unwrap().cells["Amount"].value, -9.0, "{company}");
    }
    world.control_counts("SELECT count(*) FROM control.company_trouble", 0).await;
    world.end_with_zero("after a standby and a full disk").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_database_on_a_standby_or_a_full_disk_stops_what_needs_it_and_loses_nothing() {
    let mut world = World::with_partitions(1).await;
    world.add(&COMPANIES).await;
    let health = world.serve_http();
    world.start_workers(&Mode::Post, Workers { http: Some(0), ..ALL });
    let mut delivered = publish(&world, 1, 3).await;
    world.consumed(&delivered).await;
    world.settled(&COMPANIES).await;
    health.is_ready(&world).await;

    read_only(&world.control, true).await;
    let poison = world.publish_raw(&world.topic_txns(), Some("well"), Some(b"{not json"), &[]).await;
    delivered.push(poison);
    delivered.extend(publish(&world, 3, 6).await);
    health.is_not_ready(&world, "control").await;
    read_only(&world.control, false).await;
    world.consumed(&delivered).await;
    world.settled(&COMPANIES).await;
    assert_eq!(world.control_number("SELECT count(*) FROM control.dead_letters").await, 1, "the poison alone");
    health.is_ready(&world).await;

    // A full disk: no intent can be written, so nothing is posted.
    world
        .control_execute(&format!(
            "{FULL} CREATE TRIGGER full_disk BEFORE INSERT ON control.sheet_intents FOR EACH ROW EXECUTE FUNCTION disk_is_full()"
        ))
        .await;
    let applied = world.applied("well");
    let delivered = publish(&world, 6, 8).await;
    world.consumed(&delivered).await;
    world.company_counts("well", "SELECT count(*) FROM ingest_batches", 7).await;
    let reads = world.calls().len();
    world.eventually("posts are tried", async || if world.calls().len() > reads + 1 { Ok(()) } else { Err("no call".to_owned()) }).await;
    assert_eq!(world.applied("well"), applied, "nothing is sent without its intent");
    world.control_execute("DROP TRIGGER full_disk ON control.sheet_intents").await;
    world.settled(&COMPANIES).await;
    for company in COMPANIES {
        assert_eq!(world.pending_row(company, "CORRECTED").unwrap().cells["Amount"].value, -7.0, "{company}");
    }
    world.end_with_zero("after the control database was on a standby and on a full disk").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_server_that_freezes_in_the_middle_holds_up_neither_others_nor_a_stop() {
    let mut world = World::with_partitions(2).await;
    let frozen = Database::create().await;
    let (proxy, dsn) = Proxy::before(&frozen.dsn).await;
    world.add_at(Place { dsn, pool: frozen.pool.clone(), ..world.usual_place("frozen") }).await;
    world.add(&["well"]).await;
    world.start(&Mode::Post);
    world.one_more(&["frozen", "well"], 0, "BEFORE").await;
    proxy.freeze();
    let mut delivered = Vec::new();
    for at in 1..4 {
        for company in ["frozen", "well"] {
            delivered.push(world.publish(&batch(company, &format!("b-{at}"), at, &[row(&format!("t{at}"), "-1.00", "MEANWHILE")])).await);
        }
    }
    world.company_counts("well", "SELECT count(*) FROM ingest_batches", 4).await;
    world.settled(&["well"]).await;
    let began = Instant::now();
    world.stop().await;
    // Its deadline is 5 s; the rest is for a machine that is busy with other tests.
    assert!(began.elapsed() < Duration::from_secs(30), "a stop took {:?}", began.elapsed());
    assert_eq!(world.number("frozen", "SELECT count(*) FROM ingest_batches").await, 1);
    proxy.mend();
    world.start(&Mode::Post);
    world.consumed(&delivered).await;
    world.company_counts("frozen", "SELECT count(*) FROM ingest_batches", 4).await;
    world.settled(&["frozen", "well"]).await;
    world.end_with_zero("after a database server was frozen").await;
}
