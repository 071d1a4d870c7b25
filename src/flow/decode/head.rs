//! What both events have in common: bytes to text, the envelope, and the fields that say what a message is.
//!
//! Called by `decode_txns` and `decode_promote`.

use std::borrow::Cow;

use super::json::{self, Json, NotText, Object};
use super::{MAX_CLOCK_AHEAD, MAX_PAYLOAD_BYTES, MAX_ROWS, Poison, PoisonClass, RawMessage, V1Routing};
use crate::domain::date;
use crate::domain::ids::{BatchId, CompanyId};
use chrono::{DateTime, Utc};

/// The names a message may use, ours and the original's, and those of n8n's envelope.
pub(super) const FIELDS: [&str; 13] = [
    "event_type",
    "version",
    "company_id",
    "created_at",
    "batch_id",
    "transactions",
    "meta",
    "request_id",
    "routing",
    "ingest_batch_id",
    "slice_signature",
    "key",
    "message",
];
pub(super) const EVENT_TYPE: usize = 0;
pub(super) const VERSION: usize = 1;
pub(super) const COMPANY_ID: usize = 2;
pub(super) const CREATED_AT: usize = 3;
pub(super) const BATCH_ID: usize = 4;
pub(super) const TRANSACTIONS: usize = 5;
pub(super) const META: usize = 6;
pub(super) const REQUEST_ID: usize = 7;
pub(super) const ROUTING: usize = 8;
pub(super) const INGEST_BATCH_ID: usize = 9;
pub(super) const SLICE_SIGNATURE: usize = 10;
const KEY: usize = 11;
const MESSAGE: usize = 12;

pub(super) type Head<'a> = Object<'a, 13>;

/// The envelope a message came in.
pub(super) struct Envelope {
    /// Its `key`, if it had one.
    key: Option<String>,
    /// Fields of it beside `key` and `message`.
    unknown: u32,
}

/// The payload as text; `None` is a tombstone.
pub(super) fn payload_text<'a>(message: &RawMessage<'a>) -> Result<Option<&'a str>, Poison> {
    let Some(bytes) = message.payload else { return Ok(None) };
    if bytes.len() > MAX_PAYLOAD_BYTES {
        return Err(Poison::new(
            PoisonClass::TooLarge,
            format!("the message has {} bytes, more than {MAX_PAYLOAD_BYTES}: split the batch", bytes.len()),
        ));
    }
    std::str::from_utf8(bytes).map(Some).map_err(|e| {
        let at = e.valid_up_to();
        Poison::new(PoisonClass::NotUtf8, format!("the message is not UTF-8 from byte {at} on: publish JSON in UTF-8"))
    })
}

/// Reads the message, or the one inside its envelope, and hands its fields on.
pub(super) fn unwrapped<T>(text: &str, decode: impl FnOnce(&Head<'_>, Option<&Envelope>) -> Result<T, Poison>) -> Result<T, Poison> {
    let outer = read(text)?;
    if !is_envelope(&outer) {
        return decode(&outer, None);
    }
    no_duplicates(&outer)?;
    let envelope = Envelope { key: envelope_key(&outer)?, unknown: outer.unknown };
    let inner = inner_text(&outer)?;
    let head = read(&inner)?;
    if is_envelope(&head) {
        let reason = "an envelope inside an envelope: publish the message itself (in n8n's Kafka node: sendInputData off)";
        return Err(Poison::at(PoisonClass::WrongShape, "message", reason));
    }
    decode(&head, Some(&envelope))
}

fn read(text: &str) -> Result<Head<'_>, Poison> {
    json::object(text, &FIELDS, Some((TRANSACTIONS, MAX_ROWS))).map_err(|e| {
        if json::is_json(text) {
            return Poison::new(PoisonClass::WrongShape, "the message is not a JSON object of the contract's fields");
        }
        let (line, column) = (e.line(), e.column());
        let reason = format!("the message is not JSON (line {line}, column {column}): publish one JSON object, unescaped");
        Poison::new(PoisonClass::NotJson, reason)
    })
}

/// n8n's Kafka node with `sendInputData` on wraps what it sends.
fn is_envelope(head: &Head<'_>) -> bool {
    head.has(MESSAGE) && !head.has(EVENT_TYPE) && !head.has(COMPANY_ID) && head.list.is_none()
}

fn envelope_key(outer: &Head<'_>) -> Result<Option<String>, Poison> {
    let Some(raw) = outer.get(KEY) else { return Ok(None) };
    match (json::text(raw), json::number(raw)) {
        (Ok(key), _) => Ok(Some(key.into_owned())),
        (_, Some(key)) => Ok(Some(key.to_owned())),
        _ => Err(Poison::at(PoisonClass::WrongShape, "key", "the envelope's key must be text: the company_id")),
    }
}

fn inner_text<'a>(outer: &Head<'a>) -> Result<Cow<'a, str>, Poison> {
    let wrong = || {
        let reason = "the envelope's message must be an object, or one as JSON text: publish the message itself";
        Poison::at(PoisonClass::WrongShape, "message", reason)
    };
    let raw = outer.get(MESSAGE).ok_or_else(wrong)?;
    if raw.get().starts_with('{') {
        return Ok(Cow::Borrowed(raw.get()));
    }
    json::text(raw).map_err(|_| wrong())
}

/// What the common fields say.
pub(super) struct Common {
    pub company_id: CompanyId,
    pub created_at: DateTime<Utc>,
    pub created_at_text: String,
    pub version: u8,
    pub null_key: bool,
    pub unknown_fields: u32,
}

/// What a topic carries.
pub(super) struct Expected {
    pub event_type: &'static str,
    pub versions: &'static [u8],
}

/// Checks the fields every message has. The company is added to whatever goes wrong from there on.
pub(super) fn common(
    head: &Head<'_>,
    envelope: Option<&Envelope>,
    message: &RawMessage<'_>,
    expected: &Expected,
    now: DateTime<Utc>,
) -> Result<Common, Poison> {
    no_duplicates(head)?;
    check_event_type(head, expected)?;
    let version = version(head, expected)?;
    let company_id = company_id(head)?;
    check_key(&company_id, envelope, message)?;
    let created_at_text = required_text(head, CREATED_AT)?.into_owned();
    let created_at = created_at(&created_at_text, version == 1 && is_originals(head))?;
    if created_at > now + MAX_CLOCK_AHEAD {
        let ahead = (created_at - now).num_seconds();
        let reason = format!("created_at lies {ahead} s ahead of this worker's clock: set the producer's clock, then replay");
        return Err(Poison::at(PoisonClass::Clock, "created_at", reason));
    }
    let stray = [KEY, MESSAGE].into_iter().filter(|field| head.has(*field)).count();
    let unknown_fields = head.unknown + u32::try_from(stray).unwrap_or(0) + envelope.map_or(0, |outer| outer.unknown);
    Ok(Common { company_id, created_at, created_at_text, version, null_key: message.key.is_none(), unknown_fields })
}

fn no_duplicates(head: &Head<'_>) -> Result<(), Poison> {
    let Some(name) = head.duplicate else { return Ok(()) };
    Err(Poison::at(PoisonClass::WrongShape, name, format!("the field {name} stands there twice: send it once")))
}

/// The original left out what had a default; its `routing` gives it away. Nothing of ours does.
fn is_originals(head: &Head<'_>) -> bool {
    head.has(ROUTING)
}

fn check_event_type(head: &Head<'_>, expected: &Expected) -> Result<(), Poison> {
    if !head.has(EVENT_TYPE) && is_originals(head) {
        return Ok(());
    }
    let found = required_text(head, EVENT_TYPE)?;
    if found == expected.event_type {
        return Ok(());
    }
    let shown: String = found.chars().filter(|c| !c.is_control()).take(40).collect();
    let wanted = expected.event_type;
    let reason = format!("event_type is {shown:?}, but this topic carries {wanted}: publish it to its own topic");
    Err(Poison::at(PoisonClass::UnknownEventType, "event_type", reason))
}

fn version(head: &Head<'_>, expected: &Expected) -> Result<u8, Poison> {
    let Some(raw) = head.get(VERSION) else {
        return if is_originals(head) { Ok(1) } else { Err(missing(VERSION)) };
    };
    let Some(digits) = json::whole(raw) else {
        return Err(Poison::at(PoisonClass::WrongShape, "version", "version must be a whole number"));
    };
    let known = digits.parse().ok().filter(|version| expected.versions.contains(version));
    known.ok_or_else(|| {
        let reason = format!("this version of {} is not known here: update Kylo, then replay", expected.event_type);
        Poison::at(PoisonClass::UnknownVersion, "version", reason)
    })
}

/// The company a poison message is filed under: none where the message is in two minds.
pub(super) fn named_company(head: &Head<'_>) -> Option<CompanyId> {
    if head.duplicate.is_some() {
        return None;
    }
    company_id(head).ok()
}

fn company_id(head: &Head<'_>) -> Result<CompanyId, Poison> {
    let text = required_text(head, COMPANY_ID)?;
    CompanyId::parse(&text).map_err(|e| Poison::at(PoisonClass::WrongShape, "company_id", format!("company_id {e}")))
}

/// The record key decides; the envelope's stands in for one that is null.
fn check_key(company: &CompanyId, envelope: Option<&Envelope>, message: &RawMessage<'_>) -> Result<(), Poison> {
    let inner = envelope.and_then(|envelope| envelope.key.as_deref()).map(str::as_bytes);
    let equal = message.key.or(inner).is_none_or(|key| key == company.as_str().as_bytes());
    if equal {
        return Ok(());
    }
    let reason = "the record key is not the message's company_id: publish with key = company_id, or without key";
    Err(Poison::at(PoisonClass::KeyMismatch, "company_id", reason))
}

/// The original wrote UTC and sometimes left the offset out; ours must say it.
fn created_at(text: &str, is_originals: bool) -> Result<DateTime<Utc>, Poison> {
    date::instant(text).or_else(|e| if is_originals { date::instant(&format!("{text}Z")) } else { Err(e) }).map_err(|_| {
        let reason = "created_at must be RFC 3339 with offset, like 2025-08-26T12:00:00Z";
        Poison::at(PoisonClass::WrongShape, "created_at", reason)
    })
}

pub(super) fn missing(field: usize) -> Poison {
    let name = FIELDS[field];
    Poison::at(PoisonClass::WrongShape, name, format!("{name} is missing: the message's JSON Schema is in schemas/"))
}

/// A field that must hold text.
pub(super) fn required_text<'a>(head: &Head<'a>, field: usize) -> Result<Cow<'a, str>, Poison> {
    head_text(head.get(field).ok_or_else(|| missing(field))?, FIELDS[field])
}

/// An optional name of at most 200 characters.
pub(super) fn name(head: &Head<'_>, field: usize) -> Result<Option<BatchId>, Poison> {
    let Some(raw) = head.get(field) else { return Ok(None) };
    let name = FIELDS[field];
    let text = head_text(raw, name)?;
    let wrong = |e| Poison::at(PoisonClass::WrongShape, name, format!("{name} {e}"));
    BatchId::parse(&text).map(Some).map_err(wrong)
}

fn head_text<'a>(raw: Json<'a>, name: &str) -> Result<Cow<'a, str>, Poison> {
    json::text(raw).map_err(|e| {
        let reason = match e {
            NotText::OtherType => format!("{name} must be text, in quotes"),
            NotText::Broken => format!("{name} holds half of a surrogate pair: send valid Unicode"),
        };
        Poison::at(PoisonClass::WrongShape, name, reason)
    })
}

/// `meta.producer`, cut to 200 characters; anything else of meta is the producer's own business.
pub(super) fn producer(head: &Head<'_>) -> Result<Option<String>, Poison> {
    let Some(raw) = head.get(META) else { return Ok(None) };
    let wrong = |_| Poison::at(PoisonClass::WrongShape, "meta", "meta must be an object, or left out");
    let meta = json::object(raw.get(), &["producer"], None).map_err(wrong)?;
    let text = meta.get(0).and_then(|raw| json::text(raw).ok());
    Ok(text.map(|text| text.chars().filter(|c| *c != '\0').take(200).collect()))
}

/// The original's `routing`. Its DSN is not even looked at.
pub(super) fn v1_routing(head: &Head<'_>) -> Result<Option<V1Routing>, Poison> {
    const NAMES: [&str; 4] = ["db_schema", "spreadsheet_id", "tab_pending", "tab_active"];
    let Some(raw) = head.get(ROUTING) else { return Ok(None) };
    let wrong = |_| Poison::at(PoisonClass::WrongShape, "routing", "routing must be an object: publish version 2, without it");
    let routing = json::object(raw.get(), &NAMES, None).map_err(wrong)?;
    if let Some(twice) = routing.duplicate {
        let reason = format!("the field {twice} stands there twice: publish version 2, without routing");
        return Err(Poison::at(PoisonClass::WrongShape, &format!("routing/{twice}"), reason));
    }
    let field = |at: usize| {
        let Some(raw) = routing.get(at) else { return Ok(None) };
        head_text(raw, &format!("routing/{}", NAMES[at])).map(|text| Some(text.into_owned()))
    };
    Ok(Some(V1Routing { db_schema: field(0)?, spreadsheet_id: field(1)?, tab_pending: field(2)?, tab_active: field(3)? }))
}
