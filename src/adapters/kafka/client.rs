//! How every client of Kafka is configured: each librdkafka key that matters is set here, and what is in force is logged once per client.
//!
//! Settings name the files of secrets; what is in them is read when a client is made ([`KafkaSettings::credentials`]), and made anew it is when the
//! broker rejects what the files no longer hold (see `rotation`).
//!
//! What must never happen here: a password in a log line or an error, or a default of librdkafka's that Kylo depends on without saying so.

use std::fmt;
use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::BaseConsumer;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::identity;
use crate::config::settings::Kafka;
use crate::config::{ConfigError, Secret};

/// How to reach the broker.
#[derive(Clone, Debug)]
pub struct KafkaSettings {
    /// `host:port` separated by commas.
    pub brokers: String,
    pub client_id: String,
    /// PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
    pub security_protocol: String,
    pub sasl: Option<SaslSettings>,
    /// File with the CA certificates; without it those of the system.
    pub ca_location: Option<String>,
    /// A group member that is silent for this long has died. A broker's usual lower bound is 6 s.
    pub session_timeout: Duration,
    /// A client that has reached no broker for this long is made anew (see `rotation`).
    pub remake_after: Duration,
}

/// Longer than any restart of a broker that goes well.
const REMAKE_AFTER: Duration = Duration::from_secs(60);

/// How to log in. `Debug` masks the password.
#[derive(Clone)]
pub struct SaslSettings {
    /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
    pub mechanism: String,
    pub username: String,
    /// Read again for each client that is made.
    pub password: Secret,
}

impl fmt::Debug for SaslSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaslSettings").field("mechanism", &self.mechanism).field("username", &self.username).field("password", &"***").finish()
    }
}

/// What a client shows its broker and judges it by, as the files had it when the client was made.
#[derive(Clone)]
pub(super) struct Credentials {
    password: Option<SecretString>,
    /// SHA-256 of the CA file.
    ca: Option<[u8; 32]>,
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        let exposed = |credentials: &Self| credentials.password.as_ref().map(|password| password.expose_secret().to_owned());
        self.ca == other.ca && exposed(self) == exposed(other)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("password", &self.password.is_some()).finish_non_exhaustive()
    }
}

/// A client could not be made: its configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a Kafka {role}: {reason}")]
pub struct ClientError {
    pub role: &'static str,
    /// librdkafka's own words; it names the property.
    pub reason: String,
}

impl KafkaSettings {
    /// Plaintext and without login, for tests and the demo.
    pub fn plaintext(brokers: &str) -> Self {
        Self {
            brokers: brokers.to_owned(),
            client_id: "kylo".to_owned(),
            security_protocol: "PLAINTEXT".to_owned(),
            sasl: None,
            ca_location: None,
            session_timeout: Duration::from_secs(6),
            remake_after: REMAKE_AFTER,
        }
    }

    /// For librdkafka's in-process broker. Its first join takes 3 s, during which it would throw out members with a shorter session; each later
    /// rebalance takes a second less than the session.
    pub fn in_process(brokers: &str) -> Self {
        Self { session_timeout: Duration::from_secs(4), ..Self::plaintext(brokers) }
    }

    /// From the checked configuration.
    ///
    /// # Errors
    /// The password file cannot be read now.
    pub fn from_config(kafka: &Kafka) -> Result<Self, ConfigError> {
        let sasl = match &kafka.sasl {
            None => None,
            Some(sasl) => {
                sasl.password.current()?;
                Some(SaslSettings { mechanism: sasl.mechanism.to_owned(), username: sasl.username.clone(), password: sasl.password.clone() })
            }
        };
        Ok(Self {
            brokers: kafka.brokers.clone(),
            client_id: kafka.client_id.clone(),
            security_protocol: kafka.protocol.as_str().to_owned(),
            sasl,
            ca_location: kafka.ca_location.as_ref().map(|path| path.display().to_string()),
            session_timeout: kafka.session_timeout,
            remake_after: REMAKE_AFTER,
        })
    }

    /// Whether librdkafka takes these settings: a CA file that is none, for example, it finds out only when a client is made. Talks to nobody.
    ///
    /// # Errors
    /// librdkafka's own words; they name the property.
    pub fn check(&self) -> Result<(), ClientError> {
        let made: Result<BaseConsumer, _> = self.plain()?.create();
        made.map(drop).map_err(|error| ClientError { role: "client", reason: error.to_string() })
    }

    /// The login that is in force with this protocol.
    pub(super) fn login(&self) -> Option<&SaslSettings> {
        self.sasl.as_ref().filter(|_| self.security_protocol.starts_with("SASL"))
    }

    pub(super) fn is_tls(&self) -> bool {
        self.security_protocol.ends_with("SSL")
    }

    /// Passwords and certificates as the files have them now.
    ///
    /// # Errors
    /// The password file cannot be read. (What is wrong with a CA file librdkafka says itself.)
    pub(super) fn credentials(&self) -> Result<Credentials, ClientError> {
        let password = self.login().map(|sasl| sasl.password.current()).transpose();
        let password = password.map_err(|error| ClientError { role: "client", reason: error.to_string() })?;
        let file = self.ca_location.as_ref().filter(|_| self.is_tls());
        let ca = file.and_then(|path| std::fs::read(path).ok()).map(|bytes| Sha256::digest(bytes).into());
        Ok(Credentials { password, ca })
    }

    /// What all clients have in common.
    fn common(&self, credentials: &Credentials) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("security.protocol", &self.security_protocol)
            .set("socket.keepalive.enable", "true")
            .set("socket.timeout.ms", "10000")
            // For the TCP connection, the TLS handshake and the login together.
            .set("socket.connection.setup.timeout.ms", "10000")
            // Up again within a second of the broker's return.
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "1000")
            // So a topic that is made later, and partitions that are added, are seen soon.
            .set("topic.metadata.refresh.interval.ms", "5000")
            .set("metadata.max.age.ms", "15000")
            // Why a port cuts connections is told in these lines alone. They are read, and shown at the debug level only.
            .set("log.connection.close", "true")
            .set_log_level(RDKafkaLogLevel::Info);
        if self.is_tls() {
            config.set("ssl.endpoint.identification.algorithm", "https");
            if let Some(location) = &self.ca_location {
                config.set("ssl.ca.location", location);
            }
        }
        if let (Some(sasl), Some(password)) = (self.login(), &credentials.password) {
            config.set("sasl.mechanism", &sasl.mechanism).set("sasl.username", &sasl.username).set("sasl.password", password.expose_secret());
        }
        config
    }

    /// A member of a consumer group.
    pub(super) fn consumer(&self, group: &str, credentials: &Credentials) -> ClientConfig {
        let session = self.session_timeout.as_millis();
        let heartbeat = (session / 3).min(500);
        let mut config = self.common(credentials);
        config
            .set("group.id", group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", session.to_string())
            .set("heartbeat.interval.ms", heartbeat.to_string())
            .set("max.poll.interval.ms", "300000")
            // Offsets are stored by hand when a message is finished, and committed in the background. A commit that waits has no time limit.
            .set("enable.auto.offset.store", "false")
            .set("enable.auto.commit", "true")
            .set("auto.commit.interval.ms", "1000")
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "false")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("allow.auto.create.topics", "false")
            .set("fetch.min.bytes", "1")
            .set("fetch.wait.max.ms", "500")
            .set("fetch.message.max.bytes", "1048576")
            .set("fetch.max.bytes", "16777216")
            .set("receive.message.max.bytes", "100000000")
            .set("fetch.error.backoff.ms", "100")
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.min.messages", "10000")
            .set("queued.max.messages.kbytes", "16384")
            .set("statistics.interval.ms", "2000")
            // A topic's id is told in these lines alone (see `identity`). They are shown at the trace level only.
            .set("debug", identity::DEBUG)
            .set_log_level(RDKafkaLogLevel::Debug);
        config
    }

    /// A producer whose records are in the topic once each, in order, when their delivery is reported.
    pub(super) fn producer(&self, credentials: &Credentials) -> ClientConfig {
        let mut config = self.common(credentials);
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("max.in.flight.requests.per.connection", "5")
            // As n8n's client does it, so a company is on the same partition whoever publishes.
            .set("partitioner", "murmur2_random")
            .set("compression.type", "zstd")
            .set("linger.ms", "5")
            // Batches are not split: well below the topics' limit of 1 MiB, or whole batches of small messages would fail.
            .set("batch.size", "524288")
            .set("batch.num.messages", "10000")
            // The topic's own limit decides on single large messages.
            .set("message.max.bytes", "20000000")
            .set("message.timeout.ms", "30000")
            .set("request.timeout.ms", "10000")
            .set("retry.backoff.ms", "100")
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536")
            .set("statistics.interval.ms", "2000");
        config
    }

    /// For looking and for admin calls. Such a client lives for one question, so it always has what the files have now.
    ///
    /// # Errors
    /// The password file cannot be read.
    pub(super) fn plain(&self) -> Result<ClientConfig, ClientError> {
        Ok(self.common(&self.credentials()?))
    }
}

/// Says what is in force, secrets masked.
pub(super) fn log_effective(role: &'static str, config: &ClientConfig) {
    // config_map masks passwords itself; what it does not know as secret is masked here.
    let shown: Vec<String> = config
        .config_map()
        .into_iter()
        .map(|(key, value)| if key.contains("password") || key.contains("secret") { format!("{key}=***") } else { format!("{key}={value}") })
        .collect();
    tracing::info!(role, settings = %shown.join(" "), "Kafka client settings");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secured() -> KafkaSettings {
        let password = Secret::Value { name: "KAFKA_SASL_PASSWORD", value: SecretString::from("hush-hush".to_owned()) };
        let sasl = SaslSettings { mechanism: "SCRAM-SHA-256".to_owned(), username: "alice".to_owned(), password };
        KafkaSettings { security_protocol: "SASL_SSL".to_owned(), sasl: Some(sasl), ..KafkaSettings::plaintext("127.0.0.1:1") }
    }

    #[test]
    fn i10_a_password_is_in_no_printed_form() {
        let settings = secured();
        assert!(!format!("{settings:?}").contains("hush-hush"));
        let credentials = settings.credentials().unwrap();
        assert!(!format!("{credentials:?}").contains("hush-hush"));
        assert!(!format!("{:?}", settings.consumer("g", &credentials)).contains("hush-hush"));
    }

    #[test]
    fn a_consumer_stores_offsets_by_hand_and_commits_them_in_the_background() {
        let config = secured().consumer("g", &secured().credentials().unwrap());
        for (key, value) in [
            ("enable.auto.offset.store", "false"),
            ("enable.auto.commit", "true"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("reconnect.backoff.max.ms", "1000"),
            ("auto.offset.reset", "earliest"),
        ] {
            assert_eq!(config.get(key), Some(value), "{key}");
        }
    }

    #[test]
    fn a_producer_places_companies_as_n8n_does_and_is_idempotent() {
        let config = secured().producer(&secured().credentials().unwrap());
        for (key, value) in [("partitioner", "murmur2_random"), ("acks", "all"), ("enable.idempotence", "true")] {
            assert_eq!(config.get(key), Some(value), "{key}");
        }
    }

    #[test]
    fn librdkafka_knows_every_key_that_is_set() {
        let settings = secured();
        let credentials = settings.credentials().unwrap();
        for config in [settings.consumer("g", &credentials), settings.producer(&credentials), settings.plain().unwrap()] {
            config.create_native_config().unwrap();
        }
    }
}
