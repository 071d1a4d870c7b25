//! Every variable once. `.env.example`, the README's table, `--help` and the flags are checked against this list.

/// A variable of the environment. Every one that is not a secret is also a flag of every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Var {
    pub name: &'static str,
    /// Other names for the same thing.
    pub aliases: &'static [&'static str],
    /// `--flag`, without the dashes. Secrets have none: the process list shows arguments.
    pub flag: Option<&'static str>,
    pub default: Option<&'static str>,
    /// May be given as `NAME_FILE`, and is never printed.
    pub secret: bool,
    /// An empty value is a value, and an error where it is not allowed. Elsewhere it means "not set", as compose files write it.
    pub empty_counts: bool,
    pub help: &'static str,
}

const fn plain(name: &'static str, flag: &'static str, default: Option<&'static str>, help: &'static str) -> Var {
    Var { name, aliases: &[], flag: Some(flag), default, secret: false, empty_counts: false, help }
}

const fn secret(name: &'static str, help: &'static str) -> Var {
    Var { name, aliases: &[], flag: None, default: None, secret: true, empty_counts: false, help }
}

pub const KAFKA_BROKERS: Var = Var {
    aliases: &["KAFKA_BOOTSTRAP_SERVERS"],
    ..plain("KAFKA_BROKERS", "kafka-brokers", Some("localhost:9092"), "brokers to start from, host:port separated by commas")
};
pub const KAFKA_TOPIC_TXNS: Var =
    plain("KAFKA_TOPIC_TXNS", "kafka-topic-txns", Some("txns.company.batches"), "topic the batches of transactions arrive on");
pub const KAFKA_TOPIC_PROMOTE: Var =
    plain("KAFKA_TOPIC_PROMOTE", "kafka-topic-promote", Some("rules.promote.requests"), "topic the promote requests arrive on");
pub const KAFKA_TOPIC_EVENTS: Var = plain("KAFKA_TOPIC_EVENTS", "kafka-topic-events", Some("kylo.events"), "topic Kylo tells on what has happened");
pub const KAFKA_GROUP_TXNS: Var =
    plain("KAFKA_GROUP_TXNS", "kafka-group-txns", Some("kylo-workers-txns"), "consumer group of the transactions workers");
pub const KAFKA_GROUP_PROMOTE: Var =
    plain("KAFKA_GROUP_PROMOTE", "kafka-group-promote", Some("kylo-workers-promote"), "consumer group of the promote workers");
pub const KAFKA_CLIENT_ID: Var = plain("KAFKA_CLIENT_ID", "kafka-client-id", Some("kylo"), "name this process shows to the broker");
pub const KAFKA_SECURITY_PROTOCOL: Var =
    plain("KAFKA_SECURITY_PROTOCOL", "kafka-security-protocol", Some("PLAINTEXT"), "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL");
pub const KAFKA_SASL_MECHANISM: Var =
    plain("KAFKA_SASL_MECHANISM", "kafka-sasl-mechanism", None, "with a SASL_ protocol: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512");
pub const KAFKA_SASL_USERNAME: Var = Var { aliases: &["KAFKA_USERNAME"], ..plain("KAFKA_SASL_USERNAME", "kafka-sasl-username", None, "SASL user") };
pub const KAFKA_SASL_PASSWORD: Var = Var { aliases: &["KAFKA_PASSWORD"], ..secret("KAFKA_SASL_PASSWORD", "SASL password") };
pub const KAFKA_SSL_CA_LOCATION: Var = plain(
    "KAFKA_SSL_CA_LOCATION",
    "kafka-ssl-ca-location",
    None,
    "file with certificate authorities (PEM) to trust for the broker instead of the system's",
);
pub const PG_DSN_RW: Var = secret("PG_DSN_RW", "the control database, postgres://user:password@host:port/database; it has no default");
pub const KYLO_COMPANY_DSN: Var = secret("KYLO_COMPANY_DSN", "only for `kylo company set`: the company's database, never an argument");
pub const KYLO_SHEETS_POST: Var = Var {
    empty_counts: true,
    ..plain("KYLO_SHEETS_POST", "sheets-post", Some("0"), "0 = shadow: no Sheets call and no credentials; 1 = post; anything else is an error")
};
pub const KYLO_SHEETS_POST_COMPANIES: Var = plain(
    "KYLO_SHEETS_POST_COMPANIES",
    "sheets-post-companies",
    None,
    "canary list: only these companies post, ids separated by commas; empty = all",
);
pub const KYLO_SHEETS_ENDPOINT: Var =
    plain("KYLO_SHEETS_ENDPOINT", "sheets-endpoint", Some("https://sheets.googleapis.com/"), "base URL of the Sheets API; http:// only on loopback");
pub const GOOGLE_APPLICATION_CREDENTIALS: Var =
    plain("GOOGLE_APPLICATION_CREDENTIALS", "google-application-credentials", None, "path of the service account's key file; needed when posting");
pub const KYLO_SHEETS_WRITES_PER_MINUTE: Var = plain(
    "KYLO_SHEETS_WRITES_PER_MINUTE",
    "sheets-writes-per-minute",
    Some("60"),
    "writing Sheets calls in any 60 s, over all processes, per credential",
);
pub const KYLO_SHEETS_READS_PER_MINUTE: Var = plain(
    "KYLO_SHEETS_READS_PER_MINUTE",
    "sheets-reads-per-minute",
    Some("60"),
    "reading Sheets calls in any 60 s, over all processes, per credential",
);
pub const KYLO_SHEETS_SWEEP_SECONDS: Var = plain(
    "KYLO_SHEETS_SWEEP_SECONDS",
    "sheets-sweep-seconds",
    Some("3600"),
    "how often every tab is compared with Postgres though nothing is due; 0 = off",
);
pub const KYLO_ENVIRONMENT: Var =
    plain("KYLO_ENVIRONMENT", "environment", Some("default"), "name of this installation; a spreadsheet of another one is never written to");
pub const KYLO_POISON_CAP: Var =
    plain("KYLO_POISON_CAP", "poison-cap", Some("100"), "so many dead letters in a row stop a partition: then the sender is broken, not a message");
pub const KYLO_DRAIN_SECONDS: Var =
    plain("KYLO_DRAIN_SECONDS", "drain-seconds", Some("10"), "how long work in hand may take to finish at shutdown or when partitions move away");
pub const KYLO_RELAY: Var =
    Var { empty_counts: true, ..plain("KYLO_RELAY", "relay", Some("1"), "0 = no event is published by this process, whatever command runs") };
pub const KYLO_RELAY_POLL_SECONDS: Var = Var {
    aliases: &["RELAY_POLL_INTERVAL", "OUTBOX_PROCESS_INTERVAL"],
    ..plain(
        "KYLO_RELAY_POLL_SECONDS",
        "relay-poll-seconds",
        Some("2"),
        "how often outboxes are looked at without a signal: seconds, or with a unit such as 500ms",
    )
};
pub const KYLO_RELAY_BATCH_SIZE: Var = Var {
    aliases: &["RELAY_BATCH_SIZE", "OUTBOX_BATCH_SIZE"],
    ..plain("KYLO_RELAY_BATCH_SIZE", "relay-batch-size", Some("5000"), "events that the relay takes from an outbox at a time")
};
pub const KYLO_RELAY_MAX_RETRIES: Var = Var {
    aliases: &["RELAY_MAX_RETRIES", "OUTBOX_MAX_RETRIES"],
    ..plain("KYLO_RELAY_MAX_RETRIES", "relay-max-retries", Some("3"), "retries of an event that the broker refuses before it becomes a dead letter")
};
pub const KYLO_RELAY_DEAD_CAP: Var = Var {
    aliases: &["OUTBOX_DEAD_LETTER_SIZE"],
    ..plain(
        "KYLO_RELAY_DEAD_CAP",
        "relay-dead-cap",
        Some("1000"),
        "so many unsettled dead letters of one outbox stop it: then the rule is broken, not an event",
    )
};
pub const KYLO_RELAY_TIMEOUT_SECONDS: Var = Var {
    aliases: &["OUTBOX_OPERATION_TIMEOUT"],
    ..plain(
        "KYLO_RELAY_TIMEOUT_SECONDS",
        "relay-timeout-seconds",
        Some("30"),
        "how long the broker may take to acknowledge events before they are sent anew: seconds, or with a unit",
    )
};
pub const KYLO_RELAY_SOURCES: Var =
    plain("KYLO_RELAY_SOURCES", "relay-sources", None, "file (JSON) with the outboxes of other services to relay: see docs/relay.md");
pub const KYLO_RELAY_SCHEMAS: Var = Var {
    aliases: &["OUTBOX_SCHEMAS"],
    ..plain(
        "KYLO_RELAY_SCHEMAS",
        "relay-schemas",
        None,
        "outboxes of other services in the control database: schema, schema.table or schema.table:marker_column, separated by commas",
    )
};
pub const KYLO_HTTP_ADDR: Var = plain(
    "KYLO_HTTP_ADDR",
    "http-addr",
    None,
    "IP:PORT of health and metrics; without it 127.0.0.1 and port 8088 (consume promote: 8089, relay: 8090), or the next free one",
);
pub const KYLO_HTTP_TOKEN: Var = secret("KYLO_HTTP_TOKEN", "bearer token that everything but health then asks for");
pub const KYLO_LOG: Var = plain("KYLO_LOG", "log", Some("text"), "form of the log on stderr: text or json");
pub const RUST_LOG: Var = plain("RUST_LOG", "log-filter", Some("info"), "what to log: a level, or target=level separated by commas");
pub const KYLO_ALLOW_UNKNOWN: Var =
    plain("KYLO_ALLOW_UNKNOWN", "allow-unknown", Some("0"), "1 = an unknown KYLO_* variable is a warning instead of an error");

/// All of them, in the order in which they are printed.
pub const ALL: [Var; 37] = [
    KAFKA_BROKERS,
    KAFKA_TOPIC_TXNS,
    KAFKA_TOPIC_PROMOTE,
    KAFKA_TOPIC_EVENTS,
    KAFKA_GROUP_TXNS,
    KAFKA_GROUP_PROMOTE,
    KAFKA_CLIENT_ID,
    KAFKA_SECURITY_PROTOCOL,
    KAFKA_SASL_MECHANISM,
    KAFKA_SASL_USERNAME,
    KAFKA_SASL_PASSWORD,
    KAFKA_SSL_CA_LOCATION,
    PG_DSN_RW,
    KYLO_COMPANY_DSN,
    KYLO_SHEETS_POST,
    KYLO_SHEETS_POST_COMPANIES,
    KYLO_SHEETS_ENDPOINT,
    GOOGLE_APPLICATION_CREDENTIALS,
    KYLO_SHEETS_WRITES_PER_MINUTE,
    KYLO_SHEETS_READS_PER_MINUTE,
    KYLO_SHEETS_SWEEP_SECONDS,
    KYLO_ENVIRONMENT,
    KYLO_POISON_CAP,
    KYLO_DRAIN_SECONDS,
    KYLO_RELAY,
    KYLO_RELAY_POLL_SECONDS,
    KYLO_RELAY_BATCH_SIZE,
    KYLO_RELAY_MAX_RETRIES,
    KYLO_RELAY_DEAD_CAP,
    KYLO_RELAY_TIMEOUT_SECONDS,
    KYLO_RELAY_SOURCES,
    KYLO_RELAY_SCHEMAS,
    KYLO_HTTP_ADDR,
    KYLO_HTTP_TOKEN,
    KYLO_LOG,
    RUST_LOG,
    KYLO_ALLOW_UNKNOWN,
];

/// Read by this project's build, scripts and tests, not by the program: allowed in its environment.
pub const SCRIPTS_ONLY: [&str; 2] = ["KYLO_COMMIT", "KYLO_TEST_FAST"];
