//! The quota in virtual time (goal P9): two posters with one budget between them, calls that take their time, and a service that counts.
//!
//! The budget here does in memory what `control.sheets_budget` does (one row per call in 60 s, free again 60 s after the call has ended), and who waits
//! in a process waits in line, as there; that the rows themselves keep the limit over processes is tested by `tests/sheets_budget.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use kylo::domain::clock::Clock;
use kylo::domain::company::SpreadsheetId;
use kylo::domain::sheet::{Applied, Batch, MetadataEntry, Observed};
use kylo::faults::Faults;
use kylo::flow::post::{Poster, PosterOptions};
use kylo::ports::{CallError, SheetGateway};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dice::Dice;
use super::sheets::{Sheets, Unfenced};
use super::store::{Broken, Memory, Turns};
use super::tables::Tables;
use crate::post_support::book::{Book, Grid};

const MINUTE: Duration = Duration::from_secs(60);
/// Longest time of a call, as the real budget has it.
const LONGEST: Duration = Duration::from_secs(190);

/// Follows tokio's paused clock.
struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(1_756_209_600, 0).unwrap() + self.0.elapsed()
    }
}

/// One kind of call: the budget's rows, and what the service has seen.
#[derive(Debug)]
struct Kind {
    free_at: Vec<Instant>,
    starts: Vec<Instant>,
}

/// The service behind the budget.
#[derive(Clone, Debug)]
struct Metered {
    sheets: Sheets,
    reads: Arc<Mutex<Kind>>,
    writes: Arc<Mutex<Kind>>,
    /// Those of one process who wait for a read, and for a write.
    lines: Arc<[tokio::sync::Mutex<()>; 2]>,
    limit: usize,
    latency: Duration,
    /// 429 answers.
    throttled: Arc<Mutex<usize>>,
    /// Spreadsheets in the order in which they were written, and when.
    written: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Metered {
    async fn take(&self, kind: &Arc<Mutex<Kind>>) -> usize {
        let _turn = self.lines[usize::from(Arc::ptr_eq(kind, &self.writes))].lock().await;
        loop {
            let wait = {
                let now = Instant::now();
                let mut kind = kind.lock().unwrap();
                if let Some(slot) = kind.free_at.iter().position(|at| *at <= now) {
                    kind.free_at[slot] = now + LONGEST + MINUTE;
                    return slot;
                }
                kind.free_at.iter().min().copied().unwrap() - now
            };
            tokio::time::sleep(wait.clamp(Duration::from_millis(500), Duration::from_secs(2))).await;
        }
    }

    async fn call<T>(&self, kind: &Arc<Mutex<Kind>>, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let slot = self.take(kind).await;
        let is_over = {
            let now = Instant::now();
            let mut kind = kind.lock().unwrap();
            let n_recent = kind.starts.iter().filter(|at| **at + MINUTE > now).count();
            kind.starts.push(now);
            n_recent >= self.limit
        };
        tokio::time::sleep(self.latency / 2).await;
        let answer = if is_over {
            *self.throttled.lock().unwrap() += 1;
            Err(CallError::Throttled { retry_after: None, message: "Quota exceeded".to_owned() })
        } else {
            call.await
        };
        tokio::time::sleep(self.latency / 2).await;
        kind.lock().unwrap().free_at[slot] = Instant::now() + MINUTE + MINUTE / 240;
        answer
    }
}

impl SheetGateway for Metered {
    fn directory<'a>(&'a self, spreadsheet: &'a SpreadsheetId) -> BoxFuture<'a, Result<Observed, CallError>> {
        Box::pin(self.call(&self.reads, self.sheets.directory(spreadsheet)))
    }

    fn read<'a>(&'a self, spreadsheet: &'a SpreadsheetId, titles: &'a [String]) -> BoxFuture<'a, Result<Observed, CallError>> {
        Box::pin(self.call(&self.reads, self.sheets.read(spreadsheet, titles)))
    }

    fn apply<'a>(&'a self, spreadsheet: &'a SpreadsheetId, batch: &'a Batch) -> BoxFuture<'a, Result<Applied, CallError>> {
        self.written.lock().unwrap().push((spreadsheet.to_string(), Instant::now()));
        Box::pin(self.call(&self.writes, self.sheets.apply(spreadsheet, batch)))
    }

    fn metadata<'a>(&'a self, spreadsheet: &'a SpreadsheetId, id: i32) -> BoxFuture<'a, Result<Option<MetadataEntry>, CallError>> {
        Box::pin(self.call(&self.reads, self.sheets.metadata(spreadsheet, id)))
    }
}

/// Companies in spreadsheets, and two posting processes.
struct World {
    tables: Arc<Mutex<Tables>>,
    service: Metered,
    clock: Arc<VirtualClock>,
    dice: Dice,
    companies: Vec<String>,
    wakes: Vec<Arc<Notify>>,
    stop: CancellationToken,
    running: Vec<tokio::task::JoinHandle<()>>,
    n_added: usize,
}

impl World {
    fn new(n_companies: usize, n_spreadsheets: usize, limit: usize) -> Self {
        let (dice, tables): (_, Arc<Mutex<Tables>>) = (Dice::new(7), Arc::default());
        let turns = Turns::none(&dice);
        let sheets = Sheets { state: Arc::default(), weather: Arc::default(), turns, unfenced: Unfenced::Fenced };
        let companies: Vec<String> = (0..n_companies).map(|n| format!("7{n:02}")).collect();
        for (n, company) in companies.iter().enumerate() {
            let spreadsheet = format!("sheet-{}", n % n_spreadsheets);
            tables.lock().unwrap().configure(company, &spreadsheet);
            let book = Book { grids: vec![Grid::new(0, "Sheet1", 30, 10)], metadata: Vec::new() };
            sheets.lock().books.entry(spreadsheet).or_insert(book);
        }
        let kind = || Arc::new(Mutex::new(Kind { free_at: vec![Instant::now(); limit], starts: Vec::new() }));
        let (latency, throttled, written) = (Duration::from_millis(800), Arc::default(), Arc::default());
        let service = Metered { sheets, reads: kind(), writes: kind(), lines: Arc::default(), limit, latency, throttled, written };
        let clock = Arc::new(VirtualClock(Instant::now()));
        let (wakes, stop, running) = (Vec::new(), CancellationToken::new(), Vec::new());
        Self { tables, service, clock, dice, companies, wakes, stop, running, n_added: 0 }
    }

    fn start(&mut self, n_posters: usize) {
        for _ in 0..n_posters {
            let wake: Arc<Notify> = Arc::default();
            let ids = self.dice.clone();
            let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
            let (tables, turns) = (Arc::clone(&self.tables), Turns::none(&self.dice));
            let poster = Poster::new(PosterOptions {
                store: Arc::new(Memory { tables, clock: Arc::clone(&clock), turns, fails: 0, broken: Broken::Nothing }),
                gateway: Some(Arc::new(Metered { lines: Arc::default(), ..self.service.clone() })),
                clock,
                environment: "default".to_owned(),
                canary: BTreeSet::new(),
                sweep: Duration::from_secs(3_600),
                holder: self.dice.uuid(),
                ids: Arc::new(move || ids.uuid()),
                wake: Arc::clone(&wake),
                faults: Faults::default(),
            });
            self.wakes.push(wake);
            let stop = self.stop.clone();
            self.running.push(tokio::spawn(async move { poster.run(stop).await }));
        }
    }

    /// One batch for one company, as ingest leaves it.
    fn batch(&mut self, company: usize, rows: usize) {
        let company = self.companies[company].clone();
        let mut tables = self.tables.lock().unwrap();
        for _ in 0..rows {
            self.n_added += 1;
            tables.add(&company, &format!("t{}", self.n_added), &format!("SOURCE {} OF THE BANK", self.n_added), 100);
        }
        tables.company(&company).state.updated_at = self.clock.now();
        self.wakes.iter().for_each(|wake| wake.notify_one());
    }

    fn n_due(&self) -> usize {
        let tables = self.tables.lock().unwrap();
        let is_due = |company: &&String| {
            let bound = tables.tabs.get(&((*company).clone(), "pending".to_owned()));
            bound.is_none_or(|tab| tab.row.posted_seq != tables.companies[*company].state.pending_seq)
        };
        self.companies.iter().filter(is_due).count()
    }

    /// Waits until every tab shows what Postgres says.
    async fn arrived(&self, within: Duration) -> Duration {
        let started = Instant::now();
        while self.n_due() > 0 {
            assert!(started.elapsed() < within, "{} tabs are still due after {within:?}", self.n_due());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        started.elapsed()
    }

    /// Stops the posters, and checks what holds in every case.
    async fn stop(&mut self) {
        self.stop.cancel();
        for running in self.running.drain(..) {
            running.await.unwrap();
        }
        let shown: usize = self.companies.iter().map(|company| self.rows(company)).sum();
        assert_eq!(shown, self.n_added, "every row is shown once");
        assert_eq!(*self.service.throttled.lock().unwrap(), 0, "not a single 429");
    }

    fn rows(&self, company: &str) -> usize {
        let state = self.service.sheets.lock();
        let grids = state.books.values().flat_map(|book| &book.grids);
        grids.filter(|grid| grid.title == format!("{company} Pending")).map(|grid| grid.filled().len()).sum()
    }

    fn n_writes(&self) -> usize {
        self.service.writes.lock().unwrap().starts.len()
    }

    fn n_reads(&self) -> usize {
        self.service.reads.lock().unwrap().starts.len()
    }
}

#[tokio::test(start_paused = true)]
async fn a_backlog_of_a_thousand_batches_for_forty_companies_in_ten_spreadsheets_arrives_in_ten_writes_of_two_posters() {
    let mut world = World::new(40, 10, 60);
    for n in 0..1_000 {
        world.batch(n % 40, 20);
    }
    world.start(2);
    world.arrived(MINUTE).await;
    // Whatever a poster still believes to be due would be written now.
    tokio::time::sleep(MINUTE).await;
    world.stop().await;
    assert_eq!(world.n_writes(), 10, "one for each spreadsheet");
    assert!(world.n_reads() <= 2 * world.n_writes(), "a directory and a read for each new spreadsheet, not {}", world.n_reads());
}

#[tokio::test(start_paused = true)]
async fn batches_that_arrive_while_two_posters_run_are_gathered_and_shown_within_seconds_of_the_last() {
    let mut world = World::new(40, 10, 60);
    world.start(2);
    for n in 0..1_000 {
        world.batch(n % 40, 20);
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    let took = world.arrived(MINUTE).await;
    tokio::time::sleep(MINUTE).await;
    world.stop().await;
    // At most the pass under way (directory, read, write), then one more (read, write), and 2 s to find it.
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(world.n_writes() <= 40, "{} writes for 4 s of batches", world.n_writes());
    assert!(world.n_reads() <= world.n_writes() + 10 + 5, "one read for each write, not {} for {}", world.n_reads(), world.n_writes());
}

#[tokio::test(start_paused = true)]
async fn a_small_budget_is_shared_evenly_between_spreadsheets_and_everything_arrives_with_few_writes() {
    let mut world = World::new(40, 10, 6);
    world.start(2);
    for n in 0..3_000 {
        world.batch(n % 40, 2);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    world.arrived(10 * MINUTE).await;
    world.stop().await;
    let mut writes: BTreeMap<String, usize> = BTreeMap::new();
    for (spreadsheet, _) in world.service.written.lock().unwrap().iter() {
        *writes.entry(spreadsheet.clone()).or_default() += 1;
    }
    let (least, most) = (writes.values().min().unwrap(), writes.values().max().unwrap());
    assert!(writes.len() == 10 && *most <= 2 * least, "{writes:?}");
    assert!(world.n_writes() <= 6 * 21, "{} writes in about 10 to 20 minutes of 6 each", world.n_writes());
}

#[tokio::test(start_paused = true)]
async fn a_company_with_a_huge_backlog_delays_its_neighbours_in_the_spreadsheet_by_one_batch_at_most() {
    let mut world = World::new(4, 1, 60);
    world.batch(0, 9_000);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for company in 1..4 {
        world.batch(company, 10);
    }
    world.start(1);
    while (1..4).any(|company| world.rows(&world.companies[company]) < 10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(world.n_writes() <= 2, "the others waited for {} writes of the one", world.n_writes());
    assert!(world.rows("700") < 9_000, "the backlog is larger than two batches");
    world.arrived(2 * MINUTE).await;
    world.stop().await;
    assert!(world.n_writes() <= 4, "{} writes for four batches of 2 MB", world.n_writes());
}

#[tokio::test(start_paused = true)]
async fn a_company_with_a_huge_backlog_does_not_delay_other_spreadsheets() {
    let mut world = World::new(5, 5, 60);
    world.batch(0, 9_000);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for company in 1..5 {
        world.batch(company, 10);
    }
    world.start(2);
    let started = Instant::now();
    while (1..5).any(|company| world.rows(&world.companies[company]) < 10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    world.arrived(2 * MINUTE).await;
    world.stop().await;
}
