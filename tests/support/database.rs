//! A database of its own for each test, on the server that `PG_DSN_RW` names (environment, or `.local/env` as scripts/up.sh writes it).

use std::sync::OnceLock;

use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

/// A fresh, empty database. It is dropped with the value.
#[derive(Debug)]
pub struct Database {
    pub pool: PgPool,
    pub dsn: String,
    name: String,
}

/// The server's DSN, as tests are given it.
pub fn server_dsn() -> String {
    static DSN: OnceLock<String> = OnceLock::new();
    DSN.get_or_init(|| variable("PG_DSN_RW").expect("PG_DSN_RW is not set: run scripts/up.sh, which writes it to .local/env")).clone()
}

#[expect(clippy::disallowed_methods, reason = "a test's own settings, not the program's")]
pub fn variable(name: &str) -> Option<String> {
    if let Ok(value) = std::env::var(name) {
        return Some(value);
    }
    let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.local/env")).ok()?;
    let line = file.lines().find_map(|line| line.trim_start_matches("export ").strip_prefix(&format!("{name}=")).map(str::to_owned))?;
    Some(line.trim_matches(['\'', '"']).to_owned())
}

impl Database {
    pub async fn create() -> Self {
        let server = server_dsn();
        let name = format!("kylo_test_{}", uuid::Uuid::new_v4().simple());
        let admin = PgPoolOptions::new().max_connections(1).connect(&server).await.expect("the test server answers");
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&admin).await.expect("the test user may create databases");
        admin.close().await;
        let mut url = url::Url::parse(&server).expect("PG_DSN_RW is a URL");
        url.set_path(&name);
        let dsn = url.to_string();
        let pool = PgPoolOptions::new().max_connections(8).connect(&dsn).await.expect("the new database answers");
        Self { pool, dsn, name }
    }

    pub async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.expect(sql);
    }

    pub async fn scalar<T>(&self, sql: &'static str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect(sql)
    }
}

impl Drop for Database {
    /// From a thread of its own: a test's runtime cannot be waited on from inside it.
    fn drop(&mut self) {
        let (name, server) = (self.name.clone(), server_dsn());
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let admin = PgPoolOptions::new().max_connections(1).connect(&server).await?;
                sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))).execute(&admin).await
            })
        });
        // A database that stays behind harms no other test.
        let _ = dropped.join();
    }
}
