//! The relay as a worker of a process: its publisher, its outboxes, its checks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::gauges::Sources;
use crate::adapters::kafka::client::KafkaSettings;
use crate::adapters::kafka::events::KafkaEvents;
use crate::config::{ConfigError, Settings};
use crate::domain::outbox::{Outbox, Place};
use crate::flow::relay::{Limits, Relay, RelayMetrics, RelayOptions, RelayStatus, Why};
use crate::store::error::describe;
use crate::store::outbox::database_name;
use crate::telemetry::health::Check;
use crate::telemetry::metrics::Metrics;

/// A look at all outboxes, and a renewal of their leases, may wait for slow databases, but not for longer than this.
pub const SILENCE: Duration = Duration::from_secs(90);

/// A relay with this configuration.
///
/// # Errors
/// Configuration: a DSN that cannot be parsed, or two sources that are one table.
pub fn build(settings: &Settings, sources: &Sources, metrics: &Arc<Metrics>, holder: Uuid) -> Result<Relay> {
    let control_dsn = settings.control()?.current()?;
    let control_name = named(control_dsn.expose_secret(), "PG_DSN_RW")?;
    let relay = &settings.relay;
    let configured = configured(&relay.sources, &control_name)?;
    let kafka = settings.kafka.clone();
    let current = Arc::new(move || KafkaSettings::from_config(&kafka).map_err(|error| error.to_string()));
    Ok(Relay::new(RelayOptions {
        control: sources.control.clone(),
        control_name,
        pools: Arc::clone(&sources.pools),
        routing: Arc::clone(&sources.routing),
        publisher: Arc::new(KafkaEvents::new(current, relay.timeout)),
        topic_events: settings.kafka.topic_events.clone(),
        configured,
        limits: Limits {
            poll: relay.poll,
            batch: relay.batch,
            max_retries: relay.max_retries,
            most_given_up: usize::try_from(relay.dead_cap).unwrap_or(usize::MAX),
            ..Limits::default()
        },
        holder,
        metrics: Arc::clone(metrics) as _,
        faults: super::wire::faults(),
    }))
}

fn named(dsn: &str, what: &str) -> Result<String> {
    let refused = |error: sqlx::Error| {
        ConfigError::one(format!("{what} cannot be used: {}", describe(&error)), "give postgres://user:password@host:5432/database")
    };
    Ok(database_name(dsn).map_err(refused)?)
}

/// The configured outboxes with their names.
fn configured(sources: &[Outbox], control_name: &str) -> Result<Vec<Outbox>> {
    let mut named_sources: Vec<Outbox> = Vec::new();
    for source in sources {
        let database = match &source.place {
            Place::Control => control_name.to_owned(),
            Place::Elsewhere(dsn) => named(dsn.expose(), "dsn_file of a relay source")?,
        };
        let name = format!("{database}/{}.{}", source.schema, source.table);
        if named_sources.iter().any(|other| other.name == name) {
            return Err(ConfigError::one(format!("the relay's sources have {name} twice"), "leave one of them out").into());
        }
        named_sources.push(Outbox { name, ..source.clone() });
    }
    Ok(named_sources)
}

/// What readiness says of a relay.
pub fn check(status: &RelayStatus) -> Check {
    let Some(worst) = status.worst() else {
        let standby = if status.held == 0 && status.outboxes > 0 { "; another relay works on them" } else { "" };
        return Check::ok(format!("{} of {} outboxes are held{standby}", status.held, status.outboxes));
    };
    let more = if status.troubles.len() > 1 { format!(" (and {} more)", status.troubles.len() - 1) } else { String::new() };
    let detail = format!("{}{more}", worst.reason);
    if worst.why.is_grave() { Check::failed(detail) } else { Check::degraded(detail) }
}

impl RelayMetrics for Metrics {
    fn events(&self, outcome: &'static str, n: u64) {
        self.relayed(outcome, n);
    }

    fn status(&self, status: &RelayStatus) {
        let is_stopped = |why: Why| why.state() == "stopped";
        let stopped = status.troubles.iter().filter(|trouble| is_stopped(trouble.why)).count();
        let waiting = status.troubles.len() - stopped;
        let elsewhere = status.outboxes.saturating_sub(status.held);
        self.relay_outboxes(&[("held", status.held), ("waiting", waiting), ("stopped", stopped), ("elsewhere", elsewhere)], status.oldest_seconds);
    }
}
