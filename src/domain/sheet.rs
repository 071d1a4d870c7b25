//! Spreadsheet vocabulary without Google's types: cells as they are read, requests as they are sent.
//!
//! `domain::plan` speaks it, `flow::post` stores it in an intent, `adapters::sheets` translates it. What must never happen here: text from
//! outside becoming a formula. [`Value`] can be *read* as a formula, but there is no way to *write* one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a cell holds, as the user entered it (`userEnteredValue`).
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    #[default]
    Empty,
    Text(String),
    Number(f64),
    Bool(bool),
    /// A formula's own text. Never interpreted.
    Formula(String),
    /// An error value that someone entered.
    Error(String),
}

/// One tab as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedTab {
    pub sheet_id: i32,
    pub title: String,
    pub hidden: bool,
    pub row_count: u32,
    pub column_count: u32,
    pub frozen_rows: u32,
    /// Cells by row, trailing empty ones may be missing. Empty if the cells were not asked for.
    pub rows: Vec<Vec<Value>>,
}

/// A developer-metadata entry on the spreadsheet itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataEntry {
    pub id: i32,
    pub key: String,
    pub value: String,
}

/// A spreadsheet as one read showed it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    pub title: String,
    /// The tabs that were asked for (all of them, without cells, from `directory`).
    pub tabs: Vec<ObservedTab>,
    /// Spreadsheet-level entries under any key.
    pub metadata: Vec<MetadataEntry>,
}

/// A cell to write. There is no formula variant, on purpose (invariant I9).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellWrite {
    Empty,
    /// Literal text, whatever it looks like.
    Text(String),
    /// Currency units with two decimals shown.
    Money(f64),
    /// A checkbox (boolean validation) with this state.
    Checkbox(bool),
}

/// One request of a batchUpdate. Rows and columns count from 0, header included. Serialised into `control.sheet_intents.operations`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Refused by Google if the id exists: the fence.
    CreateMetadata {
        id: i32,
        key: String,
        value: String,
    },
    /// Succeeds if the id does not exist.
    DeleteMetadata {
        id: i32,
    },
    /// Refused if the id or (ignoring case) the title exists.
    AddSheet {
        sheet_id: i32,
        title: String,
        rows: u32,
        columns: u32,
        frozen_rows: u32,
        hidden: bool,
        tab_color: Option<[f32; 3]>,
    },
    /// Refused if the id does not exist.
    DeleteSheet {
        sheet_id: i32,
    },
    RenameSheet {
        sheet_id: i32,
        title: String,
    },
    /// Inserts empty rows before `start` (`start` may equal the number of rows if `inherit_from_before`).
    InsertRows {
        sheet_id: i32,
        start: u32,
        count: u32,
        inherit_from_before: bool,
    },
    DeleteRows {
        sheet_id: i32,
        start: u32,
        count: u32,
    },
    /// Appends empty columns at the right edge.
    AppendColumns {
        sheet_id: i32,
        count: u32,
    },
    /// Writes values (and the number format or checkbox that goes with each) from a start cell; nothing outside the given cells is touched.
    WriteCells {
        sheet_id: i32,
        row: u32,
        column: u32,
        cells: Vec<Vec<CellWrite>>,
    },
    /// Bold, coloured, wrapped header look for row 0.
    StyleHeader {
        sheet_id: i32,
        columns: u32,
    },
    FreezeRows {
        sheet_id: i32,
        rows: u32,
    },
    HideColumn {
        sheet_id: i32,
        column: u32,
    },
    ColumnWidth {
        sheet_id: i32,
        column: u32,
        pixels: u32,
    },
    /// A protected range that only warns. `rows` None = the whole tab, else rows 0..n.
    WarnOnEdit {
        sheet_id: i32,
        rows: Option<u32>,
        description: String,
    },
}

/// What to send and what to hear back.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub requests: Vec<Request>,
    /// Titles of tabs whose cells the answer shall show (after the batch), with the columns wanted (from, to-exclusive).
    pub echo: Vec<EchoRange>,
}

/// Which columns of which tab the answer shall carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EchoRange {
    pub title: String,
    pub columns: u32,
}

/// What a 2xx answer to a batch showed: the echoed tabs by sheet id. Absent tabs were not echoed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    pub tabs: BTreeMap<i32, ObservedTab>,
}
