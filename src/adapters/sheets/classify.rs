//! What an unsuccessful call means: google-sheets4's error to [`CallError`], by HTTP status and kind of error alone.
//!
//! Called by [`super::gateway`] for every failed call. What must never happen here: a decision by message text (it is localised), or a write that
//! may have been applied being called not applied.

use std::error::Error as _;
use std::time::Duration;

use google_sheets4::Error;
use google_sheets4::common::{Delegate, Response, Retry};
use google_sheets4::hyper::HeaderMap;
use google_sheets4::hyper::header::RETRY_AFTER;
use serde_json::Value;

use crate::ports::CallError;

/// What only the answer's head shows: google-sheets4's error does not carry it for JSON bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub status: Option<u16>,
    pub retry_after: Option<Duration>,
}

impl Head {
    pub(super) fn of(response: &Response) -> Self {
        Self { status: Some(response.status().as_u16()), retry_after: retry_after(response.headers()) }
    }
}

impl Delegate for Head {
    fn http_failure(&mut self, response: &Response, _error: Option<&Value>) -> Retry {
        *self = Self::of(response);
        Retry::Abort
    }
}

/// Seconds only: Google sends none today, and proxies send seconds. Capped, so that no header stops a worker for hours.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(600)))
}

/// Decides.
pub(super) fn classify(error: &Error, head: Head) -> CallError {
    match error {
        // Includes the connect timeout. Nothing of the request left the machine.
        Error::HttpError(error) if error.is_connect() => CallError::NotSent(chain("cannot connect", error)),
        Error::HttpError(error) => CallError::Unknown(chain("the connection failed before the answer was complete", error)),
        Error::MissingToken(_) => CallError::NotSent("no access token".to_owned()),
        Error::BadRequest(body) => by_status(head.status.or_else(|| code(body)), head.retry_after, Some(body)),
        Error::Failure(response) => by_status(Some(response.status().as_u16()), head.retry_after, None),
        Error::JsonDecodeError(_, error) => {
            CallError::Unknown(format!("the answer cannot be read (JSON broken off at line {}, column {})", error.line(), error.column()))
        }
        Error::Io(error) => CallError::Unknown(format!("reading the answer failed: {}", error.kind())),
        Error::UploadSizeLimitExceeded(..) | Error::MissingAPIKey | Error::Cancelled | Error::FieldClash(_) => {
            CallError::NotSent("the client refused the call before sending it".to_owned())
        }
    }
}

fn by_status(status: Option<u16>, retry_after: Option<Duration>, body: Option<&Value>) -> CallError {
    let Some(status) = status else {
        return CallError::Unknown("an answer without a status".to_owned());
    };
    let text = describe(status, body);
    match status {
        401 => CallError::Unauthorised(text),
        429 => CallError::Throttled { retry_after, message: text },
        403 if body.is_some_and(speaks_of_rates) => CallError::Throttled { retry_after, message: text },
        403 => CallError::Forbidden(text),
        404 => CallError::NotFound(text),
        408 | 409 => CallError::Unknown(text),
        400..=499 => CallError::Refused(text),
        _ => CallError::Unknown(text),
    }
}

fn code(body: &Value) -> Option<u16> {
    body.pointer("/error/code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok())
}

/// The machine-readable reasons of a quota, in the present form (`details[].reason`, `status`) and the older one (`errors[].reason`).
fn speaks_of_rates(body: &Value) -> bool {
    let error = &body["error"];
    let reasons = |list: &'static str| error[list].as_array().into_iter().flatten().filter_map(|entry| entry["reason"].as_str());
    let rate =
        ["RATE_LIMIT_EXCEEDED", "RESOURCE_QUOTA_EXCEEDED", "rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded", "dailyLimitExceeded"];
    error["status"] == "RESOURCE_EXHAUSTED" || reasons("details").chain(reasons("errors")).any(|reason| rate.contains(&reason))
}

/// For people. Google's own message is shown, cut; it speaks of requests, ranges and rights, never of what the cells hold.
fn describe(status: u16, body: Option<&Value>) -> String {
    match body.and_then(|body| body.pointer("/error/message")).and_then(Value::as_str) {
        Some(message) => format!("{status}: {}", message.chars().take(500).collect::<String>()),
        None => format!("{status} without a readable message"),
    }
}

fn chain(what: &str, error: &google_sheets4::hyper_util::client::legacy::Error) -> String {
    let mut text = format!("{what}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
