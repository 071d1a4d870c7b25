//! A block of cells to `updateCells` requests.
//!
//! Called by [`super::encode`]. A request has one field mask for all its cells, and a field in the mask that a cell does not carry is *cleared*. So
//! cells are grouped by what they speak of: text must not reset a person's number format, an amount not a checkbox. What
//! must never happen here: a mask wider than each of its cells, or a value that Google would evaluate.

use google_sheets4::FieldMask;
use google_sheets4::api;

use super::encode::{Unsendable, index};
use crate::domain::sheet::CellWrite;

/// What a cell speaks of besides its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mask {
    Value,
    Format,
    Validation,
}

impl Mask {
    fn of(cell: &CellWrite) -> Self {
        match cell {
            CellWrite::Empty | CellWrite::Text(_) => Self::Value,
            CellWrite::Money(_) => Self::Format,
            CellWrite::Checkbox(_) => Self::Validation,
        }
    }

    fn fields(self) -> FieldMask {
        match self {
            Self::Value => FieldMask::new(&["userEnteredValue"]),
            Self::Format => FieldMask::new(&["userEnteredValue", "userEnteredFormat.numberFormat"]),
            Self::Validation => FieldMask::new(&["userEnteredValue", "dataValidation"]),
        }
    }
}

/// Rows in one request: a typed cell takes 3 kB, so this bounds what is in memory at once to some ten megabytes.
const MOST_ROWS: usize = 250;

/// Hands each `updateCells` request for the block at (`row`, `column`) to `push`: rows of the same make-up together, cut into runs of columns
/// with one mask. A table of n like rows thus takes about as many requests as one row, not n times as many.
pub(super) fn write(
    sheet_id: i32,
    row: u32,
    column: u32,
    cells: &[Vec<CellWrite>],
    mut push: impl FnMut(api::Request) -> Result<(), Unsendable>,
) -> Result<(), Unsendable> {
    let mut first = 0;
    while let Some(pattern) = cells.get(first).map(|row| masks(row)) {
        let count = cells[first..].iter().take(MOST_ROWS).take_while(|row| same_masks(row, &pattern)).count();
        let group = &cells[first..first + count];
        let mut start = 0;
        while let Some(&mask) = pattern.get(start) {
            let length = pattern[start..].iter().take_while(|other| **other == mask).count();
            let rows = group.iter().map(|row| row_data(&row[start..start + length])).collect::<Result<_, _>>()?;
            let start_cell =
                api::GridCoordinate { sheet_id: Some(sheet_id), row_index: Some(offset(row, first)?), column_index: Some(offset(column, start)?) };
            let update = api::UpdateCellsRequest { start: Some(start_cell), rows: Some(rows), fields: Some(mask.fields()), range: None };
            push(api::Request { update_cells: Some(update), ..Default::default() })?;
            start += length;
        }
        first += count;
    }
    Ok(())
}

fn masks(row: &[CellWrite]) -> Vec<Mask> {
    row.iter().map(Mask::of).collect()
}

fn same_masks(row: &[CellWrite], pattern: &[Mask]) -> bool {
    row.len() == pattern.len() && row.iter().zip(pattern).all(|(cell, mask)| Mask::of(cell) == *mask)
}

fn offset(base: u32, add: usize) -> Result<i32, Unsendable> {
    let sum = u32::try_from(add).ok().and_then(|add| base.checked_add(add)).ok_or_else(|| format!("{add} more than {base} is outside every tab"))?;
    index(sum)
}

fn row_data(cells: &[CellWrite]) -> Result<api::RowData, Unsendable> {
    Ok(api::RowData { values: Some(cells.iter().map(cell_data).collect::<Result<_, _>>()?) })
}

fn cell_data(cell: &CellWrite) -> Result<api::CellData, Unsendable> {
    let value = |value| api::CellData { user_entered_value: Some(value), ..Default::default() };
    Ok(match cell {
        // No value under a mask that names the value: cleared.
        CellWrite::Empty => api::CellData::default(),
        CellWrite::Text(text) => value(api::ExtendedValue { string_value: Some(text.clone()), ..Default::default() }),
        CellWrite::Money(units) => {
            if !units.is_finite() {
                return Err("an amount is not a finite number".to_owned());
            }
            let number = api::NumberFormat { type_: Some("NUMBER".to_owned()), pattern: Some("#,##0.00".to_owned()) };
            let format = api::CellFormat { number_format: Some(number), ..Default::default() };
            let amount = api::ExtendedValue { number_value: Some(*units), ..Default::default() };
            api::CellData { user_entered_format: Some(format), ..value(amount) }
        }
        CellWrite::Checkbox(ticked) => {
            let condition = api::BooleanCondition { type_: Some("BOOLEAN".to_owned()), values: None };
            let rule = api::DataValidationRule { condition: Some(condition), strict: Some(true), show_custom_ui: Some(true), input_message: None };
            let state = api::ExtendedValue { bool_value: Some(*ticked), ..Default::default() };
            api::CellData { data_validation: Some(rule), ..value(state) }
        }
    })
}
