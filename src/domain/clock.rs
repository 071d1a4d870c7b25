//! Time as a parameter.
//!
//! Called by everything that needs "now": leases, backoff, the check of `created_at`. Nothing but [`SystemClock`]
//! may ask the machine for the time, so a test can move it ([`TestClock`]).

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

/// A source of the present instant, in UTC, cut to microseconds because that is what Postgres keeps:
/// an instant that was stored and read back compares equal.
pub trait Clock: Send + Sync {
    /// The present instant, whole microseconds.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }
}

/// A clock that stands still until it is told to move. Share it by `Arc`.
#[derive(Debug)]
pub struct TestClock {
    micros: AtomicI64,
}

impl TestClock {
    /// A clock standing at `start`, cut to microseconds.
    #[must_use]
    pub fn at(start: DateTime<Utc>) -> Self {
        Self { micros: AtomicI64::new(start.timestamp_micros()) }
    }

    /// Moves the clock forward. Saturates at the end of time instead of wrapping.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        let now = self.micros.load(Ordering::SeqCst);
        self.micros.store(now.saturating_add(by), Ordering::SeqCst);
    }

    /// Puts the clock to another instant, forward or back.
    pub fn set(&self, to: DateTime<Utc>) {
        self.micros.store(to.timestamp_micros(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.micros.load(Ordering::SeqCst)).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_clock_gives_whole_microseconds() {
        for _ in 0..50 {
            assert_eq!(SystemClock.now().timestamp_subsec_nanos() % 1_000, 0);
        }
    }

    #[test]
    fn a_test_clock_moves_only_when_told() {
        let start = DateTime::from_timestamp(1_756_209_600, 123_456_789).unwrap();
        let clock = TestClock::at(start);
        assert_eq!(clock.now(), start.trunc_subsecs(6));
        clock.advance(Duration::from_secs(60));
        assert_eq!(clock.now(), start.trunc_subsecs(6) + chrono::TimeDelta::seconds(60));
        clock.set(start);
        assert_eq!(clock.now(), start.trunc_subsecs(6));
        clock.advance(Duration::MAX);
        assert_eq!(clock.now(), DateTime::<Utc>::MAX_UTC);
    }
}
