//! Signals that an outbox has new rows. Only hints: the timer finds what a lost signal would have told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::debug;

use super::RelayOptions;
use crate::domain::outbox::Place;
use crate::store::control::relay::CHANNEL;
use crate::store::error::describe;

/// Before a lost connection is made anew.
const PAUSE: Duration = Duration::from_secs(5);

/// Listens in the control database, where Kylo's own writers say so, and in those of configured outboxes, whose owners may `NOTIFY kylo_outbox`.
/// One connection each. Ends with the set.
pub(super) fn start(options: &RelayOptions, wake: &Arc<Notify>, tasks: &mut JoinSet<()>) {
    tasks.spawn(listen(options.control.clone(), Arc::clone(wake)));
    let elsewhere: BTreeSet<_> = options.configured.iter().map(|outbox| &outbox.place).collect();
    for place in elsewhere {
        if let Place::Elsewhere(dsn) = place
            && let Ok(pool) = options.pools.pool(dsn)
        {
            tasks.spawn(listen(pool, Arc::clone(wake)));
        }
    }
}

async fn listen(pool: PgPool, wake: Arc<Notify>) {
    loop {
        let heard = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            // What was committed before it listened.
            wake.notify_one();
            loop {
                listener.recv().await?;
                wake.notify_one();
            }
        };
        let ended: Result<(), sqlx::Error> = heard.await;
        if let Err(error) = ended {
            debug!(reason = describe(&error), "not listening for new events; the timer finds them");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
