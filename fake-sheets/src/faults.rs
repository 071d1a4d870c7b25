//! Faults as data: what goes wrong, for which calls, and how often. A queue on the model; `http.rs` asks it for every
//! request and acts. A fault never changes what the API means, only when and whether its effect and its answer arrive.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::edits::Edit;
use crate::error::ApiError;

/// What goes wrong.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FaultKind {
    /// The connection is closed as soon as the request is seen; nothing is read of its body, nothing applied.
    Refuse,
    /// The whole request is read, then the connection is closed; nothing is applied.
    DropBefore,
    /// Applied, then the connection is closed without an answer.
    ApplyThenDrop,
    /// Applied, then another answer than the true one.
    ApplyThenAnswer {
        /// What the caller gets.
        answer: Answer,
    },
    /// Not applied; this answer.
    Answer {
        /// What the caller gets.
        answer: Answer,
    },
    /// The caller hears nothing for a while and then loses the connection; the request is applied later, or never.
    Hang {
        /// How long until the connection is closed.
        hang_ms: u64,
        /// When it is applied.
        commit: Commit,
    },
    /// Applied and answered with 200, but the body ends early.
    CutBody {
        /// Bytes of the body that arrive.
        keep: usize,
        /// The answer looks whole (its length header tells the shorter length) instead of breaking off.
        #[serde(default)]
        looks_whole: bool,
    },
    /// Answered late. Other faults may meet the same call.
    Delay {
        /// Milliseconds before the request is looked at.
        ms: u64,
    },
    /// The same request is applied twice, one after the other.
    DeliverTwice {
        /// The caller gets the second answer instead of the first.
        #[serde(default)]
        answer_second: bool,
    },
    /// People edit just before the request is applied, so after whatever its sender has read. Other faults may meet the
    /// same call.
    Edit {
        /// Their edits.
        edits: Vec<Edit>,
    },
    /// Tokens live this short (token endpoint only). Other faults may meet the same call.
    ShortToken {
        /// `expires_in`, in seconds.
        expires_in: u64,
    },
}

/// When a hanging request is applied after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "when", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Commit {
    /// This long after the connection was closed.
    After {
        /// Milliseconds.
        ms: u64,
    },
    /// Once this many other writes have been applied to the spreadsheet.
    AfterWrites {
        /// How many.
        writes: u32,
    },
    /// When the test says so (`Model::release`).
    OnRelease,
    /// Never.
    Never,
}

/// An answer that is not the true one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// 500 with Google's JSON.
    Internal,
    /// 503 with Google's JSON.
    Unavailable,
    /// 502 with an HTML page.
    BadGatewayHtml,
    /// 408 with an HTML page.
    TimeoutHtml,
    /// 429 with Google's JSON.
    TooMany,
    /// 429 with an HTML page.
    TooManyHtml,
    /// 401, as for an expired token.
    Unauthorized,
    /// 403, as for a spreadsheet that is not shared.
    Forbidden,
    /// 404.
    NotFound,
    /// 409 ABORTED.
    Aborted,
    /// 400, as for a request that is refused.
    Invalid,
    /// Token endpoint: 400 `invalid_grant`.
    InvalidGrant,
    /// Token endpoint: 500 whose `error` is an object, which some clients take for a token without a value.
    TokenErrorObject,
    /// 200 with an HTML page.
    OkHtml,
}

impl Answer {
    /// Status, content type and body.
    #[must_use]
    pub fn render(self, write: bool) -> (u16, &'static str, String) {
        const JSON: &str = "application/json; charset=UTF-8";
        let page = |code: u16, title: &str| {
            let body = format!("<!DOCTYPE html>\n<html lang=en><title>Error {code} ({title})</title><p><b>{code}.</b> {title}\n");
            (code, "text/html; charset=UTF-8", body)
        };
        let error = match self {
            Self::Internal | Self::TokenErrorObject => ApiError::new(500, "INTERNAL", "Internal error encountered."),
            Self::Unavailable => ApiError::new(503, "UNAVAILABLE", "The service is currently unavailable."),
            Self::TooMany => crate::quota::exceeded(write, 60),
            Self::Unauthorized => ApiError::unauthenticated(),
            Self::Forbidden => ApiError::forbidden(),
            Self::NotFound => ApiError::not_found(),
            Self::Aborted => ApiError::new(409, "ABORTED", "The operation was aborted."),
            Self::Invalid => ApiError::invalid("Invalid requests[0]: Internal validation failed."),
            Self::BadGatewayHtml => return page(502, "Server Error"),
            Self::TimeoutHtml => return page(408, "Request Timeout"),
            Self::TooManyHtml => return page(429, "Too Many Requests"),
            Self::OkHtml => return page(200, "Sign in"),
            Self::InvalidGrant => {
                let body = json!({"error": "invalid_grant", "error_description": "Invalid JWT Signature."});
                return (400, JSON, body.to_string());
            }
        };
        (error.code, JSON, error.body().to_string())
    }
}

/// A fault and the calls it waits for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// `any` (every API call), `read`, `write`, `token`, or a method's name (`batchUpdate`, `get`, `values.get`, ...).
    #[serde(default = "any")]
    pub on: String,
    /// Only calls for this spreadsheet.
    #[serde(default)]
    pub spreadsheet: Option<String>,
    /// Matching calls that pass before it acts.
    #[serde(default)]
    pub skip: u32,
    /// How often it acts; absent or null is for ever.
    #[serde(default = "once")]
    pub times: Option<u32>,
    /// What happens.
    #[serde(flatten)]
    pub kind: FaultKind,
}

fn any() -> String {
    "any".to_owned()
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn once() -> Option<u32> {
    Some(1)
}

impl Fault {
    /// A fault that meets the next matching call, once.
    #[must_use]
    pub fn once(on: &str, kind: FaultKind) -> Self {
        Self { on: on.to_owned(), spreadsheet: None, skip: 0, times: Some(1), kind }
    }

    /// The same after letting some matching calls pass.
    #[must_use]
    pub fn after(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    /// The same this many times.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    /// The same until the faults are cleared.
    #[must_use]
    pub fn always(self) -> Self {
        Self { times: None, ..self }
    }

    /// Only for one spreadsheet.
    #[must_use]
    pub fn for_spreadsheet(self, id: &str) -> Self {
        Self { spreadsheet: Some(id.to_owned()), ..self }
    }

    fn meets(&self, op: &str, write: bool, spreadsheet: &str) -> bool {
        let on = match self.on.as_str() {
            "any" => op != "token",
            "read" => op != "token" && !write,
            "write" => write,
            name => name == op,
        };
        on && self.spreadsheet.as_ref().is_none_or(|id| id == spreadsheet)
    }
}

/// What the faults do to one call.
#[derive(Debug, Default)]
pub struct Plan {
    /// Milliseconds before the request is looked at.
    pub delay_ms: u64,
    /// Edits by people before it is applied.
    pub edits: Vec<Edit>,
    /// Lifetime of the token it asks for.
    pub expires_in: Option<u64>,
    /// What ends it.
    pub end: Option<FaultKind>,
    /// For the call log.
    pub name: Option<String>,
}

/// The faults that wait.
#[derive(Debug, Default)]
pub struct Faults {
    queue: Vec<(u64, Fault)>,
    last: u64,
}

impl Faults {
    /// Adds a fault behind the others; answers its number.
    pub fn push(&mut self, fault: Fault) -> u64 {
        self.last += 1;
        self.queue.push((self.last, fault));
        self.last
    }

    /// Takes all faults away.
    pub fn clear(&mut self) {
        self.queue.clear();
    }

    /// Takes one fault away; false where it is gone already.
    pub fn remove(&mut self, number: u64) -> bool {
        let before = self.queue.len();
        self.queue.retain(|(n, _)| *n != number);
        self.queue.len() < before
    }

    /// The faults that still wait, with their numbers.
    #[must_use]
    pub fn waiting(&self) -> &[(u64, Fault)] {
        &self.queue
    }

    /// What happens to this call. Each fault that acts is used up by one.
    pub fn plan(&mut self, op: &str, write: bool, spreadsheet: &str) -> Plan {
        let mut plan = Plan::default();
        let mut names: Vec<String> = Vec::new();
        for (_, fault) in self.queue.iter_mut().filter(|(_, f)| f.meets(op, write, spreadsheet) && f.times != Some(0)) {
            let ends = !matches!(fault.kind, FaultKind::Delay { .. } | FaultKind::Edit { .. } | FaultKind::ShortToken { .. });
            if ends && plan.end.is_some() {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            fault.times = fault.times.map(|n| n - 1);
            names.push(serde_json::to_value(&fault.kind).ok().and_then(|v| Some(v["fault"].as_str()?.to_owned())).unwrap_or_default());
            match &fault.kind {
                FaultKind::Delay { ms } => plan.delay_ms += ms,
                FaultKind::Edit { edits } => plan.edits.extend(edits.iter().cloned()),
                FaultKind::ShortToken { expires_in } => plan.expires_in = Some(*expires_in),
                kind => plan.end = Some(kind.clone()),
            }
        }
        self.queue.retain(|(_, fault)| fault.times != Some(0));
        plan.name = (!names.is_empty()).then(|| names.join("+"));
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_waits_for_its_nth_call_and_is_then_used_up() {
        let mut faults = Faults::default();
        faults.push(Fault::once("batchUpdate", FaultKind::DropBefore).after(1));
        let hit = |faults: &mut Faults, op| faults.plan(op, op == "batchUpdate", "X").end.is_some();
        assert!(!hit(&mut faults, "get") && !hit(&mut faults, "batchUpdate") && hit(&mut faults, "batchUpdate"));
        assert!(!hit(&mut faults, "batchUpdate") && faults.waiting().is_empty());
    }

    #[test]
    fn faults_are_written_as_flat_json() {
        let fault: Fault = serde_json::from_value(json!({
            "on": "batchUpdate", "fault": "hang", "hangMs": 5, "commit": {"when": "afterWrites", "writes": 1}
        }))
        .unwrap();
        assert!(matches!(fault.kind, FaultKind::Hang { commit: Commit::AfterWrites { writes: 1 }, .. }));
        assert_eq!(fault.times, Some(1));
    }
}
