//! Postgres, a grid in memory, and the planner between them: what histories are played on.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::NaiveDate;
use kylo::domain::ids::TxnUid;
use kylo::domain::plan::{Budget, Found, PendingInput, TabPlan, TypedCells, plan_pending};
use kylo::domain::sheet::{CellWrite, Request, Value};
use kylo::domain::tab::{self, OpenRow, PendingRow, RowKey, Typed};
use proptest::prelude::*;
use uuid::Uuid;

use crate::post_support::book::{Book, Grid};

pub const TAB: &str = "710 Pending";
pub const PEOPLES: [&str; 3] = ["Target_Sheet", "Target_Header", "Match_Notes"];

#[derive(Clone, Debug)]
pub enum Edit {
    Type { row: usize, column: usize },
    Tick(usize),
    Machine { row: usize, column: usize },
    Insert(usize),
    Delete(usize),
    Copy(usize),
    SortWithKey(usize),
    SortWithoutKey(usize),
}

#[derive(Clone, Debug)]
pub enum Op {
    Open,
    Resolve(usize),
    Correct(usize),
    Edit(Edit),
    /// A post; people make these edits between its read and its write.
    Post(Vec<Edit>),
    /// A post whose batch may hold only a few rows.
    SmallPost,
}

pub fn edit() -> impl Strategy<Value = Edit> {
    let at = || 0..40_usize;
    prop_oneof![
        4 => (at(), 0..3_usize).prop_map(|(row, column)| Edit::Type { row, column }),
        2 => at().prop_map(Edit::Tick),
        2 => (at(), 0..5_usize).prop_map(|(row, column)| Edit::Machine { row, column }),
        1 => at().prop_map(Edit::Insert),
        2 => at().prop_map(Edit::Delete),
        1 => at().prop_map(Edit::Copy),
        1 => at().prop_map(Edit::SortWithKey),
    ]
}

pub fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => Just(Op::Open),
        2 => (0..40_usize).prop_map(Op::Resolve),
        2 => (0..40_usize).prop_map(Op::Correct),
        6 => edit().prop_map(Op::Edit),
        1 => (0..40_usize).prop_map(|at| Op::Edit(Edit::SortWithoutKey(at))),
        3 => prop::collection::vec(edit(), 0..3).prop_map(Op::Post),
        1 => Just(Op::SmallPost),
    ]
}

/// Postgres, the spreadsheet, and the poster between them.
pub struct Bench {
    pub book: Book,
    pub open: BTreeMap<TxnUid, OpenRow>,
    pub gone: HashMap<TxnUid, String>,
    pub typed: TypedCells,
    pub left: Vec<Typed>,
    pub seq: i64,
    pub posted_seq: i64,
    pub n_typed: usize,
    /// What Kylo has read and nobody has taken back since: it must be somewhere.
    pub read: BTreeSet<String>,
}

impl Bench {
    pub fn new() -> Self {
        Self {
            book: Book { grids: vec![Grid::new(0, "Sheet1", 5, 5)], metadata: Vec::new() },
            open: BTreeMap::new(),
            gone: HashMap::new(),
            typed: BTreeMap::new(),
            left: Vec::new(),
            seq: 0,
            posted_seq: -1,
            n_typed: 0,
            read: BTreeSet::new(),
        }
    }

    pub fn run(&mut self, op: Op) {
        match op {
            Op::Open => self.open_row(),
            Op::Resolve(at) => {
                if let Some(uid) = self.pick(at) {
                    self.seq += 1;
                    let row = self.open.remove(&uid).unwrap();
                    self.gone.insert(uid, row.description);
                }
            }
            Op::Correct(at) => {
                if let Some(uid) = self.pick(at) {
                    self.seq += 1;
                    let row = self.open.get_mut(&uid).unwrap();
                    row.description.push('!');
                    row.amount_cents += 1;
                    row.content_seq = self.seq;
                }
            }
            Op::Edit(edit) => self.edit(&edit),
            Op::Post(between) => self.post(&between, 2_000_000),
            Op::SmallPost => self.post(&[], 2_500),
        }
    }

    pub fn open_row(&mut self) {
        self.seq += 1;
        let uid = TxnUid(Uuid::from_u128(u128::from(self.seq.unsigned_abs())));
        let row = OpenRow {
            uid,
            occurred_on: NaiveDate::from_ymd_opt(2025, 8, 26).unwrap(),
            description: format!("=SOURCE {}", self.seq),
            amount_cents: self.seq * 101 - 500,
            answer: String::new(),
            answer_input: None,
            seq: self.seq,
            content_seq: self.seq,
        };
        self.open.insert(uid, row);
    }

    pub fn pick(&self, at: usize) -> Option<TxnUid> {
        self.open.keys().nth(at % self.open.len().max(1)).copied()
    }

    /// A person types only in rows that exist below the header.
    pub fn edit(&mut self, edit: &Edit) {
        if !self.book.has(TAB) {
            return;
        }
        let tab = self.book.grid(TAB);
        let filled = tab.filled();
        let row = |at: usize| filled.get(at % filled.len().max(1)).copied();
        match edit {
            Edit::Type { row: at, column } => {
                let Some(row) = row(*at) else { return };
                self.take_back(&tab.text(row, PEOPLES[*column]));
                self.n_typed += 1;
                let text = format!("typed {}", self.n_typed);
                self.book.grid_mut(TAB).set(row, PEOPLES[*column], Value::Text(text));
            }
            Edit::Tick(at) => {
                let Some(row) = row(*at) else { return };
                self.book.grid_mut(TAB).set(row, "Approved", Value::Bool(true));
            }
            Edit::Machine { row: at, column } => {
                let Some(row) = row(*at) else { return };
                let header = ["Date", "Source", "Company_ID", "Amount", "Status"][*column];
                self.book.grid_mut(TAB).set(row, header, Value::Text("edited".to_owned()));
            }
            Edit::Insert(at) => {
                let at = 1 + at % tab.rows.len();
                self.book.grid_mut(TAB).insert(at, 1, true).unwrap();
            }
            Edit::Delete(at) => {
                let Some(row) = row(*at) else { return };
                self.person_deletes(row);
            }
            Edit::Copy(at) => {
                let Some(row) = row(*at) else { return };
                let copy = tab.rows[row].clone();
                self.book.grid_mut(TAB).rows.insert(row + 1, copy);
            }
            Edit::SortWithKey(at) | Edit::SortWithoutKey(at) => {
                let header = ["Source", "Target_Sheet", "Amount"][at % 3];
                let from = usize::from(matches!(edit, Edit::SortWithoutKey(_)));
                self.book.grid_mut(TAB).sort(header, from);
            }
        }
    }

    /// What stood in a deleted row comes back only as far as Kylo has read it under that row's key.
    pub fn person_deletes(&mut self, row: usize) {
        let view = tab::read_pending(&self.book.grid(TAB).observe()).unwrap();
        let Some(found) = view.rows.iter().find(|found| found.row as usize == row) else { return };
        let is_alone = view.rows.iter().filter(|other| other.key == found.key).count() == 1;
        let known = match found.key {
            RowKey::Uid(uid) if is_alone => self.typed.get(&uid).cloned().unwrap_or_default(),
            _ => Typed::default(),
        };
        for text in texts(&found.typed) {
            if !texts(&known).contains(&text) {
                self.take_back(&text);
            }
        }
        if self.book.grid(TAB).rows.len() > 2 {
            self.book.grid_mut(TAB).delete(row, 1).unwrap();
        }
    }

    pub fn take_back(&mut self, text: &str) {
        self.read.remove(text);
    }

    pub fn plan(&self, budget: usize) -> TabPlan {
        let tab = self.book.has(TAB).then(|| self.book.grid(TAB).observe());
        let found = tab.as_ref().map_or(Found::Missing { sheet_id: 9 }, Found::There);
        let open: Vec<OpenRow> = self.open.values().cloned().collect();
        let input = PendingInput {
            company: "710",
            title: TAB,
            tab: found,
            open: &open,
            gone: &self.gone,
            typed: &self.typed,
            posted_seq: self.posted_seq,
            in_doubt: false,
        };
        plan_pending(&input, &mut Budget::new(budget)).unwrap()
    }

    pub fn remember(&mut self, plan: &TabPlan) {
        self.typed.clone_from(&plan.typed);
        let remembered = plan.typed.values().flat_map(|typed| std::iter::once(typed).chain(typed.copies.iter().flatten()));
        self.read.extend(remembered.flat_map(texts));
        // Also what stands in a row that has no room in the batch.
        let view = self.book.has(TAB).then(|| tab::read_pending(&self.book.grid(TAB).observe()));
        let rows = view.into_iter().flatten().flat_map(|view| view.rows);
        let is_known = |row: &PendingRow| matches!(row.key, RowKey::Uid(uid) if self.open.contains_key(&uid) || self.gone.contains_key(&uid));
        let seen: Vec<String> = rows.filter(is_known).flat_map(|row| texts(&row.typed)).collect();
        self.read.extend(seen);
    }

    /// A person's sort without the key column can carry cells to a row without key, which is that person's own: Kylo keeps no account of it.
    pub fn forget_keyless(&mut self) {
        if self.book.has(TAB) {
            let view = tab::read_pending(&self.book.grid(TAB).observe()).unwrap();
            let keyless = view.rows.iter().filter(|row| row.key == RowKey::None).flat_map(|row| texts(&row.typed));
            keyless.for_each(|text| self.take_back(&text));
        }
    }

    pub fn post(&mut self, between: &[Edit], budget: usize) {
        self.forget_keyless();
        let plan = self.plan(budget);
        for answer in &plan.answers {
            let row = self.open.get_mut(&answer.uid).unwrap();
            row.answer.clone_from(&answer.answer);
            row.answer_input.clone_from(&answer.answer_input);
        }
        self.left.extend(plan.left.iter().map(|left| left.typed.clone()));
        self.remember(&plan);
        assert_addresses_nobodys_cells(&plan, &self.book);
        for edit in between {
            self.edit(edit);
        }
        let requests: Vec<Request> = plan.setup.iter().chain(&plan.rows).cloned().collect();
        if self.book.apply(&requests).is_err() {
            assert!(!between.is_empty(), "a plan is refused only if people were in the way");
            return self.post(&[], 2_000_000);
        }
        let rest = self.plan(usize::MAX);
        self.left.extend(rest.left.iter().map(|left| left.typed.clone()));
        self.remember(&rest);
        if plan.complete {
            self.posted_seq = self.seq;
            if !rest.is_empty() {
                assert!(!between.is_empty(), "nobody was in the way, and yet: {:?}", rest.rows);
                self.post(&[], 2_000_000);
            }
        }
    }

    pub fn assert_converged(&mut self) {
        self.post(&[], 2_000_000);
        self.post(&[], 2_000_000);
        assert!(self.plan(usize::MAX).is_empty());
        let view = tab::read_pending(&self.book.grid(TAB).observe()).unwrap();
        for open in self.open.values() {
            let rows: Vec<_> = view.rows.iter().filter(|row| row.key == RowKey::Uid(open.uid)).collect();
            assert!(!rows.is_empty(), "{} is missing", open.description);
            let is_duplicate = rows.len() > 1;
            for row in rows {
                assert_eq!(open.mismatches(row), Vec::<&str>::new());
                let status = if let Value::Text(text) = &row.status { text.as_str() } else { "" };
                assert_eq!(status, open.answer);
                assert_eq!(is_duplicate, status.starts_with("duplicate:"), "{status}");
            }
        }
        for uid in self.gone.keys() {
            assert!(!view.rows.iter().any(|row| row.key == RowKey::Uid(*uid)), "a resolved row is still there");
        }
        let kept: BTreeSet<String> = view.rows.iter().map(|row| &row.typed).chain(&self.left).flat_map(texts).collect();
        for text in &self.read {
            assert!(kept.contains(text), "{text:?} was read and is lost");
        }
    }
}

pub fn texts(typed: &Typed) -> Vec<String> {
    [&typed.target_sheet, &typed.target_header, &typed.match_notes].into_iter().filter(|text| !text.is_empty()).cloned().collect()
}

/// No write into the key or into people's cells of an existing row, except Approved FALSE.
pub fn assert_addresses_nobodys_cells(plan: &TabPlan, book: &Book) {
    if !book.has(TAB) {
        return;
    }
    let tab = book.grid(TAB);
    let mut inserted = u32::MAX;
    for request in &plan.rows {
        match request {
            Request::InsertRows { start, .. } => inserted = *start,
            Request::WriteCells { row, column, cells, .. } if *row < inserted => {
                for (at, cell) in (*column..).zip(&cells[0]) {
                    let Value::Text(header) = &tab.rows[0][at as usize] else { panic!("no header") };
                    assert!(header != "Txn_UID" && !PEOPLES.contains(&header.as_str()), "{request:?}");
                    assert!(header != "Approved" || *cell == CellWrite::Checkbox(false), "{request:?}");
                }
            }
            _ => {}
        }
    }
}

/// That many open rows, posted.
pub fn bench_of(n: usize) -> Bench {
    let mut bench = Bench::new();
    for _ in 0..n {
        bench.run(Op::Open);
    }
    bench.post(&[], usize::MAX);
    bench
}
