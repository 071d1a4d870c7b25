//! Nobody's rows anywhere but in their own place, and nobody's trouble but their own.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::database::Database;
use super::messages::{batch, row};
use super::world::{Mode, Place, World};

/// A routing as the original's messages carried it, put together from several companies' at random.
fn foreign_routing(random: &mut StdRng, places: &[Place]) -> Value {
    let mut routing = json!({});
    let mut put = |field: &str, of: fn(&Place) -> &str| {
        if random.random_bool(0.5) {
            routing[field] = of(places.choose(random).unwrap()).into();
        }
    };
    put("db_dsn_rw", |place| &place.dsn);
    put("db_schema", |place| &place.schema);
    put("spreadsheet_id", |place| &place.spreadsheet);
    put("tab_pending", |place| &place.pending);
    put("tab_active", |place| &place.active);
    routing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_a_thousand_random_routings_put_no_row_into_another_companys_place() {
    let mut world = World::new().await;
    let other = Database::create().await;
    world.add(&["710", "711"]).await;
    // A third in the first one's schema, a fourth in a database of its own under the first one's schema name.
    world.add_at(Place { schema: "app_710".to_owned(), ..world.usual_place("712") }).await;
    let elsewhere = Place { schema: "app_710".to_owned(), dsn: other.dsn.clone(), pool: other.pool.clone(), ..world.usual_place("713") };
    world.add_at(elsewhere).await;
    let ids = ["710", "711", "712", "713"];
    let places: Vec<Place> = ids.iter().map(|id| world.place(id).clone()).collect();
    world.variables.insert("KYLO_POISON_CAP", "100000".to_owned());
    world.start(&Mode::Post);

    let mut random = StdRng::seed_from_u64(710);
    let mut wanted_rows = 0;
    let mut messages = Vec::new();
    for n in 0..1_000 {
        let place = places.choose(&mut random).unwrap();
        let mut message = batch(&place.company, &format!("b-{n}"), 0, &[row(&format!("t{n}"), "1.00", &format!("OF {}", place.company))]);
        let routing = foreign_routing(&mut random, &places);
        let version = if random.random_bool(0.7) { 1 } else { 2 };
        let field = |name: &str, ours: &str| routing.get(name).is_none_or(|theirs| theirs == ours);
        let agrees = field("db_schema", &place.schema)
            && field("spreadsheet_id", &place.spreadsheet)
            && field("tab_pending", &place.pending)
            && field("tab_active", &place.active);
        message["version"] = version.into();
        message["routing"] = routing;
        let key = if random.random_bool(0.1) { &places.choose(&mut random).unwrap().company } else { &place.company };
        wanted_rows += i64::from((version == 2 || agrees) && *key == place.company);
        messages.push((key.as_str(), message));
    }
    let published = world.publish_keyed(&messages.iter().map(|(key, message)| (*key, message)).collect::<Vec<_>>()).await;
    world.consumed(&published).await;

    let mut rows = 0;
    for id in ids {
        rows += world.number(id, &format!("SELECT count(*) FROM transactions WHERE company_id = '{id}'")).await;
        let strangers = "SELECT count(*) FROM transactions WHERE description <> 'OF ' || company_id";
        assert_eq!(world.number(id, strangers).await, 0, "I2: a row of another company in schema of {id}");
    }
    assert_eq!(rows, wanted_rows, "exactly the messages that do not disagree with company_config are applied");
    assert_eq!(world.number("711", "SELECT count(*) FROM transactions WHERE company_id <> '711'").await, 0);
    assert_eq!(world.number("713", "SELECT count(*) FROM transactions WHERE company_id <> '713'").await, 0);
    assert_eq!(
        world.control_number("SELECT count(*) FROM control.dead_letters WHERE class IN ('routing_mismatch', 'key_mismatch')").await,
        1_000 - rows
    );
    world.settled(&ids).await;
    for id in ids {
        let shown = world.pending(id);
        assert!(
            shown.iter().all(|row| row.shown("Company_ID") == id && row.shown("Source") == format!("OF {id}")),
            "I2: a foreign row in a tab of {id}"
        );
        world.assert_tab_equals_postgres(id).await;
    }
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_a_message_with_a_foreign_routing_is_a_dead_letter_and_its_dsn_is_used_by_nobody() {
    let mut world = World::new().await;
    world.add(&["710", "711"]).await;
    world.start(&Mode::Shadow);
    // A server that would tell that somebody came.
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dsn = format!("postgres://x:y@{}/books", trap.local_addr().unwrap());
    let mut foreign = batch("710", "b-1", 0, &[row("t1", "1.00", "FOREIGN")]);
    foreign["version"] = 1.into();
    foreign["routing"] = json!({"db_dsn_rw": dsn, "db_schema": "app_711"});
    let mut own = batch("710", "b-2", 0, &[row("t2", "1.00", "OWN")]);
    own["version"] = 1.into();
    own["routing"] = json!({"db_dsn_rw": dsn, "db_schema": "app_710", "tab_pending": "710 Pending"});
    let at = [world.publish(&foreign).await, world.publish(&own).await];
    world.consumed(&at).await;
    assert_eq!(world.texts("710", "SELECT description FROM transactions").await, ["OWN"]);
    assert_eq!(world.number("711", "SELECT count(*) FROM transactions").await, 0);
    assert_eq!(world.control_texts("SELECT class || ' ' || company_id FROM control.dead_letters").await, ["routing_mismatch 710"]);
    let came = tokio::time::timeout(std::time::Duration::from_millis(1), trap.accept()).await;
    assert!(came.is_err(), "I2: the DSN of a message was used");
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_companies_outside_the_canary_list_are_in_shadow_in_every_respect_until_it_is_lifted() {
    let mut world = World::new().await;
    world.add(&["710", "711"]).await;
    world.start(&Mode::Canary("710"));
    for company in ["710", "711"] {
        world.publish(&batch(company, "b-1", 0, &[row("t1", "-1.00", "COFFEE"), row("t2", "-2.00", "TAXI")])).await;
    }
    world.pending_shows("710", &["COFFEE", "TAXI"]).await;
    world.company_counts("711", "SELECT count(*) FROM pending_txns WHERE status = 'open'", 2).await;
    // Rules by SQL work in shadow; a promotion does not look at the tab.
    world
        .execute(
            "711",
            "INSERT INTO rules_pending (company_id, source, target_sheet, target_header, approved) VALUES ('711', 'TAXI', 'OPEX', 'TRAVEL', TRUE)",
        )
        .await;
    world.promote("711", "r-1").await;
    world.company_counts("711", "SELECT count(*) FROM pending_txns WHERE status = 'open'", 1).await;
    world.settled(&["710"]).await;

    let foreign: Vec<_> = world.calls().into_iter().filter(|call| call.spreadsheet != "sheet-710").map(|call| call.path).collect();
    assert_eq!(foreign, Vec::<String>::new(), "I3: a call for a company outside the canary list");
    for (table, of) in [
        ("sheet_posts", "company_id = '711'"),
        ("sheet_tabs", "company_id = '711'"),
        ("spreadsheets", "spreadsheet_id = 'sheet-711'"),
        ("sheet_intents", "'711' = ANY(companies)"),
    ] {
        assert_eq!(world.control_number(&format!("SELECT count(*) FROM control.{table} WHERE {of}")).await, 0, "I3: {table}");
    }

    world.restart(&Mode::Post).await;
    world.pending_shows("711", &["COFFEE"]).await;
    world.settled(&["710", "711"]).await;
    assert_eq!(world.active("711").iter().map(|row| row.shown("Source").to_owned()).collect::<Vec<_>>(), ["TAXI"]);
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_companies_in_one_spreadsheet_and_one_schema_share_nothing_but_the_calls() {
    let mut world = World::new().await;
    for id in ["710", "711"] {
        world.add_at(Place { schema: "app_both".to_owned(), spreadsheet: "sheet-both".to_owned(), ..world.usual_place(id) }).await;
    }
    world.start(&Mode::Shadow);
    let mut at = Vec::new();
    for company in ["710", "711"] {
        // The same ids and the same content: what tells them apart is the company alone.
        at.push(world.publish(&batch(company, "b-1", 0, &[row("t1", "-1.00", "COFFEE"), row("t2", "-2.00", &format!("RENT {company}"))])).await);
    }
    world.consumed(&at).await;
    world.restart(&Mode::Post).await;
    world.pending_shows("710", &["COFFEE", "RENT 710"]).await;
    world.pending_shows("711", &["COFFEE", "RENT 711"]).await;
    world.settled(&["710", "711"]).await;
    assert_eq!(world.applied("710"), 1, "one batchUpdate for all waiting companies of a spreadsheet");
    assert_eq!((world.posts("710").await, world.posts("711").await), (vec!["710 Pending 2".to_owned()], vec!["711 Pending 2".to_owned()]));

    world.approve("710", "COFFEE", "OPEX", "DRINKS");
    world.promote("710", "r-1").await;
    world.pending_shows("710", &["RENT 710"]).await;
    world.settled(&["710", "711"]).await;
    assert_eq!(world.sources("711"), ["COFFEE", "RENT 711"], "a rule of one company decided a row of another");
    assert_eq!((world.active("710").len(), world.active("711").len()), (1, 0));
    for company in ["710", "711"] {
        world.assert_decided_once(company).await;
        world.assert_tab_equals_postgres(company).await;
    }
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_clash_in_company_config_the_company_already_bound_goes_on_and_the_other_waits_until_it_is_mended() {
    let mut world = World::new().await;
    world.add(&["710"]).await;
    world.start(&Mode::Post);
    world.publish(&batch("710", "b-1", 0, &[row("t1", "-1.00", "FIRST")])).await;
    world.pending_shows("710", &["FIRST"]).await;

    let clash = Place { spreadsheet: "sheet-710".to_owned(), pending: "710 PENDING".to_owned(), ..world.usual_place("711") };
    world.add_at(clash.clone()).await;
    world.publish(&batch("711", "b-1", 0, &[row("t1", "-1.00", "OTHER")])).await;
    world.publish(&batch("710", "b-2", 1, &[row("t2", "-1.00", "SECOND")])).await;
    world.pending_shows("710", &["FIRST", "SECOND"]).await;
    world.control_counts("SELECT count(*) FROM control.held_messages WHERE company_id = '711'", 1).await;
    let reasons = world.control_texts("SELECT company_id || ' ' || state || ' ' || reason FROM control.company_trouble WHERE work = 'ingest'").await;
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(
        reasons[0].starts_with("711 parked") && reasons[0].contains("is configured for 710 too") && reasons[0].contains("kylo company set"),
        "{reasons:?}"
    );
    assert!(!world.sources("710").contains(&"OTHER".to_owned()));

    world.configure(&Place { pending: "711 Pending".to_owned(), ..clash.clone() }).await;
    world.add_at(Place { pending: "711 Pending".to_owned(), ..clash }).await;
    world.pending_shows("711", &["OTHER"]).await;
    world.control_counts("SELECT count(*) FROM control.company_trouble", 0).await;
    world.settled(&["710", "711"]).await;
    assert_eq!(world.posts("710").await, ["710 Pending 1", "710 Pending 1"]);
    world.end_with_zero("in the end").await;
}
