//! From the rows of a message, each read by itself, to a batch: numbering, identities, doubles, signature.
//!
//! Called by `TxnsBatch::assemble`. Everything here is a function of the message alone, so a redelivered message gives
//! the same transactions and the same signature.

use std::collections::{HashMap, HashSet};
use std::fmt;

use chrono::NaiveDate;

use super::{BadRow, BadRowClass, BadRowReason, BatchHead, Row, Sealed, TxnsBatch};
use crate::domain::ids::{CompanyId, RowFacts, TxnKey, TxnUid, batch_signature, txn_uid};
use crate::domain::money::{Cents, Currency};
use crate::domain::text::normalise;

/// One row as read, before its place among the others is known. Its `Debug` form hides what may not be logged.
#[derive(Clone, PartialEq, Eq)]
pub struct RowInput {
    /// The producer's id.
    pub id: Option<String>,
    /// Business date.
    pub date: NaiveDate,
    /// Amount.
    pub cents: Cents,
    /// Currency of the amount.
    pub currency: Currency,
    /// The bank's text.
    pub description: String,
    /// Free text; empty counts as absent.
    pub memo: Option<String>,
    /// The other party; empty counts as absent.
    pub counterparty: Option<String>,
    /// As the row states it. Of a row with id it is dropped: its id is its identity.
    pub occurrence: Option<u32>,
    /// The bank took it back.
    pub void: bool,
}

impl RowInput {
    /// A plain row in dollars, without id.
    #[must_use]
    pub fn new(date: NaiveDate, cents: Cents, description: impl Into<String>) -> Self {
        Self {
            id: None,
            date,
            cents,
            currency: Currency::USD,
            description: description.into(),
            memo: None,
            counterparty: None,
            occurrence: None,
            void: false,
        }
    }

    /// The same row with an id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    fn check(&self) -> Result<(), BadRowReason> {
        let bad = |class, text| Err(BadRowReason::new(class, text));
        if self.id.as_deref().is_some_and(|id| id.trim().is_empty()) {
            return bad(BadRowClass::BlankId, "id is blank: give the bank's id, or leave the field out");
        }
        if self.occurrence == Some(0) {
            return bad(BadRowClass::BadOccurrence, "occurrence must be a whole number from 1");
        }
        let texts = [
            ("id", self.id.as_deref()),
            ("description", Some(self.description.as_str())),
            ("memo", self.memo.as_deref()),
            ("counterparty", self.counterparty.as_deref()),
        ];
        match texts.iter().find(|(_, text)| text.is_some_and(|text| text.contains('\0'))) {
            Some((field, _)) => bad(BadRowClass::BadText, &format!("{field} contains U+0000: remove it")),
            None => Ok(()),
        }
    }

    fn identity(&self) -> RowIdentity<'_> {
        RowIdentity { date: self.date, cents: self.cents, currency: self.currency, description: &self.description }
    }
}

impl fmt::Debug for RowInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowInput").field("id", &self.id).field("date", &self.date).finish_non_exhaustive()
    }
}

/// What rows without id are counted by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct RowIdentity<'a> {
    date: NaiveDate,
    cents: Cents,
    currency: Currency,
    description: &'a str,
}

/// One element of a message's `transactions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its place, from 0.
    pub index: usize,
    /// Why it is to be set aside, if it is.
    pub bad: Option<BadRowReason>,
    /// What could be read. Of a bad row: only when it has no id field and its identity is readable, so that it is
    /// numbered among its equals.
    pub input: Option<RowInput>,
}

impl Candidate {
    /// A row that was read in full.
    #[must_use]
    pub fn good(index: usize, input: RowInput) -> Self {
        Self { index, bad: None, input: Some(input) }
    }

    /// A row to be set aside.
    #[must_use]
    pub fn bad(index: usize, reason: BadRowReason, input: Option<RowInput>) -> Self {
        Self { index, bad: Some(reason), input }
    }
}

/// A batch and what was left out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembled {
    /// The good rows.
    pub batch: TxnsBatch,
    /// The rows set aside, by index.
    pub bad: Vec<BadRow>,
    /// Rows that repeated another of the batch in every respect.
    pub collapsed: u32,
}

pub(super) fn assemble(head: BatchHead, mut candidates: Vec<Candidate>, raw: impl Fn(usize) -> String) -> Assembled {
    for candidate in &mut candidates {
        tidy(candidate);
    }
    number(&mut candidates);
    let mut table = Table::with_capacity(candidates.len());
    for candidate in candidates {
        table.add(&head.company_id, candidate);
    }
    let (mut rows, set_aside, collapsed) = table.close();
    for row in &mut rows {
        row.description_norm = normalise(&row.description);
    }
    let mut bad: Vec<BadRow> = set_aside.into_iter().map(|aside| aside.into_bad_row(&raw)).collect();
    bad.sort_unstable_by_key(|row| row.index);
    let signature = batch_signature(&head.company_id, rows.iter().map(Row::facts));
    let BatchHead { batch_id, company_id, created_at, version, producer } = head;
    let batch = TxnsBatch { batch_id, company_id, created_at, version, producer, rows, signature, sealed: Sealed };
    Assembled { batch, bad, collapsed }
}

/// Brings equal content to one form and finds what makes a row bad by itself.
fn tidy(candidate: &mut Candidate) {
    let Some(input) = &mut candidate.input else {
        if candidate.bad.is_none() {
            candidate.bad = Some(BadRowReason::new(BadRowClass::MissingField, "nothing could be read of this row"));
        }
        return;
    };
    if let (None, Err(reason)) = (&candidate.bad, input.check()) {
        candidate.bad = Some(reason);
    }
    input.memo.take_if(|text| text.is_empty());
    input.counterparty.take_if(|text| text.is_empty());
    if input.id.is_some() || input.occurrence == Some(0) {
        input.occurrence = None;
    }
}

/// Gives every row without id its `occurrence`. A number that a row of the batch claims is not given to another.
fn number(candidates: &mut [Candidate]) {
    let without_id = |candidate: &&Candidate| candidate.input.as_ref().is_some_and(|input| input.id.is_none());
    let mut claimed = HashSet::new();
    for input in candidates.iter().filter(without_id).filter_map(|candidate| candidate.input.as_ref()) {
        if let Some(n) = input.occurrence {
            claimed.insert((input.identity(), n));
        }
    }
    let mut last = HashMap::new();
    let mut given = Vec::with_capacity(candidates.len());
    for candidate in candidates.iter() {
        given.push(candidate.input.as_ref().filter(|input| input.id.is_none()).map(|input| {
            input.occurrence.unwrap_or_else(|| {
                let identity = input.identity();
                let n: &mut u32 = last.entry(identity).or_default();
                loop {
                    *n = n.saturating_add(1);
                    if !claimed.contains(&(identity, *n)) || *n == u32::MAX {
                        return *n;
                    }
                }
            })
        }));
    }
    for (candidate, occurrence) in candidates.iter_mut().zip(given) {
        if let Some(input) = &mut candidate.input {
            input.occurrence = occurrence;
        }
    }
}

/// The number and, where the row is good by itself, the transaction of each candidate, as a whole batch of them would
/// give them: for whoever splits a batch and must write `occurrence` first.
#[must_use]
pub fn identities(company: &CompanyId, mut candidates: Vec<Candidate>) -> Vec<(Option<u32>, Option<TxnUid>)> {
    candidates.iter_mut().for_each(tidy);
    number(&mut candidates);
    let identify = |candidate: Candidate| {
        let occurrence = candidate.input.as_ref().and_then(|input| input.occurrence);
        let input = candidate.input.filter(|_| candidate.bad.is_none());
        (occurrence, input.map(|input| Row::identified(company, candidate.index, input).uid))
    };
    candidates.into_iter().map(identify).collect()
}

struct SetAside {
    index: usize,
    reason: BadRowReason,
    occurrence: Option<u32>,
}

impl SetAside {
    fn into_bad_row(self, raw: &impl Fn(usize) -> String) -> BadRow {
        BadRow {
            index: self.index,
            pointer: format!("/transactions/{}", self.index),
            reason: self.reason,
            raw: raw(self.index),
            occurrence: self.occurrence,
        }
    }
}

/// The rows by transaction.
struct Table {
    rows: Vec<Row>,
    places: HashMap<TxnUid, usize>,
    repeats: Vec<(TxnUid, usize, Option<u32>)>,
    in_conflict: HashSet<TxnUid>,
    set_aside: Vec<SetAside>,
}

impl Table {
    fn with_capacity(n: usize) -> Self {
        Self {
            rows: Vec::with_capacity(n),
            places: HashMap::with_capacity(n),
            repeats: Vec::new(),
            in_conflict: HashSet::new(),
            set_aside: Vec::new(),
        }
    }

    fn add(&mut self, company: &CompanyId, candidate: Candidate) {
        let Candidate { index, bad, input } = candidate;
        if let Some(reason) = bad {
            let occurrence = input.and_then(|input| input.occurrence);
            self.set_aside.push(SetAside { index, reason, occurrence });
            return;
        }
        let Some(input) = input else { return };
        let row = Row::identified(company, index, input);
        match self.places.get(&row.uid) {
            None => {
                self.places.insert(row.uid, self.rows.len());
                self.rows.push(row);
            }
            Some(first) => {
                if !self.rows[*first].states_the_same(&row) {
                    self.in_conflict.insert(row.uid);
                }
                self.repeats.push((row.uid, index, row.occurrence));
            }
        }
    }

    fn close(mut self) -> (Vec<Row>, Vec<SetAside>, u32) {
        let mut collapsed = 0;
        for (uid, index, occurrence) in std::mem::take(&mut self.repeats) {
            if self.in_conflict.contains(&uid) {
                self.set_aside.push(duplicate(index, occurrence));
            } else {
                collapsed += 1;
            }
        }
        if !self.in_conflict.is_empty() {
            let (conflicting, rows) = self.rows.into_iter().partition(|row| self.in_conflict.contains(&row.uid));
            let conflicting: Vec<Row> = conflicting;
            self.set_aside.extend(conflicting.iter().map(|row| duplicate(row.index, row.occurrence)));
            self.rows = rows;
        }
        (self.rows, self.set_aside, collapsed)
    }
}

fn duplicate(index: usize, occurrence: Option<u32>) -> SetAside {
    let text = match occurrence {
        None => "the batch holds this id more than once with different content: send the one that is right",
        Some(_) => "the batch holds this row and occurrence more than once with different content: number them 1, 2, ..",
    };
    SetAside { index, reason: BadRowReason::new(BadRowClass::DuplicateId, text), occurrence }
}

impl Row {
    fn identified(company: &CompanyId, index: usize, input: RowInput) -> Self {
        let key = match &input.id {
            Some(id) => TxnKey::Id(id),
            None => TxnKey::Row {
                date: input.date,
                cents: input.cents,
                currency: input.currency,
                description: &input.description,
                occurrence: input.occurrence.unwrap_or(1),
            },
        };
        let uid = txn_uid(company, key);
        let RowInput { id, date, cents, currency, description, memo, counterparty, occurrence, void } = input;
        let description_norm = String::new();
        Self { index, uid, id, date, cents, currency, description, description_norm, memo, counterparty, occurrence, void, sealed: Sealed }
    }

    /// The row as the signature sees it.
    #[must_use]
    pub fn facts(&self) -> RowFacts<'_> {
        RowFacts {
            id: self.id.as_deref().unwrap_or_default(),
            date: self.date,
            cents: self.cents,
            currency: self.currency,
            description: &self.description,
            memo: self.memo.as_deref().unwrap_or_default(),
            counterparty: self.counterparty.as_deref().unwrap_or_default(),
            occurrence: self.occurrence,
            void: self.void,
        }
    }

    fn states_the_same(&self, other: &Self) -> bool {
        let whole = |row: &Self| (row.date, row.cents, row.currency, row.occurrence, row.void);
        whole(self) == whole(other) && self.description == other.description && self.memo == other.memo && self.counterparty == other.counterparty
    }
}
