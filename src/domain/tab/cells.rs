//! How values stand in cells, and whether a cell that was read shows what it must.
//!
//! Called by the planner and by [`super`]. What must never happen here: an amount that a float would round.

use chrono::NaiveDate;

use crate::domain::money;
use crate::domain::sheet::{CellWrite, Value};

/// Text longer than this many UTF-16 units (Google's cell limit is 50,000) is shown cut and stays whole in Postgres.
const MAX_UNITS: usize = 49_000;
const CUT_MARK: &str = " … [cut]";

/// Beyond this many cents a number in a cell would no longer be exact.
const MAX_EXACT_CENTS: u64 = (1 << 53) - 1;

/// A text as a cell shows it: cut when it is too long for one.
pub fn shown(text: &str) -> std::borrow::Cow<'_, str> {
    if text.len() <= MAX_UNITS || text.encode_utf16().count() <= MAX_UNITS {
        return text.into();
    }
    let room = MAX_UNITS - CUT_MARK.encode_utf16().count();
    let mut units = 0;
    let fits = |c: &char| {
        units += c.len_utf16();
        units <= room
    };
    let mut cut: String = text.chars().take_while(fits).collect();
    cut.push_str(CUT_MARK);
    cut.into()
}

/// A cell with this text, empty for no text.
pub fn text_cell(text: &str) -> CellWrite {
    if text.is_empty() { CellWrite::Empty } else { CellWrite::Text(shown(text).into_owned()) }
}

pub(super) fn date_text(date: NaiveDate) -> String {
    date.format("%Y-%m-%d").to_string()
}

/// Currency units as a number; beyond what a number holds exactly, as text.
#[expect(clippy::cast_precision_loss, reason = "at most 2^53 - 1, which an f64 holds exactly")]
pub fn amount_cell(cents: i64) -> CellWrite {
    if cents.unsigned_abs() <= MAX_EXACT_CENTS { CellWrite::Money(cents as f64 / 100.0) } else { CellWrite::Text(money::Cents(cents).to_string()) }
}

/// Whether a cell that was read shows what was to be written.
pub fn shows(seen: &Value, wanted: &CellWrite) -> bool {
    match wanted {
        CellWrite::Empty => shows_text(seen, ""),
        CellWrite::Text(text) => shows_text(seen, text),
        CellWrite::Money(units) => matches!(seen, Value::Number(number) if (number - units).abs() < 0.000_1),
        CellWrite::Checkbox(state) => matches!(seen, Value::Bool(seen) if seen == state),
    }
}

pub(super) fn shows_text(seen: &Value, wanted: &str) -> bool {
    match seen {
        Value::Empty => wanted.is_empty(),
        Value::Text(text) => text == wanted,
        _ => false,
    }
}

/// Whether an Amount cell shows these cents. A number is compared as cents; so is text, which is how great amounts are written.
#[expect(clippy::cast_precision_loss, reason = "the comparison allows for it")]
pub fn shows_amount(seen: &Value, cents: i64) -> bool {
    match seen {
        Value::Number(number) if cents.unsigned_abs() <= MAX_EXACT_CENTS => {
            let wanted = cents as f64 / 100.0;
            // Equal bits for what Kylo wrote; the tolerance is for a cell that a formula or a person recomputed.
            number.to_bits() == wanted.to_bits() || (number - wanted).abs() < 0.000_1
        }
        Value::Text(text) => money::parse_text(text.trim()).is_ok_and(|seen| seen.0 == cents),
        _ => false,
    }
}
