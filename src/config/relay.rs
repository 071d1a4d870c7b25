//! The outboxes of others: the sources file (`KYLO_RELAY_SOURCES`, JSON) and the short list of schemas (`KYLO_RELAY_SCHEMAS`).
//!
//! What is left out is found in the table itself when the relay takes it up, by the names that such columns usually have. What must never happen
//! here: a misspelt field that is silently ignored, or a DSN in the file itself, where it would be copied about.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Problem;
use super::secret::Secret;
use crate::domain::company::Dsn;
use crate::domain::outbox::{Columns, KeyFrom, Marker, OtherTopics, Outbox, Place, Topics, is_topic};
use secrecy::ExposeSecret;

const HINT: &str = "docs/relay.md describes the file";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourcesFile {
    sources: Vec<Source>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    /// File with the database's DSN; without it the control database.
    dsn_file: Option<PathBuf>,
    schema: String,
    #[serde(default = "usual_table")]
    table: String,
    #[serde(default)]
    columns: SourceColumns,
    marker: Option<SourceMarker>,
    /// Event type -> topic. `"*"`: all others; `"{event_type}"` as a topic: called as the event type.
    #[serde(default)]
    topics: BTreeMap<String, String>,
    /// `key`, `event_type`, `round_robin`, or `column:NAME`.
    partition: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceColumns {
    id: Option<String>,
    event_id: Option<String>,
    event_type: Option<String>,
    key: Option<String>,
    company_id: Option<String>,
    payload: Option<String>,
    topic: Option<String>,
    traceparent: Option<String>,
    correlation_id: Option<String>,
    created_at: Option<String>,
    #[serde(default)]
    order: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum SourceMarker {
    NullTimestamp {
        column: String,
    },
    Boolean {
        column: String,
    },
    Status {
        column: String,
        #[serde(default = "new_word")]
        new: String,
        processing: Option<String>,
        #[serde(default = "sent_word")]
        sent: String,
        failed: Option<String>,
    },
    Delete,
}

fn usual_table() -> String {
    "outbox_events".to_owned()
}

fn new_word() -> String {
    "NEW".to_owned()
}

fn sent_word() -> String {
    "SENT".to_owned()
}

/// Reads the file. Every source that is wrong is a problem; the others are given.
pub fn from_file(path: &Path) -> (Vec<Outbox>, Vec<Problem>) {
    let wrong = |what: String| (Vec::new(), vec![Problem::new(format!("KYLO_RELAY_SOURCES names {}, {what}", path.display()), HINT)]);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return wrong(format!("which cannot be read: {error}")),
    };
    let file: SourcesFile = match serde_json::from_str(&text) {
        Ok(file) => file,
        Err(error) => return wrong(format!("which cannot be used: {error}")),
    };
    let (mut outboxes, mut problems) = (Vec::new(), Vec::new());
    for source in file.sources {
        let name = format!("{}.{}", source.schema, source.table);
        match outbox(source) {
            Ok(outbox) => outboxes.push(outbox),
            Err(reason) => problems.push(Problem::new(format!("source {name} of {}: {reason}", path.display()), HINT)),
        }
    }
    (outboxes, problems)
}

/// `schema`, `schema.table` or `schema.table:marker_column`, separated by commas; all in the control database.
pub fn from_schemas(text: &str) -> (Vec<Outbox>, Vec<Problem>) {
    let (mut outboxes, mut problems) = (Vec::new(), Vec::new());
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (place, marker) = entry.split_once(':').map_or((entry, None), |(place, marker)| (place, Some(marker.trim())));
        let (schema, table) = place.split_once('.').map_or((place, "outbox_events"), |(schema, table)| (schema.trim(), table.trim()));
        if [schema, table].iter().chain(marker.iter()).any(|name| !is_name(name)) {
            problems.push(Problem::new(
                format!("KYLO_RELAY_SCHEMAS has {entry:?}"),
                "give schema, schema.table or schema.table:marker_column, separated by commas",
            ));
            continue;
        }
        let mut outbox = blank(schema, table, Place::Control);
        outbox.topics.others = Some(OtherTopics::EventType);
        outbox.marker = Marker::Detect { column: marker.map(str::to_owned) };
        outboxes.push(outbox);
    }
    (outboxes, problems)
}

fn blank(schema: &str, table: &str, place: Place) -> Outbox {
    Outbox {
        name: String::new(),
        place,
        schema: schema.to_owned(),
        table: table.to_owned(),
        columns: Columns::default(),
        marker: Marker::Detect { column: None },
        topics: Topics::default(),
        key: KeyFrom::Detect,
        own: false,
    }
}

fn outbox(source: Source) -> Result<Outbox, String> {
    let place = match &source.dsn_file {
        None => Place::Control,
        Some(path) => {
            let secret = Secret::File { name: "dsn_file", path: path.clone() };
            let dsn = secret.current().map_err(|error| error.to_string())?;
            Place::Elsewhere(Dsn::new(dsn.expose_secret()))
        }
    };
    let mut outbox = blank(&source.schema, &source.table, place);
    let given = source.columns;
    let key = given.key.clone();
    outbox.columns = Columns {
        id: given.id.unwrap_or_default(),
        event_id: given.event_id,
        event_type: given.event_type,
        company: given.company_id,
        payload: given.payload.unwrap_or_default(),
        topic: given.topic,
        traceparent: given.traceparent,
        correlation_id: given.correlation_id,
        created_at: given.created_at,
        order: given.order,
    };
    outbox.key = partition(source.partition.as_deref().unwrap_or("key"), key)?;
    outbox.topics = topics(source.topics)?;
    outbox.marker = source.marker.map_or(Marker::Detect { column: None }, marker);
    let columns = &outbox.columns;
    let named = [
        &columns.event_id,
        &columns.event_type,
        &columns.company,
        &columns.topic,
        &columns.traceparent,
        &columns.correlation_id,
        &columns.created_at,
    ];
    let names = [&source.schema, &source.table].into_iter().chain(named.into_iter().flatten()).chain(&columns.order);
    let wrong = names.into_iter().find(|name| !is_name(name)).map(|name| format!("{name:?} cannot be a name in PostgreSQL"));
    wrong.map_or(Ok(outbox), Err)
}

fn partition(text: &str, key: Option<String>) -> Result<KeyFrom, String> {
    match (text, text.strip_prefix("column:")) {
        ("key", _) => Ok(key.map_or(KeyFrom::Detect, KeyFrom::Column)),
        ("event_type", _) => Ok(KeyFrom::EventType),
        ("round_robin", _) => Ok(KeyFrom::RoundRobin),
        (_, Some(column)) if is_name(column) => Ok(KeyFrom::Column(column.to_owned())),
        _ => Err(format!("partition is {text:?}: it must be key, event_type, round_robin or column:NAME")),
    }
}

fn topics(mut given: BTreeMap<String, String>) -> Result<Topics, String> {
    let others = match given.remove("*").as_deref() {
        None if given.is_empty() => Some(OtherTopics::EventType),
        None => None,
        Some("{event_type}") => Some(OtherTopics::EventType),
        Some(topic) => Some(OtherTopics::Fixed(topic.to_owned())),
    };
    let topics = Topics { by_event_type: given, others };
    let wrong = topics.known().find(|topic| !is_topic(topic)).map(|topic| format!("{topic:?} cannot be a topic's name"));
    wrong.map_or(Ok(topics), Err)
}

fn marker(given: SourceMarker) -> Marker {
    match given {
        SourceMarker::NullTimestamp { column } => Marker::NullTimestamp { column },
        SourceMarker::Boolean { column } => Marker::Boolean { column },
        SourceMarker::Status { column, new, processing, sent, failed } => Marker::Status { column, new, processing, sent, failed },
        SourceMarker::Delete => Marker::Delete,
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 63 && !name.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Outbox>, Vec<Problem>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        from_file(file.path())
    }

    #[test]
    fn a_file_names_only_what_differs_from_the_usual() {
        let (outboxes, problems) = read(
            r#"{"sources": [
                {"schema": "whatsapp_handler", "topics": {"user.verified": "users", "*": "{event_type}"}},
                {"schema": "data_retention", "table": "outbox", "marker": {"kind": "boolean", "column": "published"},
                 "columns": {"payload": "event_data", "event_id": "idempotency_token"}, "partition": "column:user_id"}]}"#,
        );
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(outboxes[0].topics.by_event_type["user.verified"], "users");
        assert_eq!(outboxes[0].topics.others, Some(OtherTopics::EventType));
        assert_eq!(outboxes[1].marker, Marker::Boolean { column: "published".to_owned() });
        assert_eq!(outboxes[1].key, KeyFrom::Column("user_id".to_owned()));
    }

    #[test]
    fn a_misspelt_field_and_an_impossible_partition_are_problems_that_name_their_source() {
        let (_, problems) = read(r#"{"sources": [{"shema": "x"}]}"#);
        assert!(problems[0].message.contains("shema"), "{problems:?}");
        let (outboxes, problems) = read(r#"{"sources": [{"schema": "a", "partition": "by luck"}, {"schema": "b"}]}"#);
        assert!(problems[0].message.contains("a.outbox_events") && problems[0].message.contains("by luck"), "{problems:?}");
        assert_eq!(outboxes.len(), 1);
    }

    #[test]
    fn the_siblings_list_of_schemas_is_read() {
        let (outboxes, problems) = from_schemas("whatsapp_handler, journey_matcher.outbox, data_retention.outbox:published");
        assert!(problems.is_empty());
        let places: Vec<_> = outboxes.iter().map(|outbox| format!("{}.{}", outbox.schema, outbox.table)).collect();
        assert_eq!(places, ["whatsapp_handler.outbox_events", "journey_matcher.outbox", "data_retention.outbox"]);
        assert_eq!(outboxes[2].marker, Marker::Detect { column: Some("published".to_owned()) });
        assert_eq!(from_schemas("a.,b").1.len(), 1);
    }
}
