//! Rules: each version is the one before plus what was approved for it, the newest is in force, and requests were applied in their order.
//!
//! The approvals are recorded inputs (`rules_pending.promoted_in`): what a promotion read from the tab at that moment nobody can read again.
//! What must never happen here: a rule that nobody approved passing as one.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::compare::hex;
use super::inputs::Inputs;
use super::inputs::book::{ApprovalRow, Book, RuleRow, VersionRow};
use super::inputs::topic::Said;
use super::report::{Class, Finding, Report};
use crate::domain::ids::push_part;
use crate::domain::text::normalise;

/// As long as approvals are kept once they are promoted.
const APPROVALS_KEPT: TimeDelta = TimeDelta::days(400);
/// Of findings about rules: promote is section 8 of the contract.
const SECTION: &str = "section 8";

/// A rule as `ruleset_versions.snapshot` has it.
#[derive(Deserialize)]
struct SnapshotRule {
    rule_id: Uuid,
    source: String,
    source_norm: String,
    target_sheet: String,
    target_header: String,
    match_notes: String,
    ruleset_version: i32,
    effective_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
}

/// The rules of a version, by key.
///
/// # Errors
/// The snapshot is not what the tables' history is made of.
pub fn of_snapshot(company: &str, version: &VersionRow) -> Result<BTreeMap<String, RuleRow>, String> {
    let rules: Vec<SnapshotRule> = serde_json::from_value(version.snapshot.clone())
        .map_err(|error| format!("the snapshot of ruleset version {} cannot be read: {error}", version.version))?;
    let row = |rule: SnapshotRule| RuleRow {
        company_id: company.to_owned(),
        rule_id: rule.rule_id,
        source: rule.source,
        source_norm: rule.source_norm,
        target_sheet: rule.target_sheet,
        target_header: rule.target_header,
        match_notes: rule.match_notes,
        ruleset_version: rule.ruleset_version,
        effective_at: rule.effective_at,
        created_at: rule.created_at,
    };
    Ok(rules.into_iter().map(|rule| (rule.source_norm.clone(), row(rule))).collect())
}

/// Judges a book's rules.
pub fn judge(inputs: &Inputs, book: &Book, report: &mut Report) {
    let mut judge = Judge { inputs, book, report };
    let newest = judge.versions();
    judge.in_force(&newest);
    judge.requests();
}

struct Judge<'a> {
    inputs: &'a Inputs,
    book: &'a Book,
    report: &'a mut Report,
}

impl Judge<'_> {
    fn find(&mut self, class: Class, subject: String, expected: String, found: String, origin: &str) {
        let (company, origin) = (self.book.company.clone(), origin.to_owned());
        self.report.findings.push(Finding { class, invariant: SECTION, company, subject, expected, found, origin });
    }

    /// Each version after the other; gives the rules of the newest.
    fn versions(&mut self) -> BTreeMap<String, RuleRow> {
        let (mut before, mut number, mut seq) = (BTreeMap::new(), 0, 0);
        for version in &self.book.versions {
            let subject = format!("ruleset version {}", version.version);
            if version.version != number + 1 {
                self.find(
                    Class::Lost,
                    format!("ruleset version {}", number + 1),
                    "it is kept for ever".to_owned(),
                    "none".to_owned(),
                    "ruleset_versions",
                );
            }
            if version.seq <= seq {
                self.find(Class::Reordered, subject.clone(), format!("a seq above {seq}"), version.seq.to_string(), "ruleset_versions");
            }
            (number, seq) = (version.version, version.seq);
            match of_snapshot(&self.book.company, version) {
                Ok(rules) => {
                    let checksum = checksum(&rules);
                    if checksum != version.checksum {
                        self.find(Class::Altered, subject, format!("checksum {checksum}"), format!("checksum {}", version.checksum), "its snapshot");
                    }
                    self.step(version, &before, &rules);
                    before = rules;
                }
                Err(reason) => self.find(Class::Altered, subject, "a snapshot of its rules".to_owned(), reason, "ruleset_versions"),
            }
        }
        before
    }

    /// One version: the one before plus what was approved for it.
    fn step(&mut self, version: &VersionRow, before: &BTreeMap<String, RuleRow>, after: &BTreeMap<String, RuleRow>) {
        let number = version.version;
        let mut approved: BTreeMap<String, Vec<&ApprovalRow>> = BTreeMap::new();
        for approval in self.book.approvals.iter().filter(|approval| approval.promoted_in == number) {
            approved.entry(normalise(&approval.source)).or_default().push(approval);
        }
        let changed = after.iter().filter(|(norm, rule)| before.get(*norm) != Some(rule)).count();
        if version.request_key.is_none() || version.created_at < self.inputs.at - APPROVALS_KEPT {
            let why = "the approvals are not recorded, or older than 400 days";
            return self.report.take(&self.book.company, "rules", why, changed);
        }
        let origin = format!("rules_pending.promoted_in = {number}");
        let keys: BTreeSet<&String> = before.keys().chain(after.keys()).chain(approved.keys()).collect();
        for norm in keys {
            let subject =
                |rule: Option<&RuleRow>| format!("rule {} in ruleset version {number}", rule.map_or_else(|| "that is missing".to_owned(), name));
            let (was, is) = (before.get(norm), after.get(norm));
            let asked = approved.get(norm).map_or(&[][..], Vec::as_slice);
            match (was, is) {
                (_, None) => self.find(Class::Lost, subject(was), "it is in force until another replaces it".to_owned(), "none".to_owned(), &origin),
                (Some(was), Some(is)) if was == is => {
                    if asked.iter().any(|approval| !says(approval, is)) {
                        let expected = "the target that was approved".to_owned();
                        self.find(Class::Lost, subject(Some(is)), expected, "the version before's".to_owned(), &origin);
                    }
                }
                (was, Some(is)) => {
                    if !asked.iter().any(|approval| says(approval, is)) {
                        let expected = "a target that was approved".to_owned();
                        self.find(Class::Altered, subject(Some(is)), expected, format!("{} / {}", is.target_sheet, is.target_header), &origin);
                    }
                    let kept = was.is_none_or(|was| (was.rule_id, was.created_at) == (is.rule_id, is.created_at));
                    let is_new = was.is_some() || is.created_at == is.effective_at;
                    if is.ruleset_version != number || !kept || !is_new {
                        let expected = format!("version {number}, and id and birth of the rule it replaces");
                        self.find(Class::Altered, subject(Some(is)), expected, format!("version {}", is.ruleset_version), &origin);
                    }
                }
            }
        }
    }

    /// `rules_active` is the newest version.
    fn in_force(&mut self, newest: &BTreeMap<String, RuleRow>) {
        let found: BTreeMap<&str, &RuleRow> = self.book.rules.iter().map(|rule| (rule.source_norm.as_str(), rule)).collect();
        for (norm, rule) in newest {
            let subject = format!("rules_active {}", name(rule));
            let origin = format!("ruleset version {}", rule.ruleset_version);
            match found.get(norm.as_str()) {
                None => self.find(Class::Lost, subject, "in force".to_owned(), "none".to_owned(), &origin),
                Some(is) if *is != rule => {
                    let target = |rule: &RuleRow| format!("{} / {}, version {}", rule.target_sheet, rule.target_header, rule.ruleset_version);
                    self.find(Class::Altered, subject, target(rule), target(is), &origin);
                }
                Some(_) => {}
            }
        }
        for rule in self.book.rules.iter().filter(|rule| !newest.contains_key(&rule.source_norm)) {
            self.find(Class::Doubled, format!("rules_active {}", name(rule)), "nothing".to_owned(), "a rule".to_owned(), "no ruleset version has it");
        }
        let newest = self.book.versions.last();
        let (number, seq) = newest.map_or((0, 0), |version| (version.version, version.seq));
        if let Some(state) = &self.book.state
            && (state.ruleset_version, state.active_seq) != (number, seq)
        {
            let (expected, found) =
                (format!("version {number} at seq {seq}"), format!("version {} at seq {}", state.ruleset_version, state.active_seq));
            self.find(Class::Altered, "company_state".to_owned(), expected, found, "ruleset_versions");
        }
    }

    /// First deliveries of requests took effect in the order of their partition.
    fn requests(&mut self) {
        let mut last: BTreeMap<i32, (i64, String)> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for told in &self.inputs.promote.told {
            let Said::Request(request) = &told.said else { continue };
            if request.company_id.as_str() != self.book.company || !seen.insert(&request.request_key) {
                continue;
            }
            let Some(row) = self.book.requests.iter().find(|row| row.request_key == request.request_key) else { continue };
            let (before, other) = last.entry(told.place.partition).or_default().clone();
            if row.seq <= before {
                let expected = format!("a seq above {before}, which request {other} took");
                self.find(Class::Reordered, format!("promote request {}", row.request_key), expected, row.seq.to_string(), &told.place.to_string());
            }
            last.insert(told.place.partition, (row.seq.max(before), row.request_key.clone()));
        }
        let strangers = self.book.requests.iter().filter(|row| !seen.contains(&row.request_key)).count();
        self.report.take(&self.book.company, "promote requests", "the topic does not hold their messages", strangers);
    }
}

/// A rule in a finding: its source is a bank's text.
fn name(rule: &RuleRow) -> String {
    rule.rule_id.to_string()
}

fn says(approval: &ApprovalRow, rule: &RuleRow) -> bool {
    [&approval.target_sheet, &approval.target_header, &approval.match_notes].map(|text| text.trim())
        == [&rule.target_sheet, &rule.target_header, &rule.match_notes].map(String::as_str)
}

/// Hex SHA-256 over key, target and notes of each rule, as parts, sorted by key.
fn checksum(rules: &BTreeMap<String, RuleRow>) -> String {
    let mut bytes = Vec::new();
    for rule in rules.values() {
        for text in [&rule.source_norm, &rule.target_sheet, &rule.target_header, &rule.match_notes] {
            push_part(&mut bytes, text.as_bytes());
        }
    }
    hex(&Sha256::digest(&bytes))
}
