//! The call log: every request the server saw, what it answered, and what a late delivery did. Bounded, oldest out first.

use std::collections::VecDeque;

use axum::body::Bytes;
use serde::Serialize;
use serde_json::Value;

const MAX_CALLS: usize = 20_000;
const MAX_BODY_BYTES: usize = 128 << 20;

/// One request.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallRecord {
    /// Counts from 1.
    pub n: u64,
    /// By the emulator's clock, milliseconds since 1970.
    pub at_ms: u64,
    /// HTTP verb.
    pub method: String,
    /// Path and query as sent.
    pub path: String,
    /// The API's name for it (`batchUpdate`, `values.get`, `token`); empty for an unknown path.
    pub op: String,
    /// Counts as a write.
    pub write: bool,
    /// The spreadsheet of the path.
    pub spreadsheet: String,
    /// Who called; empty where no token said so.
    pub account: String,
    /// The status that was sent; 0 where the connection ended without one.
    pub status: u16,
    /// Whether the request changed a spreadsheet.
    pub applied: bool,
    /// The fault that met it.
    pub fault: Option<String>,
    /// Delivered after its caller had lost the connection, or a second time.
    pub late: bool,
    /// The refusal's text.
    pub error: Option<String>,
    /// Bytes of the body.
    pub body_bytes: usize,
    /// The body as sent.
    #[serde(skip)]
    pub body: Bytes,
}

impl CallRecord {
    /// The body as JSON; null where it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// How many calls there were since the start or the last clearing; faults and refusals are counted as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Calls that read, over all accounts.
    pub reads: u64,
    /// Calls that write.
    pub writes: u64,
    /// Writes that changed a spreadsheet, late ones included.
    pub applied: u64,
    /// Calls of the token endpoint.
    pub tokens: u64,
}

/// The log.
#[derive(Debug, Default)]
pub struct CallLog {
    calls: VecDeque<CallRecord>,
    bytes: usize,
    last: u64,
    /// Totals.
    pub counts: Counts,
}

impl CallLog {
    /// Adds a call; answers its number.
    pub fn add(&mut self, mut call: CallRecord) -> u64 {
        self.last += 1;
        call.n = self.last;
        match (call.op.as_str(), call.write) {
            ("", _) => {}
            ("token", _) => self.counts.tokens += 1,
            _ if call.late => {}
            (_, true) => self.counts.writes += 1,
            (_, false) => self.counts.reads += 1,
        }
        self.counts.applied += u64::from(call.applied);
        self.bytes += call.body.len();
        self.calls.push_back(call);
        while self.calls.len() > MAX_CALLS || (self.bytes > MAX_BODY_BYTES && self.calls.len() > 1) {
            self.bytes -= self.calls.pop_front().map_or(0, |old| old.body.len());
        }
        self.last
    }

    /// The calls after number `n`, oldest first.
    #[must_use]
    pub fn since(&self, n: u64) -> Vec<CallRecord> {
        self.calls.iter().filter(|call| call.n > n).cloned().collect()
    }

    /// Forgets the calls and the counts; numbers go on.
    pub fn clear(&mut self) {
        self.calls.clear();
        self.bytes = 0;
        self.counts = Counts::default();
    }
}
