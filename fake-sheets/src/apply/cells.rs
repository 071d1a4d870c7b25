//! appendCells, updateCells, repeatCell, setDataValidation: where they write, what they clear, what they refuse.

use std::sync::Arc;

use super::{Editor, Reply, nothing, required, required_mask};
use crate::a1;
use crate::error::Refusal;
use crate::fields::Mask;
use crate::json::{Json, index, int, list, text};
use crate::model::cell::{Cell, CellValue, Look, check_length};
use crate::model::grid::{GridRange, Rect};
use crate::model::sheet::Sheet;

/// Which parts of a cell a request writes; made once per request.
#[derive(Debug)]
pub struct CellWriter {
    value: bool,
    look: Option<Mask>,
    /// The last look made, shared with the next cell if that comes out equal.
    last: Option<Arc<Look>>,
}

const VALUE: [&str; 3] = ["userEnteredValue", "effectiveValue", "formattedValue"];

impl CellWriter {
    /// For a mask of `CellData` fields.
    #[must_use]
    pub fn new(mask: Mask) -> Self {
        let value = mask.wants("userEnteredValue");
        let look = match &mask {
            Mask::All => true,
            Mask::Some(fields) => fields.keys().any(|field| !VALUE.contains(&field.as_str())),
        };
        Self { value, look: look.then_some(mask), last: None }
    }

    /// Writes the masked parts of `data` to a cell; what it does not give is cleared.
    ///
    /// # Errors
    /// The refusal's text for a value that a cell cannot hold.
    pub fn write(&mut self, cell: &mut Cell, data: &Json) -> Result<(), String> {
        if self.value {
            cell.value = match data.get("userEnteredValue") {
                Some(value) => CellValue::from_extended(value)?,
                None => None,
            };
        }
        if let Some(mask) = &self.look {
            let given = ["userEnteredFormat", "dataValidation", "note", "textFormatRuns"].iter().any(|k| data.get(k).is_some());
            if cell.look.is_some() || given {
                let look = written_look(mask, cell.look.as_deref(), data)?;
                cell.look = match (look.shared(), &self.last) {
                    (Some(new), Some(last)) if new == *last => Some(Arc::clone(last)),
                    (new, _) => {
                        self.last.clone_from(&new);
                        new
                    }
                };
            }
        }
        Ok(())
    }
}

fn written_look(mask: &Mask, old: Option<&Look>, data: &Json) -> Result<Look, String> {
    let mut look = old.cloned().unwrap_or_default();
    if let Some(below) = mask.below("userEnteredFormat") {
        let mut format = look.format.take().unwrap_or(Json::Null);
        below.merge(&mut format, data.get("userEnteredFormat").unwrap_or(&Json::Null));
        look.format = Some(format).filter(|f| f.as_object().is_some_and(|o| !o.is_empty()));
    }
    if mask.wants("dataValidation") {
        look.rule = data.get("dataValidation").cloned();
    }
    if mask.wants("note") {
        look.note = text(data, "note").filter(|n| !n.is_empty()).map(str::to_owned);
        check_length(look.note.as_deref().unwrap_or(""))?;
    }
    if mask.wants("textFormatRuns") {
        look.other.remove("textFormatRuns");
        if let Some(runs) = data.get("textFormatRuns") {
            look.other.insert("textFormatRuns".into(), runs.clone());
        }
    }
    Ok(look)
}

/// Writes `rows` of cell data with their first cell at the corner of `rect`; in `clear` form the rest of it is cleared.
fn write_rows(sheet: &mut Sheet, rect: Rect, rows: &[Json], clear: bool, writer: &mut CellWriter) -> Result<(), Refusal> {
    if rows.len() > rect.r1 - rect.r0 {
        let (row, last) = (rect.r1, rect.r1 as i64 - 1);
        return Err(format!("Attempting to write row: {row}, beyond the last requested row of: {last}").into());
    }
    let empty = Json::Null;
    let end = if clear { rect.r1 } else { rect.r0 + rows.len() };
    for row in rect.r0..end {
        let values = rows.get(row - rect.r0).map_or(&[][..], |r| list(r, "values"));
        if values.len() > rect.c1 - rect.c0 {
            let (column, last) = (rect.c1, rect.c1 as i64 - 1);
            return Err(format!("Attempting to write column: {column}, beyond the last requested column of: {last}").into());
        }
        if values.is_empty() && row >= sheet.rows.len() {
            if row - rect.r0 >= rows.len() {
                break;
            }
            continue;
        }
        let stored = sheet.rows.get(row).map_or(0, |r| r.cells.len());
        let last = if clear { rect.c1.min(stored.max(rect.c0 + values.len())) } else { rect.c0 + values.len() };
        for column in rect.c0..last {
            let mut cell = sheet.cell(row, column).clone();
            writer.write(&mut cell, values.get(column - rect.c0).unwrap_or(&empty))?;
            sheet.set(row, column, cell);
        }
    }
    Ok(())
}

/// updateCells, and the cells of a tab that spreadsheets.create makes.
///
/// # Errors
/// A place outside the grid, or a value that a cell cannot hold.
pub fn update(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let mask = required_mask(body, "CellData")?;
    let rows = list(body, "rows");
    let (id, rect, clear) = if let Some(range) = body.get("range") {
        let range = GridRange::read(range)?;
        let sheet = ed.grid(range.sheet)?;
        a1::check_start(sheet, &range)?;
        (range.sheet, sheet.rect(&range), true)
    } else {
        let start = required(body, "start")?;
        let (id, row, column) = (int(start, "sheetId").unwrap_or(0), start_index(start, "rowIndex")?, start_index(start, "columnIndex")?);
        let sheet = ed.grid(id)?;
        check_coordinate("row", row, sheet.row_count)?;
        check_coordinate("column", column, sheet.column_count)?;
        (id, Rect { r0: row, r1: sheet.row_count, c0: column, c1: sheet.column_count }, false)
    };
    let width = rows.iter().map(|row| list(row, "values").len()).max().unwrap_or(0);
    let touched = if clear { rect } else { Rect { r1: rect.r0 + rows.len(), c1: rect.c0 + width, ..rect } };
    ed.guard(&touched.on(id))?;
    write_rows(ed.grid_mut(id)?, rect, rows, clear, &mut CellWriter::new(mask))?;
    Ok(nothing())
}

fn start_index(start: &Json, key: &str) -> Result<usize, Refusal> {
    match int(start, key) {
        Some(n) if n < 0 => Err(format!("GridCoordinate.{key} must be non-negative.").into()),
        _ => Ok(index(start, key).unwrap_or(0)),
    }
}

fn check_coordinate(word: &str, at: usize, count: usize) -> Result<(), Refusal> {
    if at >= count {
        let last = count as i64 - 1;
        return Err(format!("GridCoordinate.{word}Index[{at}] is after last {word} in grid[{last}]").into());
    }
    Ok(())
}

pub(super) fn append(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let mask = required_mask(body, "CellData")?;
    if body.get("tableId").is_some() {
        return Err(Refusal::Missing("appendCells with a tableId".into()));
    }
    let id = int(body, "sheetId").unwrap_or(0);
    let rows = list(body, "rows");
    let sheet = ed.grid(id)?;
    let start = sheet.data_end(ed.behaviour.blank_checkboxes_are_data);
    let (columns, end) = (sheet.column_count, (start + rows.len()).max(sheet.row_count));
    ed.check_size(columns, (end - sheet.row_count) * columns)?;
    let width = rows.iter().map(|row| list(row, "values").len()).max().unwrap_or(0);
    ed.guard(&Rect { r0: start, r1: start + rows.len(), c0: 0, c1: width }.on(id))?;
    let sheet = ed.grid_mut(id)?;
    sheet.row_count = end;
    write_rows(sheet, Rect { r0: start, r1: end, c0: 0, c1: columns }, rows, false, &mut CellWriter::new(mask))?;
    Ok(nothing())
}

pub(super) fn repeat(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let mask = required_mask(body, "CellData")?;
    let range = GridRange::read(required(body, "range")?)?;
    a1::check_start(ed.grid(range.sheet)?, &range)?;
    ed.guard(&range)?;
    let sheet = ed.grid_mut(range.sheet)?;
    let rect = sheet.rect(&range);
    fill(sheet, rect, body.get("cell").unwrap_or(&Json::Null), CellWriter::new(mask))?;
    Ok(nothing())
}

/// Writes the same data to every cell of a rectangle; clears only what is stored.
fn fill(sheet: &mut Sheet, rect: Rect, data: &Json, mut writer: CellWriter) -> Result<(), Refusal> {
    let clears = data.as_object().is_none_or(serde_json::Map::is_empty);
    let end = if clears { rect.r1.min(sheet.rows.len()) } else { rect.r1 };
    let mut memo: Option<[Option<Arc<Look>>; 2]> = None;
    for row in rect.r0..end {
        for column in rect.c0..rect.c1 {
            let mut cell = sheet.cell(row, column).clone();
            match &memo {
                Some([before, after]) if !writer.value && same(before.as_ref(), cell.look.as_ref()) => cell.look.clone_from(after),
                _ => {
                    let before = cell.look.clone();
                    writer.write(&mut cell, data)?;
                    memo = Some([before, cell.look.clone()]);
                }
            }
            sheet.set(row, column, cell);
        }
    }
    Ok(())
}

fn same(a: Option<&Arc<Look>>, b: Option<&Arc<Look>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

pub(super) fn validate(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let range = GridRange::read(required(body, "range")?)?;
    a1::check_start(ed.grid(range.sheet)?, &range)?;
    ed.guard(&range)?;
    let rule = body.get("rule");
    if rule.is_some_and(|rule| rule.pointer("/condition/type").is_none()) {
        return Err("Data validation rule must have a condition type.".into());
    }
    let data = rule.map_or_else(|| serde_json::json!({}), |rule| serde_json::json!({ "dataValidation": rule }));
    let mask = Mask::parse("dataValidation").unwrap_or(Mask::All);
    let sheet = ed.grid_mut(range.sheet)?;
    let rect = sheet.rect(&range);
    fill(sheet, rect, &data, CellWriter::new(mask))?;
    Ok(nothing())
}
