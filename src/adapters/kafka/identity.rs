//! Which topic a position belongs to. A topic that was deleted and made again under the same name is another topic, with another id (KIP-516), and its
//! messages begin again at 0. librdkafka goes on at the old position when the new topic reaches that far (`rdkafka_topic.c`: "FIXME: an offset reset must
//! be triggered"), so everything before it would be passed over. Kylo therefore commits each position together with the id of its topic, and believes
//! only positions of the topic that is there.
//!
//! | step | what a crash after it leaves |
//! |---|---|
//! | partitions are assigned: the topic's id is asked for, and what the group has committed is compared with it | nothing |
//! | a position of another topic is not believed: that partition is read from its beginning | the old commit, which is judged the same way again |
//! | positions are stored and committed with the id under which they were read | commits that tell their topic |
//! | librdkafka learns of another id while it consumes: the client is made anew (`renew`), and the new one judges what is committed | commits of the old topic, which nobody believes |
//!
//! What is read again was applied before, and is dismissed. A commit without an id (made by hand, by another tool, by an older Kylo) is believed. With a
//! broker that has no ids (Kafka before 2.8) nothing is compared.
//!
//! Called by the consumer's thread. What must never happen here: a wait without a bound, or a position believed because a question went unanswered.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{TopicPartitionList, TopicPartitionListElem};

use super::client::KafkaSettings;
use super::group::{REQUEST, patiently};

/// librdkafka's debug context that tells a topic's id. It has no other place for it.
pub(super) const DEBUG: &str = "metadata";
/// Log lines of an answer are there before the answer is; they only have to be taken from their queue.
const LOG_LINES: Duration = Duration::from_secs(2);
/// What librdkafka says instead of an id that it does not know: 16 bytes of 0 in base64.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// A topic's id, as librdkafka writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TopicId(String);

impl TopicId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a line of librdkafka's log says of a topic's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Id(TopicId),
    /// What follows the id in every answer of a broker, with an id before it or without.
    Described,
}

/// Reads a line of librdkafka's log.
pub(super) fn line(text: &str, topic: &str) -> Option<Line> {
    let (_, rest) = text.split_once("Topic ")?;
    let rest = rest.strip_prefix(topic)?.strip_prefix(' ')?;
    if let Some(ids) = rest.strip_prefix("changed id from ") {
        let (_, id) = ids.split_once(" to ")?;
        let id = id.trim();
        return (!id.is_empty() && id != NO_ID).then(|| Line::Id(TopicId(id.to_owned())));
    }
    (rest.starts_with('[') && rest.contains(" Leader ")).then_some(Line::Described)
}

/// What was found out for an assignment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judged {
    /// `None`: the broker has no ids.
    pub id: Option<TopicId>,
    /// Partitions whose committed position belongs to another topic.
    pub foreign: Vec<i32>,
}

/// Asks which topic is there, unless `known` says so, and which of these partitions have a committed position of another. Blocks.
///
/// # Errors
/// The broker does not answer in time, or refuses: nothing is known then, and nothing may be consumed.
pub(super) fn judge(settings: &KafkaSettings, group: &str, list: &TopicPartitionList, topic: &str, known: Option<TopicId>) -> Result<Judged, String> {
    let mut config = settings.plain().map_err(|error| error.to_string())?;
    // The group is asked about, and never joined.
    config.set("group.id", group).set("enable.auto.commit", "false").set("allow.auto.create.topics", "false");
    config.set("debug", DEBUG).set_log_level(RDKafkaLogLevel::Debug);
    let listener = Listener { topic: topic.to_owned(), heard: Mutex::default() };
    let client: BaseConsumer<Listener> = config.create_with_context(listener).map_err(|error| error.to_string())?;
    let judged = known.map_or_else(|| ask(&client, topic), |id| Ok(Some(id))).and_then(|id| match id {
        Some(id) => foreign(&client, list, &id).map(|foreign| Judged { id: Some(id), foreign }),
        None => Ok(Judged { id: None, foreign: Vec::new() }),
    });
    // Ending a client joins its threads, which may take a while.
    std::thread::spawn(move || drop(client));
    judged.map_err(|error| error.to_string())
}

fn ask(client: &BaseConsumer<Listener>, topic: &str) -> Result<Option<TopicId>, KafkaError> {
    patiently(client, || {
        let answer = client.fetch_metadata(Some(topic), REQUEST)?;
        answer.topics().iter().filter_map(rdkafka::metadata::MetadataTopic::error).try_for_each(|code| Err(KafkaError::MetadataFetch(code.into())))
    })?;
    let began = Instant::now();
    while !client.context().is_described() && began.elapsed() < LOG_LINES {
        drop(client.poll(Duration::from_millis(10)));
    }
    Ok(client.context().id())
}

fn foreign(client: &BaseConsumer<Listener>, list: &TopicPartitionList, id: &TopicId) -> Result<Vec<i32>, KafkaError> {
    let answer = patiently(client, || {
        let answer = client.committed_offsets(list.clone(), REQUEST)?;
        answer.elements().iter().try_for_each(TopicPartitionListElem::error)?;
        Ok(answer)
    })?;
    let elements = answer.elements();
    let of_another = elements.iter().filter(|element| !element.metadata().is_empty() && element.metadata() != id.as_str());
    Ok(of_another.map(TopicPartitionListElem::partition).collect())
}

/// The context of a client that only asks.
struct Listener {
    topic: String,
    heard: Mutex<(Option<TopicId>, bool)>,
}

impl Listener {
    fn id(&self) -> Option<TopicId> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn is_described(&self) -> bool {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

impl ClientContext for Listener {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::trace!(target: "librdkafka", facility, "{text}");
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match line(text, &self.topic) {
            Some(Line::Id(id)) => heard.0 = Some(id),
            Some(Line::Described) => heard.1 = true,
            None => {}
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason, "error");
    }
}

impl ConsumerContext for Listener {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topics_id_is_read_from_the_log_and_no_other_topics() {
        let changed = "[thrd:127.0.0.1:9092/1]: Topic kylo.txns changed id from AAAAAAAAAAAAAAAAAAAAAA to 4mT9Q6xhQ0y1J9v0m2kXqA";
        assert_eq!(line(changed, "kylo.txns"), Some(Line::Id(TopicId("4mT9Q6xhQ0y1J9v0m2kXqA".to_owned()))));
        assert_eq!(line(changed, "kylo"), None);
        assert_eq!(line(changed, "kylo.txns.other"), None);
        let gone = "[thrd:main]: Topic kylo.txns changed id from 4mT9Q6xhQ0y1J9v0m2kXqA to AAAAAAAAAAAAAAAAAAAAAA";
        assert_eq!(line(gone, "kylo.txns"), None);
        assert_eq!(line("[thrd:main]:   Topic kylo.txns [3] Leader 1 Epoch 0", "kylo.txns"), Some(Line::Described));
        assert_eq!(line("[thrd:main]: Topic kylo.txns with 16 partitions", "kylo.txns"), None);
        assert_eq!(line("", ""), None);
    }
}
