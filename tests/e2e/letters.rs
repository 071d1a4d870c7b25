//! Poison: set aside with its bytes, its neighbours undisturbed; replayed when it is mended; and a stop when there is too much of it.

use kylo::runtime::Workers;
use serde_json::{Value, json};

use super::messages::{batch, row};
use super::world::{ALL, Mode, World};

/// One message for each class of poison: class, key, bytes.
fn poisons() -> Vec<(&'static str, String, Vec<u8>)> {
    let good = || batch("710", "b-poison", 0, &[row("p", "1.00", "POISON")]);
    let with = |field: &str, value: Value| {
        let mut message = good();
        message[field] = value;
        message.to_string().into_bytes()
    };
    let ahead = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now()) + chrono::TimeDelta::minutes(10);
    let foreign = {
        let mut message = good();
        message["version"] = 1.into();
        message["routing"] = json!({"db_schema": "app_711"});
        message.to_string().into_bytes()
    };
    let of_710 = |class, bytes| (class, "710".to_owned(), bytes);
    vec![
        of_710("not_utf8", b"{\"event_type\": \"\xff\xfe\"}".to_vec()),
        of_710("not_json", b"{\"event_type\":".to_vec()),
        of_710("wrong_shape", with("transactions", json!([]))),
        of_710("unknown_event_type", with("event_type", json!("SOMETHING_ELSE"))),
        of_710("unknown_version", with("version", json!(3))),
        of_710("clock", with("created_at", json!(ahead))),
        of_710("routing_mismatch", foreign),
        ("key_mismatch", "711".to_owned(), good().to_string().into_bytes()),
        ("unknown_company", "999".to_owned(), with("company_id", json!("999"))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_class_of_poison_becomes_a_dead_letter_with_its_bytes_and_disturbs_no_neighbour() {
    // One partition, so that everything stands in one line.
    let mut world = World::with_partitions(1).await;
    world.add(&["710", "711"]).await;
    world.start(&Mode::Post);
    let mut at = Vec::new();
    for (n, (_, key, bytes)) in (1..).zip(poisons()) {
        at.push(world.publish_raw(&world.topic_txns(), Some(&key), Some(&bytes), &[("traceparent", "00-1")]).await);
        at.push(world.publish(&batch("710", &format!("b-{n}"), n, &[row(&format!("t{n}"), "-1.00", &format!("NEIGHBOUR {n}"))])).await);
    }
    let half = json!([row("good", "-1.00", "GOOD"), row("bad", "5-", "BAD"), {"id": "worse", "date": "2025-02-30", "amount": "1.00", "description": "WORSE"}]);
    let mut message = batch("711", "b-half", 0, &[]);
    message["transactions"] = half;
    at.push(world.publish(&message).await);
    at.push(world.publish_raw(&world.topic_txns(), Some("710"), None, &[]).await);
    world.consumed(&at).await;

    for (class, key, bytes) in poisons() {
        // The time of the clock's message is another one by now.
        if class != "clock" {
            let sql =
                format!("SELECT encode(original, 'hex') FROM control.dead_letters WHERE class = '{class}' AND kind = 'message' AND state = 'new'");
            let kept = world.control_texts(&sql).await;
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(kept, [hex], "{class}");
        }
        let keys = world.control_texts(&format!("SELECT convert_from(record_key, 'UTF8') FROM control.dead_letters WHERE class = '{class}'")).await;
        assert_eq!(keys, [key], "{class}");
    }
    let rows =
        world.control_texts("SELECT pointer || ' ' || coalesce(company_id, '-') FROM control.dead_letters WHERE kind = 'row' ORDER BY pointer").await;
    assert_eq!(rows, ["/transactions/1 711", "/transactions/2 711"]);
    assert_eq!(world.control_number("SELECT count(*) FROM control.dead_letters").await, i64::try_from(poisons().len()).unwrap() + 2);
    let neighbours = i64::try_from(poisons().len()).unwrap();
    assert_eq!(world.number("710", "SELECT count(*) FROM ingest_batches").await, neighbours);
    assert_eq!(world.texts("711", "SELECT description FROM transactions").await, ["GOOD"]);
    world.settled(&["710", "711"]).await;
    assert_eq!(world.pending("710").len(), poisons().len());
    world.pending_shows("711", &["GOOD"]).await;
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_letter_is_applied_and_closed_and_one_that_fails_again_is_counted() {
    let mut world = World::new().await;
    world.add(&["710"]).await;
    world.start(&Mode::Shadow);
    let at = [
        world.publish(&batch("712", "b-1", 0, &[row("t1", "-1.00", "TOO EARLY")])).await,
        world.publish(&batch("713", "b-1", 0, &[row("t1", "-1.00", "NOBODY")])).await,
    ];
    world.consumed(&at).await;
    let id = async |company: &str| world.control_number(&format!("SELECT id FROM control.dead_letters WHERE company_id = '{company}'")).await;
    let (early, nobody) = (id("712").await, id("713").await);
    let dry = world.kylo(&["dlq", "replay", &early.to_string()]).await;
    assert_eq!(dry.code, 0, "{dry:?}");
    assert_eq!(world.control_number("SELECT count(*) FROM control.dead_letters WHERE state = 'new'").await, 2, "dry without --yes");

    world.add(&["712"]).await;
    let run = world.kylo(&["dlq", "replay", &early.to_string(), &nobody.to_string(), "--yes"]).await;
    assert_eq!(run.code, 0, "{run:?}");
    world.company_counts("712", "SELECT count(*) FROM transactions", 1).await;
    world.control_counts(&format!("SELECT count(*) FROM control.dead_letters WHERE id = {early} AND state = 'resolved'"), 1).await;
    world.control_counts(&format!("SELECT count(*) FROM control.dead_letters WHERE id = {nobody} AND state = 'new' AND attempts = 2"), 1).await;
    assert_eq!(world.control_number("SELECT count(*) FROM control.dead_letters").await, 2, "a replay that fails is no second letter");
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_poison_cap_stops_a_partition_also_over_a_restart_until_an_operator_resumes_it() {
    let mut world = World::with_partitions(1).await;
    world.add(&["710"]).await;
    world.variables.insert("KYLO_POISON_CAP", "5".to_owned());
    let health = world.serve_http();
    let with_http = Workers { http: Some(0), ..ALL };
    world.start_workers(&Mode::Shadow, with_http);
    for n in 0..8 {
        world.publish_raw(&world.topic_txns(), Some("710"), Some(format!("poison {n}").as_bytes()), &[]).await;
    }
    let last = [world.publish(&batch("710", "b-1", 0, &[row("t1", "-1.00", "BEHIND THE POISON")])).await];
    health.is_not_ready(&world, "kylo dlq resume").await;
    world.control_counts("SELECT count(*) FROM control.partition_poison WHERE stopped_at IS NOT NULL", 1).await;
    let letters = world.control_number("SELECT count(*) FROM control.dead_letters").await;
    assert!((5..8).contains(&letters), "the topic is not emptied into the dead letters: {letters}");
    // The other topic goes on.
    world.promote("710", "r-1").await;
    world.promoted("710", "r-1").await;

    world.stop().await;
    world.start_workers(&Mode::Shadow, with_http);
    health.is_not_ready(&world, "kylo dlq resume").await;
    assert_eq!(world.number("710", "SELECT count(*) FROM transactions").await, 0, "kept over a restart");
    let dry = world.kylo(&["dlq", "resume"]).await;
    assert!(dry.code == 0 && dry.stdout.contains("would resume") && dry.stderr.contains("--yes"), "{dry:?}");
    assert_eq!(world.control_number("SELECT count(*) FROM control.partition_poison WHERE stopped_at IS NOT NULL").await, 1, "dry without --yes");

    let run = world.kylo(&["dlq", "resume", "--yes"]).await;
    assert_eq!(run.code, 0, "{run:?}");
    world.consumed(&last).await;
    world.company_counts("710", "SELECT count(*) FROM transactions", 1).await;
    assert_eq!(world.control_number("SELECT count(*) FROM control.dead_letters").await, 8);
    health.is_ready(&world).await;
    world.end_with_zero("in the end").await;
}
