//! A throwaway database with the control schema and some company schemas, and messages for them, decoded by the real decoder.

#[path = "../support/database.rs"]
pub mod database;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use kylo::domain::company::{Dsn, Route, SchemaName, SpreadsheetId};
use kylo::domain::ids::CompanyId;
use kylo::flow::decode::{Decoded, RawMessage, decode_txns};
use kylo::flow::ingest::{Ingest, IngestMetrics, IngestOptions};
use kylo::flow::work::{Handled, Position, Record, Stuck, TxnsWork};
use kylo::store::pools::{PoolOptions, Pools};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};

/// Counts by outcome, as telemetry would see them.
#[derive(Debug, Default)]
pub struct Tally(std::sync::Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    pub fn of(&self, outcome: &str) -> u64 {
        self.0.lock().unwrap().get(outcome).copied().unwrap_or_default()
    }
}

impl IngestMetrics for Tally {
    fn rows(&self, outcome: &'static str, n: u64) {
        *self.0.lock().unwrap().entry(outcome).or_default() += n;
    }
    fn batches(&self, outcome: &'static str, n: u64) {
        *self.0.lock().unwrap().entry(outcome).or_default() += n;
    }
}

pub struct World {
    pub dsn: String,
    pub control: PgPool,
    pub pools: Arc<Pools>,
    pub ingest: Arc<Ingest>,
    pub tally: Arc<Tally>,
    database: database::Database,
    routes: BTreeMap<String, Arc<Route>>,
    offset: AtomicI64,
}

impl World {
    /// `companies`: (id, schema); schemas are made, once each.
    pub async fn new(companies: &[(&str, &str)]) -> Self {
        let database = database::Database::create().await;
        let (dsn, control) = (database.dsn.clone(), database.pool.clone());
        database.execute(include_str!("../../ddl/control/0001_control.sql")).await;
        assert_eq!(database.scalar::<i32>("SELECT max(version) FROM control.schema_migrations").await, 1);
        let pools = Pools::new(PoolOptions { max_connections: 6, ..PoolOptions::default() });
        let tally = Arc::new(Tally::default());
        let ingest = Ingest::new(IngestOptions { control: control.clone(), pools: Arc::clone(&pools), metrics: Arc::clone(&tally) as Arc<_> });
        let (ingest, routes) = (Arc::new(ingest), BTreeMap::new());
        let mut world = Self { dsn, control, pools, ingest, tally, database, routes, offset: AtomicI64::new(0) };
        for (company, schema) in companies {
            world.migrate(schema).await;
            world.add(company, schema);
        }
        world
    }

    pub async fn migrate(&self, schema: &str) {
        let mut conn = PgConnection::connect(&self.dsn).await.unwrap();
        conn.execute(AssertSqlSafe(format!("CREATE SCHEMA IF NOT EXISTS {schema}; SET search_path = {schema}"))).await.unwrap();
        conn.execute(include_str!("../../ddl/company/0001_company.sql")).await.unwrap();
    }

    /// Routes a company to a schema, which need not exist.
    pub fn add(&mut self, company: &str, schema: &str) {
        self.add_at(company, schema, &self.dsn.clone());
    }

    pub fn add_at(&mut self, company: &str, schema: &str, dsn: &str) {
        let route = Route {
            company: CompanyId::parse(company).unwrap(),
            dsn: Dsn::new(dsn),
            schema: SchemaName::parse(schema).unwrap(),
            spreadsheet: SpreadsheetId::parse("sheet-1").unwrap(),
            tab_pending: format!("{company} Pending").into(),
            tab_active: format!("{company} Active").into(),
            version: 1,
        };
        self.routes.insert(company.to_owned(), Arc::new(route));
    }

    pub fn route(&self, company: &str) -> Arc<Route> {
        Arc::clone(&self.routes[company])
    }

    /// Runs SQL as a person would, in a company's schema.
    pub async fn sql(&self, company: &str, sql: &str) {
        let mut conn = self.conn(company).await;
        conn.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    }

    pub async fn conn(&self, company: &str) -> PgConnection {
        let mut conn = PgConnection::connect(&self.dsn).await.unwrap();
        conn.execute(AssertSqlSafe(format!("SET search_path = {}", self.routes[company].schema))).await.unwrap();
        conn
    }

    /// The rows of a query as text, columns joined by `|`; `$1` is the company.
    pub async fn rows(&self, company: &str, sql: &str) -> Vec<String> {
        let mut conn = self.conn(company).await;
        let sql = format!("SELECT array_to_string(ARRAY(SELECT value FROM jsonb_each_text(to_jsonb(q))), '|', '-') FROM ({sql}) q");
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(company).fetch_all(&mut conn).await.unwrap()
    }

    pub async fn count(&self, company: &str, sql: &str) -> i64 {
        let mut conn = self.conn(company).await;
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut conn).await.unwrap()
    }

    pub fn record(&self, company: &str, message: &Value) -> Arc<Record> {
        let offset = self.offset.fetch_add(1, Ordering::SeqCst);
        Arc::new(Record {
            position: Position { topic: "txns.company.batches".into(), partition: 0, offset },
            key: Some(company.as_bytes().to_vec()),
            payload: Some(message.to_string().into_bytes()),
            headers: BTreeMap::new(),
            timestamp: None,
        })
    }

    /// A batch made `minute` minutes into the test's day.
    pub fn batch(&self, company: &str, batch_id: &str, minute: i64, transactions: &Value) -> TxnsWork {
        let created_at = day() + TimeDelta::minutes(minute);
        let message = json!({"event_type": "TXNS_BATCH", "version": 2, "batch_id": batch_id, "company_id": company, "created_at": created_at, "transactions": transactions});
        self.work(&self.record(company, &message))
    }

    /// What the consumer makes of a record.
    pub fn work(&self, record: &Arc<Record>) -> TxnsWork {
        let raw = RawMessage {
            payload: record.payload.as_deref(),
            key: record.key.as_deref(),
            topic: &record.position.topic,
            partition: record.position.partition,
            offset: record.position.offset,
        };
        let Ok(Decoded::Batch { batch, bad, .. }) = decode_txns(&raw, day() + TimeDelta::days(1)) else { panic!("not a batch: {record:?}") };
        let route = self.route(batch.company_id.as_str());
        TxnsWork { record: Arc::clone(record), route, batch: *batch, bad }
    }

    pub async fn apply(&self, works: &[TxnsWork]) -> Vec<Result<Handled, Stuck>> {
        self.ingest.apply(works.to_vec()).await
    }

    /// Applies one batch and gives its outcome; panics if it is stuck.
    pub async fn ingest(&self, company: &str, batch_id: &str, minute: i64, transactions: &Value) -> Handled {
        let work = self.batch(company, batch_id, minute, transactions);
        self.apply(&[work]).await.remove(0).unwrap()
    }

    /// Puts a rule in force as a promotion would.
    pub async fn rule(&self, company: &str, source: &str, sheet: &str, header: &str) {
        let norm = kylo::domain::text::normalise(source);
        self.sql(
            company,
            &format!(
                "INSERT INTO company_state (company_id) VALUES ('{company}') ON CONFLICT DO NOTHING;
                 INSERT INTO rules_active (company_id, source, source_norm, source_key, target_sheet, target_header, ruleset_version, effective_at)
                 VALUES ('{company}', '{source}', '{norm}', sha256(convert_to('{norm}', 'UTF8')), '{sheet}', '{header}', 1, now())
                 ON CONFLICT (company_id, source_key) DO UPDATE SET target_sheet = EXCLUDED.target_sheet, target_header = EXCLUDED.target_header;
                 UPDATE company_state SET ruleset_version = ruleset_version + 1 WHERE company_id = '{company}'"
            ),
        )
        .await;
    }

    /// Every transaction is void, or open in pending, or live in matched: exactly one (invariant I1).
    pub async fn assert_each_decided_once(&self, company: &str) {
        let wrong = self
            .count(
                company,
                "SELECT count(*) FROM transactions t
                 LEFT JOIN pending_txns p ON p.company_id = t.company_id AND p.txn_uid = t.txn_uid AND p.status = 'open'
                 LEFT JOIN matched_txns m ON m.company_id = t.company_id AND m.txn_uid = t.txn_uid AND m.state <> 'withdrawn'
                 WHERE (CASE WHEN t.void THEN 1 ELSE 0 END) + (p.txn_uid IS NOT NULL)::int + (m.txn_uid IS NOT NULL)::int <> 1",
            )
            .await;
        assert_eq!(wrong, 0, "transactions that are not exactly one of void, pending, matched");
    }

    /// Closes all connections; the database is dropped.
    pub async fn end(self) {
        self.pools.close().await;
        self.control.close().await;
        drop(self.database);
    }
}

pub fn day() -> DateTime<Utc> {
    "2025-08-26T12:00:00Z".parse().unwrap()
}

/// A row with an id.
pub fn row(id: &str, amount: &str, description: &str) -> Value {
    json!({"id": id, "date": "2025-08-26", "amount": amount, "description": description})
}
