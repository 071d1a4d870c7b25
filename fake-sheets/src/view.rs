//! A tab as tests and the page want it: a grid of typed cells, trimmed. Reading only.

use serde::Serialize;
use serde_json::Value;

use crate::model::cell::{Cell, CellValue};
use crate::model::grid::Dim;
use crate::model::sheet::Sheet;
use crate::state::Model;

/// One cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CellView {
    /// As entered; null is empty. A formula is its text, with `kind` formula.
    pub value: Value,
    /// `number`, `text`, `bool`, `formula` or `empty`.
    pub kind: &'static str,
    /// As on the screen.
    pub shown: String,
    /// Has a checkbox.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub checkbox: bool,
    /// `userEnteredFormat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Value>,
    /// Its note.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl CellView {
    fn of(cell: &Cell) -> Self {
        let kind = match &cell.value {
            None => "empty",
            Some(CellValue::Number(_)) => "number",
            Some(CellValue::Text(_)) => "text",
            Some(CellValue::Bool(_)) => "bool",
            Some(CellValue::Formula(_)) => "formula",
        };
        Self {
            value: cell.value.as_ref().map_or(Value::Null, CellValue::source),
            kind,
            shown: cell.formatted(),
            checkbox: cell.is_checkbox(),
            format: cell.look.as_ref().and_then(|look| look.format.clone()),
            note: cell.look.as_ref().and_then(|look| look.note.clone()),
        }
    }
}

/// One tab.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TabView {
    /// `sheetId`.
    pub sheet_id: i64,
    /// Title.
    pub title: String,
    /// Hidden tab.
    pub hidden: bool,
    /// Size of the grid.
    pub row_count: usize,
    /// Size of the grid.
    pub column_count: usize,
    /// Frozen rows.
    pub frozen_rows: usize,
    /// Hidden columns, from 0.
    pub hidden_columns: Vec<usize>,
    /// Hidden rows, from 0.
    pub hidden_rows: Vec<usize>,
    /// Widths of columns that were sized: column, pixels.
    pub widths: Vec<(usize, i64)>,
    /// Row number of the first row of `cells`.
    pub first_row: usize,
    /// Rows without their trailing empty cells, up to the last row that has any.
    pub cells: Vec<Vec<CellView>>,
}

impl TabView {
    /// Rows `from..to` of a tab.
    #[must_use]
    pub fn of(sheet: &Sheet, from: usize, to: usize) -> Self {
        let rows = sheet.rows.get(from..to.min(sheet.rows.len())).unwrap_or(&[]);
        let hidden = |dim: Dim, count: usize| (0..count).filter(|at| sheet.dim_props(dim, *at).hidden).collect();
        let width = |(at, props): (usize, &crate::model::sheet::DimProps)| Some((at, props.pixels?));
        Self {
            sheet_id: sheet.id,
            title: sheet.title.clone(),
            hidden: sheet.hidden,
            row_count: sheet.row_count,
            column_count: sheet.column_count,
            frozen_rows: sheet.frozen_rows,
            hidden_columns: hidden(Dim::Columns, sheet.columns.len()),
            hidden_rows: hidden(Dim::Rows, sheet.rows.len()),
            widths: sheet.columns.iter().enumerate().filter_map(width).collect(),
            first_row: from,
            cells: rows.iter().map(|row| row.cells.iter().map(CellView::of).collect()).collect(),
        }
    }

    /// As text, as on the screen, without trailing blanks.
    #[must_use]
    pub fn texts(&self) -> Vec<Vec<String>> {
        let mut rows: Vec<Vec<String>> = Vec::new();
        for row in &self.cells {
            let last = row.iter().rposition(|cell| !cell.shown.is_empty()).map_or(0, |at| at + 1);
            rows.push(row[..last].iter().map(|cell| cell.shown.clone()).collect());
        }
        let last = rows.iter().rposition(|row| !row.is_empty()).map_or(0, |at| at + 1);
        rows.truncate(last);
        rows
    }
}

impl Model {
    /// A tab by its title (case does not matter); `None` where there is no such spreadsheet or tab.
    #[must_use]
    pub fn tab(&self, id: &str, title: &str) -> Option<TabView> {
        let book = self.book(id)?;
        book.titled(title).map(|sheet| TabView::of(sheet, 0, usize::MAX))
    }

    /// What a tab shows, as text; empty where there is no such tab.
    #[must_use]
    pub fn texts(&self, id: &str, title: &str) -> Vec<Vec<String>> {
        self.tab(id, title).map(|tab| tab.texts()).unwrap_or_default()
    }
}
