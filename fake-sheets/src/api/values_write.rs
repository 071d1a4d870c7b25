//! values.update, batchUpdate and clear with their forms by data filter. (append is next door.)

use std::collections::BTreeSet;

use serde_json::{Map, json};

use super::Call;
use super::filters::Filter;
use super::values::{Shape, is_columns, value_range};
use crate::a1;
use crate::apply::Editor;
use crate::error::ApiError;
use crate::json::{Json, flag, list, text};
use crate::model::cell::{Cell, CellValue, Look, check_length};
use crate::model::format;
use crate::model::grid::{GridRange, Rect};

/// How input is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Stored as it is.
    Raw,
    /// Read as if typed.
    Typed,
}

impl Input {
    /// From the option's name.
    ///
    /// # Errors
    /// 400 where it is missing.
    pub fn read(name: Option<&str>) -> Result<Self, ApiError> {
        match name {
            Some("RAW") => Ok(Self::Raw),
            Some("USER_ENTERED") => Ok(Self::Typed),
            None | Some("INPUT_VALUE_OPTION_UNSPECIFIED") => Err(ApiError::invalid("'valueInputOption' is required but not specified")),
            Some(other) => Err(ApiError::invalid(format!("Invalid value at 'value_input_option': {other}"))),
        }
    }
}

/// What a write answers with, if asked to answer with values.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// `includeValuesInResponse`.
    pub values: bool,
    /// Their shape.
    pub shape: Shape,
}

impl Wish {
    /// From the query of a single write.
    ///
    /// # Errors
    /// 400 for an option that does not exist.
    pub fn from_query(call: &Call) -> Result<Self, ApiError> {
        let shape = Shape::read(call.query("responseValueRenderOption"), call.query("responseDateTimeRenderOption"), None)?;
        Ok(Self { values: call.query("includeValuesInResponse") == Some("true"), shape })
    }

    fn from_body(body: &Json) -> Result<Self, ApiError> {
        let shape = Shape::read(text(body, "responseValueRenderOption"), text(body, "responseDateTimeRenderOption"), None)?;
        Ok(Self { values: flag(body, "includeValuesInResponse"), shape })
    }
}

/// The rows of a `ValueRange`, whatever its major dimension.
///
/// # Errors
/// 400 for values that are no lists.
pub fn rows_of(body: &Json) -> Result<Vec<Vec<Json>>, ApiError> {
    let lines: Vec<Vec<Json>> = list(body, "values").iter().map(|line| line.as_array().cloned().unwrap_or_default()).collect();
    if !is_columns(text(body, "majorDimension"))? {
        return Ok(lines);
    }
    let height = lines.iter().map(Vec::len).max().unwrap_or(0);
    Ok((0..height).map(|r| lines.iter().map(|line| line.get(r).cloned().unwrap_or(Json::Null)).collect()).collect())
}

/// Puts rows with their corner at `rect`'s, which must hold them, and answers an `UpdateValuesResponse`.
///
/// # Errors
/// The refusal's text.
pub fn put_rows(
    ed: &mut Editor<'_>,
    range: &GridRange,
    rect: Rect,
    rows: &[Vec<Json>],
    input: Input,
    wish: Wish,
) -> Result<Map<String, Json>, String> {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let title = ed.book.sheet(range.sheet).map(|s| s.title.clone()).unwrap_or_default();
    if rows.len() > rect.r1 - rect.r0 {
        let row = rect.r1 + 1;
        return Err(format!("Requested writing within range [{}], but tried writing to row [{row}]", quoted_show(&title, range)));
    }
    if width > rect.c1 - rect.c0 {
        let column = a1::letters(rect.c1);
        return Err(format!("Requested writing within range [{}], but tried writing to column [{column}]", quoted_show(&title, range)));
    }
    let written = Rect { r0: rect.r0, r1: rect.r0 + rows.len(), c0: rect.c0, c1: rect.c0 + width };
    ed.guard(&written.on(range.sheet)).map_err(|refusal| refusal.at("").message)?;
    let sheet = ed.book.sheet_mut(range.sheet).ok_or("No grid")?;
    let mut cells = 0;
    for (r, row) in rows.iter().enumerate() {
        for (c, value) in row.iter().enumerate().filter(|(_, value)| !value.is_null()) {
            let (at_row, at_column) = (rect.r0 + r, rect.c0 + c);
            let cell = entered(sheet.cell(at_row, at_column), value, input)?;
            sheet.set(at_row, at_column, cell);
            cells += 1;
        }
    }
    let mut out = Map::new();
    out.insert("spreadsheetId".into(), ed.book.id.as_str().into());
    let Some(sheet) = ed.book.sheet(range.sheet) else { return Ok(out) };
    if written.r1 > written.r0 && width > 0 {
        out.insert("updatedRange".into(), a1::show_rect(sheet, written).into());
        for (key, n) in [("updatedRows", rows.len()), ("updatedColumns", width), ("updatedCells", cells)] {
            crate::json::put(&mut out, key, n);
        }
        if wish.values {
            out.insert("updatedData".into(), value_range(sheet, written, wish.shape));
        }
    } else {
        out.insert("updatedRange".into(), a1::show(&sheet.title, range).into());
    }
    Ok(out)
}

fn quoted_show(title: &str, range: &GridRange) -> String {
    let shown = a1::show(title, range);
    if shown.starts_with('\'') { shown } else { shown.replacen(title, &format!("'{title}'"), 1) }
}

/// A cell after a value was entered: rule and note stay.
fn entered(old: &Cell, value: &Json, input: Input) -> Result<Cell, String> {
    let (new, number_format) = match (value, input) {
        (Json::String(s), _) if s.is_empty() => (None, None),
        (Json::String(s), Input::Raw) => (Some(CellValue::Text(s.clone())), None),
        (Json::String(s), Input::Typed) => format::typed(s),
        (Json::Bool(b), _) => (Some(CellValue::Bool(*b)), None),
        (Json::Number(n), _) => (n.as_f64().map(CellValue::Number), None),
        _ => return Err("Invalid values: a value must be a text, a number, a boolean or null.".into()),
    };
    if let Some(CellValue::Text(s) | CellValue::Formula(s)) = &new {
        check_length(s)?;
    }
    let mut cell = Cell { value: new, look: old.look.clone() };
    if let Some(number_format) = number_format {
        let mut look: Look = cell.look.as_deref().cloned().unwrap_or_default();
        let mut all = look.format.unwrap_or_else(|| json!({}));
        all["numberFormat"] = number_format;
        look.format = Some(all);
        cell.look = look.shared();
    }
    Ok(cell)
}

/// One cell as range is an anchor: the values may fill the grid from there.
fn room(ed: &Editor<'_>, range: &GridRange) -> Result<Rect, String> {
    let (sheet, rect) = a1::on_grid(&ed.book, range)?;
    let anchor = rect.r1 - rect.r0 == 1 && rect.c1 - rect.c0 == 1;
    Ok(if anchor { Rect { r1: sheet.row_count, c1: sheet.column_count, ..rect } } else { rect })
}

fn update_range(ed: &mut Editor<'_>, range: &GridRange, value: &Json, input: Input, wish: Wish) -> Result<Map<String, Json>, String> {
    let rows = rows_of(value).map_err(|e| e.message)?;
    let rect = room(ed, range)?;
    put_rows(ed, range, rect, &rows, input, wish)
}

/// values.update.
///
/// # Errors
/// 400 for a range that is none or too small.
pub fn update(ed: &mut Editor<'_>, call: &Call) -> Result<Json, ApiError> {
    let (input, wish) = (Input::read(call.query("valueInputOption"))?, Wish::from_query(call)?);
    let range = a1::parse(&ed.book, call.range()).map_err(ApiError::invalid)?;
    if let Some(own) = text(&call.body, "range").filter(|own| !own.is_empty()) {
        let other = a1::parse(&ed.book, own).map_err(ApiError::invalid)?;
        if other != range {
            return Err(ApiError::invalid(format!("Request range[{}] does not match value's range[{own}]", call.range())));
        }
    }
    update_range(ed, &range, &call.body, input, wish).map(Json::Object).map_err(ApiError::invalid)
}

fn totals(spreadsheet: &str, responses: &[Map<String, Json>], tabs: &BTreeSet<i64>) -> Json {
    let sum = |key: &str| responses.iter().filter_map(|r| r.get(key).and_then(Json::as_u64)).sum::<u64>();
    json!({
        "spreadsheetId": spreadsheet,
        "totalUpdatedRows": sum("updatedRows"),
        "totalUpdatedColumns": sum("updatedColumns"),
        "totalUpdatedCells": sum("updatedCells"),
        "totalUpdatedSheets": tabs.len(),
        "responses": responses,
    })
}

/// values.batchUpdate, and its form by data filter.
///
/// # Errors
/// 400 naming the place in `data`.
pub fn batch_update(ed: &mut Editor<'_>, call: &Call) -> Result<Json, ApiError> {
    let (input, wish) = (Input::read(text(&call.body, "valueInputOption"))?, Wish::from_body(&call.body)?);
    let (mut responses, mut tabs) = (Vec::new(), BTreeSet::new());
    for (i, value) in list(&call.body, "data").iter().enumerate() {
        let at = |message: String| ApiError::invalid(format!("Invalid data[{i}]: {message}"));
        let filter = value.get("dataFilter");
        let ranges = match filter {
            Some(filter) => Filter::read(&ed.book, filter).map_err(at)?.ranges(&ed.book),
            None => vec![a1::parse(&ed.book, text(value, "range").unwrap_or("")).map_err(at)?],
        };
        for range in ranges {
            let mut response = update_range(ed, &range, value, input, wish).map_err(at)?;
            if let Some(filter) = filter {
                response.insert("dataFilter".into(), filter.clone());
            }
            responses.push(response);
            tabs.insert(range.sheet);
        }
    }
    Ok(totals(&ed.book.id, &responses, &tabs))
}

fn clear_range(ed: &mut Editor<'_>, range: &GridRange) -> Result<String, String> {
    let (_, rect) = a1::on_grid(&ed.book, range)?;
    ed.guard(&rect.on(range.sheet)).map_err(|refusal| refusal.at("").message)?;
    let sheet = ed.book.sheet_mut(range.sheet).ok_or("No grid")?;
    for row in rect.r0..rect.r1.min(sheet.rows.len()) {
        for column in rect.c0..rect.c1.min(sheet.rows[row].cells.len()) {
            let look = sheet.cell(row, column).look.clone();
            sheet.set(row, column, Cell { value: None, look });
        }
    }
    Ok(a1::show_rect(sheet, rect))
}

/// values.clear.
///
/// # Errors
/// 400 for a range that is none.
pub fn clear(ed: &mut Editor<'_>, call: &Call) -> Result<Json, ApiError> {
    let range = a1::parse(&ed.book, call.range()).map_err(ApiError::invalid)?;
    let cleared = clear_range(ed, &range).map_err(ApiError::invalid)?;
    Ok(json!({"spreadsheetId": ed.book.id, "clearedRange": cleared}))
}

/// values.batchClear, and its form by data filter.
///
/// # Errors
/// 400 for a range that is none.
pub fn batch_clear(ed: &mut Editor<'_>, call: &Call) -> Result<Json, ApiError> {
    let mut ranges = Vec::new();
    for range in list(&call.body, "ranges") {
        ranges.push(a1::parse(&ed.book, range.as_str().unwrap_or("")).map_err(ApiError::invalid)?);
    }
    for filter in list(&call.body, "dataFilters") {
        ranges.extend(Filter::read(&ed.book, filter).map_err(ApiError::invalid)?.ranges(&ed.book));
    }
    let cleared = ranges.iter().map(|r| clear_range(ed, r)).collect::<Result<Vec<_>, _>>().map_err(ApiError::invalid)?;
    Ok(json!({"spreadsheetId": ed.book.id, "clearedRanges": cleared}))
}
