//! One spreadsheet: tabs, named ranges, developer metadata. A clone shares everything with the original until it is
//! written, so a batch is applied to a clone and the clone put in place of the original, or thrown away.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, json};

use super::grid::{Dim, GridRange, Shift};
use super::metadata::{Entry, Place};
use super::sheet::Sheet;
use crate::json::{Json, put};

/// A named range.
#[derive(Debug, Clone)]
pub struct NamedRange {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it names.
    pub range: GridRange,
}

impl NamedRange {
    /// As a message.
    #[must_use]
    pub fn to_json(&self) -> Json {
        json!({"namedRangeId": self.id, "name": self.name, "range": self.range.to_json()})
    }
}

/// A spreadsheet.
#[derive(Debug, Clone)]
pub struct Book {
    /// `spreadsheetId`.
    pub id: String,
    /// `SpreadsheetProperties`.
    pub properties: Json,
    /// Tabs in their order.
    pub sheets: Vec<Arc<Sheet>>,
    /// Named ranges in the order of their making.
    pub named: Vec<NamedRange>,
    /// Developer metadata by id.
    pub metadata: Arc<BTreeMap<i64, Entry>>,
}

impl Book {
    /// A spreadsheet without tabs; the caller adds at least one.
    #[must_use]
    pub fn new(id: &str, properties: Option<&Json>) -> Self {
        let mut all = json!({"title": "Untitled spreadsheet", "locale": "en_US", "autoRecalc": "ON_CHANGE", "timeZone": "Etc/GMT"});
        if let (Some(all), Some(given)) = (all.as_object_mut(), properties.and_then(Json::as_object)) {
            all.extend(given.clone());
        }
        Self { id: id.to_owned(), properties: all, sheets: Vec::new(), named: Vec::new(), metadata: Arc::default() }
    }

    /// Its title.
    #[must_use]
    pub fn title(&self) -> &str {
        self.properties.get("title").and_then(Json::as_str).unwrap_or("")
    }

    /// Where a tab stands.
    #[must_use]
    pub fn place_of(&self, sheet: i64) -> Option<usize> {
        self.sheets.iter().position(|s| s.id == sheet)
    }

    /// The tab with an id.
    #[must_use]
    pub fn sheet(&self, id: i64) -> Option<&Sheet> {
        self.sheets.iter().find(|s| s.id == id).map(Arc::as_ref)
    }

    /// The tab with an id, for writing.
    pub fn sheet_mut(&mut self, id: i64) -> Option<&mut Sheet> {
        self.sheets.iter_mut().find(|s| s.id == id).map(Arc::make_mut)
    }

    /// The tab with a title; case does not matter.
    #[must_use]
    pub fn titled(&self, title: &str) -> Option<&Sheet> {
        let wanted = title.to_lowercase();
        self.sheets.iter().find(|s| s.title == title).or_else(|| self.sheets.iter().find(|s| s.title.to_lowercase() == wanted)).map(Arc::as_ref)
    }

    /// The first tab that is not hidden.
    #[must_use]
    pub fn first_visible(&self) -> Option<&Sheet> {
        self.sheets.iter().find(|s| !s.hidden).or(self.sheets.first()).map(Arc::as_ref)
    }

    /// Cells of all tabs, empty ones included.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.sheets.iter().map(|s| s.row_count.saturating_mul(s.column_count)).fold(0, usize::saturating_add)
    }

    /// Changes rows or columns of a tab, with everything in the spreadsheet that points at them.
    pub fn shift(&mut self, sheet: i64, dim: Dim, shift: Shift) {
        if let Some(tab) = self.sheet_mut(sheet) {
            tab.shift(dim, shift);
        }
        self.named.retain_mut(|named| {
            if named.range.sheet != sheet {
                return true;
            }
            named.range.shifted(dim, shift).is_some_and(|range| {
                named.range = range;
                true
            })
        });
        self.move_lines(sheet, dim, |at| shift.index(at));
    }

    /// Puts the metadata of a tab's rows or columns where the map says; `None` deletes it.
    pub fn move_lines(&mut self, sheet: i64, dim: Dim, to: impl Fn(usize) -> Option<usize>) {
        let here = |e: &Entry| matches!(e.place, Place::Line(s, d, _) if s == sheet && d == dim);
        if !self.metadata.values().any(here) {
            return;
        }
        Arc::make_mut(&mut self.metadata).retain(|_, entry| match entry.place {
            Place::Line(s, d, at) if s == sheet && d == dim => to(at).is_some_and(|now| {
                entry.place = Place::Line(s, d, now);
                true
            }),
            _ => true,
        });
    }

    /// Takes a tab and all that lies on it.
    pub fn remove_sheet(&mut self, id: i64) {
        self.sheets.retain(|s| s.id != id);
        self.named.retain(|n| n.range.sheet != id);
        if self.metadata.values().any(|e| e.place.sheet() == Some(id)) {
            Arc::make_mut(&mut self.metadata).retain(|_, e| e.place.sheet() != Some(id));
        }
    }

    /// The entries at a place, as messages.
    #[must_use]
    pub fn entries_at(&self, place: Place) -> Vec<Json> {
        self.metadata.values().filter(|e| e.place == place).map(Entry::to_json).collect()
    }

    /// What `spreadsheets.get` shows of the spreadsheet itself, without its tabs.
    #[must_use]
    pub fn head(&self) -> Map<String, Json> {
        let mut map = Map::new();
        map.insert("spreadsheetId".into(), self.id.as_str().into());
        map.insert("properties".into(), self.properties.clone());
        put(&mut map, "namedRanges", self.named.iter().map(NamedRange::to_json).collect::<Vec<_>>());
        put(&mut map, "developerMetadata", self.entries_at(Place::Spreadsheet));
        let url = format!("https://docs.google.com/spreadsheets/d/{}/edit", self.id);
        map.insert("spreadsheetUrl".into(), url.into());
        map
    }
}
