//! `kylo relay`: outbox tables to Kafka, as a process of its own.

use super::{Outcome, run::start};
use crate::config::Settings;
use crate::runtime::Workers;

/// Publish the events of outbox tables to Kafka
///
/// Kylo's own outbox_events, of the control database and of every company's schema, and the outboxes of other services that KYLO_RELAY_SOURCES
/// and KYLO_RELAY_SCHEMAS name. At least once, in order for each key, every copy with the same header event_id. `kylo run` has a relay too; any
/// number may run: one of them works on an outbox, the others take over when it is gone. KYLO_RELAY=0 publishes nothing and stays up.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kylo relay\n  KYLO_RELAY_SOURCES=/etc/kylo/sources.json kylo relay\n  KYLO_RELAY_SCHEMAS=billing,shipping.outbox:published kylo relay\n\n\
    Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 usage or configuration."
)]
pub struct Args {}

pub async fn run(_args: Args, settings: Settings) -> anyhow::Result<Outcome> {
    start(settings, Workers { command: "relay", txns: false, promote: false, poster: false, relay: true, http: Some(8090) }).await
}
