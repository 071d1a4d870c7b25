//! A relay that is frozen as a whole, as SIGSTOP freezes a process: its thread stands still, its leases are not renewed, its timers do not fire.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use futures::future::BoxFuture;
use kylo::domain::outbox::Event;
use kylo::flow::relay::{Relay, RelayOptions};
use kylo::ports::{EventPublisher, PublishFault};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default)]
struct Ice {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Calls until it freezes.
    calls: Option<usize>,
    frozen: bool,
    thawed: bool,
}

/// Freezes the calling thread between a claim and its publishing.
#[derive(Debug)]
struct Freezing {
    inner: Arc<dyn EventPublisher>,
    ice: Arc<Ice>,
}

impl EventPublisher for Freezing {
    fn publish<'a>(&'a self, events: &'a [Event]) -> BoxFuture<'a, Vec<Result<(), PublishFault>>> {
        let mut state = self.ice.state.lock().unwrap();
        match state.calls {
            Some(0) => {
                state.frozen = true;
                self.ice.changed.notify_all();
                while !state.thawed {
                    state = self.ice.changed.wait(state).unwrap();
                }
                state.calls = None;
            }
            Some(n) => state.calls = Some(n - 1),
            None => {}
        }
        drop(state);
        self.inner.publish(events)
    }

    fn check<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<(), PublishFault>> {
        self.inner.check(topic)
    }
}

pub struct FrozenRelay {
    ice: Arc<Ice>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl FrozenRelay {
    /// Runs on a thread of its own, with a publisher and connections that belong to that thread, and freezes at its nth call of the publisher.
    pub fn start(calls: usize, options: impl FnOnce() -> RelayOptions + Send + 'static) -> Self {
        let (ice, stop) = (Arc::new(Ice::default()), CancellationToken::new());
        ice.state.lock().unwrap().calls = Some(calls);
        let (ours, stopped) = (Arc::clone(&ice), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut options = options();
                options.publisher = Arc::new(Freezing { inner: options.publisher, ice: ours });
                Relay::new(options).run(stopped, |_| {}).await;
            });
        });
        Self { ice, stop, thread: Some(thread) }
    }

    pub async fn is_frozen(&self) {
        super::world::eventually("the relay to freeze", async || if self.ice.state.lock().unwrap().frozen { Ok(()) } else { Err("runs".to_owned()) })
            .await;
    }

    pub fn thaw(&self) {
        self.ice.state.lock().unwrap().thawed = true;
        self.ice.changed.notify_all();
    }

    pub async fn stop(mut self) {
        self.thaw();
        self.stop.cancel();
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    }
}
