//! What is down, wrong or missing outside: said clearly, nobody else disturbed, and over without a restart once it is mended.

use std::time::{Duration, Instant};

use fake_sheets::Role;
use kylo::runtime::Workers;
use serde_json::Value;
use sqlx::AssertSqlSafe;

use super::database::Database;
use super::databases::server;
use super::messages::{batch, row};
use super::proxy::Proxy;
use super::world::{ALL, Mode, Place, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_a_company_whose_database_is_down_waits_while_others_flow_and_recovers_in_order() {
    let mut world = World::new().await;
    let sick = Database::create().await;
    let (proxy, dsn) = Proxy::before(&sick.dsn).await;
    let place = Place { dsn, pool: sick.pool.clone(), ..world.usual_place("sick") };
    world.add_at(place).await;
    world.add(&["well"]).await;
    world.start(&Mode::Post);
    world.publish(&batch("sick", "b-0000", 0, &[row("t", "1.00", "FIRST")])).await;
    world.pending_shows("sick", &["FIRST"]).await;

    proxy.cut();
    // More than a company may keep in memory, so the rest of them goes into its queue in the control database.
    let total = 1_100;
    let mut messages: Vec<Value> = (1..=total).map(|n| batch("sick", &format!("b-{n:04}"), n, &[row("t", &format!("{n}.00"), "RUNNING")])).collect();
    messages.push(batch("well", "b-1", 0, &[row("t1", "-1.00", "FLOWS")]));
    let at = world.publish_all(&messages).await;
    world.pending_shows("well", &["FLOWS"]).await;
    world.consumed(&at).await;
    let held = world.control_number("SELECT count(*) FROM control.held_messages WHERE company_id = 'sick'").await;
    assert_eq!(held, total, "I5: every offset is committed, so every message of the sick company is held");
    let reasons = world.control_texts("SELECT company_id || ' ' || state FROM control.company_trouble WHERE work = 'ingest'").await;
    assert_eq!(reasons, ["sick down"]);

    proxy.mend();
    world.company_counts("sick", "SELECT count(*) FROM ingest_batches", total + 1).await;
    world.control_counts("SELECT count(*) FROM control.held_messages", 0).await;
    let order = world.texts("sick", "SELECT batch_id FROM ingest_batches ORDER BY seq").await;
    assert!(order.is_sorted(), "I6: out of order: {order:?}");
    world.pending_shows("sick", &["RUNNING"]).await;
    world.settled(&["sick", "well"]).await;
    world.assert_tab_equals_postgres("sick").await;
    assert_eq!(world.pending_row("sick", "RUNNING").unwrap().cells["Amount"].value, 1_100.0);
    world.control_counts("SELECT count(*) FROM control.company_trouble", 0).await;
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_database_that_goes_away_and_comes_back_stops_everything_and_loses_nothing() {
    let mut world = World::new().await;
    world.add(&["710", "711"]).await;
    let health = world.serve_http();
    world.start_workers(&Mode::Post, Workers { http: Some(0), ..ALL });
    world.publish(&batch("710", "b-0", 0, &[row("t0", "-1.00", "BEFORE")])).await;
    world.pending_shows("710", &["BEFORE"]).await;
    world.settled(&["710"]).await;
    health.is_ready(&world).await;

    let (admin, name) = (server().await, world.control.dsn.rsplit('/').next().unwrap().to_owned());
    let run = async |sql: String| sqlx::raw_sql(AssertSqlSafe(sql)).execute(&admin).await.unwrap();
    run(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    run(format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")).await;
    let began = Instant::now();
    health.is_not_ready(&world, "control").await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "readiness says so within two seconds, and a little for a busy machine: {:?}",
        began.elapsed()
    );
    let mut at = Vec::new();
    for n in 1..=20 {
        for company in ["710", "711"] {
            at.push(world.publish(&batch(company, &format!("b-{n:02}"), n, &[row(&format!("t{n}"), "-1.00", &format!("MEANWHILE {n}"))])).await);
        }
    }
    health.is_not_ready(&world, "control").await;
    run(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;

    world.consumed(&at).await;
    for (company, batches) in [("710", 21), ("711", 20)] {
        world.company_counts(company, "SELECT count(*) FROM ingest_batches", batches).await;
        assert_eq!(world.number(company, "SELECT count(*) FROM pending_txns WHERE status = 'open'").await, batches);
    }
    world.settled(&["710", "711"]).await;
    for company in ["710", "711"] {
        world.assert_tab_equals_postgres(company).await;
        world.assert_decided_once(company).await;
    }
    assert_eq!(world.control_number("SELECT count(*) FROM control.dead_letters").await, 0, "an outage is no poison");
    health.is_ready(&world).await;
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_dsn_is_told_without_its_password_disturbs_nobody_and_is_over_when_it_is_mended() {
    let mut world = World::new().await;
    world.add(&["well", "noform", "nodatabase", "noserver"]).await;
    let right = url::Url::parse(&world.books.dsn).unwrap();
    let password = right.password().filter(|password| !password.is_empty()).unwrap_or("hunter2").to_owned();
    let (mut no_database, mut no_server) = (right.clone(), right);
    no_database.set_path("/no_such_database");
    no_server.set_port(Some(1)).unwrap();
    let wrongs = [
        ("noform", "not a dsn hunter2".to_owned(), "parked", "db_dsn_rw"),
        // With the right password: a server that asks for one refuses a wrong one before it looks for the database.
        ("nodatabase", no_database.to_string(), "parked", "no_such_database"),
        ("noserver", with_password(no_server), "down", "connection"),
    ];
    for (company, dsn, _, _) in &wrongs {
        world.configure(&Place { dsn: dsn.clone(), ..world.place(company).clone() }).await;
    }
    world.start(&Mode::Post);
    let companies = ["noform", "nodatabase", "noserver", "well"];
    let messages: Vec<Value> = companies.iter().map(|company| batch(company, "b-1", 0, &[row("t1", "-1.00", "ROW")])).collect();
    let at = world.publish_all(&messages).await;
    world.pending_shows("well", &["ROW"]).await;
    for (company, _, state, reason) in &wrongs {
        let sql = format!("SELECT state || ' ' || reason FROM control.company_trouble WHERE company_id = '{company}'");
        let said = world
            .eventually(&format!("{company} is {state}: {reason}"), async || {
                let said = world.control_texts(&sql).await;
                if said.iter().any(|line| line.starts_with(state) && line.contains(reason)) { Ok(said) } else { Err(format!("{said:?}")) }
            })
            .await;
        assert!(said.iter().all(|line| !line.contains("hunter2") && !line.contains(&password)), "I10: {said:?}");
        assert_eq!(world.number(company, "SELECT count(*) FROM ingest_batches").await, 0);
    }
    for (company, ..) in &wrongs {
        world.configure(world.place(company)).await;
    }
    world.consumed(&at).await;
    for company in companies {
        world.pending_shows(company, &["ROW"]).await;
    }
    world.control_counts("SELECT count(*) FROM control.company_trouble", 0).await;
    world.end_with_zero("in the end").await;
}

fn with_password(mut dsn: url::Url) -> String {
    dsn.set_password(Some("hunter2")).unwrap();
    dsn.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spreadsheet_that_is_not_shared_is_parked_with_advice_and_posted_when_it_is_shared_and_the_row_touched() {
    let mut world = World::new().await;
    world.add(&["710", "711"]).await;
    world.model().unshare("sheet-711", world.sheets.account()).unwrap();
    world.start(&Mode::Post);
    for company in ["710", "711"] {
        world.publish(&batch(company, "b-1", 0, &[row("t1", "-1.00", "ROW")])).await;
    }
    world.pending_shows("710", &["ROW"]).await;
    let reason = world
        .eventually("the spreadsheet is parked", async || {
            let reasons =
                world.control_texts("SELECT reason FROM control.spreadsheets WHERE spreadsheet_id = 'sheet-711' AND state = 'parked'").await;
            reasons.into_iter().next().ok_or_else(|| "not parked".to_owned())
        })
        .await;
    assert!(reason.contains("share spreadsheet sheet-711 with the service account as editor"), "{reason}");
    assert_eq!(world.number("711", "SELECT count(*) FROM pending_txns WHERE status = 'open'").await, 1, "Postgres is not held up by Sheets");

    world.model().share("sheet-711", world.sheets.account(), Role::Writer).unwrap();
    world.control_execute("UPDATE control.company_config SET updated_at = now() WHERE company_id = '711'").await;
    world.pending_shows("711", &["ROW"]).await;
    world.control_counts("SELECT count(*) FROM control.spreadsheets WHERE state <> 'ok'", 0).await;
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_topic_makes_the_worker_not_ready_by_name_and_is_consumed_when_it_is_made() {
    let mut world = World::without_topics().await;
    world.add(&["710"]).await;
    let health = world.serve_http();
    world.start_workers(&Mode::Shadow, Workers { http: Some(0), ..ALL });
    health.is_not_ready(&world, "kylo topics ensure").await;
    world.make_topics(2).await;
    world.publish(&batch("710", "b-1", 0, &[row("t1", "-1.00", "ROW")])).await;
    world.company_counts("710", "SELECT count(*) FROM pending_txns WHERE status = 'open'", 1).await;
    health.is_ready(&world).await;
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_a_company_whose_database_never_answers_delays_nobody_elses_post() {
    let mut world = World::new().await;
    world.add(&["well", "mute"]).await;
    // Takes connections and says nothing: the slowest way of being down.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut dsn = url::Url::parse(&world.books.dsn).unwrap();
    dsn.set_host(Some("127.0.0.1")).unwrap();
    dsn.set_port(Some(silent.local_addr().unwrap().port())).unwrap();
    world.start(&Mode::Post);
    let mut n = 0;
    let mut posted_in = async |world: &World| {
        n += 1;
        let (began, source) = (Instant::now(), format!("ROW {n}"));
        world.publish(&batch("well", &format!("b-{n}"), n, &[row(&format!("t{n}"), "-1.00", &source)])).await;
        world.eventually(&source, async || world.pending_row("well", &source).map(drop)).await;
        began.elapsed()
    };
    // The first makes the tabs.
    posted_in(&world).await;
    let mut usual = Duration::ZERO;
    for _ in 0..5 {
        usual = usual.max(posted_in(&world).await);
    }
    world.configure(&Place { dsn: dsn.to_string(), ..world.place("mute").clone() }).await;
    world.publish(&batch("mute", "b-1", 0, &[row("t1", "-1.00", "NEVER")])).await;
    // It was asked once, for longer than later.
    world.control_counts("SELECT count(*) FROM control.company_trouble WHERE company_id = 'mute' AND work = 'post'", 1).await;
    // Long enough for the silent database to be tried again, twice.
    let (mut longest, started) = (Duration::ZERO, Instant::now());
    while started.elapsed() < Duration::from_secs(15) {
        longest = longest.max(posted_in(&world).await);
    }
    // It is asked for two seconds; the rest is for a machine that is busy with other tests, as it was a moment ago.
    assert!(
        longest < Duration::from_secs(3) + 3 * usual,
        "a post took {longest:?} while another company's database did not answer, before {usual:?}"
    );
    drop(silent);
    // A company whose database does not answer cannot be audited.
    world.end().await;
}
