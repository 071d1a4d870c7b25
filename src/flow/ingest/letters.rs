//! Dead letters that ingest writes: rows that decoding set aside, and rows or messages that the company's database rejects.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::domain::company::Route;
use crate::domain::message::{BadRow, Row};
use crate::flow::work::{LetterKind, NewLetter, PromoteWork, Record, TxnsWork};

/// Class of what a company's database rejects for its data.
pub(super) const REJECTED: &str = "rejected_by_database";

pub(super) fn of_bad_row(work: &TxnsWork, bad: &BadRow) -> NewLetter {
    NewLetter {
        pointer: bad.pointer.clone(),
        kind: LetterKind::Row,
        class: bad.reason.class.as_str(),
        reason: bad.reason.text.clone(),
        row_text: Some(bad.raw.clone()),
        envelope: Some(envelope(work, bad.occurrence)),
        ..of_message(work, "")
    }
}

/// `code`: the SQLSTATE. The server's own message is left out, because it may quote the row.
pub(super) fn of_rejected_row(work: &TxnsWork, row: &Row, code: &str) -> NewLetter {
    NewLetter {
        pointer: format!("/transactions/{}", row.index),
        kind: LetterKind::Row,
        row_text: Some(raw_row(work, row.index).unwrap_or_else(|| facts(row).to_string())),
        envelope: Some(envelope(work, row.occurrence)),
        ..of_message(work, code)
    }
}

pub(super) fn of_message(work: &TxnsWork, code: &str) -> NewLetter {
    let batch_id = Some(work.batch.batch_id.to_string());
    NewLetter { batch_id, ..rejected(&work.record, &work.route, code) }
}

/// A promote request that the company's database rejects.
pub(in crate::flow) fn of_promote(work: &PromoteWork, code: &str) -> NewLetter {
    rejected(&work.record, &work.route, code)
}

fn rejected(record: &Arc<Record>, route: &Route, code: &str) -> NewLetter {
    NewLetter {
        record: Arc::clone(record),
        pointer: String::new(),
        kind: LetterKind::Message,
        class: REJECTED,
        reason: format!("the company's database rejects it (SQLSTATE {code}): change the data, or the constraint or trigger, then `kylo dlq replay`"),
        company_id: Some(route.company.to_string()),
        batch_id: None,
        row_text: None,
        envelope: None,
    }
}

/// What a replay wraps the row in: the original `created_at`, because it orders content.
fn envelope(work: &TxnsWork, occurrence: Option<u32>) -> Value {
    let batch = &work.batch;
    json!({
        "batch_id": batch.batch_id.as_str(), "company_id": batch.company_id.as_str(), "created_at": batch.created_at, "occurrence": occurrence,
    })
}

#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow)]
    transactions: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

/// The row exactly as it came, also out of an n8n envelope.
fn raw_row(work: &TxnsWork, index: usize) -> Option<String> {
    let text = std::str::from_utf8(work.record.payload.as_deref()?).ok()?;
    let outline: Outline<'_> = serde_json::from_str(text).ok()?;
    let pick = |rows: Vec<&RawValue>| rows.get(index).map(|raw| raw.get().to_owned());
    match (outline.transactions, outline.message) {
        (Some(rows), _) => pick(rows),
        (None, Some(inner)) => {
            let unquoted: Option<String> = serde_json::from_str(inner.get()).ok();
            let inner: Outline<'_> = serde_json::from_str(unquoted.as_deref().unwrap_or(inner.get())).ok()?;
            pick(inner.transactions?)
        }
        (None, None) => None,
    }
}

/// The row as it was understood, should its text not be found.
fn facts(row: &Row) -> Value {
    json!({
        "id": row.id, "date": row.date.to_string(), "amount": row.cents.to_string(), "currency": row.currency.as_str(),
        "description": row.description, "memo": row.memo, "counterparty": row.counterparty, "occurrence": row.occurrence, "void": row.void,
    })
}
