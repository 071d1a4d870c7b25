//! The signal after a commit: to the posters that companies' tabs are due, and to the relay that there are events. A convenience: both also look
//! by themselves.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::PgPool;

/// Rings for companies without making anybody wait: at most one call is under way, what comes meanwhile is merged into the next.
#[derive(Clone, Debug)]
pub struct DueBell {
    control: PgPool,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    companies: BTreeSet<String>,
    events: bool,
    ringing: bool,
}

impl DueBell {
    pub fn new(control: PgPool) -> Self {
        Self { control, waiting: Arc::default() }
    }

    /// Rings soon, best effort: for the events of a commit, and for the companies (perhaps none) whose tabs it made due. Needs a running tokio
    /// runtime.
    pub fn ring<'a>(&self, companies: impl IntoIterator<Item = &'a str>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.companies.extend(companies.into_iter().map(str::to_owned));
        waiting.events = true;
        if !waiting.ringing {
            waiting.ringing = true;
            tokio::spawn(self.clone().drain());
        }
    }

    async fn drain(self) {
        loop {
            let companies: Vec<_> = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if !std::mem::take(&mut waiting.events) {
                    waiting.ringing = false;
                    return;
                }
                std::mem::take(&mut waiting.companies).into_iter().collect()
            };
            if let Err(error) = crate::store::control::due::signal(&self.control, &companies).await {
                tracing::debug!(
                    error = crate::store::error::describe(&error),
                    "could not signal what is new; posters and the relay will see it by themselves"
                );
            }
        }
    }
}
