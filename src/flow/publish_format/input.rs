//! Reading what a person hands to `kylo publish`: documents, and the batches in each.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

use super::{InputError, Reject};
use crate::domain::date;
use crate::domain::ids::{BatchId, CompanyId};
use crate::flow::decode::MAX_ROWS;
use crate::flow::decode::json::{self, Json, List, Object};

const FIELDS: [&str; 9] = ["event_type", "version", "batch_id", "company_id", "created_at", "transactions", "meta", "ingest_batch_id", "routing"];
const EVENT_TYPE: usize = 0;
const VERSION: usize = 1;
const BATCH_ID: usize = 2;
const COMPANY_ID: usize = 3;
const CREATED_AT: usize = 4;
const TRANSACTIONS: usize = 5;
const META: usize = 6;
const INGEST_BATCH_ID: usize = 7;

type Document<'a> = Object<'a, 9>;

/// One company's rows of one document.
pub(super) struct Batch<'a> {
    pub company_id: CompanyId,
    pub batch_id: Option<String>,
    pub created_at: Option<String>,
    pub meta: Option<&'a str>,
    pub rows: Vec<InputRow<'a>>,
}

/// A row and its place in its document.
pub(super) struct InputRow<'a> {
    pub index: usize,
    pub text: Cow<'a, str>,
}

/// The JSON values of the input, one after the other: one document over many lines, or one on each line.
pub(super) fn documents(input: &str) -> Result<Vec<&str>, InputError> {
    let input = input.strip_prefix('\u{feff}').unwrap_or(input);
    let mut documents = Vec::new();
    for document in serde_json::Deserializer::from_str(input).into_iter::<&RawValue>() {
        let reason = |e: &serde_json::Error| format!("not JSON at line {}, column {} of the input", e.line(), e.column());
        let raw = document.map_err(|e| InputError { document: documents.len(), reason: reason(&e) })?;
        documents.push(raw.get());
    }
    if documents.is_empty() {
        return Err(InputError { document: 0, reason: "the input is empty: give the webhook's payload or a TXNS_BATCH".to_owned() });
    }
    Ok(documents)
}

/// The batches of a document, and the rows that belong to none.
pub(super) fn batches(text: &str, number: usize) -> Result<(Vec<Batch<'_>>, Vec<Reject>), String> {
    let shape = "give the webhook's payload ({\"transactions\": [..]}) or a TXNS_BATCH";
    let document: Document<'_> = json::object(text, &FIELDS, Some((TRANSACTIONS, usize::MAX))).map_err(|_| format!("not a JSON object: {shape}"))?;
    if let Some(name) = document.duplicate {
        return Err(format!("the field {name} stands there twice"));
    }
    let rows = match &document.list {
        Some(List::Elements(rows, 1..)) => rows,
        Some(List::Elements(..)) => return Err("transactions is empty: there is nothing to publish".to_owned()),
        Some(List::Other) => return Err("transactions must be a list of rows".to_owned()),
        None => return Err(format!("transactions is missing: {shape}")),
    };
    if document.get(EVENT_TYPE).is_some() {
        return one_batch(&document, rows).map(|batch| (vec![batch], Vec::new()));
    }
    by_company(&document, rows, number)
}

fn one_batch<'a>(document: &Document<'a>, rows: &[&'a RawValue]) -> Result<Batch<'a>, String> {
    if field(document, EVENT_TYPE)?.as_deref() != Some("TXNS_BATCH") {
        return Err("event_type is not TXNS_BATCH: `publish txns` sends nothing else".to_owned());
    }
    if !matches!(document.get(VERSION).map(Json::get), None | Some("1" | "2")) {
        return Err("version must be 1 or 2".to_owned());
    }
    let company = field(document, COMPANY_ID)?.ok_or("company_id is missing")?;
    Ok(Batch {
        company_id: CompanyId::parse(&company).map_err(|e| format!("company_id {e}"))?,
        batch_id: batch_id(document)?,
        created_at: created_at(document)?,
        meta: document.get(META).map(Json::get),
        rows: rows.iter().enumerate().map(|(index, raw)| InputRow { index, text: Cow::Borrowed(raw.get()) }).collect(),
    })
}

fn by_company<'a>(document: &Document<'a>, rows: &[&'a RawValue], number: usize) -> Result<(Vec<Batch<'a>>, Vec<Reject>), String> {
    let batch_id = batch_id(document)?;
    let (mut batches, mut rejects): (Vec<Batch<'a>>, _) = (Vec::new(), Vec::new());
    let mut places = HashMap::new();
    for (index, raw) in rows.iter().enumerate() {
        let (company_id, text) = match company_of(raw) {
            Ok(found) => found,
            Err(reason) => {
                rejects.push(Reject { document: number, index, reason });
                continue;
            }
        };
        let place = *places.entry(company_id.clone()).or_insert(batches.len());
        if place == batches.len() {
            let (batch_id, created_at, rows) = (batch_id.clone(), None, Vec::new());
            batches.push(Batch { company_id, batch_id, created_at, meta: None, rows });
        }
        batches[place].rows.push(InputRow { index, text });
    }
    Ok((batches, rejects))
}

/// The company a row names. A whole number counts as its text, and is taken out of the row, where only text may stand.
fn company_of(raw: &RawValue) -> Result<(CompanyId, Cow<'_, str>), String> {
    let fields = json::object(raw.get(), &["company_id"], None).map_err(|_| "the row is not a JSON object".to_owned())?;
    if fields.duplicate.is_some() {
        return Err("the row names its company twice".to_owned());
    }
    let value = fields.get(0).ok_or("the row names no company: give it company_id")?;
    let (company, text) = match json::text(value) {
        Ok(company) => (company, Cow::Borrowed(raw.get())),
        Err(_) if value.get().bytes().all(|b| b.is_ascii_digit()) => (Cow::Borrowed(value.get()), Cow::Owned(without_company(raw.get()))),
        Err(_) => return Err("the row's company_id must be text".to_owned()),
    };
    CompanyId::parse(&company).map(|company| (company, text)).map_err(|e| format!("the row's company_id {e}"))
}

fn without_company(row: &str) -> String {
    let mut entries = json::entries(row).unwrap_or_default();
    entries.retain(|(name, _)| name != "company_id");
    join(&entries)
}

/// An object's JSON text again; values as they came.
pub(super) fn join(entries: &[(String, &RawValue)]) -> String {
    let fields: Vec<String> = entries.iter().map(|(name, value)| format!("{}:{}", super::Quoted(name), value.get())).collect();
    format!("{{{}}}", fields.join(","))
}

fn field<'a>(document: &Document<'a>, place: usize) -> Result<Option<Cow<'a, str>>, String> {
    let read = |raw| json::text(raw).map_err(|_| format!("{} must be text", FIELDS[place]));
    document.get(place).map(read).transpose()
}

/// The document's own time. The original left the offset out where it meant UTC; what leaves is version 2 and says it.
fn created_at(document: &Document<'_>) -> Result<Option<String>, String> {
    let Some(text) = field(document, CREATED_AT)? else { return Ok(None) };
    let with_offset = format!("{text}Z");
    let is_originals = document.get(VERSION).is_some_and(|version| version.get() == "1");
    if is_originals && date::instant(&text).is_err() && date::instant(&with_offset).is_ok() {
        return Ok(Some(with_offset));
    }
    Ok(Some(text.into_owned()))
}

/// `batch_id`, or the text of the original's `ingest_batch_id`.
fn batch_id(document: &Document<'_>) -> Result<Option<String>, String> {
    let named = match (field(document, BATCH_ID)?, document.get(INGEST_BATCH_ID)) {
        (Some(id), _) => id,
        (None, Some(raw)) => match json::number(raw) {
            Some(number) => Cow::Borrowed(number),
            None => json::text(raw).map_err(|_| "ingest_batch_id must be a number or text")?,
        },
        (None, None) => return Ok(None),
    };
    BatchId::parse(&named).map(|id| Some(id.as_str().to_owned())).map_err(|e| format!("batch_id {e}"))
}

const _: () = assert!(super::MAX_ROWS_PER_MESSAGE <= MAX_ROWS, "what is published must be decodable");
