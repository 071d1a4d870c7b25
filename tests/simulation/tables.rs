//! Postgres' tables as the poster knows them, and what each of its transactions does to them; those of a post are in `ledger.rs`. `contract.rs` holds
//! this to the real statements.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use kylo::domain::company::{CompanyRow, Routes};
use kylo::domain::ids::{CompanyId, TxnKey, TxnUid, txn_uid};
use kylo::domain::plan::{Answer, Left};
use kylo::domain::tab::{ActiveRule, OpenRow, Role, Typed};
use kylo::flow::post::Projection;
use kylo::store::company::projection::{AnswerSeq, StateRow};
use kylo::store::control::spreadsheets::{SpreadsheetRow, TroubleRow};
use uuid::Uuid;

use super::ledger::{Intent, Post, Tab};

/// What a transaction answers.
pub type Answered<T> = Result<T, sqlx::Error>;

const LEASE: Duration = Duration::from_secs(45);

#[derive(Debug, Default)]
pub struct Tables {
    pub config: Vec<CompanyRow>,
    /// What the rows of `config` come to, once somebody has asked.
    pub routes: Option<Arc<Routes>>,
    pub sheets: BTreeMap<String, Sheet>,
    pub tabs: BTreeMap<(String, String), Tab>,
    pub intents: Vec<Intent>,
    pub posts: Vec<Post>,
    pub n_events: usize,
    pub troubles: BTreeMap<String, (TroubleRow, String)>,
    pub companies: BTreeMap<String, Company>,
    /// Answers that were ever stored.
    pub n_answered: usize,
    /// See [`super::store::Broken::OldTypedWhenFound`].
    pub old_typed: bool,
    /// See [`super::store::Broken::OldTypedInDoubt`].
    pub old_in_doubt: bool,
    /// See [`super::store::Broken::BlindPosts`].
    pub blind_posts: bool,
    /// See [`super::store::Broken::BlindPromote`].
    pub blind_promote: bool,
    /// Everything that was ever stored as read from a person's cell, with the transaction it stood beside.
    pub ever_typed: BTreeSet<(TxnUid, String)>,
}

#[derive(Clone, Debug)]
pub struct Sheet {
    pub row: SpreadsheetRow,
    pub holder: Option<Uuid>,
    pub leased_until: Option<DateTime<Utc>>,
}

/// One company's schema.
#[derive(Debug)]
pub struct Company {
    pub seq: i64,
    pub state: StateRow,
    /// Open or not.
    pub txns: BTreeMap<TxnUid, (OpenRow, bool)>,
    pub rules: Vec<ActiveRule>,
    pub left: Vec<(TxnUid, [String; 3])>,
}

/// What a person typed in a row, without the tick.
pub fn texts(typed: &Typed) -> impl Iterator<Item = String> {
    [&typed.target_sheet, &typed.target_header, &typed.match_notes]
        .into_iter()
        .filter(|text| !text.is_empty())
        .cloned()
        .collect::<Vec<_>>()
        .into_iter()
}

/// Companies: what ingest and promote leave.
impl Tables {
    pub fn configure(&mut self, company: &str, spreadsheet: &str) {
        self.routes = None;
        self.config.push(CompanyRow {
            company_id: company.to_owned(),
            db_dsn_rw: Some("postgres://localhost/x".to_owned()),
            db_schema: Some(format!("app_{company}")),
            spreadsheet_id: Some(spreadsheet.to_owned()),
            tab_pending: Some(format!("{company} Pending")),
            tab_active: Some(format!("{company} Active")),
            version: 1,
        });
        let state = StateRow { company_id: company.to_owned(), pending_seq: 0, active_seq: 0, answer_seq: 0, updated_at: DateTime::UNIX_EPOCH };
        let empty = Company { seq: 0, state, txns: BTreeMap::new(), rules: Vec::new(), left: Vec::new() };
        self.companies.insert(company.to_owned(), empty);
    }

    pub fn company(&mut self, company: &str) -> &mut Company {
        self.companies.get_mut(company).unwrap()
    }

    pub fn add(&mut self, company: &str, id: &str, description: &str, cents: i64) -> TxnUid {
        let uid = txn_uid(&CompanyId::parse(company).unwrap(), TxnKey::Id(id));
        let data = self.company(company);
        data.seq += 1;
        data.state.pending_seq = data.seq;
        let row = OpenRow {
            uid,
            occurred_on: NaiveDate::from_ymd_opt(2025, 8, 26).unwrap(),
            description: description.to_owned(),
            amount_cents: cents,
            answer: String::new(),
            answer_input: None,
            seq: data.seq,
            content_seq: data.seq,
        };
        data.txns.insert(uid, (row, true));
        uid
    }

    pub fn correct(&mut self, company: &str, uid: TxnUid, description: &str) {
        let data = self.company(company);
        data.seq += 1;
        data.state.pending_seq = data.seq;
        let (row, _) = data.txns.get_mut(&uid).unwrap();
        description.clone_into(&mut row.description);
        row.amount_cents += 1;
        row.content_seq = data.seq;
    }

    pub fn resolve(&mut self, company: &str, uid: TxnUid) {
        let data = self.company(company);
        data.seq += 1;
        data.state.pending_seq = data.seq;
        data.txns.get_mut(&uid).unwrap().1 = false;
    }

    pub fn set_rules(&mut self, company: &str, rules: Vec<ActiveRule>) {
        let data = self.company(company);
        data.seq += 1;
        data.state.active_seq = data.seq;
        data.rules = rules;
    }

    pub fn open(&self, company: &str) -> Vec<&OpenRow> {
        self.companies[company].txns.values().filter(|(_, is_open)| *is_open).map(|(row, _)| row).collect()
    }
}

/// Leases and trouble.
impl Tables {
    pub fn lease(&mut self, id: &str, holder: Uuid, now: DateTime<Utc>) -> Option<SpreadsheetRow> {
        let row = SpreadsheetRow {
            spreadsheet_id: id.to_owned(),
            confirmed_generation: 0,
            state: "ok".to_owned(),
            reason: None,
            failures: 0,
            retry_at: None,
            config_version: None,
            swept_at: None,
            control_sheet_id: None,
            control_title: None,
        };
        let sheet = self.sheets.entry(id.to_owned()).or_insert(Sheet { row, holder: None, leased_until: None });
        let is_free = sheet.leased_until.is_none_or(|until| until < now) || sheet.holder == Some(holder);
        is_free.then(|| {
            (sheet.holder, sheet.leased_until) = (Some(holder), Some(now + LEASE));
            sheet.row.clone()
        })
    }

    pub fn renew(&mut self, id: &str, holder: Uuid, now: DateTime<Utc>) -> bool {
        let Some(sheet) = self.sheets.get_mut(id) else { return false };
        let is_ours = sheet.holder == Some(holder) && sheet.leased_until.is_some_and(|until| until >= now);
        if is_ours {
            sheet.leased_until = Some(now + LEASE);
        }
        is_ours
    }

    pub fn release(&mut self, id: &str, holder: Uuid) {
        if let Some(sheet) = self.sheets.get_mut(id).filter(|sheet| sheet.holder == Some(holder)) {
            (sheet.holder, sheet.leased_until) = (None, None);
        }
    }

    pub fn set_back(&mut self, id: &str, state: &str, reason: &str, retry_at: DateTime<Utc>, config_version: &str) {
        if let Some(Sheet { row, .. }) = self.sheets.get_mut(id) {
            state.clone_into(&mut row.state);
            row.reason = Some(reason.to_owned());
            row.retry_at = Some(retry_at);
            row.config_version = Some(config_version.to_owned());
            row.failures += 1;
        }
    }

    pub fn set_ok(&mut self, id: &str) {
        if let Some(Sheet { row, .. }) = self.sheets.get_mut(id) {
            let is_ok = row.state == "ok" && row.failures == 0 && row.retry_at.is_none();
            if !is_ok {
                "ok".clone_into(&mut row.state);
                (row.reason, row.retry_at, row.failures, row.config_version) = (None, None, 0, None);
            }
        }
    }

    pub fn set_trouble(&mut self, company: &str, state: &str, version: i64, retry_at: DateTime<Utc>) {
        let row = TroubleRow { company_id: company.to_owned(), config_version: Some(version), retry_at: Some(retry_at) };
        self.troubles.insert(company.to_owned(), (row, state.to_owned()));
    }
}

/// A company's database.
impl Tables {
    pub fn project(&self, company: &str, roles: &BTreeSet<Role>, seen: &[TxnUid]) -> Projection {
        let data = &self.companies[company];
        let mut found = Projection { state: data.state.clone(), open: Vec::new(), gone: HashMap::new(), rules: Vec::new() };
        if roles.contains(&Role::Pending) {
            found.open = self.open(company).into_iter().cloned().collect();
            let gone = seen.iter().filter_map(|uid| data.txns.get(uid)).filter(|(_, is_open)| !is_open);
            found.gone = gone.map(|(row, _)| (row.uid, row.description.clone())).collect();
        }
        if roles.contains(&Role::Active) {
            found.rules.clone_from(&data.rules);
        }
        found
    }

    pub fn store_answers(&mut self, company: &str, answers: &[Answer], left: &[Left]) -> AnswerSeq {
        let data = self.companies.get_mut(company).unwrap();
        let before = data.state.answer_seq;
        for answer in answers {
            if let Some((row, true)) = data.txns.get_mut(&answer.uid)
                && row.answer == answer.before
            {
                row.answer.clone_from(&answer.answer);
                row.answer_input.clone_from(&answer.answer_input);
                data.state.answer_seq = before + 1;
                self.n_answered += 1;
            }
        }
        for row in left {
            let cells = [row.typed.target_sheet.clone(), row.typed.target_header.clone(), row.typed.match_notes.clone()];
            if !data.left.contains(&(row.uid, cells.clone())) {
                data.left.push((row.uid, cells));
            }
        }
        AnswerSeq { before, after: data.state.answer_seq }
    }
}
