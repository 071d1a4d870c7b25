//! Rows per second of `Ingest::apply` driven from memory: the upper bound of what Kafka to committed Postgres can reach (goals P1, P5).
//!
//! `PG_DSN_RW` names the server; a database is made for the run and dropped after it. Settings are printed with the figures, because only
//! ratios of one run mean anything. Rounds of the cases are interleaved; the median counts.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kylo::domain::company::{Dsn, Route, SchemaName, SpreadsheetId};
use kylo::domain::ids::CompanyId;
use kylo::flow::decode::{Decoded, RawMessage, decode_txns};
use kylo::flow::ingest::{Ingest, IngestOptions, NoMetrics};
use kylo::flow::work::{Position, Record, TxnsWork};
use kylo::store::pools::{PoolOptions, Pools};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};

const COMPANIES: usize = 8;
const WRITERS: usize = 2;
const ROUNDS: usize = 3;
/// Per case and round.
const ROWS: usize = 40_000;
/// As the consumer coalesces.
const MAX_ROWS_PER_CALL: usize = 5_000;

/// (rows a message, most messages a call, companies' schemas)
const CASES: [(&str, usize, usize, usize); 6] = [
    ("500 rows a message, one message a call", 500, 1, 1),
    ("500 rows a message, coalesced", 500, 64, 1),
    ("5 rows a message, coalesced to 64 messages", 5, 64, 1),
    ("5 rows a message, coalesced to 1000 messages", 5, 1000, 1),
    ("1 row a message, coalesced to 1000 messages", 1, 1000, 1),
    ("500 rows a message, one message a call, 8 schemas", 500, 1, 8),
];

struct Bench {
    dsn: String,
    ingest: Arc<Ingest>,
    n_made: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut out = std::io::stdout();
    let server = server()?;
    let name = format!("kylo_bench_{}", uuid::Uuid::new_v4().simple());
    let mut admin = PgConnection::connect(&server).await.context("PG_DSN_RW does not answer")?;
    admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
    let mut url = url::Url::parse(&server)?;
    url.set_path(&name);
    let result = run(url.to_string(), &mut out).await;
    admin.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await?;
    result
}

#[expect(clippy::disallowed_methods, reason = "the benchmark's only setting")]
fn server() -> Result<String> {
    std::env::var("PG_DSN_RW").context("PG_DSN_RW is not set: run scripts/up.sh, then source .local/env")
}

async fn run(dsn: String, out: &mut impl Write) -> Result<()> {
    let control = PgPool::connect(&dsn).await?;
    control.execute(include_str!("../ddl/control/0001_control.sql")).await?;
    for schema in 0..COMPANIES {
        let mut conn = PgConnection::connect(&dsn).await?;
        conn.execute(AssertSqlSafe(format!("CREATE SCHEMA app_{schema}; SET search_path = app_{schema}"))).await?;
        conn.execute(include_str!("../ddl/company/0001_company.sql")).await?;
    }
    let settings: Vec<String> = sqlx::query_scalar(
        "SELECT name || '=' || setting FROM pg_settings WHERE name IN ('server_version', 'fsync', 'synchronous_commit', 'shared_buffers') ORDER BY 1",
    )
    .fetch_all(&control)
    .await?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    writeln!(out, "{} rows a case and round, {COMPANIES} companies, {WRITERS} writers, {cores} cores, {}", ROWS, settings.join(" "))?;
    let pools = Pools::new(PoolOptions::default());
    let ingest = Ingest::new(IngestOptions { control: control.clone(), pools: Arc::clone(&pools), metrics: Arc::new(NoMetrics) });
    let mut bench = Bench { dsn, ingest: Arc::new(ingest), n_made: 0 };
    let mut figures: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for (case, rows, messages, schemas) in CASES {
            let works = bench.works(rows, schemas)?;
            let again = works.clone();
            figures.entry(case).or_default().push(bench.drain(works, messages).await?);
            if case == CASES[0].0 {
                figures.entry("the same again, dismissed by the ledger").or_default().push(bench.drain(again, messages).await?);
            }
        }
    }
    for (case, mut speeds) in figures {
        speeds.sort_by(f64::total_cmp);
        let list: Vec<_> = speeds.iter().map(|speed| format!("{speed:.0}")).collect();
        writeln!(out, "{:>9.0} rows/s  {case}  ({})", speeds[speeds.len() / 2], list.join(", "))?;
    }
    pools.close().await;
    control.close().await;
    Ok(())
}

impl Bench {
    /// Messages with new transactions, dealt to the companies in turn; one description in four is decided by no rule, none by any.
    fn works(&mut self, rows: usize, schemas: usize) -> Result<Vec<TxnsWork>> {
        (0..ROWS / rows).map(|message| self.work(message % COMPANIES, message % schemas, rows)).collect()
    }

    fn work(&mut self, company: usize, schema: usize, rows: usize) -> Result<TxnsWork> {
        let transactions: Vec<_> = (0..rows)
            .map(|row| {
                self.n_made += 1;
                json!({"id": format!("t{}", self.n_made), "date": "2025-08-26", "amount": format!("-{row}.34"), "description": format!("STARBUCKS STORE {:05} SEATTLE WA", self.n_made % 5000), "memo": "card 1234", "counterparty": "Starbucks"})
            })
            .collect();
        let company = format!("company-{company}-of-{schema}");
        let message = json!({"event_type": "TXNS_BATCH", "version": 2, "batch_id": format!("b-{}", self.n_made), "company_id": company,
            "created_at": "2025-08-26T12:00:00Z", "transactions": transactions});
        let offset = i64::try_from(self.n_made)?;
        let payload = message.to_string().into_bytes();
        let raw = RawMessage { payload: Some(&payload), key: Some(company.as_bytes()), topic: "txns", partition: 0, offset };
        let Ok(Decoded::Batch { batch, bad, .. }) = decode_txns(&raw, "2025-08-26T13:00:00Z".parse()?) else {
            bail!("the benchmark's message is not a batch")
        };
        let position = Position { topic: "txns".into(), partition: 0, offset };
        let record = Record { position, key: Some(company.clone().into_bytes()), payload: None, headers: BTreeMap::new(), timestamp: None };
        let route = Route {
            company: CompanyId::parse(&company)?,
            dsn: Dsn::new(&self.dsn),
            schema: SchemaName::parse(&format!("app_{schema}")).map_err(anyhow::Error::msg)?,
            spreadsheet: SpreadsheetId::parse("none").map_err(anyhow::Error::msg)?,
            tab_pending: "P".into(),
            tab_active: "A".into(),
            version: 1,
        };
        Ok(TxnsWork { record: Arc::new(record), route: Arc::new(route), batch: *batch, bad })
    }

    /// Rows per second of all writers together. Each company is one writer's.
    async fn drain(&self, works: Vec<TxnsWork>, messages: usize) -> Result<f64> {
        let mut queues: Vec<Vec<Vec<TxnsWork>>> = (0..WRITERS).map(|_| Vec::new()).collect();
        let rows: usize = works.iter().map(|work| work.batch.rows.len()).sum();
        for work in works {
            let writer = work.route.company.as_str().bytes().map(usize::from).sum::<usize>() % WRITERS;
            let n_rows = work.batch.rows.len();
            let fits = |call: &&mut Vec<TxnsWork>| call.len() < messages && (call.len() + 1) * n_rows <= MAX_ROWS_PER_CALL;
            match queues[writer].last_mut().filter(fits) {
                Some(call) => call.push(work),
                None => queues[writer].push(vec![work]),
            }
        }
        let started = Instant::now();
        let writers: Vec<_> = queues
            .into_iter()
            .map(|calls| {
                let ingest = Arc::clone(&self.ingest);
                tokio::spawn(async move {
                    for call in calls {
                        if let Some(stuck) = ingest.apply(call).await.into_iter().find_map(Result::err) {
                            return Err(stuck);
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for writer in writers {
            writer.await??;
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        Ok(rows as f64 / started.elapsed().as_secs_f64())
    }
}
