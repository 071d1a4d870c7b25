//! What a configuration leaves open, found by the names that such columns have in the outboxes of this world.

use std::collections::BTreeMap;

use crate::domain::outbox::{KeyFrom, Marker, Outbox};

/// Fills in what was left open.
///
/// # Errors
/// What was not found, and how to name it.
pub(super) fn complete(outbox: &Outbox, columns: &BTreeMap<String, String>) -> Result<Outbox, Vec<String>> {
    let table = format!("{}.{}", outbox.schema, outbox.table);
    if columns.is_empty() {
        return Err(vec![format!("there is no table {table}, or this user may not see it")]);
    }
    let find = |names: &[&str]| names.iter().find(|name| columns.contains_key(**name)).map(|name| (*name).to_owned());
    let mut problems = Vec::new();
    let mut needed = |given: &str, role: &str, names: &[&str]| {
        if !given.is_empty() {
            return given.to_owned();
        }
        find(names).unwrap_or_else(|| {
            problems.push(format!("{table} has no column called {}: name its {role} in the sources file", names.join(", ")));
            String::new()
        })
    };
    let mut found = outbox.clone();
    found.columns.id = needed(&outbox.columns.id, "id", &["id", "seq", "event_id", "outbox_id"]);
    found.columns.payload = needed(&outbox.columns.payload, "payload", &["payload", "event_data", "data"]);
    let given = &mut found.columns;
    let optional: [(&mut Option<String>, &[&str]); 7] = [
        (&mut given.event_id, &["event_id", "idempotency_token", "idempotency_key"]),
        (&mut given.event_type, &["event_type", "type"]),
        (&mut given.company, &["company_id"]),
        (&mut given.topic, &["topic"]),
        (&mut given.traceparent, &["traceparent"]),
        (&mut given.correlation_id, &["correlation_id"]),
        (&mut given.created_at, &["created_at"]),
    ];
    for (column, names) in optional {
        *column = column.take().or_else(|| find(names));
    }
    if given.order.is_empty() {
        // Numbers count up; ids of another kind say nothing about order.
        let counts = matches!(columns.get(&given.id).map(String::as_str), Some("bigint" | "integer" | "smallint"));
        given.order = if counts { vec![given.id.clone()] } else { given.created_at.iter().cloned().collect() };
    }
    if found.key == KeyFrom::Detect {
        match find(&["partition_key", "aggregate_id", "event_key", "company_id"]) {
            Some(column) => found.key = KeyFrom::Column(column),
            None => problems.push(format!(
                "{table} has no column called partition_key, aggregate_id, event_key, company_id: name its key, or choose another \"partition\", in the sources file"
            )),
        }
    }
    if let Marker::Detect { column } = &outbox.marker {
        match marker(column.as_deref(), columns) {
            Some(marker) => found.marker = marker,
            None => problems.push(format!(
                "{table} has no marker called published_at, processed_at, published, status (or {}): name its \"marker\" in the sources file",
                column.as_deref().unwrap_or("another name")
            )),
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

fn marker(named: Option<&str>, columns: &BTreeMap<String, String>) -> Option<Marker> {
    // A table with a status often has processed_at besides, which says when, not whether.
    let usual = ["published_at", "published", "status", "processed_at"];
    let names = named.map_or_else(|| usual.to_vec(), |name| vec![name]);
    let column = names.into_iter().find(|name| columns.contains_key(*name))?.to_owned();
    match columns.get(&column)?.as_str() {
        kind if kind.starts_with("timestamp") => Some(Marker::NullTimestamp { column }),
        "boolean" => Some(Marker::Boolean { column }),
        "text" | "character varying" | "USER-DEFINED" => {
            let word = |word: &str| word.to_owned();
            Some(Marker::Status { column, new: word("NEW"), processing: Some(word("PROCESSING")), sent: word("SENT"), failed: Some(word("FAILED")) })
        }
        _ => None,
    }
}
