//! librdkafka's in-process broker, for `kylo demo`: speaks Kafka's protocol on a loopback port, keeps everything in memory.
//!
//! It takes no admin requests, so topics are made here. It is neither `Send` nor `Sync`: a thread of its own keeps it.

use std::sync::mpsc;
use std::thread::JoinHandle;

use rdkafka::mocking::MockCluster;

/// A running in-process broker; dropping it ends it.
#[derive(Debug)]
pub struct MockBroker {
    bootstrap: String,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MockBroker {
    /// Starts a broker with these topics and partition counts.
    ///
    /// # Errors
    /// librdkafka's, as text.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self, String> {
        let topics: Vec<(String, i32)> = topics.iter().map(|(name, partitions)| ((*name).to_owned(), *partitions)).collect();
        let (stop, stopped) = mpsc::channel::<()>();
        let (ready, bootstrap) = mpsc::channel();
        let thread = std::thread::spawn(move || keep(&topics, &ready, &stopped));
        let bootstrap = bootstrap.recv().map_err(|_| "the in-process broker's thread ended".to_owned())??;
        Ok(Self { bootstrap, stop: Some(stop), thread: Some(thread) })
    }

    /// `host:port` for `KAFKA_BROKERS`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap
    }
}

impl Drop for MockBroker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the in-process broker's thread panicked");
        }
    }
}

fn keep(topics: &[(String, i32)], ready: &mpsc::Sender<Result<String, String>>, stopped: &mpsc::Receiver<()>) {
    let started = MockCluster::new(1).and_then(|cluster| {
        for (name, partitions) in topics {
            cluster.create_topic(name, *partitions, 1)?;
        }
        Ok(cluster)
    });
    let cluster = match started {
        Ok(cluster) => cluster,
        Err(error) => {
            let _ = ready.send(Err(format!("the in-process broker did not start: {error}")));
            return;
        }
    };
    if ready.send(Ok(cluster.bootstrap_servers())).is_ok() {
        // Ends when the handle is dropped.
        let _ = stopped.recv();
    }
}
