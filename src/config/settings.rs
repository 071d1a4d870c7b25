//! What is usable: parsed, cross-checked, typed. Printed at start, without secrets.
//!
//! Made once by every command from [`Typed`]. What must never happen here: a default for the control database, or posting that is on by accident.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::env::{self, Origin, Typed};
use super::parse::{self, Reader};
use super::secret::{Secret, masked_dsn};
use super::{ConfigError, Problem};
use crate::domain::company::SELFTEST_COMPANY;
use crate::domain::outbox::Outbox;

pub use super::parse::spreadsheet;

/// A broker that gets no poll for this long takes the partitions away; draining must be well below it.
pub const MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);

/// Everything a command may need.
#[derive(Clone, Debug)]
pub struct Settings {
    pub environment: String,
    pub kafka: Kafka,
    control: Option<Secret>,
    pub company_dsn: Option<Secret>,
    pub sheets: Sheets,
    pub http: Http,
    /// Dead letters in a row that stop a partition.
    pub poison_cap: u32,
    /// How long work in hand may take at shutdown and on a revoke.
    pub drain: Duration,
    pub relay: Relay,
    pub log: Log,
    /// For people, at start.
    pub warnings: Vec<String>,
    table: Vec<(&'static str, String, Origin)>,
}

/// How to reach the broker, and what is read and written there.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// `host:port` separated by commas.
    pub brokers: String,
    pub topic_txns: String,
    pub topic_promote: String,
    pub topic_events: String,
    pub group_txns: String,
    pub group_promote: String,
    pub client_id: String,
    pub protocol: Protocol,
    pub sasl: Option<Sasl>,
    pub ca_location: Option<PathBuf>,
    /// A group member that is silent for this long has died. Not a variable: brokers refuse less than 6 s, and more only delays a takeover.
    pub session_timeout: Duration,
}

/// librdkafka's `security.protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }

    pub fn is_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

#[derive(Clone, Debug)]
pub struct Sasl {
    /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
    pub mechanism: &'static str,
    pub username: String,
    pub password: Secret,
}

/// Shadow or posting, where to, and how often.
#[derive(Clone, Debug)]
pub struct Sheets {
    pub post: bool,
    /// Only these post; empty = all.
    pub canary: Vec<String>,
    /// Base URL with one slash at its end.
    pub endpoint: String,
    pub credentials: Option<PathBuf>,
    /// Writing calls in any 60 s, over all processes, per credential.
    pub writes_per_minute: u32,
    /// Reading calls, likewise.
    pub reads_per_minute: u32,
    /// `None` = off.
    pub sweep: Option<Duration>,
}

impl Sheets {
    /// Whether this company posts. Outside the canary list a company is in shadow in every respect.
    pub fn posts(&self, company: &str) -> bool {
        self.post && company != SELFTEST_COMPANY && (self.canary.is_empty() || self.canary.iter().any(|id| id == company))
    }

    /// `shadow` or `post`, as `control.workers` has it.
    pub fn mode(&self) -> &'static str {
        if self.post { "post" } else { "shadow" }
    }

    /// The key file, which must be there for whatever calls Google.
    ///
    /// # Errors
    /// It is not set, cannot be read, or is no service account key.
    pub fn key_file(&self) -> Result<&PathBuf, ConfigError> {
        let Some(path) = &self.credentials else {
            return Err(ConfigError::one(
                "GOOGLE_APPLICATION_CREDENTIALS is not set, and calling Google Sheets needs it",
                "set it to the path of the service account's key file, or KYLO_SHEETS_POST=0 for shadow mode",
            ));
        };
        parse::check_key_file(path).map_err(|problem| ConfigError(vec![problem]))?;
        Ok(path)
    }
}

/// What the relay publishes, and how.
#[derive(Clone, Debug)]
pub struct Relay {
    /// False = the kill switch: nothing is published.
    pub on: bool,
    pub poll: Duration,
    pub batch: u32,
    pub max_retries: u32,
    pub dead_cap: u32,
    /// How long the broker may take to acknowledge.
    pub timeout: Duration,
    /// Outboxes of others. Their names are filled in by whoever knows the databases' names.
    pub sources: Vec<Outbox>,
}

/// Where health and metrics are served.
#[derive(Clone, Debug)]
pub struct Http {
    ip: IpAddr,
    port: Option<u16>,
    pub token: Option<Secret>,
}

impl Http {
    /// The address, and whether it was asked for: an explicit one that is taken is an error, a default one gives way to the next free port.
    pub fn address(&self, default_port: u16) -> (SocketAddr, bool) {
        (SocketAddr::new(self.ip, self.port.unwrap_or(default_port)), self.port.is_some())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug)]
pub struct Log {
    pub format: LogFormat,
    /// A `tracing` filter, checked.
    pub filter: String,
}

impl Settings {
    /// Parses and cross-checks what was typed.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn resolve(typed: &Typed) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(typed);
        let settings = Self {
            environment: environment(&mut reader),
            kafka: kafka(&mut reader),
            control: typed.secret(&env::PG_DSN_RW).cloned(),
            company_dsn: typed.secret(&env::KYLO_COMPANY_DSN).cloned(),
            sheets: sheets(&mut reader),
            http: http(&mut reader),
            poison_cap: reader.number(&env::KYLO_POISON_CAP, 1..=1_000_000),
            drain: Duration::from_secs(reader.number(&env::KYLO_DRAIN_SECONDS, 1..=240).into()),
            relay: relay(&mut reader),
            log: log(&mut reader),
            warnings: typed.warnings.clone(),
            table: table(typed),
        };
        reader.switch(&env::KYLO_ALLOW_UNKNOWN);
        settings.cross_check(&mut reader);
        if !reader.problems.is_empty() {
            return Err(ConfigError(reader.problems));
        }
        Ok(Self { warnings: settings.all_warnings(typed), ..settings })
    }

    /// Whether a variable was set, not left to its default.
    pub fn is_given(&self, var: &env::Var) -> bool {
        self.table.iter().any(|(name, _, origin)| *name == var.name && *origin != Origin::Default)
    }

    /// The control database's connection string.
    ///
    /// # Errors
    /// It is not set: it has no default.
    pub fn control(&self) -> Result<&Secret, ConfigError> {
        self.control.as_ref().ok_or_else(|| {
            ConfigError::one("PG_DSN_RW is not set", "set it (or PG_DSN_RW_FILE) to the control database: postgres://user:password@host:5432/kylo")
        })
    }

    /// What a worker needs before it starts: with posting on, a usable key file.
    ///
    /// # Errors
    /// Names the file.
    pub fn check_worker(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        for result in [self.control().map(drop), if self.sheets.post { self.sheets.key_file().map(drop) } else { Ok(()) }] {
            if let Err(ConfigError(found)) = result {
                problems.extend(found);
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(ConfigError(problems)) }
    }

    fn cross_check(&self, reader: &mut Reader<'_>) {
        let kafka = &self.kafka;
        if kafka.topic_txns == kafka.topic_promote || kafka.topic_events == kafka.topic_txns || kafka.topic_events == kafka.topic_promote {
            reader.wrong("KAFKA_TOPIC_TXNS, KAFKA_TOPIC_PROMOTE and KAFKA_TOPIC_EVENTS are not three topics", "give each its own name");
        }
        if kafka.group_txns == kafka.group_promote {
            reader.wrong(
                format!("KAFKA_GROUP_TXNS and KAFKA_GROUP_PROMOTE are both {:?}", kafka.group_txns),
                "give each its own name: members of one group that read different topics disturb each other",
            );
        }
    }

    fn all_warnings(&self, typed: &Typed) -> Vec<String> {
        let mut warnings = self.warnings.clone();
        let mut warn = |text: &str| warnings.push(text.to_owned());
        if self.drain > Duration::from_secs(25) {
            warn("KYLO_DRAIN_SECONDS is above 25: Kubernetes kills a pod 30 s after SIGTERM unless terminationGracePeriodSeconds is raised too");
        }
        if self.sheets.writes_per_minute > 60 || self.sheets.reads_per_minute > 60 {
            warn("more than 60 Sheets calls a minute: Google's default quota is 60 per service account; what is above it is answered with 429");
        }
        if self.sheets.sweep.is_some_and(|sweep| sweep < Duration::from_secs(60)) {
            warn("KYLO_SHEETS_SWEEP_SECONDS is below 60: the sweep will use up the budget of reads");
        }
        if !self.sheets.post && !self.sheets.canary.is_empty() {
            warn("KYLO_SHEETS_POST_COMPANIES has no effect while KYLO_SHEETS_POST=0: every company is in shadow");
        }
        let sasl = [&env::KAFKA_SASL_MECHANISM, &env::KAFKA_SASL_USERNAME].iter().any(|var| typed.get(var).is_some());
        if !self.kafka.protocol.is_sasl() && (sasl || typed.secret(&env::KAFKA_SASL_PASSWORD).is_some()) {
            warn("KAFKA_SASL_* has no effect: KAFKA_SECURITY_PROTOCOL does not begin with SASL_");
        }
        warnings
    }
}

impl fmt::Display for Settings {
    /// The effective configuration, one line per variable, without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value, origin) in &self.table {
            let origin = match origin {
                Origin::Default => "  (default)",
                Origin::Environment => "",
                Origin::Flag => "  (flag)",
            };
            writeln!(f, "  {name}={value}{origin}")?;
        }
        Ok(())
    }
}

fn table(typed: &Typed) -> Vec<(&'static str, String, Origin)> {
    let mut table = Vec::new();
    for var in &env::ALL {
        if let Some(secret) = typed.secret(var) {
            let shown = match (var.name.contains("DSN"), secret.current()) {
                (true, Ok(dsn)) => masked_dsn(&dsn),
                _ => secret.origin(),
            };
            table.push((var.name, shown, Origin::Environment));
        } else if let Some(value) = typed.get(var) {
            table.push((var.name, value.to_owned(), typed.origin(var)));
        }
    }
    table
}

fn environment(reader: &mut Reader<'_>) -> String {
    let text = reader.text(&env::KYLO_ENVIRONMENT);
    let ok = text.len() <= 50 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if !ok {
        reader.wrong(format!("KYLO_ENVIRONMENT is {text:?}"), "it must have 1 to 50 of the characters A-Z a-z 0-9 - _ .");
    }
    text
}

fn kafka(reader: &mut Reader<'_>) -> Kafka {
    let protocols = [Protocol::Plaintext, Protocol::Ssl, Protocol::SaslPlaintext, Protocol::SaslSsl].map(|protocol| (protocol.as_str(), protocol));
    let protocol = reader.choice(&env::KAFKA_SECURITY_PROTOCOL, &protocols).unwrap_or(Protocol::Plaintext);
    let mechanism = reader.choice(&env::KAFKA_SASL_MECHANISM, &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].map(|name| (name, name)));
    let username = reader.optional(&env::KAFKA_SASL_USERNAME);
    let password = reader.typed.secret(&env::KAFKA_SASL_PASSWORD).cloned();
    let sasl = match (mechanism, username, password) {
        _ if !protocol.is_sasl() => None,
        (Some(mechanism), Some(username), Some(password)) => Some(Sasl { mechanism, username, password }),
        _ => {
            reader.wrong(
                format!("KAFKA_SECURITY_PROTOCOL is {}, but the login is not complete", protocol.as_str()),
                "set KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD (or KAFKA_SASL_PASSWORD_FILE)",
            );
            None
        }
    };
    Kafka {
        brokers: reader.brokers(&env::KAFKA_BROKERS),
        topic_txns: reader.kafka_name(&env::KAFKA_TOPIC_TXNS),
        topic_promote: reader.kafka_name(&env::KAFKA_TOPIC_PROMOTE),
        topic_events: reader.kafka_name(&env::KAFKA_TOPIC_EVENTS),
        group_txns: reader.kafka_name(&env::KAFKA_GROUP_TXNS),
        group_promote: reader.kafka_name(&env::KAFKA_GROUP_PROMOTE),
        client_id: reader.kafka_name(&env::KAFKA_CLIENT_ID),
        protocol,
        sasl,
        ca_location: reader.readable_file(&env::KAFKA_SSL_CA_LOCATION),
        session_timeout: Duration::from_secs(6),
    }
}

fn sheets(reader: &mut Reader<'_>) -> Sheets {
    let canary = parse::company_ids(&reader.text(&env::KYLO_SHEETS_POST_COMPANIES));
    for id in &canary {
        if crate::domain::ids::CompanyId::parse(id).is_err() {
            reader.wrong(
                format!("KYLO_SHEETS_POST_COMPANIES has {id:?}, which is no company id"),
                "give ids of 1 to 50 characters, separated by commas",
            );
        }
    }
    let sweep = reader.number(&env::KYLO_SHEETS_SWEEP_SECONDS, 0..=604_800);
    Sheets {
        post: reader.switch(&env::KYLO_SHEETS_POST),
        canary,
        endpoint: reader.endpoint(&env::KYLO_SHEETS_ENDPOINT),
        credentials: reader.optional(&env::GOOGLE_APPLICATION_CREDENTIALS).map(PathBuf::from),
        writes_per_minute: reader.number(&env::KYLO_SHEETS_WRITES_PER_MINUTE, 1..=6_000),
        reads_per_minute: reader.number(&env::KYLO_SHEETS_READS_PER_MINUTE, 1..=6_000),
        sweep: (sweep > 0).then(|| Duration::from_secs(sweep.into())),
    }
}

fn http(reader: &mut Reader<'_>) -> Http {
    let (ip, port) = reader.address(&env::KYLO_HTTP_ADDR).unwrap_or((IpAddr::V4(Ipv4Addr::LOCALHOST), None));
    Http { ip, port, token: reader.typed.secret(&env::KYLO_HTTP_TOKEN).cloned() }
}

fn relay(reader: &mut Reader<'_>) -> Relay {
    let (mut sources, mut problems) = super::relay::from_schemas(&reader.text(&env::KYLO_RELAY_SCHEMAS));
    if let Some(path) = reader.optional(&env::KYLO_RELAY_SOURCES) {
        let (more, wrong) = super::relay::from_file(std::path::Path::new(&path));
        sources.extend(more);
        problems.extend(wrong);
    }
    reader.problems.append(&mut problems);
    let (hour, ms) = (Duration::from_secs(3_600), Duration::from_millis);
    Relay {
        on: reader.switch(&env::KYLO_RELAY),
        poll: reader.duration(&env::KYLO_RELAY_POLL_SECONDS, ms(100)..=hour),
        batch: reader.number(&env::KYLO_RELAY_BATCH_SIZE, 1..=100_000),
        max_retries: reader.number(&env::KYLO_RELAY_MAX_RETRIES, 0..=1_000),
        dead_cap: reader.number(&env::KYLO_RELAY_DEAD_CAP, 1..=1_000_000),
        timeout: reader.duration(&env::KYLO_RELAY_TIMEOUT_SECONDS, ms(1_000)..=hour),
        sources,
    }
}

fn log(reader: &mut Reader<'_>) -> Log {
    let format = reader.choice(&env::KYLO_LOG, &[("text", LogFormat::Text), ("json", LogFormat::Json)]).unwrap_or(LogFormat::Text);
    let filter = reader.text(&env::RUST_LOG);
    if let Err(error) = filter.parse::<tracing_subscriber::filter::Targets>()
        && filter.parse::<tracing_subscriber::EnvFilter>().is_err()
    {
        reader.problems.push(Problem::new(
            format!("RUST_LOG is {filter:?}: {error}"),
            "give a level (error, warn, info, debug, trace), or target=level separated by commas",
        ));
    }
    Log { format, filter }
}
