//! The business function: is a transaction decided by a rule, or does it wait for a person?
//!
//! Called for every new or corrected transaction by ingest, and in the same sense by promote's replay. What must never happen here: a match
//! by anything but equality of normalised texts.

use super::rules::{Rule, RuleSet};

/// What becomes of a transaction that is not void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    Matched(&'a Rule),
    Pending,
}

/// Decides by the normalised description. What normalises to nothing matches nothing.
pub fn decide<'a>(description_norm: &str, rules: &'a RuleSet) -> Decision<'a> {
    if description_norm.is_empty() {
        return Decision::Pending;
    }
    rules.get(description_norm).map_or(Decision::Pending, Decision::Matched)
}
