//! With the feature `faults`: points that stop or abort, and bugs that are there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Bug, CrashPoint};

/// What happens at the armed point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// Whoever reaches it stays there until it is thawed or dropped.
    Freeze,
    /// The process aborts, as by a kill.
    Abort,
}

/// Stops whoever reaches the armed point.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The point, what happens there, and how often it is passed before.
    armed: Mutex<Option<(CrashPoint, Deed, usize)>>,
    hit: Notify,
    thaw: Notify,
    session: Option<Duration>,
}

impl Faults {
    /// As the variables say: `FAULTS_CRASH_AT`, `FAULTS_BUG`, `FAULTS_SESSION_MS`. The bug is planted in the whole process.
    ///
    /// # Panics
    /// A name that is none: a test that means nothing must not pass.
    pub fn of_process(variables: &BTreeMap<String, String>) -> Self {
        let mut inner = Inner::default();
        if let Some(text) = variables.get("FAULTS_CRASH_AT") {
            let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
            let (point, nth) = (CrashPoint::parse(name), nth.parse::<usize>());
            let (Some(point), Ok(nth)) = (point, nth) else { panic!("FAULTS_CRASH_AT is {text:?}, not a crash point and a number") };
            inner.armed = Mutex::new(Some((point, Deed::Abort, nth.saturating_sub(1))));
        }
        if let Some(text) = variables.get("FAULTS_BUG") {
            let Some(bug) = Bug::parse(text) else { panic!("FAULTS_BUG is {text:?}, not a bug") };
            // Set once, here.
            let _ = IN_PROCESS.set(bug);
        }
        inner.session = variables.get("FAULTS_SESSION_MS").and_then(|text| text.parse().ok()).map(Duration::from_millis);
        Self { inner: Arc::new(inner) }
    }

    /// How long the broker waits for a dead member of a group, where a test has no time for the usual wait.
    pub fn session(&self) -> Option<Duration> {
        self.inner.session
    }

    /// The next worker that reaches `point` stops there.
    pub fn arm(&self, point: CrashPoint) {
        *self.inner.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some((point, Deed::Freeze, 0));
    }

    /// Waits until a worker has stopped.
    pub async fn hit(&self) {
        self.inner.hit.notified().await;
    }

    /// The worker that has stopped goes on.
    pub fn thaw(&self) {
        self.inner.thaw.notify_one();
    }

    /// Passes; or, if this point is armed, stops until it is thawed.
    pub async fn reached(&self, point: CrashPoint) {
        if self.is_met(point) {
            self.inner.hit.notify_one();
            self.inner.thaw.notified().await;
        }
    }

    /// The same where nothing can wait: whoever would stop ends by a panic, and is not thawed.
    pub fn passed(&self, point: CrashPoint) {
        if self.is_met(point) {
            self.inner.hit.notify_one();
            std::panic::resume_unwind(Box::new(format!("stopped at {}", point.as_str())));
        }
    }

    fn is_met(&self, point: CrashPoint) -> bool {
        let mut armed = self.inner.armed.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *armed {
            Some((at, _, passes)) if *at == point && *passes > 0 => {
                *passes -= 1;
                return false;
            }
            Some((at, ..)) if *at == point => {}
            _ => return false,
        }
        match armed.take() {
            Some((_, Deed::Abort, _)) => {
                tracing::error!(point = point.as_str(), "aborting at the crash point");
                std::process::abort()
            }
            armed => armed.is_some(),
        }
    }
}

/// The bug of this process.
static IN_PROCESS: OnceLock<Bug> = OnceLock::new();

thread_local! {
    /// The bug of the test that runs on this thread. Tests run side by side, each with its runtime on its own thread.
    static ON_THREAD: RefCell<Option<Bug>> = const { RefCell::new(None) };
}

/// Whether this bug is to be there.
pub fn planted(bug: Bug) -> bool {
    IN_PROCESS.get() == Some(&bug) || ON_THREAD.with_borrow(|planted| *planted == Some(bug))
}

/// Plants a bug for what runs on this thread, until the answer is dropped.
#[must_use]
pub fn plant(bug: Bug) -> Planted {
    ON_THREAD.set(Some(bug));
    Planted(())
}

/// A bug that is planted on this thread.
#[derive(Debug)]
pub struct Planted(());

impl Drop for Planted {
    fn drop(&mut self) {
        ON_THREAD.set(None);
    }
}
