//! Outboxes of other services, in their own shapes.

use std::collections::BTreeSet;

use kylo::domain::outbox::{KeyFrom, Marker, OtherTopics, Outbox, Topics};
use kylo::flow::relay::{Limits, RelayOptions, Why};

use super::foreign::{SHAPES, detect};
use super::world::{Seen, World, eventually, numbers, start};

fn ids(seen: &[Seen]) -> BTreeSet<String> {
    seen.iter().map(|record| record.id().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_every_shape_and_marker_are_relayed_by_one_process_and_get_no_columns() {
    let world = World::new(&[]).await;
    world.sql(SHAPES).await;
    world
        .sql(
            "INSERT INTO whatsapp_handler.outbox_events (aggregate_id, event_type, payload, correlation_id)
                 SELECT 'w', 'user.verified', jsonb_build_object('n', n), gen_random_uuid() FROM generate_series(1, 30) n ORDER BY n;
             INSERT INTO data_retention.outbox (aggregate_id, event_type, event_data) SELECT 'd', 'cleanup.completed', '{\"n\": ' || n || '}' FROM generate_series(1, 30) n ORDER BY n;
             INSERT INTO go_outbox.\"Outbox Rows\" (aggregate_id, event_type, event_data, status, topic, partition_key, idempotency_token)
                 SELECT 1, 'order.made', convert_to('{\"n\": ' || n || '}', 'UTF8'), CASE WHEN n < 3 THEN 'PROCESSING' ELSE 'NEW' END::go_outbox.status, NULL, 'g', 'tok-' || n
                 FROM generate_series(1, 30) n ORDER BY n;
             INSERT INTO mail.queue SELECT n, 'm', 'mail', '{\"n\": ' || n || '}' FROM generate_series(1, 30) n",
        )
        .await;
    let all = Topics { others: Some(OtherTopics::Fixed(world.topic.clone())), ..Topics::default() };
    let usual = |schema: &str, table: &str| world.source(Outbox { topics: all.clone(), ..detect(schema, table) });
    let mut mail = usual("mail", "queue");
    mail.columns.id = "n".to_owned();
    mail.columns.payload = "body".to_owned();
    mail.columns.event_type = Some("kind".to_owned());
    mail.key = KeyFrom::Column("who\"ever".to_owned());
    mail.marker = Marker::Delete;
    let configured = vec![usual("whatsapp_handler", "outbox_events"), usual("data_retention", "outbox"), usual("go_outbox", "Outbox Rows"), mail];
    let relay = start(RelayOptions { configured, limits: Limits { batch: 7, ..world.limits() }, ..world.options() });
    world.counts("SELECT count(*) FROM whatsapp_handler.outbox_events WHERE published_at IS NOT NULL", 30).await;
    world.counts("SELECT count(*) FROM data_retention.outbox WHERE published", 30).await;
    world.counts("SELECT count(*) FROM go_outbox.\"Outbox Rows\" WHERE status = 'SENT'", 30).await;
    world.counts("SELECT count(*) FROM mail.queue", 0).await;
    relay.stop().await;
    let seen = world.records(&world.topic).await;
    assert_eq!(seen.len(), 120);
    let wanted: Vec<i64> = (1..=30).collect();
    assert_eq!(numbers(&seen), ["w", "d", "g", "m"].map(|key| (key.to_owned(), wanted.clone())).into_iter().collect());
    assert!(ids(&seen).contains("tok-7"), "the idempotency token is the event's id");
    assert!(ids(&seen).contains("mail.queue/7"), "without one the table and the row are");
    let correlated = seen.iter().filter(|record| record.headers.contains_key("correlation_id")).count();
    assert_eq!(correlated, 30, "only one of the tables has correlation ids");
    assert_eq!(world.number("SELECT count(*) FROM information_schema.columns WHERE table_schema = 'mail'").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_not_as_configured_is_stopped_with_the_reason_and_goes_on_when_it_is() {
    let world = World::new(&[]).await;
    world.sql(SHAPES).await;
    world.sql("INSERT INTO data_retention.outbox (aggregate_id, event_type, event_data) VALUES ('d', 'x', '{\"n\": 0}')").await;
    let topics = Topics { others: Some(OtherTopics::Fixed(world.topic.clone())), ..Topics::default() };
    let marker = Marker::NullTimestamp { column: "published_at".to_owned() };
    let wrong = world.source(Outbox { topics: topics.clone(), marker, ..detect("data_retention", "outbox") });
    let none = world.source(Outbox { topics, ..detect("data_retention", "nothing") });
    let relay = start(RelayOptions { configured: vec![wrong, none], ..world.options() });
    let told = |text: &str| relay.status.lock().unwrap().troubles.iter().any(|trouble| trouble.reason.contains(text) && trouble.why == Why::Table);
    for text in ["has no column \"published_at\" (configured as marker)", "there is no table data_retention.nothing"] {
        eventually(text, async || if told(text) { Ok(()) } else { Err(relay.worst()) }).await;
    }
    assert_eq!(world.number("SELECT count(*) FROM data_retention.outbox WHERE published").await, 0);
    world.sql("ALTER TABLE data_retention.outbox ADD COLUMN published_at TIMESTAMPTZ").await;
    world.counts("SELECT count(*) FROM data_retention.outbox WHERE published_at IS NOT NULL", 1).await;
    relay.stop().await;
}
