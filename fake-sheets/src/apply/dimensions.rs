//! insertDimension, deleteDimension, appendDimension, moveDimension, updateDimensionProperties.

use std::sync::Arc;

use super::{Editor, Reply, nothing, required, required_mask};
use crate::error::Refusal;
use crate::json::{Json, flag, index, int};
use crate::model::cell::{Cell, Look};
use crate::model::grid::{Dim, DimRange, Shift};
use crate::model::sheet::{DimProps, Sheet};

const DEFAULT_WIDTH: i64 = 100;
const DEFAULT_HEIGHT: i64 = 21;

/// The size Google shows for a row or column nobody sized.
#[must_use]
pub fn default_pixels(dim: Dim) -> i64 {
    match dim {
        Dim::Rows => DEFAULT_HEIGHT,
        Dim::Columns => DEFAULT_WIDTH,
    }
}

fn other_count(sheet: &Sheet, dim: Dim) -> usize {
    match dim {
        Dim::Rows => sheet.column_count,
        Dim::Columns => sheet.row_count,
    }
}

pub(super) fn insert(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let range = DimRange::read(required(body, "range")?)?;
    let sheet = ed.grid(range.sheet)?;
    let (Some(end), at) = (range.end, range.start.unwrap_or(0)) else {
        return Err("range.startIndex and range.endIndex must be specified.".into());
    };
    let (count, before, n) = (sheet.count(range.dim), flag(body, "inheritFromBefore"), end - at);
    if at > count {
        return Err(format!("range.startIndex is larger than current grid size ({count})").into());
    }
    if at == count && !before {
        let text = format!("range.startIndex must be less than the grid size ({count}) if inheritFromBefore is false.");
        return Err(text.into());
    }
    if at == 0 && before {
        return Err("range.startIndex must be greater than 0 if inheritFromBefore is true.".into());
    }
    let columns = if range.dim == Dim::Columns { count + n } else { sheet.column_count };
    ed.check_size(columns, n.saturating_mul(other_count(sheet, range.dim)))?;
    ed.book.shift(range.sheet, range.dim, Shift::Insert { at, n });
    let sheet = ed.grid_mut(range.sheet)?;
    match range.dim {
        Dim::Rows if at < sheet.frozen_rows => sheet.frozen_rows += n,
        Dim::Columns if at < sheet.frozen_columns => sheet.frozen_columns += n,
        _ => {}
    }
    inherit(sheet, range.dim, if before { at - 1 } else { end }, at..end);
    Ok(nothing())
}

/// New rows and columns look like a neighbour: formats, rules and sizes, not values, notes or being hidden.
fn inherit(sheet: &mut Sheet, dim: Dim, from: usize, new: std::ops::Range<usize>) {
    let bare = |cell: &Cell| -> Option<Arc<Look>> {
        let look = cell.look.as_ref()?;
        if look.note.is_none() && look.other.is_empty() {
            return Some(Arc::clone(look));
        }
        Look { format: look.format.clone(), rule: look.rule.clone(), ..Look::default() }.shared()
    };
    let props = DimProps { hidden: false, filtered: false, ..sheet.dim_props(dim, from) };
    for at in new.clone() {
        sheet.set_dim_props(dim, at, props);
    }
    match dim {
        Dim::Rows => {
            let looks: Vec<Option<Arc<Look>>> = sheet.rows.get(from).map(|row| row.cells.iter().map(bare).collect()).unwrap_or_default();
            for (column, look) in looks.into_iter().enumerate().filter(|(_, look)| look.is_some()) {
                for row in new.clone() {
                    sheet.set(row, column, Cell { value: None, look: look.clone() });
                }
            }
        }
        Dim::Columns => {
            for row in 0..sheet.rows.len() {
                let look = bare(sheet.cell(row, from));
                for column in new.clone().filter(|_| look.is_some()) {
                    sheet.set(row, column, Cell { value: None, look: look.clone() });
                }
            }
        }
    }
}

pub(super) fn delete(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let range = DimRange::read(required(body, "range")?)?;
    let sheet = ed.grid(range.sheet)?;
    let (dim, count) = (range.dim, sheet.count(range.dim));
    let (from, to, word) = (range.start.unwrap_or(0), range.end.unwrap_or(count), dim.word());
    if from >= count || to > count {
        let at = from.max(count);
        return Err(
            format!("Cannot delete a {word} that doesn't exist. Tried to delete {word} index {at} but there are only {count} {word}s.").into()
        );
    }
    if to - from == count {
        return Err(format!("You can't delete all the {word}s on the sheet.").into());
    }
    let frozen = sheet.frozen(dim);
    let frozen_left = frozen - frozen.min(to).saturating_sub(from);
    if frozen_left >= count - (to - from) {
        return Err(format!("Sorry, it is not possible to delete all non-frozen {word}s.").into());
    }
    ed.guard(&range.cells())?;
    ed.book.shift(range.sheet, dim, Shift::Delete { from, to });
    let sheet = ed.grid_mut(range.sheet)?;
    match dim {
        Dim::Rows => sheet.frozen_rows = frozen_left,
        Dim::Columns => sheet.frozen_columns = frozen_left,
    }
    Ok(nothing())
}

pub(super) fn append(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let (id, dim) = (int(body, "sheetId").unwrap_or(0), Dim::read(body)?);
    let n = index(body, "length").filter(|n| *n > 0).ok_or("length must be greater than 0.")?;
    let sheet = ed.grid(id)?;
    let columns = if dim == Dim::Columns { sheet.column_count + n } else { sheet.column_count };
    ed.check_size(columns, n.saturating_mul(other_count(sheet, dim)))?;
    let sheet = ed.grid_mut(id)?;
    match dim {
        Dim::Rows => sheet.row_count += n,
        Dim::Columns => sheet.column_count += n,
    }
    Ok(nothing())
}

/// moveDimension.
pub(super) fn shove(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let range = DimRange::read(required(body, "source")?)?;
    let sheet = ed.grid(range.sheet)?;
    let count = sheet.count(range.dim);
    let (from, to) = (range.start.unwrap_or(0), range.end.unwrap_or(count));
    let dest = index(body, "destinationIndex").unwrap_or(0);
    if to > count || dest > count {
        return Err(format!("source and destinationIndex must lie within the grid ({count} {}s).", range.dim.word()).into());
    }
    if from < dest && dest < to {
        return Err("destinationIndex must not be within the source range.".into());
    }
    ed.guard(&range.cells())?;
    ed.book.shift(range.sheet, range.dim, Shift::Move { from, to, dest });
    Ok(nothing())
}

pub(super) fn update(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let mask = required_mask(body, "DimensionProperties")?;
    if body.get("range").is_none() {
        return Err(Refusal::Missing("updateDimensionProperties of a data source sheet".into()));
    }
    let range = DimRange::read(required(body, "range")?)?;
    let sheet = ed.grid_mut(range.sheet)?;
    let count = sheet.count(range.dim);
    let (from, to) = (range.start.unwrap_or(0), range.end.unwrap_or(count));
    if from >= count || to > count {
        return Err(format!("range must lie within the grid ({count} {}s).", range.dim.word()).into());
    }
    let source = body.get("properties").unwrap_or(&Json::Null);
    for at in from..to {
        let mut merged = sheet.dim_props(range.dim, at).to_json(0);
        mask.merge(&mut merged, source);
        sheet.set_dim_props(range.dim, at, DimProps::from_json(&merged));
    }
    Ok(nothing())
}

/// Accepted for a tab that exists; widths are not computed.
pub(super) fn auto_resize(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let range = DimRange::read(required(body, "dimensions")?)?;
    ed.grid(range.sheet)?;
    Ok(nothing())
}
