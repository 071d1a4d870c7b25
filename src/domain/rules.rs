//! Rules: which source goes to which target, and how one version becomes the next.
//!
//! Called by ingest (which asks what a description is decided by) and by promote (which merges approved rules into the ones in force).
//! What must never happen here: two rules for one normalised source, or a version that differs from its predecessor in nothing.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// A rule in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub rule_id: Uuid,
    /// As a person wrote it.
    pub source: String,
    /// The key; never empty.
    pub source_norm: String,
    pub target_sheet: String,
    pub target_header: String,
    pub match_notes: String,
    /// When it got its present content.
    pub ruleset_version: i32,
    pub effective_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
}

/// The rules of one company at one version, by normalised source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    pub version: i32,
    rules: HashMap<Arc<str>, Rule>,
}

impl RuleSet {
    /// The rules of a version. Of two rules with one key the later in the list counts; the table's unique key keeps that from happening.
    pub fn new(version: i32, rules: Vec<Rule>) -> Self {
        Self { version, rules: rules.into_iter().map(|rule| (Arc::from(rule.source_norm.as_str()), rule)).collect() }
    }

    /// The rule with this key, if any.
    pub fn get(&self, source_norm: &str) -> Option<&Rule> {
        self.rules.get(source_norm)
    }
}
