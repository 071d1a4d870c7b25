//! What a command needs of the outside, built from the settings: a producer, the broker's topics, a look at a spreadsheet.
//!
//! Called by `cli`, which may not build adapters itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgPool;
use uuid::Uuid;

use super::wire::{self, PosterParts};
use crate::adapters::kafka::admin::{self, TopicSpec};
pub use crate::adapters::kafka::admin::{AdminError, TopicReport, TopicState};
use crate::adapters::kafka::client::KafkaSettings;
pub use crate::adapters::kafka::examine::Finding;
use crate::adapters::kafka::examine::{self, Needs, TopicNeed};
use crate::adapters::kafka::lag;
pub use crate::adapters::kafka::producer::{KafkaProducer, OutRecord, PublishError};
use crate::adapters::sheets::KeyFile;
use crate::config::{ConfigError, Settings};
use crate::domain::clock::SystemClock;
use crate::domain::company::Route;
use crate::flow::post::{Poster, Preview, PreviewError};
use crate::flow::routing::RoutingCache;
use crate::store::pools::{PoolOptions, Pools};
use crate::telemetry::metrics::Metrics;

/// How long a topic that was just made may take to be seen.
const VISIBLE_WITHIN: Duration = Duration::from_secs(10);
const VISIBLE_PAUSE: Duration = Duration::from_millis(50);

/// A producer for `kylo publish` and `kylo dlq replay`.
///
/// # Errors
/// Settings that librdkafka refuses.
pub fn producer(settings: &Settings) -> anyhow::Result<KafkaProducer> {
    let kafka = KafkaSettings::from_config(&settings.kafka)?;
    KafkaProducer::start(&kafka).map_err(|error| ConfigError::one(error.to_string(), "check the KAFKA_ settings").into())
}

/// Compares the three topics with what they must be, and with `create` makes those that are missing.
///
/// # Errors
/// The broker does not answer, or settings that librdkafka refuses.
pub async fn topics(settings: &Settings, create: bool) -> anyhow::Result<Vec<TopicReport>> {
    let kafka = KafkaSettings::from_config(&settings.kafka)?;
    let wanted = TopicSpec::all(&settings.kafka.topic_txns, &settings.kafka.topic_promote, &settings.kafka.topic_events);
    if !create {
        return Ok(admin::verify(&kafka, &wanted).await?);
    }
    let reports = admin::ensure(&kafka, &wanted).await?;
    if reports.iter().any(|report| report.state == TopicState::Created) {
        until_visible(&kafka, &wanted).await?;
    }
    Ok(reports)
}

/// A broker answers that it made a topic before it tells everybody of it: whoever asks next must not be told that there is none.
async fn until_visible(kafka: &KafkaSettings, wanted: &[TopicSpec]) -> Result<(), AdminError> {
    let deadline = Instant::now() + VISIBLE_WITHIN;
    while Instant::now() < deadline {
        let known = admin::partitions(kafka).await?;
        if wanted.iter().all(|spec| known.contains_key(&spec.name)) {
            return Ok(());
        }
        tokio::time::sleep(VISIBLE_PAUSE).await;
    }
    tracing::warn!("the topics are made, but the broker does not show them yet");
    Ok(())
}

/// A look at the wire for `kylo doctor`: each step towards the brokers, topics, and the rights that the workers and the relay need.
///
/// # Errors
/// The password file cannot be read.
pub async fn examine_kafka(settings: &Settings) -> Result<Vec<Finding>, ConfigError> {
    let kafka = &settings.kafka;
    let client = KafkaSettings::from_config(kafka)?;
    let [txns, promote, events] = TopicSpec::all(&kafka.topic_txns, &kafka.topic_promote, &kafka.topic_events);
    let need = |spec: TopicSpec, read: bool, write: bool| {
        let partitions = usize::try_from(spec.partitions).unwrap_or_default();
        TopicNeed { name: spec.name, read, write, partitions }
    };
    // The workers read the first two, and `kylo publish`, `kylo dlq replay` and `kylo backfill` write to them; the relay writes to the others.
    let mut topics = vec![need(txns, true, true), need(promote, true, true), need(events, false, true)];
    for topic in settings.relay.sources.iter().flat_map(|source| source.topics.known()) {
        if topics.iter().all(|known| known.name != topic) {
            topics.push(TopicNeed { name: topic.to_owned(), read: false, write: true, partitions: 1 });
        }
    }
    let needs = Needs { topics, groups: vec![kafka.group_txns.clone(), kafka.group_promote.clone()] };
    Ok(examine::examine(&client, &needs).await)
}

/// Who the service account is: whom spreadsheets must be shared with.
///
/// # Errors
/// The key file cannot be used.
pub fn account(settings: &Settings) -> Result<String, ConfigError> {
    let key = KeyFile::open(settings.sheets.key_file()?);
    let key = key.map_err(|error| ConfigError::one(error.to_string(), "make a JSON key for the service account, and name its path"))?;
    Ok(key.client_email().to_owned())
}

/// How far a group is behind on a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLag {
    pub group: String,
    pub topic: String,
    pub partition: i32,
    pub behind: i64,
}

/// The lag of both consumer groups.
///
/// # Errors
/// The broker does not answer.
pub async fn lags(settings: &Settings) -> Result<Vec<GroupLag>, AdminError> {
    let kafka = &settings.kafka;
    let client =
        KafkaSettings::from_config(kafka).map_err(|error| AdminError::Unreachable { brokers: kafka.brokers.clone(), reason: error.to_string() })?;
    let mut all = Vec::new();
    for (group, topic) in [(&kafka.group_txns, &kafka.topic_txns), (&kafka.group_promote, &kafka.topic_promote)] {
        let found = lag::lag(&client, group, topic).await?;
        all.extend(found.into_iter().map(|lag| GroupLag {
            group: group.clone(),
            topic: topic.clone(),
            partition: lag.partition,
            behind: lag.behind,
        }));
    }
    Ok(all)
}

/// What a post of this company would change. Reads only; works in shadow mode, because a person asks.
///
/// # Errors
/// Credentials that cannot be used, or what keeps the spreadsheet or a database from being read.
pub async fn preview(settings: &Settings, control: &PgPool, route: &Arc<Route>) -> anyhow::Result<Result<Vec<Preview>, PreviewError>> {
    Ok(poster(settings, control)?.preview(route).await)
}

/// A poster for single looks and passes that a person asks for. It has a gateway also in shadow mode: whoever writes asks for the mode first.
///
/// # Errors
/// Credentials that cannot be used.
pub fn poster(settings: &Settings, control: &PgPool) -> anyhow::Result<Arc<Poster>> {
    let gateway = wire::gateway(settings, control, &Metrics::new(settings.sheets.post)?)?;
    Ok(wire::poster(
        settings,
        PosterParts {
            control: control.clone(),
            pools: Pools::new(PoolOptions { application_name: "kylo-cli".to_owned(), ..PoolOptions::default() }),
            routing: RoutingCache::new(control.clone()),
            gateway: Some(gateway),
            clock: Arc::new(SystemClock),
            holder: Uuid::new_v4(),
        },
    ))
}
