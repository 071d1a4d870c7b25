//! What lies on a grid beside its cells: basic filter, banding, conditional formats, merges. Stored and shown again.

use serde_json::json;

use super::{Editor, Reply, nothing, required};
use crate::a1;
use crate::error::Refusal;
use crate::json::{Json, index, int, list};
use crate::model::grid::GridRange;

/// A message with its `range` read, and without it.
fn split_range(v: &Json) -> Result<(GridRange, Json), Refusal> {
    let range = GridRange::read(required(v, "range")?)?;
    let mut rest = v.clone();
    if let Some(map) = rest.as_object_mut() {
        map.remove("range");
    }
    Ok((range, rest))
}

pub(super) fn set_filter(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let (range, rest) = split_range(required(body, "filter")?)?;
    a1::check_start(ed.grid(range.sheet)?, &range)?;
    ed.grid_mut(range.sheet)?.filter = Some((range, rest));
    Ok(nothing())
}

pub(super) fn clear_filter(ed: &mut Editor<'_>, body: &Json) -> Reply {
    ed.grid_mut(int(body, "sheetId").unwrap_or(0))?.filter = None;
    Ok(nothing())
}

pub(super) fn add_band(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let given = required(body, "bandedRange")?;
    let (range, mut rest) = split_range(given)?;
    let sheet = ed.grid(range.sheet)?;
    let rect = sheet.rect(&range);
    let taken = ed.book.sheets.iter().flat_map(|s| &s.bands);
    let id = int(given, "bandedRangeId").unwrap_or_else(|| i64::from(rand::random::<u32>() >> 1).max(1));
    if taken.clone().any(|(other, ..)| *other == id) {
        return Err(format!("Banded range with id {id} already exists.").into());
    }
    if sheet.bands.iter().any(|(_, other, _)| sheet.rect(other).meets(&rect)) {
        return Err("You cannot add alternating background colors to a range that already has alternating background colors.".into());
    }
    rest["bandedRangeId"] = id.into();
    let mut reply = rest.clone();
    reply["range"] = range.to_json();
    ed.grid_mut(range.sheet)?.bands.push((id, range, rest));
    Ok(reply)
}

pub(super) fn delete_band(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let id = int(body, "bandedRangeId").unwrap_or(0);
    let sheet = ed.book.sheets.iter().find(|s| s.bands.iter().any(|(band, ..)| *band == id)).map(|s| s.id);
    let sheet = sheet.ok_or_else(|| format!("No banded range with id: {id}"))?;
    ed.grid_mut(sheet)?.bands.retain(|(band, ..)| *band != id);
    Ok(nothing())
}

pub(super) fn add_conditional(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let rule = required(body, "rule")?;
    let ranges = list(rule, "ranges").iter().map(GridRange::read).collect::<Result<Vec<_>, _>>()?;
    let first = ranges.first().ok_or("Conditional format rule must have at least one range.")?;
    if ranges.iter().any(|r| r.sheet != first.sheet) {
        return Err("All ranges of a conditional format rule must be on the same sheet.".into());
    }
    let rules = &mut ed.grid_mut(first.sheet)?.conditional;
    let at = index(body, "index").unwrap_or(0);
    if at > rules.len() {
        return Err(format!("No conditional format on sheet: {} at index: {at}", first.sheet).into());
    }
    rules.insert(at, rule.clone());
    Ok(nothing())
}

pub(super) fn delete_conditional(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let (id, at) = (int(body, "sheetId").unwrap_or(0), index(body, "index").unwrap_or(0));
    let rules = &mut ed.grid_mut(id)?.conditional;
    if at >= rules.len() {
        return Err(format!("No conditional format on sheet: {id} at index: {at}").into());
    }
    Ok(rules.remove(at))
}

pub(super) fn merge(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let range = GridRange::read(required(body, "range")?)?;
    a1::check_start(ed.grid(range.sheet)?, &range)?;
    ed.guard(&range)?;
    if crate::json::text(body, "mergeType").is_some_and(|t| t != "MERGE_ALL") {
        return Err(Refusal::Missing("mergeCells other than MERGE_ALL".into()));
    }
    let sheet = ed.grid_mut(range.sheet)?;
    let rect = sheet.rect(&range);
    if sheet.merges.iter().any(|other| sheet.rect(other).meets(&rect) && !rect.holds(&sheet.rect(other))) {
        return Err("You must select all cells in a merged range to merge or unmerge them.".into());
    }
    for row in rect.r0..rect.r1.min(sheet.rows.len()) {
        for column in rect.c0..rect.c1 {
            if (row, column) != (rect.r0, rect.c0) {
                let look = sheet.cell(row, column).look.clone();
                sheet.set(row, column, crate::model::cell::Cell { value: None, look });
            }
        }
    }
    let (rows, columns) = (sheet.row_count, sheet.column_count);
    sheet.merges.retain(|other| !rect.holds(&other.rect(rows, columns)));
    sheet.merges.push(rect.on(range.sheet));
    Ok(nothing())
}

pub(super) fn unmerge(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let range = GridRange::read(required(body, "range")?)?;
    let sheet = ed.grid_mut(range.sheet)?;
    let (rect, rows, columns) = (sheet.rect(&range), sheet.row_count, sheet.column_count);
    sheet.merges.retain(|other| !rect.holds(&other.rect(rows, columns)));
    Ok(json!({}))
}
