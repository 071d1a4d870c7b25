//! May this user write to a topic? Found out by writing, without leaving a record: one that is larger than the topic allows. The broker looks at the
//! right first and at the size afterwards, so its refusal says which of the two it was.
//!
//! Called by the relay before it writes to a topic for the first time, and again after trouble. What must never happen here: a record that the
//! broker keeps. Where the topic's limit is not known for sure, nothing is sent.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::admin;
use super::client::KafkaSettings;
use super::examine::{Needs, TopicNeed, examine};
use crate::ports::PublishFault;

/// A larger limit is not tried out: the record would have to be larger still.
const LARGEST: usize = 4 << 20;
/// How long the broker is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the topic is there and, as far as that can be found out without leaving a record, may be written to.
pub(super) async fn may_write(settings: &KafkaSettings, topic: &str) -> Result<(), PublishFault> {
    let known = admin::partitions(settings).await.map_err(|error| PublishFault::Later(error.to_string()))?;
    if !known.contains_key(topic) {
        return Err(PublishFault::Topic(missing(topic)));
    }
    let limit = match admin::max_message_bytes(settings, topic).await {
        Ok(Some(limit)) if limit <= LARGEST => limit,
        // Not known (that takes a right of its own), or too large to try: the broker is asked what this user may do.
        _ => return told(settings, topic).await,
    };
    let mut config = settings.plain().map_err(|error| PublishFault::Later(error.to_string()))?;
    config
        .set("acks", "all")
        .set("compression.type", "none")
        .set("message.max.bytes", (2 * LARGEST).to_string())
        .set("message.timeout.ms", "10000")
        .set("message.send.max.retries", "0");
    let producer: FutureProducer = config.create().map_err(|error| PublishFault::Later(error.to_string()))?;
    let payload = vec![b' '; limit + 1024];
    let sent = producer.send(FutureRecord::<(), _>::to(topic).payload(&payload), PATIENCE).await;
    tokio::task::spawn_blocking(move || drop(producer));
    use RDKafkaErrorCode as Code;
    match sent.map_err(|(error, _)| (error.rdkafka_error_code(), error)) {
        Err((Some(Code::MessageSizeTooLarge), _)) => Ok(()),
        Err((Some(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed), _)) => Err(PublishFault::Topic(not_allowed(topic))),
        Err((Some(Code::UnknownTopic | Code::UnknownTopicOrPartition), _)) => Err(PublishFault::Topic(missing(topic))),
        Err((_, error)) => Err(PublishFault::Later(error.to_string())),
        Ok(_) => {
            tracing::error!(topic, "the broker has kept a record that is larger than the topic's max.message.bytes: a blank record stands there now");
            Ok(())
        }
    }
}

/// What the broker says of the user's rights on the topic. Where it says nothing, the first event will show it.
async fn told(settings: &KafkaSettings, topic: &str) -> Result<(), PublishFault> {
    let need = TopicNeed { name: topic.to_owned(), read: false, write: true, partitions: 1 };
    let findings = examine(settings, &Needs { topics: vec![need], groups: Vec::new() }).await;
    match findings.into_iter().find(|finding| finding.name == "kafka topic").map(|finding| finding.verdict) {
        Some(Err(fault)) if fault.class == "topic_not_allowed" => Err(PublishFault::Topic(not_allowed(topic))),
        Some(Err(fault)) if fault.class == "topic_missing" => Err(PublishFault::Topic(missing(topic))),
        _ => Ok(()),
    }
}

pub(super) fn missing(topic: &str) -> String {
    format!("there is no topic {topic}, or this user may not see it: make it with `kylo topics ensure`, or give the user Describe and Write on it")
}

pub(super) fn not_allowed(topic: &str) -> String {
    format!("no write permission on topic {topic}: give the user Write on it")
}
