//! Batches, in order, folded into what stands in Postgres: which are dismissed, what each row does, what must be written.
//!
//! Pure; called by the ingest transaction between its reads and its writes, under the companies' locks. Folding in memory makes a coalesced
//! transaction equal to applying its messages one by one, and lets each table be written by one statement with no row twice in it.
//! What must never happen here: a batch dismissed although one of its rows has been changed since it was applied.

use std::collections::HashMap;

use serde_json::json;

use super::counts::Counts;
use super::line::{Line, Speaker};
use crate::domain::ids::{BatchSignature, TxnUid};
use crate::domain::message::Row;
use crate::domain::rules::RuleSet;
use crate::faults::{Bug, planted};
use crate::flow::work::{Handled, TxnsWork};
use crate::store::company::books::{Books, EventWrite, LedgerRow, LedgerWrite, NameWrite, StateWrite};
use crate::store::company::matched::MatchWrite;
use crate::store::company::pending::PendingWrite;
use crate::store::company::state::StateRow;
use crate::store::company::transactions::{StoredTxn, TxnWrite};

/// A message, or what is left of it after rows that the database rejects were set aside.
#[derive(Clone, Debug)]
pub(super) struct Piece<'a> {
    /// Place of the work among those handed in.
    pub(super) index: usize,
    pub(super) work: &'a TxnsWork,
    pub(super) rows: Vec<&'a Row>,
    pub(super) signature: BatchSignature,
    /// `signature` as text.
    pub(super) hex: String,
    pub(super) n_bad: usize,
}

impl Piece<'_> {
    pub(super) fn company(&self) -> &str {
        self.work.route.company.as_str()
    }
}

/// A company under its lock.
#[derive(Debug)]
pub(super) struct Company<'a> {
    pub(super) state: &'a StateRow,
    pub(super) rules: &'a RuleSet,
}

/// All rows to be written.
#[derive(Debug, Default)]
pub(super) struct Writes<'a> {
    pub(super) txns: Vec<TxnWrite<'a>>,
    pub(super) pending: Vec<PendingWrite<'a>>,
    pub(super) matched: Vec<MatchWrite<'a>>,
    pub(super) books: Books<'a>,
}

/// What the folding came to.
#[derive(Debug)]
pub(super) struct Folded<'a> {
    pub(super) writes: Writes<'a>,
    /// One per piece, in order.
    pub(super) outcomes: Vec<Handled>,
    pub(super) counts: Counts,
    /// Companies whose Pending tab is due.
    pub(super) due: Vec<&'a str>,
}

struct Entry<'a> {
    write: LedgerWrite<'a>,
    dirty: bool,
}

/// Ledger and counters under way. First asked which pieces need their rows, then fed with all of them.
pub(super) struct Fold<'a> {
    companies: &'a [Company<'a>],
    places: HashMap<&'a str, usize>,
    states: Vec<StateRow>,
    ledger: HashMap<(usize, BatchSignature), Entry<'a>>,
    lines: HashMap<(usize, TxnUid), Line<'a>>,
    names: Vec<NameWrite<'a>>,
    events: Vec<EventWrite<'a>>,
    counts: Counts,
}

impl<'a> Fold<'a> {
    /// `ledger`: what is known of the pieces' signatures.
    pub(super) fn new(companies: &'a [Company<'a>], pieces: &'a [Piece<'a>], ledger: &'a [LedgerRow]) -> Self {
        let places: HashMap<_, _> = companies.iter().enumerate().map(|(at, company)| (company.state.company_id.as_str(), at)).collect();
        let known: HashMap<_, _> = ledger.iter().map(|row| ((row.company_id.as_str(), row.batch_signature.as_str()), row)).collect();
        let mut entries = HashMap::with_capacity(pieces.len());
        for piece in pieces {
            if let (Some(at), Some(row)) = (places.get(piece.company()), known.get(&(piece.company(), piece.hex.as_str()))) {
                entries.entry((*at, piece.signature)).or_insert_with(|| Entry {
                    write: LedgerWrite { batch_id: &row.batch_id, as_of: row.as_of, seq: row.seq, deliveries: 0, ..ledger_write(piece) },

                    dirty: false,
                });
            }
        }
        let states = companies.iter().map(|company| company.state.clone()).collect();
        let (lines, names, events) = (HashMap::new(), Vec::new(), Vec::new());
        Self { companies, places, states, ledger: entries, lines, names, events, counts: Counts::default() }
    }

    /// The (company, transaction) pairs whose present rows folding needs, sorted, each once. Of a company's pieces, all from the first one that
    /// the ledger alone does not dismiss: folding that one may change what the ledger says of the later ones.
    pub(super) fn wanted(&self, pieces: &'a [Piece<'a>]) -> Vec<(&'a str, TxnUid)> {
        let mut awake = vec![false; self.companies.len()];
        let mut wanted = Vec::new();
        for piece in pieces {
            let Some(&at) = self.places.get(piece.company()) else { continue };
            awake[at] = awake[at] || !self.dismissed(at, piece);
            if awake[at] {
                wanted.extend(piece.rows.iter().map(|row| (piece.company(), row.uid)));
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// Takes what stands in Postgres.
    pub(super) fn take_stored(&mut self, stored: &'a [StoredTxn]) {
        self.lines.reserve(stored.len());
        for row in stored {
            if let Some(&at) = self.places.get(row.company_id.as_str()) {
                self.lines.insert((at, TxnUid(row.txn_uid)), Line::stored(at, row));
            }
        }
    }

    /// Known content, no newer than when it was last applied, and no row of the company has changed since.
    fn dismissed(&self, at: usize, piece: &Piece<'_>) -> bool {
        self.ledger.get(&(at, piece.signature)).is_some_and(|entry| {
            let is_unchanged = entry.write.seq >= self.states[at].changed_seq || planted(Bug::SupersededDismissed);
            piece.work.batch.created_at <= entry.write.as_of && is_unchanged
        })
    }

    /// Folds all pieces in order.
    pub(super) fn run(mut self, pieces: &'a [Piece<'a>]) -> Folded<'a> {
        let outcomes = pieces.iter().map(|piece| self.fold(piece)).collect();
        let due = self.due();
        Folded { writes: self.writes(), outcomes, counts: self.counts, due }
    }

    fn fold(&mut self, piece: &'a Piece<'a>) -> Handled {
        let Some(&at) = self.places.get(piece.company()) else { return Handled::Duplicate };
        let batch = &piece.work.batch;
        let outcome = |otherwise| if piece.rows.is_empty() && piece.n_bad > 0 { Handled::DeadLettered } else { otherwise };
        if self.dismissed(at, piece) {
            self.deliver_again(at, piece);
            self.counts.batches_duplicate += 1;
            return outcome(Handled::Duplicate);
        }
        let known = self.ledger.contains_key(&(at, piece.signature));
        let seq = self.states[at].seq + 1;
        self.states[at].seq = seq;
        let rules = self.companies[at].rules;
        let speaker = Speaker { batch_id: batch.batch_id.as_str(), signature: &piece.hex, as_of: batch.created_at, seq, known, rules };
        let mut counts = Counts::default();
        let mut tab_changed = false;
        for row in &piece.rows {
            let effect = match self.lines.get_mut(&(at, row.uid)) {
                Some(line) => line.hear(row, &speaker),
                None => {
                    let (line, effect) = Line::new(at, row, &speaker);
                    self.lines.insert((at, row.uid), line);
                    effect
                }
            };
            tab_changed |= effect.tab_changed;
            counts.row(&effect);
        }
        if counts.changed() > 0 {
            self.states[at].changed_seq = seq;
        }
        if tab_changed {
            self.states[at].pending_seq = seq;
        }
        self.enter(at, piece, seq);
        self.tell(piece, seq, &counts);
        let changed = counts.new + counts.changed() > 0;
        *(if known { &mut counts.batches_superseded } else { &mut counts.batches_applied }) += 1;
        self.counts.add(&counts);
        outcome(if known && !changed { Handled::Duplicate } else { Handled::Applied })
    }

    fn deliver_again(&mut self, at: usize, piece: &'a Piece<'a>) {
        let batch_id = piece.work.batch.batch_id.as_str();
        if let Some(entry) = self.ledger.get_mut(&(at, piece.signature)) {
            entry.write.deliveries += 1;
            entry.dirty = true;
            if entry.write.batch_id != batch_id {
                self.names.push(NameWrite { company_id: piece.company(), batch_id, batch_signature: &piece.hex });
            }
        }
    }

    /// The entry keeps the newest `created_at` and the seq at which the content was applied as of it. An application as of an earlier time
    /// moves neither: it says nothing about how a delivery as of the later time would compare.
    fn enter(&mut self, at: usize, piece: &'a Piece<'a>, seq: i64) {
        let as_of = piece.work.batch.created_at;
        if self.ledger.contains_key(&(at, piece.signature)) {
            self.deliver_again(at, piece);
        }
        let entry =
            self.ledger.entry((at, piece.signature)).or_insert_with(|| Entry { write: LedgerWrite { seq, ..ledger_write(piece) }, dirty: true });
        if as_of >= entry.write.as_of {
            entry.write.as_of = as_of;
            entry.write.seq = seq;
        }
    }

    fn tell(&mut self, piece: &'a Piece<'a>, seq: i64, counts: &Counts) {
        let batch = &piece.work.batch;
        let (company_id, traceparent) = (piece.company(), piece.work.record.traceparent());
        // Which message took this seq: `kylo audit` applies the messages again in the order that these events record.
        let position = &piece.work.record.position;
        let payload = json!({
            "company_id": company_id, "batch_id": batch.batch_id.as_str(), "batch_signature": piece.hex, "seq": seq,
            "topic": &*position.topic, "partition": position.partition, "offset": position.offset,
            "created_at": batch.created_at, "rows": piece.rows.len(), "bad": piece.n_bad, "new": counts.new, "equal": counts.equal + counts.collapsed,
            "stale": counts.stale, "corrected": counts.corrected + counts.unvoided, "voided": counts.voided,
            "matched": counts.matched, "pending": counts.pending,
        });
        self.events.push(EventWrite { event_type: "batch.ingested", company_id, payload, traceparent });
        if counts.opened > 0 {
            let payload = json!({"company_id": company_id, "batch_id": batch.batch_id.as_str(), "seq": seq, "count": counts.opened});
            self.events.push(EventWrite { event_type: "pending.ready", company_id, payload, traceparent });
        }
    }

    fn due(&self) -> Vec<&'a str> {
        let due = self.companies.iter().zip(&self.states).filter(|(company, state)| state.pending_seq != company.state.pending_seq);
        due.map(|(company, _)| company.state.company_id.as_str()).collect()
    }

    /// Everything to be written, sorted by company and transaction.
    fn writes(&mut self) -> Writes<'a> {
        let mut lines: Vec<_> = std::mem::take(&mut self.lines).into_values().collect();
        lines.sort_unstable_by_key(|line| (line.company, line.uid));
        let mut writes = Writes::default();
        for line in &lines {
            let company_id = self.companies[line.company].state.company_id.as_str();
            writes.txns.extend(line.txn_write(company_id));
            writes.pending.extend(line.pending_write(company_id));
            writes.matched.extend(line.match_write(company_id));
        }
        let mut ledger: Vec<_> = std::mem::take(&mut self.ledger).into_values().filter(|entry| entry.dirty).map(|entry| entry.write).collect();
        ledger.sort_unstable_by_key(|write| (write.company_id, write.batch_signature));
        let states = self.companies.iter().zip(&self.states).filter(|(company, state)| *state != company.state);
        let states = states.map(|(company, state)| state_write(company.state.company_id.as_str(), state)).collect();
        writes.books = Books { ledger, names: std::mem::take(&mut self.names), events: std::mem::take(&mut self.events), states };
        writes
    }
}

fn state_write<'a>(company_id: &'a str, state: &StateRow) -> StateWrite<'a> {
    StateWrite {
        company_id,
        seq: state.seq,
        pending_seq: state.pending_seq,
        active_seq: state.active_seq,
        changed_seq: state.changed_seq,
        ruleset_version: state.ruleset_version,
    }
}

fn ledger_write<'a>(piece: &'a Piece<'a>) -> LedgerWrite<'a> {
    let position = &piece.work.record.position;
    LedgerWrite {
        company_id: piece.company(),
        batch_signature: &piece.hex,
        batch_id: piece.work.batch.batch_id.as_str(),
        as_of: piece.work.batch.created_at,
        seq: 0,
        row_count: i32::try_from(piece.rows.len()).unwrap_or(i32::MAX),
        bad_count: i32::try_from(piece.n_bad).unwrap_or(i32::MAX),
        deliveries: 1,
        topic: &position.topic,
        partition: position.partition,
        offset: position.offset,
    }
}
