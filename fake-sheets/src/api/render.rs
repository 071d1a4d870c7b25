//! A spreadsheet as `spreadsheets.get` shows it. Asks the mask before building grid data, so that a read of two columns'
//! values does not build a hundred thousand rows of formats.

use std::collections::HashMap;

use serde_json::{Map, json};

use crate::apply::Who;
use crate::apply::dimensions::default_pixels;
use crate::fields::Mask;
use crate::json::{Json, put};
use crate::model::book::Book;
use crate::model::cell::Cell;
use crate::model::grid::{Dim, GridRange, Rect};
use crate::model::metadata::Place;
use crate::model::sheet::Sheet;

/// What of a spreadsheet is asked for.
#[derive(Debug)]
pub struct View<'a> {
    /// The `fields` mask.
    pub mask: &'a Mask,
    /// Whether grid data may come; the mask decides which.
    pub grid: bool,
    /// Only these cells and their tabs; `None` is everything.
    pub ranges: Option<Vec<GridRange>>,
}

/// The spreadsheet, masked.
#[must_use]
pub fn spreadsheet(book: &Book, view: &View<'_>, who: &Who) -> Json {
    let mut out = book.head();
    if let Some(mask) = view.mask.below("sheets") {
        let mut sheets = Vec::new();
        for (place, sheet) in book.sheets.iter().enumerate() {
            let rects: Vec<Rect> = match &view.ranges {
                None => vec![sheet.rect(&GridRange::all(sheet.id))],
                Some(ranges) => ranges.iter().filter(|r| r.sheet == sheet.id).map(|r| sheet.rect(r)).collect(),
            };
            if !rects.is_empty() {
                let data = mask.below("data").filter(|_| view.grid);
                sheets.push(tab(book, sheet, place, &rects, data, who));
            }
        }
        put(&mut out, "sheets", sheets);
    }
    view.mask.filter(out.into())
}

fn tab(book: &Book, sheet: &Sheet, place: usize, rects: &[Rect], data: Option<&Mask>, who: &Who) -> Json {
    let mut out = Map::new();
    out.insert("properties".into(), sheet.properties(place));
    if let Some(mask) = data {
        let grids: Vec<Json> = rects.iter().map(|rect| grid_data(book, sheet, *rect, mask)).collect();
        out.insert("data".into(), grids.into());
    }
    put(&mut out, "developerMetadata", book.entries_at(Place::Sheet(sheet.id)));
    let can = |p: &crate::model::sheet::Protection| who.owner || p.lets(&who.account);
    put(&mut out, "protectedRanges", sheet.protections.iter().map(|p| p.to_json(can(p))).collect::<Vec<_>>());
    put(&mut out, "merges", sheet.merges.iter().map(GridRange::to_json).collect::<Vec<_>>());
    put(&mut out, "conditionalFormats", sheet.conditional.clone());
    let with_range = |range: &GridRange, rest: &Json| {
        let mut all = rest.clone();
        all["range"] = range.to_json();
        all
    };
    put(&mut out, "bandedRanges", sheet.bands.iter().map(|(_, range, rest)| with_range(range, rest)).collect::<Vec<_>>());
    if let Some((range, rest)) = &sheet.filter {
        out.insert("basicFilter".into(), with_range(range, rest));
    }
    out.into()
}

fn grid_data(book: &Book, sheet: &Sheet, rect: Rect, mask: &Mask) -> Json {
    let mut out = Map::new();
    put(&mut out, "startRow", rect.r0);
    put(&mut out, "startColumn", rect.c0);
    if let Some(mask) = mask.below("rowData") {
        put(&mut out, "rowData", row_data(sheet, rect, mask.below("values")));
    }
    for (key, dim, range) in [("rowMetadata", Dim::Rows, rect.r0..rect.r1), ("columnMetadata", Dim::Columns, rect.c0..rect.c1)] {
        if let Some(mask) = mask.below(key) {
            put(&mut out, key, lines(book, sheet, dim, range, mask));
        }
    }
    out.into()
}

fn row_data(sheet: &Sheet, rect: Rect, mask: Option<&Mask>) -> Vec<Json> {
    let mut rows = Vec::new();
    let mut filled = 0;
    for row in rect.r0..rect.r1.min(sheet.rows.len()) {
        let stored = &sheet.rows[row].cells;
        let end = rect.c1.min(stored.len());
        let cells = stored.get(rect.c0..end).unwrap_or(&[]);
        let last = cells.iter().rposition(|cell| !cell.is_empty()).map_or(0, |i| i + 1);
        if last == 0 {
            rows.push(json!({}));
            continue;
        }
        let values = mask.map(|mask| cells[..last].iter().map(|c| cell_data(c, mask)).collect::<Vec<_>>());
        rows.push(values.map_or_else(|| json!({}), |values| json!({ "values": values })));
        filled = rows.len();
    }
    rows.truncate(filled);
    rows
}

fn cell_data(cell: &Cell, mask: &Mask) -> Json {
    let mut out = Map::new();
    if let Some(value) = &cell.value {
        if mask.wants("userEnteredValue") {
            out.insert("userEnteredValue".into(), value.entered());
        }
        if mask.wants("effectiveValue") {
            out.insert("effectiveValue".into(), value.effective());
        }
        if mask.wants("formattedValue") {
            out.insert("formattedValue".into(), cell.formatted().into());
        }
    }
    let Some(look) = &cell.look else { return out.into() };
    if let Some(format) = &look.format {
        for key in ["userEnteredFormat", "effectiveFormat"] {
            if mask.wants(key) {
                out.insert(key.into(), format.clone());
            }
        }
    }
    if let Some(rule) = look.rule.as_ref().filter(|_| mask.wants("dataValidation")) {
        out.insert("dataValidation".into(), rule.clone());
    }
    if let Some(note) = look.note.as_ref().filter(|_| mask.wants("note")) {
        out.insert("note".into(), note.as_str().into());
    }
    for (key, value) in look.other.iter().filter(|(key, _)| mask.wants(key)) {
        out.insert(key.clone(), value.clone());
    }
    out.into()
}

/// `rowMetadata` or `columnMetadata`: one entry for each line of the range.
fn lines(book: &Book, sheet: &Sheet, dim: Dim, range: std::ops::Range<usize>, mask: &Mask) -> Vec<Json> {
    let mut entries: HashMap<usize, Vec<Json>> = HashMap::new();
    if mask.wants("developerMetadata") {
        for entry in book.metadata.values() {
            if let Place::Line(id, d, at) = entry.place
                && (id, d) == (sheet.id, dim)
            {
                entries.entry(at).or_default().push(entry.to_json());
            }
        }
    }
    range
        .map(|at| {
            let mut line = sheet.dim_props(dim, at).to_json(default_pixels(dim));
            if let Some(found) = entries.remove(&at) {
                line["developerMetadata"] = found.into();
            }
            line
        })
        .collect()
}
