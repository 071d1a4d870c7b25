//! Tabs: addSheet, deleteSheet, updateSheetProperties, duplicateSheet, and the spreadsheet's own properties.

use std::sync::Arc;

use super::{Editor, Reply, nothing, required, required_mask};
use crate::error::Refusal;
use crate::json::{Json, index, int, text};
use crate::model::book::Book;
use crate::model::sheet::Sheet;

const MAX_TITLE: usize = 100;

fn no_sheet(id: i64) -> Refusal {
    format!("No sheet with id: {id}").into()
}

/// An id that no tab has.
#[must_use]
pub fn free_id(book: &Book) -> i64 {
    loop {
        let id = i64::from(rand::random::<u32>() >> 1);
        if id > 0 && book.sheet(id).is_none() {
            return id;
        }
    }
}

fn free_title(book: &Book) -> String {
    (book.sheets.len() + 1..).map(|n| format!("Sheet{n}")).find(|t| book.titled(t).is_none()).unwrap_or_default()
}

fn check_id(book: &Book, id: i64) -> Result<(), Refusal> {
    if id < 0 {
        return Err("Sheet id must be non-negative.".into());
    }
    if book.sheet(id).is_some() {
        return Err(format!("Sheet with id {id} already exists.").into());
    }
    Ok(())
}

/// Refuses a title that is too long or that another tab has; case does not matter.
fn check_title(book: &Book, title: &str, own: Option<i64>) -> Result<(), Refusal> {
    if title.is_empty() {
        return Err("The sheet name cannot be empty.".into());
    }
    if title.chars().count() > MAX_TITLE {
        return Err("The sheet name cannot be greater than 100 characters.".into());
    }
    if book.titled(title).is_some_and(|s| Some(s.id) != own) {
        let text = format!("A sheet with the name \"{title}\" already exists. Please enter another name.");
        return Err(text.into());
    }
    Ok(())
}

fn check_frozen(sheet: &Sheet) -> Result<(), Refusal> {
    for (word, frozen, count) in [("rows", sheet.frozen_rows, sheet.row_count), ("columns", sheet.frozen_columns, sheet.column_count)] {
        if frozen >= count && frozen > 0 {
            return Err(format!("You can't freeze all visible {word} on the sheet.").into());
        }
    }
    Ok(())
}

/// The size that properties ask for; what they leave out stays as it is.
fn size(properties: &Json, rows: usize, columns: usize) -> Result<(usize, usize), Refusal> {
    let grid = properties.get("gridProperties").unwrap_or(&Json::Null);
    let read = |key: &str, default: usize| match int(grid, key) {
        None => Ok(default),
        Some(n) if n < 1 => Err(Refusal::from(format!("gridProperties.{key} must be greater than 0."))),
        Some(_) => Ok(index(grid, key).unwrap_or(default)),
    };
    Ok((read("rowCount", rows)?, read("columnCount", columns)?))
}

/// addSheet, and the tabs of spreadsheets.create.
///
/// # Errors
/// A taken id or title, or one limit too many.
pub fn add(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let properties = body.get("properties").unwrap_or(&Json::Null);
    if text(properties, "sheetType").is_some_and(|t| t != "GRID") {
        return Err(Refusal::Missing("tabs other than grids".into()));
    }
    let id = match int(properties, "sheetId") {
        Some(id) => {
            check_id(&ed.book, id)?;
            id
        }
        None => free_id(&ed.book),
    };
    let title = text(properties, "title").map_or_else(|| free_title(&ed.book), str::to_owned);
    check_title(&ed.book, &title, None)?;
    let mut sheet = Sheet::new(id, &title);
    let (rows, columns) = size(properties, sheet.row_count, sheet.column_count)?;
    ed.check_size(columns, rows.saturating_mul(columns))?;
    sheet.set_properties(properties);
    sheet.title = title;
    (sheet.row_count, sheet.column_count) = (rows, columns);
    check_frozen(&sheet)?;
    let place = index(properties, "index").unwrap_or(usize::MAX).min(ed.book.sheets.len());
    let reply = sheet.properties(place);
    ed.book.sheets.insert(place, Arc::new(sheet));
    Ok(reply)
}

pub(super) fn delete(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let id = int(body, "sheetId").unwrap_or(0);
    let sheet = ed.book.sheet(id).ok_or_else(|| no_sheet(id))?;
    if ed.book.sheets.len() == 1 {
        return Err("You can't remove all the sheets in a document.".into());
    }
    if !sheet.hidden && !another_visible(&ed.book, id) {
        return Err("You can't remove all the visible sheets in a document.".into());
    }
    if !ed.who.owner && sheet.protections.iter().any(|p| !p.lets(&ed.who.account)) {
        return Err(super::PROTECTED.into());
    }
    ed.book.remove_sheet(id);
    Ok(nothing())
}

fn another_visible(book: &Book, id: i64) -> bool {
    book.sheets.iter().any(|s| s.id != id && !s.hidden)
}

pub(super) fn update(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let mask = required_mask(body, "SheetProperties")?;
    let source = required(body, "properties")?;
    let id = int(source, "sheetId").unwrap_or(0);
    let place = ed.book.place_of(id).ok_or_else(|| no_sheet(id))?;
    let old = Arc::clone(&ed.book.sheets[place]);
    let mut merged = old.properties(place);
    mask.merge(&mut merged, source);
    if mask.wants("title") {
        check_title(&ed.book, text(&merged, "title").unwrap_or(""), Some(id))?;
    }
    let (rows, columns) = size(&merged, old.row_count, old.column_count)?;
    let more = rows.saturating_mul(columns).saturating_sub(old.row_count * old.column_count);
    ed.check_size(columns, more)?;
    let mut sheet = (*old).clone();
    sheet.set_properties(&merged);
    if sheet.hidden && !old.hidden && !another_visible(&ed.book, id) {
        return Err("You can't hide all the sheets in a document.".into());
    }
    shrink(ed, &mut sheet, rows, columns);
    check_frozen(&sheet)?;
    ed.book.sheets[place] = Arc::new(sheet);
    if mask.names(&["index"]) {
        let wanted = index(&merged, "index").unwrap_or(0).min(ed.book.sheets.len());
        let tab = ed.book.sheets.remove(place);
        ed.book.sheets.insert(if wanted > place { wanted - 1 } else { wanted }, tab);
    }
    Ok(nothing())
}

/// Brings a tab to a new size; what was on the rows and columns cut off goes with them.
fn shrink(ed: &mut Editor<'_>, sheet: &mut Sheet, rows: usize, columns: usize) {
    use crate::model::grid::Dim;
    sheet.resize(rows, columns);
    ed.book.move_lines(sheet.id, Dim::Rows, |at| (at < rows).then_some(at));
    ed.book.move_lines(sheet.id, Dim::Columns, |at| (at < columns).then_some(at));
}

pub(super) fn duplicate(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let source = int(body, "sourceSheetId").unwrap_or(0);
    let place = ed.book.place_of(source).ok_or_else(|| no_sheet(source))?;
    let id = match int(body, "newSheetId") {
        Some(id) => {
            check_id(&ed.book, id)?;
            id
        }
        None => free_id(&ed.book),
    };
    let title = text(body, "newSheetName").map_or_else(|| copy_title(&ed.book, &ed.book.sheets[place].title), str::to_owned);
    check_title(&ed.book, &title, None)?;
    let sheet = copied(&ed.book.sheets[place], id, &title);
    ed.check_size(sheet.column_count, sheet.row_count.saturating_mul(sheet.column_count))?;
    let at = index(body, "insertSheetIndex").unwrap_or(0).min(ed.book.sheets.len());
    let reply = sheet.properties(at);
    ed.book.sheets.insert(at, Arc::new(sheet));
    Ok(reply)
}

/// `Copy of X`, numbered where that is taken.
#[must_use]
pub fn copy_title(book: &Book, title: &str) -> String {
    let first = format!("Copy of {title}");
    if book.titled(&first).is_none() {
        return first;
    }
    (2..).map(|n| format!("{first} {n}")).find(|t| book.titled(t).is_none()).unwrap_or(first)
}

/// A tab's cells, rules, protection and filter under another id. Its developer metadata stays with the original.
#[must_use]
pub fn copied(sheet: &Sheet, id: i64, title: &str) -> Sheet {
    let mut copy = sheet.clone();
    copy.id = id;
    title.clone_into(&mut copy.title);
    copy.hidden = false;
    for protection in &mut copy.protections {
        protection.id = i64::from(rand::random::<u32>() >> 1);
        protection.range.sheet = id;
        protection.holes.iter_mut().for_each(|hole| hole.sheet = id);
    }
    copy.merges.iter_mut().for_each(|range| range.sheet = id);
    if let Some((range, _)) = &mut copy.filter {
        range.sheet = id;
    }
    for (band, range, _) in &mut copy.bands {
        *band = i64::from(rand::random::<u32>() >> 1);
        range.sheet = id;
    }
    copy
}

pub(super) fn update_spreadsheet(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let mask = required_mask(body, "SpreadsheetProperties")?;
    let mut merged = ed.book.properties.clone();
    mask.merge(&mut merged, body.get("properties").unwrap_or(&Json::Null));
    if text(&merged, "title").is_none_or(str::is_empty) {
        return Err("The spreadsheet title cannot be empty.".into());
    }
    ed.book.properties = merged;
    Ok(nothing())
}
