//! `DataFilter`: developer metadata, cells or A1 notation, as a choice of cells and as a choice of metadata entries.

use crate::a1;
use crate::json::{Json, text};
use crate::model::book::Book;
use crate::model::grid::{DimRange, GridRange};
use crate::model::metadata::{Entry, Lookup, Place};

/// A filter that has been read.
#[derive(Debug)]
pub enum Filter {
    /// By developer metadata.
    Lookup(Lookup),
    /// By cells.
    Cells(GridRange),
}

impl Filter {
    /// Reads the message.
    ///
    /// # Errors
    /// The refusal's text.
    pub fn read(book: &Book, v: &Json) -> Result<Self, String> {
        if let Some(lookup) = v.get("developerMetadataLookup") {
            return Lookup::read(lookup).map(Self::Lookup);
        }
        if let Some(range) = v.get("gridRange") {
            let range = GridRange::read(range)?;
            return book.sheet(range.sheet).map(|_| Self::Cells(range)).ok_or_else(|| format!("No grid with id: {}", range.sheet));
        }
        match text(v, "a1Range") {
            Some(range) => a1::parse(book, range).map(Self::Cells),
            None => Err("Must specify a data filter.".into()),
        }
    }

    /// Whether it selects a metadata entry: by its fields, or by lying on the cells.
    #[must_use]
    pub fn finds(&self, book: &Book, entry: &Entry) -> bool {
        match (self, entry.place) {
            (Self::Lookup(lookup), _) => lookup.finds(entry),
            (Self::Cells(range), Place::Line(sheet, dim, at)) if range.sheet == sheet => {
                let line = DimRange { sheet, dim, start: Some(at), end: Some(at + 1) };
                book.sheet(sheet).is_some_and(|s| s.rect(range).meets(&s.rect(&line.cells())))
            }
            (Self::Cells(range), Place::Sheet(sheet)) => *range == GridRange::all(sheet),
            _ => false,
        }
    }

    /// The cells it selects.
    #[must_use]
    pub fn ranges(&self, book: &Book) -> Vec<GridRange> {
        match self {
            Self::Cells(range) => vec![*range],
            Self::Lookup(lookup) => {
                let found = book.metadata.values().filter(|e| lookup.finds(e));
                found.flat_map(|e| cells_of(book, e.place)).collect()
            }
        }
    }
}

fn cells_of(book: &Book, place: Place) -> Vec<GridRange> {
    match place {
        Place::Spreadsheet => book.sheets.iter().map(|s| GridRange::all(s.id)).collect(),
        Place::Sheet(id) => vec![GridRange::all(id)],
        Place::Line(sheet, dim, at) => vec![DimRange { sheet, dim, start: Some(at), end: Some(at + 1) }.cells()],
    }
}
