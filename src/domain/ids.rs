//! Identifiers as types.

use std::fmt;
use std::sync::Arc;

/// A company's id, taken exactly as it is: 1 to 50 characters, no U+0000.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CompanyId(Arc<str>);

impl CompanyId {
    /// # Errors
    /// Says what an id must look like.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.chars().count() > 50 || text.contains('\0') {
            return Err("company_id must have 1 to 50 characters and no U+0000".to_owned());
        }
        Ok(Self(Arc::from(text)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CompanyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
