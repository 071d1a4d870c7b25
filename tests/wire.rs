//! The wire to Kafka: TLS, logins, rights, and what is told when one of them is wrong. Against a broker of its own (tests/wire/broker.rs) beside the
//! usual one, because its listeners demand what the usual ones do not.
//!
//! Needs Java and Kafka's jars as scripts/setup.sh and scripts/up.sh provide them, and for the last test `PG_DSN_RW`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "wire/broker.rs"]
mod broker;
#[path = "wire/certificates.rs"]
mod certificates;
#[path = "support/database.rs"]
#[expect(dead_code, reason = "shared with tests that use all of it")]
mod database;
#[path = "wire/log.rs"]
mod log;
#[path = "wire/outbox.rs"]
mod outbox;
#[path = "support/patience.rs"]
mod patience;
#[path = "wire/process.rs"]
mod process;
#[path = "wire/relay.rs"]
mod relay;
#[path = "relay_support/world.rs"]
#[expect(dead_code, reason = "shared with tests that use all of it")]
mod world;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use broker::broker;
use kylo::adapters::kafka::admin::{self, AdminError, TopicSpec};
use kylo::adapters::kafka::client::KafkaSettings;
use kylo::adapters::kafka::consumer::{KafkaSource, Subscription};
use kylo::adapters::kafka::events::KafkaEvents;
use kylo::adapters::kafka::examine::{Finding, Needs, TopicNeed, examine};
use kylo::adapters::kafka::producer::{KafkaProducer, OutRecord, PublishError};
use kylo::config::Secret;
use kylo::domain::outbox::Event;
use kylo::flow::source::{MessageSource, NextOffset, SourceEvent};
use kylo::ports::{EventPublisher, PublishFault};
use secrecy::SecretString;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(180);

fn name(of: &str) -> String {
    format!("{of}.{}", Uuid::new_v4().simple())
}

async fn make_topic(topic: &str) {
    let spec = TopicSpec { name: topic.to_owned(), partitions: 2, retention_days: 90 };
    let reports = admin::ensure(&broker().settings("PLAIN"), &[spec]).await.unwrap();
    assert!(reports.iter().all(admin::TopicReport::is_good), "{reports:?}");
}

fn record(topic: &str, key: &str) -> OutRecord {
    OutRecord { topic: topic.to_owned(), key: Some(key.as_bytes().to_vec()), payload: Some(b"{}".to_vec()), headers: Vec::new() }
}

fn event(topic: &str, key: &str) -> Event {
    Event { topic: topic.to_owned(), key: Some(key.as_bytes().to_vec()), payload: Some(b"{}".to_vec()), headers: Vec::new() }
}

/// A consumer and what it has been given: keys of messages, how often partitions were lost.
struct Reader {
    source: KafkaSource,
    keys: Vec<String>,
    losses: usize,
}

impl Reader {
    fn start(settings: &KafkaSettings, topic: &str, group: &str) -> Self {
        let subscription = Subscription { topic: topic.to_owned(), group: group.to_owned(), drain: Duration::from_secs(2) };
        Self { source: KafkaSource::start(settings, &subscription).unwrap(), keys: Vec::new(), losses: 0 }
    }

    /// Takes events until this holds. Whatever is given is finished at once.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds(self) {
                // The health changes without an event, too.
                let Ok(event) = tokio::time::timeout(Duration::from_millis(50), self.source.next()).await else { continue };
                match event.expect("the source goes on") {
                    SourceEvent::Messages(records) => {
                        for record in records {
                            self.keys.push(String::from_utf8(record.key.unwrap()).unwrap());
                            self.source.store(record.position.partition, NextOffset::after(record.position.offset));
                        }
                    }
                    SourceEvent::Assigned(_) => {}
                    SourceEvent::Revoking { lost, partitions, .. } => self.losses += usize::from(lost && !partitions.is_empty()),
                }
            }
        });
        assert!(waited.await.is_ok(), "waited in vain for {what}: {:?}, {:?}", self.keys, self.source.health());
    }

    async fn trouble(&mut self, class: &'static str) -> String {
        self.until(class, |reader| reader.source.health().trouble.is_some_and(|trouble| trouble.class == class)).await;
        self.source.health().trouble.unwrap().detail
    }

    async fn close(self) {
        Box::new(self.source).close(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_and_mechanism_carries_messages_and_says_who_logged_in() {
    log::listen();
    let ways = [
        (broker().settings("TLS"), None),
        (broker().login("SASL", "SCRAM-SHA-256", "alice"), Some("Authenticated as alice via SCRAM-SHA-256")),
        (broker().login("SASLTLS", "SCRAM-SHA-512", "alice"), Some("Authenticated as alice via SCRAM-SHA-512")),
        (broker().login("SASLTLS", "PLAIN", "alice"), Some("Authenticated as alice via PLAIN")),
    ];
    let carried = ways.map(|(settings, greeting)| async move {
        let topic = name("ways");
        make_topic(&topic).await;
        // The broker makes a topic before it tells of it.
        process::eventually("the topic", async || admin::partitions(&settings).await.unwrap().contains_key(&topic).then_some(())).await;
        let producer = KafkaProducer::start(&settings).unwrap();
        producer.publish(record(&topic, "one")).await.unwrap();
        let mut reader = Reader::start(&settings, &topic, &name("g"));
        reader.until("the message", |reader| reader.keys == ["one"]).await;
        assert_eq!(reader.source.health().trouble, None);
        reader.close().await;
        let said = log::lines();
        assert!(said.iter().any(|line| *line == format!("Kafka consumer started for {topic} topic")), "{said:?}");
        assert!(greeting.is_none_or(|greeting| said.iter().any(|line| line == greeting)), "{greeting:?}: {said:?}");
    });
    futures::future::join_all(carried).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_of_the_wire_is_told_apart_and_with_what_to_do() {
    let broker = broker();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = |listener: &str, protocol: &str| KafkaSettings { security_protocol: protocol.to_owned(), ..broker.settings(listener) };
    let wrong = Secret::Value { name: "KAFKA_SASL_PASSWORD", value: SecretString::from("hunter2".to_owned()) };
    let other_ca = broker.certificates.other_ca.display().to_string();
    let ca = || Some(broker.certificates.ca.display().to_string());
    let faults = [
        (broker.login_with("SASL", "SCRAM-SHA-256", "alice", wrong.clone()), "authentication", "KAFKA_SASL_PASSWORD"),
        (broker.login_with("SASLTLS", "PLAIN", "alice", wrong), "authentication", "KAFKA_SASL_PASSWORD"),
        (broker.login("SASLTLS", "SCRAM-SHA-512", "stranger"), "authentication", "KAFKA_SASL_USERNAME"),
        (broker.login("SASL", "PLAIN", "alice"), "sasl_mechanism", "KAFKA_SASL_MECHANISM"),
        (
            KafkaSettings { security_protocol: "SASL_PLAINTEXT".to_owned(), ..broker.login("PLAIN", "PLAIN", "alice") },
            "sasl_not_expected",
            "KAFKA_SECURITY_PROTOCOL",
        ),
        (at("SASL", "PLAINTEXT"), "sasl_expected", "KAFKA_SECURITY_PROTOCOL"),
        (KafkaSettings { ca_location: Some(other_ca), ..broker.settings("TLS") }, "tls", "KAFKA_SSL_CA_LOCATION"),
        (broker.settings("EXPIRED"), "tls", "expired certificate"),
        (broker.settings("ELSEWHERE"), "tls", "wrong host name"),
        (broker.settings("MUTUAL"), "tls_client_certificate", "client certificate"),
        (KafkaSettings { ca_location: ca(), ..at("PLAIN", "SSL") }, "tls_to_plaintext", "KAFKA_SECURITY_PROTOCOL"),
        (at("TLS", "PLAINTEXT"), "tls_expected", "KAFKA_SECURITY_PROTOCOL"),
        (KafkaSettings { ca_location: ca(), brokers: silent.local_addr().unwrap().to_string(), ..at("TLS", "SSL") }, "tls_timeout", "handshake"),
        (KafkaSettings::plaintext("127.0.0.1:1"), "connection", "KAFKA_BROKERS"),
        (KafkaSettings::plaintext("no-such-host.invalid:9092"), "dns", "KAFKA_BROKERS"),
    ];
    // Each as a task of its own, so that all of those that fail are named.
    let told = faults.map(|(settings, class, advice)| {
        tokio::spawn(async move {
            let mut reader = Reader::start(&settings, &name("t"), &name("g"));
            let detail = reader.trouble(class).await;
            assert!(detail.contains(advice) && !detail.contains("hunter2"), "{class}: {detail}");
            // Not joined: there is no group to leave.
            drop(reader);
        })
    });
    let failed: Vec<_> = futures::future::join_all(told).await.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_cannot_be_answered_ends_with_the_cause_before_its_time_is_over() {
    let settings = broker().login("SASLTLS", "PLAIN", "stranger");
    let mut quickest = Duration::MAX;
    // The request's own time; on a busy machine the first tries may not show it.
    for _ in 0..5 {
        let began = std::time::Instant::now();
        let AdminError::Unreachable { reason, .. } = admin::partitions(&settings).await.unwrap_err() else { panic!("the settings are usable") };
        assert!(reason.starts_with("authentication: "), "{reason}");
        quickest = quickest.min(began.elapsed());
        if quickest < Duration::from_secs(10) {
            return;
        }
    }
    panic!("it was always waited for as long as may be: {quickest:?}");
}

/// A password file, and settings that read it.
struct Password {
    file: tempfile::NamedTempFile,
    user: &'static str,
}

impl Password {
    fn of(user: &'static str) -> Self {
        let password = Self { file: tempfile::NamedTempFile::new().unwrap(), user };
        password.write(&format!("{user}-secret"));
        password
    }

    fn write(&self, text: &str) {
        std::fs::write(self.file.path(), format!("{text}\n")).unwrap();
    }

    fn settings(&self) -> KafkaSettings {
        let secret = Secret::File { name: "KAFKA_SASL_PASSWORD", path: self.file.path().to_owned() };
        broker().login_with("CUTTABLE", "SCRAM-SHA-256", self.user, secret)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_rotated_while_running_needs_no_restart_and_loses_nothing() {
    log::listen();
    let (topic, group) = (name("rotated"), name("g"));
    make_topic(&topic).await;
    let (consumer, producer) = (Password::of("rotating-consumer"), Password::of("rotating-producer"));
    let publisher = KafkaProducer::start(&producer.settings()).unwrap();
    let settings = producer.settings();
    let relays = KafkaEvents::new(Arc::new(move || Ok(settings.clone())), Duration::from_secs(60));
    let mut reader = Reader::start(&consumer.settings(), &topic, &group);
    relays.publish(&[event(&topic, "from an outbox")]).await.pop().unwrap().unwrap();
    reader.until("the event", |reader| reader.keys == ["from an outbox"]).await;
    publisher.publish(record(&topic, "before")).await.unwrap();
    reader.until("the first message", |reader| reader.keys.ends_with(&["before".to_owned()])).await;

    // What stands goes on with the old password; what connects anew is rejected.
    std::thread::scope(|scope| {
        for user in ["rotating-consumer", "rotating-producer"] {
            scope.spawn(move || broker().change_password(user, "another-secret"));
        }
    });
    broker().relay.cut();
    let detail = reader.trouble("authentication").await;
    assert!(!detail.contains("-secret"), "{detail}");
    let events = [event(&topic, "after, from an outbox")];
    let waiting = tokio::spawn(async move {
        // The one that waits for the rejected client is given back; the next one goes through the client that is made anew.
        let mut refusals = 0;
        loop {
            match publisher.publish(record(&topic, "after")).await {
                Ok(_) => return refusals,
                Err(PublishError::Later { reason, .. }) => {
                    assert!(!reason.contains("-secret"), "{reason}");
                    refusals += 1;
                }
                Err(refused) => panic!("{refused}"),
            }
        }
    });
    let relayed = tokio::spawn(async move {
        while let Err(fault) = relays.publish(&events).await.pop().unwrap() {
            assert!(matches!(&fault, PublishFault::Later(reason) if !reason.contains("-secret")), "{fault:?}");
        }
    });
    consumer.write("another-secret");
    producer.write("another-secret");
    let refusals = tokio::time::timeout(Duration::from_secs(25), waiting).await.expect("no message waits until its time is over").unwrap();
    assert!(refusals <= 2, "{refusals}");
    tokio::time::timeout(Duration::from_secs(25), relayed).await.expect("no event waits until its time is over").unwrap();
    reader.until("the second event", |reader| reader.keys.iter().any(|key| key == "after, from an outbox")).await;
    reader.until("the second message", |reader| reader.keys.iter().any(|key| key == "after")).await;
    reader.until("health", |reader| reader.source.health().trouble.is_none()).await;
    assert_eq!(reader.losses, 1, "the partitions were lost once and given again");
    let greetings = log::lines().iter().filter(|line| *line == "Authenticated as rotating-consumer via SCRAM-SHA-256").count();
    assert_eq!(greetings, 2);
    reader.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_has_reached_no_broker_for_long_is_made_anew_and_goes_on_when_one_is_there() {
    log::listen();
    let (topic, group) = (name("away"), name("g"));
    make_topic(&topic).await;
    let door = relay::Relay::start(broker().port("PLAIN"));
    door.stop();
    let settings = KafkaSettings { remake_after: Duration::from_secs(3), ..KafkaSettings::plaintext(&format!("127.0.0.1:{}", door.port())) };
    let mut reader = Reader::start(&settings, &topic, &group);
    let made_anew =
        || log::lines().iter().filter(|line| *line == "the Kafka consumer is made anew because it has reached no broker for a long time").count();
    reader.until("two new clients", |_| made_anew() >= 2).await;
    KafkaProducer::start(&broker().settings("PLAIN")).unwrap().publish(record(&topic, "one")).await.unwrap();
    door.start_again();
    reader.until("the message", |reader| reader.keys == ["one"]).await;
    reader.until("health", |reader| reader.source.health().trouble.is_none()).await;
    let until_now = made_anew();
    // Long enough for three more.
    tokio::time::sleep(settings.remake_after * 3).await;
    assert_eq!(made_anew(), until_now, "a client that works is left alone");
    reader.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_is_named_for_topic_group_and_writing() {
    let topic = name("rights");
    make_topic(&topic).await;
    let as_user = |user: &str| broker().login("SASL", "SCRAM-SHA-256", user);
    let mut hidden = Reader::start(&as_user("nobody"), &topic, &name("g"));
    let mut loner = Reader::start(&as_user("loner"), &topic, &name("g"));
    assert!(hidden.trouble("topic_not_allowed").await.contains("Read and Describe"));
    assert!(loner.trouble("group_not_allowed").await.contains("Read on the consumer group"));

    KafkaProducer::start(&as_user("writer")).unwrap().publish(record(&topic, "one")).await.unwrap();
    let mut reader = Reader::start(&as_user("reader"), &topic, &name("g"));
    reader.until("the message", |reader| reader.keys == ["one"]).await;
    let refused = KafkaProducer::start(&as_user("reader")).unwrap().publish(record(&topic, "two")).await.unwrap_err();
    assert!(matches!(&refused, PublishError::Refused { reason, .. } if reason.contains("Write")), "{refused}");
    reader.close().await;
    drop((hidden, loner));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_may_see_a_topic_and_not_read_it_is_told_so_while_its_partitions_are_idle() {
    let topic = name("idle");
    make_topic(&topic).await;
    // It joins its group and is given the partitions, in which there is nothing to fetch.
    let mut idle = Reader::start(&broker().login("SASL", "SCRAM-SHA-256", "writer"), &topic, &name("g"));
    assert!(idle.trouble("topic_not_allowed").await.contains("Read and Describe"));
    idle.until("nothing that hides it", |reader| reader.source.health().trouble.is_some()).await;
    assert_eq!(idle.keys, [""; 0]);
    idle.close().await;
}

/// The failures of a look: check and class.
async fn failures(settings: &KafkaSettings, needs: &Needs) -> Vec<(&'static str, &'static str)> {
    let findings: Vec<Finding> = examine(settings, needs).await;
    let failed = findings.iter().filter_map(|finding| Some((finding, finding.verdict.as_ref().err()?)));
    failed
        .map(|(finding, fault)| {
            assert!(!fault.fix.is_empty() && !format!("{fault:?}").contains("hunter2"), "{finding:?}");
            (finding.name, fault.class)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_names_the_one_step_that_fails_and_why() {
    let broker = broker();
    let topic = name("doctor");
    make_topic(&topic).await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = |listener: &str, protocol: &str| KafkaSettings { security_protocol: protocol.to_owned(), ..broker.settings(listener) };
    let wrong = || Secret::Value { name: "KAFKA_SASL_PASSWORD", value: SecretString::from("hunter2".to_owned()) };
    let (ca, other_ca) = (broker.certificates.ca.display().to_string(), broker.certificates.other_ca.display().to_string());
    let cases = [
        (broker.login_with("SASL", "SCRAM-SHA-256", "alice", wrong()), ("kafka login", "authentication")),
        (broker.login_with("SASLTLS", "PLAIN", "alice", wrong()), ("kafka login", "authentication")),
        (broker.login("SASLTLS", "SCRAM-SHA-512", "stranger"), ("kafka login", "authentication")),
        (broker.login("SASL", "PLAIN", "alice"), ("kafka login", "sasl_mechanism")),
        (
            KafkaSettings { security_protocol: "SASL_PLAINTEXT".to_owned(), ..broker.login("PLAIN", "PLAIN", "alice") },
            ("kafka login", "sasl_not_expected"),
        ),
        (at("SASL", "PLAINTEXT"), ("kafka protocol", "sasl_expected")),
        (KafkaSettings { ca_location: Some(ca.clone()), ..at("SASLTLS", "SSL") }, ("kafka protocol", "sasl_expected")),
        (KafkaSettings { ca_location: Some(other_ca), ..broker.settings("TLS") }, ("kafka tls", "tls_ca")),
        (KafkaSettings { ca_location: None, ..broker.settings("TLS") }, ("kafka tls", "tls_ca")),
        (broker.settings("EXPIRED"), ("kafka tls", "tls_expired")),
        (broker.settings("ELSEWHERE"), ("kafka tls", "tls_host")),
        (broker.settings("MUTUAL"), ("kafka protocol", "tls_client_certificate")),
        (KafkaSettings { ca_location: Some(ca.clone()), ..at("PLAIN", "SSL") }, ("kafka tls", "tls_to_plaintext")),
        (at("TLS", "PLAINTEXT"), ("kafka protocol", "tls_expected")),
        (
            KafkaSettings { ca_location: Some(ca), brokers: silent.local_addr().unwrap().to_string(), ..at("TLS", "SSL") },
            ("kafka tls", "tls_timeout"),
        ),
    ];
    // Each as a task of its own: none of them waits in the middle of its handshake for what another computes.
    let told = cases.map(|(settings, wanted)| {
        tokio::spawn(async move {
            assert_eq!(failures(&settings, &Needs::default()).await, [wanted], "{settings:?}");
        })
    });
    let failed: Vec<_> = futures::future::join_all(told).await.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
    assert!(failed.is_empty(), "{failed:?}");

    let need = |read: bool, write: bool| TopicNeed { name: topic.clone(), read, write, partitions: 2 };
    let needs = |read: bool, write: bool| Needs { topics: vec![need(read, write)], groups: vec![name("g")] };
    let as_user = |user: &str| broker.login("SASL", "SCRAM-SHA-256", user);
    let (hidden, write, group) = (("kafka topic", "topic_not_allowed"), ("kafka topic", "topic_not_allowed"), ("kafka group", "group_not_allowed"));
    assert_eq!(failures(&as_user("alice"), &needs(true, true)).await, []);
    assert_eq!(failures(&as_user("reader"), &needs(true, false)).await, []);
    assert_eq!(failures(&as_user("reader"), &needs(true, true)).await, [write]);
    assert_eq!(failures(&as_user("loner"), &needs(true, false)).await, [group]);
    assert_eq!(failures(&as_user("nobody"), &needs(true, false)).await, [hidden, group]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_a_wrong_password_says_so_in_log_readiness_and_status_and_works_once_the_file_is_right() {
    let (txns, promote) = (name("txns"), name("promote"));
    make_topic(&txns).await;
    let database = database::Database::create().await;
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "hunter2").unwrap();
    let environment = [
        ("PG_DSN_RW", database.dsn.clone()),
        ("KAFKA_BROKERS", format!("127.0.0.1:{}", broker().port("SASLTLS"))),
        ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL".to_owned()),
        ("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512".to_owned()),
        ("KAFKA_SASL_USERNAME", "alice".to_owned()),
        ("KAFKA_SASL_PASSWORD_FILE", password.path().display().to_string()),
        ("KAFKA_SSL_CA_LOCATION", broker().certificates.ca.display().to_string()),
        ("KAFKA_TOPIC_TXNS", txns.clone()),
        ("KAFKA_TOPIC_PROMOTE", promote),
        ("KYLO_HTTP_ADDR", "127.0.0.1:0".to_owned()),
    ];
    assert!(process::run(&environment, &["migrate"]).await.success());
    let mut worker = process::Worker::start(&environment, &["consume", "txns"]);
    worker.until_ready("authentication: ", 503).await;
    assert!(worker.said().contains(r#"class="authentication""#), "{}", worker.said());
    let told = || async { process::text(&process::run(&environment, &["status"]).await) };
    let status = process::eventually("the heartbeat to tell it", async || Some(told().await).filter(|text| text.contains("NOT READY"))).await;
    assert!(status.contains("worker_txns: authentication: ") && status.contains("the lag is not known"), "{status}");

    std::fs::write(password.path(), "alice-secret").unwrap();
    worker.until_ready("\"ok\"", 200).await;
    let said = worker.end().await;
    for line in ["Authenticated as alice via SCRAM-SHA-512".to_owned(), format!("Kafka consumer started for {txns} topic")] {
        assert!(said.lines().any(|said| said.ends_with(&line)), "{line}: {said}");
    }
    let whole = format!("{said}{status}");
    let secrets: BTreeSet<_> = ["hunter2", "alice-secret"].into_iter().filter(|secret| whole.contains(secret)).collect();
    assert!(secrets.is_empty(), "{secrets:?}");
}
