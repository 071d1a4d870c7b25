//! The soak: up to four workers of the built binary, a stream of batches with duplicates, corrections, voids and poison, promotions, people at
//! the tabs, and everything that can go wrong at random: kill -9, SIGSTOP beyond the session, cut and restarted services, every fault of the
//! Sheets service. Then everything is mended, drained and audited.
//!
//! What is done and when comes from a seed, so a seed repeats it; what the workers make of it depends on the machine. `scripts/chaos.sh` runs it
//! for minutes and lets it restart the broker and the database; in the tests it runs for seconds and leaves those, which others use, alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use super::database::variable;
use super::ledger_of_inputs::{Inputs, Row};
use super::messages::minute;
use super::patience::patiently;
use super::people::{People, moving};
use super::supervise::{signal, spawn};
use super::worker::Process;
use super::world::{PATIENCE, Place, World, brokers};

mod harm;

const COMPANIES: [&str; 6] = ["701", "702", "703", "704", "705", "706"];
const MOST_WORKERS: usize = 4;
/// Longer than the session of the workers' groups.
const FROZEN: Duration = Duration::from_millis(3_500);
/// Few enough that batches of a company speak of the same rows again and again.
const IDS: u32 = 60;
const SOURCES: u32 = 12;
const KILLS: &str = "kill -9";

/// What was done, by name.
type Counts = BTreeMap<&'static str, usize>;

/// A batch that can be published again.
#[derive(Clone)]
struct Published {
    company: &'static str,
    as_of: i64,
    rows: Vec<Row>,
    message: Value,
}

/// One soak.
struct Soak {
    world: World,
    people: People,
    rng: StdRng,
    inputs: Inputs,
    recent: Vec<Published>,
    workers: Vec<Process>,
    logs: Vec<String>,
    counts: Counts,
    minutes: i64,
    may_restart_services: bool,
    /// Percent of the harm that is a kill before anything else is thought of.
    more_kills: u32,
    /// What the auditor says in the end.
    audited: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_r3_r5_chaos_of_a_seed_is_over_with_nothing_lost_doubled_misrouted_or_reordered() {
    let _alone = crate::MACHINE.lock().await;
    let number = |name: &str, default: u64| variable(name).map_or(default, |text| text.parse().unwrap());
    let (seed, least) = (number("CHAOS_SEED", 1), Duration::from_secs(number("CHAOS_SECONDS", 20)));
    let mut soak = Soak::new(seed, variable("CHAOS_SERVICES").is_some()).await;
    let began = Instant::now();
    soak.storm(least, usize::try_from(number("CHAOS_LEAST_KILLS", 200)).unwrap()).await;
    let seconds = began.elapsed().as_secs();
    let wrong = soak.drain_and_audit().await;
    let figures = soak.figures(seed, seconds, wrong.len());
    println!("{figures}");
    assert!(wrong.is_empty(), "seed {seed}, {seconds} s: {figures}\n{}", wrong.join("\n"));
    soak.world.end().await;
}

impl Soak {
    async fn new(seed: u64, may_restart_services: bool) -> Self {
        let mut world = World::with_partitions(4).await;
        world.variables.insert("KYLO_HTTP_ADDR", "127.0.0.1:0".to_owned());
        world.variables.insert("KYLO_POISON_CAP", "100000".to_owned());
        for (n, company) in COMPANIES.into_iter().enumerate() {
            let place = Place { spreadsheet: format!("sheet-{}", n % 3), ..world.usual_place(company) };
            world.add_at(place).await;
        }
        let rng = StdRng::seed_from_u64(seed);
        let more_kills = variable("CHAOS_KILLS").map_or(80, |text| text.parse::<u32>().unwrap().min(100));
        let (people, inputs, recent, workers, logs) = (People::default(), Inputs::default(), Vec::new(), Vec::new(), Vec::new());
        Self {
            world,
            people,
            rng,
            inputs,
            recent,
            workers,
            logs,
            counts: Counts::new(),
            minutes: 0,
            may_restart_services,
            more_kills,
            audited: String::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn company(&mut self) -> &'static str {
        COMPANIES.choose(&mut self.rng).unwrap()
    }

    /// Publishes and harms until the time is over and workers were killed often enough.
    async fn storm(&mut self, least: Duration, least_kills: usize) {
        let began = Instant::now();
        self.start_worker();
        while began.elapsed() < least || self.counts.get(KILLS).is_none_or(|kills| *kills < least_kills) {
            for _ in 0..self.rng.random_range(1..8) {
                self.publish().await;
            }
            self.harm().await;
            let pause = Duration::from_millis(self.rng.random_range(20..400));
            // The pace of the storm; nothing is assumed after it.
            tokio::time::sleep(pause).await;
            self.replace_the_dead();
        }
    }

    // --- What is published ---

    async fn publish(&mut self) {
        let company = self.company();
        self.minutes += 1;
        match self.rng.random_range(0..100) {
            0..60 => self.publish_new(company).await,
            60..75 => self.publish_again().await,
            75..85 => {
                self.inputs.poison += 1;
                self.count("poison");
                let text = format!("poison {}", self.minutes);
                self.world.publish_raw(&self.world.topic_txns(), Some(company), Some(text.as_bytes()), &[]).await;
            }
            _ => {
                let request = format!("{company}-r{}", self.minutes);
                self.count("promote requests");
                self.inputs.requests.insert((company.to_owned(), request.clone()));
                self.world.promote(company, &request).await;
            }
        }
    }

    async fn publish_new(&mut self, company: &'static str) {
        let n = self.rng.random_range(1..12);
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        for _ in 0..n {
            let id = format!("{company}-{}", self.rng.random_range(0..IDS));
            let description = format!("SOURCE {}", self.rng.random_range(0..SOURCES));
            let row = Row { id: id.clone(), cents: self.rng.random_range(-99_999..99_999), description, void: self.rng.random_ratio(1, 12) };
            rows.insert(id, row);
        }
        let rows: Vec<Row> = rows.into_values().collect();
        let mut transactions: Vec<Value> = rows.iter().map(json).collect();
        if self.rng.random_ratio(1, 8) {
            self.inputs.bad_rows += 1;
            self.count("bad rows");
            transactions.push(json!({"id": format!("{company}-bad"), "date": "2025-02-30", "amount": "1.00", "description": "BAD"}));
        }
        // Some are older than what is known already.
        let as_of = self.minutes - if self.rng.random_ratio(1, 10) { self.rng.random_range(0..50) } else { 0 };
        let batch = format!("{company}-b{}", self.minutes);
        let message = json!({"event_type": "TXNS_BATCH", "version": 2, "batch_id": batch, "company_id": company, "created_at": minute(as_of), "transactions": transactions});
        self.inputs.publish(company, Some(&batch), as_of, &rows);
        self.count("batches");
        self.world.publish(&message).await;
        // A bad row would be one more letter each time.
        if transactions.len() == rows.len() {
            self.recent.push(Published { company, as_of, rows, message });
        }
        if self.recent.len() > 40 {
            self.recent.remove(0);
        }
    }

    /// The same message once more, as a producer does that has heard no answer.
    async fn publish_again(&mut self) {
        let Some(again) = self.recent.choose(&mut self.rng).cloned() else { return };
        self.count("duplicates");
        self.inputs.publish(again.company, None, again.as_of, &again.rows);
        self.world.publish(&again.message).await;
    }

    // --- The end ---

    async fn drain_and_audit(&mut self) -> Vec<String> {
        let model = self.world.model();
        model.clear_faults();
        model.release();
        for worker in std::mem::take(&mut self.workers) {
            self.logs.push(worker.said());
            worker.kill().await;
        }
        for company in COMPANIES {
            self.people.tidy_up(&self.world, company);
        }
        let last = spawn(&self.world, None);
        let drained = tokio::time::timeout(Duration::from_secs(600), self.drained()).await;
        self.logs.push(last.said());
        let mut wrong = Vec::new();
        if drained.is_err() {
            wrong.push(format!("not drained within 600 s; the last worker said: {}", tail(&last.said())));
        }
        wrong.extend(self.inputs.audit(&self.world, &COMPANIES).await);
        for company in COMPANIES {
            self.world.assert_decided_once(company).await;
            self.world.assert_tab_equals_postgres(company).await;
            wrong.extend(self.people.audit(&self.world, company).await);
        }
        wrong.extend(posts_that_are_not_in_the_ledger_once(&self.world).await);
        let report = self.world.audit().await;
        if !report.is_clean() || report.on_their_way > 0 || report.books_partly > 0 {
            wrong.push(format!("the auditor: {}\n{}", report.summary(), super::auditor::lines(&report)));
        }
        self.audited = report.summary();
        wrong.extend(self.logs.iter().filter(|log| log.contains("panicked")).map(|log| format!("a worker panicked: {}", tail(log))));
        last.kill().await;
        wrong
    }

    /// Nothing is left to do, though everything that waits is tried at once.
    async fn drained(&self) {
        let world = &self.world;
        loop {
            let nudge = "UPDATE control.spreadsheets SET leased_until = CASE WHEN leased_until < now() + interval '30 s' THEN now() ELSE leased_until END, retry_at = now();
                         UPDATE control.company_trouble SET retry_at = now(), drain_until = least(drain_until, now() + interval '5 s')";
            let _ = sqlx::raw_sql(AssertSqlSafe(nudge.to_owned())).execute(&world.control.pool).await;
            if self.is_drained().await.unwrap_or(false) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn is_drained(&self) -> Result<bool, sqlx::Error> {
        let world = &self.world;
        let number = async |sql: &str| sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql.to_owned())).fetch_one(&world.control.pool).await;
        let left = number(
            "SELECT (SELECT count(*) FROM control.held_messages) + (SELECT count(*) FROM control.company_trouble)
                  + (SELECT count(*) FROM control.sheet_intents WHERE state IN ('planned', 'sent', 'in_doubt'))
                  + (SELECT count(*) FROM control.spreadsheets WHERE state <> 'ok')",
        )
        .await?;
        if left > 0 || !self.topics_are_done().await {
            return Ok(false);
        }
        for company in COMPANIES {
            let wanted = world.texts(company, "SELECT pending_seq || '/' || active_seq FROM company_state").await;
            let posted = world
                .control_texts(&format!("SELECT string_agg(posted_seq::text, '/' ORDER BY role DESC) FROM control.sheet_tabs WHERE company_id = '{company}' HAVING count(*) = 2"))
                .await;
            if !wanted.is_empty() && wanted != posted {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The groups have committed everything.
    async fn topics_are_done(&self) -> bool {
        let world = &self.world;
        for (group, topic, partitions) in [(world.group_txns(), world.topic_txns(), 4), (format!("{}-promote", world.name), world.topic_promote(), 2)]
        {
            let ends = ends(&topic, partitions).await;
            let committed = super::offsets::committed(&group, &topic, (0..partitions).collect()).await;
            if ends.iter().any(|(partition, end)| *end > 0 && committed.get(partition) != Some(end)) {
                return false;
            }
        }
        true
    }

    fn figures(&self, seed: u64, seconds: u64, wrong: usize) -> Value {
        let mut figures = json!({"seed": seed, "seconds": seconds, "wrong": wrong, "batches": self.inputs.batches, "rows": self.inputs.rows});
        figures["done"] = json!(self.counts);
        figures["auditor"] = json!(self.audited);
        figures
    }
}

fn json(row: &Row) -> Value {
    let amount = format!("{}{}.{:02}", if row.cents < 0 { "-" } else { "" }, row.cents.abs() / 100, row.cents.abs() % 100);
    json!({"id": row.id, "date": "2025-08-26", "amount": amount, "description": row.description, "void": row.void})
}

/// The end of each partition of a topic.
async fn ends(topic: &str, partitions: i32) -> BTreeMap<i32, i64> {
    let topic = topic.to_owned();
    let asked = move || {
        let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
        let end = |partition| patiently("the end of a partition", || client.fetch_watermarks(&topic, partition, Duration::from_secs(10))).1;
        (0..partitions).map(|partition| (partition, end(partition))).collect()
    };
    tokio::task::spawn_blocking(asked).await.unwrap()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// What landed in each spreadsheet is what was confirmed, and each confirmed post and tab with rows is in the ledger once.
async fn posts_that_are_not_in_the_ledger_once(world: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    for spreadsheet in 0..3 {
        let spreadsheet = format!("sheet-{spreadsheet}");
        let landed = world.calls().into_iter().filter(|call| call.op == "batchUpdate" && call.applied && call.spreadsheet == spreadsheet).count();
        let confirmed = world
            .control_number(&format!("SELECT count(*) FROM control.sheet_intents WHERE spreadsheet_id = '{spreadsheet}' AND state = 'confirmed'"))
            .await;
        if i64::try_from(landed).unwrap() != confirmed {
            wrong.push(format!("{spreadsheet}: {landed} batches landed, {confirmed} are confirmed"));
        }
    }
    let posts = world.control_number("SELECT count(*) FROM control.sheet_posts").await;
    let with_rows = world
        .control_number(
            "SELECT count(*) FROM control.sheet_intents, jsonb_array_elements(tabs) t WHERE state = 'confirmed' AND (t->>'row_count')::int > 0",
        )
        .await;
    if posts != with_rows {
        wrong.push(format!("{posts} posts in the ledger, {with_rows} were confirmed"));
    }
    wrong
}
