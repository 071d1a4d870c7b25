//! The promote transaction. What must never happen here: a statement before the company is locked but for the schema check.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::verdicts::{self, From, Verdicts};
use super::{Promote, Unusable};
use crate::domain::ids::TxnUid;
use crate::domain::rules::{Merged, RuleSet};
use crate::domain::tab::{PendingRow, TabView};
use crate::domain::text::normalise;
use crate::faults::{Bug, CrashPoint, planted};
use crate::flow::work::PromoteWork;
use crate::store::company::books::{self, Books, EventWrite, StateWrite};
use crate::store::company::promotion::{self, RequestWrite, SheetRule, SqlVerdict};
use crate::store::company::rules;
use crate::store::company::state::{self, StateRow};

/// What a promotion came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) json: Value,
    /// A tab changed.
    pub(super) due: bool,
    n_applied: usize,
}

impl Outcome {
    pub(super) fn said(&self) -> &'static str {
        if self.n_applied == 0 { "nothing was approved: no new version" } else { "promoted" }
    }
}

type Rows<'a> = BTreeMap<TxnUid, (&'a PendingRow, bool)>;

impl Promote {
    /// Whether the request has been applied: looked up before the tab is read, because that costs a call.
    pub(super) async fn is_known(&self, work: &PromoteWork) -> Result<bool, Unusable> {
        let route = &work.route;
        let mut tx = self.options.pools.begin(&route.dsn, &route.schema).await?;
        self.schemas.check(&mut tx, route).await?;
        let known = promotion::is_known(&mut tx, route.company.as_str(), &work.request.request_key).await?;
        tx.rollback().await?;
        Ok(known)
    }

    /// `None`: the request has been applied meanwhile.
    pub(super) async fn commit(&self, work: &PromoteWork, tab: Option<&TabView>) -> Result<Option<Outcome>, Unusable> {
        let (route, company) = (&work.route, work.route.company.as_str());
        let mut tx = self.options.pools.begin(&route.dsn, &route.schema).await?;
        self.schemas.check(&mut tx, route).await?;
        let Some(state) = state::lock(&mut tx, &[company]).await?.into_iter().next() else { return Err(sqlx::Error::RowNotFound.into()) };
        if promotion::is_known(&mut tx, company, &work.request.request_key).await? {
            return Ok(None);
        }
        self.faults.reached(CrashPoint::PromoteOpened).await;
        let mut rows = tab.map(verdicts::typed_rows).unwrap_or_default();
        if planted(Bug::ApprovalsByPosition) {
            let mut uids: Vec<TxnUid> = rows.keys().copied().collect();
            uids.rotate_left(1);
            rows = uids.into_iter().zip(rows.into_values()).collect();
        }
        let uids: Vec<Uuid> = rows.keys().map(|uid| uid.0).collect();
        let open = promotion::open_rows(&mut tx, company, &uids).await?;
        let sql = promotion::approved(&mut tx, company).await?;
        let verdicts = verdicts::judge(&rows, &open, &sql);
        let now = self.options.clock.now();
        let merged = current(&mut tx, &state).await?.merge(&approved(&verdicts), now, Uuid::new_v4);
        let mut step = Step { conn: &mut tx, company, seq: state.seq + 1, work };
        let outcome = step.write(&state, &verdicts, &merged, &rows, tab.is_some()).await?;
        self.faults.reached(CrashPoint::PromoteRecorded).await;
        tx.commit().await?;
        self.faults.reached(CrashPoint::PromoteCommitted).await;
        Ok(Some(outcome))
    }
}

async fn current(conn: &mut PgConnection, state: &StateRow) -> Result<RuleSet, sqlx::Error> {
    let rules = rules::active(conn, &[&state.company_id]).await?;
    Ok(RuleSet::new(state.ruleset_version, rules.into_iter().map(|(_, rule)| rule).collect()))
}

fn approved<'a>(verdicts: &'a Verdicts<'_>) -> Vec<&'a crate::domain::rules::Proposal> {
    verdicts.applied().map(|proposed| &proposed.proposal).collect()
}

struct Step<'c, 'w> {
    conn: &'c mut PgConnection,
    company: &'w str,
    seq: i64,
    work: &'w PromoteWork,
}

impl Step<'_, '_> {
    async fn write(
        &mut self,
        state: &StateRow,
        verdicts: &Verdicts<'_>,
        merged: &Merged,
        rows: &Rows<'_>,
        tab_was_read: bool,
    ) -> Result<Outcome, sqlx::Error> {
        let changed = !merged.changed.is_empty();
        if changed {
            let key = &self.work.request.request_key;
            promotion::write_version(self.conn, self.company, &merged.rules, &merged.changed, key, self.seq).await?;
        }
        self.settle_proposals(verdicts, merged.rules.version, tab_was_read).await?;
        let resolved = self.replay(verdicts, &merged.rules).await?;
        self.keep_left(verdicts, rows, &resolved).await?;
        let n_answered = if verdicts.answers.is_empty() { 0 } else { promotion::answer(self.conn, self.company, &verdicts.answers).await? };
        let n_applied = verdicts.applied().count();
        let json = json!({
            "applied": n_applied, "changed": merged.changed.len(), "conflicts": verdicts.n_conflicts, "incomplete": verdicts.n_incomplete,
            "invalid": verdicts.n_invalid, "replayed": resolved.len(), "tab_read": tab_was_read,
        });
        let version = changed.then_some(merged.rules.version);
        let request = &self.work.request;
        let request = RequestWrite {
            request_key: &request.request_key,
            request_id: request.request_id.as_ref().map(AsRef::as_ref),
            requested_at: request.created_at,
            version,
            outcome: &json,
            seq: self.seq,
        };
        if !planted(Bug::RequestNotRecorded) {
            promotion::record(self.conn, self.company, &request).await?;
        }
        let pending_changed = !resolved.is_empty() || n_answered > 0 || verdicts.tab_needs_post;
        self.close(state, &merged.rules, version, pending_changed, &json).await?;
        Ok(Outcome { json, due: pending_changed || changed, n_applied })
    }

    async fn settle_proposals(&mut self, verdicts: &Verdicts<'_>, version: i32, tab_was_read: bool) -> Result<(), sqlx::Error> {
        let mut sql: Vec<SqlVerdict> = verdicts
            .sql_answers
            .iter()
            .map(|(rule_id, norm, answer)| SqlVerdict { rule_id: *rule_id, source_norm: norm.clone(), answer: answer.clone(), promoted_in: None })
            .collect();
        let mut from_tab = Vec::new();
        for proposed in &verdicts.proposed {
            let proposal = &proposed.proposal;
            let promoted_in = proposed.answer.is_empty().then_some(version);
            let source_norm = proposal.source_norm.clone();
            match proposed.from {
                From::Sql(rule_id) if promoted_in.is_some() => {
                    sql.push(SqlVerdict { rule_id, source_norm, answer: String::new(), promoted_in });
                }
                From::Sql(_) => {}
                From::Tab(uid, typed) => {
                    from_tab.push(SheetRule { uid, source: &proposal.source, source_norm, typed, answer: &proposed.answer, promoted_in });
                }
            }
        }
        if !sql.is_empty() {
            promotion::settle_sql(self.conn, self.company, &sql).await?;
        }
        if tab_was_read {
            promotion::take_from_tab(self.conn, self.company, &from_tab).await?;
        }
        Ok(())
    }

    /// By every approved rule, also one that was in force already.
    async fn replay(&mut self, verdicts: &Verdicts<'_>, rules: &RuleSet) -> Result<Vec<(TxnUid, String)>, sqlx::Error> {
        let sources: BTreeSet<&str> = verdicts.applied().map(|proposed| proposed.proposal.source_norm.as_str()).collect();
        let approved: Vec<_> = sources.into_iter().filter_map(|source| rules.get(source)).collect();
        if approved.is_empty() || planted(Bug::OpenRowsNotReplayed) {
            Ok(Vec::new())
        } else {
            promotion::replay(self.conn, self.company, &approved, self.seq).await
        }
    }

    async fn keep_left(&mut self, verdicts: &Verdicts<'_>, rows: &Rows<'_>, resolved: &[(TxnUid, String)]) -> Result<(), sqlx::Error> {
        let applied: BTreeSet<TxnUid> =
            verdicts.applied().filter_map(|proposed| if let From::Tab(uid, _) = proposed.from { Some(uid) } else { None }).collect();
        let mut left = Vec::new();
        for (uid, description) in resolved.iter().filter(|(uid, _)| !applied.contains(uid)) {
            let Some((row, _)) = rows.get(uid) else { continue };
            let typed = &row.typed;
            if [&typed.target_sheet, &typed.target_header, &typed.match_notes].iter().any(|text| !text.is_empty()) {
                left.push(SheetRule { uid: *uid, source: description, source_norm: normalise(description), typed, answer: "", promoted_in: None });
            }
        }
        if left.is_empty() { Ok(()) } else { promotion::keep_left(self.conn, self.company, &left).await }
    }

    async fn close(
        &mut self,
        state: &StateRow,
        rules: &RuleSet,
        version: Option<i32>,
        pending_changed: bool,
        json: &Value,
    ) -> Result<(), sqlx::Error> {
        let (company_id, seq) = (self.company, self.seq);
        let mut books = Books::default();
        if let Some(version) = version {
            let payload = json!({
                "company_id": company_id, "version": version, "checksum": rules.checksum(), "request_key": self.work.request.request_key, "seq": seq,
                "applied": json["applied"], "changed": json["changed"], "conflicts": json["conflicts"], "replayed": json["replayed"],
            });
            books.events.push(EventWrite { event_type: "rules.updated", company_id, payload, traceparent: self.work.record.traceparent() });
        }
        books.states.push(StateWrite {
            company_id,
            seq,
            pending_seq: if pending_changed { seq } else { state.pending_seq },
            active_seq: if version.is_some() { seq } else { state.active_seq },
            changed_seq: state.changed_seq,
            ruleset_version: rules.version,
        });
        books::write(self.conn, &books).await
    }
}
