//! Databases, messages, a consumer and a poster for the benchmarks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fake_sheets::{FakeSheets, Options};
use futures::future::BoxFuture;
use kylo::adapters::kafka::admin::{self, TopicSpec};
use kylo::adapters::kafka::client::KafkaSettings;
use kylo::adapters::kafka::consumer::{KafkaSource, Subscription};
use kylo::adapters::kafka::producer::{KafkaProducer, OutRecord};
use kylo::adapters::sheets::{GoogleSheets, KeyFile, SheetsOptions, endpoint};
use kylo::domain::clock::{Clock, SystemClock};
use kylo::faults::Faults;
use kylo::flow::consume::{ConsumeParts, ConsumeSettings, Consumer, NoMetrics, TxnsHandler, TxnsTopic};
use kylo::flow::decode::{Decoded, RawMessage, decode_txns};
use kylo::flow::ingest::{self, Ingest, IngestOptions};
use kylo::flow::lanes::LaneLimits;
use kylo::flow::post::{PgPostStore, Poster, PosterOptions};
use kylo::flow::routing::{Routing, RoutingCache};
use kylo::flow::work::{Handled, Position, Record, Stuck, TxnsWork};
use kylo::store::control::budget::Budget;
use kylo::store::pools::{PoolOptions, Pools};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Per case and round.
pub const ROWS: usize = 40_000;
const COMPANIES: usize = 8;
const WRITERS: usize = 2;
/// As the consumer coalesces.
const MAX_ROWS_PER_CALL: usize = 5_000;
const MAX_MESSAGES_PER_CALL: usize = 256;

pub struct World {
    server: String,
    name: String,
    dsn: String,
    brokers: String,
    control: PgPool,
    pools: Arc<Pools>,
    routing: Arc<RoutingCache>,
    ingest: Arc<Ingest>,
    made: AtomicUsize,
}

/// Calls to the Sheets API.
pub struct Calls {
    pub reads: u64,
    pub writes: u64,
}

/// Counts rows and notes when the first work came in.
#[derive(Clone, Debug)]
struct Timed(Arc<Count>);

#[derive(Debug)]
struct Count {
    ingest: Arc<Ingest>,
    first: OnceLock<Instant>,
    rows: AtomicUsize,
    done: Notify,
}

impl TxnsHandler for Timed {
    fn apply(&self, works: Vec<TxnsWork>) -> BoxFuture<'_, Vec<Result<Handled, Stuck>>> {
        Box::pin(async move {
            let count = &self.0;
            count.first.get_or_init(Instant::now);
            let rows: usize = works.iter().map(|work| work.batch.rows.len()).sum();
            let results = count.ingest.apply(works).await;
            if count.rows.fetch_add(rows, Ordering::SeqCst) + rows >= ROWS {
                count.done.notify_one();
            }
            results
        })
    }
}

pub fn median(speeds: &[f64]) -> f64 {
    let mut sorted = speeds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark's own settings")]
fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: run scripts/up.sh, then source .local/env"))
}

impl World {
    pub async fn create() -> Result<Self> {
        let (server, brokers) = (variable("PG_DSN_RW")?, variable("KAFKA_BROKERS")?);
        let name = format!("kylo_bench_{}", Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(&server).await.context("PG_DSN_RW does not answer")?;
        admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
        let mut url = url::Url::parse(&server)?;
        url.set_path(&name);
        let dsn = url.to_string();
        let control = PgPool::connect(&dsn).await?;
        control.execute(include_str!("../../ddl/control/0001_control.sql")).await?;
        let mut conn = PgConnection::connect(&dsn).await?;
        conn.execute("CREATE SCHEMA app; SET search_path = app").await?;
        conn.execute(include_str!("../../ddl/company/0001_company.sql")).await?;
        let (pools, routing) = (Pools::new(PoolOptions::default()), RoutingCache::new(control.clone()));
        let options = IngestOptions { control: control.clone(), pools: Arc::clone(&pools), metrics: Arc::new(ingest::NoMetrics) };
        let ingest = Arc::new(Ingest::new(options));
        let world = Self { server, name, dsn, brokers, control, pools, routing, ingest, made: AtomicUsize::new(0) };
        for n in 0..COMPANIES {
            world.configure(&format!("company-{n}"), "unused").await?;
        }
        Ok(world)
    }

    pub async fn remove(self) -> Result<()> {
        self.pools.close().await;
        self.control.close().await;
        let mut admin = PgConnection::connect(&self.server).await?;
        admin.execute(AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", self.name))).await?;
        Ok(())
    }

    pub async fn settings(&self) -> Result<String> {
        let settings: Vec<String> = sqlx::query_scalar(
            "SELECT name || '=' || setting FROM pg_settings WHERE name IN ('server_version', 'fsync', 'synchronous_commit', 'shared_buffers') ORDER BY 1",
        )
        .fetch_all(&self.control)
        .await?;
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        Ok(format!("{COMPANIES} companies in one schema, {WRITERS} writers, 16 partitions, {cores} cores, {}", settings.join(" ")))
    }

    async fn configure(&self, company: &str, spreadsheet: &str) -> Result<()> {
        let insert = "INSERT INTO control.company_config (company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active)
                      VALUES ($1, $2, 'app', $3, $1 || ' Pending', $1 || ' Active')";
        sqlx::query(insert).bind(company).bind(&self.dsn).bind(spreadsheet).execute(&self.control).await?;
        Ok(())
    }

    /// Messages with new transactions, dealt to the companies in turn.
    fn messages(&self, rows: usize, total: usize, companies: &[String]) -> Vec<(String, String)> {
        (0..total / rows).map(|n| (companies[n % companies.len()].clone(), rows)).map(|(company, rows)| self.message(company, rows)).collect()
    }

    fn message(&self, company: String, rows: usize) -> (String, String) {
        let first = self.made.fetch_add(rows, Ordering::SeqCst);
        let transactions: Vec<_> = (first..first + rows)
            .map(|n| json!({"id": format!("t{n}"), "date": "2025-08-26", "amount": "-12.34", "description": format!("STARBUCKS STORE {:05} SEATTLE WA", n % 5000), "memo": "card 1234", "counterparty": "Starbucks"}))
            .collect();
        let message = json!({"event_type": "TXNS_BATCH", "version": 2, "batch_id": format!("b-{first}"), "company_id": company,
            "created_at": "2025-08-26T12:00:00Z", "transactions": transactions});
        (company, message.to_string())
    }

    fn companies() -> Vec<String> {
        (0..COMPANIES).map(|n| format!("company-{n}")).collect()
    }

    async fn work(&self, company: &str, payload: &str) -> Result<TxnsWork> {
        let raw = RawMessage { payload: Some(payload.as_bytes()), key: Some(company.as_bytes()), topic: "txns", partition: 0, offset: 0 };
        let Ok(Decoded::Batch { batch, bad, .. }) = decode_txns(&raw, SystemClock.now()) else { bail!("the benchmark's message is not a batch") };
        let Routing::Known(route) = self.routing.of(&batch.company_id).await? else { bail!("company {company} has no route") };
        let position = Position { topic: "txns".into(), partition: 0, offset: 0 };
        let record = Record { position, key: Some(company.as_bytes().to_vec()), payload: None, headers: BTreeMap::new(), timestamp: None };
        Ok(TxnsWork { record: Arc::new(record), route, batch: *batch, bad })
    }

    /// Rows per second of the statements alone: decoded batches, coalesced as the consumer does, each company one writer's.
    pub async fn memory_speed(&self, rows: usize) -> Result<f64> {
        let mut works = Vec::new();
        for (company, payload) in self.messages(rows, ROWS, &Self::companies()) {
            works.push(self.work(&company, &payload).await?);
        }
        let started = Instant::now();
        self.drain(works).await?;
        Ok(per_second(ROWS, started.elapsed()))
    }

    async fn drain(&self, works: Vec<TxnsWork>) -> Result<()> {
        let mut queues: Vec<Vec<Vec<TxnsWork>>> = (0..WRITERS).map(|_| Vec::new()).collect();
        for work in works {
            let writer = work.route.company.as_str().bytes().map(usize::from).sum::<usize>() % WRITERS;
            let n_rows = work.batch.rows.len();
            let fits = |call: &&mut Vec<TxnsWork>| call.len() < MAX_MESSAGES_PER_CALL && (call.len() + 1) * n_rows <= MAX_ROWS_PER_CALL;
            match queues[writer].last_mut().filter(fits) {
                Some(call) => call.push(work),
                None => queues[writer].push(vec![work]),
            }
        }
        let writers: Vec<_> = queues.into_iter().map(|calls| tokio::spawn(apply_all(Arc::clone(&self.ingest), calls))).collect();
        for writer in writers {
            writer.await??;
        }
        Ok(())
    }

    /// Rows per second from the first message taken to the last row committed; the topic is full when the consumer starts.
    pub async fn kafka_speed(&self, rows: usize) -> Result<f64> {
        let topic = format!("bench-{}", Uuid::new_v4().simple());
        let kafka = KafkaSettings::plaintext(&self.brokers);
        let spec = TopicSpec { name: topic.clone(), partitions: 16, retention_days: 1 };
        ensure!(admin::ensure(&kafka, &[spec]).await?.iter().all(admin::TopicReport::is_good), "the benchmark's topic could not be made");
        let producer = KafkaProducer::start(&kafka)?;
        let record = |(company, payload): (String, String)| OutRecord {
            topic: topic.clone(),
            key: Some(company.into_bytes()),
            payload: Some(payload.into_bytes()),
            headers: Vec::new(),
        };
        let records: Vec<_> = self.messages(rows, ROWS, &Self::companies()).into_iter().map(record).collect();
        for delivered in producer.publish_all(&records).await {
            delivered?;
        }
        let group = format!("{topic}-workers");
        let source = KafkaSource::start(&kafka, &Subscription { topic: topic.clone(), group: group.clone(), drain: Duration::from_secs(5) })?;
        let count = Count { ingest: Arc::clone(&self.ingest), first: OnceLock::new(), rows: AtomicUsize::new(0), done: Notify::new() };
        let timed = Timed(Arc::new(count));
        let parts =
            ConsumeParts { control: self.control.clone(), routes: Arc::clone(&self.routing), metrics: Arc::new(NoMetrics), worker: Uuid::new_v4() };
        let handler = TxnsTopic { handler: timed.clone(), clock: Arc::new(SystemClock), limits: LaneLimits::txns() };
        let consumer = Consumer::new(ConsumeSettings::new(&topic, &group), parts, handler, Box::new(source));
        let stop = CancellationToken::new();
        let running = tokio::spawn(consumer.run(stop.clone()));
        tokio::time::timeout(Duration::from_secs(300), timed.0.done.notified()).await.context("the consumer did not finish within 5 minutes")?;
        let elapsed = timed.0.first.get().map(Instant::elapsed).context("no message came")?;
        stop.cancel();
        running.await??;
        Ok(per_second(ROWS, elapsed))
    }

    /// Calls that a poster needs for 1,000 batches of 20 rows that wait for 40 companies in 10 spreadsheets.
    pub async fn sheets_calls(&self) -> Result<Calls> {
        let key_file = std::env::temp_dir().join(format!("{}.json", self.name));
        let sheets = FakeSheets::start(Options { key_file: Some(key_file.clone()), open: true, ..Options::default() }).await?;
        let mut companies = Vec::new();
        for n in 0..40 {
            let (company, spreadsheet) = (format!("poster-{n}"), format!("bench-book-{}", n % 10));
            if n < 10 {
                sheets.model().create_spreadsheet(Some(&spreadsheet), &spreadsheet, &["Sheet1"]).map_err(|error| anyhow::anyhow!("{error:?}"))?;
            }
            self.configure(&company, &spreadsheet).await?;
            companies.push(company);
        }
        let mut works = Vec::new();
        for (company, payload) in self.messages(20, 20_000, &companies) {
            works.push(self.work(&company, &payload).await?);
        }
        self.drain(works).await?;
        let key = KeyFile::open(&key_file)?;
        let budget = Arc::new(Budget::new(self.control.clone(), key.client_email(), 60, 60));
        let options = SheetsOptions::new(endpoint(&sheets.url())?, key, budget, Arc::new(|_, _| {}));
        let poster = Poster::new(PosterOptions {
            store: PgPostStore::new(self.control.clone(), Arc::clone(&self.pools), Arc::clone(&self.routing)),
            gateway: Some(Arc::new(GoogleSheets::new(options)?)),
            clock: Arc::new(SystemClock),
            environment: "bench".to_owned(),
            canary: BTreeSet::new(),
            sweep: Duration::ZERO,
            holder: Uuid::new_v4(),
            ids: Arc::new(Uuid::new_v4),
            wake: Arc::new(Notify::new()),
            faults: no_faults(),
        });
        while poster.post_once().await?.again {}
        let shown: usize = companies
            .iter()
            .enumerate()
            .map(|(n, company)| sheets.model().texts(&format!("bench-book-{}", n % 10), &format!("{company} Pending")).len().saturating_sub(1))
            .sum();
        ensure!(shown >= 20_000, "the tabs show {shown} rows instead of 20,000");
        let counts = sheets.model().counts();
        sheets.shutdown().await;
        std::fs::remove_file(key_file)?;
        Ok(Calls { reads: counts.reads, writes: counts.writes })
    }
}

async fn apply_all(ingest: Arc<Ingest>, calls: Vec<Vec<TxnsWork>>) -> Result<()> {
    for call in calls {
        if let Some(stuck) = ingest.apply(call).await.into_iter().find_map(Result::err) {
            return Err(stuck.into());
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn per_second(rows: usize, elapsed: Duration) -> f64 {
    rows as f64 / elapsed.as_secs_f64()
}

/// Armed by no test here; the type is another with feature `faults`.
fn no_faults() -> Faults {
    Default::default()
}
