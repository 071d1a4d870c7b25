//! The worker loops of a process: two consumers, the poster and the relay, each supervised.

use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Workers;
use super::process::Process;
use super::relay;
use super::supervise::supervise;
use super::wire::{self, PosterParts};
use crate::adapters::kafka::client::{ClientError, KafkaSettings};
use crate::adapters::kafka::consumer::{KafkaSource, Subscription};
use crate::config::ConfigError;
use crate::domain::clock::{Clock, SystemClock};
use crate::flow::consume::{ConsumeParts, ConsumeSettings, Consumer, ConsumerStatus, PromoteTopic, Topic, TxnsTopic};
use crate::flow::ingest::{Ingest, IngestOptions};
use crate::flow::lanes::LaneLimits;
use crate::flow::post::Poster;
use crate::flow::promote::{PendingTabReader, Promote, PromoteOptions};
use crate::flow::relay::RelayStatus;
use crate::telemetry::health::{Check, HealthBoard};

/// A pass of the poster may wait for the budget of calls and for Google, but not for longer than this.
const POSTER_SILENCE: Duration = Duration::from_secs(900);
const CONSUMER_SILENCE: Duration = Duration::from_secs(30);

/// What every loop of a process is made from, again after a failure.
#[derive(Clone)]
struct Shared {
    process: Arc<Parts>,
}

struct Parts {
    settings: Arc<crate::config::Settings>,
    sources: super::gauges::Sources,
    board: Arc<HealthBoard>,
    metrics: Arc<crate::telemetry::metrics::Metrics>,
    assigned: super::process::Assigned,
    id: uuid::Uuid,
    stop: tokio_util::sync::CancellationToken,
    clock: Arc<dyn Clock>,
    poster: Arc<Poster>,
}

/// Starts what was asked for. Each task of the set ends after the process' stop, or with an error when it cannot go on.
///
/// # Errors
/// Configuration: what posting or the broker needs cannot be used.
pub fn start(process: &Process, workers: Workers) -> Result<JoinSet<Result<()>>> {
    let settings = &process.settings;
    if workers.txns || workers.promote || workers.relay {
        // Settings that can never work are told at once, not after the tries that a broker deserves.
        let refused = |error: ClientError| ConfigError::one(error.to_string(), "check the KAFKA_ settings");
        KafkaSettings::from_config(&settings.kafka)?.check().map_err(refused)?;
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sources = process.sources.clone();
    let gateway = settings.sheets.post.then(|| wire::gateway(settings, &sources.control, &process.metrics)).transpose()?;
    let poster = wire::poster(
        settings,
        PosterParts {
            control: sources.control.clone(),
            pools: Arc::clone(&sources.pools),
            routing: Arc::clone(&sources.routing),
            gateway,
            clock: Arc::clone(&clock),
            holder: process.id,
        },
    );
    let shared = Shared {
        process: Arc::new(Parts {
            settings: Arc::clone(settings),
            sources,
            board: Arc::clone(&process.board),
            metrics: Arc::clone(&process.metrics),
            assigned: Arc::clone(&process.assigned),
            id: process.id,
            stop: process.stop.clone(),
            clock,
            poster,
        }),
    };
    let mut loops = JoinSet::new();
    if workers.txns {
        shared.spawn(&mut loops, "txns", Shared::consume_txns);
    }
    if workers.promote {
        shared.spawn(&mut loops, "promote", Shared::consume_promote);
    }
    if workers.poster && settings.sheets.post {
        shared.spawn(&mut loops, "poster", Shared::post);
    }
    if workers.relay && settings.relay.on {
        shared.spawn(&mut loops, "relay", Shared::relay);
    } else if workers.relay {
        tracing::warn!("KYLO_RELAY=0: this process publishes no events; they wait in their outboxes");
        process.board.set(&check_name("relay"), Check::ok("switched off by KYLO_RELAY=0"));
    }
    Ok(loops)
}

impl Shared {
    fn spawn<Fut>(&self, loops: &mut JoinSet<Result<()>>, name: &'static str, start: fn(Self) -> Fut)
    where
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let shared = self.clone();
        self.process.board.set(&check_name(name), Check::failed("not started yet"));
        let (stop, metrics) = (self.process.stop.clone(), Arc::clone(&self.process.metrics));
        loops.spawn(supervise(name, stop, metrics, move || start(shared.clone())));
    }

    async fn consume_txns(self) -> Result<()> {
        let parts = &self.process;
        let handler = Ingest::new(IngestOptions {
            control: parts.sources.control.clone(),
            pools: Arc::clone(&parts.sources.pools),
            metrics: Arc::clone(&parts.metrics) as _,
        });
        let handler = handler.with_faults(wire::faults());
        let topic = TxnsTopic { handler, clock: Arc::clone(&parts.clock), limits: LaneLimits::txns() };
        let kafka = &parts.settings.kafka;
        self.consume("txns", &kafka.topic_txns, &kafka.group_txns, topic).await
    }

    async fn consume_promote(self) -> Result<()> {
        let parts = &self.process;
        let tab = parts.settings.sheets.post.then(|| Arc::clone(&parts.poster) as Arc<dyn PendingTabReader>);
        let handler = Promote::new(PromoteOptions {
            control: parts.sources.control.clone(),
            pools: Arc::clone(&parts.sources.pools),
            clock: Arc::clone(&parts.clock),
            tab,
            canary: wire::canary(&parts.settings),
        });
        let handler = handler.with_faults(wire::faults());
        let topic = PromoteTopic { handler, clock: Arc::clone(&parts.clock), limits: LaneLimits::promote() };
        let kafka = &parts.settings.kafka;
        self.consume("promote", &kafka.topic_promote, &kafka.group_promote, topic).await
    }

    async fn consume<T: Topic>(&self, name: &'static str, topic_name: &str, group: &str, topic: T) -> Result<()> {
        let parts = &self.process;
        let settings = wire::kafka(&parts.settings.kafka)?;
        let drain = parts.settings.drain;
        let source = KafkaSource::start(&settings, &Subscription { topic: topic_name.to_owned(), group: group.to_owned(), drain })?;
        let poison_cap = i32::try_from(parts.settings.poison_cap).unwrap_or(i32::MAX);
        let consume = ConsumeSettings { poison_cap, drain, ..ConsumeSettings::new(topic_name, group) };
        let consumed = ConsumeParts {
            control: parts.sources.control.clone(),
            routes: Arc::clone(&parts.sources.routing),
            metrics: Arc::clone(&parts.metrics) as _,
            worker: parts.id,
        };
        let consumer = Consumer::new(consume, consumed, topic, Box::new(source)).with_faults(wire::faults());
        let watching = tokio::spawn(self.clone().watch(name, consumer.status()));
        let result = consumer.run(parts.stop.clone()).await;
        watching.abort();
        parts.board.forget(name);
        if let Err(error) = &result {
            parts.board.set(&check_name(name), Check::failed(error.to_string()));
        }
        Ok(result?)
    }

    /// Turns the consumer's status into checks, lag and the heartbeat's partitions.
    async fn watch(self, name: &'static str, mut status: watch::Receiver<ConsumerStatus>) {
        let parts = &self.process;
        let mut known: Vec<i32> = Vec::new();
        while status.changed().await.is_ok() {
            let now = status.borrow_and_update().clone();
            let check = match now.not_ready() {
                None => Check::ok(format!("consumes partitions {:?} of {}", now.assigned, now.topic)),
                Some(reason) => Check::failed(reason),
            };
            parts.board.set(&check_name(name), check);
            parts.board.tick(name, CONSUMER_SILENCE);
            for partition in known.iter().filter(|partition| !now.assigned.contains(partition)) {
                parts.metrics.forget_lag(&now.topic, *partition);
            }
            for (partition, behind) in &now.lag {
                parts.metrics.lag(&now.topic, *partition, *behind);
            }
            known.clone_from(&now.assigned);
            parts.assigned.lock().unwrap_or_else(PoisonError::into_inner).insert(now.topic, now.assigned);
        }
    }

    async fn relay(self) -> Result<()> {
        let parts = &self.process;
        let relay = relay::build(&parts.settings, &parts.sources, &parts.metrics, parts.id)?;
        let observe = |status: &RelayStatus| {
            parts.board.set(&check_name("relay"), relay::check(status));
            parts.board.tick("relay", relay::SILENCE);
        };
        relay.run(parts.stop.clone(), observe).await;
        parts.board.forget("relay");
        Ok(())
    }

    async fn post(self) -> Result<()> {
        let parts = Arc::clone(&self.process);
        parts.board.set(&check_name("poster"), Check::ok("runs"));
        parts.board.tick("poster", POSTER_SILENCE);
        let observe = |pass: &Result<crate::flow::post::PostRound, sqlx::Error>| {
            parts.board.tick("poster", POSTER_SILENCE);
            if let Ok(round) = pass {
                wire::count_round(&parts.metrics, round);
            }
        };
        parts.poster.run_observed(parts.stop.clone(), observe).await;
        parts.board.forget("poster");
        Ok(())
    }
}

fn check_name(name: &str) -> String {
    format!("worker_{name}")
}
