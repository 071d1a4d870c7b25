//! An operator's desk: the built binary with a control database, company schemas, one spreadsheet on an emulator and its key file. No broker.

use std::process::Stdio;
use std::time::Duration;

use fake_sheets::{Edit, FakeSheets, Handle, Options, Role};
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::database::Database;

pub const BOOK: &str = "book-1";

/// What one run of the program gave.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Clone, Copy, Debug)]
pub enum Mode {
    Shadow,
    Post,
    Canary(&'static str),
}

pub struct Desk {
    pub control: Database,
    pub sheets: Handle,
    pub environment: &'static str,
    /// On top of the usual ones.
    pub variables: Vec<(&'static str, String)>,
    key_file: tempfile::NamedTempFile,
}

impl Desk {
    /// All companies in one spreadsheet, each with a schema and tabs of its own.
    pub async fn new(companies: &[&str]) -> Self {
        let control = Database::create().await;
        let sheets = FakeSheets::start(Options { only_known_accounts: true, ..Options::default() }).await.unwrap();
        let key_file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key_file.path(), sheets.key().to_string()).unwrap();
        sheets.model().create_spreadsheet(Some(BOOK), "Books", &["Sheet1"]).unwrap();
        sheets.model().share(BOOK, sheets.account(), Role::Writer).unwrap();
        let desk = Self { control, sheets, environment: "default", variables: Vec::new(), key_file };
        desk.kylo(Mode::Shadow, &["migrate"]).await.exits(0);
        for company in companies {
            desk.company(company, &desk.control.dsn).await;
        }
        desk.kylo(Mode::Shadow, &["migrate"]).await.exits(0);
        desk
    }

    /// Configures a company.
    pub async fn company(&self, company: &str, dsn: &str) {
        sqlx::query("INSERT INTO control.company_config (company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(company)
            .bind(dsn)
            .bind(format!("app_{company}"))
            .bind(BOOK)
            .bind(format!("{company} Pending"))
            .bind(format!("{company} Active"))
            .execute(&self.control.pool)
            .await
            .unwrap();
    }

    /// Open rows, as ingest leaves them.
    pub async fn pending(&self, company: &str, descriptions: &[&str]) {
        let schema = format!("app_{company}");
        let state = format!(
            "INSERT INTO {schema}.company_state (company_id, seq, pending_seq) VALUES ('{company}', 1, 1)
             ON CONFLICT (company_id) DO UPDATE SET seq = {schema}.company_state.seq + 1, pending_seq = {schema}.company_state.seq + 1"
        );
        sqlx::raw_sql(AssertSqlSafe(state)).execute(&self.control.pool).await.unwrap();
        for (n, description) in descriptions.iter().enumerate() {
            let sql = format!(
                "WITH txn AS (INSERT INTO {schema}.transactions (company_id, txn_uid, external_id, occurred_on, amount_cents, description, as_of, seq, content_seq, batch_signature)
                              VALUES ('{company}', gen_random_uuid(), 't{n}', '2025-08-26', -1234, $1, now(), 1, 1, '') RETURNING txn_uid)
                 INSERT INTO {schema}.pending_txns (txn_uid, company_id, first_seen_batch, last_seen_batch, occurred_on, description, description_norm, amount_cents, row_checksum, seq)
                 SELECT txn_uid, '{company}', 'b', 'b', '2025-08-26', $1, lower($1), -1234, '', 1 FROM txn"
            );
            sqlx::query(AssertSqlSafe(sql)).bind(*description).execute(&self.control.pool).await.unwrap();
        }
    }

    pub fn key_file(&self) -> &std::path::Path {
        self.key_file.path()
    }

    /// Runs a command of the built binary.
    pub async fn kylo(&self, mode: Mode, args: &[&str]) -> Run {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_kylo"));
        command.args(args).env_clear().stdin(Stdio::null()).kill_on_drop(true);
        command.env("PG_DSN_RW", &self.control.dsn).env("KAFKA_BROKERS", "127.0.0.1:1").env("KYLO_ENVIRONMENT", self.environment);
        command.env("KYLO_SHEETS_ENDPOINT", self.sheets.url()).env("GOOGLE_APPLICATION_CREDENTIALS", self.key_file.path());
        // No test should wait for the budget.
        command.env("KYLO_SHEETS_READS_PER_MINUTE", "1000").env("KYLO_SHEETS_WRITES_PER_MINUTE", "1000");
        match mode {
            Mode::Shadow => {}
            Mode::Post => drop(command.env("KYLO_SHEETS_POST", "1")),
            Mode::Canary(companies) => drop(command.env("KYLO_SHEETS_POST", "1").env("KYLO_SHEETS_POST_COMPANIES", companies)),
        }
        command.envs(self.variables.iter().map(|(name, value)| (*name, value.as_str())));
        let ended = tokio::time::timeout(Duration::from_secs(90), command.output()).await.unwrap_or_else(|_| panic!("kylo {args:?} did not end"));
        let output = ended.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code().expect("not killed"), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// What people do, all of it at once.
    pub fn edit(&self, edits: &[Edit]) {
        self.sheets.model().edit(BOOK, edits).unwrap();
    }

    /// `batchUpdate`s that the emulator has seen.
    pub fn writes(&self) -> usize {
        self.sheets.model().calls(0).iter().filter(|call| call.op == "batchUpdate").count()
    }

    pub fn header(&self, title: &str) -> Vec<String> {
        self.sheets.model().texts(BOOK, title).into_iter().next().unwrap_or_default()
    }

    /// The rows below the header that say anything.
    pub fn rows(&self, title: &str) -> Vec<Vec<String>> {
        let says = |row: &Vec<String>| row.iter().any(|text| !text.is_empty() && text != "FALSE");
        self.sheets.model().texts(BOOK, title).into_iter().skip(1).filter(says).collect()
    }

    /// Entries of the ledger.
    pub async fn posts(&self) -> i64 {
        self.control.scalar("SELECT count(*) FROM control.sheet_posts").await
    }

    /// Why the spreadsheet waits, if it does.
    pub async fn trouble(&self) -> String {
        self.control.scalar("SELECT coalesce(string_agg(reason, '; '), '') FROM control.spreadsheets WHERE state <> 'ok'").await
    }
}

impl Run {
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// The stdout as JSON that is as `schemas/cli/<name>.json` says.
    #[track_caller]
    pub fn json(&self, name: &str) -> Value {
        let path = format!("{}/schemas/cli/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let value: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<_> = validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}\n{value:#}");
        value
    }
}
