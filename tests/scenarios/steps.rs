//! Steps that the scenarios have in common.

use sqlx::{AssertSqlSafe, PgPool};

use super::database::Database;
use super::databases::server;
use super::messages::{batch, row};
use super::world::World;

impl World {
    /// One batch of one row for each company, consumed and on the tabs. The source is the row's id, too.
    pub async fn one_more(&self, companies: &[&str], at: i64, source: &str) {
        let messages: Vec<_> = companies.iter().map(|company| batch(company, &format!("b-{source}"), at, &[row(source, "-1.00", source)])).collect();
        let delivered = self.publish_all(&messages).await;
        self.consumed(&delivered).await;
        self.settled(companies).await;
    }

    /// A promotion, applied and on the tabs.
    pub async fn decide(&self, company: &str, request: &str) {
        self.promote(company, request).await;
        self.promoted(company, request).await;
        self.settled(&[company]).await;
    }
}

/// `to` becomes what `from` is now, as a backup and its being put back do. Ends the sessions of both, which pools make anew.
pub async fn becomes(to: &Database, from: &Database) {
    let admin = server().await;
    let (to, from) = (name(to), name(from));
    execute(&admin, format!("DROP DATABASE {to} WITH (FORCE)")).await.unwrap();
    let mut tries = 0;
    while let Err(error) = {
        end_sessions(&admin, &from).await;
        execute(&admin, format!("CREATE DATABASE {to} TEMPLATE {from}")).await
    } {
        tries += 1;
        assert!(tries < 200, "{from} cannot be copied: {error}");
    }
}

pub async fn execute(admin: &PgPool, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(admin).await.map(drop)
}

/// As a failover does.
pub async fn end_sessions(admin: &PgPool, database: &str) {
    execute(admin, format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")).await.unwrap();
}

pub fn name(database: &Database) -> String {
    database.dsn.rsplit('/').next().unwrap().to_owned()
}
