//! The lease on a spreadsheet: held by a heartbeat, given back at the end.
//!
//! What must never happen here: a lease that is renewed after its holder has let go; the heartbeat ends with the value.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::debug;
use uuid::Uuid;

use super::store::PostStore;

const HEARTBEAT: Duration = Duration::from_secs(15);

/// A lease that is ours. Dropped without [`Lease::release`] (a crash) it runs out by itself.
#[derive(Debug)]
pub struct Lease {
    store: Arc<dyn PostStore>,
    spreadsheet: String,
    holder: Uuid,
    heartbeat: JoinHandle<()>,
}

impl Lease {
    pub fn hold(store: Arc<dyn PostStore>, spreadsheet: String, holder: Uuid) -> Self {
        let (beating, id) = (Arc::clone(&store), spreadsheet.clone());
        let heartbeat = tokio::spawn(async move {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                match beating.renew(&id, holder).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    // The next beat comes well before the lease runs out.
                    Err(error) => debug!(spreadsheet = id, error = %crate::store::error::describe(&error), "lease not renewed"),
                }
            }
        });
        Self { store, spreadsheet, holder, heartbeat }
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// The control database's; then it runs out by itself.
    pub async fn release(self) -> Result<(), sqlx::Error> {
        self.heartbeat.abort();
        self.store.release(&self.spreadsheet, self.holder).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}
