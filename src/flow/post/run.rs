//! The loop: finds work, starts a pass for each spreadsheet that has some, and goes on finding work while they run.
//!
//! It is woken by this process (`wake`), by other processes (NOTIFY on the control database) and by a timer, so a lost signal costs two seconds, never
//! work. What must never happen here: two passes over one spreadsheet at once (both would hold this process' lease), or one spreadsheet whose
//! calls hang holding up the others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{AT_ONCE, Mend, PostRound, PostStore, Poster};
use crate::domain::company::SpreadsheetId;
use crate::ports::SheetGateway;
use crate::store::error::describe;

/// Without any signal, due tabs are found after this time.
const TIMER: Duration = Duration::from_millis(1_500);
/// The shortest wait between two searches, unless a pass says that it has left work.
const SHORTEST: Duration = Duration::from_millis(50);
/// After a signal, others are waited for, so that one post carries them all.
const GATHER: Duration = Duration::from_millis(300);
/// When the control database is down.
const CONTROL_PAUSE: Duration = Duration::from_secs(2);

type Ended = Result<PostRound, sqlx::Error>;

/// The passes under way.
struct Passes {
    tasks: JoinSet<(SpreadsheetId, Ended)>,
    busy: BTreeSet<SpreadsheetId>,
    /// Spreadsheets that had work when they were busy: it may be more than their pass knows of.
    again: BTreeSet<SpreadsheetId>,
    slots: Arc<Semaphore>,
}

impl Passes {
    fn new() -> Self {
        Self { tasks: JoinSet::new(), busy: BTreeSet::new(), again: BTreeSet::new(), slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The next pass that ends, and when at the latest to look for work again, if it is known to be there. Pending for ever when none is under way.
    async fn next(&mut self) -> (Ended, Option<Duration>) {
        match self.tasks.join_next().await {
            None => std::future::pending().await,
            Some(Ok((spreadsheet, ended))) => {
                self.busy.remove(&spreadsheet);
                let is_known_due = self.again.remove(&spreadsheet);
                let is_left = ended.as_ref().is_ok_and(|round| round.again);
                let look_in = if is_left { Some(Duration::ZERO) } else { is_known_due.then_some(GATHER) };
                (ended, look_in)
            }
            Some(Err(error)) => match error.try_into_panic() {
                // The loop's supervisor counts it.
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Poster {
    /// Posts whatever is due until it is cancelled. Passes under way are finished first; the caller bounds that time.
    pub async fn run(&self, cancel: CancellationToken) {
        self.run_observed(cancel, |_| {}).await;
    }

    /// Like [`Poster::run`]; `observe` hears of every search and of every pass (heartbeat, metrics).
    pub async fn run_observed(&self, cancel: CancellationToken, observe: impl Fn(&Result<PostRound, sqlx::Error>) + Send) {
        let Some(gateway) = self.options.gateway.clone() else {
            cancel.cancelled().await;
            return;
        };
        let listening = tokio::spawn(listen(Arc::clone(&self.options.store), self.wake()));
        let mut passes = Passes::new();
        while !cancel.is_cancelled() {
            let found = self.start(&gateway, &mut passes).await;
            observe(&found);
            let mut until = Instant::now() + self.pause(&found);
            loop {
                tokio::select! {
                    () = cancel.cancelled() => break,
                    (ended, look_in) = passes.next() => {
                        observe(&ended);
                        until = until.min(Instant::now() + look_in.unwrap_or_else(|| self.pause(&ended)));
                    }
                    () = tokio::time::sleep_until(until) => break,
                    () = self.options.wake.notified() => {
                        tokio::select! {
                            () = cancel.cancelled() => {}
                            () = tokio::time::sleep(GATHER) => {}
                        }
                        break;
                    }
                }
            }
        }
        while !passes.tasks.is_empty() {
            observe(&passes.next().await.0);
        }
        listening.abort();
    }

    /// Starts a pass for every spreadsheet that has work and none under way. Says what the search itself found out.
    async fn start(&self, gateway: &Arc<dyn SheetGateway>, passes: &mut Passes) -> Ended {
        let (found, round) = self.find_work().await?;
        for work in found {
            if !passes.busy.insert(work.spreadsheet.clone()) {
                passes.again.insert(work.spreadsheet);
                continue;
            }
            let (poster, gateway, slots) = (Self::new(self.options.clone()), Arc::clone(gateway), Arc::clone(&passes.slots));
            passes.tasks.spawn(async move {
                // Never closed, so there is always a slot to wait for.
                let _slot = slots.acquire().await;
                let spreadsheet = work.spreadsheet.clone();
                (spreadsheet, poster.post_spreadsheet(gateway, work, Mend::default()).await)
            });
        }
        Ok(round)
    }

    /// How long to wait after this, if nothing happens.
    fn pause(&self, ended: &Ended) -> Duration {
        match ended {
            Ok(round) => {
                let until = round.next_retry.and_then(|at| (at - self.options.clock.now()).to_std().ok());
                until.unwrap_or(TIMER).min(TIMER).max(SHORTEST)
            }
            Err(error) => {
                warn!(reason = describe(error), "posting waits for the control database");
                CONTROL_PAUSE
            }
        }
    }
}

/// Turns what other processes say into wake-ups.
async fn listen(store: Arc<dyn PostStore>, wake: Arc<Notify>) {
    store.listen(wake).await;
}
