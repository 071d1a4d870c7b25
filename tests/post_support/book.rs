//! A spreadsheet in memory: applies the poster's requests atomically, with Google's refusals.

use kylo::domain::sheet::{CellWrite, MetadataEntry, ObservedTab, Request, Value};

#[derive(Clone, Debug)]
pub struct Grid {
    pub sheet_id: i32,
    pub title: String,
    pub hidden: bool,
    pub frozen_rows: u32,
    pub columns: usize,
    pub rows: Vec<Vec<Value>>,
}

#[derive(Clone, Debug, Default)]
pub struct Book {
    pub grids: Vec<Grid>,
    pub metadata: Vec<MetadataEntry>,
}

impl Grid {
    pub fn new(sheet_id: i32, title: &str, rows: usize, columns: usize) -> Self {
        let rows = vec![vec![Value::Empty; columns]; rows];
        Self { sheet_id, title: title.to_owned(), hidden: false, frozen_rows: 0, columns, rows }
    }

    pub fn observe(&self) -> ObservedTab {
        ObservedTab {
            sheet_id: self.sheet_id,
            title: self.title.clone(),
            hidden: self.hidden,
            row_count: self.rows.len() as u32,
            column_count: self.columns as u32,
            frozen_rows: self.frozen_rows,
            rows: self.rows.clone(),
        }
    }

    pub fn column(&self, header: &str) -> usize {
        self.rows[0].iter().position(|cell| *cell == Value::Text(header.to_owned())).unwrap_or_else(|| panic!("no header {header}"))
    }

    /// Rows below the header that hold anything but unticked boxes.
    pub fn filled(&self) -> Vec<usize> {
        (1..self.rows.len()).filter(|row| self.rows[*row].iter().any(|cell| !matches!(cell, Value::Empty | Value::Bool(false)))).collect()
    }

    pub fn text(&self, row: usize, header: &str) -> String {
        match &self.rows[row][self.column(header)] {
            Value::Empty => String::new(),
            Value::Text(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(state) => state.to_string().to_uppercase(),
            other => format!("{other:?}"),
        }
    }

    /// All of a column's texts in filled rows.
    pub fn texts(&self, header: &str) -> Vec<String> {
        self.filled().into_iter().map(|row| self.text(row, header)).collect()
    }

    /// The row whose Source is this.
    pub fn row_of(&self, source: &str) -> usize {
        self.filled()
            .into_iter()
            .find(|row| self.text(*row, "Source") == source)
            .unwrap_or_else(|| panic!("no row {source}: {:?}", self.texts("Source")))
    }

    pub fn set(&mut self, row: usize, header: &str, value: Value) {
        let column = self.column(header);
        self.rows[row][column] = value;
    }

    pub fn type_in(&mut self, source: &str, header: &str, text: &str) {
        let row = self.row_of(source);
        self.set(row, header, Value::Text(text.to_owned()));
    }

    pub fn approve(&mut self, source: &str, sheet: &str, column: &str) {
        self.type_in(source, "Target_Sheet", sheet);
        self.type_in(source, "Target_Header", column);
        let row = self.row_of(source);
        self.set(row, "Approved", Value::Bool(true));
    }

    /// Sorts the filled rows by a column, descending; `from` is the first column that moves along.
    pub fn sort(&mut self, header: &str, from: usize) {
        let key = self.column(header);
        let filled = self.filled();
        let mut moved: Vec<Vec<Value>> = filled.iter().map(|row| self.rows[*row][from..].to_vec()).collect();
        moved.sort_by_key(|cells| std::cmp::Reverse(format!("{:?}", cells[key - from])));
        for (row, cells) in filled.into_iter().zip(moved) {
            self.rows[row].splice(from.., cells);
        }
    }
}

impl Book {
    pub fn grid(&self, title: &str) -> &Grid {
        let titles: Vec<_> = self.grids.iter().map(|grid| &grid.title).collect();
        self.grids.iter().find(|grid| grid.title == title).unwrap_or_else(|| panic!("no tab {title}: {titles:?}"))
    }

    pub fn grid_mut(&mut self, title: &str) -> &mut Grid {
        self.grids.iter_mut().find(|grid| grid.title == title).unwrap()
    }

    pub fn has(&self, title: &str) -> bool {
        self.grids.iter().any(|grid| grid.title == title)
    }

    /// All or nothing.
    pub fn apply(&mut self, requests: &[Request]) -> Result<(), String> {
        let mut next = self.clone();
        for (index, request) in requests.iter().enumerate() {
            next.one(request).map_err(|reason| format!("Invalid requests[{index}]: {reason}"))?;
        }
        *self = next;
        Ok(())
    }

    fn by_id(&mut self, sheet_id: i32) -> Result<&mut Grid, String> {
        self.grids.iter_mut().find(|grid| grid.sheet_id == sheet_id).ok_or_else(|| format!("No grid with id: {sheet_id}"))
    }

    fn one(&mut self, request: &Request) -> Result<(), String> {
        match request {
            Request::CreateMetadata { id, key, value } => {
                if self.metadata.iter().any(|entry| entry.id == *id) {
                    return Err(format!("developer metadata with ID [{id}] already exists"));
                }
                self.metadata.push(MetadataEntry { id: *id, key: key.clone(), value: value.clone() });
            }
            Request::DeleteMetadata { id } => self.metadata.retain(|entry| entry.id != *id),
            Request::AddSheet { sheet_id, title, rows, columns, frozen_rows, hidden, .. } => {
                if self.grids.iter().any(|grid| grid.sheet_id == *sheet_id || grid.title.to_lowercase() == title.to_lowercase()) {
                    return Err(format!("sheet {sheet_id} or {title:?} already exists"));
                }
                let grid = Grid::new(*sheet_id, title, *rows as usize, *columns as usize);
                self.grids.push(Grid { frozen_rows: *frozen_rows, hidden: *hidden, ..grid });
            }
            Request::DeleteSheet { sheet_id } => {
                self.by_id(*sheet_id)?;
                self.grids.retain(|grid| grid.sheet_id != *sheet_id);
                if !self.grids.iter().any(|grid| !grid.hidden) {
                    return Err("You can't remove all the visible sheets in a document.".to_owned());
                }
            }
            Request::RenameSheet { sheet_id, title } => self.by_id(*sheet_id)?.title.clone_from(title),
            Request::FreezeRows { sheet_id, rows } => {
                let grid = self.by_id(*sheet_id)?;
                if *rows as usize >= grid.rows.len() {
                    return Err("You can't freeze all rows on the sheet.".to_owned());
                }
                grid.frozen_rows = *rows;
            }
            Request::AppendColumns { sheet_id, count } => {
                let grid = self.by_id(*sheet_id)?;
                grid.columns += *count as usize;
                let columns = grid.columns;
                grid.rows.iter_mut().for_each(|row| row.resize(columns, Value::Empty));
            }
            Request::InsertRows { sheet_id, start, count, inherit_from_before } => {
                self.by_id(*sheet_id)?.insert(*start as usize, *count as usize, *inherit_from_before)?;
            }
            Request::DeleteRows { sheet_id, start, count } => self.by_id(*sheet_id)?.delete(*start as usize, *count as usize)?,
            Request::WriteCells { sheet_id, row, column, cells } => self.by_id(*sheet_id)?.write(*row as usize, *column as usize, cells)?,
            Request::StyleHeader { sheet_id, .. }
            | Request::HideColumn { sheet_id, .. }
            | Request::ColumnWidth { sheet_id, .. }
            | Request::WarnOnEdit { sheet_id, .. } => {
                self.by_id(*sheet_id)?;
            }
        }
        Ok(())
    }
}

impl Grid {
    pub fn insert(&mut self, start: usize, count: usize, inherit: bool) -> Result<(), String> {
        if start > self.rows.len() || (start == self.rows.len() && !inherit) {
            return Err(format!("range.startIndex is larger than current grid size ({})", self.rows.len()));
        }
        self.rows.splice(start..start, vec![vec![Value::Empty; self.columns]; count]);
        Ok(())
    }

    pub fn delete(&mut self, start: usize, count: usize) -> Result<(), String> {
        if start + count > self.rows.len() {
            return Err(format!("Cannot delete a row that doesn't exist. Tried to delete row index {start}"));
        }
        if self.rows.len() - count <= self.frozen_rows as usize {
            return Err("Sorry, it is not possible to delete all non-frozen rows.".to_owned());
        }
        self.rows.drain(start..start + count);
        Ok(())
    }

    fn write(&mut self, row: usize, column: usize, cells: &[Vec<CellWrite>]) -> Result<(), String> {
        for (at, line) in (row..).zip(cells) {
            let Some(target) = self.rows.get_mut(at) else { return Err(format!("GridCoordinate.rowIndex[{at}] is after last row in grid")) };
            for (at, cell) in (column..).zip(line) {
                let Some(target) = target.get_mut(at) else { return Err(format!("Attempting to write column: {at}")) };
                *target = match cell {
                    CellWrite::Empty => Value::Empty,
                    CellWrite::Text(text) if text.encode_utf16().count() > 50_000 => {
                        return Err("more than the maximum of 50000 characters".to_owned());
                    }
                    CellWrite::Text(text) => Value::Text(text.clone()),
                    CellWrite::Money(number) => Value::Number(*number),
                    CellWrite::Checkbox(state) => Value::Bool(*state),
                };
            }
        }
        Ok(())
    }
}
