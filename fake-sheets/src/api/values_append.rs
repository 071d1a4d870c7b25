//! values.append: finds the table in or around the range and writes below it. A table is a block of data with nothing
//! but blanks around it; of several that the range touches the last one counts.

use serde_json::json;

use super::Call;
use super::values_write::{Input, Wish, put_rows, rows_of};
use crate::a1;
use crate::apply::Editor;
use crate::error::ApiError;
use crate::json::Json;
use crate::model::grid::{Dim, GridRange, Rect, Shift};
use crate::model::sheet::Sheet;

/// values.append.
///
/// # Errors
/// 400 for a range that is none, or rows that do not fit the columns.
pub fn append(ed: &mut Editor<'_>, call: &Call) -> Result<Json, ApiError> {
    let (input, wish) = (Input::read(call.query("valueInputOption"))?, Wish::from_query(call)?);
    let insert = match call.query("insertDataOption").unwrap_or("OVERWRITE") {
        "OVERWRITE" => false,
        "INSERT_ROWS" => true,
        other => return Err(ApiError::invalid(format!("Invalid value at 'insert_data_option': {other}"))),
    };
    let rows = rows_of(&call.body)?;
    let range = a1::parse(&ed.book, call.range()).map_err(ApiError::invalid)?;
    let (sheet, rect) = a1::on_grid(&ed.book, &range).map_err(ApiError::invalid)?;
    let table = tables(sheet).into_iter().filter(|t| t.meets(&rect)).max_by_key(|t| (t.r1, t.c0));
    let (row, column) = table.map_or((rect.r0, rect.c0), |t| (t.r1, t.c0));
    let table_range = table.map(|t| a1::show_rect(sheet, t));
    make_room(ed, range.sheet, row, rows.len(), insert).map_err(ApiError::invalid)?;
    let Some(sheet) = ed.book.sheet(range.sheet) else { return Err(ApiError::not_found()) };
    let place = Rect { r0: row, r1: sheet.row_count, c0: column, c1: sheet.column_count };
    let target = GridRange { r0: Some(row), r1: Some(row + 1), c0: Some(column), c1: Some(column + 1), sheet: range.sheet };
    let updates = put_rows(ed, &target, place, &rows, input, wish).map_err(ApiError::invalid)?;
    let mut out = json!({"spreadsheetId": ed.book.id, "updates": updates});
    if let Some(table_range) = table_range {
        out["tableRange"] = table_range.into();
    }
    Ok(out)
}

/// Inserts rows, or adds what is missing at the end of the grid.
fn make_room(ed: &mut Editor<'_>, id: i64, row: usize, n: usize, insert: bool) -> Result<(), String> {
    let Some(sheet) = ed.book.sheet(id) else { return Ok(()) };
    let missing = if insert { n } else { (row + n).saturating_sub(sheet.row_count) };
    let limit = ed.behaviour.max_cells;
    if missing > 0 && ed.book.cells().saturating_add(missing * sheet.column_count) > limit {
        return Err(format!("This action would increase the number of cells in the workbook above the limit of {limit} cells."));
    }
    if insert && row < sheet.row_count {
        ed.book.shift(id, Dim::Rows, Shift::Insert { at: row, n });
    } else if let Some(sheet) = ed.book.sheet_mut(id) {
        sheet.row_count += missing;
    }
    Ok(())
}

/// The blocks of data of a tab: what touches, corners included, belongs together.
fn tables(sheet: &Sheet) -> Vec<Rect> {
    let mut done: Vec<Rect> = Vec::new();
    let mut open: Vec<Rect> = Vec::new();
    for (r, row) in sheet.rows.iter().enumerate() {
        let mut runs: Vec<Rect> = Vec::new();
        for (c, _) in row.cells.iter().enumerate().filter(|(_, cell)| cell.has_data()) {
            match runs.last_mut().filter(|run| run.c1 == c) {
                Some(run) => run.c1 = c + 1,
                None => runs.push(Rect { r0: r, r1: r + 1, c0: c, c1: c + 1 }),
            }
        }
        for run in runs {
            let mut joined = run;
            // A block that grows may reach another one, so look again until nothing more joins.
            while let Some(at) = open.iter().position(|block| touch(block, &joined)) {
                joined = union(&open.swap_remove(at), &joined);
            }
            open.push(joined);
        }
        let (ended, going): (Vec<_>, Vec<_>) = open.into_iter().partition(|block| block.r1 < r);
        done.extend(ended);
        open = going;
    }
    done.extend(open);
    done
}

fn touch(a: &Rect, b: &Rect) -> bool {
    a.r0 <= b.r1 && b.r0 <= a.r1 && a.c0 <= b.c1 && b.c0 <= a.c1
}

fn union(a: &Rect, b: &Rect) -> Rect {
    Rect { r0: a.r0.min(b.r0), r1: a.r1.max(b.r1), c0: a.c0.min(b.c0), c1: a.c1.max(b.c1) }
}
