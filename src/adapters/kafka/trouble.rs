//! What librdkafka's errors mean, and what to do about them.
//!
//! Called by every client's context. Decided by code, and by librdkafka's own English text only where the code says nothing.
//! What must never happen here: a passing hiccup left standing as trouble, or a cause hidden by the general error that follows it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

use super::client::KafkaSettings;
use crate::flow::source::SourceTrouble;

/// A connection that ends this soon was not wanted.
const AT_ONCE_MS: u32 = 500;
const TLS_EXPECTED: (&str, &str) =
    ("tls_expected", "the broker cuts a plaintext connection: its port speaks TLS; set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL");
const SASL_EXPECTED: (&str, &str) =
    ("sasl_expected", "the broker cuts a connection without login: set KAFKA_SECURITY_PROTOCOL to SASL_PLAINTEXT or SASL_SSL and the login");

/// How a trouble ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// A broker is connected.
    WhenConnected,
    /// Partitions are assigned, a message arrives, or a record is delivered.
    WhenWorking,
}

/// The present trouble of a client, and of the one that is made in its place. Shared between its context and whoever asks.
#[derive(Debug, Default)]
pub struct Board {
    state: Mutex<State>,
    /// `USER via MECHANISM`, to be said when the broker has accepted it.
    login: Option<String>,
    is_tls: bool,
    said: AtomicBool,
    /// Since the present client was made, a broker has rejected it, or it a broker.
    rejected: AtomicBool,
    /// The present client's topic was deleted and made again.
    remade: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    trouble: Option<(SourceTrouble, Ends)>,
    /// What the trouble was reported with.
    code: Option<RDKafkaErrorCode>,
    /// From the log: class and advice of what is told nowhere else.
    hint: Option<(&'static str, &'static str)>,
    /// When the present client was first said to reach no broker, if it has reached none since.
    away: Option<Instant>,
}

impl Board {
    /// For a client that logs in.
    pub fn of(settings: &KafkaSettings) -> Self {
        let login = settings.login().map(|sasl| format!("{} via {}", sasl.username, sasl.mechanism));
        Self { login, is_tls: settings.is_tls(), ..Self::default() }
    }

    /// Whether credentials may be the reason why the client cannot work.
    pub fn is_rejected(&self) -> bool {
        self.rejected.load(Ordering::Relaxed)
    }

    /// The topic is another one than the present client began with.
    pub fn is_remade(&self) -> bool {
        self.remade.load(Ordering::Relaxed)
    }

    /// The client has learnt that its topic is another one now.
    pub fn remade(&self) {
        self.remade.store(true, Ordering::Relaxed);
    }

    /// Another client, with other credentials, takes the place of the one so far. The trouble stands until it is connected.
    pub fn renewed(&self) {
        self.rejected.store(false, Ordering::Relaxed);
        self.said.store(false, Ordering::Relaxed);
        self.remade.store(false, Ordering::Relaxed);
        let mut state = self.lock();
        state.hint = None;
        state.away = state.away.map(|_| Instant::now());
    }

    /// For how long the present client has been known to reach no broker.
    pub fn away_for(&self) -> Duration {
        self.lock().away.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The broker has accepted the login: said once per client.
    pub fn accepted(&self) {
        if let Some(login) = &self.login
            && !self.said.swap(true, Ordering::Relaxed)
        {
            tracing::info!("Authenticated as {login}");
        }
    }

    pub fn trouble(&self) -> Option<SourceTrouble> {
        self.lock().trouble.as_ref().map(|(trouble, _)| trouble.clone())
    }

    /// An error as librdkafka reports it.
    pub fn report(&self, error: &KafkaError, text: &str) {
        let mut state = self.lock();
        let code = error.rdkafka_error_code();
        // A consumer's poll repeats without its text what was told with it.
        if text.is_empty() && state.trouble.is_some() && state.code == code {
            return;
        }
        let Some((mut class, mut advice, ends)) = classify(code, text) else { return };
        if class == "connection"
            && let Some(cut) = self.cut_at_once(text)
        {
            (class, advice) = cut;
        }
        if class == "all_brokers_down" {
            // It follows every other fault, which says more. Only the log says more than a mere cut.
            let known = state.trouble.as_ref().map(|(trouble, _)| trouble.class);
            match (known, state.hint) {
                (None | Some("connection" | "all_brokers_down"), Some(hint)) => (class, advice) = hint,
                (Some(_), _) => return,
                (None, None) => {}
            }
        } else {
            state.hint = None;
        }
        if is_rejection(class) {
            self.rejected.store(true, Ordering::Relaxed);
        }
        let said = first_line(text);
        let detail = if said.is_empty() { format!("{error}: {advice}") } else { format!("{said}: {advice}") };
        state.trouble = Some((SourceTrouble { class, detail }, ends));
        if ends == Ends::WhenConnected {
            state.away.get_or_insert_with(Instant::now);
        }
        state.code = code;
    }

    /// A connection that is cut within moments: what the port expects is something else. (Which of several errors it is, is chance.)
    fn cut_at_once(&self, text: &str) -> Option<(&'static str, &'static str)> {
        let (_, when) = text.rsplit_once("(after ")?;
        let (ms, state) = when.split_once("ms in state ")?;
        let at_once = ms.parse::<u32>().is_ok_and(|ms| ms < AT_ONCE_MS);
        // More may follow: how many errors like it were left out.
        match state.split([',', ')']).next()? {
            "APIVERSION_QUERY" if at_once && !self.is_tls => Some(TLS_EXPECTED),
            "UP" if at_once && self.login.is_none() => Some(SASL_EXPECTED),
            _ => None,
        }
    }

    /// A line of librdkafka's log. Some faults are told nowhere else.
    pub fn log_line(&self, line: &str) {
        let closed = line.contains("Disconnected: ");
        let Some(hint) = hint(line).or_else(|| self.cut_at_once(line).filter(|_| closed)) else { return };
        let mut state = self.lock();
        state.hint = Some(hint);
        // The line and the general error come in either order, and neither is repeated soon.
        if let Some((trouble, _)) = &mut state.trouble
            && trouble.class == "all_brokers_down"
        {
            (trouble.class, trouble.detail) = (hint.0, hint.1.to_owned());
        }
    }

    /// A message has arrived: what was forbidden is allowed by now. (Another partition may still stand still for another reason.)
    pub fn received(&self) {
        self.over("topic_not_allowed");
    }

    /// A commit was accepted.
    pub fn committed(&self) {
        self.over("group_not_allowed");
    }

    fn over(&self, class: &str) {
        let mut state = self.lock();
        if state.trouble.as_ref().is_some_and(|(trouble, _)| trouble.class == class) {
            state.trouble = None;
        }
    }

    /// A broker is connected.
    pub fn connected(&self) {
        self.accepted();
        let mut state = self.lock();
        (state.hint, state.away) = (None, None);
        if matches!(state.trouble, Some((_, Ends::WhenConnected))) {
            state.trouble = None;
        }
    }

    /// What the client is there for works.
    pub fn working(&self) {
        self.accepted();
        *self.lock() = State::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a fault of this class may end with another password or CA file.
fn is_rejection(class: &str) -> bool {
    matches!(class, "authentication" | "sasl_mechanism" | "tls")
}

/// Class and advice for what only the log tells. librdkafka words it by the state in which the connection was cut.
fn hint(line: &str) -> Option<(&'static str, &'static str)> {
    let has = |part: &str| line.contains(part);
    if has("setup timed out in state SSL_HANDSHAKE") {
        return Some(("tls_timeout", "the port takes connections and does not answer a TLS handshake: check the port, and whether it speaks TLS"));
    }
    if has("setup timed out in state AUTH") || has("setup timed out in state APIVERSION") {
        return Some(("silent", "the port takes connections and does not answer: check the port, and whether the broker is overloaded"));
    }
    if has("connecting to a SSL listener?") || (has("receive 0 after POLLIN") && has("APIVERSION_QUERY")) {
        return Some(TLS_EXPECTED);
    }
    has("might require SASL authentication").then_some(SASL_EXPECTED)
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
            RDKafkaLogLevel::Debug => tracing::trace!(target: "librdkafka", facility, "{line}"),
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
mod tests;
