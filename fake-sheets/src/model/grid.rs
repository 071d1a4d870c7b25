//! Rectangles and one-dimensional ranges: `GridRange`, `DimensionRange`, and how they follow inserted, deleted and
//! moved rows and columns. Pure; used by everything that points at cells.

use serde_json::{Map, json};

use crate::json::{Json, index, int, put, text};

/// Rows or columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dim {
    /// Horizontal.
    Rows,
    /// Vertical.
    Columns,
}

impl Dim {
    /// Google's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "ROWS",
            Self::Columns => "COLUMNS",
        }
    }

    /// `row` or `column`, for messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Rows => "row",
            Self::Columns => "column",
        }
    }

    /// Reads the `dimension` of a message.
    ///
    /// # Errors
    /// The refusal's text where it is missing.
    pub fn read(v: &Json) -> Result<Self, String> {
        match text(v, "dimension") {
            Some("ROWS") => Ok(Self::Rows),
            Some("COLUMNS") => Ok(Self::Columns),
            _ => Err("No dimension specified.".into()),
        }
    }
}

/// A change of the rows or columns of a tab.
#[derive(Debug, Clone, Copy)]
pub enum Shift {
    /// `n` new ones in front of `at`.
    Insert {
        /// Index of the first new one.
        at: usize,
        /// How many.
        n: usize,
    },
    /// `from..to` are gone.
    Delete {
        /// The first.
        from: usize,
        /// One past the last.
        to: usize,
    },
    /// `from..to` now stand in front of what was at `dest`.
    Move {
        /// The first.
        from: usize,
        /// One past the last.
        to: usize,
        /// Counted before the move.
        dest: usize,
    },
}

impl Shift {
    /// Where an index is afterwards; `None` when it is gone.
    #[must_use]
    pub fn index(self, i: usize) -> Option<usize> {
        match self {
            Self::Insert { at, n } => Some(if i >= at { i + n } else { i }),
            Self::Delete { from, to } => match i {
                i if i < from => Some(i),
                i if i < to => None,
                i => Some(i - (to - from)),
            },
            Self::Move { from, to, dest } => {
                let len = to - from;
                Some(if dest >= to {
                    match i {
                        i if (from..to).contains(&i) => i + (dest - to),
                        i if (to..dest).contains(&i) => i - len,
                        i => i,
                    }
                } else if dest <= from {
                    match i {
                        i if (from..to).contains(&i) => i - (from - dest),
                        i if (dest..from).contains(&i) => i + len,
                        i => i,
                    }
                } else {
                    i
                })
            }
        }
    }

    /// A bounded or half-open span afterwards; `None` when nothing of it is left.
    fn span(self, start: Option<usize>, end: Option<usize>) -> Option<(Option<usize>, Option<usize>)> {
        let first = start.unwrap_or(0);
        match self {
            Self::Insert { at, n } => {
                let start = start.map(|s| if s >= at { s + n } else { s });
                Some((start, end.map(|e| if e > at { e + n } else { e })))
            }
            Self::Delete { from, to } => {
                let cut = |i: usize| if i <= from { i } else { i.max(to) - (to - from) };
                let (s, e) = (start.map(cut), end.map(cut));
                match e {
                    Some(e) if e <= s.unwrap_or(0) => None,
                    _ => Some((s, e)),
                }
            }
            Self::Move { .. } => {
                let Some(end) = end else { return Some((start, end)) };
                let (Some(s), Some(last)) = (self.index(first), self.index(end.saturating_sub(1))) else {
                    return Some((start, Some(end)));
                };
                if last >= s && last + 1 - s == end - first { Some((Some(s), Some(last + 1))) } else { Some((start, Some(end))) }
            }
        }
    }
}

/// A rectangle of a tab, open where a bound is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GridRange {
    /// The tab.
    pub sheet: i64,
    /// First row.
    pub r0: Option<usize>,
    /// One past the last row.
    pub r1: Option<usize>,
    /// First column.
    pub c0: Option<usize>,
    /// One past the last column.
    pub c1: Option<usize>,
}

/// A rectangle with all its bounds, half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    /// First row.
    pub r0: usize,
    /// One past the last row.
    pub r1: usize,
    /// First column.
    pub c0: usize,
    /// One past the last column.
    pub c1: usize,
}

impl Rect {
    /// As a range of a tab.
    #[must_use]
    pub fn on(self, sheet: i64) -> GridRange {
        GridRange { sheet, r0: Some(self.r0), r1: Some(self.r1), c0: Some(self.c0), c1: Some(self.c1) }
    }

    /// Whether two rectangles share a cell.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.r0 < other.r1 && other.r0 < self.r1 && self.c0 < other.c1 && other.c0 < self.c1
    }

    /// Whether the other lies within this one.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        self.r0 <= other.r0 && other.r1 <= self.r1 && self.c0 <= other.c0 && other.c1 <= self.c1
    }
}

impl GridRange {
    /// A whole tab.
    #[must_use]
    pub fn all(sheet: i64) -> Self {
        Self { sheet, ..Self::default() }
    }

    /// Reads a `GridRange` message.
    ///
    /// # Errors
    /// The refusal's text for negative or reversed bounds.
    pub fn read(v: &Json) -> Result<Self, String> {
        for key in ["startRowIndex", "endRowIndex", "startColumnIndex", "endColumnIndex"] {
            if int(v, key).is_some_and(|n| n < 0) {
                return Err(format!("GridRange.{key} must be non-negative."));
            }
        }
        let range = Self {
            sheet: int(v, "sheetId").unwrap_or(0),
            r0: index(v, "startRowIndex"),
            r1: index(v, "endRowIndex"),
            c0: index(v, "startColumnIndex"),
            c1: index(v, "endColumnIndex"),
        };
        let reversed = |a: Option<usize>, b: Option<usize>| b.is_some_and(|b| b <= a.unwrap_or(0));
        if reversed(range.r0, range.r1) || reversed(range.c0, range.c1) {
            return Err("The start index of a GridRange must be less than its end index.".into());
        }
        Ok(range)
    }

    /// As a message; zeros are left out, as proto3 JSON does.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let mut map = Map::new();
        put(&mut map, "sheetId", self.sheet);
        for (key, bound) in [("startRowIndex", self.r0), ("endRowIndex", self.r1), ("startColumnIndex", self.c0), ("endColumnIndex", self.c1)] {
            put(&mut map, key, bound);
        }
        map.into()
    }

    /// With its open sides filled in and its ends cut at the edge of a grid. Empty where it starts outside.
    #[must_use]
    pub fn rect(&self, rows: usize, columns: usize) -> Rect {
        let (r0, c0) = (self.r0.unwrap_or(0), self.c0.unwrap_or(0));
        Rect { r0, r1: self.r1.unwrap_or(rows).min(rows).max(r0), c0, c1: self.c1.unwrap_or(columns).min(columns).max(c0) }
    }

    /// After rows or columns of its tab changed; `None` when all of it is gone.
    #[must_use]
    pub fn shifted(mut self, dim: Dim, shift: Shift) -> Option<Self> {
        match dim {
            Dim::Rows => (self.r0, self.r1) = shift.span(self.r0, self.r1)?,
            Dim::Columns => (self.c0, self.c1) = shift.span(self.c0, self.c1)?,
        }
        Some(self)
    }
}

/// A `DimensionRange`: rows or columns of a tab.
#[derive(Debug, Clone, Copy)]
pub struct DimRange {
    /// The tab.
    pub sheet: i64,
    /// Which way.
    pub dim: Dim,
    /// The first.
    pub start: Option<usize>,
    /// One past the last.
    pub end: Option<usize>,
}

impl DimRange {
    /// Reads a `DimensionRange` message.
    ///
    /// # Errors
    /// The refusal's text for a missing dimension or bad bounds.
    pub fn read(v: &Json) -> Result<Self, String> {
        let dim = Dim::read(v)?;
        for key in ["startIndex", "endIndex"] {
            if int(v, key).is_some_and(|n| n < 0) {
                return Err(format!("range.{key} must be non-negative."));
            }
        }
        let range = Self { sheet: int(v, "sheetId").unwrap_or(0), dim, start: index(v, "startIndex"), end: index(v, "endIndex") };
        if range.end.is_some_and(|end| end <= range.start.unwrap_or(0)) {
            return Err("range.endIndex must be greater than range.startIndex.".into());
        }
        Ok(range)
    }

    /// As cells.
    #[must_use]
    pub fn cells(&self) -> GridRange {
        let all = GridRange::all(self.sheet);
        match self.dim {
            Dim::Rows => GridRange { r0: self.start, r1: self.end, ..all },
            Dim::Columns => GridRange { c0: self.start, c1: self.end, ..all },
        }
    }
}

/// A `DimensionRange` message of one row or column.
#[must_use]
pub fn one(sheet: i64, dim: Dim, at: usize) -> Json {
    let mut range = json!({"dimension": dim.name(), "endIndex": at + 1});
    if at > 0 {
        range["startIndex"] = at.into();
    }
    if sheet != 0 {
        range["sheetId"] = sheet.into();
    }
    range
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_and_its_inverse_leave_every_index() {
        for (from, to, dest) in [(1, 3, 5), (4, 6, 1), (0, 1, 6), (2, 4, 4), (2, 4, 2)] {
            let there = Shift::Move { from, to, dest };
            let mut seen: Vec<usize> = (0..6).filter_map(|i| there.index(i)).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4, 5], "{there:?}");
        }
    }

    #[test]
    fn a_range_shrinks_by_what_is_deleted_of_it_and_goes_with_its_last_row() {
        let range = Rect { r0: 2, r1: 5, c0: 0, c1: 1 }.on(7);
        let cut = |from, to| range.shifted(Dim::Rows, Shift::Delete { from, to }).map(|r| (r.r0, r.r1));
        assert_eq!(cut(0, 2), Some((Some(0), Some(3))));
        assert_eq!(cut(1, 3), Some((Some(1), Some(3))));
        assert_eq!(cut(3, 4), Some((Some(2), Some(4))));
        assert_eq!(cut(4, 9), Some((Some(2), Some(4))));
        assert_eq!(cut(2, 5), None);
    }

    #[test]
    fn zeros_are_left_out_of_a_range() {
        let range = Rect { r0: 0, r1: 1, c0: 0, c1: 2 }.on(0);
        assert_eq!(range.to_json(), json!({"endRowIndex": 1, "endColumnIndex": 2}));
    }
}
