//! Companies, their spreadsheet, and what must hold once everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::DateTime;
use kylo::domain::clock::{Clock, TestClock};
use kylo::domain::company::{Bound, Route, routes};
use kylo::domain::fence::{self, Mark};
use kylo::domain::ids::{CompanyId, TxnUid};
use kylo::domain::sheet::{MetadataEntry, Value};
use kylo::domain::tab::{self, ActiveRule, RowKey};
use kylo::faults::Faults;
use kylo::flow::post::{PostRound, Poster, PosterOptions};

use super::dice::Dice;
use super::sheets::{Sheets, State, Unfenced, Weather};
use super::store::{Broken, Memory, Turns};
use super::tables::{Tables, texts};
use crate::post_support::book::{Book, Grid};

pub const SHEET: &str = "sheet-1";

/// What makes one history different from another, beside its seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    pub n_companies: usize,
    /// Fence entries that are there from the start, so that a prune is near.
    pub n_fences: i64,
    /// Others get so many turns around each call.
    pub turns: usize,
    pub unfenced: Unfenced,
    pub broken: Broken,
}

pub struct World {
    pub dice: Dice,
    pub clock: Arc<TestClock>,
    pub tables: Arc<Mutex<Tables>>,
    pub sheets: Sheets,
    pub companies: Vec<String>,
    pub setup: Setup,
    /// One call to Postgres in so many fails.
    pub database_fails: usize,
    n_added: usize,
}

impl World {
    pub fn new(seed: u64, setup: Setup) -> Self {
        let dice = Dice::new(seed);
        let tables: Arc<Mutex<Tables>> = Arc::default();
        let turns = Turns { dice: dice.clone(), most: setup.turns };
        let sheets = Sheets { state: Arc::default(), weather: Arc::default(), turns, unfenced: setup.unfenced };
        let clock = Arc::new(TestClock::at(DateTime::from_timestamp(1_756_209_600, 0).unwrap()));
        let companies: Vec<String> = (0..setup.n_companies).map(|n| format!("7{n}0")).collect();
        let mut world = Self { dice, clock, tables, sheets, companies, setup, database_fails: 0, n_added: 0 };
        world.furnish();
        world
    }

    fn furnish(&mut self) {
        let mut tables = self.tables.lock().unwrap();
        for company in &self.companies {
            tables.configure(company, SHEET);
        }
        // Serialised once: a hundred of them in each world would take a tenth of the time there is.
        let mark = Mark { intent: self.dice.uuid(), spreadsheet: SHEET.to_owned(), environment: "default".to_owned() };
        let value = serde_json::to_string(&mark).unwrap();
        let entry = |n| MetadataEntry { id: fence::id(n).unwrap(), key: fence::KEY.to_owned(), value: value.clone() };
        let book = Book { grids: vec![Grid::new(0, "Sheet1", 2, 2)], metadata: (1..=self.setup.n_fences).map(entry).collect() };
        if self.setup.n_fences > 0 {
            let holder = self.dice.uuid();
            tables.lease(SHEET, holder, self.clock.now());
            tables.release(SHEET, holder);
            tables.sheets.get_mut(SHEET).unwrap().row.confirmed_generation = self.setup.n_fences;
        }
        drop(tables);
        let mut state = self.sheets.lock();
        state.books.insert(SHEET.to_owned(), book);
        state.people.tables = Arc::clone(&self.tables);
        state.people.sort_apart = self.dice.one_in(4);
    }

    pub fn poster(&self) -> Poster {
        self.poster_with(Turns { dice: self.dice.clone(), most: self.setup.turns })
    }

    fn poster_with(&self, turns: Turns) -> Poster {
        let (tables, clock) = (Arc::clone(&self.tables), Arc::clone(&self.clock) as Arc<dyn Clock>);
        let ids = self.dice.clone();
        Poster::new(PosterOptions {
            store: Arc::new(Memory { tables, clock, turns, fails: self.database_fails, broken: self.setup.broken }),
            gateway: Some(Arc::new(self.sheets.clone())),
            clock: Arc::clone(&self.clock) as _,
            environment: "default".to_owned(),
            canary: BTreeSet::new(),
            sweep: Duration::ZERO,
            holder: self.dice.uuid(),
            ids: Arc::new(move || ids.uuid()),
            wake: Arc::default(),
            faults: Faults::default(),
        })
    }

    /// Ingest or promote changes a company's content.
    pub fn change(&mut self) {
        let company = self.dice.pick(&self.companies).clone();
        let mut tables = self.tables.lock().unwrap();
        let open: Vec<(TxnUid, String)> = tables.open(&company).into_iter().map(|row| (row.uid, row.description.clone())).collect();
        match self.dice.below(10) {
            0..=4 => {
                for _ in 0..=self.dice.below(3) {
                    self.n_added += 1;
                    tables.add(&company, &format!("t{}", self.n_added), &format!("=SOURCE {}", self.n_added), 101 * self.n_added as i64 - 500);
                }
            }
            5 | 6 if !open.is_empty() => {
                let (uid, _) = self.dice.pick(&open);
                tables.resolve(&company, *uid);
            }
            7 if !open.is_empty() => {
                let (uid, description) = self.dice.pick(&open);
                tables.correct(&company, *uid, &format!("{description}!"));
            }
            _ => {
                let n = self.dice.below(4);
                let rules = (0..n).map(|at| self.rule(at)).collect();
                tables.set_rules(&company, rules);
            }
        }
    }

    fn rule(&self, at: usize) -> ActiveRule {
        let time = self.clock.now();
        ActiveRule {
            source: format!("RULE {at}"),
            target_sheet: format!("S{}", self.dice.below(3)),
            target_header: "H".to_owned(),
            match_notes: String::new(),
            ruleset_version: 1,
            effective_at: time,
            created_at: time,
        }
    }

    pub fn people_edit(&self) {
        let mut state = self.sheets.lock();
        let state = &mut *state;
        state.people.edit(state.books.get_mut(SHEET).unwrap(), &self.dice);
    }

    /// A person types in a row, promote reads it, and the row is deleted or sorted apart from its key before a post reads the tab again.
    pub async fn promote_reads_between_edits(&self, poster: &Poster) {
        let typed = {
            let State { books, people, .. } = &mut *self.sheets.lock();
            people.type_somewhere(books.get_mut(SHEET).unwrap(), &self.dice)
        };
        let Some((title, row)) = typed else { return };
        self.promote_reads(poster).await;
        let State { books, people, .. } = &mut *self.sheets.lock();
        people.move_away(books.get_mut(SHEET).unwrap().grid_mut(&title), row, &self.dice);
    }

    pub fn some_route(&self) -> Arc<Route> {
        let known = routes(&self.tables.lock().unwrap().config, &Bound::new());
        let company = CompanyId::parse(self.dice.pick::<String>(&self.companies)).unwrap();
        known[&company].clone().unwrap()
    }

    /// Promote reads a company's Pending tab beside the posts.
    pub async fn promote_reads(&self, poster: &Poster) {
        let route = self.some_route();
        // A call or a transaction that fails is tried again with the message.
        let _failed = poster.read_pending(&route).await;
    }

    pub fn fair(&mut self) {
        self.sheets.set_weather(Weather::default());
        self.database_fails = 0;
        // Whoever is dead has lost its lease by now.
        self.clock.advance(Duration::from_secs(60));
    }

    /// Passes in fair weather until nothing is due, waits or is known to be left; all tabs are compared, as by the sweep.
    pub async fn settle(&self) -> Result<(), String> {
        self.tables.lock().unwrap().set_all_due(SHEET);
        self.rest().await
    }

    /// The same over what the reconciler itself finds to be due.
    pub async fn rest(&self) -> Result<(), String> {
        let poster = self.poster_with(Turns::none(&self.dice));
        let mut rounds = Vec::new();
        for _ in 0..30 {
            let round = poster.post_once().await.map_err(|error| error.to_string())?;
            if round == PostRound::default() {
                return Ok(());
            }
            rounds.push(round);
            self.clock.advance(Duration::from_secs(901));
        }
        Err(format!("the poster does not come to rest: {:?}", rounds.last()))
    }

    /// Settles, lets land whatever is still in the air, which must change nothing, and says what does not hold.
    pub async fn judge(&mut self) -> Result<(), String> {
        self.fair();
        self.settle().await?;
        self.holds()?;
        self.sheets.land(|_| true);
        self.holds().map_err(|reason| format!("after the last late batch: {reason}"))
    }

    /// The tabs equal Postgres, each landed post stands once in the ledger, and nothing that was read is lost.
    pub fn holds(&self) -> Result<(), String> {
        let tables = self.tables.lock().unwrap();
        let state = self.sheets.lock();
        let book = &state.books[SHEET];
        let mut kept: BTreeSet<String> = BTreeSet::new();
        for company in &self.companies {
            if !tables.tabs.contains_key(&(company.clone(), "pending".to_owned())) {
                return Err(format!("{company} has no Pending tab"));
            }
            kept.extend(pending_holds(&tables, book, company).map_err(|reason| format!("{company} Pending: {reason}"))?);
            active_holds(&tables, book, company).map_err(|reason| format!("{company} Active: {reason}"))?;
            kept.extend(tables.companies[company].left.iter().flat_map(|(_, cells)| cells.clone()));
        }
        if let Some((_, text)) = tables.ever_typed.iter().find(|(_, text)| !kept.contains(text) && !state.people.taken_back.contains(text)) {
            return Err(format!("{text:?} was typed and read, and is lost"));
        }
        if let Some(intent) = tables.intents.iter().find(|intent| intent.is_open() || intent.has_operations) {
            return Err(format!("intent {} is left {}", intent.id, intent.state));
        }
        ledger_holds(&tables, &state.landings.iter().map(|landing| landing.intent).collect::<Vec<_>>())?;
        Ok(())
    }
}

/// Every open row exactly once and as Postgres has it, none that is resolved. Answers what people's cells hold.
fn pending_holds(tables: &Tables, book: &Book, company: &str) -> Result<Vec<String>, String> {
    let bound = &tables.tabs[&(company.to_owned(), "pending".to_owned())].row;
    let grid = book.grids.iter().find(|grid| grid.sheet_id == bound.sheet_id).ok_or("the tab is gone")?;
    let view = tab::read_pending(&grid.observe()).map_err(|error| error.to_string())?;
    let mut rows: BTreeMap<TxnUid, usize> = BTreeMap::new();
    for row in &view.rows {
        let RowKey::Uid(uid) = row.key else { continue };
        *rows.entry(uid).or_default() += 1;
        let Some((open, is_open)) = tables.companies[company].txns.get(&uid) else { return Err(format!("row {uid} is nobody's")) };
        if !is_open {
            return Err(format!("{} is resolved and still there", open.description));
        }
        let wrong = open.mismatches(row);
        let status = if let Value::Text(text) = &row.status { text.as_str() } else { "" };
        if !wrong.is_empty() || row.company != Value::Text(company.to_owned()) || status != open.answer {
            return Err(format!("{} differs: {wrong:?}, {:?}, Status {status:?} instead of {:?}", open.description, row.company, open.answer));
        }
    }
    for open in tables.open(company) {
        let n = rows.get(&open.uid).copied().unwrap_or_default();
        if n != 1 {
            return Err(format!("{} stands there {n} times", open.description));
        }
    }
    Ok(view.rows.iter().flat_map(|row| texts(&row.typed)).collect())
}

fn active_holds(tables: &Tables, book: &Book, company: &str) -> Result<(), String> {
    let Some(bound) = tables.tabs.get(&(company.to_owned(), "active".to_owned())) else { return Err("is not bound".to_owned()) };
    let grid = book.grids.iter().find(|grid| grid.sheet_id == bound.row.sheet_id).ok_or("the tab is gone")?;
    let mut shown: Vec<_> = grid.filled().into_iter().map(|row| (grid.text(row, "Source"), grid.text(row, "Target_Sheet"))).collect();
    let mut wanted: Vec<_> = tables.companies[company].rules.iter().map(|rule| (rule.source.clone(), rule.target_sheet.clone())).collect();
    shown.sort();
    wanted.sort();
    if shown == wanted { Ok(()) } else { Err(format!("shows {shown:?} instead of {wanted:?}")) }
}

/// A batch landed at most once; what landed is confirmed and stands in the ledger once for each tab with row operations; nothing else does.
fn ledger_holds(tables: &Tables, landed: &[uuid::Uuid]) -> Result<(), String> {
    if landed.iter().collect::<BTreeSet<_>>().len() != landed.len() {
        return Err("a batch landed twice".to_owned());
    }
    let mut n_posts = 0;
    for intent in &tables.intents {
        let has_landed = landed.contains(&intent.id);
        if has_landed != (intent.state == "confirmed") {
            return Err(format!("intent {} of generation {} is {}, landed: {has_landed}", intent.id, intent.generation, intent.state));
        }
        for tab in intent.tabs.iter().filter(|tab| has_landed && tab.row_count > 0) {
            let n = tables.posts.iter().filter(|post| post.intent == intent.id && post.signature == tab.signature).count();
            if n != 1 {
                return Err(format!("the post {} of tab {:?} stands in the ledger {n} times", intent.id, tab.title));
            }
            n_posts += 1;
        }
    }
    if (tables.posts.len(), tables.n_events) != (n_posts, n_posts) {
        return Err(format!("{} ledger rows and {} events of {n_posts} posts", tables.posts.len(), tables.n_events));
    }
    Ok(())
}
