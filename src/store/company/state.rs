//! `company_state`: the row that serialises everything one company does (invariant I11).
//!
//! Called first in every ingest and promote. What must never happen here: two companies locked in another order than by company_id.

use sqlx::PgConnection;

/// One company's counters as they stand under its lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRow {
    pub company_id: String,
    pub seq: i64,
    pub pending_seq: i64,
    pub active_seq: i64,
    /// See `ingest_batches` in the DDL.
    pub changed_seq: i64,
    pub ruleset_version: i32,
    /// Which writing of that version it is: a database that was restored to an older version gives the same number out again, with other rules.
    /// `None`: no version yet, or one that was committed while this lock was waited for.
    pub ruleset_stamp: Option<String>,
}

/// Locks the companies' rows in the order of their ids, making those that are missing. One statement where all exist.
///
/// # Errors
/// The database's.
pub async fn lock(conn: &mut PgConnection, companies: &[&str]) -> Result<Vec<StateRow>, sqlx::Error> {
    let rows = select_for_update(conn, companies).await?;
    if rows.len() == companies.len() {
        return Ok(rows);
    }
    sqlx::query!(
        "INSERT INTO company_state (company_id) SELECT k.company_id FROM UNNEST($1::text[]) AS k (company_id) ORDER BY 1 ON CONFLICT DO NOTHING",
        companies as &[&str]
    )
    .execute(&mut *conn)
    .await?;
    select_for_update(conn, companies).await
}

async fn select_for_update(conn: &mut PgConnection, companies: &[&str]) -> Result<Vec<StateRow>, sqlx::Error> {
    sqlx::query_as!(
        StateRow,
        r#"SELECT company_id, seq, pending_seq, active_seq, changed_seq, ruleset_version,
                  (SELECT v.checksum || ' ' || extract(epoch FROM v.created_at)::text FROM ruleset_versions v
                   WHERE v.company_id = s.company_id AND v.version = s.ruleset_version) AS ruleset_stamp
           FROM company_state s WHERE company_id = ANY($1) ORDER BY company_id FOR UPDATE OF s"#,
        companies as &[&str]
    )
    .fetch_all(conn)
    .await
}
