//! Answers that carry cells, read straight into [`Observed`] and [`Applied`].
//!
//! Called by [`super::gateway`]. google-sheets4's own `CellData` takes 2,960 bytes per cell, 3 to 5 GB for a tab of 100,000 rows, so these two
//! answers are decoded here into 32 bytes a cell; requests and small answers use the crate's types. What must never happen here: a cell in another row
//! or column than Google said, or a formula taken for text.

use serde::Deserialize;

use crate::domain::sheet::{Applied, EchoRange, MetadataEntry, Observed, ObservedTab, Value};

/// The `fields` that [`SpreadsheetWire`] needs of a spreadsheet without cells.
pub(super) const DIRECTORY_FIELDS: &str =
    "spreadsheetId,properties.title,developerMetadata(metadataId,metadataKey,metadataValue),sheets(properties(sheetId,title,hidden,gridProperties))";

/// The same with cells.
pub(super) const READ_FIELDS: &str = "spreadsheetId,properties.title,developerMetadata(metadataId,metadataKey,metadataValue),\
sheets(properties(sheetId,title,hidden,gridProperties),data(startRow,startColumn,rowData(values(userEnteredValue))))";

/// For a batch that asks for an echo.
pub(super) const ECHO_FIELDS: &str = "spreadsheetId,updatedSpreadsheet(sheets(properties(sheetId,title,hidden,gridProperties),\
data(startRow,startColumn,rowData(values(userEnteredValue)))))";

/// For a batch that does not.
pub(super) const NO_ECHO_FIELDS: &str = "spreadsheetId";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SpreadsheetWire {
    #[serde(default)]
    pub spreadsheet_id: String,
    #[serde(default)]
    properties: TitleWire,
    #[serde(default)]
    developer_metadata: Vec<MetadataWire>,
    #[serde(default)]
    sheets: Vec<SheetWire>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BatchWire {
    #[serde(default)]
    pub spreadsheet_id: String,
    updated_spreadsheet: Option<EchoWire>,
}

#[derive(Debug, Deserialize)]
struct EchoWire {
    #[serde(default)]
    sheets: Vec<SheetWire>,
}

#[derive(Debug, Default, Deserialize)]
struct TitleWire {
    #[serde(default)]
    title: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetadataWire {
    #[serde(default)]
    metadata_id: i32,
    #[serde(default)]
    metadata_key: String,
    #[serde(default)]
    metadata_value: String,
}

#[derive(Debug, Deserialize)]
struct SheetWire {
    #[serde(default)]
    properties: PropertiesWire,
    data: Option<GridsWire>,
}

/// Absent = zero, empty or false: Google leaves those out.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PropertiesWire {
    sheet_id: i32,
    title: String,
    hidden: bool,
    grid_properties: GridPropertiesWire,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GridPropertiesWire {
    row_count: u32,
    column_count: u32,
    frozen_row_count: u32,
}

/// Cells of a spreadsheet at most: Google's own limit. An answer that speaks of more is not Google's, and must not fill the memory.
pub const MOST_CELLS: usize = 10_000_000;

#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "Vec<GridWire>")]
struct GridsWire(Vec<GridWire>);

impl TryFrom<Vec<GridWire>> for GridsWire {
    type Error = &'static str;

    fn try_from(blocks: Vec<GridWire>) -> Result<Self, Self::Error> {
        let row = |block: &GridWire, row: &RowWire| block.start_column.saturating_add(row.values.len()).max(1);
        let n_cells = |block: &GridWire| block.row_data.iter().map(|cells| row(block, cells)).fold(block.start_row, usize::saturating_add);
        let n = blocks.iter().map(n_cells).fold(0, usize::saturating_add);
        if n > MOST_CELLS { Err("cells beyond what a spreadsheet can hold") } else { Ok(Self(blocks)) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GridWire {
    #[serde(default)]
    start_row: usize,
    #[serde(default)]
    start_column: usize,
    #[serde(default)]
    row_data: Vec<RowWire>,
}

#[derive(Debug, Deserialize)]
struct RowWire {
    #[serde(default)]
    values: Vec<Cell>,
}

/// A cell is turned into its value while the answer is being read, so that no wider form of it ever fills the memory.
#[derive(Debug, Deserialize)]
#[serde(from = "CellWire")]
struct Cell(Value);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CellWire {
    user_entered_value: Option<ValueWire>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ValueWire {
    string_value: Option<String>,
    number_value: Option<f64>,
    bool_value: Option<bool>,
    formula_value: Option<String>,
    error_value: Option<ErrorWire>,
}

#[derive(Deserialize)]
struct ErrorWire {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    message: String,
}

impl From<CellWire> for Cell {
    fn from(wire: CellWire) -> Self {
        let Some(value) = wire.user_entered_value else { return Self(Value::Empty) };
        // One of them is set. The formula first: whatever else were there, a formula must not pass for typed text.
        Self(if let Some(text) = value.formula_value {
            Value::Formula(text)
        } else if let Some(text) = value.string_value {
            Value::Text(text)
        } else if let Some(number) = value.number_value {
            Value::Number(number)
        } else if let Some(state) = value.bool_value {
            Value::Bool(state)
        } else if let Some(error) = value.error_value {
            Value::Error(if error.message.is_empty() { error.kind } else { error.message })
        } else {
            Value::Empty
        })
    }
}

impl SpreadsheetWire {
    /// `asked` = the titles whose cells were asked for; None = all tabs, without cells.
    pub(super) fn observed(self, asked: Option<&[String]>) -> Observed {
        let wanted = |sheet: &SheetWire| asked.is_none_or(|titles| sheet.asked_for(titles.iter().map(String::as_str)));
        Observed {
            title: self.properties.title,
            tabs: self.sheets.into_iter().filter(wanted).map(SheetWire::tab).collect(),
            metadata: self.developer_metadata.into_iter().map(MetadataWire::entry).collect(),
        }
    }
}

impl BatchWire {
    /// `echoed` = whose cells were asked for.
    pub(super) fn applied(self, echoed: &[EchoRange]) -> Applied {
        let sheets = self.updated_spreadsheet.map(|spreadsheet| spreadsheet.sheets).unwrap_or_default();
        let tabs = sheets.into_iter().filter(|sheet| sheet.asked_for(echoed.iter().map(|echo| echo.title.as_str()))).map(SheetWire::tab);
        Applied { tabs: tabs.map(|tab| (tab.sheet_id, tab)).collect() }
    }
}

impl MetadataWire {
    fn entry(self) -> MetadataEntry {
        MetadataEntry { id: self.metadata_id, key: self.metadata_key, value: self.metadata_value }
    }
}

impl SheetWire {
    /// A tab that was not asked for comes, if it comes at all, without cells, and must not look like an empty one.
    fn asked_for<'a>(&self, mut titles: impl Iterator<Item = &'a str>) -> bool {
        self.data.is_some() || titles.any(|title| title == self.properties.title)
    }

    fn tab(self) -> ObservedTab {
        let grid = self.properties.grid_properties;
        ObservedTab {
            sheet_id: self.properties.sheet_id,
            title: self.properties.title,
            hidden: self.properties.hidden,
            row_count: grid.row_count,
            column_count: grid.column_count,
            frozen_rows: grid.frozen_row_count,
            rows: rows(self.data.unwrap_or_default().0),
        }
    }
}

/// Puts every block where it says it starts. One whole tab is one block from the first cell, and keeps its memory.
fn rows(blocks: Vec<GridWire>) -> Vec<Vec<Value>> {
    let mut rows: Vec<Vec<Value>> = Vec::new();
    for block in blocks {
        for (number, wire) in block.row_data.into_iter().enumerate() {
            let mut values: Vec<Value> = wire.values.into_iter().map(|cell| cell.0).collect();
            values.shrink_to_fit();
            let at = block.start_row + number;
            if rows.len() <= at {
                rows.resize_with(at + 1, Vec::new);
            }
            place(&mut rows[at], block.start_column, values);
        }
    }
    rows
}

fn place(row: &mut Vec<Value>, start: usize, values: Vec<Value>) {
    if start == 0 && row.is_empty() {
        *row = values;
        return;
    }
    for (number, value) in values.into_iter().enumerate() {
        let at = start + number;
        if row.len() <= at {
            row.resize(at + 1, Value::Empty);
        }
        row[at] = value;
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
