//! The tables in memory answer like Postgres: one random series of transactions is played to both, and after each of them everything that can be
//! read is compared. Needs a Postgres server (`PG_DSN_RW`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use kylo::domain::clock::Clock;
use kylo::domain::company::{Dsn, Route, SchemaName};
use kylo::domain::ids::{CompanyId, TxnKey, TxnUid, txn_uid};
use kylo::domain::plan::{Answer, Left, TypedCells};
use kylo::domain::sheet::Request;
use kylo::domain::tab::{ActiveRule, Role, Typed};
use kylo::flow::post::{PostStore, Projection, Shown};
use kylo::store::control::intents::{IntentTab, NewIntent, TypedByCompany};
use kylo::store::control::posts::Landed;
use kylo::store::control::tabs::{Known, TabRow};
use uuid::Uuid;

use super::dice::Dice;
use super::store::{Broken, Memory, Turns};
use super::tables::Tables;
use crate::post_support::world::{SHEET, World};

const STEPS: usize = 500;
const SHEETS: [&str; 2] = [SHEET, "sheet-2"];
const COMPANIES: [&str; 2] = ["710", "711"];

/// Postgres and the tables in memory.
struct Both {
    world: World,
    postgres: Arc<dyn PostStore>,
    memory: Memory,
    dice: Dice,
    routes: BTreeMap<&'static str, Arc<Route>>,
    holders: [Uuid; 3],
    intents: Vec<(Uuid, &'static str, Vec<IntentTab>)>,
    n_added: usize,
    /// How often a transaction of each kind has done something.
    done: BTreeMap<&'static str, usize>,
}

fn same<T: Debug, E: Debug>(what: &str, postgres: Result<T, E>, memory: Result<T, E>) -> Option<T> {
    match (postgres, memory) {
        (Ok(postgres), Ok(memory)) => {
            assert_eq!(format!("{postgres:?}"), format!("{memory:?}"), "{what}");
            Some(postgres)
        }
        (Err(_), Err(_)) => None,
        (postgres, memory) => panic!("{what}: Postgres {postgres:?}, memory {memory:?}"),
    }
}

fn sorted<T: Debug>(rows: Result<Vec<T>, sqlx::Error>) -> Result<Vec<String>, sqlx::Error> {
    let mut rows: Vec<String> = rows?.iter().map(|row| format!("{row:?}")).collect();
    rows.sort();
    Ok(rows)
}

/// What a projection says, without the times that Postgres' clock gives.
fn said(found: Projection) -> String {
    let Projection { state, mut open, gone, rules } = found;
    open.sort_by_key(|row| row.uid);
    let gone: BTreeMap<_, _> = gone.into_iter().collect();
    let rules: BTreeSet<_> = rules.into_iter().map(|rule| (rule.source, rule.target_sheet, rule.target_header, rule.ruleset_version)).collect();
    format!("{} {} {} {open:?} {gone:?} {rules:?}", state.pending_seq, state.active_seq, state.answer_seq)
}

impl Both {
    async fn new(seed: u64) -> Self {
        let world = World::new(&COMPANIES).await;
        let dice = Dice::new(seed);
        let mut tables = Tables::default();
        for company in COMPANIES {
            tables.configure(company, SHEET);
        }
        let memory = Memory {
            tables: Arc::new(Mutex::new(tables)),
            clock: Arc::clone(&world.clock) as Arc<dyn Clock>,
            turns: Turns::none(&dice),
            fails: 0,
            broken: Broken::Nothing,
        };
        let holders = [dice.uuid(), dice.uuid(), dice.uuid()];
        let postgres = world.options().store;
        let routes = BTreeMap::from([("710", world.route("710").await), ("711", world.route("711").await)]);
        Self { world, postgres, memory, dice, routes, holders, intents: Vec::new(), n_added: 0, done: BTreeMap::new() }
    }

    fn at(&self) -> DateTime<Utc> {
        self.world.clock.now() + chrono::TimeDelta::seconds(i64::try_from(self.dice.below(9)).unwrap())
    }

    fn uid(&self) -> TxnUid {
        let company = CompanyId::parse(self.dice.word(&COMPANIES)).unwrap();
        txn_uid(&company, TxnKey::Id(&format!("t{}", 1 + self.dice.below(self.n_added.max(1)))))
    }

    fn cells(&self) -> TypedCells {
        let row = |_| {
            let copies = self.dice.one_in(6).then(Vec::new);
            (self.uid(), Typed { target_sheet: format!("typed {}", self.dice.below(4)), at_risk: self.dice.one_in(4), copies, ..Typed::default() })
        };
        (0..self.dice.below(3)).map(row).collect()
    }

    fn tab(&self, company: &'static str, role: Role) -> IntentTab {
        let own = if company == "710" { 10 } else { 20 };
        let sheet_id = if self.dice.one_in(4) { 5 } else { own + i32::try_from(self.dice.below(3)).unwrap() };
        let title = format!("{company} {}", if role == Role::Pending { "Pending" } else { "Active" });
        let configured_title = if self.dice.one_in(6) { "an older title".to_owned() } else { title.clone() };
        let (seq, row_count) = (i64::try_from(self.dice.below(6)).unwrap() - 1, self.dice.below(3));
        IntentTab {
            company: company.to_owned(),
            role,
            configured_title,
            title,
            sheet_id,
            seq,
            answer_seq: i64::try_from(self.dice.below(3)).unwrap(),
            signature: format!("{:x}", self.dice.below(40)),
            row_count,
        }
    }

    fn intent(&self) -> Uuid {
        if self.intents.is_empty() { self.dice.uuid() } else { self.dice.pick(&self.intents).0 }
    }

    async fn step(&mut self) {
        let kind = self.dice.below(26);
        let done = match kind {
            0..=2 => self.lease().await,
            3..=5 => self.wait_or_trouble().await,
            6..=9 => self.write_intent().await,
            10..=13 => self.move_intent().await,
            14..=16 => self.confirm().await,
            17 | 24 | 25 => self.bind().await,
            18 | 19 => self.typed().await,
            20..=22 => self.company().await,
            _ => self.answers().await,
        };
        *self.done.entry(done).or_default() += 1;
        self.compare(done).await;
    }

    async fn lease(&mut self) -> &'static str {
        let (sheet, holder) = (*self.dice.pick(&SHEETS), *self.dice.pick(&self.holders));
        match self.dice.below(4) {
            0 => {
                same("lease", self.postgres.lease(sheet, holder).await, self.memory.lease(sheet, holder).await);
            }
            1 => {
                same("renew", self.postgres.renew(sheet, holder).await, self.memory.renew(sheet, holder).await);
            }
            2 => {
                same("release", self.postgres.release(sheet, holder).await, self.memory.release(sheet, holder).await);
            }
            _ => {
                self.world
                    .count("WITH s AS (UPDATE control.spreadsheets SET leased_until = now() - interval '1 s' RETURNING 1) SELECT count(*) FROM s")
                    .await;
                let before = self.world.clock.now() - chrono::TimeDelta::seconds(1);
                self.memory.lock().sheets.values_mut().for_each(|sheet| sheet.leased_until = Some(before));
            }
        }
        "lease"
    }

    async fn wait_or_trouble(&mut self) -> &'static str {
        let (sheet, company, at) = (*self.dice.pick(&SHEETS), *self.dice.pick(&COMPANIES), self.at());
        match self.dice.below(5) {
            0 => {
                let state = *self.dice.pick(&["waiting", "parked"]);
                let answers = (self.postgres.set_back(sheet, state, "why", at, "v").await, self.memory.set_back(sheet, state, "why", at, "v").await);
                same("set_back", answers.0, answers.1);
            }
            1 => {
                same("set_ok", self.postgres.set_ok(sheet).await, self.memory.set_ok(sheet).await);
            }
            2 => {
                same("set_swept", self.postgres.set_swept(sheet, at).await, self.memory.set_swept(sheet, at).await);
            }
            3 => {
                let answers =
                    (self.postgres.set_trouble(company, "down", "why", 7, at).await, self.memory.set_trouble(company, "down", "why", 7, at).await);
                same("set_trouble", answers.0, answers.1);
            }
            _ => {
                same("clear_trouble", self.postgres.clear_trouble(company).await, self.memory.clear_trouble(company).await);
            }
        }
        "trouble"
    }

    /// What is remembered, or what was at another time.
    fn known(&self, company: &str) -> Known {
        let known = self.memory.lock().known(company);
        if self.dice.one_in(3) {
            return Known { typed: self.cells(), generation: i64::try_from(self.dice.below(6)).unwrap() };
        }
        known
    }

    async fn write_intent(&mut self) -> &'static str {
        let (sheet, holder) = (*self.dice.pick(&SHEETS), *self.dice.pick(&self.holders));
        if !self.dice.one_in(4) {
            same("lease", self.postgres.lease(sheet, holder).await, self.memory.lease(sheet, holder).await);
        }
        let tabs: Vec<IntentTab> = COMPANIES.into_iter().flat_map(|company| Role::ALL.map(|role| self.tab(company, role))).collect();
        let n = self.dice.below(tabs.len()) + 1;
        let tabs = &tabs[..n];
        let typed = TypedByCompany::from([("710".to_owned(), self.cells()), ("711".to_owned(), self.cells())]);
        let known = COMPANIES.map(|company| self.known(company));
        let intent = NewIntent {
            intent_id: self.dice.uuid(),
            spreadsheet_id: sheet,
            generation: i64::try_from(self.dice.below(6)).unwrap(),
            holder,
            tabs,
            operations: &[Request::DeleteMetadata { id: 1 }],
            typed: &typed,
            known: COMPANIES.iter().zip(&known).map(|(company, known)| (*company, &known.typed)).collect(),
        };
        if same("write_intent", self.postgres.write_intent(&intent).await, self.memory.write_intent(&intent).await) != Some(true) {
            return "no intent";
        }
        self.intents.push((intent.intent_id, sheet, tabs.to_vec()));
        "intent"
    }

    async fn move_intent(&mut self) -> &'static str {
        let intent = self.intent();
        match self.dice.below(4) {
            0 => {
                same("mark_sent", self.postgres.mark_sent(intent).await, self.memory.mark_sent(intent).await);
            }
            1 => {
                same("mark_in_doubt", self.postgres.mark_in_doubt(intent, "why").await, self.memory.mark_in_doubt(intent, "why").await);
            }
            2 => {
                let state = *self.dice.pick(&["refused", "superseded", "abandoned"]);
                let answers = (self.postgres.settle_intent(intent, state, "why").await, self.memory.settle_intent(intent, state, "why").await);
                same("settle", answers.0, answers.1);
            }
            _ => {
                same("abandon", self.postgres.abandon_intent(intent).await, self.memory.abandon_intent(intent).await);
            }
        }
        "moved"
    }

    async fn confirm(&mut self) -> &'static str {
        let Some((intent_id, spreadsheet_id, tabs)) = (!self.intents.is_empty()).then(|| self.dice.pick(&self.intents).clone()) else {
            return "none";
        };
        let typed = TypedByCompany::from([("710".to_owned(), self.cells()), ("711".to_owned(), self.cells())]);
        let planned = TypedByCompany::from(COMPANIES.map(|company| (company.to_owned(), self.known(company).typed)));
        let landed = Landed {
            intent_id,
            spreadsheet_id,
            generation: i64::try_from(self.dice.below(6)).unwrap(),
            tabs: &tabs,
            planned: Some(&planned).filter(|_| !self.dice.one_in(4)),
            seen: Some(&typed).filter(|_| !self.dice.one_in(3)),
            new_epoch: self.dice.one_in(5),
            control_tab: self.dice.one_in(2).then_some((9, "_kylo")),
            at: self.at(),
        };
        match same("confirm", self.postgres.confirm(&landed).await, self.memory.confirm(&landed).await) {
            None => "confirm failed",
            Some(true) => "confirmed",
            Some(false) => "not confirmed",
        }
    }

    async fn bind(&mut self) -> &'static str {
        if self.dice.one_in(4) {
            let sheet = *self.dice.pick(&SHEETS);
            same("set_all_due", self.postgres.set_all_due(sheet).await, self.memory.set_all_due(sheet).await);
            return "all due";
        }
        let tab = self.tab(self.dice.word(&COMPANIES), *self.dice.pick(&Role::ALL));
        let row = TabRow {
            company_id: tab.company,
            role: tab.role.as_str().to_owned(),
            spreadsheet_id: SHEET.to_owned(),
            sheet_id: tab.sheet_id,
            configured_title: tab.configured_title,
            title: tab.title,
            posted_seq: tab.seq,
            answer_seq: tab.answer_seq,
        };
        let (known, cells) = (self.known(&row.company_id).typed, self.cells());
        let shown = [Shown { typed: (tab.role == Role::Pending).then_some((&known, &cells)), tab: row }];
        let holder = *self.dice.pick(&self.holders);
        let answers = (self.postgres.bind_equal(SHEET, holder, &shown).await, self.memory.bind_equal(SHEET, holder, &shown).await);
        match same("bind_equal", answers.0, answers.1) {
            None => "bind failed",
            Some(true) => "bound",
            Some(false) => "not bound",
        }
    }

    async fn typed(&mut self) -> &'static str {
        let (company, cells) = (*self.dice.pick(&COMPANIES), self.cells());
        let known = self.known(company);
        let sheet_id = 10 + i32::try_from(self.dice.below(14)).unwrap();
        let answers =
            (self.postgres.add_typed(company, sheet_id, &known, &cells).await, self.memory.add_typed(company, sheet_id, &known, &cells).await);
        same("add_typed", answers.0, answers.1);
        "typed"
    }

    /// Content of a company, as ingest and promote change it.
    async fn company(&mut self) -> &'static str {
        let company = *self.dice.pick(&COMPANIES);
        let open: Vec<_> = self.memory.lock().open(company).into_iter().cloned().collect();
        match self.dice.below(4) {
            1 if !open.is_empty() => {
                let row = self.dice.pick(&open);
                self.world.resolve(company, &row.description).await;
                self.memory.lock().resolve(company, row.uid);
            }
            2 => {
                let version = i32::try_from(self.dice.below(9)).unwrap();
                self.world.rules(company, &[("STARBUCKS", "OPEX", "COFFEE")], version).await;
                let time = DateTime::UNIX_EPOCH;
                let [source, target_sheet, target_header] = ["STARBUCKS", "OPEX", "COFFEE"].map(str::to_owned);
                let match_notes = String::new();
                let rule =
                    ActiveRule { source, target_sheet, target_header, match_notes, ruleset_version: version, effective_at: time, created_at: time };
                self.memory.lock().set_rules(company, vec![rule]);
            }
            _ => {
                self.n_added += 1;
                let (id, text) = (format!("t{}", self.n_added), format!("SOURCE {}", self.n_added));
                self.world.add(company, &id, &text, 100).await;
                self.memory.lock().add(company, &id, &text, 100);
                if self.dice.one_in(3) {
                    let uid = self.world.add(company, &id, &format!("{text}!"), 101).await;
                    self.memory.lock().correct(company, uid, &format!("{text}!"));
                }
            }
        }
        "content"
    }

    async fn answers(&mut self) -> &'static str {
        let company = *self.dice.pick(&COMPANIES);
        let open: Vec<_> = self.memory.lock().open(company).into_iter().cloned().collect();
        let Some(row) = (!open.is_empty()).then(|| self.dice.pick(&open)) else { return "none" };
        let before = if self.dice.one_in(4) { "another".to_owned() } else { row.answer.clone() };
        let answers = [Answer { uid: row.uid, before, answer: format!("answer {}", self.dice.below(3)), answer_input: Some("input".to_owned()) }];
        let left: Vec<Left> = self.cells().into_iter().map(|(uid, typed)| Left { uid, source: "SOURCE".to_owned(), typed }).collect();
        let route = &self.routes[company];
        same("answers", self.postgres.store_answers(route, &answers, &left).await, self.memory.store_answers(route, &answers, &left).await);
        "answered"
    }

    async fn compare(&self, after: &str) {
        let (postgres, memory) = (&self.postgres, &self.memory);
        same(after, sorted(postgres.bindings().await), sorted(memory.bindings().await));
        same(after, sorted(postgres.spreadsheets().await), sorted(memory.spreadsheets().await));
        same(after, sorted(postgres.unsettled().await), sorted(memory.unsettled().await));
        same(after, sorted(postgres.troubles().await), sorted(memory.troubles().await));
        for sheet in SHEETS {
            same(after, postgres.open_intents(sheet).await, memory.open_intents(sheet).await);
        }
        let roles = BTreeSet::from(Role::ALL);
        let seen: Vec<TxnUid> = (0..4).map(|_| self.uid()).collect();
        for company in COMPANIES {
            same(after, postgres.known(company).await, memory.known(company).await);
            let route = &self.routes[company];
            same(after, postgres.project(route, &roles, &seen).await.map(said), memory.project(route, &roles, &seen).await.map(said));
            let (dsn, schema, asked) = (Dsn::new(&self.world.dsn), SchemaName::parse(&format!("app_{company}")).unwrap(), [company.to_owned()]);
            let seqs = |states: Vec<kylo::store::company::projection::StateRow>| -> Vec<_> {
                states.into_iter().map(|state| (state.company_id, state.pending_seq, state.active_seq, state.answer_seq)).collect()
            };
            same(after, postgres.states(&dsn, &schema, &asked).await.map(seqs), memory.states(&dsn, &schema, &asked).await.map(seqs));
        }
    }

    /// What only the tables themselves show.
    async fn compare_tables(&self) {
        let posts = self.world.text("SELECT string_agg(company_id || ' ' || batch_signature || ' ' || row_count || ' ' || intent_id, '; ' ORDER BY id) FROM control.sheet_posts").await;
        let (mine, n_events, n_operations, left) = {
            let tables = self.memory.lock();
            let mine: Vec<_> =
                tables.posts.iter().map(|post| format!("{} {} {} {}", post.company, post.signature, post.row_count, post.intent)).collect();
            let n_operations = tables.intents.iter().filter(|intent| intent.has_operations).count();
            (mine, tables.n_events, n_operations, tables.companies.values().map(|company| company.left.len()).sum::<usize>())
        };
        assert_eq!(posts, mine.join("; "));
        assert_eq!(self.world.count("SELECT count(*) FROM control.outbox_events").await, n_events as i64);
        assert_eq!(self.world.count("SELECT count(*) FROM control.sheet_intents WHERE operations IS NOT NULL").await, n_operations as i64);
        let kept = "SELECT (SELECT count(*) FROM app_710.rules_pending WHERE origin = 'left') + (SELECT count(*) FROM app_711.rules_pending WHERE origin = 'left')";
        assert_eq!(self.world.count(kept).await, left as i64);
    }
}

#[tokio::test]
async fn the_tables_in_memory_answer_like_postgres() {
    let mut both = Both::new(1).await;
    for _ in 0..STEPS {
        both.step().await;
        both.world.clock.advance(Duration::from_millis(1));
    }
    both.compare_tables().await;
    for kind in ["lease", "trouble", "intent", "moved", "confirmed", "not confirmed", "bound", "all due", "typed", "content", "answered"] {
        assert!(both.done.get(kind).is_some_and(|n| *n >= 2), "{kind} hardly happened: {:?}", both.done);
    }
}
