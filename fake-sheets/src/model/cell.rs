//! One cell: its value as entered, and what else it carries. Formulas are kept and never computed.
//! Cells are small and their looks shared, because a tab of 100,000 rows is copied on each write.

use std::sync::Arc;

use serde_json::{Map, json};

use super::format;
use crate::json::{Json, number};

/// The most characters (UTF-16 units, as Google counts) of one cell.
pub const MAX_CHARS: usize = 50_000;

/// What a person or a program entered.
#[derive(Debug, Clone, PartialEq)]
pub enum CellValue {
    /// A number; dates are numbers with a format.
    Number(f64),
    /// Literal text, whatever it looks like.
    Text(String),
    /// TRUE or FALSE; what a checkbox stores.
    Bool(bool),
    /// A formula with its `=`; stored, not computed.
    Formula(String),
}

impl CellValue {
    /// Reads an `ExtendedValue`; `None` for an empty one.
    ///
    /// # Errors
    /// The refusal's text: too long, or a kind that cannot be written.
    pub fn from_extended(v: &Json) -> Result<Option<Self>, String> {
        let Some(map) = v.as_object() else { return Ok(None) };
        if map.len() > 1 {
            return Err("ExtendedValue may hold only one kind of value.".into());
        }
        let Some((kind, value)) = map.iter().next() else { return Ok(None) };
        let read = match (kind.as_str(), value) {
            ("numberValue", Json::Number(n)) => n.as_f64().map(Self::Number),
            ("numberValue", Json::String(s)) => s.parse().ok().map(Self::Number),
            ("boolValue", Json::Bool(b)) => Some(Self::Bool(*b)),
            ("stringValue", Json::String(s)) => Some(Self::Text(s.clone())),
            ("formulaValue", Json::String(s)) => Some(Self::Formula(s.clone())),
            _ => return Err("ErrorValue cannot be set.".into()),
        };
        if let Some(Self::Text(s) | Self::Formula(s)) = &read {
            check_length(s)?;
        }
        Ok(read)
    }

    /// As `userEnteredValue`.
    #[must_use]
    pub fn entered(&self) -> Json {
        match self {
            Self::Number(x) => json!({"numberValue": number(*x)}),
            Self::Text(s) => json!({"stringValue": s}),
            Self::Bool(b) => json!({"boolValue": b}),
            Self::Formula(s) => json!({"formulaValue": s}),
        }
    }

    /// As `effectiveValue`: a formula, which is not computed, shows an error saying so.
    #[must_use]
    pub fn effective(&self) -> Json {
        match self {
            Self::Formula(_) => {
                json!({"errorValue": {"type": "N_A", "message": "fake-sheets keeps formulas and does not compute them"}})
            }
            other => other.entered(),
        }
    }

    /// As `UNFORMATTED_VALUE` of values.get.
    #[must_use]
    pub fn plain(&self) -> Json {
        match self {
            Self::Number(x) => number(*x),
            Self::Text(s) => s.as_str().into(),
            Self::Bool(b) => (*b).into(),
            Self::Formula(_) => "#N/A".into(),
        }
    }

    /// What is typed to enter it: `FORMULA` of values.get, and the page's editor.
    #[must_use]
    pub fn source(&self) -> Json {
        match self {
            Self::Formula(s) => s.as_str().into(),
            other => other.plain(),
        }
    }

    /// Whether it is nothing to look at: an empty text is no data.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        matches!(self, Self::Text(s) if s.is_empty())
    }
}

/// Refuses text longer than a cell takes.
///
/// # Errors
/// The refusal's text.
pub fn check_length(text: &str) -> Result<(), String> {
    if text.len() > MAX_CHARS && text.encode_utf16().count() > MAX_CHARS {
        return Err(format!("Your input contains more than the maximum of {MAX_CHARS} characters in a single cell."));
    }
    Ok(())
}

/// What a cell has beside its value; shared between the cells of a range.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Look {
    /// `userEnteredFormat`.
    pub format: Option<Json>,
    /// `dataValidation`.
    pub rule: Option<Json>,
    /// `note`.
    pub note: Option<String>,
    /// `textFormatRuns` and whatever else a client stored.
    pub other: Map<String, Json>,
}

impl Look {
    /// A shared look; none where there is nothing in it.
    #[must_use]
    pub fn shared(self) -> Option<Arc<Self>> {
        let empty = self.format.is_none() && self.rule.is_none() && self.note.is_none() && self.other.is_empty();
        (!empty).then(|| Arc::new(self))
    }
}

/// A cell of the grid.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cell {
    /// As entered; `None` is empty.
    pub value: Option<CellValue>,
    /// Format, rule, note.
    pub look: Option<Arc<Look>>,
}

impl Cell {
    /// Neither value nor look.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.value.is_none() && self.look.is_none()
    }

    /// Holds a value that reading shows.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.value.as_ref().is_some_and(|v| !v.is_blank())
    }

    /// Has a checkbox (a BOOLEAN rule).
    #[must_use]
    pub fn is_checkbox(&self) -> bool {
        let rule = self.look.as_ref().and_then(|look| look.rule.as_ref());
        rule.and_then(|rule| rule.pointer("/condition/type")).and_then(Json::as_str) == Some("BOOLEAN")
    }

    /// As shown on the screen; empty for an empty cell.
    #[must_use]
    pub fn formatted(&self) -> String {
        match &self.value {
            None => String::new(),
            Some(CellValue::Text(s)) => s.clone(),
            Some(CellValue::Bool(b)) => if *b { "TRUE" } else { "FALSE" }.into(),
            Some(CellValue::Formula(_)) => "#N/A".into(),
            Some(CellValue::Number(x)) => {
                let look = self.look.as_ref().and_then(|look| look.format.as_ref());
                format::shown(*x, look.and_then(|f| f.get("numberFormat")))
            }
        }
    }
}
