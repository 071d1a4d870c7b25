//! The shared budget of Sheets calls on a real Postgres: the limit in any window, over processes, after deaths.
//!
//! Needs a Postgres server: `PG_DSN_RW` in the environment or in `.local/env` (scripts/up.sh writes it). The window is shortened, all else is as in
//! production; a second process is a second [`Budget`] with a pool of its own.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a failing helper fails its test")]

#[path = "support/control.rs"]
mod control;
#[expect(dead_code, reason = "only the server's address is needed of it")]
#[path = "support/database.rs"]
mod database;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kylo::store::control::budget::{Budget, CallKind, Used};

/// Rows that no other test uses.
struct Rows {
    credential: String,
}

impl Rows {
    fn new() -> Self {
        Self { credential: control::credential() }
    }

    /// What another process has: its own connections, the same rows. The hold is 190 s unless a test says otherwise.
    async fn process(&self, limit: u32, window: Duration) -> Budget {
        Budget::new(control::pool().await, &self.credential, limit, limit).with_window(window)
    }
}

/// Makes calls one after the other, each as long as `call`; returns when each began.
async fn calls(budget: Arc<Budget>, kind: CallKind, n_calls: usize, call: Duration) -> Vec<Instant> {
    let mut starts = Vec::new();
    for _ in 0..n_calls {
        let permit = budget.take(kind).await.unwrap();
        starts.push(Instant::now());
        tokio::time::sleep(call).await;
        permit.finish().await.unwrap();
    }
    starts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_sees_more_calls_than_the_limit_however_many_processes_call_at_once() {
    const LIMIT: usize = 5;
    let window = Duration::from_millis(1200);
    let rows = Rows::new();
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let budget = Arc::new(rows.process(5, window).await);
        for task in 0..4 {
            tasks.push(tokio::spawn(calls(Arc::clone(&budget), CallKind::Write, 3, Duration::from_millis(10 * task))));
        }
    }
    let mut starts = Vec::new();
    let all = tokio::time::timeout(Duration::from_secs(60), futures::future::join_all(tasks)).await.expect("24 calls end in about 6 s");
    for task in all {
        starts.extend(task.unwrap());
    }
    starts.sort();
    assert_eq!(starts.len(), 24);
    for pair in starts.windows(LIMIT + 1) {
        let span = pair[LIMIT] - pair[0];
        assert!(span >= window, "{} calls began within {span:?}", LIMIT + 1);
    }
}

#[tokio::test]
async fn reads_and_writes_have_budgets_of_their_own_and_what_is_used_can_be_seen() {
    let rows = Rows::new();
    let budget = Arc::new(rows.process(2, Duration::from_secs(60)).await);
    assert_eq!(budget.used().await.unwrap(), Used::default());
    let first = budget.take(CallKind::Write).await.unwrap();
    let second = budget.take(CallKind::Write).await.unwrap();
    let read = budget.take(CallKind::Read).await.unwrap();
    assert_eq!(budget.used().await.unwrap(), Used { reads: 1, writes: 2 });
    first.finish().await.unwrap();
    assert_eq!(budget.used().await.unwrap(), Used { reads: 1, writes: 2 }, "a call counts for a window after it has ended");
    let third = tokio::time::timeout(Duration::from_millis(700), budget.take(CallKind::Write)).await;
    assert!(third.is_err(), "two writes a minute are two");
    drop((second, read));
}

#[tokio::test]
async fn another_credential_has_a_budget_of_its_own() {
    let rows = Rows::new();
    let budget = Arc::new(rows.process(1, Duration::from_secs(60)).await);
    let other = Arc::new(Rows::new().process(1, Duration::from_secs(60)).await);
    let _held = budget.take(CallKind::Read).await.unwrap();
    assert_eq!(other.used().await.unwrap(), Used::default());
    other.take(CallKind::Read).await.unwrap().finish().await.unwrap();
}

#[tokio::test]
async fn the_call_of_a_process_that_died_is_free_again_after_its_longest_time_and_not_earlier() {
    let (window, longest) = (Duration::from_millis(400), Duration::from_millis(400));
    let rows = Rows::new();
    let budget = Arc::new(rows.process(1, window).await);
    let dying = Arc::new(rows.process(1, window).await.with_call_timeout(longest));
    let taken_at = Instant::now();
    // No destructor runs in a process that is killed.
    std::mem::forget(dying.take(CallKind::Write).await.unwrap());
    let permit = tokio::time::timeout(Duration::from_secs(60), budget.take(CallKind::Write)).await.expect("the hold runs out").unwrap();
    assert!(taken_at.elapsed() >= window + longest, "{:?}", taken_at.elapsed());
    permit.finish().await.unwrap();
}

#[tokio::test]
async fn a_permit_that_is_dropped_counts_as_a_call_that_has_ended() {
    let window = Duration::from_millis(400);
    let rows = Rows::new();
    // The hold is 190 s: only a permit that was given back lets the second call begin in time.
    let budget = Arc::new(rows.process(1, window).await);
    let permit = budget.take(CallKind::Write).await.unwrap();
    let dropped_at = Instant::now();
    drop(permit);
    let next = tokio::time::timeout(Duration::from_secs(60), budget.take(CallKind::Write)).await.expect("dropping gives the call back").unwrap();
    assert!(dropped_at.elapsed() >= window, "{:?}", dropped_at.elapsed());
    next.finish().await.unwrap();
}

#[tokio::test]
async fn a_process_that_thaws_after_its_hold_ran_out_does_not_free_the_row_of_its_successor() {
    let rows = Rows::new();
    let short = Duration::from_millis(200);
    let frozen = Arc::new(rows.process(1, short).await.with_call_timeout(short));
    let stale = frozen.take(CallKind::Write).await.unwrap();
    let successor = Arc::new(rows.process(1, short).await);
    let taken = tokio::time::timeout(Duration::from_secs(60), successor.take(CallKind::Write)).await.unwrap().unwrap();
    assert!(stale.deadline() <= tokio::time::Instant::now(), "the thawed process can see that its permit is over");
    stale.finish().await.unwrap();
    let held = "SELECT extract(epoch FROM max(free_at) - clock_timestamp())::float8 FROM control.sheets_budget WHERE credential = $1";
    let held_secs: f64 = sqlx::query_scalar(held).bind(&rows.credential).fetch_one(&control::pool().await).await.unwrap();
    assert!(held_secs > 100.0, "the successor's row is still held, for {held_secs} s");
    taken.finish().await.unwrap();
}

#[tokio::test]
async fn those_who_wait_in_one_process_are_served_in_the_order_they_came() {
    let rows = Rows::new();
    let budget = Arc::new(rows.process(1, Duration::from_millis(120)).await);
    let first = budget.take(CallKind::Read).await.unwrap();
    let (served, mut order) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..5 {
        let (budget, served) = (Arc::clone(&budget), served.clone());
        let (asking, asks) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            asking.send(()).unwrap();
            let permit = budget.take(CallKind::Read).await.unwrap();
            served.send(number).unwrap();
            permit.finish().await.unwrap();
        });
        asks.await.unwrap();
    }
    first.finish().await.unwrap();
    for number in 0..5 {
        assert_eq!(order.recv().await, Some(number));
    }
}

#[tokio::test]
async fn a_pause_makes_every_process_wait() {
    let rows = Rows::new();
    let budget = Arc::new(rows.process(3, Duration::from_millis(120)).await);
    budget.take(CallKind::Write).await.unwrap().finish().await.unwrap();
    let paused_at = Instant::now();
    budget.pause(CallKind::Write, Duration::from_millis(800)).await.unwrap();
    let other = Arc::new(rows.process(3, Duration::from_millis(120)).await);
    other.take(CallKind::Write).await.unwrap().finish().await.unwrap();
    assert!(paused_at.elapsed() >= Duration::from_millis(800), "{:?}", paused_at.elapsed());
}

#[tokio::test]
async fn a_pause_of_writes_does_not_hold_up_reads() {
    let budget = Arc::new(Rows::new().process(1, Duration::from_millis(120)).await);
    budget.take(CallKind::Write).await.unwrap().finish().await.unwrap();
    budget.pause(CallKind::Write, Duration::from_secs(600)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), budget.take(CallKind::Read)).await.expect("reads go on").unwrap();
}

#[tokio::test]
async fn a_raised_limit_is_used_at_once_and_a_lowered_one_kept() {
    let rows = Rows::new();
    let narrow = Arc::new(rows.process(1, Duration::from_secs(60)).await);
    let _first = narrow.take(CallKind::Read).await.unwrap();
    let wide = Arc::new(rows.process(3, Duration::from_secs(60)).await);
    let _second = tokio::time::timeout(Duration::from_secs(50), wide.take(CallKind::Read)).await.expect("there are rows left").unwrap();
    let third = tokio::time::timeout(Duration::from_millis(700), narrow.take(CallKind::Read)).await;
    assert!(third.is_err(), "the narrow process keeps to its limit");
}

#[tokio::test]
async fn without_the_control_database_no_call_is_granted() {
    let pool = control::pool().await;
    let budget = Arc::new(Budget::new(pool.clone(), &control::credential(), 1, 1));
    pool.close().await;
    assert!(budget.take(CallKind::Write).await.is_err());
}
