//! Postgres' tables as the poster knows them, and what each of its transactions does to them. `contract.rs` holds this to the real statements.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use kylo::domain::company::{CompanyRow, Routes};
use kylo::domain::ids::{CompanyId, TxnKey, TxnUid, txn_uid};
use kylo::domain::plan::{Answer, Left, TypedCells};
use kylo::domain::tab::{ActiveRule, OpenRow, Role, Typed};
use kylo::flow::post::{Projection, Shown};
use kylo::store::company::projection::StateRow;
use kylo::store::control::intents::{IntentTab, NewIntent, OpenIntent, TypedByCompany};
use kylo::store::control::posts::Landed;
use kylo::store::control::spreadsheets::{SpreadsheetRow, TroubleRow};
use kylo::store::control::tabs::TabRow;
use sqlx::types::Json;
use uuid::Uuid;

/// What a transaction answers.
pub type Answered<T> = Result<T, sqlx::Error>;

const LEASE: Duration = Duration::from_secs(45);
const UNSETTLED: [&str; 3] = ["planned", "sent", "in_doubt"];

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
    /// See [`super::store::Broken::OldTypedWhenFound`].
    pub old_typed: bool,
    /// Everything that was ever stored as read from a person's cell, with the transaction it stood beside.
    pub ever_typed: BTreeSet<(TxnUid, String)>,
}

#[derive(Clone, Debug)]
pub struct Sheet {
    pub row: SpreadsheetRow,
    pub holder: Option<Uuid>,
    pub leased_until: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug)]
pub struct Tab {
    pub row: TabRow,
    pub typed: TypedCells,
}

#[derive(Clone, Debug)]
pub struct Intent {
    pub id: Uuid,
    pub spreadsheet: String,
    pub generation: i64,
    pub state: String,
    pub tabs: Vec<IntentTab>,
    pub typed: TypedByCompany,
    pub has_operations: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    pub company: String,
    pub signature: String,
    pub row_count: usize,
    pub intent: Uuid,
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

impl Intent {
    pub fn is_open(&self) -> bool {
        UNSETTLED.contains(&self.state.as_str())
    }

    fn settle(&mut self, state: &str) -> bool {
        let was_open = self.is_open();
        if was_open {
            state.clone_into(&mut self.state);
            self.has_operations = false;
        }
        was_open
    }
}

fn taken() -> sqlx::Error {
    sqlx::Error::Protocol("sheet_tabs_one_company_per_tab".to_owned())
}

fn tab_row(landed: &Landed<'_>, tab: &IntentTab) -> TabRow {
    TabRow {
        company_id: tab.company.clone(),
        role: tab.role.as_str().to_owned(),
        spreadsheet_id: landed.spreadsheet_id.to_owned(),
        sheet_id: tab.sheet_id,
        configured_title: tab.configured_title.clone(),
        title: tab.title.clone(),
        posted_seq: if landed.stay_due { -1 } else { tab.seq },
    }
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
        let state = StateRow { company_id: company.to_owned(), pending_seq: 0, active_seq: 0, updated_at: DateTime::UNIX_EPOCH };
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

/// Intents, ledger, bindings.
impl Tables {
    fn intent(&mut self, id: Uuid) -> Option<&mut Intent> {
        self.intents.iter_mut().find(|intent| intent.id == id)
    }

    pub fn unsettled(&self) -> Vec<String> {
        let open: BTreeSet<_> = self.intents.iter().filter(|intent| intent.is_open()).map(|intent| intent.spreadsheet.clone()).collect();
        open.into_iter().collect()
    }

    pub fn open_intents(&self, spreadsheet: &str) -> Vec<OpenIntent> {
        let open = self.intents.iter().filter(|intent| intent.is_open() && intent.spreadsheet == spreadsheet);
        open.map(|intent| OpenIntent {
            intent_id: intent.id,
            generation: intent.generation,
            state: intent.state.clone(),
            tabs: Json(intent.tabs.clone()),
            typed: Some(Json(intent.typed.clone())),
        })
        .collect()
    }

    /// `now`: None leaves out the check of the lease.
    pub fn write_intent(&mut self, new: &NewIntent<'_>, now: Option<DateTime<Utc>>) -> bool {
        if now.is_some_and(|now| !self.renew(new.spreadsheet_id, new.holder, now)) {
            return false;
        }
        for intent in self.intents.iter_mut().filter(|intent| intent.is_open() && intent.spreadsheet == new.spreadsheet_id) {
            intent.has_operations = false;
        }
        self.intents.push(Intent {
            id: new.intent_id,
            spreadsheet: new.spreadsheet_id.to_owned(),
            generation: new.generation,
            state: "planned".to_owned(),
            tabs: new.tabs.to_vec(),
            typed: new.typed.clone(),
            has_operations: true,
        });
        for (company, typed) in new.typed {
            self.set_typed(company, Role::Pending.as_str(), typed);
        }
        true
    }

    /// From one state to another; false if it was not in the first.
    pub fn step_intent(&mut self, id: Uuid, from: &str, to: &str) -> bool {
        let Some(intent) = self.intent(id).filter(|intent| intent.state == from) else { return false };
        to.clone_into(&mut intent.state);
        true
    }

    pub fn settle_intent(&mut self, id: Uuid, state: &str) -> bool {
        self.intent(id).is_some_and(|intent| intent.settle(state))
    }

    pub fn abandon_intent(&mut self, id: Uuid) -> bool {
        self.intent(id).is_some_and(|intent| intent.state == "planned" && intent.settle("abandoned"))
    }

    pub fn confirm(&mut self, landed: &Landed<'_>) -> Answered<bool> {
        let is_open = self.intent(landed.intent_id).is_some_and(|intent| intent.is_open());
        let rows = landed.tabs.iter().map(|tab| tab_row(landed, tab));
        if is_open && rows.filter(|row| self.is_configured(row)).any(|row| self.is_taken(&row)) {
            return Err(taken());
        }
        if !self.settle_intent(landed.intent_id, "confirmed") {
            return Ok(false);
        }
        let others = self.intents.iter_mut().filter(|intent| intent.spreadsheet == landed.spreadsheet_id && intent.id != landed.intent_id);
        for other in others.filter(|other| other.generation <= landed.generation || landed.new_epoch) {
            other.settle("superseded");
        }
        for tab in landed.tabs {
            self.record(landed, tab)?;
        }
        if let Some(Sheet { row, .. }) = self.sheets.get_mut(landed.spreadsheet_id) {
            row.confirmed_generation = landed.generation;
            row.swept_at = row.swept_at.or(Some(landed.at));
            if let Some((sheet_id, title)) = landed.control_tab {
                (row.control_sheet_id, row.control_title) = (Some(sheet_id), Some(title.to_owned()));
            }
        }
        Ok(true)
    }

    fn record(&mut self, landed: &Landed<'_>, tab: &IntentTab) -> Answered<()> {
        let row = tab_row(landed, tab);
        if self.is_configured(&row) {
            self.bind(&row)?;
            if let Some(typed) = landed.typed.and_then(|typed| typed.get(&tab.company)).filter(|_| tab.role == Role::Pending) {
                let mut typed = typed.clone();
                if landed.stay_due && !self.old_typed {
                    typed.extend(self.typed(&tab.company));
                }
                self.set_typed(&tab.company, tab.role.as_str(), &typed);
            }
        }
        if tab.row_count > 0 {
            if !self.posts.iter().any(|post| post.company == tab.company && post.signature == tab.signature) {
                let (company, signature) = (tab.company.clone(), tab.signature.clone());
                self.posts.push(Post { company, signature, row_count: tab.row_count, intent: landed.intent_id });
            }
            self.n_events += 1;
        }
        Ok(())
    }

    fn is_configured(&self, tab: &TabRow) -> bool {
        self.config.iter().any(|row| {
            let title = if tab.role == "pending" { &row.tab_pending } else { &row.tab_active };
            row.company_id == tab.company_id
                && row.spreadsheet_id.as_ref() == Some(&tab.spreadsheet_id)
                && title.as_ref() == Some(&tab.configured_title)
        })
    }

    /// By another company.
    fn is_taken(&self, new: &TabRow) -> bool {
        let rows = self.tabs.values().map(|tab| &tab.row);
        rows.into_iter().any(|row| (&row.spreadsheet_id, row.sheet_id) == (&new.spreadsheet_id, new.sheet_id) && row.company_id != new.company_id)
    }

    pub fn bind(&mut self, new: &TabRow) -> Answered<()> {
        if self.is_taken(new) {
            return Err(taken());
        }
        let is_same_tab = |tab: &TabRow| tab.spreadsheet_id == new.spreadsheet_id && tab.sheet_id == new.sheet_id;
        self.tabs.retain(|_, tab| !(is_same_tab(&tab.row) && tab.row.company_id == new.company_id && tab.row.role != new.role));
        let key = (new.company_id.clone(), new.role.clone());
        let mut tab = Tab { row: new.clone(), typed: TypedCells::new() };
        if let Some(old) = self.tabs.get(&key).filter(|old| is_same_tab(&old.row)) {
            tab.typed.clone_from(&old.typed);
            if new.posted_seq < 0 {
                tab.row.posted_seq = old.row.posted_seq.min(-1 - old.row.posted_seq);
            }
        }
        self.tabs.insert(key, tab);
        Ok(())
    }

    pub fn bind_equal(&mut self, spreadsheet: &str, holder: Uuid, shown: &[Shown<'_>], now: DateTime<Utc>) -> Answered<bool> {
        if shown.iter().any(|shown| self.is_taken(&shown.tab)) && self.renew(spreadsheet, holder, now) {
            return Err(taken());
        }
        if !self.renew(spreadsheet, holder, now) {
            return Ok(false);
        }
        for Shown { tab, typed } in shown {
            self.bind(tab)?;
            if let Some(typed) = typed {
                self.set_typed(&tab.company_id, &tab.role, typed);
            }
        }
        Ok(true)
    }

    fn set_typed(&mut self, company: &str, role: &str, typed: &TypedCells) {
        if let Some(tab) = self.tabs.get_mut(&(company.to_owned(), role.to_owned())) {
            tab.typed.clone_from(typed);
            self.ever_typed.extend(typed.iter().flat_map(|(uid, typed)| texts(typed).map(|text| (*uid, text))));
        }
    }

    pub fn add_typed(&mut self, company: &str, sheet_id: i32, typed: &TypedCells) {
        let key = (company.to_owned(), Role::Pending.as_str().to_owned());
        if let Some(tab) = self.tabs.get_mut(&key).filter(|tab| tab.row.sheet_id == sheet_id) {
            tab.typed.extend(typed.clone());
            self.ever_typed.extend(typed.iter().flat_map(|(uid, typed)| texts(typed).map(|text| (*uid, text))));
        }
    }

    pub fn set_all_due(&mut self, spreadsheet: &str) {
        for tab in self.tabs.values_mut().filter(|tab| tab.row.spreadsheet_id == spreadsheet) {
            tab.row.posted_seq = -1;
        }
    }

    pub fn typed(&self, company: &str) -> TypedCells {
        self.tabs.get(&(company.to_owned(), Role::Pending.as_str().to_owned())).map(|tab| tab.typed.clone()).unwrap_or_default()
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

    pub fn store_answers(&mut self, company: &str, answers: &[Answer], left: &[Left]) {
        let data = self.company(company);
        for answer in answers {
            if let Some((row, true)) = data.txns.get_mut(&answer.uid)
                && row.answer == answer.before
            {
                row.answer.clone_from(&answer.answer);
                row.answer_input.clone_from(&answer.answer_input);
            }
        }
        for row in left {
            let cells = [row.typed.target_sheet.clone(), row.typed.target_header.clone(), row.typed.match_notes.clone()];
            if !data.left.contains(&(row.uid, cells.clone())) {
                data.left.push((row.uid, cells));
            }
        }
    }
}
