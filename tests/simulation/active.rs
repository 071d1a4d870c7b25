//! The planner of the Active tab alone: whatever people have made of the tab, one plan makes it show the rules, each once, and touches no note.

use kylo::domain::plan::{ActiveInput, Budget, Found, plan_active};
use kylo::domain::sheet::{CellWrite, Request, Value};
use kylo::domain::tab::{ActiveRule, Role, read_active};

use super::dice::Dice;
use super::replay::seeds;
use crate::post_support::book::{Book, Grid};

const COLUMNS: usize = 11;

fn rule(dice: &Dice, n: usize) -> ActiveRule {
    let time = chrono::DateTime::from_timestamp(1_756_209_600, 0).unwrap();
    ActiveRule {
        source: format!("=Source {n}"),
        target_sheet: format!("S{}", dice.below(3)),
        target_header: "H".to_owned(),
        match_notes: if dice.one_in(2) { String::new() } else { "note".to_owned() },
        ruleset_version: i32::try_from(dice.below(4)).unwrap(),
        effective_at: time,
        created_at: time,
    }
}

fn shown(rule: &ActiveRule) -> Vec<Value> {
    let cells = rule.cells("710").into_iter();
    cells.map(|cell| if let CellWrite::Text(text) = cell { Value::Text(text) } else { Value::Empty }).collect()
}

/// A tab with moved columns, rules in force and gone, spoiled, doubled, empty rows, and notes beside the table.
fn tab(dice: &Dice, rules: &[ActiveRule]) -> Grid {
    let mut order: Vec<usize> = (0..COLUMNS).collect();
    for at in 0..COLUMNS {
        order.swap(at, dice.below(COLUMNS));
    }
    let n_rows = 4 + dice.below(20);
    let mut grid = Grid::new(7, "Active", n_rows, COLUMNS);
    grid.frozen_rows = 1;
    let mut put = |row: usize, cells: Vec<Value>| {
        for (position, cell) in cells.into_iter().enumerate() {
            grid.rows[row][order[position]] = cell;
        }
    };
    put(0, Role::Active.headers().iter().map(|header| Value::Text((*header).to_owned())).collect());
    for row in 1..n_rows {
        let mut cells = match dice.below(6) {
            0 | 1 if !rules.is_empty() => shown(dice.pick(rules)),
            2 => shown(&rule(dice, 50 + dice.below(5))),
            3 => {
                put(row, vec![Value::Empty; 8].into_iter().chain([Value::Text(format!("note {row}"))]).collect());
                continue;
            }
            _ => continue,
        };
        if dice.one_in(3) {
            cells[dice.below(8)] =
                dice.pick(&[Value::Empty, Value::Text("edited".to_owned()), Value::Number(7.0), Value::Formula("=1".to_owned())]).clone();
        }
        put(row, cells);
    }
    grid
}

fn plan(grid: &Grid, rules: &[ActiveRule], budget: usize) -> (Vec<Request>, bool) {
    let tab = grid.observe();
    let input = ActiveInput { company: "710", title: "Active", tab: Found::There(&tab), rules };
    let plan = plan_active(&input, &mut Budget::new(budget)).unwrap();
    assert!(plan.setup.is_empty());
    (plan.rows, plan.complete)
}

async fn one(seed: u64) -> Result<(), String> {
    let dice = Dice::new(seed);
    let rules: Vec<ActiveRule> = (0..dice.below(6)).map(|n| rule(&dice, n)).collect();
    let grid = tab(&dice, &rules);
    let notes = |grid: &Grid| grid.rows.iter().flatten().filter(|cell| matches!(cell, Value::Text(text) if text.starts_with("note "))).count();
    let n_notes = notes(&grid);
    let mut book = Book { grids: vec![Grid::new(0, "Sheet1", 5, 5), grid], metadata: Vec::new() };
    let budget = if dice.one_in(3) { 1_500 } else { 2_000_000 };
    for _ in 0..30 {
        let (requests, complete) = plan(book.grid("Active"), &rules, budget);
        book.apply(&requests)?;
        if complete {
            break;
        }
    }
    let view = read_active(&book.grid("Active").observe()).map_err(|error| error.to_string())?;
    let mut seen: Vec<Vec<Value>> = view.rows.iter().filter(|row| !row.key.is_empty()).map(|row| row.cells.clone()).collect();
    let mut wanted: Vec<Vec<Value>> = rules.iter().map(shown).collect();
    seen.sort_by_key(|cells| format!("{cells:?}"));
    wanted.sort_by_key(|cells| format!("{cells:?}"));
    let blank = |rows: Vec<Vec<Value>>| format!("{rows:?}").replace("Text(\"\")", "Empty");
    if blank(seen.clone()) != blank(wanted.clone()) {
        return Err(format!("{seen:?} instead of {wanted:?}"));
    }
    // A note in the row of a rule that is gone goes with it.
    if notes(book.grid("Active")) != n_notes {
        return Err("a note is gone".to_owned());
    }
    let (rest, _) = plan(book.grid("Active"), &rules, 2_000_000);
    if rest.is_empty() { Ok(()) } else { Err(format!("a second plan is not empty: {rest:?}")) }
}

#[test]
fn any_active_tab_becomes_the_rules_each_once_and_notes_stay() {
    seeds("any_active_tab", 5_000, one);
}
