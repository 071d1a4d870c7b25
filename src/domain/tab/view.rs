//! A tab as it was read, row by row: key, machine cells, what people typed.
//!
//! Called by the planner and by promote. What must never happen here: a row dropped in silence; every row that holds anything is listed.

use std::collections::HashMap;

use super::{ACTIVE_SOURCE, Approved, Columns, HeaderError, Role, Typed, pending};
use crate::domain::ids::TxnUid;
use crate::domain::sheet::{ObservedTab, Value};
use crate::domain::text::normalise;

/// What stands in a row's Txn_UID cell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RowKey {
    Uid(TxnUid),
    /// Something that is no transaction id.
    Foreign(String),
    None,
}

/// One row of a Pending tab.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingRow {
    /// From 0, the header's row.
    pub row: u32,
    pub key: RowKey,
    pub date: Value,
    pub source: Value,
    pub company: Value,
    pub amount: Value,
    pub status: Value,
    pub typed: Typed,
}

/// A Pending tab.
#[derive(Clone, Debug, PartialEq)]
pub struct TabView {
    pub columns: Columns,
    /// All rows below the header that hold anything in a column of the layout, from top to bottom.
    pub rows: Vec<PendingRow>,
}

impl TabView {
    /// For each transaction on the tab its topmost row, and whether a copy of it says something else (then neither is to be trusted).
    pub fn topmost(&self) -> HashMap<TxnUid, (&PendingRow, bool)> {
        let mut found: HashMap<TxnUid, (&PendingRow, bool)> = HashMap::with_capacity(self.rows.len());
        for row in &self.rows {
            let RowKey::Uid(uid) = row.key else { continue };
            found.entry(uid).and_modify(|(top, differs)| *differs |= !row.typed.is_empty() && row.typed != top.typed).or_insert((row, false));
        }
        found
    }

    /// Every transaction id on the tab, each once.
    pub fn uids(&self) -> Vec<TxnUid> {
        let mut uids: Vec<_> = self.rows.iter().filter_map(|row| if let RowKey::Uid(uid) = row.key { Some(uid) } else { None }).collect();
        uids.sort_unstable();
        uids.dedup();
        uids
    }
}

/// One row of an Active tab.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveRow {
    pub row: u32,
    /// Normal form of its Source; empty if there is none.
    pub key: String,
    /// In layout order.
    pub cells: Vec<Value>,
}

/// An Active tab.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveView {
    pub columns: Columns,
    /// All rows below the header that hold anything in any column.
    pub rows: Vec<ActiveRow>,
}

/// Whether a cell holds nothing that a person would miss: empty, blank text, or an unticked checkbox.
pub fn is_blank(cell: &Value) -> bool {
    match cell {
        Value::Empty | Value::Bool(false) => true,
        Value::Text(text) => text.trim().is_empty(),
        _ => false,
    }
}

/// Reads a Pending tab.
///
/// # Errors
/// [`HeaderError`] when the columns cannot be found.
pub fn read_pending(tab: &ObservedTab) -> Result<TabView, HeaderError> {
    let columns = Columns::find(Role::Pending, tab)?;
    let rows = (0_u32..)
        .zip(&tab.rows)
        .skip(1)
        .filter_map(|(row, cells)| {
            let cell = |position: usize| cells.get(columns.of(position) as usize).unwrap_or(&Value::Empty);
            if (0..Role::Pending.headers().len()).all(|position| is_blank(cell(position))) {
                return None;
            }
            Some(PendingRow {
                row,
                key: row_key(cell(pending::TXN_UID)),
                date: cell(pending::DATE).clone(),
                source: cell(pending::SOURCE).clone(),
                company: cell(pending::COMPANY_ID).clone(),
                amount: cell(pending::AMOUNT).clone(),
                status: cell(pending::STATUS).clone(),
                typed: typed(cell),
            })
        })
        .collect();
    Ok(TabView { columns, rows })
}

/// Reads an Active tab.
///
/// # Errors
/// [`HeaderError`] when the columns cannot be found.
pub fn read_active(tab: &ObservedTab) -> Result<ActiveView, HeaderError> {
    let columns = Columns::find(Role::Active, tab)?;
    let rows = (0_u32..)
        .zip(&tab.rows)
        .skip(1)
        .filter(|(_, cells)| !cells.iter().all(is_blank))
        .map(|(row, cells)| {
            let cell = |position: usize| cells.get(columns.of(position) as usize).cloned().unwrap_or_default();
            let cells: Vec<_> = (0..Role::Active.headers().len()).map(cell).collect();
            let key = cells.get(ACTIVE_SOURCE).map(|source| normalise(&plain_text(source))).unwrap_or_default();
            ActiveRow { row, key, cells }
        })
        .collect();
    Ok(ActiveView { columns, rows })
}

fn row_key(cell: &Value) -> RowKey {
    let text = match cell {
        Value::Formula(text) | Value::Error(text) => text.clone(),
        other => plain_text(other),
    };
    let text = text.trim();
    if text.is_empty() || is_blank(cell) {
        return RowKey::None;
    }
    text.parse().map_or_else(|_| RowKey::Foreign(text.to_owned()), RowKey::Uid)
}

fn typed<'a>(cell: impl Fn(usize) -> &'a Value) -> Typed {
    let peoples = [pending::TARGET_SHEET, pending::TARGET_HEADER, pending::MATCH_NOTES, pending::APPROVED];
    let formula_in = peoples
        .into_iter()
        .filter(|position| matches!(cell(*position), Value::Formula(_)))
        .map(|position| Role::Pending.headers()[position].to_owned())
        .collect();
    // Postgres stores no U+0000, and no cell needs one.
    let text = |position| plain_text(cell(position)).replace('\0', "").trim().to_owned();
    Typed {
        target_sheet: text(pending::TARGET_SHEET),
        target_header: text(pending::TARGET_HEADER),
        match_notes: text(pending::MATCH_NOTES),
        approved: approved(cell(pending::APPROVED)),
        formula_in,
        ..Typed::default()
    }
}

fn approved(cell: &Value) -> Approved {
    match cell {
        Value::Empty | Value::Bool(false) | Value::Formula(_) => Approved::No,
        Value::Bool(true) => Approved::Yes,
        Value::Text(text) => match text.trim() {
            text if text.eq_ignore_ascii_case("true") => Approved::Yes,
            text if text.is_empty() || text.eq_ignore_ascii_case("false") => Approved::No,
            text => Approved::Odd(text.replace('\0', "")),
        },
        Value::Number(_) | Value::Error(_) => Approved::Odd(plain_text(cell).replace('\0', "")),
    }
}

/// What a person sees in the cell; nothing for a formula, whose result was not asked for.
fn plain_text(cell: &Value) -> String {
    match cell {
        Value::Empty | Value::Formula(_) => String::new(),
        Value::Text(text) | Value::Error(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(true) => "TRUE".to_owned(),
        Value::Bool(false) => "FALSE".to_owned(),
    }
}
