//! Turns row decisions into requests: as few and as small as possible, in the order that keeps every row number valid.

use std::collections::HashMap;

use super::setup::Prepared;
use super::{Budget, REQUEST_BYTES, TabPlan, cell_bytes};
use crate::domain::sheet::{CellWrite, Request};
use crate::domain::tab::Columns;

/// Collects what is to be done to one tab.
pub struct Writes<'a> {
    sheet_id: i32,
    budget: &'a mut Budget,
    cells: Vec<Block>,
    /// (first column, width) -> the block in `cells` that the next row may join.
    joinable: HashMap<(u32, usize), usize>,
    inserted: Vec<Vec<CellWrite>>,
    removed: Vec<u32>,
}

struct Block {
    row: u32,
    column: u32,
    rows: Vec<Vec<CellWrite>>,
}

impl<'a> Writes<'a> {
    pub fn new(sheet_id: i32, budget: &'a mut Budget) -> Self {
        Self { sheet_id, budget, cells: Vec::new(), joinable: HashMap::new(), inserted: Vec::new(), removed: Vec::new() }
    }

    /// Writes single cells of an existing row, given from left to right. False = the budget is spent and nothing was taken.
    /// Rows must come from top to bottom.
    pub fn change(&mut self, row: u32, cells: Vec<(u32, CellWrite)>) -> bool {
        let bytes: usize = cells.iter().map(|(_, cell)| cell_bytes(cell) + REQUEST_BYTES).sum();
        if !self.budget.take(bytes) {
            return false;
        }
        let mut run: Vec<CellWrite> = Vec::new();
        let mut start = 0;
        for (column, cell) in cells {
            if run.is_empty() || column != start + count(run.len()) {
                self.add_run(row, start, std::mem::take(&mut run));
                start = column;
            }
            run.push(cell);
        }
        self.add_run(row, start, run);
        true
    }

    fn add_run(&mut self, row: u32, column: u32, run: Vec<CellWrite>) {
        if run.is_empty() {
            return;
        }
        let key = (column, run.len());
        if let Some(block) = self.joinable.get(&key).and_then(|at| self.cells.get_mut(*at))
            && block.row + count(block.rows.len()) == row
        {
            block.rows.push(run);
            return;
        }
        self.joinable.insert(key, self.cells.len());
        self.cells.push(Block { row, column, rows: vec![run] });
    }

    /// Appends a row, its cells in layout order. False = the budget is spent and nothing was taken.
    pub fn append(&mut self, cells: Vec<CellWrite>) -> bool {
        let fits = self.budget.take(cells.iter().map(cell_bytes).sum::<usize>() + 20);
        if fits {
            self.inserted.push(cells);
        }
        fits
    }

    /// Removes an existing row. False = the budget is spent.
    pub fn remove(&mut self, row: u32) -> bool {
        let fits = self.budget.take(REQUEST_BYTES / 2);
        if fits {
            self.removed.push(row);
        }
        fits
    }

    pub fn removes_none(&self) -> bool {
        self.removed.is_empty()
    }

    /// The requests, and how many rows were appended and removed. New rows go to `start`.
    pub fn finish(self, plan: &mut TabPlan, prepared: &Prepared, start: u32) {
        let sheet_id = self.sheet_id;
        plan.appended = self.inserted.len();
        plan.removed = self.removed.len();
        plan.rows.extend(self.cells.into_iter().map(|block| Request::WriteCells {
            sheet_id,
            row: block.row,
            column: block.column,
            cells: block.rows,
        }));
        let n_new = count(self.inserted.len());
        // Google deletes neither all rows of a tab nor all rows that are not frozen.
        let n_left = (prepared.row_count + n_new).saturating_sub(count(self.removed.len()));
        let spare = u32::from(!self.removed.is_empty() && n_left <= prepared.frozen_rows.max(1));
        if n_new + spare > 0 {
            // Below the header its look would be inherited; at the grid's end there is nothing else to inherit from.
            let inherit_from_before = start > 1 || start >= prepared.row_count;
            plan.rows.push(Request::InsertRows { sheet_id, start, count: n_new + spare, inherit_from_before });
            plan.rows.extend(new_rows(sheet_id, start, &prepared.columns, self.inserted));
        }
        // Rows are removed last: what stood at or below the inserted rows has moved down by then.
        let n_inserted = n_new + spare;
        let removed = self.removed.into_iter().map(|row| if row >= start { row + n_inserted } else { row }).collect();
        plan.rows.extend(removals(sheet_id, removed));
    }
}

/// One request per run of adjacent columns, with all new rows.
fn new_rows(sheet_id: i32, row: u32, columns: &Columns, rows: Vec<Vec<CellWrite>>) -> Vec<Request> {
    let mut runs: Vec<(u32, Vec<usize>)> = Vec::new();
    for (position, column) in columns.left_to_right() {
        match runs.last_mut() {
            Some((start, positions)) if *start + count(positions.len()) == column => positions.push(position),
            _ => runs.push((column, vec![position])),
        }
    }
    if rows.is_empty() {
        return Vec::new();
    }
    let mut requests: Vec<(u32, Vec<Vec<CellWrite>>)> = runs.iter().map(|(column, _)| (*column, Vec::with_capacity(rows.len()))).collect();
    for mut cells in rows {
        for ((_, positions), (_, block)) in runs.iter().zip(&mut requests) {
            let take = |position: &usize| cells.get_mut(*position).map_or(CellWrite::Empty, |cell| std::mem::replace(cell, CellWrite::Empty));
            block.push(positions.iter().map(take).collect());
        }
    }
    requests.into_iter().map(|(column, cells)| Request::WriteCells { sheet_id, row, column, cells }).collect()
}

/// From the bottom up, adjacent rows in one request.
fn removals(sheet_id: i32, mut rows: Vec<u32>) -> Vec<Request> {
    rows.sort_unstable_by(|a, b| b.cmp(a));
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for row in rows {
        match runs.last_mut() {
            Some((start, n)) if row + 1 == *start => (*start, *n) = (row, *n + 1),
            _ => runs.push((row, 1)),
        }
    }
    runs.into_iter().map(|(start, count)| Request::DeleteRows { sheet_id, start, count }).collect()
}

/// Rows and columns are far below 2^32: Google allows 10 million cells.
pub fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
