//! A book whose beginning is no longer on record: what can still be said of it.
//!
//! The last word of the messages that are there must stand in Postgres or be overruled by something newer; each transaction is void, waits or is
//! decided, one of the three (I1); no open row has a rule (I11); what is recorded of the order follows the offsets (I6). Everything else is taken from Postgres, and counted.
//! What must never happen here: a message of today excused because those of last year are gone.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::inputs::Inputs;
use super::inputs::book::{Book, LedgerRow, MatchedRow, PendingRow, TxnRow};
use super::inputs::topic::Place;
use super::replay::{Index, place, variants};
use super::report::{Class, Finding, Report};
use crate::domain::message::Row;

/// Judges the book; gives the company's batches that are not in it.
pub fn judge(inputs: &Inputs, index: &Index<'_>, book: &Book, why: &str, report: &mut Report) -> BTreeSet<Place> {
    let mut judge = Judge { book, report, rows: book.transactions.iter().map(|row| (row.txn_uid, row)).collect() };
    let missing = judge.messages(inputs, index);
    judge.order(inputs, index);
    judge.last_word(index, &missing, why);
    judge.one_of_three();
    missing
}

struct Judge<'a> {
    book: &'a Book,
    report: &'a mut Report,
    rows: BTreeMap<Uuid, &'a TxnRow>,
}

impl Judge<'_> {
    fn find(&mut self, class: Class, invariant: &'static str, subject: String, expected: &str, found: &str, origin: String) {
        let (company, expected, found) = (self.book.company.clone(), expected.to_owned(), found.to_owned());
        self.report.findings.push(Finding { class, invariant, company, subject, expected, found, origin });
    }

    /// A message is in the book if the ledger knows its content and each of its rows is known, as of its time or later.
    fn messages(&mut self, inputs: &Inputs, index: &Index<'_>) -> BTreeSet<Place> {
        let ledger: BTreeSet<&str> = self.book.ledger.iter().map(|entry| entry.batch_signature.as_str()).collect();
        let mut missing = BTreeSet::new();
        for (told, batch) in index.batches(&self.book.company) {
            let is_known = |row: &&Row| self.rows.get(&row.uid.0).is_some_and(|known| known.as_of >= batch.created_at);
            let variants = variants(inputs, told, batch, 0);
            if !variants.iter().any(|variant| ledger.contains(variant.signature.as_str()) && variant.rows.iter().all(is_known)) {
                missing.insert(told.place.clone());
            }
        }
        missing
    }

    /// Messages that brought new content took effect in the order of their partition, as far as that is recorded.
    fn order(&mut self, inputs: &Inputs, index: &Index<'_>) {
        let mut seqs: BTreeMap<Place, i64> = BTreeMap::new();
        for applied in &self.book.applied {
            let Some(place) = place(inputs, applied).filter(|place| index.by_place.contains_key(place)) else { continue };
            let is_first = |entry: &LedgerRow| {
                entry.batch_signature == applied.batch_signature
                    && (entry.topic.as_str(), entry.partition, entry.offset) == (&*place.topic, place.partition, place.offset)
            };
            if self.book.ledger.iter().any(is_first) {
                let seq = seqs.entry(place).or_insert(applied.seq);
                *seq = (*seq).min(applied.seq);
            }
        }
        let mut before: Option<(&Place, i64)> = None;
        for (place, seq) in &seqs {
            if let Some((earlier, last)) = before.filter(|(earlier, last)| earlier.partition == place.partition && last > seq) {
                let (expected, found) = (format!("after {earlier}, which took seq {last}"), format!("before it, at seq {seq}"));
                self.find(Class::Reordered, "I6", format!("batch at {place}"), &expected, &found, place.to_string());
            }
            before = Some((place, *seq));
        }
    }

    fn last_word(&mut self, index: &Index<'_>, missing: &BTreeSet<Place>, why: &str) {
        let mut newest: BTreeMap<Uuid, Vec<(&Place, &Row)>> = BTreeMap::new();
        let mut as_of = BTreeMap::new();
        for (told, batch) in index.batches(&self.book.company).filter(|(told, _)| !missing.contains(&told.place)) {
            for row in &batch.rows {
                let at = as_of.entry(row.uid.0).or_insert(batch.created_at);
                if batch.created_at > *at {
                    *at = batch.created_at;
                    newest.remove(&row.uid.0);
                }
                if batch.created_at == *at {
                    newest.entry(row.uid.0).or_default().push((&told.place, row));
                }
            }
        }
        let mut taken = 0;
        for row in &self.book.transactions {
            let told = newest.get(&row.txn_uid).filter(|_| as_of.get(&row.txn_uid) == Some(&row.as_of));
            let Some(told) = told else {
                taken += 1;
                continue;
            };
            if !told.iter().any(|(_, said)| says(row, said)) {
                let origin = told.last().map_or_else(String::new, |(place, _)| place.to_string());
                self.find(Class::Altered, "I1", format!("transactions {}", row.txn_uid), "what its newest message says", "something else", origin);
            }
        }
        self.report.take(&self.book.company, "transactions", why, taken);
        let (pending, matched) = (self.book.pending.len(), self.book.matched.len());
        self.report.take(&self.book.company, "decisions and their order", why, pending + matched);
    }

    fn one_of_three(&mut self) {
        let open: BTreeMap<Uuid, &PendingRow> = self.book.pending.iter().filter(|row| row.is_open()).map(|row| (row.txn_uid, row)).collect();
        let live: BTreeMap<Uuid, &MatchedRow> = self.book.matched.iter().filter(|row| row.is_live()).map(|row| (row.txn_uid, row)).collect();
        let rules: BTreeSet<&str> = self.book.rules.iter().map(|rule| rule.source_norm.as_str()).collect();
        for row in &self.book.transactions {
            let (uid, origin) = (row.txn_uid, || "the rows themselves".to_owned());
            match (row.void, open.contains_key(&uid), live.contains_key(&uid)) {
                (true, false, false) | (false, true, false) | (false, false, true) => {}
                (false, false, false) => self.find(Class::Lost, "I1", format!("transactions {uid}"), "pending or matched", "neither", origin()),
                _ => self.find(Class::Doubled, "I1", format!("transactions {uid}"), "void, pending or matched", "more than one of them", origin()),
            }
        }
        let known = &self.rows;
        let strays: Vec<Uuid> = open.keys().chain(live.keys()).filter(|uid| !known.contains_key(uid)).copied().collect();
        for uid in strays {
            self.find(
                Class::Lost,
                "I1",
                format!("transactions {uid}"),
                "the transaction that is pending or matched",
                "none",
                "its decision".to_owned(),
            );
        }
        for (uid, row) in open {
            if !row.description_norm.is_empty() && rules.contains(row.description_norm.as_str()) {
                self.find(Class::Altered, "I11", format!("pending_txns {uid}"), "matched: its key has a rule", "open", "rules_active".to_owned());
            }
        }
    }
}

fn says(row: &TxnRow, said: &Row) -> bool {
    let theirs = (said.date, said.cents.0, said.currency.as_str(), said.description.as_str(), said.void);
    (row.occurred_on, row.amount_cents, row.currency.as_str(), row.description.as_str(), row.void) == theirs
        && row.memo == said.memo.as_deref().unwrap_or_default()
        && row.counterparty == said.counterparty.as_deref().unwrap_or_default()
}
