//! Replaying dead letters: what is published, and in which order the letter's state changes.
//!
//! Called by `kylo dlq replay` and `edit`. A message's letter goes out as it came; a row's letter as a batch of that one row with the original
//! `created_at`, which orders content, and with its `occurrence` where it has no id, so it stays the transaction it was. The header
//! `dead_letter_id` lets the worker close the letter, or count one more attempt. An event's letter is left to the relay, which still has the row.
//! What must never happen here: a replay that makes a row younger than it was, or a letter closed because it was published.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::PgPool;

use super::publish_format;
use crate::store::control::dead_letters::{self, Letter};

/// Header that names the letter whose replay a message is.
pub const HEADER: &str = "dead_letter_id";

/// What a replay publishes.
#[derive(Clone, PartialEq, Eq)]
pub struct Replay {
    pub topic: String,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, String)>,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.payload.as_ref().map_or(0, Vec::len);
        f.debug_struct("Replay").field("topic", &self.topic).field("payload_bytes", &bytes).field("headers", &self.headers).finish_non_exhaustive()
    }
}

/// Why a letter was not replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("there is no dead letter {0}")]
    NoSuchLetter(i64),
    #[error("dead letter {id} is {state}: only new letters and those being replayed can be replayed")]
    Settled { id: i64, state: String },
    #[error("dead letter {id} cannot be replayed: {reason}")]
    Unusable { id: i64, reason: &'static str },
    #[error("dead letter {id} could not be published and is new again: {reason}")]
    NotPublished { id: i64, reason: String },
    #[error("cannot replay dead letter {id}: the control database does not answer")]
    Control { id: i64, source: sqlx::Error },
}

/// One row as a batch of its own.
#[derive(Serialize)]
struct OneRow<'a> {
    event_type: &'static str,
    version: u8,
    batch_id: &'a str,
    company_id: &'a str,
    created_at: &'a str,
    transactions: [&'a RawValue; 1],
    meta: Value,
}

/// What publishing this letter again means. `edited`: other bytes than the original ones (a whole message, or a row's JSON text).
///
/// # Errors
/// The letter lacks what is needed, or the row's text is not JSON.
pub fn compose(letter: &Letter, edited: Option<&[u8]>) -> Result<Replay, ReplayError> {
    let row = &letter.row;
    let original = edited.map(<[u8]>::to_vec).or_else(|| letter.original.clone());
    let headers = headers(letter);
    if row.kind != "row" {
        return Ok(Replay { topic: row.topic.clone(), key: letter.record_key.clone(), payload: original, headers });
    }
    let unusable = |reason| ReplayError::Unusable { id: row.id, reason };
    let envelope = letter.envelope.as_ref().ok_or_else(|| unusable("it has no envelope"))?;
    let text = |name| envelope.get(name).and_then(Value::as_str).ok_or_else(|| unusable("its envelope lacks batch_id, company_id or created_at"));
    let (batch_id, company_id, created_at) = (text("batch_id")?, text("company_id")?, text("created_at")?);
    let mut raw = String::from_utf8(original.unwrap_or_default()).map_err(|_| unusable("the row is not text"))?;
    if let Some(occurrence) = envelope.get("occurrence").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()) {
        raw = publish_format::with_occurrence(&raw, occurrence);
    }
    let raw = RawValue::from_string(raw).map_err(|_| unusable("the row is not JSON"))?;
    let batch = OneRow {
        event_type: "TXNS_BATCH",
        version: 2,
        batch_id,
        company_id,
        created_at,
        transactions: [&raw],
        meta: serde_json::json!({ "producer": "kylo@dlq" }),
    };
    let payload = serde_json::to_vec(&batch).map_err(|_| unusable("the batch cannot be written as JSON"))?;
    Ok(Replay { topic: row.topic.clone(), key: Some(company_id.as_bytes().to_vec()), payload: Some(payload), headers })
}

fn headers(letter: &Letter) -> Vec<(String, String)> {
    let mut headers: BTreeMap<String, String> = match &letter.headers {
        Value::Object(fields) => fields.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect(),
        _ => BTreeMap::new(),
    };
    headers.insert(HEADER.to_owned(), letter.row.id.to_string());
    headers.into_iter().collect()
}

/// Publishes one letter again. The letter is marked first, so the worker, who may be faster than the publisher's answer, finds it so.
///
/// # Errors
/// [`ReplayError`]; when publishing failed the letter is as it was.
pub async fn replay<F, Fut>(pool: &PgPool, id: i64, edited: Option<&[u8]>, publish: F) -> Result<(), ReplayError>
where
    F: FnOnce(Replay) -> Fut,
    Fut: Future<Output = Result<(), String>>,
{
    let control = |source| ReplayError::Control { id, source };
    let letter = dead_letters::show(pool, id).await.map_err(control)?.ok_or(ReplayError::NoSuchLetter(id))?;
    if letter.row.kind == "event" && edited.is_some() {
        return Err(ReplayError::Unusable { id, reason: "an event is what happened: it cannot be edited" });
    }
    let message = compose(&letter, edited)?;
    if !dead_letters::start_replay(pool, id).await.map_err(control)? {
        return Err(ReplayError::Settled { id, state: letter.row.state });
    }
    if letter.row.kind == "event" {
        // The relay has the row, and the rules of today for it: it publishes and closes the letter.
        return Ok(());
    }
    if let Err(reason) = publish(message).await {
        dead_letters::replay_not_sent(pool, id).await.map_err(control)?;
        return Err(ReplayError::NotPublished { id, reason });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;

    use super::*;
    use crate::domain::clock::{Clock, SystemClock};
    use crate::flow::decode::{Decoded, RawMessage, decode_txns};
    use crate::store::control::dead_letters::LetterRow;

    fn letter(kind: &str, original: &str, envelope: Option<Value>) -> Letter {
        let row = LetterRow {
            id: 7,
            topic: "txns".to_owned(),
            partition: 3,
            offset: 9,
            pointer: "/transactions/1".to_owned(),
            kind: kind.to_owned(),
            class: "bad_amount".to_owned(),
            reason: "x".to_owned(),
            company_id: Some("710".to_owned()),
            batch_id: Some("b-1".to_owned()),
            attempts: 1,
            state: "new".to_owned(),
            first_seen_at: DateTime::UNIX_EPOCH,
            last_seen_at: DateTime::UNIX_EPOCH,
            settled_at: None,
        };
        let headers = json!({ "traceparent": "00-1", "dead_letter_id": "3" });
        Letter { row, record_key: Some(b"k".to_vec()), headers, original: Some(original.as_bytes().to_vec()), envelope, record_timestamp: None }
    }

    fn envelope(occurrence: Option<u32>) -> Option<Value> {
        Some(json!({ "batch_id": "b-1", "company_id": "710", "created_at": "2025-08-26T12:00:00Z", "occurrence": occurrence }))
    }

    #[test]
    fn a_message_goes_out_byte_for_byte_with_its_key_and_the_letters_number() {
        let replay = compose(&letter("message", "not json \u{1}", None), None).unwrap();
        assert_eq!(replay.payload.as_deref(), Some("not json \u{1}".as_bytes()));
        assert_eq!((replay.topic.as_str(), replay.key.as_deref()), ("txns", Some(&b"k"[..])));
        assert_eq!(replay.headers, [("dead_letter_id".to_owned(), "7".to_owned()), ("traceparent".to_owned(), "00-1".to_owned())]);
    }

    #[test]
    fn a_row_goes_out_as_a_batch_of_its_own_with_its_digits_its_time_and_its_occurrence() {
        let row = r#"{"date":"2025-08-26","amount":-12.340,"description":"X"}"#;
        let fixed = r#"{"date":"2025-08-26","amount":-12.34,"description":"X"}"#;
        let replay = compose(&letter("row", row, envelope(Some(2))), Some(fixed.as_bytes())).unwrap();
        let payload = replay.payload.unwrap();
        let raw = RawMessage { payload: Some(&payload), key: replay.key.as_deref(), topic: "txns", partition: 0, offset: 0 };
        let Ok(Decoded::Batch { batch, bad, .. }) = decode_txns(&raw, SystemClock.now()) else { panic!("not a batch") };
        assert!(bad.is_empty());
        assert_eq!(batch.created_at.to_rfc3339(), "2025-08-26T12:00:00+00:00");
        assert_eq!((batch.rows.len(), batch.rows[0].occurrence), (1, Some(2)));
        assert!(String::from_utf8(payload).unwrap().contains("-12.34"));
    }

    #[test]
    fn a_row_with_its_own_id_gets_no_occurrence() {
        let row = r#"{"id":"t1","date":"2025-08-26","amount":"1.5.5","description":"X"}"#;
        let replay = compose(&letter("row", row, envelope(Some(1))), None).unwrap();
        assert!(!String::from_utf8(replay.payload.unwrap()).unwrap().contains("occurrence"));
    }

    #[test]
    fn a_row_without_its_envelope_is_refused() {
        assert!(matches!(compose(&letter("row", "{}", None), None), Err(ReplayError::Unusable { .. })));
    }
}
