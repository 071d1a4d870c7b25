//! Topics: made if missing, compared if there. Never changed, and no partition is ever added: that would move companies between partitions.
//!
//! Called by `kylo topics`. What must never happen here: a topic made by looking at it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::Serialize;

use super::client::{ClientError, KafkaSettings};
use super::trouble::{Board, Context};
use crate::flow::source::SourceTrouble;

/// Bound of one request to the broker.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a fault that somebody must mend may stand before the answer is not waited for any more.
const FAULT: Duration = Duration::from_secs(2);

/// What a topic must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    pub retention_days: i64,
}

impl TopicSpec {
    /// Kylo's three topics under their configured names.
    pub fn all(txns: &str, promote: &str, events: &str) -> [Self; 3] {
        [(txns, 16), (promote, 8), (events, 8)].map(|(name, partitions)| Self { name: name.to_owned(), partitions, retention_days: 90 })
    }

    fn retention_ms(&self) -> i64 {
        self.retention_days * 24 * 60 * 60 * 1_000
    }
}

/// What was found or done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum TopicState {
    Created,
    /// As it must be, or with more partitions: then `partitions` says how many.
    Ok {
        partitions: i32,
    },
    Missing,
    /// Each difference, with what to do.
    Drift {
        differences: Vec<String>,
    },
    Failed {
        reason: String,
    },
}

/// One topic's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopicReport {
    pub name: String,
    #[serde(flatten)]
    pub state: TopicState,
}

impl TopicReport {
    pub fn is_good(&self) -> bool {
        matches!(self.state, TopicState::Created | TopicState::Ok { .. })
    }
}

/// The broker could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot ask the broker at {brokers} about its topics: {reason}")]
    Unreachable { brokers: String, reason: String },
}

/// Compares topics; changes nothing.
///
/// # Errors
/// The broker does not answer.
pub async fn verify(settings: &KafkaSettings, wanted: &[TopicSpec]) -> Result<Vec<TopicReport>, AdminError> {
    let partitions = partitions(settings).await?;
    let admin = admin(settings)?;
    let mut reports = Vec::new();
    for spec in wanted {
        let state = match partitions.get(&spec.name) {
            None => TopicState::Missing,
            Some(n) => compare(&admin, spec, *n).await,
        };
        reports.push(TopicReport { name: spec.name.clone(), state });
    }
    Ok(reports)
}

/// Makes what is missing, and compares the rest.
///
/// # Errors
/// The broker does not answer.
pub async fn ensure(settings: &KafkaSettings, wanted: &[TopicSpec]) -> Result<Vec<TopicReport>, AdminError> {
    let mut reports = verify(settings, wanted).await?;
    let admin = admin(settings)?;
    for (report, spec) in reports.iter_mut().zip(wanted) {
        if report.state == TopicState::Missing {
            report.state = create(&admin, spec).await;
        }
    }
    Ok(reports)
}

async fn create(admin: &AdminClient<Context>, spec: &TopicSpec) -> TopicState {
    let retention = spec.retention_ms().to_string();
    // -1 = the broker's default replication.
    let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(-1)).set("retention.ms", &retention);
    match admin.create_topics([&topic], &options()).await.map(|mut results| results.pop()) {
        Ok(Some(Ok(_)) | None) => TopicState::Created,
        Ok(Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists)))) => compare(admin, spec, spec.partitions).await,
        Ok(Some(Err((_, code)))) => TopicState::Failed { reason: format!("the broker refused to make it: {code}") },
        Err(error) => TopicState::Failed { reason: error.to_string() },
    }
}

async fn compare(admin: &AdminClient<Context>, spec: &TopicSpec, partitions: i32) -> TopicState {
    let mut differences = Vec::new();
    if partitions < spec.partitions {
        differences.push(format!(
            "{partitions} partitions instead of {}: stop all producers, drain the topic, then add partitions with the broker's own tool",
            spec.partitions
        ));
    }
    match retention_ms(admin, &spec.name).await {
        Ok(Some(ms)) if ms != spec.retention_ms() => differences.push(format!(
            "retention.ms is {ms} instead of {} ({} days): change it with the broker's own tool",
            spec.retention_ms(),
            spec.retention_days
        )),
        Ok(_) => {}
        Err(reason) => return TopicState::Failed { reason },
    }
    if differences.is_empty() { TopicState::Ok { partitions } } else { TopicState::Drift { differences } }
}

/// The topic's limit of a batch of records, if the broker tells it.
pub(super) async fn max_message_bytes(settings: &KafkaSettings, topic: &str) -> Result<Option<usize>, String> {
    let admin = admin(settings).map_err(|error| error.to_string())?;
    number(&admin, topic, "max.message.bytes").await
}

async fn retention_ms(admin: &AdminClient<Context>, topic: &str) -> Result<Option<i64>, String> {
    number(admin, topic, "retention.ms").await
}

/// A topic's setting that is a number.
async fn number<T: std::str::FromStr>(admin: &AdminClient<Context>, topic: &str, name: &str) -> Result<Option<T>, String> {
    let described = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options()).await;
    let resource = match described.map(|mut results| results.pop()) {
        Ok(Some(Ok(resource))) => resource,
        Ok(Some(Err(code))) => return Err(format!("its settings cannot be read: {code}")),
        Ok(None) => return Ok(None),
        Err(error) => return Err(format!("its settings cannot be read: {error}")),
    };
    Ok(resource.get(name).and_then(|entry| entry.value.as_ref()).and_then(|text| text.parse().ok()))
}

/// All topics of the broker and their partition counts. Asks for all, because asking for one can make it.
///
/// # Errors
/// The broker does not answer; the reason is the cause if librdkafka knows it.
pub async fn partitions(settings: &KafkaSettings) -> Result<BTreeMap<String, i32>, AdminError> {
    let board = Arc::new(Board::default());
    let context = Context::new(Arc::clone(&board));
    let client: BaseConsumer<WithoutGroup> =
        settings.plain()?.create_with_context(WithoutGroup(context)).map_err(|error| ClientError { role: "client", reason: error.to_string() })?;
    let client = Arc::new(client);
    let asking = Arc::clone(&client);
    let mut asked = tokio::task::spawn_blocking(move || {
        let metadata = asking.fetch_metadata(None, REQUEST)?;
        let count = |topic: &rdkafka::metadata::MetadataTopic| i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
        Ok::<_, KafkaError>(metadata.topics().iter().map(|topic| (topic.name().to_owned(), count(topic))).collect())
    });
    // Why it fails is told only to a client that is polled meanwhile.
    let unreachable = |reason: String| AdminError::Unreachable { brokers: settings.brokers.clone(), reason };
    let told = |trouble: SourceTrouble| format!("{}: {}", trouble.class, trouble.detail);
    let mut faulty: Option<Instant> = None;
    let answer = loop {
        tokio::select! {
            answer = &mut asked => break answer,
            () = tokio::time::sleep(Duration::from_millis(100)) => drop(client.poll(Duration::ZERO)),
        }
        match board.trouble().filter(|trouble| trouble.class != "connection" && trouble.class != "all_brokers_down") {
            Some(trouble) if faulty.get_or_insert_with(Instant::now).elapsed() >= FAULT => return Err(unreachable(told(trouble))),
            Some(_) => {}
            None => faulty = None,
        }
    };
    match answer {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(unreachable(board.trouble().map_or_else(|| error.to_string(), told))),
        Err(panicked) => Err(unreachable(panicked.to_string())),
    }
}

/// Of a client for looking only: what it is told goes to its board and to the log at the debug level.
#[derive(Debug)]
pub(super) struct WithoutGroup(Context);

impl WithoutGroup {
    pub(super) fn new(board: Arc<Board>) -> Self {
        Self(Context::new(board))
    }
}

impl rdkafka::client::ClientContext for WithoutGroup {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl rdkafka::consumer::ConsumerContext for WithoutGroup {}

fn admin(settings: &KafkaSettings) -> Result<AdminClient<Context>, ClientError> {
    let context = Context::new(Arc::new(Board::default()));
    settings.plain()?.create_with_context(context).map_err(|error| ClientError { role: "admin client", reason: error.to_string() })
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST))
}
