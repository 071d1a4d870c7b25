//! findReplace: plain text over a range, a tab or all tabs. Some programs use its count as a lock.

use std::collections::BTreeSet;

use serde_json::{Map, json};

use super::{Editor, Reply};
use crate::error::Refusal;
use crate::json::{Json, flag, int, put, text};
use crate::model::cell::{Cell, CellValue};
use crate::model::format;
use crate::model::grid::GridRange;

struct Search<'a> {
    find: &'a str,
    replacement: &'a str,
    case: bool,
    whole: bool,
}

impl Search<'_> {
    /// The text with its hits replaced, and how many there were.
    fn replace(&self, text: &str) -> (String, usize) {
        let fold = |s: &str| if self.case { s.to_owned() } else { s.to_lowercase() };
        if self.whole {
            return if fold(text) == fold(self.find) { (self.replacement.to_owned(), 1) } else { (String::new(), 0) };
        }
        let (mut out, mut hits, mut rest) = (String::new(), 0, text);
        let needle = fold(self.find);
        while !rest.is_empty() {
            let hit = (self.case && rest.starts_with(self.find)).then_some(self.find.len()).or_else(|| {
                let ends = rest.char_indices().map(|(i, c)| i + c.len_utf8());
                if self.case { None } else { ends.take(needle.chars().count()).find(|end| rest[..*end].to_lowercase() == needle) }
            });
            if let Some(end) = hit {
                out.push_str(self.replacement);
                hits += 1;
                rest = &rest[end..];
            } else if let Some(c) = rest.chars().next() {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        (out, hits)
    }
}

pub(super) fn find_replace(ed: &mut Editor<'_>, body: &Json) -> Reply {
    if flag(body, "searchByRegex") {
        return Err(Refusal::Missing("findReplace with searchByRegex".into()));
    }
    let find = text(body, "find").filter(|f| !f.is_empty()).ok_or("find must not be empty.")?;
    let replacement = text(body, "replacement").unwrap_or("");
    let search = Search { find, replacement, case: flag(body, "matchCase"), whole: flag(body, "matchEntireCell") };
    let ranges = if let Some(range) = body.get("range") {
        vec![GridRange::read(range)?]
    } else if let Some(id) = int(body, "sheetId") {
        vec![GridRange::all(id)]
    } else if flag(body, "allSheets") {
        ed.book.sheets.iter().map(|s| GridRange::all(s.id)).collect()
    } else {
        return Err("Must specify a scope: range, sheetId or allSheets.".into());
    };
    let (mut values, mut formulas, mut hits) = (0, 0, 0);
    let (mut rows, mut sheets) = (BTreeSet::new(), BTreeSet::new());
    for range in ranges {
        let sheet = ed.grid(range.sheet)?;
        let rect = sheet.rect(&range);
        let mut changes = Vec::new();
        for row in rect.r0..rect.r1.min(sheet.rows.len()) {
            for column in rect.c0..rect.c1.min(sheet.rows[row].cells.len()) {
                let cell = sheet.cell(row, column);
                let formula = matches!(cell.value, Some(CellValue::Formula(_)));
                if cell.value.is_none() || (formula && !flag(body, "includeFormulas")) {
                    continue;
                }
                let (new, n) = match &cell.value {
                    Some(CellValue::Formula(source)) => search.replace(source),
                    _ => search.replace(&cell.formatted()),
                };
                if n > 0 {
                    hits += n;
                    *(if formula { &mut formulas } else { &mut values }) += 1;
                    changes.push((row, column, Cell { value: replaced(cell, new), look: cell.look.clone() }));
                }
            }
        }
        for (row, column, cell) in changes {
            ed.guard(&crate::model::grid::Rect { r0: row, r1: row + 1, c0: column, c1: column + 1 }.on(range.sheet))?;
            rows.insert((range.sheet, row));
            sheets.insert(range.sheet);
            ed.grid_mut(range.sheet)?.set(row, column, cell);
        }
    }
    let mut reply = Map::new();
    for (key, n) in [
        ("valuesChanged", values),
        ("formulasChanged", formulas),
        ("rowsChanged", rows.len()),
        ("sheetsChanged", sheets.len()),
        ("occurrencesChanged", hits),
    ] {
        put(&mut reply, key, n);
    }
    Ok(json!(reply))
}

/// The new text is read as if typed, but text stays text.
fn replaced(cell: &Cell, new: String) -> Option<CellValue> {
    match cell.value {
        Some(CellValue::Text(_)) if !new.is_empty() => Some(CellValue::Text(new)),
        _ => format::typed(&new).0,
    }
}
