//! The relay among all other workers, as `kylo run` runs it: the events of a whole story, and the commands about them.

use std::collections::{BTreeMap, BTreeSet};

use kylo::runtime::Workers;
use serde_json::Value;

use super::world::{Seen, read_all};
use crate::messages::{batch, row};
use crate::process::run;
use crate::world::{ALL, Mode, Place, World, brokers};

const WITH_RELAY: Workers = Workers { relay: true, ..ALL };

impl World {
    async fn events(&self) -> Vec<Seen> {
        let topic = self.topic_events();
        tokio::task::spawn_blocking(move || read_all(&brokers(), &topic)).await.unwrap()
    }

    /// Waits until no outbox has anything unpublished.
    async fn relayed(&self, companies: &[&str]) {
        self.control_counts("SELECT count(*) FROM control.outbox_events WHERE published_at IS NULL", 0).await;
        for company in companies {
            self.company_counts(company, "SELECT count(*) FROM outbox_events WHERE published_at IS NULL", 0).await;
        }
    }
}

fn schema(path: &str) -> jsonschema::Validator {
    let text = std::fs::read_to_string(format!("{}/schemas/{path}.json", env!("CARGO_MANIFEST_DIR"))).unwrap();
    jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
}

fn is_as_schema_says(path: &str, value: &Value) {
    let errors: Vec<_> = schema(path).iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{path}: {errors:?}\n{value}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kill_switch_holds_events_back_and_every_event_is_as_its_schema_says_and_history_sent_again_changes_nothing() {
    let mut world = World::new().await;
    world.add(&["710"]).await;
    world.variables.insert("KYLO_RELAY", "0".to_owned());
    world.start_workers(&Mode::Post, WITH_RELAY);
    let rows = [row("t1", "-12.34", "STARBUCKS"), row("t2", "-8.00", "UBER TRIP"), row("t3", "1,23", "BAD AMOUNT")];
    let at = world.publish(&batch("710", "b-1", 0, &rows)).await;
    world.consumed(&[at]).await;
    world.pending_shows("710", &["STARBUCKS", "UBER TRIP"]).await;
    world.settled(&["710"]).await;
    assert!(world.events().await.is_empty(), "KYLO_RELAY=0 publishes nothing");

    world.stop().await;
    world.variables.remove("KYLO_RELAY");
    world.start_workers(&Mode::Post, WITH_RELAY);
    world.approve("710", "STARBUCKS", "OPEX", "COFFEE");
    world.promote("710", "r-1").await;
    world.pending_shows("710", &["UBER TRIP"]).await;
    world.settled(&["710"]).await;
    world.relayed(&["710"]).await;
    let events = world.events().await;
    let types: BTreeSet<&str> = events.iter().map(|event| event.headers["event_type"].as_str()).collect();
    assert_eq!(types, BTreeSet::from(["batch.ingested", "dead_letter.created", "pending.ready", "rules.updated", "sheet.posted"]));
    for event in &events {
        assert_eq!(event.key.as_deref(), Some("710"));
        is_as_schema_says(&format!("events/{}", event.headers["event_type"]), &serde_json::from_str(event.payload.as_deref().unwrap()).unwrap());
    }
    assert_eq!(events.iter().map(Seen::id).collect::<BTreeSet<_>>().len(), events.len(), "each once");

    backfill_of_events(&world, &events).await;
    backfill_of_messages(&world).await;
    world.end().await;
}

/// Counted, then sent: with the ids they had, and marked.
async fn backfill_of_events(world: &World, events: &[Seen]) {
    let wanted: BTreeSet<&str> = events.iter().filter(|event| event.headers["event_type"] == "batch.ingested").map(Seen::id).collect();
    let args = ["backfill", "--company", "710", "--aggregate-type", "batch", "--json"];
    let counted = world.kylo(&args).await;
    assert_eq!(counted.code, 0, "{counted:?}");
    let report: Value = serde_json::from_str(&counted.stdout).unwrap();
    is_as_schema_says("cli/backfill", &report);
    assert_eq!(report["total"], wanted.len());
    assert!(counted.stderr.contains("--yes"), "{counted:?}");
    assert_eq!(world.events().await.len(), events.len(), "without --yes nothing is sent");
    let sent = world.kylo(&[&args[..], &["--yes"]].concat()).await;
    assert_eq!(sent.code, 0, "{sent:?}");
    let again: Vec<Seen> =
        world.events().await.into_iter().filter(|event| event.headers.get("replay").is_some_and(|how| how == "backfill")).collect();
    assert_eq!(again.iter().map(Seen::id).collect::<BTreeSet<_>>(), wanted);
    let id = sent.stderr.split("--resume ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let done = world.kylo(&["backfill", "--resume", &id, "--yes"]).await;
    assert!(done.code == 1 && done.stderr.contains("is done"), "{done:?}");
}

/// The company's messages once more: the ledger and as_of make nothing of them.
async fn backfill_of_messages(world: &World) {
    let books = "SELECT txn_uid || ' ' || as_of || ' ' || content_seq || ' ' || void FROM transactions ORDER BY txn_uid";
    let pending = "SELECT txn_uid || ' ' || status || ' ' || seq FROM pending_txns ORDER BY txn_uid";
    let (transactions, waiting) = (world.texts("710", books).await, world.texts("710", pending).await);
    let sent = world.kylo(&["backfill", "--source", "topic", "--company", "710", "--yes", "--json"]).await;
    assert_eq!(sent.code, 0, "{sent:?}");
    assert_eq!(serde_json::from_str::<Value>(&sent.stdout).unwrap()["published"], 1);
    world.company_counts("710", "SELECT deliveries::bigint FROM ingest_batches", 2).await;
    assert_eq!((world.texts("710", books).await, world.texts("710", pending).await), (transactions, waiting));
    assert_eq!(world.posts("710").await.len(), 3, "nothing more was posted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_selftest_sees_an_event_and_a_message_arrive_and_says_what_is_not_running() {
    let mut world = World::new().await;
    world.add(&["710"]).await;
    let idle = world.kylo(&["selftest", "--only", "relay", "--timeout", "2", "--json"]).await;
    assert_eq!(idle.code, 1, "{idle:?}");
    let report: Value = serde_json::from_str(&idle.stdout).unwrap();
    is_as_schema_says("cli/selftest", &report);
    assert!(idle.stdout.contains("is a relay running"), "{idle:?}");

    world.start_workers(&Mode::Post, WITH_RELAY);
    let passed = world.kylo(&["selftest", "--timeout", "60"]).await;
    assert_eq!(passed.code, 0, "{passed:?}");
    for step in ["event_published", "event_marked", "message_ingested", "message_told", "tidied"] {
        assert!(passed.stdout.contains(step), "{step}: {passed:?}");
    }
    // Once more: the reserved company is there by now.
    let again = world.kylo(&["selftest", "--timeout", "60"]).await;
    assert_eq!(again.code, 0, "{again:?}");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM kylo_selftest.transactions").fetch_one(&world.control.pool).await.unwrap();
    assert_eq!(left, 0, "the books of the reserved company are tidy");
    let calls = world.calls();
    assert!(calls.iter().all(|call| !format!("{call:?}").contains("selftest")), "the reserved company is never posted: {calls:?}");
    let status = world.kylo(&["status", "--json"]).await;
    let report: Value = serde_json::from_str(&status.stdout).unwrap();
    is_as_schema_says("cli/status", &report);
    let outboxes: BTreeMap<&str, &Value> =
        report["relay"].as_array().unwrap().iter().map(|outbox| (outbox["schema_name"].as_str().unwrap(), outbox)).collect();
    assert_eq!(outboxes["control"]["leased"], true);
    assert_eq!(outboxes["control"]["state"], "ok");
    only_real_companies_count(&mut world).await;
    world.end().await;
}

/// What a selftest leaves (its company's row, its messages on the topic) is no finding, no fault and nobody's delay.
async fn only_real_companies_count(world: &mut World) {
    // One that lives in the same database as the reserved company, so that its schema is looked at too.
    let place = Place { dsn: world.control.dsn.clone(), pool: world.control.pool.clone(), ..world.usual_place("711") };
    world.add_at(place).await;
    let bad = batch("710", "b-710", 0, &[row("t1", "1,23", "BAD AMOUNT")]);
    let at = [world.publish(&batch("711", "b-711", 0, &[row("t1", "-1.00", "STARBUCKS")])).await, world.publish(&bad).await];
    world.consumed(&at).await;
    world.settled(&["710", "711"]).await;

    let environment: Vec<_> = world.environment(&Mode::Post).into_iter().collect();
    let kylo = async |args: &[&str]| run(&environment, args).await;
    let audit = kylo(&["audit", "--tabs", "--json"]).await;
    let report: Value = serde_json::from_str(&audit.stdout).unwrap();
    assert_eq!((audit.code, &report["findings"]), (0, &Value::Array(Vec::new())), "{audit:?}");
    is_as_schema_says("cli/audit", &report);
    assert!(!audit.stderr.contains("PartitionEOF") && !audit.stderr.contains("librdkafka"), "that a partition has ended is no error: {audit:?}");
    assert!(report["tabs_judged"].as_u64() >= Some(1), "{report}");
    let doctor = kylo(&["doctor", "--json"]).await;
    let report: Value = serde_json::from_str(&doctor.stdout).unwrap();
    let failed: BTreeSet<_> =
        report["checks"].as_array().unwrap().iter().filter(|check| check["state"] == "failed").map(|check| check["name"].as_str().unwrap()).collect();
    // The topics of a test have few partitions.
    assert!(failed.iter().all(|name| *name == "kafka topic") && !doctor.stdout.contains("selftest"), "{report:#}");
    for command in ["verify", "repair"] {
        let told = kylo(&["sheets", command]).await;
        assert!(told.code == 0 && told.stdout.contains("711 Pending") && !told.stdout.contains("selftest"), "{told:?}");
    }
    let promoted = kylo(&["publish", "promote", "--all"]).await;
    assert!(promoted.code == 0 && promoted.stdout.contains("711") && !promoted.stdout.contains("selftest"), "{promoted:?}");
    let seen: Vec<String> = sqlx::query_scalar("SELECT company_id FROM control.companies ORDER BY 1").fetch_all(&world.control.pool).await.unwrap();
    assert_eq!(seen, ["710", "711"], "what n8n takes for all");
    let status = kylo(&["status", "--company", "711", "--json"]).await;
    let report: Value = serde_json::from_str(&status.stdout).unwrap();
    let outboxes: BTreeSet<_> = report["relay"].as_array().unwrap().iter().map(|outbox| outbox["schema_name"].as_str().unwrap()).collect();
    assert_eq!(outboxes, BTreeSet::from(["control", "app_711"]), "its own, and the one that all share");
    assert_eq!(report["dead_letters"], Value::Array(Vec::new()), "the letter is 710's: {report}");
    let status = kylo(&["status"]).await;
    assert!(status.code == 0 && !status.stdout.contains("__kylo_selftest"), "{status:?}");
    for command in [&["audit"][..], &["doctor"], &["sheets", "verify"]] {
        let asked = kylo(&[command, &["--company", "__kylo_selftest"]].concat()).await;
        assert!(asked.code == 2 && asked.stderr.contains("kylo selftest"), "{asked:?}");
    }
    // It is not hidden: what is configured is listed.
    assert!(world.kylo(&["company", "list"]).await.stdout.contains("__kylo_selftest"));
}
