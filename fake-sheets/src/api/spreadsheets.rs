//! spreadsheets.create, get, getByDataFilter, batchUpdate, developer metadata, and copying a tab to another spreadsheet.

use std::sync::Arc;

use serde_json::{Map, json};

use super::Call;
use super::filters::Filter;
use super::render::{View, spreadsheet};
use crate::a1;
use crate::apply::{self, Behaviour, Editor, Who};
use crate::error::ApiError;
use crate::fields::Mask;
use crate::json::{Json, flag, int, list, put};
use crate::model::book::Book;
use crate::model::grid::GridRange;

/// A new spreadsheet from the body of spreadsheets.create.
///
/// # Errors
/// 400 for tabs that clash or are too large.
pub fn create(id: &str, body: &Json, who: &Who, behaviour: &Behaviour) -> Result<Book, ApiError> {
    let book = Book::new(id, body.get("properties"));
    let mut ed = Editor { book, who, behaviour };
    let default = [json!({"properties": {"sheetId": 0, "title": "Sheet1"}})];
    let given = list(body, "sheets");
    for (i, sheet) in if given.is_empty() { &default[..] } else { given }.iter().enumerate() {
        let place = format!("Invalid sheets[{i}]");
        let mut request = json!({"properties": sheet.get("properties").cloned().unwrap_or_else(|| json!({}))});
        if let Some(map) = request["properties"].as_object_mut() {
            map.remove("index");
        }
        let made = apply::sheets::add(&mut ed, &request).map_err(|refusal| refusal.at(&place))?;
        for (d, data) in list(sheet, "data").iter().enumerate() {
            fill(&mut ed, &made, data).map_err(|refusal| refusal.at(&format!("{place}.data[{d}]")))?;
        }
    }
    if ed.book.sheets.iter().all(|s| s.hidden) {
        return Err(ApiError::invalid("A spreadsheet must have at least one visible sheet."));
    }
    Ok(ed.book)
}

fn fill(ed: &mut Editor<'_>, made: &Json, data: &Json) -> Result<(), crate::error::Refusal> {
    let start = json!({"sheetId": made["sheetId"], "rowIndex": int(data, "startRow").unwrap_or(0),
                       "columnIndex": int(data, "startColumn").unwrap_or(0)});
    let request = json!({"start": start, "rows": data.get("rowData").cloned().unwrap_or_else(|| json!([])), "fields": "*"});
    apply::cells::update(ed, &request).map(|_| ())
}

fn ranges<'a>(book: &Book, given: impl Iterator<Item = &'a str>) -> Result<Option<Vec<GridRange>>, ApiError> {
    let mut out = Vec::new();
    for range in given {
        let (sheet, rect) = a1::resolve(book, range).map_err(ApiError::invalid)?;
        out.push(rect.on(sheet.id));
    }
    Ok((!out.is_empty()).then_some(out))
}

/// spreadsheets.get.
///
/// # Errors
/// 400 for ranges that are none.
pub fn get(book: &Book, call: &Call, mask: &Mask, who: &Who) -> Result<Json, ApiError> {
    let grid = call.is_masked() || call.query("includeGridData") == Some("true");
    let ranges = ranges(book, call.queries("ranges"))?;
    Ok(spreadsheet(book, &View { mask, grid, ranges }, who))
}

/// spreadsheets.getByDataFilter.
///
/// # Errors
/// 400 for filters that are none.
pub fn get_by_filter(book: &Book, call: &Call, mask: &Mask, who: &Who) -> Result<Json, ApiError> {
    let mut ranges = Vec::new();
    for filter in list(&call.body, "dataFilters") {
        ranges.extend(Filter::read(book, filter).map_err(ApiError::invalid)?.ranges(book));
    }
    let given = !list(&call.body, "dataFilters").is_empty();
    let view = View { mask, grid: call.is_masked() || flag(&call.body, "includeGridData"), ranges: given.then_some(ranges) };
    Ok(spreadsheet(book, &view, who))
}

/// spreadsheets.batchUpdate.
///
/// # Errors
/// The first refusal; the editor's spreadsheet must then be dropped.
pub fn batch_update(ed: &mut Editor<'_>, call: &Call, mask: &Mask) -> Result<Json, ApiError> {
    let body = &call.body;
    let replies = apply::batch(ed, list(body, "requests"))?;
    let mut out = Map::new();
    out.insert("spreadsheetId".into(), ed.book.id.as_str().into());
    out.insert("replies".into(), replies.into());
    out.insert("commentUpdateState".into(), "NO_UPDATES_REQUESTED".into());
    if flag(body, "includeSpreadsheetInResponse") {
        let asked = list(body, "responseRanges").iter().filter_map(Json::as_str);
        let ranges = ranges(&ed.book, asked)?;
        if let Some(mask) = mask.below("updatedSpreadsheet") {
            let view = View { mask, grid: call.is_masked() || flag(body, "responseIncludeGridData"), ranges };
            out.insert("updatedSpreadsheet".into(), spreadsheet(&ed.book, &view, ed.who));
        }
    }
    Ok(out.into())
}

/// developerMetadata.get.
///
/// # Errors
/// 404 where there is no such entry.
pub fn metadata_get(book: &Book, call: &Call) -> Result<Json, ApiError> {
    let id: i64 = call.route.part.parse().map_err(|_| ApiError::invalid("Invalid value for metadataId"))?;
    let missing = || ApiError::new(404, "NOT_FOUND", format!("No developer metadata with ID {id}."));
    book.metadata.get(&id).map(crate::model::metadata::Entry::to_json).ok_or_else(missing)
}

/// developerMetadata.search.
///
/// # Errors
/// 400 for filters that are none.
pub fn metadata_search(book: &Book, call: &Call) -> Result<Json, ApiError> {
    let given = list(&call.body, "dataFilters");
    let filters = given.iter().map(|f| Filter::read(book, f)).collect::<Result<Vec<_>, _>>().map_err(ApiError::invalid)?;
    let mut matched = Vec::new();
    for entry in book.metadata.values() {
        let hits: Vec<Json> = filters.iter().zip(given).filter(|(f, _)| f.finds(book, entry)).map(|(_, g)| g.clone()).collect();
        if !hits.is_empty() {
            matched.push(json!({"developerMetadata": entry.to_json(), "dataFilters": hits}));
        }
    }
    let mut out = Map::new();
    put(&mut out, "matchedDeveloperMetadata", matched);
    Ok(out.into())
}

/// sheets.copyTo: the tab of `from` becomes a tab of the editor's spreadsheet.
///
/// # Errors
/// 400 where there is no such tab, or no room.
pub fn copy_to(ed: &mut Editor<'_>, from: &Book, call: &Call) -> Result<Json, ApiError> {
    let id: i64 = call.route.part.parse().map_err(|_| ApiError::invalid("Invalid value for sheetId"))?;
    let sheet = from.sheet(id).ok_or_else(|| ApiError::invalid(format!("No sheet with id: {id}")))?;
    if ed.book.cells().saturating_add(sheet.row_count * sheet.column_count) > ed.behaviour.max_cells {
        return Err(ApiError::invalid("This action would increase the number of cells in the workbook above the limit."));
    }
    let title = apply::sheets::copy_title(&ed.book, &sheet.title);
    let copy = apply::sheets::copied(sheet, apply::sheets::free_id(&ed.book), &title);
    let place = ed.book.sheets.len();
    let reply = copy.properties(place);
    ed.book.sheets.push(Arc::new(copy));
    Ok(reply)
}
