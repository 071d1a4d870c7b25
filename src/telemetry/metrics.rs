//! Every metric once: name, labels, help. Rendered at `/metrics`; `docs/metrics.md` is checked against [`METRICS`] by a test.
//!
//! Called by whoever counts. What must never happen here: a company, a description or an amount in a label (invariant I10, and
//! a label per company would make as many series as there are companies).

use std::sync::Arc;

use prometheus::{Encoder, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// One metric's contract.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const BUILD: Metric = gauge("kylo_build_info", &["version", "commit"], "Always 1; says which build runs");
const MODE: Metric = gauge("kylo_posting", &[], "1 when this process posts to Google Sheets, 0 in shadow mode");
const MESSAGES: Metric = counter(
    "kylo_messages_total",
    &["topic", "outcome"],
    "Messages whose effects are durable, by outcome: applied, duplicate, held, tombstone, dead_letter",
);
const TOLERATED: Metric = counter(
    "kylo_messages_tolerated_total",
    &["topic", "what"],
    "What messages had that is accepted but not as it should be: null_key, enveloped, unknown_field, collapsed_in_batch",
);
const BATCHES: Metric = counter(
    "kylo_batches_total",
    &["outcome"],
    "Batches, by outcome: applied, duplicate (dismissed by the ledger), superseded (known, compared row by row)",
);
const ROWS: Metric = counter(
    "kylo_rows_total",
    &["outcome"],
    "Rows of applied batches, by what they said (new, equal, stale, collapsed, corrected, voided, unvoided, rejected) and, if that changed something, where they went (matched, pending)",
);
const LAG: Metric =
    gauge("kylo_consumer_lag", &["topic", "partition"], "Messages that were published and are not yet durable here, per assigned partition");
const STOPPED: Metric = gauge("kylo_stopped_partitions", &[], "Partitions stopped by the poison cap; `kylo dlq resume` lets them go on");
const POSTS: Metric = counter(
    "kylo_posts_total",
    &["outcome"],
    "Posts of spreadsheets, by outcome: confirmed, nothing_to_do, damaged (by edits between read and write; healed at once), in_doubt, refused, waiting, parked",
);
const CALLS: Metric = counter("kylo_sheets_calls_total", &["op", "outcome"], "Calls to the Sheets API, by operation and outcome");
const BUDGET: Metric =
    gauge("kylo_sheets_budget_used", &["kind"], "Share of the calls allowed in 60 s that is in use now, 0 to 1, by kind: read, write");
const LETTERS: Metric = gauge("kylo_dead_letters", &["class"], "Dead letters that wait for a person (new or replaying), by class");
const HELD: Metric = gauge("kylo_held_messages", &[], "Messages held for companies that cannot be written to now");
const UNPOSTED: Metric =
    gauge("kylo_oldest_unposted_seconds", &[], "Age of the oldest change of a posting company that its tabs do not show yet; 0 = none");
const DOUBT: Metric = gauge("kylo_in_doubt_posts", &[], "Posts whose outcome is not known yet");
const TROUBLE: Metric = gauge("kylo_company_trouble", &["state"], "Companies that cannot be served now, by state: down, parked");
const RELAYED: Metric = counter(
    "kylo_relay_events_total",
    &["outcome"],
    "Events of outboxes, by outcome: published (acknowledged by the broker), refused (one attempt), given_up (a dead letter)",
);
const RELAY_OUTBOXES: Metric = gauge(
    "kylo_relay_outboxes",
    &["state"],
    "Outboxes that this process knows, by state: held (it works on them), waiting, stopped (both held and not moving), elsewhere (another relay's)",
);
const RELAY_OLDEST: Metric =
    gauge("kylo_relay_oldest_seconds", &[], "Age of the oldest event that waited for the relay when it last looked; 0 = none waits");
const RESTARTS: Metric = counter("kylo_loop_restarts_total", &["loop"], "Times a worker loop was restarted after a panic or an error of ours");

/// All of them, in the order of `docs/metrics.md`.
pub const METRICS: [Metric; 20] = [
    BUILD,
    MODE,
    MESSAGES,
    TOLERATED,
    BATCHES,
    ROWS,
    LAG,
    STOPPED,
    POSTS,
    CALLS,
    BUDGET,
    LETTERS,
    HELD,
    UNPOSTED,
    DOUBT,
    TROUBLE,
    RELAYED,
    RELAY_OUTBOXES,
    RELAY_OLDEST,
    RESTARTS,
];

/// What the databases say about work that waits. Read every few seconds by one loop and shown as gauges.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Backlog {
    /// Waiting dead letters per class.
    pub dead_letters: Vec<(String, i64)>,
    pub held_messages: i64,
    pub oldest_unposted_seconds: i64,
    pub in_doubt_posts: i64,
    pub stopped_partitions: i64,
    /// Companies per state of `control.company_trouble`.
    pub trouble: Vec<(String, i64)>,
    /// Calls in use in the last 60 s: (kind, used).
    pub budget_used: Vec<(String, i64)>,
}

/// The registry and a handle to each metric. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    messages: IntCounterVec,
    tolerated: IntCounterVec,
    batches: IntCounterVec,
    rows: IntCounterVec,
    lag: IntGaugeVec,
    stopped: IntGaugeVec,
    posts: IntCounterVec,
    calls: IntCounterVec,
    budget: GaugeVec,
    letters: IntGaugeVec,
    held: IntGaugeVec,
    unposted: IntGaugeVec,
    doubt: IntGaugeVec,
    trouble: IntGaugeVec,
    relayed: IntCounterVec,
    relay_outboxes: IntGaugeVec,
    relay_oldest: GaugeVec,
    restarts: IntCounterVec,
}

impl Metrics {
    /// A registry of its own, so that two workers in one process, or two tests, do not share counts.
    ///
    /// # Errors
    /// A metric is defined twice or its name is not allowed: a fault of this file, found by its tests.
    pub fn new(posting: bool) -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new();
        let build = int_gauge(&registry, &BUILD)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), crate::telemetry::commit()]).set(1);
        int_gauge(&registry, &MODE)?.with_label_values(&[] as &[&str]).set(i64::from(posting));
        let metrics = Self {
            messages: int_counter(&registry, &MESSAGES)?,
            tolerated: int_counter(&registry, &TOLERATED)?,
            batches: int_counter(&registry, &BATCHES)?,
            rows: int_counter(&registry, &ROWS)?,
            lag: int_gauge(&registry, &LAG)?,
            stopped: int_gauge(&registry, &STOPPED)?,
            posts: int_counter(&registry, &POSTS)?,
            calls: int_counter(&registry, &CALLS)?,
            budget: register(&registry, GaugeVec::new(Opts::new(BUDGET.name, BUDGET.help), BUDGET.labels)?)?,
            letters: int_gauge(&registry, &LETTERS)?,
            held: int_gauge(&registry, &HELD)?,
            unposted: int_gauge(&registry, &UNPOSTED)?,
            doubt: int_gauge(&registry, &DOUBT)?,
            trouble: int_gauge(&registry, &TROUBLE)?,
            relayed: int_counter(&registry, &RELAYED)?,
            relay_outboxes: int_gauge(&registry, &RELAY_OUTBOXES)?,
            relay_oldest: register(&registry, GaugeVec::new(Opts::new(RELAY_OLDEST.name, RELAY_OLDEST.help), RELAY_OLDEST.labels)?)?,
            restarts: int_counter(&registry, &RESTARTS)?,
            registry,
        };
        metrics.set_backlog(&Backlog::default(), (1, 1));
        Ok(Arc::new(metrics))
    }

    /// `n` messages of `topic` are settled.
    pub fn message(&self, topic: &str, outcome: &str, n: u64) {
        self.messages.with_label_values(&[topic, outcome]).inc_by(n);
    }

    /// Something in messages of `topic` that is tolerated.
    pub fn tolerated(&self, topic: &str, what: &str, n: u64) {
        self.tolerated.with_label_values(&[topic, what]).inc_by(n);
    }

    /// `n` batches came out as `outcome`.
    pub fn batches(&self, outcome: &str, n: u64) {
        self.batches.with_label_values(&[outcome]).inc_by(n);
    }

    /// `count` rows came out as `outcome`.
    pub fn rows(&self, outcome: &str, count: u64) {
        self.rows.with_label_values(&[outcome]).inc_by(count);
    }

    /// Messages behind, of an assigned partition.
    pub fn lag(&self, topic: &str, partition: i32, behind: i64) {
        self.lag.with_label_values(&[topic, &partition.to_string()]).set(behind);
    }

    /// The partition is no longer ours: its lag is another process' to tell.
    pub fn forget_lag(&self, topic: &str, partition: i32) {
        // Not there = nothing was told yet.
        let _ = self.lag.remove_label_values(&[topic, &partition.to_string()]);
    }

    /// `n` posts of spreadsheets ended.
    pub fn post(&self, outcome: &str, n: u64) {
        self.posts.with_label_values(&[outcome]).inc_by(n);
    }

    /// A call to the Sheets API ended.
    pub fn sheets_call(&self, op: &str, outcome: &str) {
        self.calls.with_label_values(&[op, outcome]).inc();
    }

    /// `n` events of outboxes came out as `outcome`.
    pub fn relayed(&self, outcome: &str, n: u64) {
        self.relayed.with_label_values(&[outcome]).inc_by(n);
    }

    /// How many outboxes are in which state, and how old the oldest waiting event was.
    pub fn relay_outboxes(&self, states: &[(&str, usize)], oldest_seconds: f64) {
        for (state, n) in states {
            self.relay_outboxes.with_label_values(&[state]).set(i64::try_from(*n).unwrap_or(i64::MAX));
        }
        self.relay_oldest.with_label_values(&[] as &[&str]).set(oldest_seconds);
    }

    /// A worker loop was restarted.
    pub fn restarted(&self, name: &str) {
        self.restarts.with_label_values(&[name]).inc();
    }

    /// Shows what the databases say. `per_minute` = allowed (reads, writes).
    pub fn set_backlog(&self, backlog: &Backlog, per_minute: (u32, u32)) {
        let none: &[&str] = &[];
        self.held.with_label_values(none).set(backlog.held_messages);
        self.unposted.with_label_values(none).set(backlog.oldest_unposted_seconds);
        self.doubt.with_label_values(none).set(backlog.in_doubt_posts);
        self.stopped.with_label_values(none).set(backlog.stopped_partitions);
        // A class or state without rows disappears instead of keeping its last value.
        self.letters.reset();
        for (class, count) in &backlog.dead_letters {
            self.letters.with_label_values(&[class]).set(*count);
        }
        self.trouble.reset();
        for (state, count) in &backlog.trouble {
            self.trouble.with_label_values(&[state]).set(*count);
        }
        for (kind, allowed) in [("read", per_minute.0), ("write", per_minute.1)] {
            let used = backlog.budget_used.iter().find(|(name, _)| name == kind).map_or(0, |(_, used)| *used);
            let used = f64::from(u32::try_from(used).unwrap_or(u32::MAX));
            self.budget.with_label_values(&[kind]).set(used / f64::from(allowed.max(1)));
        }
    }

    /// The text that Prometheus scrapes.
    ///
    /// # Errors
    /// A metric that cannot be written as text.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut bytes = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut bytes)?;
        String::from_utf8(bytes).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

fn int_counter(registry: &Registry, metric: &Metric) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(metric.name, metric.help), metric.labels)?)
}

fn int_gauge(registry: &Registry, metric: &Metric) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(Opts::new(metric.name, metric.help), metric.labels)?)
}

fn register<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// `docs/metrics.md` as it must be.
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\nServed at `/metrics` by every worker in Prometheus' text format. No metric has a company in it.\nThis page is checked against `src/telemetry/metrics.rs` by a test.\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in METRICS {
        let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" };
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        page.push_str(&format!("| `{}` | {kind} | {} | {} |\n", metric.name, labels.join(", "), metric.help));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_on_metrics_says_what_the_registry_has() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == page(), "docs/metrics.md must be:\n{}", page());
    }

    #[test]
    fn every_metric_of_the_list_is_rendered_once_it_has_a_value() {
        let metrics = Metrics::new(true).unwrap();
        metrics.message("t", "applied", 1);
        metrics.tolerated("t", "null_key", 1);
        metrics.batches("applied", 1);
        metrics.rows("new", 2);
        metrics.lag("t", 3, 5);
        metrics.post("confirmed", 1);
        metrics.sheets_call("apply", "ok");
        metrics.restarted("post");
        metrics.relayed("published", 1);
        metrics.relay_outboxes(&[("held", 1)], 0.0);
        let backlog = Backlog {
            dead_letters: vec![("not_json".to_owned(), 2)],
            trouble: vec![("down".to_owned(), 1)],
            budget_used: vec![("write".to_owned(), 30)],
            ..Backlog::default()
        };
        metrics.set_backlog(&backlog, (60, 60));
        let text = metrics.render().unwrap();
        for metric in METRICS {
            assert!(text.contains(&format!("\n# TYPE {} ", metric.name)) || text.contains(&format!("# TYPE {} ", metric.name)), "{}", metric.name);
        }
        assert!(text.contains("kylo_sheets_budget_used{kind=\"write\"} 0.5"), "{text}");
        assert!(!text.contains("company="), "{text}");
    }

    #[test]
    fn a_class_whose_letters_are_gone_is_no_longer_shown() {
        let metrics = Metrics::new(false).unwrap();
        metrics.set_backlog(&Backlog { dead_letters: vec![("not_json".to_owned(), 2)], ..Backlog::default() }, (60, 60));
        metrics.set_backlog(&Backlog::default(), (60, 60));
        assert!(!metrics.render().unwrap().contains("not_json"));
    }
}
