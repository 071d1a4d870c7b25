//! One control database for all tests that only need its tables, each with rows of its own. A database for each of them would cost a second.

use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::sync::OnceCell;

use crate::database::server_dsn;

const DDL: &str = include_str!("../../ddl/control/0001_control.sql");

/// A pool on the shared database. Each test has its own, because a pool belongs to its test's runtime.
pub async fn pool() -> PgPool {
    static DSN: OnceCell<String> = OnceCell::const_new();
    let dsn = DSN.get_or_init(prepare).await;
    PgPoolOptions::new().max_connections(4).acquire_timeout(Duration::from_secs(30)).connect(dsn).await.expect("the shared database answers")
}

/// Made by whichever run of the tests comes first. Its name says which schema it holds, so a changed schema gets a new one.
async fn prepare() -> String {
    let digest = Sha256::digest(DDL);
    let name = format!("kylo_test_control_{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
    let mut admin =
        PgPoolOptions::new().max_connections(1).connect(&server_dsn()).await.expect("the test server answers").acquire().await.expect("a connection");
    // Other test binaries may be at the same point: the lock ends with the connection.
    sqlx::query("SELECT pg_advisory_lock(1263000000)").execute(&mut *admin).await.expect("the lock comes free");
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(&name)
        .fetch_one(&mut *admin)
        .await
        .expect("pg_database");
    if !exists {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut *admin).await.expect("the test user may create databases");
    }
    let mut url = url::Url::parse(&server_dsn()).expect("PG_DSN_RW is a URL");
    url.set_path(&name);
    let dsn = url.to_string();
    let pool = PgPoolOptions::new().max_connections(1).connect(&dsn).await.expect("the shared database answers");
    sqlx::raw_sql(DDL).execute(&pool).await.expect("the schema applies");
    pool.close().await;
    dsn
}

/// Whose rows they are: nobody else's.
pub fn credential() -> String {
    format!("{}@example.test", uuid::Uuid::new_v4().simple())
}
