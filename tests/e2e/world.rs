//! One whole system for one test: a control database and company databases of its own, topics and groups of its own on the real broker, an
//! emulated Sheets service, and the real workers in this process.
//!
//! Used by every test of `tests/e2e.rs`. What must never happen here: a test that passes although a worker has failed (every wait looks at
//! the workers), or a wait that is a sleep (every wait looks at the state it waits for).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fake_sheets::{FakeSheets, Handle, Model, Options, Role};
use kylo::adapters::kafka::admin::{TopicSpec, TopicState, ensure};
use kylo::adapters::kafka::client::KafkaSettings;
use kylo::adapters::kafka::producer::{Delivered, KafkaProducer};
use kylo::config::Settings;
use kylo::config::env::Typed;
use kylo::runtime::{Workers, run_until};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::database::{Database, variable};

/// Longer than anything takes on a busy machine; a test that waits in vain fails after it.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Everything in one process, without HTTP.
pub const ALL: Workers = Workers { command: "run", txns: true, promote: true, poster: true, relay: false, http: None };

/// Whether the workers post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    Shadow,
    Post,
    /// Only these companies, separated by commas.
    Canary(&'static str),
}

/// A running worker process of the test.
pub struct Worker {
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Set when it ends.
    ended: Arc<OnceLock<Result<(), String>>>,
}

pub struct World {
    pub control: Database,
    /// Where companies live unless a test says otherwise.
    pub books: Database,
    pub sheets: Handle,
    pub producer: KafkaProducer,
    /// Of this world alone.
    pub name: String,
    /// Variables on top of the usual ones, for the workers that are started from now on.
    pub variables: BTreeMap<&'static str, String>,
    key_file: tempfile::NamedTempFile,
    workers: Vec<Worker>,
    places: BTreeMap<String, Place>,
}

/// Where a company's data are, as the test configured it.
#[derive(Clone, Debug)]
pub struct Place {
    pub company: String,
    /// As written to `control.company_config`.
    pub dsn: String,
    /// For the test's own questions, which a proxy in front of `dsn` does not hinder.
    pub pool: PgPool,
    pub schema: String,
    pub spreadsheet: String,
    pub pending: String,
    pub active: String,
}

pub fn brokers() -> String {
    variable("KAFKA_BROKERS").expect("KAFKA_BROKERS is not set: run scripts/up.sh, which writes it to .local/env")
}

impl World {
    /// Without companies and workers; 4 partitions for transactions.
    pub async fn new() -> Self {
        Self::with_partitions(4).await
    }

    pub async fn with_partitions(partitions: i32) -> Self {
        let world = Self::without_topics().await;
        world.make_topics(partitions).await;
        world
    }

    pub async fn without_topics() -> Self {
        let kafka = KafkaSettings::plaintext(&brokers());
        let (control, books) = (Database::create().await, Database::create().await);
        control.execute(include_str!("../../ddl/control/0001_control.sql")).await;
        let sheets = FakeSheets::start(Options { only_known_accounts: true, ..Options::default() }).await.unwrap();
        let key_file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key_file.path(), sheets.key().to_string()).unwrap();
        let name = format!("e2e-{}", uuid::Uuid::new_v4().simple());
        let producer = KafkaProducer::start(&kafka).unwrap();
        let (variables, workers, places) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self { control, books, sheets, producer, name, variables, key_file, workers, places }
    }

    pub async fn make_topics(&self, partitions: i32) {
        let topic = |name: String, partitions| TopicSpec { name, partitions, retention_days: 90 };
        let topics = [topic(self.topic_txns(), partitions), topic(self.topic_promote(), 2), topic(self.topic_events(), 2)];
        for report in ensure(&KafkaSettings::plaintext(&brokers()), &topics).await.unwrap() {
            assert_eq!(report.state, TopicState::Created, "{}", report.name);
        }
    }

    pub fn topic_txns(&self) -> String {
        format!("{}.txns", self.name)
    }

    pub fn topic_promote(&self) -> String {
        format!("{}.promote", self.name)
    }

    pub fn topic_events(&self) -> String {
        format!("{}.events", self.name)
    }

    pub fn group_txns(&self) -> String {
        format!("{}-txns", self.name)
    }

    pub fn model(&self) -> &Model {
        self.sheets.model()
    }

    pub fn key_file(&self) -> String {
        self.key_file.path().display().to_string()
    }

    // --- Companies ---

    /// Adds companies in the usual place: schema `app_<id>` of the common database, a spreadsheet of its own, tabs `<id> Pending` and `<id> Active`.
    pub async fn add(&mut self, companies: &[&str]) {
        for company in companies {
            let place = self.usual_place(company);
            self.add_at(place).await;
        }
    }

    pub fn usual_place(&self, company: &str) -> Place {
        Place {
            company: company.to_owned(),
            dsn: self.books.dsn.clone(),
            pool: self.books.pool.clone(),
            schema: format!("app_{company}"),
            spreadsheet: format!("sheet-{company}"),
            pending: format!("{company} Pending"),
            active: format!("{company} Active"),
        }
    }

    /// Makes the schema and the spreadsheet where they are missing, shares it, and configures the company.
    pub async fn add_at(&mut self, place: Place) {
        self.prepare(&place).await;
        self.configure(&place).await;
        self.places.insert(place.company.clone(), place);
    }

    /// Schema and spreadsheet alone.
    pub async fn prepare(&self, place: &Place) {
        let schema = format!("CREATE SCHEMA IF NOT EXISTS {0}; SET search_path = {0}; ", place.schema);
        let ddl = include_str!("../../ddl/company/0001_company.sql");
        let sql = format!("{schema}{ddl}; RESET search_path");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&place.pool).await.unwrap();
        if self.model().book(&place.spreadsheet).is_none() {
            self.model().create_spreadsheet(Some(&place.spreadsheet), &place.spreadsheet, &["Sheet1"]).unwrap();
            self.model().share(&place.spreadsheet, self.sheets.account(), Role::Writer).unwrap();
        }
    }

    /// As the original runbook does it: by SQL.
    pub async fn configure(&self, place: &Place) {
        sqlx::query(
            "INSERT INTO control.company_config (company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (company_id) DO UPDATE SET db_dsn_rw = $2, db_schema = $3, spreadsheet_id = $4, tab_pending = $5, tab_active = $6, updated_at = now()",
        )
        .bind(&place.company)
        .bind(&place.dsn)
        .bind(&place.schema)
        .bind(&place.spreadsheet)
        .bind(&place.pending)
        .bind(&place.active)
        .execute(&self.control.pool)
        .await
        .unwrap();
    }

    pub fn place(&self, company: &str) -> &Place {
        self.places.get(company).unwrap_or_else(|| panic!("the test has not added company {company}"))
    }

    // --- Workers ---

    /// The environment of a process of this world.
    pub fn environment(&self, mode: &Mode) -> BTreeMap<&'static str, String> {
        let mut variables = BTreeMap::from([
            ("KAFKA_BROKERS", brokers()),
            ("KAFKA_TOPIC_TXNS", self.topic_txns()),
            ("KAFKA_TOPIC_PROMOTE", self.topic_promote()),
            ("KAFKA_TOPIC_EVENTS", self.topic_events()),
            ("KAFKA_GROUP_TXNS", self.group_txns()),
            ("KAFKA_GROUP_PROMOTE", format!("{}-promote", self.name)),
            ("PG_DSN_RW", self.control.dsn.clone()),
            ("KYLO_SHEETS_POST", if *mode == Mode::Shadow { "0" } else { "1" }.to_owned()),
            ("KYLO_SHEETS_ENDPOINT", self.sheets.url()),
            // The emulator has no quota unless a test sets one, and no test should wait for ours.
            ("KYLO_SHEETS_WRITES_PER_MINUTE", "1000".to_owned()),
            ("KYLO_SHEETS_READS_PER_MINUTE", "1000".to_owned()),
            ("KYLO_SHEETS_SWEEP_SECONDS", "0".to_owned()),
            ("KYLO_DRAIN_SECONDS", "5".to_owned()),
        ]);
        if *mode != Mode::Shadow {
            variables.insert("GOOGLE_APPLICATION_CREDENTIALS", self.key_file());
        }
        if let Mode::Canary(companies) = mode {
            variables.insert("KYLO_SHEETS_POST_COMPANIES", (*companies).to_owned());
        }
        variables.extend(self.variables.clone());
        variables
    }

    /// The settings that a process would make of it.
    pub fn settings(&self, mode: &Mode) -> Settings {
        let pairs = self.environment(mode).into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Settings::resolve(&Typed::read(pairs, &BTreeMap::new()).unwrap()).unwrap()
    }

    /// Starts all workers as one more process of this world.
    pub fn start(&mut self, mode: &Mode) {
        self.start_workers(mode, ALL);
    }

    pub fn start_workers(&mut self, mode: &Mode, workers: Workers) {
        let (stop, ended) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let run = run_until(self.settings(mode), workers, stop.clone().cancelled_owned());
        let result = Arc::clone(&ended);
        let task = tokio::spawn(async move {
            let ended = run.await.map_err(|error| format!("{error:#}"));
            // The only one who sets it.
            let _ = result.set(ended);
        });
        self.workers.push(Worker { stop, task, ended });
    }

    /// Stops all workers as SIGTERM does, and looks at how they ended.
    pub async fn stop(&mut self) {
        for worker in &self.workers {
            worker.stop.cancel();
        }
        for worker in std::mem::take(&mut self.workers) {
            worker.task.await.expect("a worker process panicked");
            let ended = worker.ended.get().expect("a worker that has ended says how");
            assert_eq!(ended, &Ok(()), "a worker process failed");
        }
    }

    /// Stops one of them.
    pub async fn stop_nth(&mut self, n: usize) {
        let others = self.workers.split_off(n + 1);
        let worker = self.workers.pop().unwrap();
        let before = std::mem::replace(&mut self.workers, vec![worker]);
        self.stop().await;
        self.workers = before.into_iter().chain(others).collect();
    }

    pub async fn restart(&mut self, mode: &Mode) {
        self.stop().await;
        self.start(mode);
    }

    /// The end of a test that has passed: everything stops well. A test that fails leaves its databases' removal to `Drop`.
    pub async fn end(mut self) {
        self.stop().await;
        self.producer.flush(Duration::from_secs(5)).await.unwrap();
        super::offsets::delete(&[&self.topic_txns(), &self.topic_promote(), &self.topic_events()]).await;
    }

    fn assert_workers_live(&self) {
        for worker in &self.workers {
            if let Some(ended) = worker.ended.get() {
                panic!("a worker process ended in the middle of the test: {ended:?}");
            }
            assert!(!worker.task.is_finished(), "a worker process panicked");
        }
    }

    // --- Waiting ---

    /// Looks again and again until `look` finds what it looks for. Fails with `what` after [`PATIENCE`], or when a worker ends.
    pub async fn eventually<T>(&self, what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
        self.eventually_every(Duration::from_millis(50), what, look).await
    }

    /// The same for a look that is costly. An interval of looking, not a time after which anything is assumed.
    async fn eventually_every<T>(&self, pause: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
        let began = Instant::now();
        loop {
            self.assert_workers_live();
            match look().await {
                Ok(found) => return found,
                Err(now) if began.elapsed() > PATIENCE => panic!("{what}: not within {PATIENCE:?}; now: {now}"),
                Err(_) => tokio::time::sleep(pause).await,
            }
        }
    }

    /// Waits until a query in the control database gives this number.
    pub async fn control_counts(&self, sql: &str, wanted: i64) {
        self.eventually(sql, async || same(self.control_number(sql).await, wanted)).await;
    }

    /// Waits until a query in a company's schema gives this number.
    pub async fn company_counts(&self, company: &str, sql: &str, wanted: i64) {
        self.eventually(&format!("{company}: {sql}"), async || same(self.number(company, sql).await, wanted)).await;
    }

    /// Waits until every message of the transactions topic up to now is durable: its offset is committed.
    pub async fn consumed(&self, last: &[Delivered]) {
        let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
        for at in last {
            let end = ends.entry(at.partition).or_default();
            *end = (*end).max(at.offset + 1);
        }
        let look = async || {
            let committed = super::offsets::committed(&self.group_txns(), &self.topic_txns(), ends.keys().copied().collect()).await;
            if ends.iter().all(|(partition, end)| committed.get(partition).is_some_and(|at| at >= end)) {
                Ok(())
            } else {
                Err(format!("{committed:?}"))
            }
        };
        // Each look is a client of its own.
        self.eventually_every(Duration::from_millis(250), &format!("offsets {ends:?} committed"), look).await;
    }
}

fn same(now: i64, wanted: i64) -> Result<(), String> {
    if now == wanted { Ok(()) } else { Err(format!("{now} instead of {wanted}")) }
}
