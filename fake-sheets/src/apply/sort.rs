//! sortRange: rows change places inside the range, blanks last, ties in their old order.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{Editor, Reply, nothing, required};
use crate::a1;
use crate::error::Refusal;
use crate::json::{Json, index, list, text};
use crate::model::cell::{Cell, CellValue};
use crate::model::grid::{Dim, GridRange, Rect};
use crate::model::sheet::Sheet;

pub(super) fn sort_range(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let range = GridRange::read(required(body, "range")?)?;
    a1::check_start(ed.grid(range.sheet)?, &range)?;
    ed.guard(&range)?;
    let mut specs = Vec::new();
    for spec in list(body, "sortSpecs") {
        if spec.get("dataSourceColumnReference").is_some() {
            return Err(Refusal::Missing("sorting a data source".into()));
        }
        specs.push((index(spec, "dimensionIndex").unwrap_or(0), text(spec, "sortOrder") == Some("DESCENDING")));
    }
    let sheet = ed.grid(range.sheet)?;
    let rect = sheet.rect(&range);
    if specs.is_empty() {
        specs.push((rect.c0, false));
    }
    if let Some((column, _)) = specs.iter().find(|(c, _)| !(rect.c0..rect.c1).contains(c)) {
        return Err(format!("The sort column {column} is outside the range.").into());
    }
    let order = sorted(sheet, rect, &specs);
    let to: Vec<usize> = {
        let mut to = vec![0; order.len()];
        order.iter().enumerate().for_each(|(new, old)| to[old - rect.r0] = rect.r0 + new);
        to
    };
    rearrange(ed.grid_mut(range.sheet)?, rect, &order);
    ed.book.move_lines(range.sheet, Dim::Rows, |at| Some(at.checked_sub(rect.r0).and_then(|i| to.get(i)).copied().unwrap_or(at)));
    Ok(nothing())
}

/// The old row numbers in their new order; rows below the last stored one stay where they are.
fn sorted(sheet: &Sheet, rect: Rect, specs: &[(usize, bool)]) -> Vec<usize> {
    let mut order: Vec<usize> = (rect.r0..rect.r1.min(sheet.rows.len()).max(rect.r0)).collect();
    order.sort_by(|a, b| {
        specs.iter().fold(Ordering::Equal, |so_far, (column, descending)| {
            so_far.then_with(|| compare(sheet.cell(*a, *column), sheet.cell(*b, *column), *descending))
        })
    });
    order
}

fn rank(value: &CellValue) -> u8 {
    match value {
        CellValue::Number(_) => 0,
        CellValue::Text(_) => 1,
        CellValue::Bool(_) => 2,
        CellValue::Formula(_) => 3,
    }
}

fn compare(a: &Cell, b: &Cell, descending: bool) -> Ordering {
    let filled = |cell: &'_ Cell| cell.has_data();
    let (Some(x), Some(y)) = (a.value.as_ref().filter(|_| filled(a)), b.value.as_ref().filter(|_| filled(b))) else {
        return filled(b).cmp(&filled(a));
    };
    let order = match (x, y) {
        (CellValue::Number(x), CellValue::Number(y)) => x.total_cmp(y),
        (CellValue::Bool(x), CellValue::Bool(y)) => x.cmp(y),
        (CellValue::Text(x) | CellValue::Formula(x), CellValue::Text(y) | CellValue::Formula(y)) if rank_same(a, b) => {
            x.to_lowercase().cmp(&y.to_lowercase()).then_with(|| x.cmp(y))
        }
        _ => rank(x).cmp(&rank(y)),
    };
    if descending { order.reverse() } else { order }
}

fn rank_same(a: &Cell, b: &Cell) -> bool {
    a.value.as_ref().map(rank) == b.value.as_ref().map(rank)
}

/// Takes the cells of the rectangle along; whole rows change places without being copied.
fn rearrange(sheet: &mut Sheet, rect: Rect, order: &[usize]) {
    let rows: Vec<_> = order.iter().map(|old| Arc::clone(&sheet.rows[*old])).collect();
    for (new, row) in rows.into_iter().enumerate() {
        let at = rect.r0 + new;
        if order[new] == at {
            continue;
        }
        let whole = rect.c0 == 0 && row.cells.len().max(sheet.rows[at].cells.len()) <= rect.c1;
        if whole && row.props == sheet.rows[at].props {
            sheet.rows[at] = row;
            continue;
        }
        let width = row.cells.len().max(sheet.rows[at].cells.len()).min(rect.c1);
        for column in rect.c0..width {
            sheet.set(at, column, row.cells.get(column).cloned().unwrap_or_default());
        }
    }
}
