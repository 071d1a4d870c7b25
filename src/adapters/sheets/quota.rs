//! Every call goes through here: it takes one from the shared budget, is bounded in time, is counted, and gives the call back.
//!
//! Called by [`super::gateway`]. What must never happen here: a call to Google without a permit, or one that waits for ever once it is sent.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::ports::CallError;
use crate::store::control::budget::{Budget, CallKind, Permit};
use crate::store::error;

/// Hears of every call: the operation (`directory`, `read`, `apply`, `metadata`) and the outcome's label (see [`outcome`]).
pub type CallHook = Arc<dyn Fn(&'static str, &'static str) + Send + Sync>;

/// How an outcome is called in `kylo_sheets_calls_total`.
pub fn outcome<T>(result: &Result<T, CallError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(CallError::NotSent(_)) => "not_sent",
        Err(CallError::Throttled { .. }) => "throttled",
        Err(CallError::Refused(_)) => "refused",
        Err(CallError::Unauthorised(_)) => "unauthorised",
        Err(CallError::Forbidden(_)) => "forbidden",
        Err(CallError::NotFound(_)) => "not_found",
        Err(CallError::Unknown(_)) => "unknown",
    }
}

/// The budget as calls use it.
pub(super) struct Quota {
    budget: Arc<Budget>,
    call_timeout: Duration,
    hook: CallHook,
    /// 429 answers in a row, of either kind: each doubles the pause.
    throttled: AtomicU32,
}

/// Giving a call back must not hold up its answer: a permit that is not given back runs out by itself.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

impl Quota {
    pub(super) fn new(budget: Arc<Budget>, call_timeout: Duration, hook: CallHook) -> Self {
        // The budget holds a row only as long as it was told a call can take.
        let call_timeout = call_timeout.min(budget.call_timeout());
        Self { budget, call_timeout, hook, throttled: AtomicU32::new(0) }
    }

    /// Makes one call. The future is not polled before the permit is there.
    ///
    /// # Errors
    /// The call's own; `NotSent` if the budget cannot be asked; `Unknown` if there is no answer in time.
    pub(super) async fn call<T>(&self, op: &'static str, kind: CallKind, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let permit = self.permit(kind).await.inspect_err(|_| (self.hook)(op, "not_sent"))?;
        let result = match tokio::time::timeout(self.call_timeout, call).await {
            Ok(result) => result,
            Err(_) => Err(CallError::Unknown(format!("no answer within {} ms", self.call_timeout.as_millis()))),
        };
        (self.hook)(op, outcome(&result));
        self.heed(kind, &result).await;
        // An error or a delay here makes the row free later, never earlier.
        let _ = tokio::time::timeout(FINISH_WITHIN, permit.finish()).await;
        result
    }

    /// A permit with its whole time ahead: a process that was frozen while it held one must not send on the strength of it.
    async fn permit(&self, kind: CallKind) -> Result<Permit, CallError> {
        loop {
            let permit = self.budget.take(kind).await.map_err(|fault| {
                CallError::NotSent(format!("the control database did not grant a call to the Sheets API: {}", error::describe(&fault)))
            })?;
            if Instant::now() < permit.deadline() {
                return Ok(permit);
            }
        }
    }

    async fn heed<T>(&self, kind: CallKind, result: &Result<T, CallError>) {
        let asked = match result {
            Err(CallError::Throttled { retry_after, .. }) => *retry_after,
            // Only an answer shows that Google takes calls again.
            Ok(_) => return self.throttled.store(0, Ordering::Relaxed),
            Err(_) => return,
        };
        let in_a_row = self.throttled.fetch_add(1, Ordering::Relaxed).min(6);
        let backoff = Duration::from_millis(1000 * (1 << in_a_row) + rand::rng().random_range(0..1000));
        let pause = asked.unwrap_or(backoff).max(backoff.min(Duration::from_secs(64)));
        tracing::warn!(kind = kind.as_str(), pause_ms = pause.as_millis(), "the Sheets API reports that the quota is used up");
        if let Ok(Err(fault)) = tokio::time::timeout(FINISH_WITHIN, self.budget.pause(kind, pause)).await {
            tracing::warn!(error = %error::describe(&fault), "could not make the other processes wait for the quota");
        }
    }
}
