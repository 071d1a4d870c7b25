//! Plans an Active tab: everything in it is Kylo's, a row is known by the normal form of its Source.

use std::collections::{HashMap, VecDeque};

use super::writes::Writes;
use super::{ActiveInput, Budget, Found, TabPlan, setup};
use crate::domain::sheet::CellWrite;
use crate::domain::tab::{ActiveRow, ActiveRule, ActiveView, HeaderError, Role, is_blank, read_active, shows};

/// What makes the tab show the rules, each exactly once. Rows of rules that are not in force are removed; rows without content in the layout's columns stay.
///
/// # Errors
/// [`HeaderError::Missing`] or [`HeaderError::Doubled`]: nothing can be planned.
pub fn plan_active(input: &ActiveInput<'_>, budget: &mut Budget) -> Result<TabPlan, HeaderError> {
    let mut plan = TabPlan::new(Role::Active, input.tab.sheet_id());
    let mut prepared = setup::prepare(Role::Active, input.title, input.tab)?;
    plan.setup = std::mem::take(&mut prepared.requests);
    plan.span = prepared.columns.span();
    let view = match input.tab {
        Found::There(tab) if plan.setup.is_empty() => read_active(tab)?,
        _ => ActiveView { columns: prepared.columns.clone(), rows: Vec::new() },
    };
    // Sources are unique, but two that are cut may look the same: each row takes one of them.
    let mut waiting: HashMap<String, VecDeque<&ActiveRule>> = HashMap::with_capacity(input.rules.len());
    for rule in in_order(input.rules.iter().collect()) {
        waiting.entry(rule.key()).or_default().push_back(rule);
    }
    let mut writes = Writes::new(plan.sheet_id, budget);
    for row in &view.rows {
        let rule = if row.key.is_empty() { None } else { waiting.get_mut(&row.key).and_then(VecDeque::pop_front) };
        let taken = match rule {
            // A note beside the table: nothing of Kylo's is in it.
            None if row.cells.iter().all(is_blank) => true,
            None => writes.remove(row.row),
            Some(rule) => change(&mut writes, &mut plan, &view, row, rule.cells(input.company)),
        };
        if !taken {
            plan.complete = false;
            break;
        }
    }
    if plan.complete {
        let new: Vec<&ActiveRule> = waiting.into_values().flatten().collect();
        plan.complete = in_order(new).into_iter().all(|rule| writes.append(rule.cells(input.company)));
    }
    let start = view.rows.iter().filter(|row| !row.key.is_empty()).map(|row| row.row + 1).max().unwrap_or(1);
    writes.finish(&mut plan, &prepared, start);
    Ok(plan)
}

/// Puts back what differs. False = the budget is spent.
fn change(writes: &mut Writes<'_>, plan: &mut TabPlan, view: &ActiveView, row: &ActiveRow, wanted: Vec<CellWrite>) -> bool {
    let mut differs: HashMap<usize, CellWrite> =
        wanted.into_iter().enumerate().filter(|(position, cell)| !row.cells.get(*position).is_some_and(|seen| shows(seen, cell))).collect();
    if differs.is_empty() {
        return true;
    }
    let cells = view.columns.left_to_right().into_iter().filter_map(|(position, column)| Some((column, differs.remove(&position)?))).collect();
    let taken = writes.change(row.row, cells);
    plan.changed += usize::from(taken);
    taken
}

/// By version, then by source.
fn in_order(mut rules: Vec<&ActiveRule>) -> Vec<&ActiveRule> {
    rules.sort_by(|a, b| (a.ruleset_version, &a.source).cmp(&(b.ruleset_version, &b.source)));
    rules
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::domain::sheet::{ObservedTab, Request, Value};

    fn rule(source: &str) -> ActiveRule {
        ActiveRule {
            source: source.to_owned(),
            target_sheet: "OPEX".to_owned(),
            target_header: "COFFEE".to_owned(),
            match_notes: String::new(),
            ruleset_version: 1,
            effective_at: DateTime::UNIX_EPOCH,
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    fn shown(rule: &ActiveRule) -> Vec<Value> {
        rule.cells("710").into_iter().map(|cell| if let CellWrite::Text(text) = cell { Value::Text(text) } else { Value::Empty }).collect()
    }

    fn planned(rows: Vec<Vec<Value>>, rules: &[ActiveRule]) -> Vec<Request> {
        let header = Role::Active.headers().iter().map(|text| Value::Text((*text).to_owned())).collect();
        let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
        let tab = ObservedTab { sheet_id: 7, title: "A".to_owned(), hidden: false, row_count: 50, column_count: 9, frozen_rows: 1, rows };
        let input = ActiveInput { company: "710", title: "A", tab: Found::There(&tab), rules };
        plan_active(&input, &mut Budget::new(2_000_000)).unwrap().rows
    }

    #[test]
    fn a_row_that_is_removed_from_below_the_new_rows_is_addressed_where_it_stands_after_they_were_inserted() {
        let (old, new) = (rule("OLD"), rule("NEW"));
        let mut without_source = shown(&rule("GONE"));
        without_source[3] = Value::Empty;
        let requests = planned(vec![shown(&old), vec![], without_source], &[old, new]);
        assert!(matches!(requests[0], Request::InsertRows { start: 2, count: 1, .. }), "{requests:?}");
        assert_eq!(requests.last(), Some(&Request::DeleteRows { sheet_id: 7, start: 4, count: 1 }));
    }

    #[test]
    fn a_note_beside_the_table_is_left_alone() {
        let known = rule("OLD");
        let mut note = vec![Value::Empty; 8];
        note.push(Value::Text("ask the bank".to_owned()));
        assert_eq!(planned(vec![shown(&known), note], &[known]), Vec::new());
    }
}
