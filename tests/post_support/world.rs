//! One throwaway database with its companies, a spreadsheet service, and posters over them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate};
use kylo::domain::clock::TestClock;
use kylo::domain::company::Route;
use kylo::domain::ids::{CompanyId, TxnKey, TxnUid, txn_uid};
use kylo::domain::sheet::Value;
use kylo::domain::text::normalise;
use kylo::faults::Faults;
use kylo::flow::post::{PgPostStore, PostRound, Poster, PosterOptions};
use kylo::flow::routing::{Routing, RoutingCache};
use kylo::ports::SheetGateway;
use kylo::store::pools::{PoolOptions, Pools};
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use super::book::{Book, Grid};
use super::gateway::Service;
use crate::database::Database;

pub const SHEET: &str = "sheet-1";

pub struct World {
    /// Dropped with the world.
    _database: Database,
    pub pool: PgPool,
    pub dsn: String,
    /// The double, and what posters talk to: the double unless a test puts something else in its place.
    pub service: Arc<Service>,
    pub gateway: Arc<dyn SheetGateway>,
    /// The emulator behind `gateway`, if that is the production client.
    pub emulator: Option<fake_sheets::Model>,
    pub clock: Arc<TestClock>,
}

impl World {
    /// Companies in one schema each; all of them in one spreadsheet.
    pub async fn new(companies: &[&str]) -> Self {
        let database = Database::create().await;
        database.execute(include_str!("../../ddl/control/0001_control.sql")).await;
        let service: Arc<Service> = Arc::default();
        let world = Self {
            pool: database.pool.clone(),
            dsn: database.dsn.clone(),
            gateway: Arc::clone(&service) as Arc<dyn SheetGateway>,
            service,
            emulator: None,
            clock: Arc::new(TestClock::at(DateTime::from_timestamp(1_756_209_600, 0).unwrap())),
            _database: database,
        };
        let book = Book { grids: vec![Grid::new(0, "Sheet1", 100, 26)], metadata: Vec::new() };
        world.service.lock().books.insert(SHEET.to_owned(), book);
        for company in companies {
            world.configure(company, &world.dsn).await;
        }
        world
    }

    pub async fn configure(&self, company: &str, dsn: &str) {
        let schema = format!("app_{company}");
        let mut connection = self.pool.acquire().await.unwrap();
        connection.execute(AssertSqlSafe(format!("CREATE SCHEMA {schema}; SET search_path = {schema}"))).await.unwrap();
        sqlx::raw_sql(include_str!("../../ddl/company/0001_company.sql")).execute(&mut *connection).await.unwrap();
        connection.execute("RESET search_path").await.unwrap();
        sqlx::query("INSERT INTO control.company_config (company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(company)
            .bind(dsn)
            .bind(&schema)
            .bind(SHEET)
            .bind(format!("{company} Pending"))
            .bind(format!("{company} Active"))
            .execute(&mut *connection)
            .await
            .unwrap();
        sqlx::query(AssertSqlSafe(format!("INSERT INTO {schema}.company_state (company_id) VALUES ($1)")))
            .bind(company)
            .execute(&mut *connection)
            .await
            .unwrap();
    }

    pub fn options(&self) -> PosterOptions {
        PosterOptions {
            store: PgPostStore::new(self.pool.clone(), Pools::new(PoolOptions::default()), RoutingCache::new(self.pool.clone())),
            gateway: Some(Arc::clone(&self.gateway)),
            clock: Arc::clone(&self.clock) as _,
            environment: "default".to_owned(),
            canary: BTreeSet::new(),
            sweep: Duration::ZERO,
            holder: Uuid::new_v4(),
            ids: Arc::new(Uuid::new_v4),
            wake: Arc::default(),
            faults: Faults::default(),
        }
    }

    pub fn poster(&self) -> Poster {
        Poster::new(self.options())
    }

    /// One pass of a fresh poster, as after a restart.
    pub async fn post(&self) -> PostRound {
        self.poster().post_once().await.unwrap()
    }

    /// Passes until nothing is due, waits or is known to be left.
    pub async fn settle(&self) {
        let poster = self.poster();
        for _ in 0..20 {
            let round = poster.post_once().await.unwrap();
            if round == PostRound::default() {
                return;
            }
            self.clock.advance(Duration::from_secs(40));
        }
        panic!("the poster does not come to rest");
    }

    pub async fn route(&self, company: &str) -> Arc<Route> {
        match RoutingCache::new(self.pool.clone()).of(&CompanyId::parse(company).unwrap()).await.unwrap() {
            Routing::Known(route) => route,
            other => panic!("{other:?}"),
        }
    }

    pub fn book(&self) -> Book {
        self.service.book(SHEET)
    }

    pub fn pending(&self, company: &str) -> Grid {
        self.grid(&format!("{company} Pending"))
    }

    /// A tab as it is now.
    pub fn grid(&self, title: &str) -> Grid {
        let Some(emulator) = &self.emulator else { return self.book().grid(title).clone() };
        let tab = emulator.tab(SHEET, title).unwrap_or_else(|| panic!("no tab {title}"));
        let cell = |cell: &fake_sheets::CellView| match (cell.kind, &cell.value) {
            ("number", value) => Value::Number(value.as_f64().unwrap()),
            ("bool", value) => Value::Bool(value.as_bool().unwrap()),
            ("formula", value) => Value::Formula(value.as_str().unwrap().to_owned()),
            ("text", value) => Value::Text(value.as_str().unwrap().to_owned()),
            _ => Value::Empty,
        };
        let mut rows: Vec<Vec<Value>> = tab.cells.iter().map(|row| row.iter().map(cell).collect()).collect();
        rows.resize(tab.row_count, Vec::new());
        rows.iter_mut().for_each(|row| row.resize(tab.column_count, Value::Empty));
        let grid = Grid::new(i32::try_from(tab.sheet_id).unwrap(), &tab.title, 0, tab.column_count);
        Grid { hidden: tab.hidden, frozen_rows: tab.frozen_rows as u32, rows, ..grid }
    }

    pub fn edit(&self, company: &str, edit: impl FnOnce(&mut Grid)) {
        let title = format!("{company} Pending");
        self.service.edit(SHEET, |book| edit(book.grid_mut(&title)));
    }

    /// Runs statements in a company's schema.
    pub async fn sql(&self, company: &str, sql: &str) {
        let mut tx = self.pool.begin().await.unwrap();
        tx.execute(AssertSqlSafe(format!("SET LOCAL search_path = app_{company}"))).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// An open row, as ingest leaves it.
    pub async fn add(&self, company: &str, id: &str, description: &str, cents: i64) -> TxnUid {
        let uid = txn_uid(&CompanyId::parse(company).unwrap(), TxnKey::Id(id));
        let day = NaiveDate::from_ymd_opt(2025, 8, 26).unwrap();
        let mut tx = self.pool.begin().await.unwrap();
        tx.execute(AssertSqlSafe(format!("SET LOCAL search_path = app_{company}"))).await.unwrap();
        let seq: i64 = sqlx::query_scalar("UPDATE company_state SET seq = seq + 1, pending_seq = seq + 1 WHERE company_id = $1 RETURNING seq")
            .bind(company)
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        sqlx::query(
            "INSERT INTO transactions (company_id, txn_uid, external_id, occurred_on, amount_cents, description, as_of, seq, content_seq, batch_signature)
             VALUES ($1, $2, $3, $4, $5, $6, now(), $7, $7, '')
             ON CONFLICT (company_id, txn_uid) DO UPDATE SET description = $6, amount_cents = $5, content_seq = $7",
        )
        .bind(company).bind(uid.0).bind(id).bind(day).bind(cents).bind(description).bind(seq)
        .execute(&mut *tx)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO pending_txns (txn_uid, company_id, first_seen_batch, last_seen_batch, occurred_on, description, description_norm, amount_cents, row_checksum, seq)
             VALUES ($1, $2, 'b', 'b', $3, $4, $5, $6, '', $7)
             ON CONFLICT (company_id, txn_uid) DO UPDATE SET description = $4, description_norm = $5, amount_cents = $6, status = 'open'",
        )
        .bind(uid.0).bind(company).bind(day).bind(description).bind(normalise(description)).bind(cents).bind(seq)
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
        uid
    }

    pub async fn resolve(&self, company: &str, description: &str) {
        self.sql(
            company,
            &format!(
                "UPDATE pending_txns SET status = 'resolved' WHERE description = '{description}';
                 UPDATE company_state SET seq = seq + 1, pending_seq = seq + 1;"
            ),
        )
        .await;
    }

    /// Replaces all rules, as promote leaves them.
    pub async fn rules(&self, company: &str, rules: &[(&str, &str, &str)], version: i32) {
        let mut sql = "DELETE FROM rules_active; UPDATE company_state SET seq = seq + 1, active_seq = seq + 1;".to_owned();
        for (source, sheet, header) in rules {
            let norm = normalise(source);
            sql += &format!(
                "INSERT INTO rules_active (company_id, source, source_norm, source_key, target_sheet, target_header, ruleset_version, effective_at)
                 VALUES ('{company}', '{source}', '{norm}', sha256('{norm}'), '{sheet}', '{header}', {version}, '2025-08-26T12:00:00Z');"
            );
        }
        self.sql(company, &sql).await;
    }

    pub async fn count(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap()
    }

    pub async fn text(&self, sql: &str) -> String {
        sqlx::query_scalar::<_, Option<String>>(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap().unwrap_or_default()
    }

    /// What every test ends with: each open row stands on the tab exactly once and shows what Postgres has; nothing is due or in doubt.
    pub async fn assert_equal(&self, company: &str) {
        self.settle().await;
        let open: Vec<(Uuid, String, i64)> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT txn_uid, description, amount_cents FROM app_{company}.pending_txns WHERE status = 'open' ORDER BY 1"
        )))
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let tab = self.pending(company);
        let mut shown: Vec<(Uuid, String, i64)> = tab
            .filled()
            .into_iter()
            .filter(|row| !tab.text(*row, "Txn_UID").is_empty())
            .map(|row| {
                let amount: f64 = tab.text(row, "Amount").parse().unwrap();
                assert_eq!(tab.text(row, "Company_ID"), company);
                assert_eq!(tab.text(row, "Date"), "2025-08-26");
                (tab.text(row, "Txn_UID").parse().unwrap(), tab.text(row, "Source"), (amount * 100.0).round() as i64)
            })
            .collect();
        shown.sort();
        let open: Vec<_> = open.into_iter().map(|(uid, text, cents)| (uid, kylo::domain::tab::shown(&text).into_owned(), cents)).collect();
        assert_eq!(shown, open);
        assert_eq!(self.count("SELECT count(*) FROM control.sheet_intents WHERE state IN ('planned', 'sent', 'in_doubt')").await, 0);
    }
}
