//! The schema: `ddl/` through `kylo migrate` and through plain psql gives the same; adoption of the original's tables; two runs at once.
//!
//! Needs a Postgres server: `PG_DSN_RW` in the environment or in `.local/env` (scripts/up.sh writes it). Each test makes its own database.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "support/database.rs"]
mod database;

use std::process::Command;

use database::Database;
use kylo::domain::company::{Dsn, SchemaName};
use kylo::domain::ids::CompanyId;
use kylo::store::company::prune as company_prune;
use kylo::store::control::admin::{self, Change, Set};
use kylo::store::control::prune;
use kylo::store::migrate::{self, COMPANY, CONTROL, ControlSchema, MigrateError, Scope, VersionState};
use kylo::store::pools::{PoolOptions, Pools};
use sqlx::Row;

fn company(name: &str) -> Scope {
    Scope::Company(SchemaName::parse(name).unwrap())
}

/// Everything the catalogues say about a schema: columns, defaults, constraints, indexes, views.
async fn catalogue(database: &Database, schema: &str) -> Vec<String> {
    let sql = "
        SELECT format('column %s.%s %s %s %s %s', table_name, column_name, ordinal_position, data_type || coalesce(character_maximum_length::text, ''), is_nullable, column_default)
          FROM information_schema.columns WHERE table_schema = $1
        UNION ALL SELECT format('identity %s.%s %s', table_name, column_name, identity_generation)
          FROM information_schema.columns WHERE table_schema = $1 AND is_identity = 'YES'
        UNION ALL SELECT format('constraint %s.%s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint WHERE connamespace = $1::regnamespace
        UNION ALL SELECT format('index %s %s', indexname, indexdef) FROM pg_indexes WHERE schemaname = $1
        UNION ALL SELECT format('view %s %s', viewname, definition) FROM pg_views WHERE schemaname = $1
        ORDER BY 1";
    let rows = sqlx::query(sql).bind(schema).fetch_all(&database.pool).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(0)).collect()
}

/// Applies a file as an operator without kylo would.
fn psql(database: &Database, search_path: Option<&str>, file: &str) {
    let mut command = Command::new("psql");
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", &database.dsn, "-f"]).arg(format!("{}/ddl/{file}.sql", env!("CARGO_MANIFEST_DIR")));
    if let Some(path) = search_path {
        command.env("PGOPTIONS", format!("-c search_path={path}"));
    }
    let output = command.output().expect("psql is installed by scripts/setup.sh");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn each_file_gives_the_same_schema_under_psql_and_under_migrate_also_the_second_time() {
    let (by_kylo, by_psql) = (Database::create().await, Database::create().await);
    by_psql.execute("CREATE SCHEMA app_710").await;
    for _ in 0..2 {
        migrate::apply(&by_kylo.pool, &Scope::Control).await.unwrap();
        migrate::apply(&by_kylo.pool, &company("app_710")).await.unwrap();
        CONTROL.iter().for_each(|migration| psql(&by_psql, None, &format!("control/{}", migration.name)));
        COMPANY.iter().for_each(|migration| psql(&by_psql, Some("app_710"), &format!("company/{}", migration.name)));
        for schema in ["control", "app_710"] {
            let (ours, theirs) = (catalogue(&by_kylo, schema).await, catalogue(&by_psql, schema).await);
            assert!(ours.len() > 50, "the catalogue query finds the schema: {}", ours.len());
            assert_eq!(ours, theirs);
        }
    }
    assert_eq!(catalogue(&by_kylo, "public").await, Vec::<String>::new(), "nothing leaks into another schema");
}

#[tokio::test]
async fn what_psql_applied_counts_as_applied_and_is_pinned_by_the_next_migrate() {
    let database = Database::create().await;
    psql(&database, None, "control/0001_control");
    let state = |versions: Vec<migrate::Version>| versions.iter().map(|version| version.state).collect::<Vec<_>>();
    assert_eq!(state(migrate::status(&database.pool, &Scope::Control).await.unwrap()), [VersionState::Present]);
    assert_eq!(state(migrate::apply(&database.pool, &Scope::Control).await.unwrap()), [VersionState::Present]);
    let checksum: Option<String> = database.scalar("SELECT checksum FROM control.schema_migrations WHERE version = 1").await;
    assert_eq!(checksum, Some(CONTROL[0].checksum()));
}

#[tokio::test]
async fn a_version_that_was_edited_after_it_was_applied_is_refused_by_name() {
    let database = Database::create().await;
    migrate::apply(&database.pool, &Scope::Control).await.unwrap();
    database.execute("UPDATE control.schema_migrations SET checksum = 'else'").await;
    let error = migrate::apply(&database.pool, &Scope::Control).await.unwrap_err();
    assert!(matches!(error, MigrateError::Changed { version: 1, .. }), "{error}");
    assert!(error.to_string().contains("0001_control"), "{error}");
    assert_eq!(migrate::status(&database.pool, &Scope::Control).await.unwrap()[0].state, VersionState::Changed);
    assert!(matches!(migrate::check_control(&database.pool).await.unwrap(), ControlSchema::Wrong(_)));
}

#[tokio::test]
async fn a_control_database_without_schema_is_wrong_and_names_the_command() {
    let database = Database::create().await;
    let ControlSchema::Wrong(text) = migrate::check_control(&database.pool).await.unwrap() else { panic!("it is empty") };
    assert!(text.contains("kylo migrate") && text.contains("0001_control is missing"), "{text}");
    migrate::apply(&database.pool, &Scope::Control).await.unwrap();
    assert_eq!(migrate::check_control(&database.pool).await.unwrap(), ControlSchema::UpToDate);
}

#[tokio::test]
async fn two_runs_at_the_same_time_both_end_well_and_one_of_them_applies() {
    let database = Database::create().await;
    let scopes = [Scope::Control, company("app_710")];
    for scope in &scopes {
        let runs = futures::future::join_all((0..6).map(|_| migrate::apply(&database.pool, scope))).await;
        let states: Vec<_> = runs.into_iter().map(|run| run.unwrap()[0].state).collect();
        assert_eq!(states.iter().filter(|state| **state == VersionState::Applied).count(), 1, "{states:?}");
    }
}

#[tokio::test]
async fn a_version_that_fails_leaves_nothing_behind() {
    let database = Database::create().await;
    // A view where the file wants a table: CREATE INDEX fails in the middle of it.
    database.execute("CREATE SCHEMA app_710; CREATE VIEW app_710.pending_txns AS SELECT 1 AS txn_uid").await;
    let before = catalogue(&database, "app_710").await;
    let error = migrate::apply(&database.pool, &company("app_710")).await.unwrap_err();
    assert!(error.to_string().contains("apply 0001_company in schema app_710"), "{error}");
    assert_eq!(catalogue(&database, "app_710").await, before);
}

const RUNBOOK_TABLES: &str = "
    CREATE SCHEMA control;
    CREATE TABLE control.company_config (
        company_id VARCHAR(50) PRIMARY KEY, db_dsn_rw TEXT, db_schema VARCHAR(50), spreadsheet_id VARCHAR(100),
        tab_pending VARCHAR(100), tab_active VARCHAR(100), created_at TIMESTAMP DEFAULT now(), updated_at TIMESTAMP DEFAULT now());
    CREATE TABLE control.sheet_posts (
        id SERIAL PRIMARY KEY, company_id VARCHAR(50), tab_name VARCHAR(100), batch_signature VARCHAR(64), row_count INTEGER,
        created_at TIMESTAMP DEFAULT now(), UNIQUE (company_id, batch_signature));
    INSERT INTO control.company_config (company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active)
        VALUES ('710', 'postgres://x@127.0.0.1/x', 'app_710', 'sheet1', '710 Pending', '710 Active');
    INSERT INTO control.sheet_posts (company_id, tab_name, batch_signature, row_count) VALUES ('710', '710 Pending', 'abc', 2)";

#[tokio::test]
async fn the_originals_tables_are_adopted_with_their_rows() {
    let database = Database::create().await;
    database.execute(RUNBOOK_TABLES).await;
    migrate::apply(&database.pool, &Scope::Control).await.unwrap();
    let rows = kylo::store::control::company_config::load(&database.pool).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.company_id.as_str()).collect::<Vec<_>>(), ["710"]);
    assert_eq!(database.scalar::<i64>("SELECT count(*) FROM control.sheet_posts WHERE batch_signature = 'abc' AND intent_id IS NULL").await, 1);
    // What the workers write into an adopted ledger: one row per signature, also on a conflict.
    let insert = "INSERT INTO control.sheet_posts (company_id, tab_name, batch_signature, row_count, intent_id, generation, spreadsheet_id)
                  VALUES ('710', '710 Pending', 'def', 1, gen_random_uuid(), 2, 'sheet1') ON CONFLICT (company_id, batch_signature) DO NOTHING";
    database.execute(insert).await;
    database.execute(insert).await;
    assert_eq!(database.scalar::<i64>("SELECT count(*) FROM control.sheet_posts").await, 2);
}

#[tokio::test]
async fn a_company_can_be_set_in_an_adopted_table_whose_key_is_not_company_id_alone() {
    let database = Database::create().await;
    let tables: &'static str =
        RUNBOOK_TABLES.replace("company_id VARCHAR(50) PRIMARY KEY, db_dsn_rw TEXT", "company_id VARCHAR(50), db_dsn_rw TEXT").leak();
    database.execute(tables).await;
    database.execute("ALTER TABLE control.company_config ADD PRIMARY KEY (company_id, db_dsn_rw)").await;
    migrate::apply(&database.pool, &Scope::Control).await.unwrap();
    let change = |tab: &str, dsn: &str| Change {
        dsn: Some(Dsn::new(dsn)),
        schema: Some("app_x".to_owned()),
        spreadsheet: Some("sheet2".to_owned()),
        tab_pending: Some(format!("{tab} P")),
        tab_active: Some(format!("{tab} A")),
    };
    for (id, dsn, expected) in [("710", "postgres://y@127.0.0.1/y", Set::Changed), ("711", "postgres://z@127.0.0.1/z", Set::Created)] {
        let id = CompanyId::parse(id).unwrap();
        assert_eq!(admin::set(&database.pool, &id, &change(id.as_str(), dsn)).await.unwrap(), expected);
        assert_eq!(admin::set(&database.pool, &id, &change(id.as_str(), dsn)).await.unwrap(), Set::Unchanged);
    }
    assert_eq!(database.scalar::<i64>("SELECT count(*) FROM control.company_config").await, 2);
    // Two rows of one company are two routes: none of them is guessed.
    database.execute("INSERT INTO control.company_config SELECT '710', 'postgres://w@127.0.0.1/w', 'app_w', 'sheet3', 'P', 'A'").await;
    let id = CompanyId::parse("710").unwrap();
    let Set::Refused(why) = admin::set(&database.pool, &id, &change("710", "postgres://y@127.0.0.1/y")).await.unwrap() else { panic!("not refused") };
    assert!(why.reason.contains("two rows"), "{why:?}");
}

#[tokio::test]
async fn pruning_takes_what_is_old_and_settled_in_chunks_and_leaves_the_rest() {
    let database = Database::create().await;
    migrate::apply(&database.pool, &Scope::Control).await.unwrap();
    migrate::apply(&database.pool, &company("app_710")).await.unwrap();
    database
        .execute(
            "INSERT INTO control.dead_letters (topic, partition, \"offset\", bytes_sha256, kind, class, reason, state, first_seen_at, settled_at)
                 SELECT 't', 0, n, 'x', 'message', 'c', 'r', state, now() - interval '500 days', now() - age
                 FROM (VALUES (1, 'new', NULL), (2, 'resolved', interval '91 days'), (3, 'discarded', interval '91 days'), (4, 'resolved', interval '89 days')) v(n, state, age);
             INSERT INTO control.sheet_intents (intent_id, spreadsheet_id, generation, state, holder, companies, tabs, typed, created_at, settled_at)
                 SELECT gen_random_uuid(), sheet, generation, state, gen_random_uuid(), '{}', '[]', '{}', now() - made, now() - settled
                 FROM (VALUES ('a', 1, 'confirmed', interval '100 days', interval '91 days'), ('a', 2, 'in_doubt', interval '99 days', NULL),
                              ('a', 3, 'confirmed', interval '8 days', interval '8 days'), ('b', 9, 'confirmed', interval '100 days', interval '91 days')) v(sheet, generation, state, made, settled);
             INSERT INTO control.sheet_posts (company_id, tab_name, batch_signature, created_at) VALUES
                 ('710', 'P', 'old', now() - interval '401 days'), ('710', 'P', 'new', now() - interval '399 days');
             INSERT INTO control.outbox_events (event_type, company_id, payload, created_at, published_at) VALUES
                 ('sent', '', '{}', now() - interval '31 days', now() - interval '31 days'), ('waiting', '', '{}', now() - interval '500 days', NULL);
             INSERT INTO app_710.outbox_events (event_type, company_id, payload, created_at, published_at) VALUES
                 ('sent', '710', '{}', now() - interval '91 days', now() - interval '91 days'), ('waiting', '710', '{}', now() - interval '500 days', NULL),
                 ('a record', '710', '{}', now() - interval '89 days', now() - interval '89 days');
             INSERT INTO app_710.rules_pending (company_id, source, promoted_in, updated_at) VALUES
                 ('710', 'promoted', 1, now() - interval '401 days'), ('710', 'waiting', NULL, now() - interval '401 days')",
        )
        .await;
    let pool = &database.pool;
    // One at a time: the second chunk takes what the first left.
    assert_eq!((prune::dead_letters(pool, 1).await.unwrap(), prune::dead_letters(pool, 9).await.unwrap()), (1, 1));
    assert_eq!(database.scalar::<String>("SELECT string_agg(\"offset\"::text, ',' ORDER BY id) FROM control.dead_letters").await, "1,4");
    assert_eq!(prune::typed_cells(pool, 9).await.unwrap(), 3);
    assert_eq!(database.scalar::<i64>("SELECT generation FROM control.sheet_intents WHERE typed IS NOT NULL").await, 2);
    assert_eq!(prune::intents(pool, 9).await.unwrap(), 1);
    assert_eq!(database.scalar::<String>("SELECT string_agg(generation::text, ',' ORDER BY generation) FROM control.sheet_intents").await, "2,3,9");
    assert_eq!((prune::posts(pool, 9).await.unwrap(), prune::events(pool, 9).await.unwrap()), (1, 1));
    assert_eq!(database.scalar::<String>("SELECT string_agg(event_type, ',') FROM control.outbox_events").await, "waiting");
    let pools = Pools::new(PoolOptions::default());
    let mut tx = pools.begin(&Dsn::new(&database.dsn), &SchemaName::parse("app_710").unwrap()).await.unwrap();
    assert_eq!(company_prune::events(&mut tx, 9).await.unwrap(), 1);
    assert_eq!(company_prune::promoted_rules(&mut tx, 9).await.unwrap(), 1);
    tx.commit().await.unwrap();
    pools.close().await;
    assert_eq!(database.scalar::<String>("SELECT string_agg(event_type, ',' ORDER BY seq) FROM app_710.outbox_events").await, "waiting,a record");
    assert_eq!(database.scalar::<String>("SELECT string_agg(source, ',') FROM app_710.rules_pending").await, "waiting");
}

#[tokio::test]
async fn titles_of_bound_tabs_are_folded_as_those_of_the_configuration_are() {
    let database = Database::create().await;
    migrate::apply(&database.pool, &Scope::Control).await.unwrap();
    database
        .execute(
            "INSERT INTO control.sheet_tabs (company_id, role, spreadsheet_id, sheet_id, configured_title, title) VALUES ('710', 'pending', 's', 1, 'İÄ Ärger', 'x')",
        )
        .await;
    let bound = kylo::store::control::company_config::bound(&database.pool).await.unwrap();
    assert_eq!(bound.get(&("s".to_owned(), "İÄ Ärger".to_lowercase())).map(String::as_str), Some("710"), "{bound:?}");
}

#[tokio::test]
async fn migrate_then_seed_by_sql_then_migrate_works() {
    let database = Database::create().await;
    migrate::apply(&database.pool, &Scope::Control).await.unwrap();
    database
        .execute("INSERT INTO control.company_config (company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active) VALUES ('710', 'x', 'app_710', 's', 'P', 'A')")
        .await;
    assert_eq!(migrate::apply(&database.pool, &Scope::Control).await.unwrap()[0].state, VersionState::Present);
    assert_eq!(migrate::apply(&database.pool, &company("app_710")).await.unwrap()[0].state, VersionState::Applied);
    assert_eq!(migrate::apply(&database.pool, &company("app_710")).await.unwrap()[0].state, VersionState::Present);
}

#[test]
fn every_constraint_in_ddl_has_a_name() {
    for migration in CONTROL.iter().chain(COMPANY) {
        for (number, line) in migration.sql.lines().enumerate() {
            let code = line.split("--").next().unwrap_or_default();
            for word in ["PRIMARY KEY", "UNIQUE", "CHECK (", "REFERENCES"] {
                let Some(at) = code.find(word) else { continue };
                let named = code[..at].contains("CONSTRAINT ") || code.contains("CREATE UNIQUE INDEX") || previous_names(migration.sql, number);
                assert!(named, "{} line {}: {word} without a name: {line}", migration.name, number + 1);
            }
        }
    }
}

/// A CHECK may stand on the line after its `CONSTRAINT name`.
fn previous_names(sql: &str, number: usize) -> bool {
    number > 0 && sql.lines().nth(number - 1).is_some_and(|line| line.contains("CONSTRAINT ") && !line.contains("CHECK"))
}
