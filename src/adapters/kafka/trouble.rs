//! What librdkafka's errors mean, and what to do about them.
//!
//! Called by every client's context. Decided by code, and by librdkafka's own English text only where the code says nothing.
//! What must never happen here: a passing hiccup left standing as trouble, or a cause hidden by the general error that follows it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

use crate::flow::source::SourceTrouble;

/// How a trouble ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// A broker is connected.
    WhenConnected,
    /// Partitions are assigned, a message arrives, or a record is delivered.
    WhenWorking,
}

/// The present trouble of one client. Shared between its context and whoever asks.
#[derive(Debug, Default)]
pub struct Board {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    trouble: Option<(SourceTrouble, Ends)>,
    /// From the log: why a plaintext connection is cut at once.
    hint: Option<&'static str>,
}

impl Board {
    pub fn trouble(&self) -> Option<SourceTrouble> {
        self.lock().trouble.as_ref().map(|(trouble, _)| trouble.clone())
    }

    /// An error as librdkafka reports it.
    pub fn report(&self, error: &KafkaError, text: &str) {
        let mut state = self.lock();
        let Some((class, advice, ends)) = classify(error.rdkafka_error_code(), text) else { return };
        let general = class == "all_brokers_down";
        if general && state.trouble.is_some() {
            return;
        }
        let hint = if general { state.hint.unwrap_or(advice) } else { advice };
        let said = first_line(text);
        let detail = if said.is_empty() { format!("{error}: {hint}") } else { format!("{said}: {hint}") };
        state.trouble = Some((SourceTrouble { class, detail }, ends));
    }

    /// A line of librdkafka's log. Two faults are told nowhere else.
    pub fn log_line(&self, line: &str) {
        if line.contains("receive 0 after POLLIN") {
            let hint = if line.contains("APIVERSION_QUERY") {
                "the broker cuts a plaintext connection: its port speaks TLS; set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL"
            } else {
                "the broker cuts a connection without login: set KAFKA_SECURITY_PROTOCOL to SASL_PLAINTEXT or SASL_SSL and the login"
            };
            self.lock().hint = Some(hint);
        }
    }

    /// A broker is connected.
    pub fn connected(&self) {
        let mut state = self.lock();
        state.hint = None;
        if matches!(state.trouble, Some((_, Ends::WhenConnected))) {
            state.trouble = None;
        }
    }

    /// What the client is there for works.
    pub fn working(&self) {
        *self.lock() = State::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_end_matches([':', ' '])
}

/// Class and advice. `None` = nothing to tell: passes by itself within a rebalance or a retry.
fn classify(code: Option<RDKafkaErrorCode>, text: &str) -> Option<(&'static str, &'static str, Ends)> {
    use RDKafkaErrorCode as Code;
    let has = |part: &str| text.contains(part);
    let told = match code? {
        Code::Authentication if has("Unsupported SASL mechanism") => {
            ("sasl_mechanism", "set KAFKA_SASL_MECHANISM to one that the broker supports", Ends::WhenConnected)
        }
        Code::Authentication if has("current SASL state") => {
            ("sasl_not_expected", "the listener takes no login: set KAFKA_SECURITY_PROTOCOL to PLAINTEXT or SSL", Ends::WhenConnected)
        }
        Code::Authentication | Code::SaslAuthenticationFailed => {
            ("authentication", "check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD", Ends::WhenConnected)
        }
        Code::SSL => (
            "tls",
            "wrong CA, wrong host name or expired certificate: check KAFKA_SSL_CA_LOCATION and the names in KAFKA_BROKERS",
            Ends::WhenConnected,
        ),
        Code::BrokerTransportFailure if has("alert bad certificate") || has("alert certificate required") => {
            ("tls_client_certificate", "the broker asks for a client certificate, which kylo does not send", Ends::WhenConnected)
        }
        Code::BrokerTransportFailure if has("PLAINTEXT broker listener") || has("SSL connection closed by peer") => {
            ("tls_to_plaintext", "the port speaks no TLS: set KAFKA_SECURITY_PROTOCOL to PLAINTEXT or SASL_PLAINTEXT", Ends::WhenConnected)
        }
        Code::BrokerTransportFailure => ("connection", "check KAFKA_BROKERS, and whether the broker runs", Ends::WhenConnected),
        Code::Resolve => ("dns", "check the host names in KAFKA_BROKERS", Ends::WhenConnected),
        Code::AllBrokersDown => ("all_brokers_down", "no broker can be reached: check KAFKA_BROKERS, and whether they run", Ends::WhenConnected),
        Code::UnknownTopicOrPartition | Code::UnknownTopic => ("topic_missing", "make it with `kylo topics ensure`", Ends::WhenWorking),
        Code::TopicAuthorizationFailed => ("topic_not_allowed", "give the user Read and Describe (or Write) on the topic", Ends::WhenWorking),
        Code::GroupAuthorizationFailed => ("group_not_allowed", "give the user Read on the consumer group", Ends::WhenWorking),
        Code::ClusterAuthorizationFailed => ("cluster_not_allowed", "give the user Write on the topic, or IdempotentWrite", Ends::WhenWorking),
        Code::BadMessage => {
            ("message_too_large", "a message is larger than a client takes at once: look at the topic's max.message.bytes", Ends::WhenWorking)
        }
        Code::NotImplemented | Code::BadCompression => ("compression", "a batch is compressed in a way this build cannot read", Ends::WhenWorking),
        Code::Fenced | Code::FencedInstanceId | Code::UnreleasedInstanceId | Code::Fatal => ("fenced", "the client is made anew", Ends::WhenWorking),
        _ => return None,
    };
    Some(told)
}

/// What every client tells: errors to the board, log lines to the log, statistics to whoever wants them.
pub struct Context {
    pub board: std::sync::Arc<Board>,
    pub on_stats: Box<dyn Fn(&Statistics) + Send + Sync>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("board", &self.board).finish_non_exhaustive()
    }
}

impl Context {
    pub fn new(board: std::sync::Arc<Board>) -> Self {
        Self { board, on_stats: Box::new(|_| {}) }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.board.log_line(line);
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => tracing::error!(target: "librdkafka", facility, "{line}"),
            // Errors and warnings repeat with every try; the board says them once a minute.
            _ => tracing::debug!(target: "librdkafka", facility, "{line}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        if statistics.brokers.values().any(|broker| broker.state == "UP") {
            self.board.connected();
        }
        (self.on_stats)(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason, "error");
        self.board.report(&error, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of(code: RDKafkaErrorCode, text: &str) -> Option<&'static str> {
        classify(Some(code), text).map(|(class, _, _)| class)
    }

    #[test]
    fn each_fault_has_its_own_class() {
        use RDKafkaErrorCode as Code;
        let table = [
            (Code::Authentication, "Authentication failed: Invalid username or password", Some("authentication")),
            (Code::Authentication, "Unsupported SASL mechanism: broker's supported mechanisms: PLAIN", Some("sasl_mechanism")),
            (Code::Authentication, "Request not valid in current SASL state", Some("sasl_not_expected")),
            (Code::SSL, "certificate verify failed", Some("tls")),
            (Code::BrokerTransportFailure, "ssl alert bad certificate", Some("tls_client_certificate")),
            (Code::BrokerTransportFailure, "connecting to a PLAINTEXT broker listener?", Some("tls_to_plaintext")),
            (Code::BrokerTransportFailure, "Connection refused", Some("connection")),
            (Code::Resolve, "Failed to resolve", Some("dns")),
            (Code::UnknownTopicOrPartition, "Subscribed topic not available", Some("topic_missing")),
            (Code::TopicAuthorizationFailed, "Fetch from broker", Some("topic_not_allowed")),
            (Code::GroupAuthorizationFailed, "FindCoordinator response error", Some("group_not_allowed")),
            (Code::BadMessage, "increase receive.message.max.bytes", Some("message_too_large")),
            (Code::RebalanceInProgress, "", None),
            (Code::OperationTimedOut, "", None),
        ];
        for (code, text, class) in table {
            assert_eq!(class_of(code, text), class, "{code:?} {text}");
        }
    }

    #[test]
    fn the_general_error_that_follows_does_not_hide_the_cause() {
        let board = Board::default();
        board.report(&KafkaError::Global(RDKafkaErrorCode::Authentication), "sasl_plaintext://x: Invalid username or password");
        board.report(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(board.trouble().unwrap().class, "authentication");
    }

    #[test]
    fn a_plaintext_client_on_a_tls_port_learns_it_from_the_log() {
        let board = Board::default();
        board.log_line("[thrd:x]: Disconnected: receive 0 after POLLIN (after 0ms in state APIVERSION_QUERY)");
        board.report(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        assert!(board.trouble().unwrap().detail.contains("TLS"));
    }

    #[test]
    fn a_connection_ends_a_connection_fault_but_not_a_missing_topic() {
        let board = Board::default();
        board.report(&KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), "Connection refused");
        board.connected();
        assert_eq!(board.trouble(), None);
        board.report(&KafkaError::Global(RDKafkaErrorCode::UnknownTopicOrPartition), "Subscribed topic not available");
        board.connected();
        assert_eq!(board.trouble().unwrap().class, "topic_missing");
        board.working();
        assert_eq!(board.trouble(), None);
    }
}
