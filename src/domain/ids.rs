//! Identities: companies, batches, transactions, and the encoding their hashes are taken over.
//!
//! Called by decoding (which makes them) and by everything that stores or prints them. The encoding is contract
//! (`schemas/vectors.json`): changing a byte of it makes every known transaction a new one.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{Datelike, NaiveDate};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::money::{Cents, Currency};

/// Namespace of every [`TxnUid`].
const TXN_NAMESPACE: Uuid = Uuid::from_u128(0x01fe_2fa6_2bec_5c71_bd73_0f29_fe8b_0275);

/// Why a text is no identity. The texts never repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there.
    #[error("must not be empty")]
    Empty,
    /// More than `max` characters.
    #[error("must have at most {max} characters")]
    TooLong {
        /// The limit, in characters.
        max: usize,
    },
    /// U+0000, which Postgres cannot store.
    #[error("must not contain U+0000")]
    Nul,
    /// Not 64 hexadecimal digits.
    #[error("must be 64 hexadecimal digits")]
    NotHex,
}

fn checked(text: &str, max: usize) -> Result<&str, IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > max && text.chars().count() > max {
        return Err(IdError::TooLong { max });
    }
    if text.contains('\0') {
        return Err(IdError::Nul);
    }
    Ok(text)
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The most characters it may have.
            pub const MAX_CHARS: usize = $max;

            /// Takes the text exactly as it is.
            ///
            /// # Errors
            /// [`IdError`] when it is empty, too long or contains U+0000.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                checked(text, Self::MAX_CHARS).map(|text| Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id!(
    /// A company, exactly as `control.company_config` and the messages spell it: never trimmed, never folded.
    CompanyId, 50
);
text_id!(
    /// A producer's name for a batch. Says nothing about the content: the same content may come under another.
    BatchId, 200
);

/// SHA-256 over a batch's company and good rows: equal content, equal signature, whatever it is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchSignature(pub [u8; 32]);

impl fmt::Display for BatchSignature {
    /// 64 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BatchSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchSignature({self})")
    }
}

impl FromStr for BatchSignature {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(IdError::NotHex);
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| IdError::NotHex)?;
        }
        Ok(Self(bytes))
    }
}

/// A transaction: the same wherever and whenever it is computed from the same facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct TxnUid(pub Uuid);

impl fmt::Display for TxnUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TxnUid {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// What makes a transaction that transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnKey<'a> {
    /// The bank's (or producer's) own id: content may change under it.
    Id(&'a str),
    /// Without an id: its facts, and which of the equal rows of its batch it is (1..).
    Row {
        /// Business date.
        date: NaiveDate,
        /// Amount.
        cents: Cents,
        /// Currency of the amount.
        currency: Currency,
        /// The bank's text, as it came.
        description: &'a str,
        /// 1.. among equal rows.
        occurrence: u32,
    },
}

/// Appends one part: `<length in bytes>:<bytes>`. No two different lists of parts encode to the same bytes.
pub fn push_part(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut buffer = [0; 21];
    let at = write_decimal(&mut buffer, bytes.len() as u64);
    out.extend_from_slice(&buffer[at..]);
    out.push(b':');
    out.extend_from_slice(bytes);
}

/// The transaction id of a key within a company: UUID version 5 over the key's parts.
#[must_use]
pub fn txn_uid(company: &CompanyId, key: TxnKey<'_>) -> TxnUid {
    let mut name = Vec::with_capacity(128);
    push_part(&mut name, company.as_str().as_bytes());
    match key {
        TxnKey::Id(id) => {
            push_part(&mut name, b"id");
            push_part(&mut name, id.as_bytes());
        }
        TxnKey::Row { date, cents, currency, description, occurrence } => {
            push_part(&mut name, b"row");
            push_date(&mut name, date);
            push_number(&mut name, cents.0);
            push_part(&mut name, currency.as_str().as_bytes());
            push_part(&mut name, description.as_bytes());
            push_number(&mut name, i64::from(occurrence));
        }
    }
    TxnUid(Uuid::new_v5(&TXN_NAMESPACE, &name))
}

/// The facts of one row as the signature sees them. Absent is empty; the currency is always written.
#[derive(Debug, Clone, Copy)]
pub struct RowFacts<'a> {
    /// The row's id, empty when it has none.
    pub id: &'a str,
    /// Business date.
    pub date: NaiveDate,
    /// Amount.
    pub cents: Cents,
    /// Currency of the amount.
    pub currency: Currency,
    /// The bank's text.
    pub description: &'a str,
    /// Free text, or empty.
    pub memo: &'a str,
    /// The other party, or empty.
    pub counterparty: &'a str,
    /// Which of the equal rows without id; `None` for a row with id.
    pub occurrence: Option<u32>,
    /// The bank took it back.
    pub void: bool,
}

impl RowFacts<'_> {
    /// Appends the row's parts: id, date, cents, currency, description, memo, counterparty, occurrence, void.
    pub fn push_parts(&self, out: &mut Vec<u8>) {
        push_part(out, self.id.as_bytes());
        push_date(out, self.date);
        push_number(out, self.cents.0);
        push_part(out, self.currency.as_str().as_bytes());
        push_part(out, self.description.as_bytes());
        push_part(out, self.memo.as_bytes());
        push_part(out, self.counterparty.as_bytes());
        match self.occurrence {
            Some(n) => push_number(out, i64::from(n)),
            None => push_part(out, b""),
        }
        push_part(out, if self.void { b"1" } else { b"" });
    }
}

/// The signature of a batch: SHA-256 over the company's part and one part per good row, the rows' parts sorted as
/// bytes, so neither the order of the rows nor the name or time of the batch matters.
#[must_use]
pub fn batch_signature<'a>(company: &CompanyId, rows: impl Iterator<Item = RowFacts<'a>>) -> BatchSignature {
    let mut arena = Vec::with_capacity(rows.size_hint().0.saturating_mul(96));
    let mut spans = Vec::with_capacity(rows.size_hint().0);
    let mut row_parts = Vec::with_capacity(256);
    for row in rows {
        row_parts.clear();
        row.push_parts(&mut row_parts);
        let start = arena.len();
        push_part(&mut arena, &row_parts);
        spans.push(start..arena.len());
    }
    spans.sort_unstable_by(|a, b| arena[a.clone()].cmp(&arena[b.clone()]));
    let mut head = Vec::with_capacity(64);
    push_part(&mut head, company.as_str().as_bytes());
    let mut hash = Sha256::new();
    hash.update(&head);
    for span in spans {
        hash.update(&arena[span]);
    }
    BatchSignature(hash.finalize().into())
}

fn push_number(out: &mut Vec<u8>, number: i64) {
    let mut buffer = [0; 21];
    let mut at = write_decimal(&mut buffer, number.unsigned_abs());
    if number < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    push_part(out, &buffer[at..]);
}

/// Years are 0001..=9999 by [`super::date`], so a day is always ten bytes.
fn push_date(out: &mut Vec<u8>, date: NaiveDate) {
    let digit = |n: u32| b'0' + u8::try_from(n % 10).unwrap_or_default();
    let (year, month, day) = (date.year().unsigned_abs(), date.month(), date.day());
    let text = [
        digit(year / 1000),
        digit(year / 100),
        digit(year / 10),
        digit(year),
        b'-',
        digit(month / 10),
        digit(month),
        b'-',
        digit(day / 10),
        digit(day),
    ];
    push_part(out, &text);
}

/// Writes the digits to the end of the buffer and answers where they begin; at least one byte before them is left free.
fn write_decimal(buffer: &mut [u8; 21], mut number: u64) -> usize {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            return at;
        }
    }
}

#[cfg(test)]
mod tests;
