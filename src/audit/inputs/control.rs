//! The control database's part: routing, what was set aside, what was posted.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use uuid::Uuid;

use crate::domain::company::CompanyRow;

/// Letters by topic, partition and offset.
pub type Letters = BTreeMap<(String, i32, i64), Vec<LetterRow>>;

/// What was read of the control database.
#[derive(Clone, Debug, Default)]
pub struct Control {
    pub companies: Vec<CompanyRow>,
    pub letters: Letters,
    pub held: Vec<HeldRow>,
    pub intents: Vec<IntentRow>,
    pub posts: Vec<PostRow>,
    pub tabs: Vec<TabMark>,
    pub backfills: Vec<BackfillRow>,
}

/// `backfills`, those that read a topic.
#[derive(Clone, Debug)]
pub struct BackfillRow {
    pub company_id: String,
    /// The topic that was read and written.
    pub topic: String,
    /// When it began; the messages that it published are younger.
    pub created_at: DateTime<Utc>,
}

/// `dead_letters`.
#[derive(Clone, Debug)]
pub struct LetterRow {
    pub id: i64,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// Empty for a whole message.
    pub pointer: String,
    pub bytes_sha256: Vec<u8>,
    /// SHA-256 of the bytes that are kept.
    pub kept_sha256: Vec<u8>,
    pub class: String,
    pub company_id: Option<String>,
    /// `new`, `replaying`, `resolved` or `discarded`.
    pub state: String,
    pub first_seen_at: DateTime<Utc>,
}

/// `held_messages`.
#[derive(Clone, Debug)]
pub struct HeldRow {
    pub company_id: String,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub payload_sha256: Vec<u8>,
}

/// `sheet_intents`.
#[derive(Clone, Debug)]
pub struct IntentRow {
    pub intent_id: Uuid,
    pub spreadsheet_id: String,
    pub generation: i64,
    pub state: String,
    pub tabs: Vec<IntentTab>,
}

/// One tab of `sheet_intents.tabs`.
#[derive(Clone, Debug, Deserialize)]
pub struct IntentTab {
    pub company: String,
    pub signature: String,
    pub row_count: i64,
}

/// `sheet_posts`.
#[derive(Clone, Debug)]
pub struct PostRow {
    pub company_id: String,
    pub batch_signature: String,
    pub row_count: i32,
    pub intent_id: Option<Uuid>,
    pub created_at: DateTime<Utc>,
}

/// `sheet_tabs`, with the spreadsheet's confirmed generation and whether a post of it is not settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TabMark {
    pub company_id: String,
    pub role: String,
    pub spreadsheet_id: String,
    pub sheet_id: i32,
    pub posted_seq: i64,
    pub answer_seq: i64,
    pub generation: i64,
    pub in_doubt: bool,
}
