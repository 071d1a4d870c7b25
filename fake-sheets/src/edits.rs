//! What people do to a spreadsheet, as data: typed into the page, sent by tests, or run by a fault between a client's
//! read and its write. People's edits pass protection as the owner's do, and are atomic like a batch.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::a1;
use crate::apply::{self, Editor};
use crate::error::ApiError;
use crate::model::book::Book;
use crate::model::cell::Cell;
use crate::model::format;
use crate::model::grid::Rect;
use crate::model::sheet::Sheet;

/// A tab by title or by sheetId.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Tab {
    /// `sheetId`.
    Id(i64),
    /// Title; case does not matter.
    Title(String),
}

impl From<&str> for Tab {
    fn from(title: &str) -> Self {
        Self::Title(title.to_owned())
    }
}

impl From<i64> for Tab {
    fn from(id: i64) -> Self {
        Self::Id(id)
    }
}

/// One thing a person does. Rows and columns count from 0; cells and ranges are A1 notation without the tab.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "edit", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Edit {
    /// Types into a cell; `=` makes a formula, TRUE a boolean, an apostrophe text, nothing clears it.
    SetCell { tab: Tab, cell: String, typed: String },
    /// Inserts empty rows in front of row `at`; they look like the row above.
    InsertRows { tab: Tab, at: usize, count: usize },
    /// Deletes rows from `at` on.
    DeleteRows { tab: Tab, at: usize, count: usize },
    /// Inserts empty columns in front of column `at`.
    InsertColumns { tab: Tab, at: usize, count: usize },
    /// Deletes columns from `at` on.
    DeleteColumns { tab: Tab, at: usize, count: usize },
    /// Cuts rows and inserts them in front of row `to` (counted before the move).
    MoveRows { tab: Tab, at: usize, count: usize, to: usize },
    /// Copies a row and inserts the copy in front of row `to`.
    CopyRow { tab: Tab, at: usize, to: usize },
    /// Sorts the rows of a range by one of its columns; columns outside the range stay where they are.
    SortRange {
        tab: Tab,
        range: String,
        /// Column letters.
        by: String,
        #[serde(default)]
        descending: bool,
    },
    /// Clears the values of a range.
    ClearRange { tab: Tab, range: String },
    /// Hides or shows columns from `at` on.
    HideColumns {
        tab: Tab,
        at: usize,
        count: usize,
        #[serde(default)]
        show: bool,
    },
    /// Renames a tab.
    RenameTab { tab: Tab, to: String },
    /// Deletes a tab.
    DeleteTab { tab: Tab },
    /// Adds a tab at the end.
    AddTab { title: String },
    /// Hides or shows a tab.
    HideTab {
        tab: Tab,
        #[serde(default)]
        show: bool,
    },
    /// Adds developer metadata, as another program would: a `DeveloperMetadata` message.
    AddMetadata { metadata: Value },
    /// Deletes the metadata entry with an id.
    DeleteMetadata { id: i64 },
    /// Puts back a snapshot that was taken under this name (the version history's "restore").
    Restore { snapshot: String },
    /// Any requests of batchUpdate.
    Requests { requests: Vec<Value> },
}

/// Applies edits in order.
///
/// # Errors
/// What the spreadsheet refuses; the editor's clone must then be dropped. `snapshot` finds what `Restore` names.
pub fn run(ed: &mut Editor<'_>, edits: &[Edit], snapshot: &dyn Fn(&str) -> Option<Book>) -> Result<(), ApiError> {
    for edit in edits {
        if let Edit::Restore { snapshot: name } = edit {
            let old = snapshot(name).ok_or_else(|| ApiError::invalid(format!("no snapshot is called {name:?}; take it first")))?;
            ed.book = Book { id: ed.book.id.clone(), ..old };
        } else if let Edit::SetCell { tab, cell, typed } = edit {
            type_into(ed, tab, cell, typed)?;
        } else {
            let requests = requests(&ed.book, edit)?;
            apply::batch(ed, &requests)?;
        }
    }
    Ok(())
}

fn find<'a>(book: &'a Book, tab: &Tab) -> Result<&'a Sheet, ApiError> {
    let found = match tab {
        Tab::Id(id) => book.sheet(*id),
        Tab::Title(title) => book.titled(title),
    };
    found.ok_or_else(|| ApiError::invalid(format!("no tab {tab:?} in spreadsheet {}", book.id)))
}

fn rect_of(book: &Book, tab: &Tab, range: &str) -> Result<(i64, Rect), ApiError> {
    let sheet = find(book, tab)?;
    let full = format!("'{}'!{range}", sheet.title.replace('\'', "''"));
    let (sheet, rect) = a1::resolve(book, &full).map_err(ApiError::invalid)?;
    Ok((sheet.id, rect))
}

fn type_into(ed: &mut Editor<'_>, tab: &Tab, cell: &str, typed: &str) -> Result<(), ApiError> {
    let (id, rect) = rect_of(&ed.book, tab, cell)?;
    let (value, number_format) = format::typed(typed);
    if let Some(crate::model::cell::CellValue::Text(text)) = &value {
        crate::model::cell::check_length(text).map_err(ApiError::invalid)?;
    }
    let Some(sheet) = ed.book.sheet_mut(id) else { return Ok(()) };
    let old = sheet.cell(rect.r0, rect.c0);
    // Emptying a checkbox unticks it, as it does on the screen.
    let value = if value.is_none() && old.is_checkbox() { Some(crate::model::cell::CellValue::Bool(false)) } else { value };
    let mut look = old.look.as_deref().cloned().unwrap_or_default();
    if let Some(number_format) = number_format.filter(|_| look.format.as_ref().is_none_or(|f| f.get("numberFormat").is_none())) {
        let mut all = look.format.unwrap_or_else(|| json!({}));
        all["numberFormat"] = number_format;
        look.format = Some(all);
    }
    sheet.set(rect.r0, rect.c0, Cell { value, look: look.shared() });
    Ok(())
}

/// The requests that do what the edit says.
fn requests(book: &Book, edit: &Edit) -> Result<Vec<Value>, ApiError> {
    let id = |tab: &Tab| find(book, tab).map(|s| s.id);
    let span = |tab: &Tab, dimension: &str, at: &usize, count: &usize| -> Result<Value, ApiError> {
        Ok(json!({"sheetId": id(tab)?, "dimension": dimension, "startIndex": at, "endIndex": at + count}))
    };
    let insert = |tab: &Tab, dimension: &str, at: &usize, count: &usize| -> Result<Value, ApiError> {
        Ok(json!({"insertDimension": {"range": span(tab, dimension, at, count)?, "inheritFromBefore": *at > 0}}))
    };
    let properties = |tab: &Tab, fields: &str, mut properties: Value| -> Result<Value, ApiError> {
        properties["sheetId"] = id(tab)?.into();
        Ok(json!({"updateSheetProperties": {"properties": properties, "fields": fields}}))
    };
    Ok(vec![match edit {
        Edit::InsertRows { tab, at, count } => insert(tab, "ROWS", at, count)?,
        Edit::InsertColumns { tab, at, count } => insert(tab, "COLUMNS", at, count)?,
        Edit::DeleteRows { tab, at, count } => json!({"deleteDimension": {"range": span(tab, "ROWS", at, count)?}}),
        Edit::DeleteColumns { tab, at, count } => json!({"deleteDimension": {"range": span(tab, "COLUMNS", at, count)?}}),
        Edit::MoveRows { tab, at, count, to } => {
            json!({"moveDimension": {"source": span(tab, "ROWS", at, count)?, "destinationIndex": to}})
        }
        Edit::CopyRow { tab, at, to } => {
            let from = if at >= to { at + 1 } else { *at };
            let row = |at: usize, sheet: i64| json!({"sheetId": sheet, "startRowIndex": at, "endRowIndex": at + 1});
            let paste = json!({"copyPaste": {"source": row(from, id(tab)?), "destination": row(*to, id(tab)?)}});
            let end = *to == find(book, tab)?.row_count;
            let mut added = insert(tab, "ROWS", to, &1)?;
            added["insertDimension"]["inheritFromBefore"] = end.into();
            return Ok(vec![added, paste]);
        }
        Edit::SortRange { tab, range, by, descending } => {
            let (_, rect) = rect_of(book, tab, range)?;
            let (_, column) = rect_of(book, tab, &format!("{by}1"))?;
            let order = if *descending { "DESCENDING" } else { "ASCENDING" };
            let specs = json!([{"dimensionIndex": column.c0, "sortOrder": order}]);
            json!({"sortRange": {"range": rect.on(id(tab)?).to_json(), "sortSpecs": specs}})
        }
        Edit::ClearRange { tab, range } => {
            let (sheet, rect) = rect_of(book, tab, range)?;
            json!({"updateCells": {"range": rect.on(sheet).to_json(), "fields": "userEnteredValue"}})
        }
        Edit::HideColumns { tab, at, count, show } => {
            json!({"updateDimensionProperties": {"range": span(tab, "COLUMNS", at, count)?,
                   "properties": {"hiddenByUser": !show}, "fields": "hiddenByUser"}})
        }
        Edit::RenameTab { tab, to } => properties(tab, "title", json!({"title": to}))?,
        Edit::HideTab { tab, show } => properties(tab, "hidden", json!({"hidden": !show}))?,
        Edit::DeleteTab { tab } => json!({"deleteSheet": {"sheetId": id(tab)?}}),
        Edit::AddTab { title } => json!({"addSheet": {"properties": {"title": title}}}),
        Edit::AddMetadata { metadata } => json!({"createDeveloperMetadata": {"developerMetadata": metadata}}),
        Edit::DeleteMetadata { id } => {
            json!({"deleteDeveloperMetadata": {"dataFilter": {"developerMetadataLookup": {"metadataId": id}}}})
        }
        Edit::Requests { requests } => {
            let mut body = json!({ "requests": requests });
            crate::schema::check("BatchUpdateSpreadsheetRequest", &mut body)?;
            return Ok(crate::json::list(&body, "requests").to_vec());
        }
        Edit::SetCell { .. } | Edit::Restore { .. } => return Ok(Vec::new()),
    }])
}
