//! Rules: which source goes to which target, and how one version becomes the next.
//!
//! Called by ingest (which asks what a description is decided by) and by promote (which merges approved rules into the ones in force).
//! What must never happen here: two rules for one normalised source, or a version that differs from its predecessor in nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::ids::{BatchSignature, push_part};

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

impl RuleSet {
    /// All rules, by key.
    pub fn sorted(&self) -> Vec<&Rule> {
        let mut rules: Vec<_> = self.rules.values().collect();
        rules.sort_unstable_by(|a, b| a.source_norm.cmp(&b.source_norm));
        rules
    }

    /// Puts approved proposals over these rules: a source's newer target replaces the older, everything else stays as it is, with its version
    /// and times. Of several proposals for one source the last counts (they name the same target, or they would be in conflict).
    pub fn merge(&self, proposals: &[&Proposal], at: DateTime<Utc>, mut new_id: impl FnMut() -> Uuid) -> Merged {
        let version = self.version.saturating_add(1);
        let approved: BTreeMap<&str, &Proposal> = proposals.iter().map(|proposal| (proposal.source_norm.as_str(), *proposal)).collect();
        let mut next = self.clone();
        let mut changed = Vec::new();
        for (norm, proposal) in approved {
            let before = self.get(norm);
            if before.is_some_and(|rule| proposal.is_in_force_as(rule)) {
                continue;
            }
            let rule = Rule {
                rule_id: before.map_or_else(&mut new_id, |rule| rule.rule_id),
                source: proposal.source.clone(),
                source_norm: norm.to_owned(),
                target_sheet: proposal.target_sheet.clone(),
                target_header: proposal.target_header.clone(),
                match_notes: proposal.match_notes.clone(),
                ruleset_version: version,
                effective_at: at,
                created_at: before.map_or(at, |rule| rule.created_at),
            };
            next.rules.insert(Arc::from(norm), rule.clone());
            changed.push(rule);
        }
        if !changed.is_empty() {
            next.version = version;
        }
        Merged { rules: next, changed }
    }

    /// Lower-case hex SHA-256 over the rules' keys, targets and notes, sorted by key: equal rules, equal checksum, whenever they came.
    pub fn checksum(&self) -> String {
        let mut bytes = Vec::new();
        for rule in self.sorted() {
            for text in [&rule.source_norm, &rule.target_sheet, &rule.target_header, &rule.match_notes] {
                push_part(&mut bytes, text.as_bytes());
            }
        }
        BatchSignature(Sha256::digest(&bytes).into()).to_string()
    }

    /// The rules as history keeps them.
    pub fn snapshot(&self) -> Value {
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let rule = |rule: &Rule| {
            json!({
                "rule_id": rule.rule_id, "source": rule.source, "source_norm": rule.source_norm, "target_sheet": rule.target_sheet,
                "target_header": rule.target_header, "match_notes": rule.match_notes, "ruleset_version": rule.ruleset_version,
                "effective_at": time(rule.effective_at), "created_at": time(rule.created_at),
            })
        };
        self.sorted().into_iter().map(rule).collect()
    }
}

/// An approved row on its way to becoming a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub source: String,
    /// Never empty.
    pub source_norm: String,
    /// Trimmed, never empty.
    pub target_sheet: String,
    /// Trimmed, never empty.
    pub target_header: String,
    pub match_notes: String,
}

impl Proposal {
    fn is_in_force_as(&self, rule: &Rule) -> bool {
        (&self.target_sheet, &self.target_header, &self.match_notes) == (&rule.target_sheet, &rule.target_header, &rule.match_notes)
    }

    fn target(&self) -> (&str, &str) {
        (&self.target_sheet, &self.target_header)
    }
}

/// What a promotion makes of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The next version; the same version as before if nothing changed.
    pub rules: RuleSet,
    /// What is new or has a new target or new notes, by key.
    pub changed: Vec<Rule>,
}

/// The sources that are given two different targets, each with all of its targets. None of their proposals may be applied.
pub fn conflicts<'a>(proposals: impl IntoIterator<Item = &'a Proposal>) -> BTreeMap<&'a str, BTreeSet<(&'a str, &'a str)>> {
    let mut targets: BTreeMap<&str, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for proposal in proposals {
        targets.entry(&proposal.source_norm).or_default().insert(proposal.target());
    }
    targets.retain(|_, targets| targets.len() > 1);
    targets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::triage::{Decision, decide};

    fn some_proposals() -> impl Strategy<Value = Vec<Proposal>> {
        prop::collection::vec(("[a-eA-E]{1,2}", "[XY]").prop_map(|(source, header)| proposal(&source, &header)), 0..8)
    }

    proptest! {
        #[test]
        fn merging_once_is_merging_twice_and_a_version_is_made_only_by_a_change(before in some_proposals(), approved in some_proposals()) {
            let before = RuleSet::default().merge(&before.iter().collect::<Vec<_>>(), at(0), ids()).rules;
            let approved: Vec<&Proposal> = approved.iter().collect();
            let merged = before.merge(&approved, at(1), ids());
            prop_assert_eq!(merged.rules.version, before.version + i32::from(!merged.changed.is_empty()));
            prop_assert_eq!(merged.rules.checksum() == before.checksum(), merged.changed.is_empty());
            let again = merged.rules.merge(&approved, at(2), ids());
            prop_assert!(again.changed.is_empty());
            prop_assert_eq!(&again.rules, &merged.rules);
            for rule in before.sorted() {
                let now = merged.rules.get(&rule.source_norm).unwrap();
                let is_approved = approved.iter().any(|proposal| proposal.source_norm == rule.source_norm);
                prop_assert!(is_approved || now == rule, "a rule that nobody touched has changed");
            }
            let keys: BTreeSet<_> = merged.rules.sorted().into_iter().map(|rule| rule.source_norm.clone()).collect();
            prop_assert_eq!(keys.len(), merged.rules.sorted().len());
        }

        #[test]
        fn a_description_is_decided_by_the_rule_of_its_normal_form_and_by_no_other(rules in some_proposals(), text in "[a-fA-F ]{0,3}") {
            let rules = RuleSet::default().merge(&rules.iter().collect::<Vec<_>>(), at(0), ids()).rules;
            let norm = crate::domain::text::normalise(&text);
            match decide(&norm, &rules) {
                Decision::Matched(rule) => prop_assert_eq!(&rule.source_norm, &norm),
                Decision::Pending => prop_assert!(norm.is_empty() || rules.sorted().iter().all(|rule| rule.source_norm != norm)),
            }
        }
    }

    fn proposal(source: &str, header: &str) -> Proposal {
        let source_norm = crate::domain::text::normalise(source);
        Proposal {
            source: source.to_owned(),
            source_norm,
            target_sheet: "OPEX".to_owned(),
            target_header: header.to_owned(),
            match_notes: String::new(),
        }
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_756_209_600 + seconds, 0).unwrap()
    }

    fn ids() -> impl FnMut() -> Uuid {
        let mut last = 0;
        move || {
            last += 1;
            Uuid::from_u128(last)
        }
    }

    #[test]
    fn rules_a_to_b_to_a_make_three_versions_and_the_first_checksum_again() {
        let empty = RuleSet::default();
        let first = empty.merge(&[&proposal("Starbucks", "A"), &proposal("Shell", "FUEL")], at(0), ids()).rules;
        let second = first.merge(&[&proposal("STARBUCKS", "B")], at(1), ids()).rules;
        let third = second.merge(&[&proposal("starbucks", "A")], at(2), ids()).rules;
        assert_eq!([first.version, second.version, third.version], [1, 2, 3]);
        assert_eq!(first.checksum(), third.checksum());
        assert_ne!(first.checksum(), second.checksum());
        let rule = third.get("starbucks").unwrap();
        assert_eq!((rule.ruleset_version, rule.effective_at, rule.created_at), (3, at(2), at(0)));
        assert_eq!(rule.rule_id, first.get("starbucks").unwrap().rule_id, "one rule through all its targets");
        let untouched = third.get("shell").unwrap();
        assert_eq!((untouched.ruleset_version, untouched.effective_at), (1, at(0)));
    }

    #[test]
    fn what_is_in_force_already_makes_no_version() {
        let first = RuleSet::default().merge(&[&proposal("Starbucks", "A")], at(0), ids()).rules;
        let again = first.merge(&[&proposal("STARBUCKS", "A")], at(1), ids());
        assert!(again.changed.is_empty());
        assert_eq!(again.rules, first);
        assert_eq!(RuleSet::default().merge(&[], at(0), ids()).rules.version, 0);
    }

    #[test]
    fn only_different_targets_of_one_source_are_a_conflict() {
        let all = [proposal("Shell", "A"), proposal("shell", "B"), proposal("Aral", "A"), proposal("ARAL", "A")];
        let found = conflicts(&all);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&"shell"]);
        assert_eq!(found["shell"].len(), 2);
    }
}
