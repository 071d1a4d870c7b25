//! How the process is, as its loops report it. Read by the HTTP server; never asks anybody itself, so a probe cannot hang.
//!
//! What must never happen here: a company's trouble turning the process red (an orchestrator would restart what a restart cannot mend),
//! or a loop that has stopped looking healthy.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// How bad it is. The order matters: the worst check is the whole's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Ok,
    /// A company or a spreadsheet is in trouble; the others flow.
    Degraded,
    /// The process cannot do its work now.
    Failed,
}

/// One check's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub status: State,
    /// For people. No secrets, no row contents.
    pub detail: String,
}

impl Check {
    pub fn ok(detail: impl Into<String>) -> Self {
        Self { status: State::Ok, detail: detail.into() }
    }

    pub fn degraded(detail: impl Into<String>) -> Self {
        Self { status: State::Degraded, detail: detail.into() }
    }

    pub fn failed(detail: impl Into<String>) -> Self {
        Self { status: State::Failed, detail: detail.into() }
    }
}

/// All checks, and the worst of them. The shape of `/health/*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    pub status: State,
    pub checks: BTreeMap<String, Check>,
}

impl Health {
    pub fn of(checks: BTreeMap<String, Check>) -> Self {
        let status = checks.values().map(|check| check.status).max().unwrap_or(State::Ok);
        Self { status, checks }
    }
}

#[derive(Debug)]
struct Loop {
    ticked: Instant,
    /// Silent for longer than this = not running.
    limit: Duration,
}

/// Where loops and connections report. Shared by `Arc`.
#[derive(Debug, Default)]
pub struct HealthBoard {
    checks: Mutex<BTreeMap<String, Check>>,
    loops: Mutex<BTreeMap<String, Loop>>,
}

impl HealthBoard {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Sets a check, such as `control_database` or `broker`. What is expected but has not answered yet is set to failed at start.
    pub fn set(&self, name: &str, check: Check) {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), check);
    }

    /// A loop says that it runs. It is called at least every `limit`, also when there is nothing to do: idle is healthy.
    pub fn tick(&self, name: &str, limit: Duration) {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Loop { ticked: Instant::now(), limit });
    }

    /// A loop ended on purpose (shutdown): its silence is no fault.
    pub fn forget(&self, name: &str) {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// What `/health/ready` answers.
    pub fn ready(&self) -> Health {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, entry) in self.loops.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let silent = entry.ticked.elapsed();
            let check = if silent <= entry.limit {
                Check::ok("runs")
            } else {
                Check::failed(format!("has not run for {} s; it should every {} s", silent.as_secs(), entry.limit.as_secs()))
            };
            checks.insert(format!("loop_{name}"), check);
        }
        Health::of(checks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_companys_trouble_degrades_and_a_lost_database_fails() {
        let board = HealthBoard::new();
        board.set("control_database", Check::ok("answers"));
        board.set("companies", Check::degraded("1 company parked"));
        assert_eq!(board.ready().status, State::Degraded);
        board.set("control_database", Check::failed("does not answer"));
        assert_eq!(board.ready().status, State::Failed);
    }

    #[test]
    fn a_loop_that_stopped_ticking_fails_and_one_that_ended_on_purpose_does_not() {
        let board = HealthBoard::new();
        board.tick("post", Duration::from_secs(60));
        assert_eq!(board.ready().status, State::Ok);
        board.tick("txns", Duration::ZERO);
        assert_eq!(board.ready().checks["loop_txns"].status, State::Failed);
        board.forget("txns");
        assert_eq!(board.ready().status, State::Ok);
    }
}
