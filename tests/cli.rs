//! The built binary as operators and scripts use it: exit codes, stdout for data, stderr for people, shapes of `--json`, and no secret anywhere.
//!
//! Needs a Postgres server (tests/support/database.rs). Nothing here needs a broker: what does is in tests/kafka.rs and the demo.

#![expect(clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "support/database.rs"]
mod database;

use std::io::Write;
use std::process::{Command, Stdio};

use database::Database;
use serde_json::{Value, json};

/// What one run of the program gave.
#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

/// `kylo` with this environment and nothing else of ours in it.
fn kylo_with(environment: &[(&str, &str)], args: &[&str], stdin: Option<&str>) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kylo"));
    command.args(args).env_clear().env("KAFKA_BROKERS", "127.0.0.1:1").env("RUST_LOG", "error").envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    // A program that does not read its input has closed it: no fault here.
    let _ = child.stdin.take().expect("piped").write_all(stdin.unwrap_or_default().as_bytes());
    let output = child.wait_with_output().expect("the program ends");
    Run {
        code: output.status.code().expect("not killed"),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

fn kylo(args: &[&str]) -> Run {
    kylo_with(&[], args, None)
}

impl Run {
    #[track_caller]
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// The stdout as JSON that is as `schemas/cli/<name>.json` says.
    #[track_caller]
    fn json(&self, name: &str) -> Value {
        let path = format!("{}/schemas/cli/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("the schema is there")).expect("the schema is JSON");
        let value: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let validator = jsonschema::validator_for(&schema).expect("the schema is one");
        let errors: Vec<_> = validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}\n{value:#}");
        value
    }
}

/// A migrated control database with its DSN in the environment.
struct Control {
    database: Database,
}

impl Control {
    async fn migrated() -> Self {
        let control = Self { database: Database::create().await };
        control.kylo(&["migrate"]).exits(0);
        control
    }

    fn kylo(&self, args: &[&str]) -> Run {
        kylo_with(&[("PG_DSN_RW", &self.database.dsn)], args, None)
    }

    fn set(&self, id: &str, schema: &str, sheet: &str, pending: &str, active: &str) -> Run {
        let args =
            ["company", "set", id, "--schema", schema, "--spreadsheet", sheet, "--tab-pending", pending, "--tab-active", active, "--dsn-file", "-"];
        kylo_with(&[("PG_DSN_RW", &self.database.dsn)], &args, Some(&format!("{}\n", self.database.dsn)))
    }
}

#[test]
fn usage_and_configuration_are_exit_2_and_say_what_to_do() {
    assert!(kylo(&["no-such-command"]).exits(2).stderr.contains("no-such-command"));
    assert!(kylo(&[]).exits(2).stderr.contains("Usage"));
    let run = kylo(&["status"]).exits(2);
    assert!(run.stderr.contains("error: PG_DSN_RW is not set") && run.stderr.contains("hint: "), "{run:?}");
    assert_eq!(run.stdout, "");
    let run = kylo_with(&[("KYLO_SHEET_POST", "1")], &["status"], None).exits(2);
    assert!(run.stderr.contains("did you mean KYLO_SHEETS_POST?"), "{run:?}");
    let run = kylo_with(&[("KYLO_SHEETS_POST", "true"), ("PG_DSN_RW", "postgres://x@y/z")], &["run"], None).exits(2);
    assert!(run.stderr.contains("KYLO_SHEETS_POST is \"true\""), "{run:?}");
}

#[test]
fn version_and_help_are_data_on_stdout() {
    assert!(kylo(&["--version"]).exits(0).stdout.starts_with("kylo 0."));
    let run = kylo(&["company", "set", "--help"]).exits(0);
    assert!(run.stdout.contains("Examples:") && run.stdout.contains("Exit codes:") && run.stderr.is_empty(), "{run:?}");
}

#[test]
fn posting_without_a_key_file_is_refused_at_start_and_the_path_is_named() {
    let base = [("KYLO_SHEETS_POST", "1"), ("PG_DSN_RW", "postgres://x@127.0.0.1:1/z"), ("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")];
    for command in [["consume", "txns"].as_slice(), &["consume", "promote"], &["run"]] {
        let run = kylo_with(&base, command, None).exits(2);
        assert!(run.stderr.contains("/nowhere/key.json"), "{run:?}");
    }
}

#[tokio::test]
async fn a_worker_on_an_unmigrated_control_database_stops_with_exit_2_and_names_the_command() {
    let database = Database::create().await;
    for command in [["run"].as_slice(), &["consume", "txns"], &["status"]] {
        let run = kylo_with(&[("PG_DSN_RW", &database.dsn), ("KYLO_HTTP_ADDR", "127.0.0.1:0")], command, None).exits(2);
        assert!(run.stderr.contains("kylo migrate"), "{run:?}");
    }
}

#[tokio::test]
async fn migrate_status_is_1_before_and_0_after_and_an_unreachable_company_stops_nobody() {
    let database = Database::create().await;
    let kylo = |args: &[&str]| kylo_with(&[("PG_DSN_RW", &database.dsn)], args, None);
    assert_eq!(kylo(&["migrate", "--status", "--json"]).exits(1).json("migrate")["up_to_date"], json!(false));
    assert_eq!(kylo(&["migrate", "--json"]).exits(0).json("migrate")["lines"][0]["state"], json!("applied"));
    kylo(&["migrate", "--status"]).exits(0);
    sqlx::query("INSERT INTO control.company_config (company_id, db_dsn_rw, db_schema) VALUES ('1', 'postgres://u:hunter2@127.0.0.1:1/x', 'app_1'), ('2', $1, 'app_2'), ('3', $1, 'BAD')")
        .bind(&database.dsn)
        .execute(&database.pool)
        .await
        .unwrap();
    let run = kylo(&["migrate", "--json"]).exits(1);
    let report = run.json("migrate");
    let state = |schema: &str| report["lines"].as_array().unwrap().iter().find(|line| line["schema"] == schema).unwrap()["state"].clone();
    assert_eq!((state("app_1"), state("app_2"), state("BAD")), (json!("unreachable"), json!("applied"), json!("unreachable")));
    assert!(!format!("{run:?}").contains("hunter2"), "{run:?}");
}

#[tokio::test]
async fn company_set_makes_the_schema_refuses_clashes_and_never_shows_the_dsn() {
    let control = Control::migrated().await;
    control.set("710", "app_710", "sheet-1", "710 Pending", "710 Active").exits(0);
    let tables: i64 = control.database.scalar("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'app_710'").await;
    assert!(tables > 8, "{tables}");
    let clash = control.set("711", "app_711", "sheet-1", "710 pending", "711 Active").exits(1);
    assert!(clash.stderr.contains("710"), "{clash:?}");
    assert_eq!(control.database.scalar::<i64>("SELECT count(*) FROM control.company_config").await, 1);
    for schema in ["control", "public", "pg_x", "App", "a-b"] {
        control.set("712", schema, "sheet-1", "P", "A").exits(1);
    }
    control.set("711", "app_711", "https://docs.google.com/spreadsheets/d/sheet-1/edit#gid=0", "711 Pending", "711 Active").exits(0);
    let listed = control.kylo(&["company", "list", "--json"]).exits(0);
    let list = listed.json("company-list");
    assert_eq!(
        (list[1]["company_id"].as_str(), list[1]["spreadsheet_id"].as_str(), list[1]["usable"].as_bool()),
        (Some("711"), Some("sheet-1"), Some(true))
    );
    assert!(!listed.stdout.contains("postgres:"), "{listed:?}");
    assert!(control.kylo(&["company", "set", "711", "--tab-pending", "Waiting"]).exits(0).stdout.contains("changed"));
    assert!(control.kylo(&["company", "set", "711", "--tab-pending", "Waiting"]).exits(0).stdout.contains("as it was"));
}

#[tokio::test]
async fn company_check_tells_a_company_that_answers_from_one_that_does_not() {
    let control = Control::migrated().await;
    control.set("710", "app_710", "s", "P", "A").exits(0);
    control.kylo(&["company", "check"]).exits(0);
    control
        .database
        .execute("INSERT INTO control.company_config SELECT '711', 'postgres://u:hunter2@127.0.0.1:1/x', 'app_711', 's', 'P2', 'A2'")
        .await;
    let run = control.kylo(&["company", "check", "--json"]).exits(1);
    let checked = run.json("company-check");
    assert_eq!((checked[0]["ok"].clone(), checked[1]["ok"].clone()), (json!(true), json!(false)));
    assert!(!format!("{run:?}").contains("hunter2"));
    control.database.execute("DROP TABLE app_710.pending_txns CASCADE; DELETE FROM app_710.schema_migrations").await;
    assert!(control.kylo(&["company", "check", "710"]).exits(1).stdout.contains("kylo migrate"));
    control.kylo(&["company", "check", "nobody"]).exits(1);
}

#[tokio::test]
async fn company_remove_forgets_its_tabs_troubles_and_outbox_and_nobody_elses() {
    let control = Control::migrated().await;
    for (id, schema) in [("710", "app_710"), ("711", "app_711")] {
        control.set(id, schema, "s", &format!("{id} P"), &format!("{id} A")).exits(0);
    }
    control
        .database
        .execute(
            "INSERT INTO control.sheet_tabs (company_id, role, spreadsheet_id, sheet_id, configured_title, title)
                 VALUES ('710', 'pending', 's', 1, '710 P', '710 P'), ('711', 'pending', 's', 2, '711 P', '711 P');
             INSERT INTO control.company_trouble (company_id, work, state, reason) VALUES ('710', 'ingest', 'parked', 'x'), ('711', 'ingest', 'parked', 'x')",
        )
        .await;
    let database = kylo::store::outbox::database_name(&control.database.dsn).unwrap();
    let states = "INSERT INTO control.relay_state (source, schema_name, table_name)
                  SELECT $1 || '/' || name || '.outbox_events', name, 'outbox_events' FROM UNNEST(ARRAY['control', 'app_710', 'app_711']) name";
    sqlx::query(states).bind(&database).execute(&control.database.pool).await.unwrap();
    control.kylo(&["company", "remove", "710"]).exits(0);
    let outboxes: String = control.database.scalar("SELECT string_agg(schema_name, ',' ORDER BY schema_name) FROM control.relay_state").await;
    assert_eq!(outboxes, "app_711,control");
    let left =
        "SELECT string_agg(company_id, ',') FROM (SELECT company_id FROM control.company_config UNION ALL SELECT company_id FROM control.sheet_tabs
                UNION ALL SELECT company_id FROM control.company_trouble) every";
    assert_eq!(control.database.scalar::<String>(left).await, "711,711,711");
    let tables: i64 = control.database.scalar("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'app_710'").await;
    assert!(tables > 8, "the company's data stays: {tables}");
    control.kylo(&["company", "remove", "710"]).exits(1);
}

#[tokio::test]
async fn a_company_set_that_cannot_connect_changes_nothing_and_hides_the_password() {
    let control = Control::migrated().await;
    let args = ["company", "set", "710", "--schema", "app_710", "--spreadsheet", "s", "--tab-pending", "P", "--tab-active", "A"];
    for dsn in ["postgres://u:hunter2@127.0.0.1:1/x", "not a dsn hunter2"] {
        let run = kylo_with(&[("PG_DSN_RW", &control.database.dsn), ("KYLO_COMPANY_DSN", dsn)], &args, None);
        assert!(run.code != 0 && !format!("{run:?}").contains("hunter2"), "{run:?}");
    }
    assert_eq!(control.database.scalar::<i64>("SELECT count(*) FROM control.company_config").await, 0);
    let run = kylo_with(&[("PG_DSN_RW", &control.database.dsn)], &[&args[..], &["--dsn-file", "-"]].concat(), Some("")).exits(2);
    assert!(run.stderr.contains("stdin is empty"), "{run:?}");
}

#[tokio::test]
async fn a_wrong_dsn_says_where_it_tried_and_no_password() {
    let run = kylo_with(&[("PG_DSN_RW", "postgres://u:hunter2@127.0.0.1:1/books")], &["migrate"], None).exits(1);
    assert!(run.stderr.contains("postgres://u:***@127.0.0.1:1/books") && run.stderr.contains("hint:"), "{run:?}");
    assert!(!format!("{run:?}").contains("hunter2"), "{run:?}");
}

const LETTERS: &str = r#"
    INSERT INTO control.dead_letters (topic, partition, "offset", pointer, bytes_sha256, kind, class, reason, company_id, original, headers, state) VALUES
    ('txns', 0, 1, '', '\x01', 'message', 'not_json', 'it is no JSON', NULL, convert_to('{"routing":{"db_dsn_rw":"postgres://u:hunter2@h/d"}, broken', 'UTF8'), '{}', 'new'),
    ('txns', 0, 2, '/transactions/0', '\x02', 'row', 'bad_amount', 'three decimals', '710', convert_to('{"amount":"1.234"}', 'UTF8'), '{"x-token":"hunter2"}', 'new'),
    ('txns', 0, 3, '', '\x03', 'message', 'not_json', 'old', NULL, NULL, '{}', 'resolved')"#;

#[tokio::test]
async fn dead_letters_are_listed_by_filter_and_shown_without_secrets() {
    let control = Control::migrated().await;
    control.database.execute(LETTERS).await;
    let ids = |args: &[&str]| {
        let all = [&["dlq", "list", "--json"], args].concat();
        control.kylo(&all).exits(0).json("dlq-list").as_array().unwrap().iter().map(|letter| letter["id"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&[]), [1, 2], "the open ones");
    assert_eq!(
        (ids(&["--state", "all"]), ids(&["--company", "710"]), ids(&["--class", "not_json", "--state", "resolved"])),
        (vec![1, 2, 3], vec![2], vec![3])
    );
    for (id, expected) in [("1", "postgres://***@h/d"), ("2", "1.234"), ("3", "")] {
        let run = control.kylo(&["dlq", "show", id, "--json"]).exits(0);
        assert!(run.json("dlq-show")["original"].as_str().unwrap_or_default().contains(expected) || run.stdout.contains("***"), "{run:?}");
        let text = control.kylo(&["dlq", "show", id]).exits(0);
        assert!(!format!("{run:?}{text:?}").contains("hunter2"), "{run:?}{text:?}");
    }
    control.kylo(&["dlq", "show", "99"]).exits(1);
}

#[tokio::test]
async fn dead_letters_change_only_with_yes_and_only_the_chosen_ones() {
    let control = Control::migrated().await;
    control.database.execute(LETTERS).await;
    let open = "SELECT count(*) FROM control.dead_letters WHERE state = 'new'";
    control.kylo(&["dlq", "discard", "--yes"]).exits(2);
    control.kylo(&["dlq", "discard", "1"]).exits(0);
    control.kylo(&["dlq", "replay", "1"]).exits(0);
    assert_eq!(control.database.scalar::<i64>(open).await, 2);
    control.kylo(&["dlq", "discard", "1", "--yes"]).exits(0);
    assert_eq!(control.database.scalar::<i64>(open).await, 1);
    control.kylo(&["dlq", "discard", "1", "--yes"]).exits(1);
}

#[tokio::test]
async fn a_stopped_partition_is_resumed_with_yes_only() {
    let control = Control::migrated().await;
    control
        .database
        .execute("INSERT INTO control.partition_poison (consumer_group, topic, partition, in_a_row, stopped_at) VALUES ('g', 'txns', 3, 100, now())")
        .await;
    let stopped = "SELECT count(*) FROM control.partition_poison WHERE stopped_at IS NOT NULL";
    assert!(control.kylo(&["dlq", "resume"]).exits(0).stdout.contains("txns/3"));
    assert_eq!(control.database.scalar::<i64>(stopped).await, 1);
    control.kylo(&["dlq", "resume", "--topic", "other", "--yes"]).exits(0);
    assert_eq!(control.database.scalar::<i64>(stopped).await, 1);
    control.kylo(&["dlq", "resume", "--yes"]).exits(0);
    assert_eq!(control.database.scalar::<i64>(stopped).await, 0);
}

#[tokio::test]
async fn status_tells_modes_backlog_and_reasons_and_survives_a_company_that_is_down() {
    let control = Control::migrated().await;
    control.set("710", "app_710", "s", "P", "A").exits(0);
    control
        .database
        .execute(
            "INSERT INTO control.company_config SELECT '711', 'postgres://u:hunter2@127.0.0.1:1/x', 'app_711', 's', 'P2', 'A2';
             INSERT INTO control.workers (worker_id, command, host, pid, version, mode, canary) VALUES
                 (gen_random_uuid(), 'consume txns', 'h', 1, '0.1.0', 'shadow', '{}'), (gen_random_uuid(), 'run', 'h', 2, '0.1.0', 'post', '{799}');
             INSERT INTO control.company_trouble (company_id, work, state, reason) VALUES ('711', 'ingest', 'down', 'no answer');
             INSERT INTO app_710.company_state (company_id, seq, pending_seq) VALUES ('710', 4, 4);
             INSERT INTO app_710.pending_txns (txn_uid, company_id, first_seen_batch, last_seen_batch, occurred_on, description, description_norm, amount_cents, row_checksum, seq, updated_at)
                 VALUES (gen_random_uuid(), '710', 'b', 'b', '2025-08-26', 'X', 'x', 1, 'c', 4, now() - interval '90 seconds')",
        )
        .await;
    control.database.execute(LETTERS).await;
    let run = control.kylo(&["status", "--json"]).exits(0);
    let status = run.json("status");
    let warnings = status["warnings"].to_string();
    assert!(warnings.contains("different modes") && warnings.contains("799") && warnings.contains("lag is not known"), "{warnings}");
    let company = &status["companies"][0];
    assert_eq!((company["open_pending"].as_i64(), company["dead_letters"].as_i64()), (Some(1), Some(1)));
    assert!((90..600).contains(&company["oldest_unposted_seconds"].as_i64().unwrap()), "{company}");
    assert!(status["companies"][1]["problem"].is_string() && status["troubles"][0]["reason"] == "no answer", "{status}");
    assert!(!format!("{run:?}").contains("hunter2"), "{run:?}");
    let text = control.kylo(&["status", "--company", "710"]).exits(0);
    assert!(text.stdout.contains("710") && !text.stdout.contains("711"), "{text:?}");
}

#[test]
fn an_input_that_cannot_be_published_is_refused_before_anything_is_sent() {
    let run = kylo_with(&[], &["publish", "txns", "-"], Some("{\"transactions\": 7}")).exits(2);
    assert!(run.stderr.contains("document 1"), "{run:?}");
    assert!(kylo(&["publish", "txns", "/nowhere/payload.json"]).exits(2).stderr.contains("/nowhere/payload.json"));
    let nobody = kylo(&["publish", "promote"]).exits(2);
    assert!(nobody.stderr.contains("--company") && nobody.stderr.contains("--all"), "{nobody:?}");
}

#[test]
fn topics_of_a_broker_that_is_away_are_a_failure_and_not_a_panic() {
    let run = kylo(&["topics", "verify"]).exits(1);
    assert!(run.stderr.contains("127.0.0.1:1"), "{run:?}");
}

#[test]
fn fake_sheets_listens_on_loopback_only() {
    assert!(kylo(&["fake-sheets", "--addr", "0.0.0.0:0"]).exits(2).stderr.contains("loopback"));
}
