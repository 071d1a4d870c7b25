//! One element of `transactions`: from its JSON text to a candidate, good or bad, never a failure of the message.

use std::borrow::Cow;

use super::json::{self, Json, NotText, Object};
use crate::domain::date;
use crate::domain::ids::CompanyId;
use crate::domain::message::{BadRowClass, BadRowReason, Candidate, RowInput};
use crate::domain::money::{self, Cents, Currency};
use chrono::NaiveDate;

const FIELDS: [&str; 10] = ["id", "date", "amount", "description", "company_id", "currency", "memo", "counterparty", "occurrence", "void"];
const ID: usize = 0;
const DATE: usize = 1;
const AMOUNT: usize = 2;
const DESCRIPTION: usize = 3;
const COMPANY_ID: usize = 4;
const CURRENCY: usize = 5;
const MEMO: usize = 6;
const COUNTERPARTY: usize = 7;
const OCCURRENCE: usize = 8;
const VOID: usize = 9;

type Fields<'a> = Object<'a, 10>;
type Read<T> = Result<T, BadRowReason>;

/// Reads a row, whose text must be JSON; also answers how many of its fields are unknown.
pub(in crate::flow) fn read(index: usize, row: &str, company: &CompanyId) -> (Candidate, u32) {
    let Some(fields) = json::inner_object(row, &FIELDS) else {
        let reason = if row.starts_with('{') {
            bad(BadRowClass::BadText, "a field name holds half of a surrogate pair: send valid Unicode")
        } else {
            bad(BadRowClass::NotAnObject, "a row must be a JSON object")
        };
        return (Candidate::bad(index, reason, None), 0);
    };
    (candidate(index, &fields, company), fields.unknown)
}

fn candidate(index: usize, fields: &Fields<'_>, company: &CompanyId) -> Candidate {
    if let Some(name) = fields.duplicate {
        let reason = bad(BadRowClass::DuplicateField, format!("the field {name} stands there twice: send it once"));
        return Candidate::bad(index, reason, None);
    }
    // Each field is read by itself: of a bad row without id, the facts that can be read still take their number among
    // equal rows, so that mending it does not renumber its neighbours.
    let (id, facts, occurrence) = (id(fields), Facts::read(fields), occurrence(fields));
    match (company_of(fields, company), id, facts, occurrence, Rest::read(fields)) {
        (Ok(()), Ok(id), Ok(facts), Ok(occurrence), Ok(rest)) => Candidate::good(index, facts.into_input(id, occurrence, rest)),
        (company, id, facts, occurrence, rest) => {
            let is_anothers = company.as_ref().is_err_and(|reason| reason.class == BadRowClass::CompanyMismatch);
            let has_no_id = matches!(id, Ok(None));
            let claim = facts.as_ref().ok().filter(|_| has_no_id && !is_anothers).cloned();
            let claim = claim.map(|facts| facts.into_input(None, occurrence.clone().unwrap_or(None), Rest::default()));
            let first = company.err().or(id.err()).or(facts.err()).or(occurrence.err()).or(rest.err());
            let reason = first.unwrap_or_else(|| bad(BadRowClass::WrongType, "the row could not be read"));
            Candidate::bad(index, reason, claim)
        }
    }
}

/// What identifies a row without id.
#[derive(Clone)]
struct Facts<'a> {
    date: NaiveDate,
    cents: Cents,
    currency: Currency,
    description: Cow<'a, str>,
}

impl<'a> Facts<'a> {
    fn read(fields: &Fields<'a>) -> Read<Self> {
        Ok(Self {
            date: date(fields)?,
            cents: amount(fields)?,
            currency: currency(fields)?,
            description: text(required(fields, DESCRIPTION)?, DESCRIPTION)?,
        })
    }

    fn into_input(self, id: Option<String>, occurrence: Option<u32>, rest: Rest) -> RowInput {
        let Self { date, cents, currency, description } = self;
        let Rest { memo, counterparty, void } = rest;
        let description = description.into_owned();
        RowInput { id, date, cents, currency, description, memo, counterparty, occurrence, void }
    }
}

/// What may change without making it another row.
#[derive(Default)]
struct Rest {
    memo: Option<String>,
    counterparty: Option<String>,
    void: bool,
}

impl Rest {
    fn read(fields: &Fields<'_>) -> Read<Self> {
        Ok(Self { memo: optional(fields, MEMO)?, counterparty: optional(fields, COUNTERPARTY)?, void: void(fields)? })
    }
}

fn bad(class: BadRowClass, text: impl Into<String>) -> BadRowReason {
    BadRowReason::new(class, text)
}

fn required<'a>(fields: &Fields<'a>, field: usize) -> Read<Json<'a>> {
    fields.get(field).ok_or_else(|| bad(BadRowClass::MissingField, format!("{} is missing", FIELDS[field])))
}

fn text(raw: Json<'_>, field: usize) -> Read<Cow<'_, str>> {
    let name = FIELDS[field];
    json::text(raw).map_err(|e| match e {
        NotText::OtherType => bad(BadRowClass::WrongType, format!("{name} must be text, in quotes")),
        NotText::Broken => bad(BadRowClass::BadText, format!("{name} holds half of a surrogate pair: send valid Unicode")),
    })
}

fn optional(fields: &Fields<'_>, field: usize) -> Read<Option<String>> {
    fields.get(field).map(|raw| text(raw, field).map(Cow::into_owned)).transpose()
}

fn id(fields: &Fields<'_>) -> Read<Option<String>> {
    let Some(raw) = fields.get(ID) else { return Ok(None) };
    match json::number(raw) {
        Some(number) => Ok(Some(number.to_owned())),
        None => text(raw, ID).map(|id| Some(id.into_owned())),
    }
}

fn date(fields: &Fields<'_>) -> Read<NaiveDate> {
    let text = text(required(fields, DATE)?, DATE)?;
    date::business_date(&text).map_err(|e| bad(BadRowClass::BadDate, format!("date: {e}")))
}

fn amount(fields: &Fields<'_>) -> Read<Cents> {
    let raw = required(fields, AMOUNT)?;
    let cents = match json::number(raw) {
        Some(number) => money::parse_number(number),
        None => {
            let text = json::text(raw).map_err(|_| bad(BadRowClass::WrongType, "amount must be a number or text"))?;
            money::parse_text(&text)
        }
    };
    cents.map_err(|e| bad(BadRowClass::BadAmount, format!("amount: {e}")))
}

fn currency(fields: &Fields<'_>) -> Read<Currency> {
    let Some(raw) = fields.get(CURRENCY) else { return Ok(Currency::USD) };
    Currency::parse(&text(raw, CURRENCY)?).map_err(|e| bad(BadRowClass::BadCurrency, format!("currency: {e}")))
}

fn occurrence(fields: &Fields<'_>) -> Read<Option<u32>> {
    let Some(raw) = fields.get(OCCURRENCE) else { return Ok(None) };
    let n = json::whole(raw).and_then(|digits| digits.parse().ok()).filter(|n| *n > 0);
    n.map(Some).ok_or_else(|| bad(BadRowClass::BadOccurrence, "occurrence must be a whole number from 1"))
}

fn void(fields: &Fields<'_>) -> Read<bool> {
    match fields.get(VOID).map(Json::get) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(bad(BadRowClass::WrongType, "void must be true or false")),
    }
}

fn company_of(fields: &Fields<'_>, company: &CompanyId) -> Read<()> {
    let Some(raw) = fields.get(COMPANY_ID) else { return Ok(()) };
    if text(raw, COMPANY_ID)? == company.as_str() {
        return Ok(());
    }
    let reason = "the row names another company than its batch: send it in a batch of its own company";
    Err(bad(BadRowClass::CompanyMismatch, reason))
}
