//! What waits and why, as the control database has it. Read by `kylo status`, by the gauges, and by `/health/deep`.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

/// A company's figures from the control database.
#[derive(Clone, Debug, PartialEq)]
pub struct CompanyFigures {
    pub company_id: String,
    pub held: i64,
    pub dead_letters: i64,
    pub last_post_at: Option<DateTime<Utc>>,
    pub last_post_tab: Option<String>,
    /// `company_state.<role>_seq` that the tabs show; `None` = never posted.
    pub pending_posted: Option<i64>,
    pub active_posted: Option<i64>,
}

/// Figures of every company that anything is known about, configured or not.
///
/// # Errors
/// The control database's.
pub async fn companies(pool: &PgPool) -> Result<Vec<CompanyFigures>, sqlx::Error> {
    sqlx::query_as!(
        CompanyFigures,
        r#"WITH known AS (
               SELECT company_id::text AS company_id FROM control.company_config
               UNION SELECT company_id FROM control.held_messages
               UNION SELECT company_id FROM control.company_trouble)
           SELECT known.company_id AS "company_id!",
                  (SELECT count(*) FROM control.held_messages held WHERE held.company_id = known.company_id) AS "held!",
                  (SELECT count(*) FROM control.dead_letters letter WHERE letter.company_id = known.company_id AND letter.state IN ('new', 'replaying')) AS "dead_letters!",
                  post.created_at AS "last_post_at?", post.tab_name AS "last_post_tab?",
                  pending.posted_seq AS "pending_posted?", active.posted_seq AS "active_posted?"
           FROM known
           LEFT JOIN control.company_config config ON config.company_id = known.company_id
           LEFT JOIN control.sheet_tabs pending ON pending.company_id = known.company_id AND pending.role = 'pending' AND pending.spreadsheet_id = config.spreadsheet_id
           LEFT JOIN control.sheet_tabs active ON active.company_id = known.company_id AND active.role = 'active' AND active.spreadsheet_id = config.spreadsheet_id
           LEFT JOIN LATERAL (SELECT p.created_at::timestamptz AS created_at, p.tab_name FROM control.sheet_posts p
                              WHERE p.company_id = known.company_id ORDER BY p.created_at DESC LIMIT 1) post ON TRUE
           ORDER BY known.company_id"#
    )
    .fetch_all(pool)
    .await
}

/// Why a company or a spreadsheet waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Company id, or spreadsheet id when `work` is `spreadsheet`.
    pub subject: String,
    /// `ingest`, `promote`, `post` or `spreadsheet`.
    pub work: String,
    /// `down`, `waiting` or `parked`.
    pub state: String,
    pub reason: String,
    pub since: DateTime<Utc>,
    pub retry_at: Option<DateTime<Utc>>,
}

/// Everything that is down, waiting or parked.
///
/// # Errors
/// The control database's.
pub async fn troubles(pool: &PgPool) -> Result<Vec<Trouble>, sqlx::Error> {
    sqlx::query_as!(
        Trouble,
        r#"SELECT company_id AS "subject!", work AS "work!", state AS "state!", reason AS "reason!", since AS "since!", retry_at
           FROM control.company_trouble
           UNION ALL
           SELECT spreadsheet_id, 'spreadsheet', state, coalesce(reason, ''), updated_at, retry_at FROM control.spreadsheets WHERE state <> 'ok'
           ORDER BY 1, 2"#
    )
    .fetch_all(pool)
    .await
}

/// A post that was sent and whose outcome is not known, or that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenIntent {
    pub spreadsheet_id: String,
    pub state: String,
    pub companies: Vec<String>,
    pub sent_at: Option<DateTime<Utc>>,
}

/// Posts that are not settled.
///
/// # Errors
/// The control database's.
pub async fn open_intents(pool: &PgPool) -> Result<Vec<OpenIntent>, sqlx::Error> {
    sqlx::query_as!(
        OpenIntent,
        "SELECT spreadsheet_id, state, companies, sent_at FROM control.sheet_intents WHERE state IN ('planned', 'sent', 'in_doubt') ORDER BY created_at"
    )
    .fetch_all(pool)
    .await
}

/// The control database's part of the gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    pub held_messages: i64,
    pub in_doubt_posts: i64,
    pub stopped_partitions: i64,
    pub companies_down: i64,
    pub companies_parked: i64,
    pub spreadsheets_parked: i64,
    pub reads_used: i64,
    pub writes_used: i64,
}

/// All counts in one statement. Budget rows are counted over all credentials: one is the rule.
///
/// # Errors
/// The control database's.
pub async fn waiting(pool: &PgPool) -> Result<Waiting, sqlx::Error> {
    sqlx::query_as!(
        Waiting,
        r#"SELECT (SELECT count(*) FROM control.held_messages) AS "held_messages!",
                  (SELECT count(*) FROM control.sheet_intents WHERE state = 'in_doubt') AS "in_doubt_posts!",
                  (SELECT count(*) FROM control.partition_poison WHERE stopped_at IS NOT NULL) AS "stopped_partitions!",
                  (SELECT count(DISTINCT company_id) FROM control.company_trouble WHERE state = 'down') AS "companies_down!",
                  (SELECT count(DISTINCT company_id) FROM control.company_trouble WHERE state = 'parked') AS "companies_parked!",
                  (SELECT count(*) FROM control.spreadsheets WHERE state = 'parked') AS "spreadsheets_parked!",
                  (SELECT count(*) FROM control.sheets_budget WHERE kind = 'read' AND free_at > now()) AS "reads_used!",
                  (SELECT count(*) FROM control.sheets_budget WHERE kind = 'write' AND free_at > now()) AS "writes_used!""#
    )
    .fetch_one(pool)
    .await
}
