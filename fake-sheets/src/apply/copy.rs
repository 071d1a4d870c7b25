//! copyPaste: values, formats and rules of one range into another, repeated to fill it.

use super::{Editor, Reply, nothing, required};
use crate::a1;
use crate::error::Refusal;
use crate::json::{Json, text};
use crate::model::cell::{Cell, Look};
use crate::model::grid::{GridRange, Rect};

#[derive(Clone, Copy, PartialEq)]
enum Paste {
    All,
    Values,
    Format,
    Rules,
}

pub(super) fn copy_paste(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let what = match text(body, "pasteType").unwrap_or("PASTE_NORMAL") {
        "PASTE_NORMAL" | "PASTE_NO_BORDERS" => Paste::All,
        "PASTE_VALUES" | "PASTE_FORMULA" => Paste::Values,
        "PASTE_FORMAT" => Paste::Format,
        "PASTE_DATA_VALIDATION" => Paste::Rules,
        other => return Err(Refusal::Missing(format!("copyPaste with {other}"))),
    };
    let transposed = text(body, "pasteOrientation") == Some("TRANSPOSE");
    let (from, to) = (GridRange::read(required(body, "source")?)?, GridRange::read(required(body, "destination")?)?);
    let sheet = ed.grid(from.sheet)?;
    a1::check_start(sheet, &from)?;
    let source = sheet.rect(&from);
    let mut cells: Vec<Vec<Cell>> = (source.r0..source.r1).map(|r| (source.c0..source.c1).map(|c| sheet.cell(r, c).clone()).collect()).collect();
    if transposed {
        cells = (0..source.c1 - source.c0).map(|c| cells.iter().map(|row| row[c].clone()).collect()).collect();
    }
    let (height, width) = (cells.len(), cells.first().map_or(0, Vec::len));
    let target = ed.grid(to.sheet)?;
    a1::check_start(target, &to)?;
    let asked = target.rect(&to);
    // A destination that is no multiple of the source gets the source once, from its corner.
    let times = |asked: usize, one: usize| if asked.is_multiple_of(one) { asked } else { one };
    let rect = Rect {
        r1: (asked.r0 + times(asked.r1 - asked.r0, height)).min(target.row_count),
        c1: (asked.c0 + times(asked.c1 - asked.c0, width)).min(target.column_count),
        ..asked
    };
    ed.guard(&rect.on(to.sheet))?;
    let target = ed.grid_mut(to.sheet)?;
    for row in rect.r0..rect.r1 {
        for column in rect.c0..rect.c1 {
            let new = &cells[(row - rect.r0) % height][(column - rect.c0) % width];
            let pasted = pasted(target.cell(row, column), new, what);
            target.set(row, column, pasted);
        }
    }
    Ok(nothing())
}

fn pasted(old: &Cell, new: &Cell, what: Paste) -> Cell {
    let look = |from: &Cell| from.look.as_deref().cloned().unwrap_or_default();
    match what {
        Paste::All => new.clone(),
        Paste::Values => Cell { value: new.value.clone(), look: old.look.clone() },
        Paste::Format => {
            let look = Look { format: look(new).format, ..look(old) };
            Cell { value: old.value.clone(), look: look.shared() }
        }
        Paste::Rules => {
            let look = Look { rule: look(new).rule, ..look(old) };
            Cell { value: old.value.clone(), look: look.shared() }
        }
    }
}
