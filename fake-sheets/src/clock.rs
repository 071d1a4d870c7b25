//! The emulator's clock: real time, moved forward or stopped by tests. Quotas and the life of tokens are counted by it;
//! the time window of an assertion is judged by real time, because clients stamp it with theirs.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A clock in milliseconds since 1970.
#[derive(Debug, Default)]
pub struct Clock {
    state: Mutex<State>,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    ahead_ms: u64,
    stopped_at_ms: Option<u64>,
}

/// Real time in milliseconds since 1970.
#[must_use]
pub fn real_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Clock {
    /// Now, in milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stopped_at_ms.unwrap_or_else(real_ms) + state.ahead_ms
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ahead_ms += u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
    }

    /// Stops the clock; from now on only `advance` moves it.
    pub fn stop(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stopped_at_ms.get_or_insert_with(real_ms);
    }
}
