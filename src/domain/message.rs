//! The two events that come from outside, validated.
//!
//! Made by `flow::decode` alone (through the constructors here, the only way in), read by ingest, promote and the dead
//! letters. What must never happen: a row in here with a blank id, with U+0000, or twice under one transaction id.

use std::fmt;

use chrono::{DateTime, NaiveDate, Utc};

use super::ids::{BatchId, BatchSignature, CompanyId, TxnUid};
use super::money::{Cents, Currency};

pub use assemble::{Assembled, Candidate, RowInput, identities};

mod assemble;

/// Keeps the fields readable and the constructors the only way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sealed;

/// What a batch says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchHead {
    /// The producer's name for it.
    pub batch_id: BatchId,
    /// Whose rows they are.
    pub company_id: CompanyId,
    /// When the producer made it: orders content (`as_of`).
    pub created_at: DateTime<Utc>,
    /// Version of the message it came in: 1 or 2.
    pub version: u8,
    /// `meta.producer`, for people who search.
    pub producer: Option<String>,
}

/// A batch of transactions of one company.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnsBatch {
    /// The producer's name for it.
    pub batch_id: BatchId,
    /// Whose rows they are.
    pub company_id: CompanyId,
    /// When the producer made it: orders content (`as_of`).
    pub created_at: DateTime<Utc>,
    /// Version of the message it came in: 1 or 2.
    pub version: u8,
    /// `meta.producer`, at most 200 characters.
    pub producer: Option<String>,
    /// The good rows in the order of the message, no transaction twice; empty when all rows were bad.
    pub rows: Vec<Row>,
    /// Over company and good rows, not over name or time.
    pub signature: BatchSignature,
    sealed: Sealed,
}

impl TxnsBatch {
    /// Checks, numbers and identifies the rows of a message. `raw` gives the original JSON text of the row at an index
    /// and is asked only for rows that are set aside.
    ///
    /// - Rows without id get their `occurrence`: explicit, or counted in order among the rows of the batch with the same
    ///   date, amount, currency and description (rows set aside count too, so mending one does not renumber the rest).
    /// - The same transaction twice: with equal content one row, with different content all set aside.
    #[must_use]
    pub fn assemble(head: BatchHead, candidates: Vec<Candidate>, raw: impl Fn(usize) -> String) -> Assembled {
        assemble::assemble(head, candidates, raw)
    }
}

/// One transaction as a batch states it. Its `Debug` form hides what may not be logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// Place in the message's `transactions`, from 0.
    pub index: usize,
    /// The transaction.
    pub uid: TxnUid,
    /// The producer's id, never blank.
    pub id: Option<String>,
    /// Business date.
    pub date: NaiveDate,
    /// Amount; debits negative.
    pub cents: Cents,
    /// Currency of the amount.
    pub currency: Currency,
    /// The bank's text as it came; may be empty.
    pub description: String,
    /// The key that rules match; empty never matches.
    pub description_norm: String,
    /// Free text; never empty text.
    pub memo: Option<String>,
    /// The other party; never empty text.
    pub counterparty: Option<String>,
    /// For a row without id: which of the equal rows (1..). `None` for a row with id.
    pub occurrence: Option<u32>,
    /// The bank took it back.
    pub void: bool,
    sealed: Sealed,
}

/// A row that cannot be applied, on its way to the dead letters. Its `Debug` form hides what may not be logged.
#[derive(Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Place in the message's `transactions`, from 0.
    pub index: usize,
    /// JSON pointer into the message (into the inner one where an envelope was unwrapped): `/transactions/3`.
    pub pointer: String,
    /// Why.
    pub reason: BadRowReason,
    /// The row's JSON text exactly as it came.
    pub raw: String,
    /// What to write as `occurrence` when the row is replayed alone, where it has no id and its facts can be read.
    pub occurrence: Option<u32>,
}

/// Why a row is set aside: a stable class for counting, and a text for people that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct BadRowReason {
    /// For filters and metrics.
    pub class: BadRowClass,
    /// For people; holds no description, amount, memo or counterparty.
    pub text: String,
}

impl BadRowReason {
    /// A reason with its text.
    #[must_use]
    pub fn new(class: BadRowClass, text: impl Into<String>) -> Self {
        Self { class, text: text.into() }
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("index", &self.index).field("uid", &self.uid).field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BadRow").field("pointer", &self.pointer).field("reason", &self.reason).finish_non_exhaustive()
    }
}

macro_rules! classes {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name, as dead letters and metrics show it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use classes;

classes! {
    /// Classes of bad rows.
    BadRowClass {
        /// The element of `transactions` is not a JSON object.
        NotAnObject = "not_an_object",
        /// A required field is absent or null.
        MissingField = "missing_field",
        /// A field has another JSON type than the contract gives it.
        WrongType = "wrong_type",
        /// One of the known fields stands in the row twice.
        DuplicateField = "duplicate_field",
        /// A text holds U+0000 or half of a surrogate pair.
        BadText = "bad_text",
        /// The id is blank.
        BlankId = "blank_id",
        /// No such date, or another notation.
        BadDate = "bad_date",
        /// No amount in the contract's notation or range.
        BadAmount = "bad_amount",
        /// No ISO code with two decimals.
        BadCurrency = "bad_currency",
        /// Not a whole number from 1.
        BadOccurrence = "bad_occurrence",
        /// The row names another company than the batch.
        CompanyMismatch = "company_mismatch",
        /// The same transaction twice in the batch with different content.
        DuplicateId = "duplicate_id",
    }
}

/// A request to promote what is approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromoteRequest {
    /// Whose rules.
    pub company_id: CompanyId,
    /// What makes it the same request when it comes again: the `request_id`, or else the text of `created_at`.
    pub request_key: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// The producer's id of the request, if it gave one.
    pub request_id: Option<BatchId>,
    sealed: Sealed,
}

impl PromoteRequest {
    /// A request; `created_at_text` is the message's own text of `created_at`.
    #[must_use]
    pub fn new(company_id: CompanyId, created_at: DateTime<Utc>, created_at_text: &str, request_id: Option<BatchId>) -> Self {
        let request_key = request_id.as_ref().map_or(created_at_text, BatchId::as_str).to_owned();
        Self { company_id, request_key, created_at, request_id, sealed: Sealed }
    }
}

#[cfg(test)]
mod tests;
