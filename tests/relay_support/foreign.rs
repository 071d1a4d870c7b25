//! Outboxes of other services, one of each shape.

use kylo::domain::outbox::{Columns, KeyFrom, Marker, OtherTopics, Outbox, Place, Topics};

/// Everything but schema and table is to be found in the table.
pub fn detect(schema: &str, table: &str) -> Outbox {
    Outbox {
        name: String::new(),
        place: Place::Control,
        schema: schema.to_owned(),
        table: table.to_owned(),
        columns: Columns::default(),
        marker: Marker::Detect { column: None },
        topics: Topics { others: Some(OtherTopics::EventType), ..Topics::default() },
        key: KeyFrom::Detect,
        own: false,
    }
}

/// Tables in the shapes of four services; each gets three events.
pub const SHAPES: &str = "
    CREATE SCHEMA whatsapp_handler;
    CREATE TABLE whatsapp_handler.outbox_events (
        id UUID PRIMARY KEY DEFAULT gen_random_uuid(), aggregate_id TEXT, event_type TEXT, payload JSONB, correlation_id UUID,
        created_at TIMESTAMPTZ DEFAULT clock_timestamp(), published_at TIMESTAMPTZ);
    CREATE SCHEMA data_retention;
    CREATE TABLE data_retention.outbox (seq SERIAL PRIMARY KEY, aggregate_id TEXT, event_type TEXT, event_data TEXT, published BOOLEAN DEFAULT FALSE);
    CREATE SCHEMA go_outbox;
    CREATE TYPE go_outbox.status AS ENUM ('NEW', 'PROCESSING', 'SENT', 'FAILED');
    CREATE TABLE go_outbox.\"Outbox Rows\" (
        id BIGSERIAL PRIMARY KEY, aggregate_type TEXT, aggregate_id BIGINT, event_type TEXT, event_data BYTEA, status go_outbox.status DEFAULT 'NEW',
        topic TEXT, partition_key TEXT, idempotency_token TEXT UNIQUE, created_at TIMESTAMP DEFAULT now(), processed_at TIMESTAMP);
    CREATE SCHEMA mail;
    CREATE TABLE mail.queue (n INT PRIMARY KEY, \"who\"\"ever\" TEXT, kind TEXT, body TEXT);";
