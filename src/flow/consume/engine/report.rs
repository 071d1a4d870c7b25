//! The status, once a second and when something changes.

use tokio::time::Instant;

use super::{Engine, TICK};
use crate::faults::Faults;
use crate::flow::consume::partitions::Phase;
use crate::flow::consume::status::ConsumerStatus;
use crate::flow::consume::topics::Topic;

impl<T: Topic> Engine<T> {
    /// Before it runs: nobody shares the handler yet.
    pub(in crate::flow::consume) fn set_faults(&mut self, faults: Faults) {
        if let Some(handler) = std::sync::Arc::get_mut(&mut self.handler) {
            handler.faults = faults;
        }
    }

    pub(super) fn report(&mut self, now: Instant) {
        self.report_at = now + TICK;
        let health = self.source.health();
        match &health.trouble {
            Some(trouble) => {
                if self.source_log.there(&trouble.detail, now) {
                    tracing::error!(topic = %self.settings.topic, class = trouble.class, detail = %trouble.detail, "Kafka does not work");
                }
            }
            None => {
                if self.source_log.over() {
                    tracing::info!(topic = %self.settings.topic, "Kafka works again");
                }
            }
        }
        let assigned = self.offsets.assigned();
        let status = ConsumerStatus {
            topic: self.settings.topic.clone(),
            group: self.settings.group.clone(),
            lag: health.lag.into_iter().filter(|(partition, _)| assigned.contains(partition)).collect(),
            assigned,
            stopped: self.partitions.in_phase(|phase| matches!(phase, Phase::Stopped { .. })),
            in_flight: self.load.0,
            in_flight_bytes: self.load.1,
            paused: self.paused,
            held_messages: self.held.1,
            held_companies: self.held.0,
            down: self.lanes.troubled().into_iter().map(|(company, reason)| (company.to_string(), reason)).collect(),
            polled_ms_ago: health.polled_ms_ago,
            trouble: health.trouble,
            control: self.control.text().map(str::to_owned),
            draining: self.stopping,
            ticked: Some(now),
        };
        self.status.send_replace(status);
    }
}
