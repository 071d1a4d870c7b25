//! Reads and writes per minute and account. The window slides: never more than the limit in any 60 seconds, which is
//! stricter than a bucket refilled on the minute, so a client that passes here passes there.

use std::collections::{HashMap, VecDeque};

use serde_json::json;

use crate::error::ApiError;

const MINUTE_MS: u64 = 60_000;

/// What is allowed per minute and account; `None` does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Calls that read.
    pub reads: Option<usize>,
    /// Calls that write.
    pub writes: Option<usize>,
}

/// The calls of the last minute.
#[derive(Debug, Default)]
pub struct Quota {
    /// The limits.
    pub limits: Limits,
    used: HashMap<(String, bool), VecDeque<u64>>,
}

impl Quota {
    /// Counts a call.
    ///
    /// # Errors
    /// 429 as Google answers it, where the account has used up its minute; the call is then not counted.
    pub fn take(&mut self, account: &str, write: bool, now_ms: u64) -> Result<(), ApiError> {
        let Some(limit) = (if write { self.limits.writes } else { self.limits.reads }) else { return Ok(()) };
        let used = self.used.entry((account.to_owned(), write)).or_default();
        while used.front().is_some_and(|at| at + MINUTE_MS <= now_ms) {
            used.pop_front();
        }
        if used.len() >= limit {
            return Err(exceeded(write, limit));
        }
        used.push_back(now_ms);
        Ok(())
    }
}

/// The 429 that Google answers.
#[must_use]
pub fn exceeded(write: bool, limit: usize) -> ApiError {
    let (name, metric, id) =
        if write { ("Write", "write_requests", "WriteRequestsPerMinutePerUser") } else { ("Read", "read_requests", "ReadRequestsPerMinutePerUser") };
    let message = format!(
        "Quota exceeded for quota metric '{name} requests' and limit '{name} requests per minute per user' of service \
         'sheets.googleapis.com' for consumer 'project_number:123456789012'."
    );
    let info = json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com",
        "metadata": {
            "quota_metric": format!("sheets.googleapis.com/{metric}"),
            "quota_limit": id,
            "quota_limit_value": limit.to_string(),
            "quota_unit": "1/min/{project}/{user}",
            "quota_location": "global",
            "service": "sheets.googleapis.com",
            "consumer": "projects/123456789012",
        },
    });
    let help = json!({
        "@type": "type.googleapis.com/google.rpc.Help",
        "links": [{"description": "Request a higher quota limit.",
                   "url": "https://cloud.google.com/docs/quotas/help/request_increase"}],
    });
    ApiError { details: vec![info, help], ..ApiError::new(429, "RESOURCE_EXHAUSTED", message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sixty_seconds_hold_more_than_the_limit_and_each_account_counts_alone() {
        let mut quota = Quota { limits: Limits { writes: Some(2), reads: None }, ..Quota::default() };
        assert!(quota.take("a", true, 0).is_ok() && quota.take("a", true, 50_000).is_ok());
        assert_eq!(quota.take("a", true, 59_999).unwrap_err().code, 429);
        assert!(quota.take("b", true, 59_999).is_ok() && quota.take("a", false, 59_999).is_ok());
        assert!(quota.take("a", true, 60_000).is_ok());
        assert_eq!(quota.take("a", true, 60_001).unwrap_err().code, 429);
    }
}
