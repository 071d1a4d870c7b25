//! What came of the rows and batches of a transaction, for events and metrics.

use super::line::{Effect, Told, Went};

/// Receives counts after their transaction has committed. Implemented by telemetry; a test may record.
pub trait IngestMetrics: Send + Sync + std::fmt::Debug {
    /// `kylo_rows_total{outcome}`.
    fn rows(&self, outcome: &'static str, n: u64);
    /// Batches by outcome: applied, duplicate (dismissed by the ledger), superseded (known, compared row by row).
    fn batches(&self, outcome: &'static str, n: u64);
}

/// Counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMetrics;

impl IngestMetrics for NoMetrics {
    fn rows(&self, _outcome: &'static str, _n: u64) {}
    fn batches(&self, _outcome: &'static str, _n: u64) {}
}

/// Rows and batches by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub new: u64,
    pub stale: u64,
    pub equal: u64,
    pub collapsed: u64,
    pub corrected: u64,
    pub voided: u64,
    pub unvoided: u64,
    pub matched: u64,
    pub pending: u64,
    /// Rows that became open in this batch; `pending` also counts corrections of rows that were open before.
    pub opened: u64,
    pub rejected: u64,
    pub batches_applied: u64,
    pub batches_duplicate: u64,
    pub batches_superseded: u64,
}

impl Counts {
    pub(super) fn row(&mut self, effect: &Effect) {
        let told = match effect.told {
            Told::New => &mut self.new,
            Told::Stale => &mut self.stale,
            Told::Equal => &mut self.equal,
            Told::Collapsed => &mut self.collapsed,
            Told::Corrected => &mut self.corrected,
            Told::Voided => &mut self.voided,
            Told::Unvoided => &mut self.unvoided,
        };
        *told += 1;
        match effect.went {
            Went::Matched => self.matched += 1,
            Went::Pending => self.pending += 1,
            Went::Nowhere => {}
        }
        self.opened += u64::from(effect.opened);
    }

    /// Rows that changed something that was known before.
    pub(super) fn changed(&self) -> u64 {
        self.corrected + self.voided + self.unvoided
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.fields().into_iter().zip(other.clone().fields()) {
            *mine += *theirs;
        }
    }

    fn fields(&mut self) -> [&mut u64; 14] {
        [
            &mut self.new,
            &mut self.stale,
            &mut self.equal,
            &mut self.collapsed,
            &mut self.corrected,
            &mut self.voided,
            &mut self.unvoided,
            &mut self.matched,
            &mut self.pending,
            &mut self.opened,
            &mut self.rejected,
            &mut self.batches_applied,
            &mut self.batches_duplicate,
            &mut self.batches_superseded,
        ]
    }

    pub(super) fn report(&self, metrics: &dyn IngestMetrics) {
        let rows = [
            ("new", self.new),
            ("stale", self.stale),
            ("equal", self.equal),
            ("collapsed", self.collapsed),
            ("corrected", self.corrected),
            ("voided", self.voided),
            ("unvoided", self.unvoided),
            ("matched", self.matched),
            ("pending", self.pending),
            ("rejected", self.rejected),
        ];
        for (outcome, n) in rows.into_iter().filter(|(_, n)| *n > 0) {
            metrics.rows(outcome, n);
        }
        let batches = [("applied", self.batches_applied), ("duplicate", self.batches_duplicate), ("superseded", self.batches_superseded)];
        for (outcome, n) in batches.into_iter().filter(|(_, n)| *n > 0) {
            metrics.batches(outcome, n);
        }
    }
}
