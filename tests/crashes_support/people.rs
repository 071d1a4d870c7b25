//! People at work in the tabs during a soak: they approve, type, sort, insert and delete, without looking whether a worker does so too.

use std::collections::BTreeSet;
use std::sync::Mutex;

use fake_sheets::{Edit, Tab};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::world::World;

/// What people did.
#[derive(Debug, Default)]
pub struct People {
    /// Targets that were typed into a row which moved away under the hand: (source of the row, target).
    misplaced: Mutex<BTreeSet<(String, String)>>,
}

/// The only target that anybody means for this source.
pub fn target(source: &str) -> String {
    format!("SHEET {source}")
}

impl People {
    /// One thing that a person does now.
    pub fn act(&self, world: &World, rng: &mut StdRng, company: &str) {
        match rng.random_range(0..10) {
            0..6 => self.approve(world, rng, company),
            6 => edit(world, company, &[sort(world, company, "A", rng.random())]),
            7 => edit(world, company, &[sort(world, company, "B", rng.random())]),
            _ => edit(world, company, &moving(world, rng, company)),
        }
    }

    /// Fills in the target of some row and ticks it, all at once.
    fn approve(&self, world: &World, rng: &mut StdRng, company: &str) {
        let Some(row) = world.pending(company).choose(rng).cloned() else { return };
        let source = row.shown("Source").to_owned();
        let tab = Tab::from(world.place(company).pending.as_str());
        let cells = [("Target_Sheet", target(&source)), ("Target_Header", "COLUMN".to_owned()), ("Approved", "TRUE".to_owned())];
        let set = |(header, typed): (&str, String)| Edit::SetCell { tab: tab.clone(), cell: world.cell(company, row.at, header), typed };
        edit(world, company, &cells.map(set));
        // The row may have moved away between the look and the typing: then another one has got what was meant for it.
        for now in world.pending(company).iter().filter(|now| now.shown("Target_Sheet") == target(&source) && now.shown("Source") != source) {
            self.misplaced.lock().unwrap().insert((now.shown("Source").to_owned(), target(&source)));
        }
    }

    /// In the end somebody tidies up: what was typed beside the rows, into none of them, is deleted.
    pub fn tidy_up(&self, world: &World, company: &str) {
        let tab = Tab::from(world.place(company).pending.as_str());
        let strays = world.pending(company).into_iter().rev().filter(|row| row.shown("Txn_UID").is_empty());
        let deleted: Vec<Edit> = strays.map(|row| Edit::DeleteRows { tab: tab.clone(), at: row.at, count: 1 }).collect();
        edit(world, company, &deleted);
    }

    /// Rules that nobody meant.
    pub async fn audit(&self, world: &World, company: &str) -> Vec<String> {
        let rules = world.texts(company, "SELECT source || '|' || target_sheet FROM rules_active").await;
        let misplaced = self.misplaced.lock().unwrap().clone();
        let is_meant = |rule: &String| {
            let (source, sheet) = rule.split_once('|').unwrap();
            sheet == target(source) || misplaced.contains(&(source.to_owned(), sheet.to_owned()))
        };
        rules.into_iter().filter(|rule| !is_meant(rule)).map(|rule| format!("{company}: nobody approved {rule} (I7)")).collect()
    }
}

/// What people do that moves rows.
pub fn moving(world: &World, rng: &mut StdRng, company: &str) -> Vec<Edit> {
    let tab = Tab::from(world.place(company).pending.as_str());
    let rows = world.pending(company).len();
    if rows == 0 {
        return Vec::new();
    }
    let at = rng.random_range(1..=rows);
    match rng.random_range(0..4) {
        0 => vec![Edit::InsertRows { tab, at, count: rng.random_range(1..4) }],
        1 => vec![Edit::DeleteRows { tab, at, count: 1 }],
        2 => vec![Edit::MoveRows { tab, at, count: 1, to: 1 }],
        _ => vec![sort(world, company, "A", rng.random())],
    }
}

/// Sorts by Source; from column B on it leaves the keys behind.
fn sort(world: &World, company: &str, from: &str, descending: bool) -> Edit {
    let tab = Tab::from(world.place(company).pending.as_str());
    let last = world.pending(company).len() + 1;
    Edit::SortRange { tab, range: format!("{from}2:J{}", last.max(2)), by: "C".to_owned(), descending }
}

/// An edit that the spreadsheet does not take any more (the tab is not there yet, the row is gone) is a person's bad luck.
fn edit(world: &World, company: &str, edits: &[Edit]) {
    let _ = world.model().edit(&world.place(company).spreadsheet, edits);
}
