//! Intents, ledger and bindings in memory, as the poster's transactions leave them.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use kylo::domain::plan::{TypedCells, merge, merge_read, merge_seen};
use kylo::domain::tab::{Role, Typed};
use kylo::flow::post::Shown;
use kylo::store::control::intents::{IntentTab, NewIntent, OpenIntent, TypedByCompany};
use kylo::store::control::posts::Landed;
use kylo::store::control::tabs::{Known, TabRow};
use sqlx::types::Json;
use uuid::Uuid;

use super::tables::{Answered, Sheet, Tables, texts};

const UNSETTLED: [&str; 3] = ["planned", "sent", "in_doubt"];

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
        posted_seq: if landed.seen.is_none() { -1 } else { tab.seq },
        answer_seq: tab.answer_seq,
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
            let known = new.known.get(company.as_str()).copied().cloned().unwrap_or_default();
            self.set_typed(company, Role::Pending.as_str(), &known, typed);
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
        if is_open && self.cannot_bind(landed) {
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
            if tab.role == Role::Pending {
                self.record_typed(landed, &tab.company);
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

    fn record_typed(&mut self, landed: &Landed<'_>, company: &str) {
        let planned = landed.planned.and_then(|planned| planned.get(company));
        match (landed.seen, planned) {
            (Some(seen), planned) => {
                if let Some(seen) = seen.get(company) {
                    self.set_typed(company, Role::Pending.as_str(), &planned.cloned().unwrap_or_default(), seen);
                }
            }
            (None, Some(planned)) => {
                let stored = if self.old_typed { planned.clone() } else { merge(planned, self.known(company).typed) };
                self.replace(company, Role::Pending.as_str(), stored);
            }
            (None, None) => {}
        }
    }

    fn is_configured(&self, tab: &TabRow) -> bool {
        self.config.iter().any(|row| {
            let title = if tab.role == "pending" { &row.tab_pending } else { &row.tab_active };
            row.company_id == tab.company_id
                && row.spreadsheet_id.as_ref() == Some(&tab.spreadsheet_id)
                && title.as_ref() == Some(&tab.configured_title)
        })
    }

    /// One after the other: a tab that is taken may be given up by one before it.
    fn cannot_bind(&mut self, landed: &Landed<'_>) -> bool {
        let kept = self.tabs.clone();
        let rows: Vec<TabRow> = landed.tabs.iter().map(|tab| tab_row(landed, tab)).filter(|row| self.is_configured(row)).collect();
        let cannot = rows.iter().any(|row| self.bind(row).is_err());
        self.tabs = kept;
        cannot
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
        if let Some(old) = self.tabs.get(&key) {
            tab.typed.clone_from(&old.typed);
            if is_same_tab(&old.row) && new.posted_seq < 0 {
                tab.row.posted_seq = old.row.posted_seq.min(-1 - old.row.posted_seq);
            }
        }
        self.tabs.insert(key, tab);
        Ok(())
    }

    pub fn bind_equal(&mut self, spreadsheet: &str, holder: Uuid, shown: &[Shown<'_>], now: DateTime<Utc>) -> Answered<bool> {
        if shown.iter().any(|shown| self.is_taken(&shown.tab)) {
            return Err(taken());
        }
        if !self.renew(spreadsheet, holder, now) {
            return Ok(false);
        }
        for Shown { tab, typed } in shown {
            self.bind(tab)?;
            if let Some((known, seen)) = typed {
                self.set_typed(&tab.company_id, &tab.role, known, seen);
            }
        }
        Ok(true)
    }

    fn set_typed(&mut self, company: &str, role: &str, known: &TypedCells, seen: &TypedCells) {
        let Some(stored) = self.tabs.get(&(company.to_owned(), role.to_owned())).map(|tab| tab.typed.clone()) else { return };
        self.remember_read(seen);
        let seen = if self.blind_posts { seen.clone() } else { merge_seen(known, &stored, seen.clone()) };
        self.replace(company, role, seen);
    }

    fn replace(&mut self, company: &str, role: &str, typed: TypedCells) {
        if let Some(tab) = self.tabs.get_mut(&(company.to_owned(), role.to_owned())) {
            tab.typed = typed;
        }
    }

    fn remember_read(&mut self, typed: &TypedCells) {
        self.ever_typed.extend(typed.iter().flat_map(|(uid, typed)| texts(typed).map(|text| (*uid, text))));
    }

    pub fn add_typed(&mut self, company: &str, sheet_id: i32, known: &Known, read: &TypedCells) {
        let key = (company.to_owned(), Role::Pending.as_str().to_owned());
        let Some(tab) = self.tabs.get(&key).filter(|tab| tab.row.sheet_id == sheet_id) else { return };
        let mut newer = read.clone();
        if self.old_in_doubt {
            newer.retain(|uid, _| !tab.typed.get(uid).is_some_and(Typed::is_marked));
        }
        let spreadsheet = &tab.row.spreadsheet_id;
        let is_theirs = |intent: &&Intent| intent.spreadsheet == *spreadsheet && intent.tabs.iter().any(|tab| tab.company == company);
        let in_doubt = self.intents.iter().filter(is_theirs).any(Intent::is_open) || self.generation(spreadsheet) != known.generation;
        let known = if self.blind_promote { &tab.typed } else { &known.typed };
        let typed = merge_read(known, &tab.typed, newer, in_doubt);
        self.replace(company, Role::Pending.as_str(), typed);
        self.remember_read(read);
    }

    fn generation(&self, spreadsheet: &str) -> i64 {
        self.sheets.get(spreadsheet).map_or(0, |sheet| sheet.row.confirmed_generation)
    }

    pub fn known(&self, company: &str) -> Known {
        let tab = self.tabs.get(&(company.to_owned(), Role::Pending.as_str().to_owned()));
        tab.map(|tab| Known { typed: tab.typed.clone(), generation: self.generation(&tab.row.spreadsheet_id) }).unwrap_or_default()
    }

    pub fn set_all_due(&mut self, spreadsheet: &str) {
        for tab in self.tabs.values_mut().filter(|tab| tab.row.spreadsheet_id == spreadsheet) {
            tab.row.posted_seq = -1;
        }
    }
}
