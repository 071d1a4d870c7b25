//! The reference implementation: what one company's tables must hold after a batch or a promotion, written down from the contract (sections 5, 6
//! and 8) as plainly as it can be. Its state is the tables' own rows.
//!
//! Called by [`super::replay`], one message or promotion after the other. What must never happen here: a short cut. Speed is the workers' business.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::inputs::book::{LedgerRow, MatchedRow, NameRow, PendingRow, RuleRow, TxnRow};
use super::inputs::topic::Place;
use crate::domain::ids::push_part;
use crate::domain::message::Row;
use crate::domain::text::normalise;

/// A transaction with what waits or is decided of it.
#[derive(Clone, Debug)]
pub struct Txn {
    pub row: TxnRow,
    pub pending: Option<PendingRow>,
    pub matched: Option<MatchedRow>,
    /// The message that last changed its content.
    pub by: Place,
}

/// Everything one company has.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub company: String,
    pub txns: BTreeMap<Uuid, Txn>,
    /// By signature.
    pub ledger: BTreeMap<String, (LedgerRow, Place)>,
    pub names: BTreeSet<NameRow>,
    /// By normalised source.
    pub rules: BTreeMap<String, RuleRow>,
    pub ruleset_version: i32,
    pub seq: i64,
    /// The last seq at which the Pending tab's rows changed. Answers of a promotion, which are not recomputed, may have moved it on.
    pub pending_seq: i64,
    pub active_seq: i64,
    pub changed_seq: i64,
}

/// A batch, or what is left of it after its database rejected some of its rows.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    pub place: &'a Place,
    pub batch_id: &'a str,
    pub created_at: DateTime<Utc>,
    pub signature: &'a str,
    pub rows: &'a [&'a Row],
    pub n_bad: usize,
}

impl Account {
    /// A batch takes this seq.
    pub fn hear(&mut self, batch: &Batch<'_>, seq: i64) {
        self.seq = seq;
        let (mut changed, mut shown) = (false, false);
        for row in batch.rows {
            let said = row_of(&self.company, row, batch, seq);
            match self.txns.get_mut(&row.uid.0) {
                None => {
                    let mut txn = Txn { row: said, pending: None, matched: None, by: batch.place.clone() };
                    shown |= decide(&mut txn, &self.rules, batch, seq, false);
                    self.txns.insert(row.uid.0, txn);
                }
                // Older than what is known: changes nothing.
                Some(known) if batch.created_at < known.row.as_of => {}
                Some(known) if says_the_same(&known.row, &said) => {
                    known.row.as_of = batch.created_at;
                    if let Some(pending) = known.pending.as_mut().filter(|pending| pending.is_open()) {
                        batch.batch_id.clone_into(&mut pending.last_seen_batch);
                    }
                }
                Some(known) => {
                    changed = true;
                    let looks_other = shows(&known.row) != shows(&said);
                    known.row = TxnRow { external_id: known.row.external_id.clone(), occurrence: known.row.occurrence, seq: known.row.seq, ..said };
                    known.by = batch.place.clone();
                    if let Some(before) = &known.pending {
                        // The row of a decision says what its transaction says, also when it is resolved.
                        let (first, last) = (before.first_seen_batch.clone(), before.last_seen_batch.clone());
                        known.pending = Some(pending(&known.row, first, &last, &before.status, before.seq, before.resolved_seq));
                    }
                    shown |= decide(known, &self.rules, batch, seq, looks_other);
                }
            }
        }
        if changed {
            self.changed_seq = seq;
        }
        if shown {
            self.pending_seq = seq;
        }
        self.enter(batch, seq);
    }

    /// The ledger keeps the newest `created_at` of a content, and the seq that it was applied at as of that.
    fn enter(&mut self, batch: &Batch<'_>, seq: i64) {
        self.deliver_again(batch.signature, batch.batch_id);
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let fresh = || {
            let row = LedgerRow {
                company_id: self.company.clone(),
                batch_signature: batch.signature.to_owned(),
                batch_id: batch.batch_id.to_owned(),
                as_of: batch.created_at,
                seq,
                row_count: count(batch.rows.len()),
                bad_count: count(batch.n_bad),
                deliveries: 1,
                topic: batch.place.topic.to_string(),
                partition: batch.place.partition,
                offset: batch.place.offset,
                applied_at: DateTime::UNIX_EPOCH,
            };
            (row, batch.place.clone())
        };
        let (entry, _) = self.ledger.entry(batch.signature.to_owned()).or_insert_with(fresh);
        if batch.created_at >= entry.as_of {
            entry.as_of = batch.created_at;
            entry.seq = seq;
        }
    }

    /// Known content came once more, perhaps under another name.
    pub fn deliver_again(&mut self, signature: &str, batch_id: &str) {
        let Some((entry, _)) = self.ledger.get_mut(signature) else { return };
        entry.deliveries = entry.deliveries.saturating_add(1);
        if entry.batch_id != batch_id {
            let (company_id, batch_id, batch_signature) = (self.company.clone(), batch_id.to_owned(), signature.to_owned());
            self.names.insert(NameRow { company_id, batch_id, batch_signature });
        }
    }

    /// Whether this batch may be dismissed: its content is known, and applying it would change nothing.
    pub fn may_dismiss(&self, batch: &Batch<'_>) -> bool {
        self.ledger.contains_key(batch.signature)
            && batch.rows.iter().all(|row| {
                self.txns.get(&row.uid.0).is_some_and(|known| {
                    let said = row_of(&self.company, row, batch, 0);
                    batch.created_at < known.row.as_of || (batch.created_at == known.row.as_of && says_the_same(&known.row, &said))
                })
            })
    }

    /// A promotion takes this seq. `version`: the rules that it put in force, if it made a version.
    pub fn promote(&mut self, seq: i64, version: Option<(i32, BTreeMap<String, RuleRow>)>) {
        self.seq = seq;
        if let Some((number, rules)) = version {
            self.ruleset_version = number;
            self.rules = rules;
            self.active_seq = seq;
        }
        for txn in self.txns.values_mut() {
            let Some(pending) = txn.pending.as_mut().filter(|pending| pending.is_open()) else { continue };
            let norm = normalise(&txn.row.description);
            let Some(rule) = self.rules.get(&norm).filter(|_| !norm.is_empty()) else { continue };
            "resolved".clone_into(&mut pending.status);
            pending.resolved_seq = Some(seq);
            txn.matched = Some(matched(&txn.row, rule, txn.matched.as_ref(), seq));
            self.pending_seq = seq;
        }
    }

    /// What the Pending tab must show, in the order in which new rows are put there.
    pub fn open(&self) -> Vec<&PendingRow> {
        let mut open: Vec<_> = self.txns.values().filter_map(|txn| txn.pending.as_ref()).filter(|pending| pending.is_open()).collect();
        open.sort_by_key(|pending| (pending.seq, pending.occurred_on, pending.txn_uid));
        open
    }
}

/// Decides a new or corrected transaction. Answers whether what the Pending tab must show has changed.
fn decide(txn: &mut Txn, rules: &BTreeMap<String, RuleRow>, batch: &Batch<'_>, seq: i64, looks_other: bool) -> bool {
    let was_open = txn.pending.as_ref().is_some_and(PendingRow::is_open);
    let norm = normalise(&txn.row.description);
    let rule = if norm.is_empty() { None } else { rules.get(&norm) };
    match rule {
        _ if txn.row.void => {
            resolve(txn, batch, seq);
            withdraw(txn, seq);
            was_open
        }
        Some(rule) => {
            resolve(txn, batch, seq);
            txn.matched = Some(matched(&txn.row, rule, txn.matched.as_ref(), seq));
            was_open
        }
        None => {
            open(txn, batch, seq);
            withdraw(txn, seq);
            !was_open || looks_other
        }
    }
}

fn matched(row: &TxnRow, rule: &RuleRow, before: Option<&MatchedRow>, seq: i64) -> MatchedRow {
    MatchedRow {
        company_id: row.company_id.clone(),
        txn_uid: row.txn_uid,
        rule_id: rule.rule_id,
        ruleset_version: rule.ruleset_version,
        target_sheet: rule.target_sheet.clone(),
        target_header: rule.target_header.clone(),
        amount_cents: row.amount_cents,
        revision: before.map_or(1, |before| before.revision + 1),
        state: "queued".to_owned(),
        seq,
    }
}

fn open(txn: &mut Txn, batch: &Batch<'_>, seq: i64) {
    let (first, place) = match &txn.pending {
        None => (batch.batch_id.to_owned(), seq),
        Some(before) if before.is_open() => (before.first_seen_batch.clone(), before.seq),
        // It comes back as a new row at the end of the tab.
        Some(before) => (before.first_seen_batch.clone(), seq),
    };
    txn.pending = Some(pending(&txn.row, first, batch.batch_id, "open", place, None));
}

fn resolve(txn: &mut Txn, batch: &Batch<'_>, seq: i64) {
    let Some(before) = txn.pending.as_ref().filter(|pending| pending.is_open()) else { return };
    txn.pending = Some(pending(&txn.row, before.first_seen_batch.clone(), batch.batch_id, "resolved", before.seq, Some(seq)));
}

fn withdraw(txn: &mut Txn, seq: i64) {
    if let Some(matched) = txn.matched.as_mut().filter(|matched| matched.is_live()) {
        "withdrawn".clone_into(&mut matched.state);
        matched.seq = seq;
    }
}

fn pending(row: &TxnRow, first: String, last: &str, status: &str, seq: i64, resolved_seq: Option<i64>) -> PendingRow {
    PendingRow {
        company_id: row.company_id.clone(),
        txn_uid: row.txn_uid,
        first_seen_batch: first,
        last_seen_batch: last.to_owned(),
        occurred_on: row.occurred_on,
        description: row.description.clone(),
        description_norm: normalise(&row.description),
        amount_cents: row.amount_cents,
        status: status.to_owned(),
        row_checksum: row_checksum(row),
        seq,
        resolved_seq,
        answer: String::new(),
    }
}

/// Hex SHA-256 over what the Pending tab shows of a row: date, cents, description, each as a part.
fn row_checksum(row: &TxnRow) -> String {
    let mut bytes = Vec::new();
    for part in [row.occurred_on.to_string(), row.amount_cents.to_string(), row.description.clone()] {
        push_part(&mut bytes, part.as_bytes());
    }
    super::compare::hex(&Sha256::digest(&bytes))
}

/// A row of a batch as `transactions` has it when it is new.
fn row_of(company: &str, row: &Row, batch: &Batch<'_>, seq: i64) -> TxnRow {
    TxnRow {
        company_id: company.to_owned(),
        txn_uid: row.uid.0,
        external_id: row.id.clone(),
        occurred_on: row.date,
        amount_cents: row.cents.0,
        currency: row.currency.as_str().to_owned(),
        description: row.description.clone(),
        memo: row.memo.clone().unwrap_or_default(),
        counterparty: row.counterparty.clone().unwrap_or_default(),
        occurrence: row.occurrence.and_then(|n| i32::try_from(n).ok()),
        void: row.void,
        as_of: batch.created_at,
        seq,
        content_seq: seq,
        batch_signature: batch.signature.to_owned(),
    }
}

/// Whether two rows say the same of a transaction: everything that the bank may correct.
pub fn says_the_same(a: &TxnRow, b: &TxnRow) -> bool {
    let texts = |row: &TxnRow| [row.currency.clone(), row.description.clone(), row.memo.clone(), row.counterparty.clone()];
    (a.occurred_on, a.amount_cents, a.void, texts(a)) == (b.occurred_on, b.amount_cents, b.void, texts(b))
}

fn shows(row: &TxnRow) -> (chrono::NaiveDate, i64, &str) {
    (row.occurred_on, row.amount_cents, &row.description)
}
