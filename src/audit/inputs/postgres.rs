//! The auditor's own reads: each database in one snapshot that cannot write.
//!
//! What must never happen here: a statement that changes anything, or a wait without a bound.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use super::book::{AppliedRow, ApprovalRow, Book, LedgerRow, MatchedRow, NameRow, PendingRow, RequestRow, RuleRow, StateRow, TxnRow, VersionRow};
use super::control::{BackfillRow, HeldRow, IntentRow, IntentTab, LetterRow, Letters, PostRow, TabMark};
use crate::domain::company::CompanyRow;

/// To connect, and for each statement: a table may be large.
const CONNECT: Duration = Duration::from_secs(10);
const STATEMENT: Duration = Duration::from_secs(600);

type Result<T> = std::result::Result<T, sqlx::Error>;

/// A connection that can only read.
///
/// # Errors
/// The DSN cannot be parsed, or the server does not answer.
pub async fn connect(dsn: &str) -> Result<PgConnection> {
    let options = PgConnectOptions::from_str(dsn)?.application_name("kylo-audit").options([
        ("search_path", "pg_catalog".to_owned()),
        ("default_transaction_read_only", "on".to_owned()),
        ("statement_timeout", format!("{}s", STATEMENT.as_secs())),
        ("lock_timeout", "10s".to_owned()),
        ("tcp_keepalives_idle", "30".to_owned()),
    ]);
    let options = options.disable_statement_logging();
    match tokio::time::timeout(CONNECT, PgConnection::connect_with(&options)).await {
        Ok(connected) => connected,
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}

/// Makes what follows see one instant.
///
/// # Errors
/// The database's.
pub async fn freeze(connection: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(connection).await.map(|_| ())
}

/// Ends what [`freeze`] began.
///
/// # Errors
/// The database's.
pub async fn thaw(connection: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql("ROLLBACK").execute(connection).await.map(|_| ())
}

/// Which database this is, however its DSN is spelt.
///
/// # Errors
/// The database's.
pub async fn identity(connection: &mut PgConnection) -> Result<String> {
    sqlx::query_scalar!(
        r#"SELECT current_database()::text || ' on ' || coalesce(host(inet_server_addr()), 'local') || ':' || coalesce(inet_server_port(), 0)::text
                  || ' up since ' || pg_postmaster_start_time()::text AS "identity!""#
    )
    .fetch_one(connection)
    .await
}

/// The database's clock.
///
/// # Errors
/// The database's.
pub async fn now(connection: &mut PgConnection) -> Result<DateTime<Utc>> {
    sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(connection).await
}

/// All rows of `company_config`.
///
/// # Errors
/// The database's.
pub async fn companies(connection: &mut PgConnection) -> Result<Vec<CompanyRow>> {
    sqlx::query_as!(
        CompanyRow,
        r#"SELECT company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active, 0::bigint AS "version!" FROM control.company_config"#
    )
    .fetch_all(connection)
    .await
}

/// # Errors
/// The database's.
pub async fn held(connection: &mut PgConnection) -> Result<Vec<HeldRow>> {
    sqlx::query_as!(HeldRow, r#"SELECT company_id, topic, partition, "offset", payload_sha256 FROM control.held_messages"#)
        .fetch_all(connection)
        .await
}

/// # Errors
/// The database's.
pub async fn letters(connection: &mut PgConnection) -> Result<Letters> {
    let rows = sqlx::query_as!(
        LetterRow,
        r#"SELECT id, topic, partition, "offset", pointer, bytes_sha256, sha256(coalesce(original, '')) AS "kept_sha256!", class, company_id, state, first_seen_at
           FROM control.dead_letters"#
    )
    .fetch_all(connection)
    .await?;
    let mut letters = Letters::new();
    for row in rows {
        letters.entry((row.topic.clone(), row.partition, row.offset)).or_default().push(row);
    }
    Ok(letters)
}

/// # Errors
/// The database's.
pub async fn intents(connection: &mut PgConnection) -> Result<Vec<IntentRow>> {
    let rows = sqlx::query!(
        r#"SELECT intent_id, spreadsheet_id, generation, state, tabs AS "tabs: Json<Vec<IntentTab>>" FROM control.sheet_intents ORDER BY created_at"#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| IntentRow {
            intent_id: row.intent_id,
            spreadsheet_id: row.spreadsheet_id,
            generation: row.generation,
            state: row.state,
            tabs: row.tabs.0,
        })
        .collect())
}

/// # Errors
/// The database's.
pub async fn posts(connection: &mut PgConnection) -> Result<Vec<PostRow>> {
    sqlx::query_as!(PostRow, "SELECT company_id, batch_signature, row_count, intent_id, created_at FROM control.sheet_posts")
        .fetch_all(connection)
        .await
}

/// # Errors
/// The database's.
pub async fn backfills(connection: &mut PgConnection) -> Result<Vec<BackfillRow>> {
    sqlx::query_as!(
        BackfillRow,
        r#"SELECT plan #>> '{which,company}' AS "company_id!", plan ->> 'read' AS "topic!", created_at FROM control.backfills
           WHERE plan ->> 'from' = 'topic' AND plan ->> 'to' = plan ->> 'read' AND plan #>> '{which,company}' IS NOT NULL"#
    )
    .fetch_all(connection)
    .await
}

/// # Errors
/// The database's.
pub async fn tab_marks(connection: &mut PgConnection) -> Result<Vec<TabMark>> {
    sqlx::query_as!(
        TabMark,
        r#"SELECT t.company_id, t.role, t.spreadsheet_id, t.sheet_id, t.posted_seq, t.answer_seq, coalesce(s.confirmed_generation, 0) AS "generation!",
                  EXISTS (SELECT FROM control.sheet_intents i WHERE i.spreadsheet_id = t.spreadsheet_id AND i.state IN ('planned', 'sent', 'in_doubt'))
                      AS "in_doubt!"
           FROM control.sheet_tabs t LEFT JOIN control.spreadsheets s USING (spreadsheet_id)
           ORDER BY t.company_id, t.role"#
    )
    .fetch_all(connection)
    .await
}

/// The schemas of this database that hold companies' tables.
///
/// # Errors
/// The database's.
pub async fn schemas(connection: &mut PgConnection) -> Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"SELECT n.nspname::text AS "schema!" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relname IN ('company_state', 'ingest_batches', 'pending_txns') AND c.relkind IN ('r', 'p') AND has_schema_privilege(n.oid, 'USAGE')
           GROUP BY 1 HAVING count(*) = 3 ORDER BY 1"#
    )
    .fetch_all(connection)
    .await
}

/// Every company's book in a schema, whoever is routed to it. `place` is for people.
///
/// # Errors
/// The database's.
pub async fn books(connection: &mut PgConnection, schema: &str, place: &str) -> Result<Vec<Book>> {
    // A name from pg_namespace: quoted, with quotes doubled.
    let path = format!("SET LOCAL search_path = \"{}\", pg_catalog", schema.replace('"', "\"\""));
    sqlx::raw_sql(AssertSqlSafe(path)).execute(&mut *connection).await?;
    let mut shelf = Shelf { place: place.to_owned(), books: BTreeMap::new() };
    rows(connection, &mut shelf).await?;
    decisions(connection, &mut shelf).await?;
    Ok(shelf.books.into_values().collect())
}

/// The books of one schema, by company.
struct Shelf {
    place: String,
    books: BTreeMap<String, Book>,
}

impl Shelf {
    fn sort<R>(&mut self, rows: Vec<R>, company: impl Fn(&R) -> &str, page: impl Fn(&mut Book) -> &mut Vec<R>) {
        for row in rows {
            let company = company(&row).to_owned();
            let fresh = || Book { company: company.clone(), place: self.place.clone(), ..Book::default() };
            let book = self.books.entry(company.clone()).or_insert_with(fresh);
            page(book).push(row);
        }
    }
}

/// What the bank said, and what waits or is decided.
async fn rows(connection: &mut PgConnection, shelf: &mut Shelf) -> Result<()> {
    let transactions = sqlx::query_as!(
        TxnRow,
        "SELECT company_id, txn_uid, external_id, occurred_on, amount_cents, currency, description, memo, counterparty, occurrence, void, as_of, seq,
                content_seq, batch_signature FROM transactions"
    )
    .fetch_all(&mut *connection)
    .await?;
    shelf.sort(transactions, |row| &row.company_id, |book| &mut book.transactions);
    let pending = sqlx::query_as!(
        PendingRow,
        "SELECT company_id, txn_uid, first_seen_batch, last_seen_batch, occurred_on, description, description_norm, amount_cents, status, row_checksum,
                seq, resolved_seq, answer FROM pending_txns"
    )
    .fetch_all(&mut *connection)
    .await?;
    shelf.sort(pending, |row| &row.company_id, |book| &mut book.pending);
    let matched = sqlx::query_as!(
        MatchedRow,
        "SELECT company_id, txn_uid, rule_id, ruleset_version, target_sheet, target_header, amount_cents, revision, state, seq FROM matched_txns"
    )
    .fetch_all(&mut *connection)
    .await?;
    shelf.sort(matched, |row| &row.company_id, |book| &mut book.matched);
    let ledger = sqlx::query_as!(
        LedgerRow,
        r#"SELECT company_id, batch_signature, batch_id, as_of, seq, row_count, bad_count, deliveries, topic, partition, "offset", applied_at
           FROM ingest_batches"#
    )
    .fetch_all(&mut *connection)
    .await?;
    shelf.sort(ledger, |row| &row.company_id, |book| &mut book.ledger);
    let names = sqlx::query_as!(NameRow, "SELECT company_id, batch_id, batch_signature FROM ingest_batch_ids").fetch_all(&mut *connection).await?;
    shelf.sort(names, |row| &row.company_id, |book| &mut book.names);
    Ok(())
}

/// The record of order, and the rules.
async fn decisions(connection: &mut PgConnection, shelf: &mut Shelf) -> Result<()> {
    let applied = sqlx::query_as!(
        AppliedRow,
        r#"SELECT company_id, (payload ->> 'seq')::bigint AS "seq!", coalesce(payload ->> 'batch_signature', '') AS "batch_signature!",
                  coalesce(payload ->> 'batch_id', '') AS "batch_id!", payload ->> 'topic' AS topic, (payload ->> 'partition')::int AS partition,
                  (payload ->> 'offset')::bigint AS "offset", created_at AS recorded_at
           FROM outbox_events WHERE event_type = 'batch.ingested' AND payload ? 'seq' ORDER BY outbox_events.seq"#
    )
    .fetch_all(&mut *connection)
    .await?;
    shelf.sort(applied, |row| &row.company_id, |book| &mut book.applied);
    let versions = sqlx::query_as!(
        VersionRow,
        "SELECT company_id, version, checksum, snapshot, request_key, seq, created_at FROM ruleset_versions ORDER BY company_id, version"
    )
    .fetch_all(&mut *connection)
    .await?;
    shelf.sort(versions, |row| &row.company_id, |book| &mut book.versions);
    let rules = sqlx::query_as!(
        RuleRow,
        "SELECT company_id, rule_id, source, source_norm, target_sheet, target_header, match_notes, ruleset_version, effective_at, created_at FROM rules_active"
    )
    .fetch_all(&mut *connection)
    .await?;
    shelf.sort(rules, |row| &row.company_id, |book| &mut book.rules);
    let approvals = sqlx::query_as!(
        ApprovalRow,
        r#"SELECT company_id, source, target_sheet, target_header, match_notes, promoted_in AS "promoted_in!" FROM rules_pending WHERE promoted_in IS NOT NULL"#
    )
    .fetch_all(&mut *connection)
    .await?;
    shelf.sort(approvals, |row| &row.company_id, |book| &mut book.approvals);
    let requests = sqlx::query_as!(RequestRow, "SELECT company_id, request_key, version, seq FROM promote_requests ORDER BY seq")
        .fetch_all(&mut *connection)
        .await?;
    shelf.sort(requests, |row| &row.company_id, |book| &mut book.requests);
    let states =
        sqlx::query_as!(StateRow, "SELECT company_id, seq, pending_seq, active_seq, answer_seq, changed_seq, ruleset_version FROM company_state")
            .fetch_all(&mut *connection)
            .await?;
    let known: BTreeSet<String> = states.iter().map(|state| state.company_id.clone()).collect();
    for company in known {
        let fresh = || Book { company: company.clone(), place: shelf.place.clone(), ..Book::default() };
        shelf.books.entry(company.clone()).or_insert_with(fresh);
    }
    for state in states {
        if let Some(book) = shelf.books.get_mut(&state.company_id) {
            book.state = Some(state);
        }
    }
    Ok(())
}
