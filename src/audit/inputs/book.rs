//! One company in one schema, as its tables stand in one snapshot. Rows have the tables' columns and nothing else.

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use uuid::Uuid;

/// A book: everything a schema holds of one company.
#[derive(Clone, Debug, Default)]
pub struct Book {
    pub company: String,
    /// Database and schema, for people.
    pub place: String,
    /// Whether `control.company_config` routes the company here now.
    pub is_routed: bool,
    pub state: Option<StateRow>,
    pub transactions: Vec<TxnRow>,
    pub pending: Vec<PendingRow>,
    pub matched: Vec<MatchedRow>,
    pub ledger: Vec<LedgerRow>,
    pub names: Vec<NameRow>,
    /// The recorded order of batches.
    pub applied: Vec<AppliedRow>,
    pub versions: Vec<VersionRow>,
    pub rules: Vec<RuleRow>,
    /// Approvals that a version has taken.
    pub approvals: Vec<ApprovalRow>,
    pub requests: Vec<RequestRow>,
}

/// `company_state`.
#[derive(Clone, Debug)]
pub struct StateRow {
    pub company_id: String,
    pub seq: i64,
    pub pending_seq: i64,
    pub active_seq: i64,
    pub answer_seq: i64,
    pub changed_seq: i64,
    pub ruleset_version: i32,
}

/// `transactions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnRow {
    pub company_id: String,
    pub txn_uid: Uuid,
    pub external_id: Option<String>,
    pub occurred_on: NaiveDate,
    pub amount_cents: i64,
    pub currency: String,
    pub description: String,
    pub memo: String,
    pub counterparty: String,
    pub occurrence: Option<i32>,
    pub void: bool,
    pub as_of: DateTime<Utc>,
    pub seq: i64,
    pub content_seq: i64,
    pub batch_signature: String,
}

/// `pending_txns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRow {
    pub company_id: String,
    pub txn_uid: Uuid,
    pub first_seen_batch: String,
    pub last_seen_batch: String,
    pub occurred_on: NaiveDate,
    pub description: String,
    pub description_norm: String,
    pub amount_cents: i64,
    /// `open` or `resolved`.
    pub status: String,
    pub row_checksum: String,
    pub seq: i64,
    pub resolved_seq: Option<i64>,
    /// Comes from people's cells and cannot be recomputed.
    pub answer: String,
}

impl PendingRow {
    pub fn is_open(&self) -> bool {
        self.status == "open"
    }
}

/// `matched_txns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchedRow {
    pub company_id: String,
    pub txn_uid: Uuid,
    pub rule_id: Uuid,
    pub ruleset_version: i32,
    pub target_sheet: String,
    pub target_header: String,
    pub amount_cents: i64,
    pub revision: i32,
    pub state: String,
    pub seq: i64,
}

impl MatchedRow {
    pub fn is_live(&self) -> bool {
        self.state != "withdrawn"
    }
}

/// `ingest_batches`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    pub company_id: String,
    pub batch_signature: String,
    pub batch_id: String,
    pub as_of: DateTime<Utc>,
    pub seq: i64,
    pub row_count: i32,
    pub bad_count: i32,
    pub deliveries: i32,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub applied_at: DateTime<Utc>,
}

/// `ingest_batch_ids`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameRow {
    pub company_id: String,
    pub batch_id: String,
    pub batch_signature: String,
}

/// An event `batch.ingested`: which message took which seq.
#[derive(Clone, Debug)]
pub struct AppliedRow {
    pub company_id: String,
    pub seq: i64,
    pub batch_signature: String,
    pub batch_id: String,
    pub topic: Option<String>,
    pub partition: Option<i32>,
    pub offset: Option<i64>,
    pub recorded_at: DateTime<Utc>,
}

/// `ruleset_versions`.
#[derive(Clone, Debug)]
pub struct VersionRow {
    pub company_id: String,
    pub version: i32,
    pub checksum: String,
    pub snapshot: Value,
    pub request_key: Option<String>,
    pub seq: i64,
    pub created_at: DateTime<Utc>,
}

/// `rules_active`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRow {
    pub company_id: String,
    pub rule_id: Uuid,
    pub source: String,
    pub source_norm: String,
    pub target_sheet: String,
    pub target_header: String,
    pub match_notes: String,
    pub ruleset_version: i32,
    pub effective_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
}

/// A row of `rules_pending` that a version has taken.
#[derive(Clone, Debug)]
pub struct ApprovalRow {
    pub company_id: String,
    pub source: String,
    pub target_sheet: String,
    pub target_header: String,
    pub match_notes: String,
    pub promoted_in: i32,
}

/// `promote_requests`.
#[derive(Clone, Debug)]
pub struct RequestRow {
    pub company_id: String,
    pub request_key: String,
    pub version: Option<i32>,
    pub seq: i64,
}
