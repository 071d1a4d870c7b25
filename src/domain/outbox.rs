//! What an outbox table is: where it stands, what its columns mean, how a published row is marked, and where its events go.
//!
//! Made by the relay for Kylo's own tables, and by `config::relay` from the sources file for those of others. Pure. What must never happen
//! here: an event that gets a topic or a key by a guess. One that fits no rule is refused, with what to add.

use std::collections::BTreeMap;
use std::fmt;

use super::company::Dsn;

/// Which database a table is in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The control database, whatever its DSN is at the moment.
    Control,
    Elsewhere(Dsn),
}

/// One outbox table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbox {
    /// `host:port/database/schema.table`: the same from every process and login. Leases and refused rows hang on it.
    pub name: String,
    pub place: Place,
    pub schema: String,
    pub table: String,
    pub columns: Columns,
    pub marker: Marker,
    pub topics: Topics,
    pub key: KeyFrom,
    /// Kylo's own: its shape is known and need not be checked.
    pub own: bool,
}

/// What the columns are called. `None` = the table has no such column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Names a row for good, such as the primary key. Empty = to be found in the table.
    pub id: String,
    /// Goes out as header `event_id`, by which consumers drop duplicates. Without it the header is the table and the id.
    pub event_id: Option<String>,
    pub event_type: Option<String>,
    pub company: Option<String>,
    /// Empty = to be found in the table.
    pub payload: String,
    pub topic: Option<String>,
    pub traceparent: Option<String>,
    pub correlation_id: Option<String>,
    pub created_at: Option<String>,
    /// The order in which rows are published. The id comes last if it is not among them, so the order is total.
    pub order: Vec<String>,
}

/// How a row says that it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marker {
    /// NULL = not yet; set to the time of publishing.
    NullTimestamp { column: String },
    /// false or NULL = not yet.
    Boolean { column: String },
    /// `new` = not yet. `processing`: what another relay left behind when it died counts as new.
    Status { column: String, new: String, processing: Option<String>, sent: String, failed: Option<String> },
    /// A published row is deleted.
    Delete,
    /// To be found in the table, by its usual names or by this one.
    Detect { column: Option<String> },
}

/// What becomes the record's key: what order is kept by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFrom {
    Column(String),
    /// All events of one type are in order.
    EventType,
    /// No key: events are spread over the partitions and their order is lost.
    RoundRobin,
    /// A column of the usual name, to be found in the table.
    Detect,
}

/// Where events go: the row's own topic column first, then the map, then the rule for the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    pub by_event_type: BTreeMap<String, String>,
    pub others: Option<OtherTopics>,
}

/// Events that are not in the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherTopics {
    Fixed(String),
    /// The topic is called as the event type.
    EventType,
}

impl Topics {
    /// Everything to one topic.
    pub fn one(topic: &str) -> Self {
        Self { by_event_type: BTreeMap::new(), others: Some(OtherTopics::Fixed(topic.to_owned())) }
    }

    /// Topics that are known before any row is.
    pub fn known(&self) -> impl Iterator<Item = &str> {
        let fixed = match &self.others {
            Some(OtherTopics::Fixed(topic)) => Some(topic.as_str()),
            _ => None,
        };
        self.by_event_type.values().map(String::as_str).chain(fixed)
    }
}

/// A row of an outbox as it is to be published. `Debug` leaves the payload out: it is people's data.
#[derive(Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// The id as text.
    pub id: String,
    pub event_id: Option<String>,
    pub event_type: Option<String>,
    pub key: Option<String>,
    pub company: Option<String>,
    /// `None` = SQL NULL: a tombstone.
    pub payload: Option<Vec<u8>>,
    pub topic: Option<String>,
    pub traceparent: Option<String>,
    pub correlation_id: Option<String>,
}

impl fmt::Debug for OutboxRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxRow")
            .field("id", &self.id)
            .field("event_type", &self.event_type)
            .field("payload_bytes", &self.payload.as_ref().map_or(0, Vec::len))
            .finish_non_exhaustive()
    }
}

/// An event as it goes to a topic.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    pub topic: String,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, String)>,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.payload.as_ref().map_or(0, Vec::len);
        f.debug_struct("Event").field("topic", &self.topic).field("payload_bytes", &bytes).field("headers", &self.headers).finish_non_exhaustive()
    }
}

/// Header that marks an event which was published before, by a replay or a backfill.
pub const REPLAY_HEADER: &str = "replay";

impl Outbox {
    /// Kylo's own table in some schema.
    pub fn own(database: &str, place: Place, schema: &str, topic_events: &str) -> Self {
        let column = |name: &str| Some(name.to_owned());
        Self {
            name: format!("{database}/{schema}.outbox_events"),
            place,
            schema: schema.to_owned(),
            table: "outbox_events".to_owned(),
            columns: Columns {
                id: "seq".to_owned(),
                event_id: column("event_id"),
                event_type: column("event_type"),
                company: column("company_id"),
                payload: "payload".to_owned(),
                topic: None,
                traceparent: column("traceparent"),
                correlation_id: None,
                created_at: column("created_at"),
                order: vec!["seq".to_owned()],
            },
            marker: Marker::NullTimestamp { column: "published_at".to_owned() },
            topics: Topics::one(topic_events),
            key: KeyFrom::Column("company_id".to_owned()),
            own: true,
        }
    }

    /// What a row is published as.
    ///
    /// # Errors
    /// What is missing and what to do: the row is refused.
    pub fn event(&self, row: &OutboxRow) -> Result<Event, String> {
        let topic = self.topic(row)?;
        let event_id = row.event_id.clone().unwrap_or_else(|| format!("{}.{}/{}", self.schema, self.table, row.id));
        let mut headers = vec![("event_id".to_owned(), event_id)];
        let optional = [
            ("event_type", &row.event_type),
            ("company_id", &row.company),
            ("traceparent", &row.traceparent),
            ("correlation_id", &row.correlation_id),
        ];
        let given = optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
        // An event of nobody's (a message whose company is not known) has an empty company_id.
        headers.extend(given.filter(|(_, value)| !value.is_empty()));
        Ok(Event { topic, key: self.order_key(row).map(String::into_bytes), payload: row.payload.clone(), headers })
    }

    /// What the row's order is kept by. `None` = nothing: it may pass others and be passed.
    pub fn order_key(&self, row: &OutboxRow) -> Option<String> {
        match &self.key {
            KeyFrom::Column(_) => row.key.clone(),
            KeyFrom::EventType => row.event_type.clone(),
            KeyFrom::RoundRobin | KeyFrom::Detect => None,
        }
    }

    /// Whether rows may name topics that the configuration does not.
    pub fn topics_differ_by_row(&self) -> bool {
        self.columns.topic.is_some() || self.topics.others == Some(OtherTopics::EventType)
    }

    /// Where a row goes.
    ///
    /// # Errors
    /// As [`Outbox::event`].
    pub fn topic(&self, row: &OutboxRow) -> Result<String, String> {
        let event_type = row.event_type.as_deref();
        let mapped = || event_type.and_then(|name| self.topics.by_event_type.get(name)).cloned();
        let other = || match &self.topics.others {
            Some(OtherTopics::Fixed(topic)) => Some(topic.clone()),
            Some(OtherTopics::EventType) => event_type.map(str::to_owned),
            None => None,
        };
        let Some(topic) = row.topic.clone().or_else(mapped).or_else(other) else {
            let shown = event_type.unwrap_or("(none)");
            return Err(format!("no topic is configured for event type {shown:?} of {}: add it to \"topics\" of the source", self.name));
        };
        if is_topic(&topic) { Ok(topic) } else { Err(format!("{topic:?} cannot be a topic's name")) }
    }
}

/// Kafka's grammar of topic names.
pub fn is_topic(name: &str) -> bool {
    let grammar = name.len() <= 249 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    grammar && !matches!(name, "" | "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> OutboxRow {
        OutboxRow {
            id: "7".to_owned(),
            event_id: Some("e-7".to_owned()),
            event_type: Some("user.verified".to_owned()),
            key: Some("k".to_owned()),
            company: None,
            payload: Some(b"{}".to_vec()),
            topic: None,
            traceparent: None,
            correlation_id: Some("c-1".to_owned()),
        }
    }

    fn outbox(topics: Topics, key: KeyFrom) -> Outbox {
        Outbox { topics, key, ..Outbox::own("db:5432/x", Place::Control, "s", "unused") }
    }

    #[test]
    fn a_topic_comes_from_the_row_then_the_map_then_the_rule_for_the_rest() {
        let mut topics = Topics { by_event_type: BTreeMap::from([("user.verified".to_owned(), "users".to_owned())]), others: None };
        let key = KeyFrom::Column("k".to_owned());
        let topic = |topics: &Topics, row: &OutboxRow| outbox(topics.clone(), key.clone()).event(row).map(|event| event.topic);
        assert_eq!(topic(&topics, &OutboxRow { topic: Some("own".to_owned()), ..row() }).unwrap(), "own");
        assert_eq!(topic(&topics, &row()).unwrap(), "users");
        let other = OutboxRow { event_type: Some("journey.created".to_owned()), ..row() };
        assert!(topic(&topics, &other).unwrap_err().contains("journey.created"));
        topics.others = Some(OtherTopics::EventType);
        assert_eq!(topic(&topics, &other).unwrap(), "journey.created");
        assert!(topic(&topics, &OutboxRow { event_type: Some("a b".to_owned()), ..row() }).is_err(), "no topic can be called so");
    }

    #[test]
    fn a_header_is_there_only_where_there_is_a_value() {
        let event = outbox(Topics::one("t"), KeyFrom::Column("k".to_owned())).event(&row()).unwrap();
        let names: Vec<_> = event.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["event_id", "event_type", "correlation_id"]);
    }

    #[test]
    fn without_an_event_id_the_header_names_table_and_row() {
        let event = outbox(Topics::one("t"), KeyFrom::RoundRobin).event(&OutboxRow { event_id: None, ..row() }).unwrap();
        assert_eq!(event.headers[0], ("event_id".to_owned(), "s.outbox_events/7".to_owned()));
        assert_eq!(event.key, None, "round robin has no key");
    }
}
