//! A book's seqs, one after the other, through the reference implementation.
//!
//! What must never happen here: a seq or a message passed over in silence. A seq without a cause is a finding; a message without a seq was
//! entitled to be dismissed where it stood, or goes back to the caller as unaccounted.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;

use super::inputs::Inputs;
use super::inputs::book::{AppliedRow, Book, RequestRow};
use super::inputs::topic::{Place, Said, Told};
use super::model::{Account, Batch};
use super::report::{Class, Finding};
use super::rules;
use crate::domain::ids::{CompanyId, batch_signature};
use crate::domain::message::{Row, TxnsBatch};

/// As long as the topics and the record of order are kept.
pub const KEPT: TimeDelta = TimeDelta::days(90);

/// All messages, by place and by company.
pub struct Index<'a> {
    pub by_place: BTreeMap<&'a Place, &'a Told>,
    /// Batches and requests, each in the order of its topic.
    pub by_company: BTreeMap<&'a str, Vec<&'a Told>>,
    /// Transaction ids and signatures, with the company whose messages name them.
    owners: BTreeMap<String, (&'a str, &'a Place)>,
    /// The txns topic still holds its first message.
    pub is_whole: bool,
}

impl<'a> Index<'a> {
    pub fn new(inputs: &'a Inputs) -> Self {
        let is_whole = inputs.txns.spans.values().all(|span| span.low == 0);
        let mut index = Self { by_place: BTreeMap::new(), by_company: BTreeMap::new(), owners: BTreeMap::new(), is_whole };
        for told in inputs.txns.told.iter().chain(&inputs.promote.told) {
            index.by_place.insert(&told.place, told);
            if let Some(company) = told.company() {
                index.by_company.entry(company.as_str()).or_default().push(told);
            }
            if let Said::Batch { batch, .. } = &told.said {
                let owner = (batch.company_id.as_str(), &told.place);
                index.owners.extend(batch.rows.iter().map(|row| (row.uid.to_string(), owner)));
                index.owners.insert(batch.signature.to_string(), owner);
            }
        }
        index
    }

    /// The company whose messages name this transaction or content, and one of them.
    pub fn owner(&self, key: &str) -> Option<(&'a str, &'a Place)> {
        self.owners.get(key).copied()
    }

    /// Batches of a company.
    pub fn batches(&self, company: &str) -> impl Iterator<Item = (&'a Told, &'a TxnsBatch)> + use<'a> {
        let all = self.by_company.get(company).cloned().unwrap_or_default();
        all.into_iter().filter_map(|told| if let Said::Batch { batch, .. } = &told.said { Some((told, &**batch)) } else { None })
    }
}

/// What a replay came to.
pub struct Replayed {
    pub account: Account,
    pub findings: Vec<Finding>,
    /// The company's batches that neither took a seq nor could be dismissed.
    pub unaccounted: BTreeSet<Place>,
    /// Why the book cannot be recomputed from its beginning.
    pub unknown: Option<String>,
}

/// What took a seq.
enum Cause<'a> {
    Batch(&'a AppliedRow),
    Promote(Option<&'a RequestRow>),
}

struct Replay<'a> {
    inputs: &'a Inputs,
    index: &'a Index<'a>,
    book: &'a Book,
    account: Account,
    findings: Vec<Finding>,
    /// Batches that took a seq, with the first.
    applied: BTreeMap<Place, i64>,
    /// Batches not yet accounted for, in order.
    open: BTreeMap<Place, (&'a Told, &'a TxnsBatch)>,
    unaccounted: BTreeSet<Place>,
}

/// Replays a book from its first seq.
pub fn replay(inputs: &Inputs, index: &Index<'_>, book: &Book) -> Replayed {
    let mut replay = Replay {
        inputs,
        index,
        book,
        account: Account { company: book.company.clone(), ..Account::default() },
        findings: Vec::new(),
        applied: BTreeMap::new(),
        open: index.batches(&book.company).map(|(told, batch)| (told.place.clone(), (told, batch))).collect(),
        unaccounted: BTreeSet::new(),
    };
    let unknown = replay.run().err();
    let Replay { account, findings, mut unaccounted, open, .. } = replay;
    unaccounted.extend(open.into_keys());
    Replayed { account, findings, unaccounted, unknown }
}

impl<'a> Replay<'a> {
    /// `Err`: why the beginning is not known.
    fn run(&mut self) -> Result<(), String> {
        let causes = self.causes();
        let last = self.book.state.as_ref().map_or(0, |state| state.seq).max(causes.last_key_value().map_or(0, |(seq, _)| *seq));
        for applied in &self.book.applied {
            if let Some(place) = place(self.inputs, applied) {
                let first = self.applied.entry(place).or_insert(applied.seq);
                *first = (*first).min(applied.seq);
            }
        }
        for seq in 1..=last {
            match causes.get(&seq).map_or(&[][..], Vec::as_slice) {
                [] => self.no_cause(seq)?,
                [first, more @ ..] => {
                    match *first {
                        Cause::Batch(applied) => self.batch(applied)?,
                        Cause::Promote(request) => self.promote(seq, request)?,
                    }
                    if !more.is_empty() {
                        let expected = "one batch or promotion takes a seq";
                        self.find(
                            Class::Doubled,
                            "I6",
                            format!("seq {seq}"),
                            expected,
                            format!("{} did", more.len() + 1),
                            "outbox_events, promote_requests",
                        );
                    }
                }
            }
        }
        self.rest();
        Ok(())
    }

    fn causes(&self) -> BTreeMap<i64, Vec<Cause<'a>>> {
        let mut causes: BTreeMap<i64, Vec<Cause<'a>>> = BTreeMap::new();
        for applied in &self.book.applied {
            causes.entry(applied.seq).or_default().push(Cause::Batch(applied));
        }
        for request in &self.book.requests {
            causes.entry(request.seq).or_default().push(Cause::Promote(Some(request)));
        }
        for version in &self.book.versions {
            // Rules made without a request.
            if !self.book.requests.iter().any(|request| request.seq == version.seq) {
                causes.entry(version.seq).or_default().push(Cause::Promote(None));
            }
        }
        causes
    }

    fn no_cause(&mut self, seq: i64) -> Result<(), String> {
        let first = self.book.applied.iter().map(|applied| applied.seq).min().unwrap_or(i64::MAX);
        let is_old = self.book.ledger.iter().any(|entry| entry.applied_at < self.inputs.at - KEPT);
        if seq < first && is_old {
            return Err("the record of which message took which seq is pruned after 90 days".to_owned());
        }
        let known = self.book.ledger.iter().find(|entry| entry.seq == seq);
        let origin = known.map_or_else(|| "company_state.seq".to_owned(), |entry| format!("{}/{}/{}", entry.topic, entry.partition, entry.offset));
        self.find(Class::Lost, "I6", format!("seq {seq}"), "a record of the batch or promotion that took it", "none".to_owned(), &origin);
        Ok(())
    }

    fn batch(&mut self, applied: &'a AppliedRow) -> Result<(), String> {
        let subject = || format!("batch {} at seq {}", applied.batch_id, applied.seq);
        let Some(place) = place(self.inputs, applied) else {
            self.find(Class::Lost, "I5", subject(), "a record that names its message", "none".to_owned(), "outbox_events");
            return Ok(());
        };
        let Some(told) = self.index.by_place.get(&place).copied() else {
            return Err(format!("topic {} no longer holds the messages that the book begins with", place.topic));
        };
        let whose = told.company().map(CompanyId::as_str);
        let Said::Batch { batch, bad } = &told.said else { return self.not_the_message(applied, told, &place) };
        if whose != Some(self.book.company.as_str()) {
            if told.written_at.is_some_and(|at| at > applied.recorded_at) {
                return self.not_the_message(applied, told, &place);
            }
            let found = format!("it was applied to company {}", self.book.company);
            self.find(Class::Misrouted, "I2", subject(), &format!("a batch of company {}", whose.unwrap_or_default()), found, &place.to_string());
            return Ok(());
        }
        let Some(variant) = variants(self.inputs, told, batch, bad.len()).into_iter().find(|variant| variant.signature == applied.batch_signature)
        else {
            return self.not_the_message(applied, told, &place);
        };
        self.catch_up(&place, applied.seq);
        self.open.remove(&place);
        let rows: Vec<&Row> = variant.rows;
        let (batch_id, created_at, n_bad) = (batch.batch_id.as_str(), batch.created_at, variant.n_bad);
        let heard = Batch { place: &told.place, batch_id, created_at, signature: &variant.signature, rows: &rows, n_bad };
        self.account.hear(&heard, applied.seq);
        Ok(())
    }

    /// The message at the recorded place is not the one that was applied: another topic of that name, or somebody's change.
    fn not_the_message(&mut self, applied: &AppliedRow, told: &Told, place: &Place) -> Result<(), String> {
        if told.written_at.is_some_and(|at| at > applied.recorded_at) {
            return Err(format!("topic {} was made anew since", place.topic));
        }
        let subject = format!("batch {} at seq {}", applied.batch_id, applied.seq);
        let expected = "the content of the message that took this seq";
        self.find(Class::Altered, "I1", subject, expected, format!("content {}", applied.batch_signature), &place.to_string());
        Ok(())
    }

    /// Before a message takes effect, each earlier one of its partition has: as a seq, or by being dismissed.
    fn catch_up(&mut self, next: &Place, seq: i64) {
        let earlier: Vec<Place> = self.open.keys().filter(|place| is_before(place, next)).cloned().collect();
        for place in earlier {
            let Some((told, batch)) = self.open.remove(&place) else { continue };
            match self.applied.get(&place).copied() {
                // Dismissed when it came first; when it was delivered again more had been changed, and it took a seq.
                Some(_) if self.entitled(told, batch).is_some() => {}
                Some(later) if later > seq => {
                    let expected = format!("before the message at offset {}, which took seq {seq}", next.offset);
                    self.find(
                        Class::Reordered,
                        "I6",
                        format!("batch {}", batch.batch_id),
                        &expected,
                        format!("after it, at seq {later}"),
                        &place.to_string(),
                    );
                }
                Some(_) => {}
                None => self.dismiss(told, batch),
            }
        }
    }

    /// What is left when all seqs are replayed.
    fn rest(&mut self) {
        for (told, batch) in std::mem::take(&mut self.open).into_values() {
            self.dismiss(told, batch);
        }
    }

    /// As what this message may be dismissed now, if it may.
    fn entitled(&self, told: &Told, batch: &'a TxnsBatch) -> Option<Variant<'a>> {
        let n_bad = if let Said::Batch { bad, .. } = &told.said { bad.len() } else { 0 };
        let (place, batch_id, created_at) = (&told.place, batch.batch_id.as_str(), batch.created_at);
        variants(self.inputs, told, batch, n_bad).into_iter().find(|variant| {
            let (signature, rows, n_bad) = (variant.signature.as_str(), &*variant.rows, variant.n_bad);
            self.account.may_dismiss(&Batch { place, batch_id, created_at, signature, rows, n_bad })
        })
    }

    fn dismiss(&mut self, told: &'a Told, batch: &'a TxnsBatch) {
        let entitled = self.entitled(told, batch);
        let set_aside = self.inputs.letters_at(&told.place).any(|letter| letter.pointer.is_empty()) || self.inputs.is_held(&told.place);
        match entitled {
            // Until it is committed it may not have come at all.
            Some(variant) if !set_aside && self.inputs.is_committed(&told.place) => {
                self.account.deliver_again(&variant.signature, batch.batch_id.as_str());
            }
            Some(_) => {}
            None => {
                self.unaccounted.insert(told.place.clone());
            }
        }
    }

    fn promote(&mut self, seq: i64, request: Option<&RequestRow>) -> Result<(), String> {
        let version = self.book.versions.iter().find(|version| version.seq == seq);
        if let Some(request) = request
            && request.version != version.map(|version| version.version)
        {
            let found = format!("{:?}", version.map(|version| version.version));
            let expected = format!("ruleset version {:?} at its seq {seq}", request.version);
            self.find(Class::Altered, "section 8", format!("promote request {}", request.request_key), &expected, found, "promote_requests");
        }
        if let (Some(request), Some(version)) = (request, version)
            && version.request_key.as_ref() != Some(&request.request_key)
        {
            let (subject, expected) = (format!("ruleset version {}", version.version), format!("made by request {}", request.request_key));
            self.find(Class::Altered, "section 8", subject, &expected, format!("{:?}", version.request_key), "promote_requests");
        }
        let rules = version.map(|version| rules::of_snapshot(&self.book.company, version).map(|rules| (version.version, rules))).transpose();
        self.account.promote(seq, rules?);
        Ok(())
    }

    fn find(&mut self, class: Class, invariant: &'static str, subject: String, expected: &str, found: String, origin: &str) {
        let (company, expected, origin) = (self.book.company.clone(), expected.to_owned(), origin.to_owned());
        self.findings.push(Finding { class, invariant, company, subject, expected, found, origin });
    }
}

/// Whether the one stands before the other on the same partition.
fn is_before(a: &Place, b: &Place) -> bool {
    a.topic == b.topic && a.partition == b.partition && a.offset < b.offset
}

/// Where the recorded message stands.
pub fn place(inputs: &Inputs, applied: &AppliedRow) -> Option<Place> {
    let (topic, partition, offset) = (applied.topic.as_deref()?, applied.partition?, applied.offset?);
    // The same allocation for a topic that is known; any other compares by its text.
    let topic = inputs.topic(topic).map_or_else(|| topic.into(), |topic| std::sync::Arc::clone(&topic.name));
    Some(Place { topic, partition, offset })
}

/// A message as it may have been applied: whole, or without the rows that its database rejected.
pub struct Variant<'a> {
    pub rows: Vec<&'a Row>,
    pub signature: String,
    pub n_bad: usize,
}

pub fn variants<'a>(inputs: &Inputs, told: &Told, batch: &'a TxnsBatch, n_bad: usize) -> Vec<Variant<'a>> {
    let whole = Variant { rows: batch.rows.iter().collect(), signature: batch.signature.to_string(), n_bad };
    let rejected: BTreeSet<&str> =
        inputs.letters_at(&told.place).filter(|letter| letter.class == "rejected_by_database").map(|letter| letter.pointer.as_str()).collect();
    if rejected.iter().all(|pointer| pointer.is_empty()) {
        return vec![whole];
    }
    let rows: Vec<&Row> = batch.rows.iter().filter(|row| !rejected.contains(format!("/transactions/{}", row.index).as_str())).collect();
    let signature = batch_signature(&batch.company_id, rows.iter().map(|row| row.facts())).to_string();
    let n_bad = n_bad + batch.rows.len() - rows.len();
    vec![whole, Variant { rows, signature, n_bad }]
}

/// The company's promote requests that a book does not have.
pub fn requests_not_in(index: &Index<'_>, book: &Book) -> Vec<Place> {
    let known: BTreeSet<&str> = book.requests.iter().map(|request| request.request_key.as_str()).collect();
    let all = index.by_company.get(book.company.as_str()).map_or(&[][..], Vec::as_slice);
    all.iter()
        .filter(|told| if let Said::Request(request) = &told.said { !known.contains(request.request_key.as_str()) } else { false })
        .map(|told| told.place.clone())
        .collect()
}
