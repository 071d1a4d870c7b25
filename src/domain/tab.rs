//! The two tabs: their headers, whose column is whose, what a row must look like, and what a row that was read says.
//!
//! Called by the planner (what to change) and by promote (which approvals count), which must judge a row by the very same code.
//! What must never happen here: a person's cell found by its position, a formula's text taken for what a person typed, or an approval that
//! counts although the row does not show what Postgres knows under its key.

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ids::{TxnUid, push_part};
use super::sheet::{CellWrite, ObservedTab, Value};
use super::text::normalise;

mod cells;
mod view;

pub use cells::{amount_cell, shown, shows, shows_amount, text_cell};
use cells::{date_text, shows_text};
pub use view::{ActiveRow, ActiveView, PendingRow, RowKey, TabView, is_blank, read_active, read_pending};

/// Which of a company's two tabs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Pending,
    Active,
}

/// Position of each Pending column in [`Role::headers`].
pub mod pending {
    pub const TXN_UID: usize = 0;
    pub const DATE: usize = 1;
    pub const SOURCE: usize = 2;
    pub const COMPANY_ID: usize = 3;
    pub const AMOUNT: usize = 4;
    pub const TARGET_SHEET: usize = 5;
    pub const TARGET_HEADER: usize = 6;
    pub const MATCH_NOTES: usize = 7;
    pub const APPROVED: usize = 8;
    pub const STATUS: usize = 9;
}

/// Position of Source in the Active layout: its normal form is the row's key.
pub const ACTIVE_SOURCE: usize = 3;

const PENDING_HEADERS: [&str; 10] =
    ["Txn_UID", "Date", "Source", "Company_ID", "Amount", "Target_Sheet", "Target_Header", "Match_Notes", "Approved", "Status"];
const ACTIVE_HEADERS: [&str; 8] =
    ["Ruleset_Version", "Effective_At", "Company_ID", "Source", "Target_Sheet", "Target_Header", "Match_Notes", "Created_At"];

impl Role {
    pub const ALL: [Self; 2] = [Self::Pending, Self::Active];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
        }
    }

    /// The role of this name in `control.sheet_tabs`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// The header texts in the order in which a new tab gets them.
    pub fn headers(self) -> &'static [&'static str] {
        match self {
            Self::Pending => &PENDING_HEADERS,
            Self::Active => &ACTIVE_HEADERS,
        }
    }
}

/// Why a tab cannot be used as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// These headers are not in row 1.
    #[error("row 1 lacks the header {}: put it back by hand, spelled as here, into any free column of row 1", .0.join(", "))]
    Missing(Vec<&'static str>),
    /// These headers are there more than once: which column is meant would be a guess.
    #[error("row 1 has the header {} more than once: rename or delete the extra column", .0.join(", "))]
    Doubled(Vec<&'static str>),
    /// The tab holds nothing at all. The planner writes the header; for anybody else there is nothing to read.
    #[error("the tab is empty")]
    Empty,
}

/// Where each column of a layout stands in a tab: layout position -> column, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    at: Vec<u32>,
}

impl Columns {
    /// The columns of a tab that Kylo makes itself.
    pub fn fresh(role: Role) -> Self {
        Self { at: (0..).take(role.headers().len()).collect() }
    }

    /// Finds every header by its trimmed text, wherever people have moved the column.
    ///
    /// # Errors
    /// [`HeaderError`]
    pub fn find(role: Role, tab: &ObservedTab) -> Result<Self, HeaderError> {
        if tab.rows.iter().flatten().all(|cell| matches!(cell, Value::Empty) || is_blank(cell)) {
            return Err(HeaderError::Empty);
        }
        let headers = role.headers();
        let mut at: Vec<Vec<u32>> = vec![Vec::new(); headers.len()];
        for (column, cell) in (0_u32..).zip(tab.rows.first().into_iter().flatten()) {
            let Value::Text(text) = cell else { continue };
            let text = text.trim();
            let position = headers.iter().position(|header| *header == text);
            if let Some(columns) = position.and_then(|position| at.get_mut(position)) {
                columns.push(column);
            }
        }
        let with = |wrong: fn(usize) -> bool| -> Vec<&'static str> {
            headers.iter().zip(&at).filter(|(_, columns)| wrong(columns.len())).map(|(header, _)| *header).collect()
        };
        let (missing, doubled) = (with(|n| n == 0), with(|n| n > 1));
        if !missing.is_empty() {
            return Err(HeaderError::Missing(missing));
        }
        if !doubled.is_empty() {
            return Err(HeaderError::Doubled(doubled));
        }
        Ok(Self { at: at.iter().filter_map(|columns| columns.first().copied()).collect() })
    }

    /// The column of a layout position.
    pub fn of(&self, position: usize) -> u32 {
        self.at.get(position).copied().unwrap_or_default()
    }

    /// (layout position, column) from left to right.
    pub fn left_to_right(&self) -> Vec<(usize, u32)> {
        let mut order: Vec<_> = self.at.iter().copied().enumerate().collect();
        order.sort_by_key(|(_, column)| *column);
        order
    }

    /// How many columns from the left hold all of the layout.
    pub fn span(&self) -> u32 {
        self.at.iter().max().map_or(0, |last| last + 1)
    }
}

/// The Approved cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approved {
    /// A ticked box, or the text true in any case.
    Yes,
    /// An unticked box, blank, or the text false in any case.
    #[default]
    No,
    /// Anything else: it is answered, never guessed at.
    Odd(String),
}

/// What a person has typed in one row, trimmed. A formula is never read: its cell counts as empty here and is named in `formula_in`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Typed {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target_sheet: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target_header: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub match_notes: String,
    #[serde(skip_serializing_if = "Approved::is_no")]
    pub approved: Approved,
    /// Headers of the people's cells that hold a formula.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub formula_in: Vec<String>,
    /// Set when the row had copies and was read by a post that removed rows, or while a post was in doubt: what the copies that say something else
    /// showed. Should none of the rows show a cell of these afterwards, rows had moved and the row that held it went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<Vec<Typed>>,
    /// Set when it was read by a post that removed rows, or while a post was in doubt: people may have sorted meanwhile, so that these texts stood in
    /// a row that went. What no row shows afterwards is kept as left behind.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub at_risk: bool,
    /// Cells of this row that others read, newest first and without marks: a post may have taken them with a row since. What is on the tab no more is
    /// kept. See `domain::plan::merge`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Typed>,
}

impl Approved {
    fn is_no(&self) -> bool {
        *self == Self::No
    }
}

impl Typed {
    /// Nothing typed, not ticked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The texts that are filled in.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        [&self.target_sheet, &self.target_header, &self.match_notes].into_iter().map(String::as_str).filter(|text| !text.is_empty())
    }

    /// The post that read it may have taken cells with it; the next post that reads the tab settles that.
    pub fn is_marked(&self) -> bool {
        self.at_risk || self.copies.is_some() || !self.before.is_empty()
    }

    /// From now on rows may go: see `at_risk`.
    pub fn put_at_risk(&mut self) {
        let has_text = self.texts().next().is_some();
        self.at_risk = has_text;
    }

    /// No rows can go any more that this one's cells stood in.
    pub fn put_out_of_risk(&mut self) {
        (self.at_risk, self.copies) = (false, None);
    }

    /// Both say the same, marked or not.
    pub fn says_the_same(&self, other: &Self) -> bool {
        Self { at_risk: other.at_risk, copies: other.copies.clone(), ..self.clone() } == *other
    }

    /// The cells alone, without marks.
    #[must_use]
    pub fn plain(&self) -> Self {
        let Self { target_sheet, target_header, match_notes, approved, formula_in, .. } = self.clone();
        Self { target_sheet, target_header, match_notes, approved, formula_in, ..Self::default() }
    }

    /// The same cells with Approved FALSE.
    #[must_use]
    pub fn unapproved(&self) -> Self {
        Self { approved: Approved::No, ..self.clone() }
    }

    /// What an answer in Status was given to (`pending_txns.answer_input`): another fingerprint means that a person has reacted.
    pub fn fingerprint(&self) -> String {
        let mut parts = Vec::with_capacity(128);
        for text in [&self.target_sheet, &self.target_header, &self.match_notes] {
            push_part(&mut parts, text.as_bytes());
        }
        let (kind, odd) = match &self.approved {
            Approved::Yes => ("yes", ""),
            Approved::No => ("no", ""),
            Approved::Odd(text) => ("odd", text.as_str()),
        };
        push_part(&mut parts, kind.as_bytes());
        push_part(&mut parts, odd.as_bytes());
        for header in &self.formula_in {
            push_part(&mut parts, header.as_bytes());
        }
        hex(&Sha256::digest(&parts))
    }

    /// The answer to cells that cannot be read as they are, if any.
    pub fn invalid(&self) -> Option<String> {
        if !self.formula_in.is_empty() {
            return Some(format!("invalid: {} holds a formula, which is not read: type the text itself", self.formula_in.join(", ")));
        }
        match &self.approved {
            Approved::Odd(_) => Some("invalid: Approved must be ticked, TRUE, FALSE or blank".to_owned()),
            Approved::Yes | Approved::No => None,
        }
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
        text
    })
}

/// An open pending transaction as Postgres has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRow {
    pub uid: TxnUid,
    pub occurred_on: NaiveDate,
    pub description: String,
    pub amount_cents: i64,
    /// What Status says; empty = fine.
    pub answer: String,
    /// [`Typed::fingerprint`] of the cells the answer was given to.
    pub answer_input: Option<String>,
    /// Place in the tab: (seq, date, uid).
    pub seq: i64,
    /// `company_state.seq` at which the content last changed: tells a correction from a person's edit.
    pub content_seq: i64,
}

/// A rule in force as Postgres has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveRule {
    pub source: String,
    pub target_sheet: String,
    pub target_header: String,
    pub match_notes: String,
    pub ruleset_version: i32,
    pub effective_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
}

/// The answer to a tick that a person set on a row while a post was changing its content.
pub const EARLY_TICK: &str = "changed: the bank's data changed while this was being approved; check the row and tick Approved again";

impl OpenRow {
    /// Whether this tick was set on content that a post replaced a moment later. It is to be taken back, and counts for nothing.
    pub fn is_early_tick(&self, typed: &Typed) -> bool {
        typed.approved == Approved::Yes && self.answer == EARLY_TICK && self.answer_input.as_ref() == Some(&typed.fingerprint())
    }

    /// What the cell at a machine column's layout position must hold. `None` for people's columns.
    pub fn cell(&self, position: usize, company: &str) -> Option<CellWrite> {
        Some(match position {
            pending::TXN_UID => CellWrite::Text(self.uid.to_string()),
            pending::DATE => CellWrite::Text(date_text(self.occurred_on)),
            pending::SOURCE => text_cell(&self.description),
            pending::COMPANY_ID => CellWrite::Text(company.to_owned()),
            pending::AMOUNT => amount_cell(self.amount_cents),
            pending::STATUS => text_cell(&self.answer),
            _ => return None,
        })
    }

    /// Headers of the cells Date, Source and Amount that do not show what Postgres has: an approval given to other content does not count.
    pub fn mismatches(&self, row: &PendingRow) -> Vec<&'static str> {
        [(pending::DATE, &row.date), (pending::SOURCE, &row.source), (pending::AMOUNT, &row.amount)]
            .into_iter()
            .filter(|(position, seen)| !self.shows(*position, seen))
            .map(|(position, _)| PENDING_HEADERS[position])
            .collect()
    }

    fn shows(&self, position: usize, seen: &Value) -> bool {
        match position {
            pending::AMOUNT => shows_amount(seen, self.amount_cents),
            pending::DATE => shows_text(seen, &date_text(self.occurred_on)),
            _ => shows_text(seen, &shown(&self.description)),
        }
    }
}

impl ActiveRule {
    /// All cells of the rule's row, in layout order.
    pub fn cells(&self, company: &str) -> Vec<CellWrite> {
        let time = |at: DateTime<Utc>| CellWrite::Text(at.to_rfc3339_opts(SecondsFormat::Secs, true));
        vec![
            CellWrite::Text(self.ruleset_version.to_string()),
            time(self.effective_at),
            CellWrite::Text(company.to_owned()),
            text_cell(&self.source),
            text_cell(&self.target_sheet),
            text_cell(&self.target_header),
            text_cell(&self.match_notes),
            time(self.created_at),
        ]
    }

    /// The row's key: the normal form of the source as it is shown (a cut source is known by its cut text).
    pub fn key(&self) -> String {
        normalise(&shown(&self.source))
    }
}

/// What an approval in a row is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    /// Not ticked.
    None,
    /// Ticked, both targets filled, and the row shows what Postgres has.
    Counts,
    /// Ticked, but these targets are missing.
    Incomplete(Vec<&'static str>),
    /// Ticked, but these machine cells differ from Postgres: a person sorted without the key column or edited them, or a correction came.
    Mismatch(Vec<&'static str>),
    /// The cells cannot be read as they are. The text is the answer for Status.
    Odd(String),
}

/// Judges a row's approval against what Postgres has under its key. Used by promote and by the planner.
pub fn approval(row: &PendingRow, wanted: &OpenRow) -> Approval {
    let typed = &row.typed;
    let unreadable = |header: &str| header != PENDING_HEADERS[pending::MATCH_NOTES];
    if matches!(typed.approved, Approved::Odd(_)) || typed.formula_in.iter().any(|header| unreadable(header)) {
        return Approval::Odd(typed.invalid().unwrap_or_default());
    }
    if typed.approved == Approved::No {
        return Approval::None;
    }
    let mismatches = wanted.mismatches(row);
    if !mismatches.is_empty() || wanted.is_early_tick(typed) {
        return Approval::Mismatch(mismatches);
    }
    let targets = [(&typed.target_sheet, pending::TARGET_SHEET), (&typed.target_header, pending::TARGET_HEADER)];
    let missing: Vec<_> = targets.into_iter().filter(|(text, _)| text.is_empty()).map(|(_, position)| PENDING_HEADERS[position]).collect();
    if missing.is_empty() { Approval::Counts } else { Approval::Incomplete(missing) }
}

#[cfg(test)]
mod tests;
