//! Which approvals count, and what is answered to the others. Pure.
//!
//! What must never happen here: two judgements of one row (the poster judges by the same `domain::tab::approval`), or one of two conflicting
//! targets applied.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::domain::ids::TxnUid;
use crate::domain::rules::{Proposal, conflicts};
use crate::domain::tab::{Approval, OpenRow, PendingRow, TabView, Typed, approval};
use crate::domain::text::normalise;
use crate::store::company::promotion::SqlProposal;

/// Where a proposal comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From<'a> {
    Sql(Uuid),
    Tab(TxnUid, &'a Typed),
}

/// An approval that could be applied, with its answer if it must not be.
#[derive(Clone, Debug)]
pub(super) struct Proposed<'a> {
    pub(super) from: From<'a>,
    pub(super) proposal: Proposal,
    /// `conflict: ...`; empty = it is applied.
    pub(super) answer: String,
}

/// All judgements of one promotion.
#[derive(Debug, Default)]
pub(super) struct Verdicts<'a> {
    pub(super) proposed: Vec<Proposed<'a>>,
    /// Answers for Status: transaction, text, fingerprint of the typed cells.
    pub(super) answers: Vec<(TxnUid, String, String)>,
    /// Answers to SQL proposals that cannot be applied: rule, normalised source, text.
    pub(super) sql_answers: Vec<(Uuid, String, String)>,
    /// The tab shows something that only a post can put right.
    pub(super) tab_needs_post: bool,
    pub(super) n_conflicts: usize,
    pub(super) n_incomplete: usize,
    pub(super) n_invalid: usize,
}

/// The transactions of the tab whose rows hold anything typed.
pub(super) fn typed_rows(tab: &TabView) -> BTreeMap<TxnUid, (&PendingRow, bool)> {
    tab.topmost().into_iter().filter(|(_, (row, differs))| *differs || !row.typed.is_empty()).collect()
}

/// Judges all typed rows of the tab and all SQL proposals.
pub(super) fn judge<'a>(rows: &BTreeMap<TxnUid, (&'a PendingRow, bool)>, open: &[OpenRow], sql: &[SqlProposal]) -> Verdicts<'a> {
    let open: HashMap<TxnUid, &OpenRow> = open.iter().map(|row| (row.uid, row)).collect();
    let mut verdicts = Verdicts::default();
    for proposal in sql {
        verdicts.judge_sql(proposal);
    }
    for (uid, (row, differs)) in rows {
        if let Some(open) = open.get(uid) {
            verdicts.judge_row(row, *differs, open);
        }
    }
    verdicts.refuse_conflicts();
    verdicts
}

impl<'a> Verdicts<'a> {
    /// What is to be applied.
    pub(super) fn applied(&self) -> impl Iterator<Item = &Proposed<'a>> {
        self.proposed.iter().filter(|proposed| proposed.answer.is_empty())
    }

    fn judge_sql(&mut self, sql: &SqlProposal) {
        let source_norm = normalise(&sql.source);
        let (target_sheet, target_header) = (sql.target_sheet.trim(), sql.target_header.trim());
        if source_norm.is_empty() {
            self.n_invalid += 1;
            self.sql_answers.push((sql.rule_id, source_norm, blank_source()));
        } else if let Some(missing) = missing(target_sheet, target_header) {
            self.n_incomplete += 1;
            self.sql_answers.push((sql.rule_id, source_norm, incomplete(&missing)));
        } else {
            let proposal = Proposal {
                source: sql.source.clone(),
                source_norm,
                target_sheet: target_sheet.to_owned(),
                target_header: target_header.to_owned(),
                match_notes: sql.match_notes.trim().to_owned(),
            };
            self.proposed.push(Proposed { from: From::Sql(sql.rule_id), proposal, answer: String::new() });
        }
    }

    fn judge_row(&mut self, row: &'a PendingRow, differs: bool, open: &OpenRow) {
        // Copies that say different things: neither is to be trusted, and the poster answers both.
        if differs {
            self.tab_needs_post = true;
            return;
        }
        let typed = &row.typed;
        match approval(row, open) {
            Approval::None => {}
            // The poster finds the same and puts it right: Approved FALSE, and Status says why.
            Approval::Mismatch(_) | Approval::Odd(_) => self.tab_needs_post = true,
            Approval::Incomplete(missing) => {
                self.n_incomplete += 1;
                self.answers.push((open.uid, incomplete(&missing), typed.fingerprint()));
            }
            Approval::Counts => {
                let source_norm = normalise(&open.description);
                if source_norm.is_empty() {
                    self.n_invalid += 1;
                    self.answers.push((open.uid, blank_source(), typed.fingerprint()));
                    return;
                }
                let proposal = Proposal {
                    source: open.description.clone(),
                    source_norm,
                    target_sheet: typed.target_sheet.clone(),
                    target_header: typed.target_header.clone(),
                    match_notes: typed.match_notes.clone(),
                };
                self.proposed.push(Proposed { from: From::Tab(open.uid, typed), proposal, answer: String::new() });
            }
        }
    }

    fn refuse_conflicts(&mut self) {
        let found: BTreeMap<String, String> = conflicts(self.proposed.iter().map(|proposed| &proposed.proposal))
            .into_iter()
            .map(|(source, targets)| {
                let targets: Vec<_> = targets.into_iter().map(|(sheet, header)| format!("{sheet} / {header}")).collect();
                (source.to_owned(), format!("conflict: this source is approved for {}; approve one target only", targets.join(" and for ")))
            })
            .collect();
        self.n_conflicts = found.len();
        for proposed in &mut self.proposed {
            let Some(answer) = found.get(&proposed.proposal.source_norm) else { continue };
            proposed.answer.clone_from(answer);
            match proposed.from {
                From::Tab(uid, typed) => self.answers.push((uid, answer.clone(), typed.fingerprint())),
                From::Sql(rule_id) => self.sql_answers.push((rule_id, proposed.proposal.source_norm.clone(), answer.clone())),
            }
        }
    }
}

fn missing(target_sheet: &str, target_header: &str) -> Option<Vec<&'static str>> {
    let missing: Vec<_> = [(target_sheet, "Target_Sheet"), (target_header, "Target_Header")]
        .into_iter()
        .filter(|(text, _)| text.is_empty())
        .map(|(_, name)| name)
        .collect();
    (!missing.is_empty()).then_some(missing)
}

fn incomplete(missing: &[&str]) -> String {
    format!("incomplete: fill in {}", missing.join(" and "))
}

fn blank_source() -> String {
    "invalid: this source has no letter or digit, so no rule can be made of it".to_owned()
}
