//! Developer metadata: entries, where they sit, what a lookup finds, and the storage they may take. They are the only
//! create-if-absent of the API, so an id that exists must always refuse a second one.

use serde_json::{Map, json};

use super::book::Book;
use super::grid::{Dim, DimRange, one};
use crate::json::{Json, flag, int, text};

/// Characters of keys and values for the spreadsheet itself, and for each tab.
pub const BUDGET: usize = 30_000;

/// Where an entry sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The spreadsheet.
    Spreadsheet,
    /// A tab.
    Sheet(i64),
    /// A row or column of a tab.
    Line(i64, Dim, usize),
}

impl Place {
    /// Reads a `DeveloperMetadataLocation`.
    ///
    /// # Errors
    /// The refusal's text.
    pub fn read(v: &Json) -> Result<Self, String> {
        if flag(v, "spreadsheet") {
            return Ok(Self::Spreadsheet);
        }
        if let Some(sheet) = int(v, "sheetId") {
            return Ok(Self::Sheet(sheet));
        }
        let Some(range) = v.get("dimensionRange") else {
            return Err("Developer metadata must always have a location specified.".into());
        };
        let range = DimRange::read(range)?;
        match (range.start, range.end) {
            (start, Some(end)) if start.is_some() || end == 1 => {
                let start = start.unwrap_or(0);
                if end - start != 1 {
                    return Err("DimensionRange must represent a single row or column".into());
                }
                Ok(Self::Line(range.sheet, range.dim, start))
            }
            _ => Err("DimensionRange must specify both a startIndex and an endIndex".into()),
        }
    }

    /// The tab it is on.
    #[must_use]
    pub fn sheet(self) -> Option<i64> {
        match self {
            Self::Spreadsheet => None,
            Self::Sheet(id) | Self::Line(id, ..) => Some(id),
        }
    }

    /// Google's `locationType`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Spreadsheet => "SPREADSHEET",
            Self::Sheet(_) => "SHEET",
            Self::Line(_, Dim::Rows, _) => "ROW",
            Self::Line(_, Dim::Columns, _) => "COLUMN",
        }
    }

    fn to_json(self) -> Json {
        match self {
            Self::Spreadsheet => json!({"locationType": self.kind(), "spreadsheet": true}),
            Self::Sheet(0) => json!({"locationType": self.kind()}),
            Self::Sheet(id) => json!({"locationType": self.kind(), "sheetId": id}),
            Self::Line(id, dim, at) => json!({"locationType": self.kind(), "dimensionRange": one(id, dim, at)}),
        }
    }
}

/// One entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Unique in the spreadsheet.
    pub id: i64,
    /// May repeat.
    pub key: String,
    /// May be absent.
    pub value: Option<String>,
    /// `DOCUMENT` or `PROJECT`.
    pub visibility: String,
    /// Where it sits.
    pub place: Place,
}

impl Entry {
    /// Reads a `DeveloperMetadata` message.
    ///
    /// # Errors
    /// The refusal's text for what is missing.
    pub fn read(id: i64, v: &Json) -> Result<Self, String> {
        let missing = |what: &str| format!("Developer metadata must always have {what} specified.");
        let key = text(v, "metadataKey").filter(|key| !key.is_empty()).ok_or_else(|| missing("a key"))?;
        let visibility = text(v, "visibility").filter(|v| matches!(*v, "DOCUMENT" | "PROJECT"));
        let location = v.get("location").ok_or_else(|| missing("a location"));
        let visibility = visibility.ok_or_else(|| missing("visibility"))?;
        Ok(Self {
            id,
            key: key.to_owned(),
            value: text(v, "metadataValue").map(str::to_owned),
            visibility: visibility.to_owned(),
            place: Place::read(location?)?,
        })
    }

    /// As a message.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let mut map = Map::new();
        map.insert("metadataId".into(), self.id.into());
        map.insert("metadataKey".into(), self.key.as_str().into());
        if let Some(value) = &self.value {
            map.insert("metadataValue".into(), value.as_str().into());
        }
        map.insert("location".into(), self.place.to_json());
        map.insert("visibility".into(), self.visibility.as_str().into());
        map.into()
    }

    fn size(&self) -> usize {
        self.key.chars().count() + self.value.as_ref().map_or(0, |v| v.chars().count())
    }
}

/// A `DeveloperMetadataLookup`, ready to be asked.
#[derive(Debug)]
pub struct Lookup {
    id: Option<i64>,
    key: Option<String>,
    value: Option<String>,
    visibility: Option<String>,
    kind: Option<String>,
    place: Option<Place>,
    exact: bool,
}

impl Lookup {
    /// Reads the message.
    ///
    /// # Errors
    /// The refusal's text for a location that cannot be looked up.
    pub fn read(v: &Json) -> Result<Self, String> {
        let owned = |key: &str| text(v, key).filter(|s| !s.ends_with("_UNSPECIFIED")).map(str::to_owned);
        let place = v.get("metadataLocation").map(Place::read).transpose()?;
        let strategy = owned("locationMatchingStrategy");
        if place == Some(Place::Spreadsheet) && strategy.as_deref() == Some("INTERSECTING_LOCATION") {
            let text = "DeveloperMetadataLookup.spreadsheet is true, but locationMatchingStrategy was specified as INTERSECTING";
            return Err(text.into());
        }
        Ok(Self {
            id: int(v, "metadataId"),
            key: owned("metadataKey"),
            value: owned("metadataValue"),
            visibility: owned("visibility"),
            kind: owned("locationType"),
            exact: place == Some(Place::Spreadsheet) || strategy.as_deref() == Some("EXACT_LOCATION"),
            place,
        })
    }

    /// Whether an entry matches all that the lookup gives.
    #[must_use]
    pub fn finds(&self, e: &Entry) -> bool {
        let same = |want: &Option<String>, have: &str| want.as_ref().is_none_or(|want| want == have);
        self.id.is_none_or(|id| id == e.id)
            && same(&self.key, &e.key)
            && self.value.as_ref().is_none_or(|want| e.value.as_ref() == Some(want))
            && same(&self.visibility, &e.visibility)
            && same(&self.kind, e.place.kind())
            && self.place.is_none_or(|place| self.reaches(place, e.place))
    }

    fn reaches(&self, wanted: Place, have: Place) -> bool {
        if self.exact {
            return wanted == have;
        }
        match (wanted, have) {
            (Place::Sheet(a), have) => have.sheet() == Some(a),
            (Place::Line(a, dim, at), Place::Line(b, other, i)) => a == b && (dim != other || at == i),
            (Place::Line(a, ..), Place::Sheet(b)) => a == b,
            (wanted, have) => wanted == have,
        }
    }
}

/// Refuses what would take more than the budget of the place's tab, or of the spreadsheet.
///
/// # Errors
/// The refusal's text.
pub fn check_budget(book: &Book, place: Place) -> Result<(), String> {
    let used: usize = book.metadata.values().filter(|e| e.place.sheet() == place.sheet()).map(Entry::size).sum();
    if used > BUDGET {
        return Err("Adding the requested developer metadata would exceed the allowed storage limit".into());
    }
    Ok(())
}
