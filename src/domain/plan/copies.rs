//! Transactions that stand in several rows, and what went with one of these because rows had moved and a removal hit it.
//!
//! Called by the planner of the Pending tab. What must never happen here: a copy that says something else taken for one that may go.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::TypedCells;
use crate::domain::ids::TxnUid;
use crate::domain::tab::{RowKey, TabView, Typed};

/// A transaction that stands on the tab: where its topmost row is (index in the view), how many rows it has, and those that say something else.
pub struct Copies {
    pub top: usize,
    pub n_rows: usize,
    /// Indexes of copies that a person must decide about.
    pub differing: BTreeSet<usize>,
}

pub fn copies(view: &TabView) -> HashMap<TxnUid, Copies> {
    let mut found: HashMap<TxnUid, Copies> = HashMap::with_capacity(view.rows.len());
    for (index, row) in view.rows.iter().enumerate() {
        let RowKey::Uid(uid) = row.key else { continue };
        match found.get_mut(&uid) {
            None => {
                found.insert(uid, Copies { top: index, n_rows: 1, differing: BTreeSet::new() });
            }
            Some(copies) => {
                copies.n_rows += 1;
                if !row.typed.is_empty() && view.rows.get(copies.top).is_none_or(|top| top.typed != row.typed) {
                    copies.differing.insert(index);
                }
            }
        }
    }
    found
}

/// Cells that went with one of several rows, because rows had moved and a removal hit it.
pub struct Lost {
    pub cells: Vec<Typed>,
    /// The rows that are left hold nothing a person typed: they are replaced. Otherwise the cells come back in rows of their own, and the
    /// person decides.
    pub is_blank: bool,
}

/// What was remembered of rows with copies, and is on none of their rows now.
pub fn lost(view: &TabView, known: &TypedCells) -> HashMap<TxnUid, Lost> {
    let suspects: HashMap<TxnUid, &Typed> = known.iter().filter(|(_, typed)| typed.copies.is_some()).map(|(uid, typed)| (*uid, typed)).collect();
    if suspects.is_empty() {
        return HashMap::new();
    }
    let mut shown: HashMap<TxnUid, HashSet<&str>> = HashMap::new();
    for row in &view.rows {
        if let RowKey::Uid(uid) = row.key
            && suspects.contains_key(&uid)
        {
            shown.entry(uid).or_default().extend(row.typed.texts());
        }
    }
    let mut lost = |(uid, typed): (TxnUid, &Typed)| {
        let shown = shown.remove(&uid).unwrap_or_default();
        let remembered = std::iter::once(typed).chain(typed.copies.iter().flatten()).chain(&typed.before);
        let cells: Vec<_> = remembered.filter(|typed| typed.texts().any(|text| !shown.contains(text))).cloned().collect();
        (!cells.is_empty()).then_some((uid, Lost { cells, is_blank: shown.is_empty() }))
    };
    suspects.into_iter().filter_map(&mut lost).collect()
}
