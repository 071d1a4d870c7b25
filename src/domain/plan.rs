//! The planner: (what Postgres says) x (what a tab shows) -> the requests that make them equal. The heart of posting.
//!
//! Called by `flow::post` for every post, for the check of the answer's echo, and by the commands that only look. Pure.
//!
//! All row numbers of a tab's requests are those of the read, and hold when the requests are applied in order: first cells of existing rows are
//! written, then new rows are inserted below the last row with a key, then rows are removed from the bottom up. Inserting below everything
//! that is written or removed moves none of it. (Removing first would leave the insert's place to be computed, and could be refused, because
//! Google does not delete all rows of a tab.)
//!
//! What must never happen here: a request that writes into people's cells of an existing row, except Approved FALSE in the cases
//! that product section 7 names; a row written into a place that the same batch has not inserted; a row removed that Postgres does not know.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::ids::{TxnUid, push_part};
use super::sheet::{CellWrite, ObservedTab, Request};
use super::tab::{ActiveRule, OpenRow, Role, Typed, hex};

mod active;
mod copies;
mod header;
mod merge;
mod pending;
mod setup;
mod writes;

pub use active::plan_active;
pub use header::plan_header;
pub use merge::{merge, merge_read, merge_seen};
pub use pending::plan_pending;

/// People's cells by transaction, as last read.
pub type TypedCells = BTreeMap<TxnUid, Typed>;

/// The tab to be planned for.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// To be made, under this sheet id.
    Missing {
        sheet_id: i32,
    },
    There(&'a ObservedTab),
}

impl Found<'_> {
    pub fn sheet_id(&self) -> i32 {
        match self {
            Self::Missing { sheet_id } => *sheet_id,
            Self::There(tab) => tab.sheet_id,
        }
    }
}

/// What a Pending tab is made equal to.
#[derive(Clone, Copy, Debug)]
pub struct PendingInput<'a> {
    pub company: &'a str,
    /// For a tab that is to be made.
    pub title: &'a str,
    pub tab: Found<'a>,
    pub open: &'a [OpenRow],
    /// Transactions that Postgres knows and that are not open (resolved, matched, void), with their descriptions. Only these may leave.
    pub gone: &'a HashMap<TxnUid, String>,
    /// People's cells as last read: what a deleted row comes back with.
    pub typed: &'a TypedCells,
    /// `posted_seq` of the tab: content that changed after it is a correction, not a person's edit.
    pub posted_seq: i64,
    /// A post of the company's tabs is in doubt: it may remove rows yet.
    pub in_doubt: bool,
}

/// What an Active tab is made equal to.
#[derive(Clone, Copy, Debug)]
pub struct ActiveInput<'a> {
    pub company: &'a str,
    pub title: &'a str,
    pub tab: Found<'a>,
    pub rules: &'a [ActiveRule],
}

/// What Status is to say about an open row, to be stored before it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub uid: TxnUid,
    /// As Postgres had it: stored only if it still has.
    pub before: String,
    pub answer: String,
    pub answer_input: Option<String>,
}

/// People's cells that leave the tab unapplied, with their row or with another's that they had been sorted into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub uid: TxnUid,
    pub source: String,
    pub typed: Typed,
}

/// What a post changes in one tab.
#[derive(Clone, Debug, PartialEq)]
pub struct TabPlan {
    pub role: Role,
    pub sheet_id: i32,
    /// Makes the tab or its header. Counts for no row operation.
    pub setup: Vec<Request>,
    pub rows: Vec<Request>,
    pub appended: usize,
    pub changed: usize,
    pub removed: usize,
    pub answers: Vec<Answer>,
    pub left: Vec<Left>,
    /// People's non-empty cells of the open rows, as the tab shows them after this plan.
    pub typed: TypedCells,
    /// Transactions whose row gets another Date, Source or Amount: a tick that comes before this does was set on the old content.
    pub rewritten: BTreeSet<TxnUid>,
    /// False when the budget ran out: the tab stays due.
    pub complete: bool,
    /// Only row 1 is put right, and nothing is known of the rows yet.
    pub mends_header: bool,
    /// How many columns from the left an echo needs.
    pub span: u32,
}

impl TabPlan {
    fn new(role: Role, sheet_id: i32) -> Self {
        Self {
            role,
            sheet_id,
            setup: Vec::new(),
            rows: Vec::new(),
            appended: 0,
            changed: 0,
            removed: 0,
            answers: Vec::new(),
            left: Vec::new(),
            typed: BTreeMap::new(),
            rewritten: BTreeSet::new(),
            complete: true,
            mends_header: false,
            span: 0,
        }
    }

    /// Nothing to send.
    pub fn is_empty(&self) -> bool {
        self.setup.is_empty() && self.rows.is_empty()
    }

    /// Rows appended + changed + removed.
    pub fn row_count(&self) -> usize {
        self.appended + self.changed + self.removed
    }
}

/// How many bytes of requests a batch may still take. Google recommends 2 MB.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    left: usize,
    spent: bool,
}

/// Bytes of one request beside its cells: the names of its fields and its range, in Google's JSON.
const REQUEST_BYTES: usize = 260;

impl Budget {
    pub fn new(bytes: usize) -> Self {
        Self { left: bytes, spent: false }
    }

    /// Takes `bytes`, or says that they do not fit and that nothing more is to be planned. A row alone always fits a fresh 2 MB: its greatest
    /// cells are Source and three of a person, each at most 50,000 units.
    fn take(&mut self, bytes: usize) -> bool {
        if self.spent || bytes > self.left {
            self.spent = true;
            return false;
        }
        self.left -= bytes;
        true
    }

    /// Whether something did not fit.
    pub fn is_spent(&self) -> bool {
        self.spent
    }
}

/// About how many bytes a cell is in Google's JSON.
fn cell_bytes(cell: &CellWrite) -> usize {
    match cell {
        CellWrite::Empty => 3,
        CellWrite::Text(text) => 50 + text.len() + text.bytes().filter(|byte| matches!(byte, b'"' | b'\\' | 0..=31)).count() * 5,
        CellWrite::Money(_) => 160,
        CellWrite::Checkbox(_) => 180,
    }
}

/// Identifies a post of one tab: SHA-256 over company, spreadsheet, tab, intent and the row operations, each as a length-prefixed part.
pub fn signature(company: &str, spreadsheet: &str, tab: &str, intent: Uuid, rows: &[Request]) -> String {
    let mut hash = Sha256::new();
    let mut part = Vec::new();
    let mut add = |bytes: &[u8]| {
        part.clear();
        push_part(&mut part, bytes);
        hash.update(&part);
    };
    for text in [company, spreadsheet, tab, &intent.to_string()] {
        add(text.as_bytes());
    }
    for request in rows {
        add(&serde_json::to_vec(request).unwrap_or_default());
    }
    hex(&hash.finalize())
}
