//! One tab: its grid of rows, copied only where written, and what lies on it. Knows nothing of other tabs, accounts or
//! HTTP. Rows beyond the last one written are not stored, so an empty tab of a million rows costs nothing.

use std::sync::{Arc, LazyLock};

use serde_json::{Map, json};

use super::cell::Cell;
use super::grid::{Dim, GridRange, Rect, Shift};
use crate::json::{Json, flag, index, int, list, put, text};

/// What a row or column has beside its cells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DimProps {
    /// Hidden by a person or a program.
    pub hidden: bool,
    /// Hidden by the basic filter.
    pub filtered: bool,
    /// Height or width; Google's default where none was set.
    pub pixels: Option<i64>,
}

impl DimProps {
    /// As `DimensionProperties`, without metadata.
    #[must_use]
    pub fn to_json(self, default_pixels: i64) -> Json {
        let mut map = Map::new();
        put(&mut map, "hiddenByFilter", self.filtered);
        put(&mut map, "hiddenByUser", self.hidden);
        put(&mut map, "pixelSize", self.pixels.unwrap_or(default_pixels));
        map.into()
    }

    /// Takes over what an update has merged.
    #[must_use]
    pub fn from_json(v: &Json) -> Self {
        Self { hidden: flag(v, "hiddenByUser"), filtered: flag(v, "hiddenByFilter"), pixels: int(v, "pixelSize") }
    }
}

/// A row of the grid: cells up to the last one written.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// From column A on.
    pub cells: Vec<Cell>,
    /// Height, visibility.
    pub props: DimProps,
}

static EMPTY_ROW: LazyLock<Arc<Row>> = LazyLock::new(Arc::default);
static EMPTY_CELL: Cell = Cell { value: None, look: None };

/// A protected range.
#[derive(Debug, Clone)]
pub struct Protection {
    /// Its id.
    pub id: i64,
    /// What it covers.
    pub range: GridRange,
    /// The holes in it.
    pub holes: Vec<GridRange>,
    /// Only warns.
    pub warns: bool,
    /// Who may edit, beside the owner of the spreadsheet.
    pub users: Vec<String>,
    /// Description and the like.
    pub other: Map<String, Json>,
}

impl Protection {
    /// Reads a `ProtectedRange` message.
    ///
    /// # Errors
    /// The refusal's text for a bad range.
    pub fn read(id: i64, v: &Json) -> Result<Self, String> {
        let range = v.get("range").ok_or("Protected range must have a range.")?;
        let mut other = v.as_object().cloned().unwrap_or_default();
        for key in ["protectedRangeId", "range", "unprotectedRanges", "warningOnly", "editors", "requestingUserCanEdit"] {
            other.remove(key);
        }
        let users = v.get("editors").map(|e| list(e, "users")).unwrap_or_default();
        Ok(Self {
            id,
            range: GridRange::read(range)?,
            holes: list(v, "unprotectedRanges").iter().map(GridRange::read).collect::<Result<_, _>>()?,
            warns: flag(v, "warningOnly"),
            users: users.iter().filter_map(|u| u.as_str().map(str::to_lowercase)).collect(),
            other,
        })
    }

    /// As a message; `can_edit` is the caller's right.
    #[must_use]
    pub fn to_json(&self, can_edit: bool) -> Json {
        let mut map = self.other.clone();
        map.insert("protectedRangeId".into(), self.id.into());
        map.insert("range".into(), self.range.to_json());
        put(&mut map, "requestingUserCanEdit", can_edit);
        put(&mut map, "warningOnly", self.warns);
        put(&mut map, "unprotectedRanges", self.holes.iter().map(GridRange::to_json).collect::<Vec<_>>());
        if !self.warns {
            map.insert("editors".into(), json!({"users": self.users}));
        }
        map.into()
    }

    /// Whether the account (in lower case) may edit inside, not being the owner.
    #[must_use]
    pub fn lets(&self, account: &str) -> bool {
        self.warns || self.users.iter().any(|user| user == account)
    }
}

/// A tab.
#[derive(Debug, Clone)]
pub struct Sheet {
    /// `sheetId`.
    pub id: i64,
    /// Title, as shown.
    pub title: String,
    /// Hidden tab.
    pub hidden: bool,
    /// Rows of the grid.
    pub row_count: usize,
    /// Columns of the grid.
    pub column_count: usize,
    /// Rows that stay in view.
    pub frozen_rows: usize,
    /// Columns that stay in view.
    pub frozen_columns: usize,
    /// Rows up to the last one written.
    pub rows: Vec<Arc<Row>>,
    /// Widths and visibility, up to the last column set.
    pub columns: Vec<DimProps>,
    /// Protected ranges.
    pub protections: Vec<Protection>,
    /// Merged cells.
    pub merges: Vec<GridRange>,
    /// The basic filter, its range apart.
    pub filter: Option<(GridRange, Json)>,
    /// Conditional formats, as stored.
    pub conditional: Vec<Json>,
    /// Banded ranges: id, range, the rest.
    pub bands: Vec<(i64, GridRange, Json)>,
    /// Other properties (tab colour, right to left).
    pub other: Map<String, Json>,
    /// Other grid properties.
    pub grid_other: Map<String, Json>,
}

impl Sheet {
    /// An empty tab of Google's default size.
    #[must_use]
    pub fn new(id: i64, title: &str) -> Self {
        Self {
            id,
            title: title.to_owned(),
            hidden: false,
            row_count: 1000,
            column_count: 26,
            frozen_rows: 0,
            frozen_columns: 0,
            rows: Vec::new(),
            columns: Vec::new(),
            protections: Vec::new(),
            merges: Vec::new(),
            filter: None,
            conditional: Vec::new(),
            bands: Vec::new(),
            other: Map::new(),
            grid_other: Map::new(),
        }
    }

    /// `SheetProperties`.
    #[must_use]
    pub fn properties(&self, place: usize) -> Json {
        let mut grid = self.grid_other.clone();
        grid.insert("rowCount".into(), self.row_count.into());
        grid.insert("columnCount".into(), self.column_count.into());
        put(&mut grid, "frozenRowCount", self.frozen_rows);
        put(&mut grid, "frozenColumnCount", self.frozen_columns);
        let mut map = self.other.clone();
        map.insert("sheetId".into(), self.id.into());
        map.insert("title".into(), self.title.as_str().into());
        map.insert("index".into(), place.into());
        map.insert("sheetType".into(), "GRID".into());
        map.insert("gridProperties".into(), grid.into());
        put(&mut map, "hidden", self.hidden);
        map.into()
    }

    /// Takes over what a create or update has merged: all but id, index and the size, which the caller judges first.
    pub fn set_properties(&mut self, v: &Json) {
        if let Some(title) = text(v, "title") {
            self.title = title.to_owned();
        }
        self.hidden = flag(v, "hidden");
        let grid = v.get("gridProperties").unwrap_or(&Json::Null);
        self.frozen_rows = index(grid, "frozenRowCount").unwrap_or(0);
        self.frozen_columns = index(grid, "frozenColumnCount").unwrap_or(0);
        let rest = |v: &Json, known: &[&str]| -> Map<String, Json> {
            let all = v.as_object().cloned().unwrap_or_default();
            all.into_iter().filter(|(key, value)| !known.contains(&key.as_str()) && *value != Json::Bool(false)).collect()
        };
        self.other = rest(v, &["sheetId", "title", "index", "sheetType", "gridProperties", "hidden"]);
        self.grid_other = rest(grid, &["rowCount", "columnCount", "frozenRowCount", "frozenColumnCount"]);
    }

    /// How many rows or columns the grid has.
    #[must_use]
    pub fn count(&self, dim: Dim) -> usize {
        match dim {
            Dim::Rows => self.row_count,
            Dim::Columns => self.column_count,
        }
    }

    /// How many rows or columns are frozen.
    #[must_use]
    pub fn frozen(&self, dim: Dim) -> usize {
        match dim {
            Dim::Rows => self.frozen_rows,
            Dim::Columns => self.frozen_columns,
        }
    }

    /// A range cut to this grid.
    #[must_use]
    pub fn rect(&self, range: &GridRange) -> Rect {
        range.rect(self.row_count, self.column_count)
    }

    /// The cell at a place, also where none is stored.
    #[must_use]
    pub fn cell(&self, row: usize, column: usize) -> &Cell {
        self.rows.get(row).and_then(|r| r.cells.get(column)).unwrap_or(&EMPTY_CELL)
    }

    /// The row for writing; it and those above are stored from now on.
    pub fn row_mut(&mut self, row: usize) -> &mut Row {
        if self.rows.len() <= row {
            self.rows.resize(row + 1, Arc::clone(&EMPTY_ROW));
        }
        Arc::make_mut(&mut self.rows[row])
    }

    /// Replaces the cell at a place.
    pub fn set(&mut self, row: usize, column: usize, cell: Cell) {
        if cell.is_empty() && self.cell(row, column).is_empty() {
            return;
        }
        let cells = &mut self.row_mut(row).cells;
        if cells.len() <= column {
            cells.resize(column + 1, Cell::default());
        }
        cells[column] = cell;
        while cells.last().is_some_and(Cell::is_empty) {
            cells.pop();
        }
    }

    /// One past the last row that holds data (or, if asked, a checkbox without a value).
    #[must_use]
    pub fn data_end(&self, checkboxes: bool) -> usize {
        let holds = |cell: &Cell| cell.has_data() || (checkboxes && cell.is_checkbox());
        self.rows.iter().rposition(|row| row.cells.iter().any(holds)).map_or(0, |last| last + 1)
    }

    /// The properties of a row or column.
    #[must_use]
    pub fn dim_props(&self, dim: Dim, at: usize) -> DimProps {
        match dim {
            Dim::Rows => self.rows.get(at).map(|row| row.props),
            Dim::Columns => self.columns.get(at).copied(),
        }
        .unwrap_or_default()
    }

    /// Sets the properties of a row or column.
    pub fn set_dim_props(&mut self, dim: Dim, at: usize, props: DimProps) {
        if self.dim_props(dim, at) == props {
            return;
        }
        match dim {
            Dim::Rows => self.row_mut(at).props = props,
            Dim::Columns => {
                if self.columns.len() <= at {
                    self.columns.resize(at + 1, DimProps::default());
                }
                self.columns[at] = props;
            }
        }
    }

    /// Cuts or grows the grid; what is cut off is gone.
    pub fn resize(&mut self, rows: usize, columns: usize) {
        self.rows.truncate(rows);
        self.columns.truncate(columns);
        if columns < self.column_count {
            for row in &mut self.rows {
                if row.cells.len() > columns {
                    Arc::make_mut(row).cells.truncate(columns);
                }
            }
        }
        (self.row_count, self.column_count) = (rows, columns);
    }

    /// Inserts, deletes or moves rows or columns, with their cells and with what lies on them. The caller has judged
    /// the bounds.
    pub fn shift(&mut self, dim: Dim, shift: Shift) {
        match dim {
            Dim::Rows => shift_list(&mut self.rows, shift, || Arc::clone(&EMPTY_ROW)),
            Dim::Columns => {
                shift_list(&mut self.columns, shift, DimProps::default);
                for row in &mut self.rows {
                    if !row.cells.is_empty() {
                        let cells = &mut Arc::make_mut(row).cells;
                        shift_list(cells, shift, Cell::default);
                        while cells.last().is_some_and(Cell::is_empty) {
                            cells.pop();
                        }
                    }
                }
            }
        }
        let count = match dim {
            Dim::Rows => &mut self.row_count,
            Dim::Columns => &mut self.column_count,
        };
        match shift {
            Shift::Insert { n, .. } => *count += n,
            Shift::Delete { from, to } => *count -= to - from,
            Shift::Move { .. } => {}
        }
        let moved = |range: &mut GridRange| {
            range.shifted(dim, shift).is_some_and(|new| {
                *range = new;
                true
            })
        };
        self.merges.retain_mut(moved);
        self.bands.retain_mut(|(_, range, _)| moved(range));
        self.protections.retain_mut(|p| {
            p.holes.retain_mut(moved);
            moved(&mut p.range)
        });
        self.filter = self.filter.take().and_then(|(range, rest)| Some((range.shifted(dim, shift)?, rest)));
    }
}

/// Applies a shift to a list that stores only its first part.
fn shift_list<T: Clone>(items: &mut Vec<T>, shift: Shift, empty: impl Fn() -> T) {
    match shift {
        Shift::Insert { at, n } => {
            if at < items.len() {
                items.splice(at..at, std::iter::repeat_with(empty).take(n));
            }
        }
        Shift::Delete { from, to } => {
            if from < items.len() {
                items.drain(from..to.min(items.len()));
            }
        }
        Shift::Move { from, to, dest } => {
            let needed = to.max(dest);
            if from.min(dest) >= items.len() {
                return;
            }
            if items.len() < needed {
                items.resize(needed, empty());
            }
            if dest > to {
                items[from..dest].rotate_left(to - from);
            } else if dest < from {
                items[dest..to].rotate_right(to - from);
            }
        }
    }
}
