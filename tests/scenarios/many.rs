//! A thousand companies.

use kylo::runtime::audit::{Options, Tabs, audit};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

use super::database::Database;
use super::messages::{batch, row};
use super::proxy::Proxy;
use super::world::{Mode, Place, World};

const COMPANIES: usize = 1_000;
/// Every two-hundredth one.
const DOWN: usize = 5;

fn id(n: usize) -> String {
    format!("c{n:04}")
}

fn is_down(n: usize) -> bool {
    n % (COMPANIES / DOWN) == 7
}

/// All of them in one schema for those that work and one for those that will be down, each fifty in a spreadsheet.
async fn configured(world: &mut World, down: &Database, dsn_of_down: &str) {
    let place = |world: &World, n: usize| {
        let (dsn, pool): (String, PgPool) =
            if is_down(n) { (dsn_of_down.to_owned(), down.pool.clone()) } else { (world.books.dsn.clone(), world.books.pool.clone()) };
        Place { dsn, pool, schema: "app_all".to_owned(), spreadsheet: format!("sheet-{}", n / 50), ..world.usual_place(&id(n)) }
    };
    // The first of each kind makes schema and spreadsheet, and is asked for all.
    for n in [0, 7] {
        let place = place(world, n);
        world.add_at(place).await;
    }
    let places: Vec<Place> = (0..COMPANIES).map(|n| place(world, n)).collect();
    let column = |of: fn(&Place) -> &str| places.iter().map(|place| of(place).to_owned()).collect::<Vec<String>>();
    let sql = "INSERT INTO control.company_config (company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active)
               SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) ON CONFLICT DO NOTHING";
    sqlx::query(AssertSqlSafe(sql.to_owned()))
        .bind(column(|place| &place.company))
        .bind(column(|place| &place.dsn))
        .bind(column(|place| &place.schema))
        .bind(column(|place| &place.spreadsheet))
        .bind(column(|place| &place.pending))
        .bind(column(|place| &place.active))
        .execute(&world.control.pool)
        .await
        .unwrap();
}

/// What is remembered of the outage is an hour older: the first three messages of each that is down wait, and it was tried as often as it would have been.
async fn an_hour_passes(world: &World) {
    world.control_counts("SELECT count(*) FROM control.held_messages", i64::try_from(3 * DOWN).unwrap()).await;
    world
        .control_execute(
            "UPDATE control.held_messages SET held_at = held_at - interval '1 hour', record_timestamp = record_timestamp - interval '1 hour';
             UPDATE control.company_trouble SET since = since - interval '1 hour', retry_at = now() - interval '1 s', drain_until = drain_until - interval '1 hour'",
        )
        .await;
    // Tried again, in vain.
    world.control_counts("SELECT count(*) FROM control.company_trouble WHERE retry_at <= now() OR since > now() - interval '1 hour'", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_companies_on_sixteen_partitions_five_may_be_down_for_an_hour_and_nobody_else_waits() {
    let mut world = World::with_partitions(16).await;
    let down = Database::create().await;
    let (proxy, dsn) = Proxy::before(&down.dsn).await;
    configured(&mut world, &down, &dsn).await;
    proxy.cut();
    world.start(&Mode::Shadow);
    let mut delivered = Vec::new();
    for at in 0..4 {
        let one = |n: usize| {
            batch(&id(n), &format!("b-{at}"), at, &[row("same", &format!("{at}.00"), "CORRECTED"), row(&format!("n{at}"), "-1.00", "NEW")])
        };
        let messages: Vec<Value> = (0..COMPANIES).map(one).collect();
        delivered.extend(world.publish_all(&messages).await);
        if at == 2 {
            an_hour_passes(&world).await;
        }
    }
    let count = |n: usize| i64::try_from(4 * n).unwrap();
    world.company_counts(&id(0), "SELECT count(*) FROM ingest_batches", count(COMPANIES - DOWN)).await;
    world.control_counts("SELECT count(*) FROM control.held_messages", count(DOWN)).await;
    assert_eq!(world.number(&id(7), "SELECT count(*) FROM ingest_batches").await, 0);
    proxy.mend();
    world.consumed(&delivered).await;
    world.company_counts(&id(7), "SELECT count(*) FROM ingest_batches", count(DOWN)).await;
    world.control_counts("SELECT count(*) FROM control.company_trouble", 0).await;
    world.stop().await;
    let options = Options { tabs: Tabs::Skip, ..Options::default() };
    let report = audit(&world.settings(&Mode::Shadow), &options).await.unwrap();
    assert!(report.is_clean() && report.taken_from_postgres.is_empty(), "{}\n{}", report.summary(), super::judge::lines(&report));
    assert_eq!((report.companies, report.books_recomputed), (1_000, 1_000), "{}", report.summary());
    world.end().await;
}
