//! People at their spreadsheet: they type, tick, sort, insert, delete and spoil what is Kylo's, at any moment.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use kylo::domain::company::CONTROL_TAB;
use kylo::domain::sheet::Value;
use kylo::domain::tab::{self, RowKey};

use super::dice::Dice;
use super::tables::{Tables, texts};
use crate::post_support::book::{Book, Grid};

const PEOPLES: [&str; 3] = ["Target_Sheet", "Target_Header", "Match_Notes"];
const MACHINES: [&str; 5] = ["Date", "Source", "Company_ID", "Amount", "Status"];

#[derive(Debug, Default)]
pub struct People {
    n_typed: usize,
    /// Texts that a person has typed over or deleted: nobody need keep them.
    pub taken_back: BTreeSet<String>,
    /// To know what comes back with a row that a person deletes.
    pub tables: Arc<Mutex<Tables>>,
    pub n_edits: usize,
    /// Whether anybody may sort without the key column; then a text can stand beside another transaction than the one it was read with.
    pub sort_apart: bool,
    has_sorted_apart: bool,
}

impl People {
    /// One edit of one tab, if there is anything to edit.
    pub fn edit(&mut self, book: &mut Book, dice: &Dice) {
        self.n_edits += 1;
        if dice.one_in(40) {
            // The batch that was planned upon it is refused, and the next one makes it again.
            book.grids.retain(|grid| grid.title != CONTROL_TAB);
            return;
        }
        let mut tabs: Vec<&mut Grid> =
            book.grids.iter_mut().filter(|grid| grid.title.ends_with("Pending") || grid.title.ends_with("Active")).collect();
        if tabs.is_empty() {
            return;
        }
        let at = dice.below(tabs.len());
        let grid = &mut *tabs[at];
        if grid.title.ends_with("Pending") { self.edit_pending(grid, dice) } else { edit_active(grid, dice) }
    }

    fn edit_pending(&mut self, grid: &mut Grid, dice: &Dice) {
        let filled = grid.filled();
        if filled.is_empty() {
            return;
        }
        let row = *dice.pick(&filled);
        match dice.below(14) {
            0..=4 => self.type_in(grid, row, dice),
            5 | 6 => grid.set(row, "Approved", Value::Bool(true)),
            7 => grid.set(row, dice.word(&MACHINES), Value::Text("edited".to_owned())),
            8 | 9 => {
                let at = 1 + dice.below(grid.rows.len());
                grid.insert(at, 1, true).unwrap();
            }
            10 | 11 => self.delete(grid, row),
            12 => grid.sort(dice.word(&["Source", "Target_Sheet", "Amount"]), 0),
            _ => {
                self.has_sorted_apart |= self.sort_apart;
                grid.sort(dice.word(&["Source", "Target_Sheet", "Amount"]), usize::from(self.sort_apart));
            }
        }
    }

    fn type_in(&mut self, grid: &mut Grid, row: usize, dice: &Dice) {
        let header = dice.word(&PEOPLES);
        self.taken_back.insert(grid.text(row, header));
        self.n_typed += 1;
        grid.set(row, header, Value::Text(format!("typed {}", self.n_typed)));
    }

    /// One row of a Pending tab, as its title and number.
    pub fn type_somewhere(&mut self, book: &mut Book, dice: &Dice) -> Option<(String, usize)> {
        let mut tabs: Vec<&mut Grid> = book.grids.iter_mut().filter(|grid| grid.title.ends_with("Pending") && !grid.filled().is_empty()).collect();
        if tabs.is_empty() {
            return None;
        }
        let at = dice.below(tabs.len());
        let row = *dice.pick(&tabs[at].filled());
        self.type_in(tabs[at], row, dice);
        Some((tabs[at].title.clone(), row))
    }

    /// The row goes, or all but the key column is sorted.
    pub fn move_away(&mut self, grid: &mut Grid, row: usize, dice: &Dice) {
        if dice.one_in(2) || !self.sort_apart {
            return self.delete(grid, row);
        }
        self.has_sorted_apart = true;
        grid.sort("Target_Sheet", 1);
    }

    /// What stood in a deleted row comes back only as far as Kylo has read it under that row's key.
    fn delete(&mut self, grid: &mut Grid, row: usize) {
        if grid.rows.len() <= 2 {
            return;
        }
        let view = tab::read_pending(&grid.observe()).unwrap();
        if let Some(found) = view.rows.iter().find(|found| found.row as usize == row) {
            let is_alone = view.rows.iter().filter(|other| other.key == found.key).count() == 1;
            let tables = self.tables.lock().unwrap();
            let comes_back = |text: &String| match found.key {
                RowKey::Uid(uid) if is_alone && !self.has_sorted_apart => tables.ever_typed.contains(&(uid, text.clone())),
                _ => false,
            };
            self.taken_back.extend(texts(&found.typed).filter(|text| !comes_back(text)));
        }
        grid.delete(row, 1).unwrap();
    }
}

fn edit_active(grid: &mut Grid, dice: &Dice) {
    let filled = grid.filled();
    if filled.is_empty() {
        return;
    }
    let row = *dice.pick(&filled);
    match dice.below(4) {
        0 => grid.set(row, dice.word(&["Target_Sheet", "Effective_At", "Source"]), Value::Text("edited".to_owned())),
        1 if grid.rows.len() > 2 => grid.delete(row, 1).unwrap(),
        2 => grid.insert(1 + dice.below(grid.rows.len()), 1, true).unwrap(),
        _ => grid.sort("Source", 0),
    }
}
