//! Rows that must be there and rows that are: a finding for each difference.
//!
//! What must never happen here: a bank's text (description, memo, counterparty) in a finding; they are compared whole and shown by their length.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use super::inputs::book::{Book, LedgerRow, MatchedRow, PendingRow, TxnRow};
use super::inputs::topic::Place;
use super::model::Account;
use super::replay::Index;
use super::report::{Class, Finding, Report};

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A column of a row: its name, what a difference in it is, its value, and how that may be shown.
pub struct Column {
    name: &'static str,
    class: Class,
    value: String,
    is_text: bool,
}

fn content(name: &'static str, value: impl Display) -> Column {
    Column { name, class: Class::Altered, value: value.to_string(), is_text: false }
}

fn maybe<T: Display>(name: &'static str, value: Option<&T>) -> Column {
    content(name, value.map_or_else(|| "none".to_owned(), ToString::to_string))
}

fn order(name: &'static str, value: impl Display) -> Column {
    Column { name, class: Class::Reordered, value: value.to_string(), is_text: false }
}

fn text(name: &'static str, value: &str) -> Column {
    Column { name, class: Class::Altered, value: value.to_owned(), is_text: true }
}

impl Column {
    fn shown(&self) -> String {
        if self.is_text { format!("{} ({} characters)", self.name, self.value.chars().count()) } else { format!("{} {}", self.name, self.value) }
    }
}

/// A row of a table, by columns.
pub trait Columns {
    const TABLE: &'static str;
    fn key(&self) -> String;
    fn columns(&self) -> Vec<Column>;
}

impl Columns for TxnRow {
    const TABLE: &'static str = "transactions";
    fn key(&self) -> String {
        self.txn_uid.to_string()
    }
    fn columns(&self) -> Vec<Column> {
        vec![
            maybe("external_id", self.external_id.as_ref()),
            content("occurred_on", self.occurred_on),
            content("amount_cents", self.amount_cents),
            content("currency", &self.currency),
            text("description", &self.description),
            text("memo", &self.memo),
            text("counterparty", &self.counterparty),
            maybe("occurrence", self.occurrence.as_ref()),
            content("void", self.void),
            content("as_of", self.as_of.to_rfc3339()),
            order("seq", self.seq),
            order("content_seq", self.content_seq),
            content("batch_signature", &self.batch_signature),
        ]
    }
}

impl Columns for PendingRow {
    const TABLE: &'static str = "pending_txns";
    fn key(&self) -> String {
        self.txn_uid.to_string()
    }
    fn columns(&self) -> Vec<Column> {
        vec![
            content("first_seen_batch", &self.first_seen_batch),
            content("last_seen_batch", &self.last_seen_batch),
            content("occurred_on", self.occurred_on),
            text("description", &self.description),
            text("description_norm", &self.description_norm),
            content("amount_cents", self.amount_cents),
            content("status", &self.status),
            content("row_checksum", &self.row_checksum),
            order("seq", self.seq),
            Column { class: Class::Reordered, ..maybe("resolved_seq", self.resolved_seq.as_ref()) },
        ]
    }
}

impl Columns for MatchedRow {
    const TABLE: &'static str = "matched_txns";
    fn key(&self) -> String {
        self.txn_uid.to_string()
    }
    fn columns(&self) -> Vec<Column> {
        vec![
            content("rule_id", self.rule_id),
            content("ruleset_version", self.ruleset_version),
            content("target_sheet", &self.target_sheet),
            content("target_header", &self.target_header),
            content("amount_cents", self.amount_cents),
            content("revision", self.revision),
            // Whoever posts the money takes it; the next correction queues it again.
            content("state", if self.is_live() { "live" } else { "withdrawn" }),
            order("seq", self.seq),
        ]
    }
}

impl Columns for LedgerRow {
    const TABLE: &'static str = "ingest_batches";
    fn key(&self) -> String {
        self.batch_signature.clone()
    }
    fn columns(&self) -> Vec<Column> {
        vec![
            content("batch_id", &self.batch_id),
            content("as_of", self.as_of.to_rfc3339()),
            order("seq", self.seq),
            content("row_count", self.row_count),
            content("bad_count", self.bad_count),
            content("message", format!("{}/{}/{}", self.topic, self.partition, self.offset)),
        ]
    }
}

/// Judges a book against what its replay came to.
pub fn judge(index: &Index<'_>, book: &Book, account: &Account, unaccounted: &BTreeSet<Place>, report: &mut Report) {
    let mut judge = Judge { book, index, report };
    let txns = account.txns.values();
    judge.table(txns.clone().map(|txn| (&txn.row, &txn.by)), &book.transactions, "I1");
    judge.table(txns.clone().filter_map(|txn| Some((txn.pending.as_ref()?, &txn.by))), &book.pending, "I1");
    judge.table(txns.filter_map(|txn| Some((txn.matched.as_ref()?, &txn.by))), &book.matched, "I1");
    judge.table(account.ledger.values().map(|(row, by)| (row, by)), &book.ledger, "I1");
    judge.deliveries(account);
    judge.names(account, unaccounted);
    judge.state(account);
}

struct Judge<'a> {
    book: &'a Book,
    index: &'a Index<'a>,
    report: &'a mut Report,
}

impl<'a> Judge<'a> {
    fn find(&mut self, class: Class, invariant: &'static str, subject: String, expected: String, found: String, origin: String) {
        let company = self.book.company.clone();
        self.report.findings.push(Finding { class, invariant, company, subject, expected, found, origin });
    }

    fn table<R: Columns + 'a>(&mut self, expected: impl Iterator<Item = (&'a R, &'a Place)>, found: &[R], invariant: &'static str) {
        let mut there: BTreeMap<String, &R> = found.iter().map(|row| (row.key(), row)).collect();
        for (row, by) in expected {
            let subject = format!("{} {}", R::TABLE, row.key());
            match there.remove(&row.key()) {
                None => self.find(Class::Lost, invariant, subject, "a row".to_owned(), "none".to_owned(), by.to_string()),
                Some(is) => self.row(row, is, invariant, subject, by),
            }
        }
        for key in there.into_keys() {
            let subject = format!("{} {key}", R::TABLE);
            match self.index.owner(&key).filter(|(company, _)| *company != self.book.company) {
                Some((company, by)) => {
                    let (expected, found) = (format!("a row of company {company}"), format!("a row of company {}", self.book.company));
                    self.find(Class::Misrouted, "I2", subject, expected, found, by.to_string());
                }
                None => self.find(Class::Doubled, invariant, subject, "nothing".to_owned(), "a row".to_owned(), "no message or promotion".to_owned()),
            }
        }
    }

    fn row<R: Columns>(&mut self, wanted: &R, is: &R, invariant: &'static str, subject: String, by: &Place) {
        let (wanted, is) = (wanted.columns(), is.columns());
        let differing: Vec<(&Column, &Column)> = wanted.iter().zip(&is).filter(|(a, b)| a.value != b.value).collect();
        let Some(class) = differing.iter().map(|(column, _)| column.class).max() else { return };
        let shown = |side: fn(&(&Column, &Column)) -> String| differing.iter().map(side).collect::<Vec<_>>().join(", ");
        let invariant = if class == Class::Reordered { "I6" } else { invariant };
        self.find(class, invariant, subject, shown(|(a, _)| a.shown()), shown(|(_, b)| b.shown()), by.to_string());
    }

    /// Each delivery is counted; a broker may have delivered more often than the topic has messages.
    fn deliveries(&mut self, account: &Account) {
        for row in &self.book.ledger {
            let Some((wanted, by)) = account.ledger.get(&row.batch_signature) else { continue };
            if row.deliveries < wanted.deliveries {
                let subject = format!("ingest_batches {}", row.batch_signature);
                let (expected, found) = (format!("at least {} deliveries", wanted.deliveries), row.deliveries.to_string());
                self.find(Class::Altered, "I1", subject, expected, found, by.to_string());
            }
        }
    }

    /// Each name under which known content came is recorded. What is still on its way may be recorded already.
    fn names(&mut self, account: &Account, unaccounted: &BTreeSet<Place>) {
        let there: BTreeSet<_> = self.book.names.iter().collect();
        for name in account.names.iter().filter(|name| !there.contains(name)) {
            let subject = format!("ingest_batch_ids {}", name.batch_id);
            self.find(Class::Lost, "I1", subject, "a row".to_owned(), "none".to_owned(), format!("content {}", name.batch_signature));
        }
        if !self.index.is_whole {
            return;
        }
        let told: BTreeSet<&str> = self
            .index
            .batches(&self.book.company)
            .filter(|(told, _)| !unaccounted.contains(&told.place))
            .map(|(_, batch)| batch.batch_id.as_str())
            .collect();
        for name in self.book.names.iter().filter(|name| !told.contains(name.batch_id.as_str())) {
            let subject = format!("ingest_batch_ids {}", name.batch_id);
            self.find(Class::Doubled, "I1", subject, "nothing".to_owned(), "a row".to_owned(), "no message has this batch_id".to_owned());
        }
    }

    fn state(&mut self, account: &Account) {
        let Some(state) = &self.book.state else {
            if account.seq == 0 {
                // Rows of nobody: each is a finding by itself.
                return;
            }
            let expected = format!("a row at seq {}", account.seq);
            return self.find(Class::Lost, "I6", "company_state".to_owned(), expected, "none".to_owned(), "the replay".to_owned());
        };
        // A promotion's answers to people, which are not recomputed, make the Pending tab due as well.
        let answered = self.book.requests.iter().any(|request| request.seq == state.pending_seq && state.pending_seq > account.pending_seq);
        let pending_seq = if answered { state.pending_seq } else { account.pending_seq };
        let wanted = [("seq", account.seq), ("changed_seq", account.changed_seq), ("pending_seq", pending_seq)];
        let found = [state.seq, state.changed_seq, state.pending_seq];
        for ((name, wanted), found) in wanted.into_iter().zip(found).filter(|((_, wanted), found)| wanted != found) {
            let (wanted, found) = (format!("{name} {wanted}"), format!("{name} {found}"));
            self.find(Class::Reordered, "I6", "company_state".to_owned(), wanted, found, "the replay".to_owned());
        }
    }
}
