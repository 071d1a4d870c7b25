//! The live tabs: every open row exactly once with its content, every rule in force exactly once, and nothing else (I4).
//!
//! Reads cells by itself: headers by their text, rows by their key. The order of rows is people's own and is not judged; nor are people's cells. A tab
//! that is due, or was posted to while it was read, is counted as not judged. What must never happen here: a row found by its position.

use std::collections::{BTreeMap, BTreeSet};

use chrono::SecondsFormat;
use uuid::Uuid;

use super::inputs::book::{Book, PendingRow, RuleRow};
use super::inputs::{Inputs, LiveTab, NEVER_POSTED};
use super::model::Account;
use super::replay::Index;
use super::report::{Class, Finding, Report};
use crate::domain::money;
use crate::domain::sheet::{ObservedTab, Value};
use crate::domain::tab::Role;
use crate::domain::text::normalise;

/// The machine columns of a Pending tab, the key first; of an Active tab all are.
const PENDING: [&str; 6] = ["Txn_UID", "Date", "Source", "Company_ID", "Amount", "Status"];
const ACTIVE: [&str; 8] = ["Source", "Ruleset_Version", "Effective_At", "Company_ID", "Target_Sheet", "Target_Header", "Match_Notes", "Created_At"];

/// Longer text is shown cut, with this mark at its end.
const MAX_UNITS: usize = 49_000;
const CUT_MARK: &str = " … [cut]";

/// Judges the tabs of a company's book. `account`: what a replay came to; without it Postgres is believed.
pub fn judge(inputs: &Inputs, index: &Index<'_>, book: &Book, account: Option<&Account>, report: &mut Report) {
    if !book.is_routed {
        return;
    }
    for live in inputs.tabs.iter().filter(|live| live.company == book.company) {
        let seq = book.state.as_ref().map(|state| if live.role == Role::Pending { state.pending_seq } else { state.active_seq });
        if live.posted_seq == Err(NEVER_POSTED) && seq.is_none_or(|seq| seq == 0) {
            // Nothing to show, and rightly no tab.
            continue;
        }
        let is_answered = live.role == Role::Active || book.state.as_ref().is_none_or(|state| state.answer_seq == live.answer_seq);
        let is_shown = |posted: i64| Some(posted) == seq && is_answered;
        if let Some(why) = live.posted_seq.map_or_else(Some, |posted| (!is_shown(posted)).then_some("a post of it is due")) {
            report.not_judged(live, why);
            continue;
        }
        report.tabs_judged += 1;
        let mut judge = Judge { live, index, book, report };
        let Some(tab) = &live.seen else {
            judge.find(Class::Lost, "the tab", "it is there", "it is gone");
            continue;
        };
        match live.role {
            Role::Pending => judge.pending(tab, account),
            Role::Active => judge.active(tab, account),
        }
    }
}

/// Names the tabs of companies that have no book to judge them by: nothing was ever ingested, or their database could not be read.
pub fn without_book(inputs: &Inputs, report: &mut Report) {
    let has_book = |live: &LiveTab| inputs.books.iter().any(|book| book.is_routed && book.company == live.company);
    for live in inputs.tabs.iter().filter(|live| !has_book(live)) {
        report.not_judged(live, live.posted_seq.err().unwrap_or("its company's book was not read"));
    }
}

struct Judge<'a> {
    live: &'a LiveTab,
    index: &'a Index<'a>,
    book: &'a Book,
    report: &'a mut Report,
}

/// A tab's rows that have a key, with their cells by header.
struct Rows<'a> {
    columns: BTreeMap<&'static str, usize>,
    rows: Vec<(usize, &'a [Value])>,
}

impl<'a> Rows<'a> {
    fn cell(&self, row: &'a [Value], header: &str) -> &'a Value {
        self.columns.get(header).and_then(|column| row.get(*column)).unwrap_or(&Value::Empty)
    }
}

impl Judge<'_> {
    fn find(&mut self, class: Class, subject: &str, expected: &str, found: &str) {
        let role = if self.live.role == Role::Pending { "pending" } else { "active" };
        self.report.findings.push(Finding {
            class,
            invariant: if class == Class::Misrouted { "I2" } else { "I4" },
            company: self.book.company.clone(),
            subject: format!("{role} tab, {subject}"),
            expected: expected.to_owned(),
            found: found.to_owned(),
            origin: format!("spreadsheet {}", self.live.spreadsheet),
        });
    }

    /// Finds the columns; `None`: a header is missing or there twice, so there is nothing to judge by.
    fn rows<'a>(&mut self, tab: &'a ObservedTab, headers: &[&'static str]) -> Option<Rows<'a>> {
        let first = tab.rows.first().map_or(&[][..], Vec::as_slice);
        let mut columns = BTreeMap::new();
        for header in headers {
            let at: Vec<usize> = (0..first.len()).filter(|at| matches!(&first[*at], Value::Text(text) if text.trim() == *header)).collect();
            match at.as_slice() {
                [at] => {
                    columns.insert(*header, *at);
                }
                _ => {
                    self.find(Class::Altered, &format!("header {header}"), "once in row 1", &format!("{} times", at.len()));
                    return None;
                }
            }
        }
        Some(Rows { columns, rows: tab.rows.iter().enumerate().skip(1).map(|(at, row)| (at + 1, row.as_slice())).collect() })
    }

    fn pending(&mut self, tab: &ObservedTab, account: Option<&Account>) {
        let Some(rows) = self.rows(tab, &PENDING) else { return };
        let open: Vec<&PendingRow> = match account {
            Some(account) => account.open(),
            None => self.book.pending.iter().filter(|row| row.is_open()).collect(),
        };
        let open: BTreeMap<Uuid, &PendingRow> = open.into_iter().map(|row| (row.txn_uid, row)).collect();
        let answers: BTreeMap<Uuid, &str> = self.book.pending.iter().map(|row| (row.txn_uid, row.answer.as_str())).collect();
        let mut seen = BTreeSet::new();
        for (at, row) in &rows.rows {
            let key = plain(rows.cell(row, "Txn_UID"));
            let status = plain(rows.cell(row, "Status"));
            if key.is_empty() {
                continue;
            }
            let subject = format!("row {at} ({key})");
            let uid: Option<Uuid> = key.parse().ok();
            let Some((uid, wanted)) = uid.and_then(|uid| Some((uid, *open.get(&uid)?))) else {
                self.stranger(&key, &subject, &status);
                continue;
            };
            if !seen.insert(uid) {
                if !status.starts_with("duplicate:") {
                    self.find(Class::Doubled, &subject, "one row for each open transaction", "another row of the same transaction");
                }
                continue;
            }
            let answer = answers.get(&uid).copied().unwrap_or_default();
            let wrong = [
                ("Date", shows(rows.cell(row, "Date"), &wanted.occurred_on.to_string())),
                ("Source", shows(rows.cell(row, "Source"), &shown(&wanted.description))),
                ("Company_ID", shows(rows.cell(row, "Company_ID"), &self.book.company)),
                ("Amount", shows_cents(rows.cell(row, "Amount"), wanted.amount_cents)),
                ("Status", shows(rows.cell(row, "Status"), &shown(answer))),
            ];
            self.cells(&subject, &wrong);
        }
        for uid in open.into_keys().filter(|uid| !seen.contains(uid)) {
            self.find(Class::Lost, &format!("transaction {uid}"), "a row", "none");
        }
    }

    /// A row that is none of the open transactions.
    fn stranger(&mut self, key: &str, subject: &str, status: &str) {
        if let Some((company, _)) = self.index.owner(key).filter(|(company, _)| *company != self.book.company) {
            return self.find(Class::Misrouted, subject, "no row of another company", &format!("a transaction of company {company}"));
        }
        if self.book.transactions.iter().any(|row| row.txn_uid.to_string() == key) {
            return self.find(Class::Doubled, subject, "no row: the transaction is decided or void", "a row");
        }
        if !status.starts_with("unknown:") {
            self.find(Class::Doubled, subject, "Status unknown: on a key that Postgres does not know", "another Status");
        }
    }

    fn active(&mut self, tab: &ObservedTab, account: Option<&Account>) {
        let Some(rows) = self.rows(tab, &ACTIVE) else { return };
        let rules: Vec<&RuleRow> = account.map_or_else(|| self.book.rules.iter().collect(), |account| account.rules.values().collect());
        let mut wanted: BTreeMap<String, &RuleRow> = rules.into_iter().map(|rule| (normalise(&shown(&rule.source)), rule)).collect();
        let mut seen = BTreeSet::new();
        for (at, row) in &rows.rows {
            if row.iter().all(|cell| plain(cell).is_empty()) {
                continue;
            }
            let key = normalise(&plain(rows.cell(row, "Source")));
            let subject = format!("row {at}");
            let Some(rule) = wanted.remove(&key) else {
                let found = if seen.contains(&key) { "another row of the same rule" } else { "a row of no rule in force" };
                self.find(Class::Doubled, &subject, "one row for each rule in force", found);
                continue;
            };
            seen.insert(key);
            let time = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
            let texts = [
                ("Ruleset_Version", rule.ruleset_version.to_string()),
                ("Effective_At", time(rule.effective_at)),
                ("Company_ID", self.book.company.clone()),
                ("Source", shown(&rule.source)),
                ("Target_Sheet", shown(&rule.target_sheet)),
                ("Target_Header", shown(&rule.target_header)),
                ("Match_Notes", shown(&rule.match_notes)),
                ("Created_At", time(rule.created_at)),
            ];
            let wrong: Vec<_> = texts.iter().map(|(header, text)| (*header, shows(rows.cell(row, header), text))).collect();
            self.cells(&format!("row {at} (rule {})", rule.rule_id), &wrong);
        }
        for rule in wanted.into_values() {
            self.find(Class::Lost, &format!("rule {}", rule.rule_id), "a row", "none");
        }
    }

    /// One finding for all cells of a row that show something else.
    fn cells(&mut self, subject: &str, shows: &[(&'static str, bool)]) {
        let wrong: Vec<_> = shows.iter().filter(|(_, shows)| !shows).map(|(header, _)| *header).collect();
        if !wrong.is_empty() {
            self.find(Class::Altered, subject, &format!("{} as Postgres must have it", wrong.join(", ")), "something else");
        }
    }
}

/// What a cell says, trimmed.
fn plain(cell: &Value) -> String {
    match cell {
        Value::Empty | Value::Bool(false) => String::new(),
        Value::Text(text) | Value::Formula(text) | Value::Error(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Bool(true) => "TRUE".to_owned(),
    }
}

fn shows(cell: &Value, text: &str) -> bool {
    match cell {
        Value::Empty => text.is_empty(),
        Value::Text(seen) => seen == text,
        Value::Number(_) | Value::Bool(_) | Value::Formula(_) | Value::Error(_) => false,
    }
}

/// As cents: a number of currency units, or text where a number would not be exact.
#[expect(clippy::cast_precision_loss, reason = "at most 2^53 - 1, which an f64 holds exactly")]
fn shows_cents(cell: &Value, cents: i64) -> bool {
    match cell {
        Value::Number(units) if cents.unsigned_abs() < 1 << 53 => (units * 100.0 - cents as f64).abs() < 0.01,
        Value::Text(text) => money::parse_text(text.trim()).is_ok_and(|seen| seen.0 == cents),
        _ => false,
    }
}

/// A text as a cell shows it: cut when it has more than 49,000 UTF-16 units.
fn shown(text: &str) -> String {
    if text.encode_utf16().count() <= MAX_UNITS {
        return text.to_owned();
    }
    let room = MAX_UNITS - CUT_MARK.encode_utf16().count();
    let mut cut = String::new();
    let mut units = 0;
    for c in text.chars() {
        units += c.len_utf16();
        if units > room {
            break;
        }
        cut.push(c);
    }
    cut + CUT_MARK
}
