//! Reading `values`: rendering, trimming, majorDimension. Shared by the reads and by the answers of writes.

use serde_json::{Map, json};

use super::Call;
use super::filters::Filter;
use crate::a1;
use crate::error::ApiError;
use crate::json::{Json, list, text};
use crate::model::book::Book;
use crate::model::cell::Cell;
use crate::model::grid::Rect;
use crate::model::sheet::Sheet;

/// How values are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Render {
    /// As on the screen.
    Formatted,
    /// As stored.
    Plain,
    /// As stored, formulas as formulas.
    Formula,
}

/// What a call asks about the shape of its answer.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Rendering.
    pub render: Render,
    /// Dates as text where numbers are not formatted.
    pub dates_as_text: bool,
    /// Inner lists are columns.
    pub columns: bool,
}

impl Shape {
    /// From the three options' names.
    ///
    /// # Errors
    /// 400 for a name that does not exist.
    pub fn read(render: Option<&str>, dates: Option<&str>, major: Option<&str>) -> Result<Self, ApiError> {
        let bad = |what: &str, name: &str| ApiError::invalid(format!("Invalid value at '{what}': {name}"));
        let render = match render.unwrap_or("FORMATTED_VALUE") {
            "FORMATTED_VALUE" => Render::Formatted,
            "UNFORMATTED_VALUE" => Render::Plain,
            "FORMULA" => Render::Formula,
            other => return Err(bad("value_render_option", other)),
        };
        let dates_as_text = match dates.unwrap_or("SERIAL_NUMBER") {
            "SERIAL_NUMBER" => false,
            "FORMATTED_STRING" => true,
            other => return Err(bad("date_time_render_option", other)),
        };
        Ok(Self { render, dates_as_text, columns: is_columns(major)? })
    }
}

/// Whether a majorDimension is COLUMNS.
///
/// # Errors
/// 400 for a name that does not exist.
pub fn is_columns(major: Option<&str>) -> Result<bool, ApiError> {
    match major.unwrap_or("ROWS") {
        "ROWS" | "DIMENSION_UNSPECIFIED" => Ok(false),
        "COLUMNS" => Ok(true),
        other => Err(ApiError::invalid(format!("Invalid value at 'major_dimension': {other}"))),
    }
}

fn shown(cell: &Cell, shape: Shape) -> Json {
    let Some(value) = &cell.value else { return "".into() };
    if shape.dates_as_text && shape.render != Render::Formatted {
        let kind = cell.look.as_ref().and_then(|l| l.format.as_ref()).and_then(|f| f.pointer("/numberFormat/type"));
        if matches!(kind.and_then(Json::as_str), Some("DATE" | "TIME" | "DATE_TIME")) {
            return cell.formatted().into();
        }
    }
    match shape.render {
        Render::Formatted => cell.formatted().into(),
        Render::Plain => value.plain(),
        Render::Formula => value.source(),
    }
}

/// A `ValueRange`: trailing blanks left out, `values` absent where there are none.
#[must_use]
pub fn value_range(sheet: &Sheet, rect: Rect, shape: Shape) -> Json {
    let mut out = Map::new();
    out.insert("range".into(), a1::show_rect(sheet, rect).into());
    out.insert("majorDimension".into(), if shape.columns { "COLUMNS" } else { "ROWS" }.into());
    let (outer, inner) = if shape.columns { (rect.c0..rect.c1, rect.r0..rect.r1) } else { (rect.r0..rect.r1, rect.c0..rect.c1) };
    let at = |o: usize, i: usize| if shape.columns { sheet.cell(i, o) } else { sheet.cell(o, i) };
    let stored_rows = sheet.rows.len();
    let mut lines: Vec<Json> = Vec::new();
    let mut filled = 0;
    for o in outer {
        if !shape.columns && o >= stored_rows {
            break;
        }
        let end = if shape.columns { inner.end.min(stored_rows) } else { inner.end.min(sheet.rows[o].cells.len()) };
        let last = (inner.start..end).rev().find(|i| at(o, *i).has_data()).map_or(inner.start, |i| i + 1);
        let line: Vec<Json> = (inner.start..last).map(|i| shown(at(o, i), shape)).collect();
        let empty = line.is_empty();
        lines.push(line.into());
        if !empty {
            filled = lines.len();
        }
    }
    lines.truncate(filled);
    if !lines.is_empty() {
        out.insert("values".into(), lines.into());
    }
    out.into()
}

/// values.get.
///
/// # Errors
/// 400 for a range that is none.
pub fn get(book: &Book, call: &Call) -> Result<Json, ApiError> {
    let shape = query_shape(call)?;
    let (sheet, rect) = a1::resolve(book, call.range()).map_err(ApiError::invalid)?;
    Ok(value_range(sheet, rect, shape))
}

fn query_shape(call: &Call) -> Result<Shape, ApiError> {
    Shape::read(call.query("valueRenderOption"), call.query("dateTimeRenderOption"), call.query("majorDimension"))
}

/// values.batchGet.
///
/// # Errors
/// 400 for a range that is none.
pub fn batch_get(book: &Book, call: &Call) -> Result<Json, ApiError> {
    let shape = query_shape(call)?;
    let mut ranges = Vec::new();
    for range in call.queries("ranges") {
        let (sheet, rect) = a1::resolve(book, range).map_err(ApiError::invalid)?;
        ranges.push(value_range(sheet, rect, shape));
    }
    let mut out = json!({"spreadsheetId": book.id});
    if !ranges.is_empty() {
        out["valueRanges"] = ranges.into();
    }
    Ok(out)
}

/// values.batchGetByDataFilter.
///
/// # Errors
/// 400 for a filter that is none.
pub fn batch_get_by_filter(book: &Book, call: &Call) -> Result<Json, ApiError> {
    let body = &call.body;
    let option = |key| text(body, key).filter(|name| !name.ends_with("_UNSPECIFIED"));
    let shape = Shape::read(option("valueRenderOption"), option("dateTimeRenderOption"), option("majorDimension"))?;
    let mut out = Vec::new();
    for given in list(body, "dataFilters") {
        let filter = Filter::read(book, given).map_err(ApiError::invalid)?;
        for range in filter.ranges(book) {
            let (sheet, rect) = a1::on_grid(book, &range).map_err(ApiError::invalid)?;
            out.push(json!({"valueRange": value_range(sheet, rect, shape), "dataFilters": [given]}));
        }
    }
    Ok(json!({"spreadsheetId": book.id, "valueRanges": out}))
}
