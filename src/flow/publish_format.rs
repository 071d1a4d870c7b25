//! What a producer publishes: the messages of section "Kafka contracts", written by Kylo itself.
//!
//! Called by `kylo publish` (which stands in for n8n), by backfill and by the replay of dead rows. Pure, and the same
//! input gives the same bytes. Amounts keep the digits of the input. What must never happen here: a row in another
//! company's message, a routing or DSN of the original on its way back to a topic, a split that renumbers equal rows.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use sha2::{Digest, Sha256};

use self::input::Batch;
use crate::domain::ids::{CompanyId, push_part};

mod input;
mod split;

/// `meta.producer` of messages that name none.
pub const PRODUCER: &str = "kylo@publish";

/// The most rows put into one message, whatever their size.
pub const MAX_ROWS_PER_MESSAGE: usize = 5_000;

/// A payload size that n8n's and every broker's limits leave room for.
pub const DEFAULT_MAX_BYTES: usize = 500_000;

/// How to publish.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// Only this company's messages.
    pub company: Option<&'a CompanyId>,
    /// For input that names no batch; without it one is made from the content.
    pub default_batch_id: Option<&'a str>,
    /// `created_at` of messages whose input has none.
    pub created_at: DateTime<Utc>,
    /// The most bytes of one payload.
    pub max_bytes: usize,
}

/// A record to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutMessage {
    /// The company, which is also the record key.
    pub company_id: CompanyId,
    /// The batch, for people who follow along; of a promote request its id or time.
    pub name: String,
    /// How many rows it carries.
    pub n_rows: usize,
    /// The value, JSON.
    pub payload: String,
}

impl OutMessage {
    /// The record key.
    #[must_use]
    pub fn key(&self) -> &str {
        self.company_id.as_str()
    }
}

/// A row that cannot be put into any message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Which document of the input, from 0.
    pub document: usize,
    /// Which element of its `transactions`, from 0.
    pub index: usize,
    /// Why; holds nothing of the row but its place.
    pub reason: String,
}

/// The messages of an input.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Published {
    /// In the order of the input; one company's follow each other.
    pub messages: Vec<OutMessage>,
    /// Rows left out.
    pub rejects: Vec<Reject>,
    /// Rows of other companies than the one asked for.
    pub n_filtered: usize,
}

/// The input as a whole cannot be published; nothing should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("document {number} of the input: {reason}", number = document + 1)]
pub struct InputError {
    /// Which document, from 0.
    pub document: usize,
    /// What is wrong and what to do.
    pub reason: String,
}

/// The `TXNS_BATCH` messages of an input: the webhook's payload (`{"batch_id"?, "transactions": [{"company_id", ..}]}`,
/// split by company in order of appearance), or one `TXNS_BATCH`, or several of either, one after the other.
///
/// A batch that is too large for one message is split; its rows without id then carry `occurrence`, and rows that are
/// one transaction stay together. Rows that Kylo will set aside are published all the same, as n8n does.
///
/// # Errors
/// [`InputError`] for what is not JSON or of neither shape.
pub fn messages(input: &str, options: &Options<'_>) -> Result<Published, InputError> {
    let mut published = Published::default();
    for (document, text) in input::documents(input)?.into_iter().enumerate() {
        let fail = |reason| InputError { document, reason };
        let (batches, rejects) = input::batches(text, document).map_err(fail)?;
        published.rejects.extend(rejects);
        for batch in batches {
            if options.company.is_some_and(|only| *only != batch.company_id) {
                published.n_filtered += batch.rows.len();
                continue;
            }
            write(&batch, document, options, &mut published);
        }
    }
    published.rejects.sort_by_key(|reject| (reject.document, reject.index));
    Ok(published)
}

fn write(batch: &Batch<'_>, document: usize, options: &Options<'_>, published: &mut Published) {
    let batch_id = batch.batch_id.clone().or_else(|| options.default_batch_id.map(str::to_owned));
    let head = Head {
        batch_id: batch_id.unwrap_or_else(|| content_id(batch)),
        company_id: batch.company_id.clone(),
        created_at: batch.created_at.clone().unwrap_or_else(|| instant_text(options.created_at)),
        meta: batch.meta,
    };
    let budget = options.max_bytes.saturating_sub(head.payload(&[]).len());
    let (chunks, too_large) = split::chunks(&batch.company_id, &batch.rows, budget);
    published.rejects.extend(too_large.into_iter().map(|index| Reject {
        document,
        index,
        reason: format!("the row does not fit into a message of {} bytes: shorten its texts", options.max_bytes),
    }));
    published.messages.extend(chunks.into_iter().map(|rows| OutMessage {
        company_id: head.company_id.clone(),
        name: head.batch_id.clone(),
        n_rows: rows.len(),
        payload: head.payload(&rows),
    }));
}

/// A name for a batch that has none: the same rows, the same name.
fn content_id(batch: &Batch<'_>) -> String {
    let mut bytes = Vec::new();
    push_part(&mut bytes, batch.company_id.as_str().as_bytes());
    batch.rows.iter().for_each(|row| push_part(&mut bytes, row.text.as_bytes()));
    let hash = Sha256::digest(&bytes);
    hash.iter().take(8).fold("p-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// What a `TXNS_BATCH` says beside its rows.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    /// The producer's name for the batch.
    pub batch_id: String,
    /// Whose rows.
    pub company_id: CompanyId,
    /// RFC 3339 with offset, as it shall stand there. A replay keeps the original's, so that it changes nothing newer.
    pub created_at: String,
    /// The JSON text of `meta`; [`PRODUCER`] names itself where there is none.
    pub meta: Option<&'a str>,
}

impl Head<'_> {
    /// The JSON text of a message with these rows, each the JSON text of one row.
    #[must_use]
    pub fn payload(&self, rows: &[String]) -> String {
        let own_meta = format!("{{\"producer\":{}}}", Quoted(PRODUCER));
        format!(
            "{{\"event_type\":\"TXNS_BATCH\",\"version\":2,\"batch_id\":{},\"company_id\":{},\"created_at\":{},\"transactions\":[{}],\"meta\":{}}}",
            Quoted(&self.batch_id),
            Quoted(self.company_id.as_str()),
            Quoted(&self.created_at),
            rows.join(","),
            self.meta.unwrap_or(&own_meta),
        )
    }
}

/// The row's JSON text with `occurrence` written into it. Rows that have an id or an `occurrence`, and what is no JSON
/// object, stay as they are.
#[must_use]
pub fn with_occurrence(row: &str, occurrence: u32) -> String {
    split::with_occurrence(row, occurrence)
}

/// A `PROMOTE_RULES` message.
#[must_use]
pub fn promote(company_id: &CompanyId, created_at: DateTime<Utc>, request_id: Option<&str>) -> OutMessage {
    let created_at = instant_text(created_at);
    let request = request_id.map(|id| format!(",\"request_id\":{}", Quoted(id))).unwrap_or_default();
    let payload = format!(
        "{{\"event_type\":\"PROMOTE_RULES\",\"version\":1,\"company_id\":{},\"created_at\":{}{request},\"meta\":{{\"producer\":{}}}}}",
        Quoted(company_id.as_str()),
        Quoted(&created_at),
        Quoted(PRODUCER),
    );
    let name = request_id.map_or(created_at, str::to_owned);
    OutMessage { company_id: company_id.clone(), name, n_rows: 0, payload }
}

/// An instant as Kylo writes it: RFC 3339, UTC, as many decimals as it has.
#[must_use]
pub fn instant_text(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// A text as a JSON string.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        serde_json::Value::from(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests;
