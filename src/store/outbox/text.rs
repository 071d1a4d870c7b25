//! The text of an outbox's statements.

use crate::domain::outbox::{KeyFrom, Marker, Outbox};

/// Everything that is said to one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statements {
    /// $1 ids and $2 order keys that are left out, $3 rows and $4 bytes at most.
    pub claim: String,
    /// $1 ids: the rows themselves.
    pub by_id: String,
    /// The columns of a row as it is read.
    pub shown: String,
    /// $1 ids. Waits until the disk has it.
    pub mark: String,
    /// The same without waiting: a server that crashes may forget it.
    pub mark_soon: String,
    /// $1 ids; only for a status that has a word for it.
    pub fail: Option<String>,
    pub payload_is_bytes: bool,
    table: String,
    pending: String,
    id: String,
    id_type: String,
    created_at: Option<String>,
    /// Columns in order; written with the table's alias, because a bare name in ORDER BY means the column that is read, which is text.
    order: Vec<String>,
}

impl Statements {
    /// `id_type` is the id column's SQL type: rows are named by its text everywhere else.
    pub fn new(outbox: &Outbox, id_type: &str, payload_is_bytes: bool) -> Self {
        let columns = &outbox.columns;
        let table = format!("{}.{}", quoted(&outbox.schema), quoted(&outbox.table));
        let (id, order, pending) = (quoted(&columns.id), order(outbox), pending(&outbox.marker));
        let ids = format!("{id} = ANY($1::text[]::{id_type}[])");
        let (mark, mark_soon) = (mark(&outbox.marker, &table, &ids, false), mark(&outbox.marker, &table, &ids, true));
        let fail = fail(&outbox.marker, &table, &ids);
        let mut statements = Self {
            claim: String::new(),
            by_id: String::new(),
            shown: String::new(),
            mark,
            mark_soon,
            fail,
            payload_is_bytes,
            table,
            pending,
            id,
            id_type: id_type.to_owned(),
            created_at: columns.created_at.as_deref().map(quoted),
            order,
        };
        let (shown, but_keys) = shown(outbox, payload_is_bytes);
        statements.by_id = format!("SELECT {shown} FROM {} AS t WHERE {ids} ORDER BY {}", statements.table, statements.order("t"));
        statements.claim = statements.claim_of(outbox, &shown, &but_keys);
        statements.shown = shown;
        statements
    }

    fn claim_of(&self, outbox: &Outbox, shown: &str, but_keys: &str) -> String {
        format!(
            "SELECT {shown}
             FROM (SELECT first.*, sum(coalesce(pg_column_size(first.{payload}), 0)) OVER (ORDER BY {first} ROWS UNBOUNDED PRECEDING)
                          - coalesce(pg_column_size(first.{payload}), 0) AS kylo_bytes_before
                   FROM (SELECT * FROM {table} AS t WHERE {pending} AND {id} <> ALL($1::text[]::{id_type}[]) {but_keys}
                         ORDER BY {inner} LIMIT $3) first) sized
             WHERE kylo_bytes_before < $4 ORDER BY {outer}",
            payload = quoted(&outbox.columns.payload),
            id = self.id,
            id_type = self.id_type,
            table = self.table,
            pending = self.pending,
            first = self.order("first"),
            inner = self.order("t"),
            outer = self.order("sized"),
        )
    }

    /// One row (n, age) if there is anything to publish. The nth parameter has the ids that do not count.
    pub(super) fn oldest(&self, n: usize) -> String {
        let age = self
            .created_at
            .as_ref()
            .map_or_else(|| "0::float8".to_owned(), |column| format!("greatest(coalesce(extract(epoch FROM now() - {column}), 0), 0)::float8"));
        format!(
            "(SELECT {n}::int AS n, {age} AS age FROM {} AS t WHERE {} AND {} <> ALL(${}::text[]::{}[]) ORDER BY {} LIMIT 1)",
            self.table,
            self.pending,
            self.id,
            n + 1,
            self.id_type,
            self.order("t"),
        )
    }

    fn order(&self, alias: &str) -> String {
        self.order.iter().map(|column| format!("{alias}.{column}")).collect::<Vec<_>>().join(", ")
    }
}

/// The columns of a row as it is read, and the condition that leaves out keys ($2).
fn shown(outbox: &Outbox, payload_is_bytes: bool) -> (String, String) {
    let columns = &outbox.columns;
    let key = match &outbox.key {
        KeyFrom::Column(column) => Some(column),
        KeyFrom::EventType => columns.event_type.as_ref(),
        KeyFrom::RoundRobin | KeyFrom::Detect => None,
    };
    let text = |column: Option<&String>, name: &str| {
        column.map_or_else(|| format!("NULL::text AS {name}"), |column| format!("{}::text AS {name}", quoted(column)))
    };
    let payload = quoted(&columns.payload);
    let shown = [
        text(Some(&columns.id), "id"),
        text(columns.event_id.as_ref(), "event_id"),
        text(columns.event_type.as_ref(), "event_type"),
        text(key, "order_key"),
        text(columns.company.as_ref(), "company"),
        text(columns.topic.as_ref(), "topic"),
        text(columns.traceparent.as_ref(), "traceparent"),
        text(columns.correlation_id.as_ref(), "correlation_id"),
        if payload_is_bytes { format!("{payload} AS payload") } else { format!("{payload}::text AS payload") },
    ];
    let but_keys = key.map_or_else(
        // The parameter must be used, or the server would not know its type.
        || "AND cardinality($2::text[]) >= 0".to_owned(),
        |key| format!("AND ({0} IS NULL OR {0}::text <> ALL($2::text[]))", quoted(key)),
    );
    (shown.join(", "), but_keys)
}

/// An identifier, whatever is in it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text value, whatever is in it. Backslashes mean themselves unless somebody has turned standard_conforming_strings off.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn order(outbox: &Outbox) -> Vec<String> {
    let columns = &outbox.columns;
    let mut names: Vec<&String> = columns.order.iter().collect();
    if !names.contains(&&columns.id) {
        names.push(&columns.id);
    }
    names.into_iter().map(|name| quoted(name)).collect()
}

fn pending(marker: &Marker) -> String {
    match marker {
        Marker::NullTimestamp { column } => format!("{} IS NULL", quoted(column)),
        Marker::Boolean { column } => format!("{} IS NOT TRUE", quoted(column)),
        Marker::Status { column, new, processing, .. } => {
            let words: Vec<_> = std::iter::once(new).chain(processing).map(|word| literal(word)).collect();
            format!("{} IN ({})", quoted(column), words.join(", "))
        }
        Marker::Delete => "TRUE".to_owned(),
        // Never asked by: a comparison with the table comes first.
        Marker::Detect { .. } => "FALSE".to_owned(),
    }
}

/// The statement that marks rows as published. `is_soon`: it does not wait for the disk. A mark that a crash of the server takes back is made again
/// after the row was published again, with the same event_id: what a crash a moment before the mark leaves, too.
fn mark(marker: &Marker, table: &str, ids: &str, is_soon: bool) -> String {
    const SOON: &str = "WITH kylo_soon AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', TRUE) AS kylo_set) ";
    let (with, from, using, and) =
        if is_soon { (SOON, " FROM kylo_soon", " USING kylo_soon", " AND kylo_soon.kylo_set IS NOT NULL") } else { ("", "", "", "") };
    match marker {
        Marker::NullTimestamp { column } => {
            let column = quoted(column);
            format!("{with}UPDATE {table} SET {column} = now(){from} WHERE {ids} AND {column} IS NULL{and}")
        }
        Marker::Boolean { column } => {
            let column = quoted(column);
            format!("{with}UPDATE {table} SET {column} = TRUE{from} WHERE {ids} AND {column} IS NOT TRUE{and}")
        }
        Marker::Status { column, sent, .. } => {
            format!("{with}UPDATE {table} SET {} = {}{from} WHERE {ids}{and}", quoted(column), literal(sent))
        }
        Marker::Delete => format!("{with}DELETE FROM {table}{using} WHERE {ids}{and}"),
        Marker::Detect { .. } => format!("DELETE FROM {table} WHERE {ids} AND FALSE"),
    }
}

/// The statement that says of rows that they were given up, where the table has a word for that.
fn fail(marker: &Marker, table: &str, ids: &str) -> Option<String> {
    let Marker::Status { column, failed: Some(failed), .. } = marker else { return None };
    Some(format!("UPDATE {table} SET {} = {} WHERE {ids}", quoted(column), literal(failed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outbox::Place;

    #[test]
    fn names_and_words_from_a_file_cannot_end_their_quotes() {
        let mut outbox = Outbox::own("db", Place::Control, "a\"; DROP TABLE x; --", "t");
        outbox.marker = Marker::Status {
            column: "st\"atus".to_owned(),
            new: "NE'W".to_owned(),
            processing: None,
            sent: "SENT".to_owned(),
            failed: Some("FAI'LED".to_owned()),
        };
        let statements = Statements::new(&outbox, "bigint", false);
        assert!(
            statements.claim.contains(r#"FROM "a""; DROP TABLE x; --"."outbox_events" AS t WHERE "st""atus" IN ('NE''W') AND"#),
            "{}",
            statements.claim
        );
        assert!(statements.fail.unwrap().contains("= 'FAI''LED' WHERE"));
    }

    #[test]
    fn no_statement_asks_for_ids_above_one_that_was_seen() {
        let statements = Statements::new(&Outbox::own("db", Place::Control, "s", "t"), "bigint", false);
        assert!(!statements.claim.contains("\"seq\" >"), "{}", statements.claim);
    }
}
