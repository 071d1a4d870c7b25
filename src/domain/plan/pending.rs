//! Plans a Pending tab: machine cells are made equal to Postgres, people's cells stay theirs, and what a person must know is said in Status.

use std::collections::{HashMap, HashSet};

use super::copies::{Copies, Lost, copies, lost};
use super::writes::Writes;
use super::{Answer, Budget, Found, Left, PendingInput, TabPlan, setup};
use crate::domain::ids::TxnUid;
use crate::domain::sheet::CellWrite;
use crate::domain::tab::{
    Approved, EARLY_TICK, HeaderError, OpenRow, PendingRow, Role, RowKey, TabView, Typed, pending, read_pending, shows, shows_amount, text_cell,
};

/// Status of a row whose key Postgres does not know. It stays: a restored backup of the database must not empty a tab.
const UNKNOWN: &str = "unknown: Kylo has no transaction with this row's key; delete the row if it is not needed";

const DUPLICATE: &str = "duplicate: this transaction stands in several rows that say different things; delete all of them but one";

/// What makes the tab show every open row exactly once.
///
/// # Errors
/// [`HeaderError::Missing`] or [`HeaderError::Doubled`]: nothing can be planned.
pub fn plan_pending(input: &PendingInput<'_>, budget: &mut Budget) -> Result<TabPlan, HeaderError> {
    let mut plan = TabPlan::new(Role::Pending, input.tab.sheet_id());
    let mut prepared = setup::prepare(Role::Pending, input.title, input.tab)?;
    plan.setup = std::mem::take(&mut prepared.requests);
    plan.span = prepared.columns.span();
    let view = match input.tab {
        Found::There(tab) if plan.setup.is_empty() => read_pending(tab)?,
        _ => TabView { columns: prepared.columns.clone(), rows: Vec::new() },
    };
    let mut planner = Planner {
        input,
        view: &view,
        open: input.open.iter().map(|row| (row.uid, row)).collect(),
        copies: copies(&view),
        lost: lost(&view, input.typed),
        writes: Writes::new(plan.sheet_id, budget),
        plan,
        left: HashMap::new(),
    };
    let has_room = planner.existing_rows();
    planner.plan.complete = planner.new_rows(has_room);
    planner.gone_with_rows();
    planner.left_behind();
    planner.mark_copied();
    planner.mark_at_risk();
    let start = view.rows.iter().filter(|row| row.key != RowKey::None).map(|row| row.row + 1).max().unwrap_or(1);
    let Planner { writes, mut plan, .. } = planner;
    writes.finish(&mut plan, &prepared, start);
    Ok(plan)
}

struct Planner<'a> {
    input: &'a PendingInput<'a>,
    view: &'a TabView,
    open: HashMap<TxnUid, &'a OpenRow>,
    copies: HashMap<TxnUid, Copies>,
    lost: HashMap<TxnUid, Lost>,
    writes: Writes<'a>,
    plan: TabPlan,
    /// What is in `plan.left` already.
    left: HashMap<TxnUid, Vec<Typed>>,
}

impl Planner<'_> {
    /// From top to bottom. False = the budget is spent.
    fn existing_rows(&mut self) -> bool {
        let view = self.view;
        let mut n_done = 0;
        for (index, row) in view.rows.iter().enumerate() {
            let done = match &row.key {
                RowKey::None => true,
                RowKey::Foreign(_) => self.status_only(row, UNKNOWN),
                RowKey::Uid(uid) => match self.open.get(uid).copied() {
                    Some(open) => self.open_row(index, row, open),
                    None if self.input.gone.contains_key(uid) => self.leave(row, *uid),
                    None => self.status_only(row, UNKNOWN),
                },
            };
            if !done {
                break;
            }
            n_done += 1;
        }
        for row in view.rows.iter().skip(n_done) {
            self.remember(row);
        }
        n_done == view.rows.len()
    }

    /// A row that was not planned for (the budget is spent) keeps its cells in the snapshot.
    fn remember(&mut self, row: &PendingRow) {
        if let RowKey::Uid(uid) = row.key
            && (self.open.contains_key(&uid) || self.input.gone.contains_key(&uid))
            && !self.lost.contains_key(&uid)
            && !row.typed.is_empty()
        {
            self.plan.typed.entry(uid).or_insert_with(|| row.typed.clone());
        }
    }

    fn status_only(&mut self, row: &PendingRow, status: &str) -> bool {
        let wanted = text_cell(status);
        shows(&row.status, &wanted) || self.change(row, vec![(pending::STATUS, wanted)])
    }

    /// A row that Postgres knows as decided or void leaves; what was typed in it is kept.
    fn leave(&mut self, row: &PendingRow, uid: TxnUid) -> bool {
        let removed = self.writes.remove(row.row);
        if removed && !row.typed.is_empty() {
            self.keep_left(uid, &row.typed);
        }
        removed
    }

    fn keep_left(&mut self, uid: TxnUid, typed: &Typed) {
        let source = self.input.gone.get(&uid).or_else(|| self.open.get(&uid).map(|open| &open.description)).cloned().unwrap_or_default();
        let left = Left { uid, source, typed: typed.plain() };
        if left.typed.is_empty() {
            return;
        }
        // A search through all of them for every row would make thousands of decided rows slow.
        let known = self.left.entry(uid).or_default();
        if !known.contains(&left.typed) {
            known.push(left.typed.clone());
            self.plan.left.push(left);
        }
    }

    fn open_row(&mut self, index: usize, row: &PendingRow, open: &OpenRow) -> bool {
        if self.lost.get(&open.uid).is_some_and(|lost| lost.is_blank) {
            return self.writes.remove(row.row);
        }
        let copies = self.copies.get(&open.uid);
        let is_top = copies.is_some_and(|copies| copies.top == index);
        let top = copies.and_then(|copies| self.view.rows.get(copies.top)).unwrap_or(row);
        let is_overtyped = self.lost.contains_key(&open.uid);
        let is_asked = is_overtyped || (copies.is_some_and(|copies| copies.n_rows > 1) && is_standing_duplicate(open, top));
        let is_differing = is_asked || copies.is_some_and(|copies| copies.differing.contains(&index));
        if !is_top && !is_differing {
            return self.writes.remove(row.row);
        }
        let is_duplicate = is_asked || copies.is_some_and(|copies| !copies.differing.is_empty());
        let judged = judge(top, open, self.input, is_duplicate);
        let mut cells = self.machine_cells(row, open, &judged.answer);
        let is_content = |position: &usize| [pending::DATE, pending::SOURCE, pending::AMOUNT].contains(position);
        let is_rewritten = cells.iter().any(|(position, _)| is_content(position));
        let approved_now = if is_top { judged.typed.approved.clone() } else { Approved::No };
        // A tick that a person sets between our read and our write is one of the content that is replaced here. The same write takes it back: nobody,
        // whether the answer comes or not, can read it beside the new content.
        let may_be_ticked = is_rewritten && row.typed.approved == Approved::No;
        if approved_now != row.typed.approved || may_be_ticked {
            cells.push((pending::APPROVED, CellWrite::Checkbox(false)));
        }
        if !cells.is_empty() && !self.change(row, cells) {
            return false;
        }
        if is_top {
            if is_rewritten {
                self.plan.rewritten.insert(open.uid);
            }
            self.settle(open, judged);
        }
        true
    }

    /// Stores the answer if it is another, and people's cells in any case.
    fn settle(&mut self, open: &OpenRow, judged: Judged) {
        let Judged { answer, typed } = judged;
        let answer_input = (!answer.is_empty()).then(|| typed.fingerprint());
        if answer != open.answer || (answer_input != open.answer_input && !answer.is_empty()) {
            self.plan.answers.push(Answer { uid: open.uid, before: open.answer.clone(), answer, answer_input });
        }
        if !typed.is_empty() {
            self.plan.typed.insert(open.uid, typed);
        }
    }

    /// The machine cells of an existing row that do not show what Postgres has, Status included. Never the key.
    fn machine_cells(&self, row: &PendingRow, open: &OpenRow, status: &str) -> Vec<(usize, CellWrite)> {
        let seen = [(pending::DATE, &row.date), (pending::SOURCE, &row.source), (pending::COMPANY_ID, &row.company)];
        let mut cells = Vec::new();
        for (position, seen) in seen {
            if let Some(wanted) = open.cell(position, self.input.company).filter(|wanted| !shows(seen, wanted)) {
                cells.push((position, wanted));
            }
        }
        if !shows_amount(&row.amount, open.amount_cents) {
            cells.extend(open.cell(pending::AMOUNT, self.input.company).map(|wanted| (pending::AMOUNT, wanted)));
        }
        let status = text_cell(status);
        if !shows(&row.status, &status) {
            cells.push((pending::STATUS, status));
        }
        cells
    }

    fn change(&mut self, row: &PendingRow, cells: Vec<(usize, CellWrite)>) -> bool {
        let mut cells: Vec<_> = cells.into_iter().map(|(position, cell)| (self.view.columns.of(position), cell)).collect();
        cells.sort_by_key(|(column, _)| *column);
        let taken = self.writes.change(row.row, cells);
        self.plan.changed += usize::from(taken);
        taken
    }

    /// Open rows that are not on the tab, or whose cells went with one of several rows, in order. A row that people had typed in comes back with
    /// their cells; without room left in the batch they are only remembered. False = the budget is spent.
    fn new_rows(&mut self, has_room: bool) -> bool {
        let is_new = |open: &&OpenRow| !self.copies.contains_key(&open.uid) || self.lost.contains_key(&open.uid);
        let mut new: Vec<&OpenRow> = self.input.open.iter().filter(is_new).collect();
        new.sort_unstable_by_key(|open| (open.seq, open.occurred_on, open.uid));
        let mut complete = has_room;
        for open in new {
            let known = self.input.typed.get(&open.uid);
            let (rows, is_lost, is_decided) = match self.lost.get(&open.uid) {
                None => (vec![come_back(open, known)], false, true),
                Some(lost) => (lost.cells.iter().map(|cells| come_back_lost(lost, open, cells)).collect(), true, lost.is_blank),
            };
            for row in &rows {
                complete = complete && self.writes.append(new_cells(open, self.input.company, row));
            }
            if let Some(row) = rows.into_iter().next().filter(|_| complete && is_decided) {
                self.settle(open, row);
            }
            if let Some(known) = known.filter(|_| !complete || is_lost) {
                self.plan.typed.insert(open.uid, known.clone());
            }
        }
        complete
    }

    /// A removal may hit another row than was meant. If that row has copies, it does not look deleted afterwards: the next plan must be told.
    fn mark_copied(&mut self) {
        if !self.may_lose_rows() {
            return;
        }
        for (uid, copies) in &self.copies {
            if copies.n_rows < 2 || !self.open.contains_key(uid) || self.lost.contains_key(uid) {
                continue;
            }
            let differing = copies.differing.iter().filter_map(|index| self.view.rows.get(*index));
            let differing: Vec<Typed> = differing.map(|row| row.typed.clone()).collect();
            if self.plan.typed.contains_key(uid) || !differing.is_empty() {
                self.plan.typed.entry(*uid).or_default().copies = Some(differing);
            }
        }
    }

    /// Before the next read: by this plan, or by one that is in doubt.
    fn may_lose_rows(&self) -> bool {
        self.input.in_doubt || !self.writes.removes_none()
    }

    /// Before the answer comes or the next read: whatever is remembered now may be gone with a row that is removed.
    fn mark_at_risk(&mut self) {
        if self.may_lose_rows() {
            self.plan.typed.values_mut().for_each(Typed::put_at_risk);
        }
    }

    /// What was read before rows were removed and stands in no row now, though its own is there or something newer comes back with it. If people
    /// sorted without the key column in between, it stood in a row that was rightly removed. A person may as well have typed over it: so it is
    /// kept beside the tab, not put back.
    fn gone_with_rows(&mut self) {
        let input = self.input;
        let is_suspect = |(uid, typed): &(&TxnUid, &Typed)| {
            let is_known = self.open.contains_key(uid) || input.gone.contains_key(uid);
            (typed.at_risk || !typed.before.is_empty()) && is_known && !self.lost.contains_key(uid)
        };
        let suspects: Vec<(&TxnUid, &Typed)> = input.typed.iter().filter(is_suspect).collect();
        if suspects.is_empty() {
            return;
        }
        let shown: HashSet<&str> = self.view.rows.iter().flat_map(|row| row.typed.texts()).collect();
        for (uid, typed) in suspects {
            // Without a row of its own, it comes back or is left behind anyhow.
            let is_there = self.copies.contains_key(uid);
            if typed.at_risk && is_there && typed.texts().any(|text| !shown.contains(text)) {
                self.keep_left(*uid, typed);
            }
            for cells in &typed.before {
                if cells.texts().any(|text| !shown.contains(text) && typed.texts().all(|kept| kept != text)) {
                    self.keep_left(*uid, cells);
                }
            }
        }
    }

    /// What was typed in a row that a person deleted and that Postgres has decided since.
    fn left_behind(&mut self) {
        let input = self.input;
        for (uid, typed) in input.typed {
            if !input.gone.contains_key(uid) {
                continue;
            }
            if let Some(lost) = self.lost.remove(uid) {
                lost.cells.iter().for_each(|cells| self.keep_left(*uid, cells));
            } else if !self.copies.contains_key(uid) && !typed.is_empty() {
                self.keep_left(*uid, typed);
            }
        }
    }
}

/// Copies that differed only in their ticks look equal once these are taken back. A person was asked to delete one, so none is removed unasked.
fn is_standing_duplicate(open: &OpenRow, top: &PendingRow) -> bool {
    open.answer.starts_with("duplicate:") && open.answer_input.as_ref().is_some_and(|input| *input == top.typed.unapproved().fingerprint())
}

/// What Status says, and people's cells after this plan.
struct Judged {
    answer: String,
    typed: Typed,
}

fn judge(top: &PendingRow, open: &OpenRow, input: &PendingInput<'_>, is_duplicate: bool) -> Judged {
    let typed = &top.typed;
    let mismatches = open.mismatches(top);
    let is_early = open.is_early_tick(typed);
    let is_guarded = is_early || (typed.approved == Approved::Yes && !mismatches.is_empty());
    if is_duplicate {
        return Judged { answer: DUPLICATE.to_owned(), typed: typed.unapproved() };
    }
    let after = if is_guarded { typed.unapproved() } else { typed.clone() };
    if let Some(answer) = typed.invalid() {
        return Judged { answer, typed: after };
    }
    let is_correction = open.content_seq > input.posted_seq;
    let names = mismatches.join(", ");
    if is_guarded {
        let answer = if is_early {
            EARLY_TICK.to_owned()
        } else if is_correction {
            format!("changed: {names} differed from the bank's data when this was approved; check the row and tick Approved again")
        } else {
            format!("changed: {names} was edited or sorted apart from the row and has been put back; check the row and tick Approved again")
        };
        return Judged { answer, typed: after };
    }
    let company_edited = !open.cell(pending::COMPANY_ID, input.company).is_some_and(|wanted| shows(&top.company, &wanted));
    if !is_correction && (company_edited || !mismatches.is_empty()) {
        let edited = [names.as_str(), if company_edited { "Company_ID" } else { "" }];
        let edited: Vec<_> = edited.into_iter().filter(|name| !name.is_empty()).collect();
        return Judged { answer: format!("changed: {} was edited and has been put back", edited.join(", ")), typed: after };
    }
    Judged { answer: standing(open, &after), typed: after }
}

/// The stored answer, unless a person has reacted to it since. A duplicate is seen on the tab itself: its answer never outlives it.
fn standing(open: &OpenRow, typed: &Typed) -> String {
    let is_seen = open.answer.starts_with("duplicate:");
    let holds = open.answer_input.as_ref().is_none_or(|input| *input == typed.fingerprint());
    if holds && !is_seen { open.answer.clone() } else { String::new() }
}

/// A row that is not on the tab: new, or deleted while open.
fn come_back(open: &OpenRow, known: Option<&Typed>) -> Judged {
    let Some(known) = known else { return Judged { answer: standing(open, &Typed::default()), typed: Typed::default() } };
    let typed = Typed { formula_in: Vec::new(), ..known.plain().unapproved() };
    if known.approved == Approved::Yes {
        let answer = "changed: this row was gone and has been put back; tick Approved again".to_owned();
        return Judged { answer, typed };
    }
    Judged { answer: standing(open, &typed), typed }
}

/// One of the rows that come back after a removal hit one of several. Where one replaces what is left, nobody needs to decide.
fn come_back_lost(lost: &Lost, open: &OpenRow, cells: &Typed) -> Judged {
    let judged = come_back(open, Some(cells));
    let is_plain = lost.is_blank && lost.cells.len() == 1;
    if is_plain { judged } else { Judged { answer: DUPLICATE.to_owned(), ..judged } }
}

fn new_cells(open: &OpenRow, company: &str, judged: &Judged) -> Vec<CellWrite> {
    (0..Role::Pending.headers().len())
        .map(|position| match position {
            pending::TARGET_SHEET => text_cell(&judged.typed.target_sheet),
            pending::TARGET_HEADER => text_cell(&judged.typed.target_header),
            pending::MATCH_NOTES => text_cell(&judged.typed.match_notes),
            pending::APPROVED => CellWrite::Checkbox(false),
            pending::STATUS => text_cell(&judged.answer),
            _ => open.cell(position, company).unwrap_or(CellWrite::Empty),
        })
        .collect()
}
