//! Random histories through the real ingest and promote: the reference implementation must come to the very same rows, and must not when any
//! single value is another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kylo::audit::inputs::topic::{Kind, Place, Raw, Said, Span, Told, Topic, told};
use kylo::audit::inputs::{Inputs, postgres};
use kylo::audit::judge;
use kylo::domain::clock::{Clock, SystemClock};
use kylo::domain::message::PromoteRequest;
use kylo::flow::promote::{Promote, PromoteOptions};
use kylo::flow::work::{PromoteWork, TxnsWork};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::company_world::{World, day};

const SCHEMA: &str = "app_random";
const HISTORIES: u64 = 10;
const STEPS: usize = 30;

/// A row of few ids, amounts, texts: so that rows meet each other often.
fn random_row(rng: &mut StdRng) -> Value {
    let (date, memo) = (["2025-08-26", "2025-08-27"].choose(rng), ["", "", "m"].choose(rng));
    let description = ["SHELL", "Shell", "ARAL", "UBER", ""].choose(rng);
    let mut row = json!({"date": date, "amount": rng.random_range(1..4).to_string(), "description": description, "memo": memo});
    if rng.random_bool(0.8) {
        row["id"] = ["a", "b", "c", "d", "e", "f"].choose(rng).copied().into();
    }
    if rng.random_bool(0.15) {
        row["void"] = true.into();
    }
    if rng.random_bool(0.05) {
        row["amount"] = "5-".into();
    }
    row
}

struct History {
    company: String,
    rng: StdRng,
    works: Vec<TxnsWork>,
    requests: Vec<Told>,
}

impl History {
    async fn live(&mut self, world: &World, promote: &Promote) {
        for step in 0..STEPS {
            match self.rng.random_range(0..10) {
                0..=6 => self.deliver(world, step).await,
                7 => {
                    // Delivered again from somewhere on, as after a crash before the commit.
                    let from = self.rng.random_range(0..=self.works.len());
                    let again = self.works[from..].to_vec();
                    self.apply(world, &again).await;
                }
                _ => self.promote(world, promote, step).await,
            }
        }
    }

    /// One to three messages at once, perhaps one that was there before under another name.
    async fn deliver(&mut self, world: &World, step: usize) {
        let first = self.works.len();
        for n in 0..self.rng.random_range(1..4) {
            let rows: Vec<Value> = (0..self.rng.random_range(1..5)).map(|_| random_row(&mut self.rng)).collect();
            let known = self.works.choose(&mut self.rng).filter(|_| self.rng.clone().random_bool(0.3)).cloned();
            let (rows, minute) = match known {
                Some(work) => {
                    let sent: Value = serde_json::from_slice(work.record.payload.as_deref().unwrap()).unwrap();
                    (sent["transactions"].clone(), (work.batch.created_at - day()).num_minutes() + self.rng.random_range(0..2))
                }
                None => (Value::from(rows), self.rng.random_range(0..8)),
            };
            self.works.push(world.batch(&self.company, &format!("{}-{step}-{n}", self.company), minute, &rows));
        }
        let fresh = self.works[first..].to_vec();
        self.apply(world, &fresh).await;
    }

    /// Together or one by one.
    async fn apply(&mut self, world: &World, works: &[TxnsWork]) {
        let at_once = self.rng.random_range(1..4);
        for chunk in works.chunks(at_once) {
            for handled in world.apply(chunk).await {
                handled.unwrap();
            }
        }
    }

    async fn promote(&mut self, world: &World, promote: &Promote, step: usize) {
        for _ in 0..self.rng.random_range(0..3) {
            let source = ["shell", "SHELL", "aral", "uber", "***"].choose(&mut self.rng).unwrap();
            let target = ["FUEL", "TRAVEL", ""].choose(&mut self.rng).unwrap();
            let company = &self.company;
            let sql = format!(
                "INSERT INTO rules_pending (company_id, source, target_sheet, target_header, approved) VALUES ('{company}', '{source}', 'OPEX', '{target}', TRUE)"
            );
            world.sql(company, &sql).await;
        }
        let record = world.record(&self.company, &json!({}));
        let route = world.route(&self.company);
        let request = PromoteRequest::new(route.company.clone(), day(), &format!("r-{step}"), None);
        let work = PromoteWork { record: Arc::clone(&record), route, request: request.clone() };
        promote.apply(&work).await.unwrap();
        let place = Place { topic: "promote".into(), partition: 0, offset: record.position.offset };
        self.requests.push(Told { place, said: Said::Request(request), sha256: [0; 32], written_at: None, replay_of: None });
    }
}

/// The topics as they would be read.
fn inputs(histories: &[History]) -> Inputs {
    let name: Arc<str> = "txns.company.batches".into();
    let raw = |work: &TxnsWork| {
        let record = &work.record;
        let (key, value) = (record.key.as_deref(), record.payload.as_deref());
        told(&name, Kind::Txns, &Raw { partition: 0, offset: record.position.offset, key, value, written_at: None, dead_letter_id: None })
    };
    let mut batches: Vec<Told> = histories.iter().flat_map(|history| &history.works).map(raw).collect();
    let mut requests: Vec<Told> = histories.iter().flat_map(|history| history.requests.clone()).collect();
    let topic = |name: Arc<str>, told: &mut Vec<Told>| {
        told.sort_by(|a, b| a.place.cmp(&b.place));
        let high = told.last().map_or(0, |told| told.place.offset + 1);
        let spans = BTreeMap::from([(0, Span { low: 0, high, committed: Some(high) })]);
        Topic { name, spans, told: std::mem::take(told) }
    };
    let (txns, promote) = (topic(Arc::clone(&name), &mut batches), topic("promote".into(), &mut requests));
    Inputs { at: SystemClock.now(), txns, promote, ..Inputs::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_are_recomputed_to_the_last_value_and_any_other_value_is_found() {
    let companies: Vec<String> = (0..HISTORIES).map(|seed| format!("seed-{seed}")).collect();
    let world = World::new(&companies.iter().map(|company| (company.as_str(), SCHEMA)).collect::<Vec<_>>()).await;
    let (control, pools) = (world.control.clone(), Arc::clone(&world.pools));
    let promote = Promote::new(PromoteOptions { control, pools, clock: Arc::new(SystemClock), tab: None, canary: BTreeSet::new() });
    let mut histories = Vec::new();
    for (seed, company) in (0..).zip(&companies) {
        let mut history = History { company: company.clone(), rng: StdRng::seed_from_u64(seed), works: Vec::new(), requests: Vec::new() };
        history.live(&world, &promote).await;
        histories.push(history);
    }
    let mut inputs = inputs(&histories);
    let mut connection = PgConnection::connect(&world.dsn).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    inputs.control.letters = postgres::letters(&mut transaction).await.unwrap();
    inputs.books = postgres::books(&mut transaction, SCHEMA, "here").await.unwrap();
    transaction.rollback().await.unwrap();
    let report = judge(&inputs);
    assert!(report.is_clean(), "{}\n{}", report.summary(), super::judge::lines(&report));
    assert_eq!((report.books_recomputed, report.taken_from_postgres.len()), (HISTORIES, 0), "{}", report.summary());

    let (mut rng, mut unnoticed) = (StdRng::seed_from_u64(1), Vec::new());
    for sql in mutations() {
        let mut transaction = connection.begin().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("SET LOCAL search_path = {SCHEMA}"))).execute(&mut *transaction).await.unwrap();
        let sql = sql.replace("$seed", &rng.random::<u16>().to_string());
        let changed = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut *transaction).await.unwrap();
        assert_eq!(changed.rows_affected(), 1, "{sql}");
        inputs.books = postgres::books(&mut transaction, SCHEMA, "here").await.unwrap();
        transaction.rollback().await.unwrap();
        if judge(&inputs).findings.is_empty() {
            unnoticed.push(sql);
        }
    }
    assert!(unnoticed.is_empty(), "nobody noticed:\n{}", unnoticed.join("\n"));
    drop(connection);
    world.end().await;
}

/// Each changes one value of one row, or the row as a whole.
fn mutations() -> Vec<String> {
    let columns = [
        ("transactions", "external_id occurred_on amount_cents currency description memo counterparty void as_of seq content_seq batch_signature"),
        ("pending_txns", "first_seen_batch last_seen_batch occurred_on description description_norm amount_cents status row_checksum seq"),
        ("matched_txns", "rule_id ruleset_version target_sheet target_header amount_cents revision state seq"),
        ("ingest_batches", "batch_id as_of seq row_count bad_count topic partition \"offset\""),
        ("rules_active", "target_sheet target_header match_notes ruleset_version effective_at created_at rule_id"),
        ("ruleset_versions", "checksum seq request_key"),
        ("promote_requests", "request_key version seq"),
        ("company_state", "seq changed_seq active_seq ruleset_version pending_seq"),
    ];
    let one = |table: &str| format!("ctid = (SELECT ctid FROM {table} ORDER BY md5(ctid::text || '$seed') LIMIT 1)");
    let mut all = Vec::new();
    for (table, names) in columns {
        for name in names.split(' ') {
            all.push(format!("UPDATE {table} SET {name} = {} WHERE {}", other(name), one(table)));
        }
        all.push(format!("DELETE FROM {table} WHERE {}", one(table)));
    }
    all.push(format!("DELETE FROM ingest_batch_ids WHERE {}", one("ingest_batch_ids")));
    all.push("DELETE FROM outbox_events WHERE seq = (SELECT seq FROM outbox_events WHERE event_type = 'batch.ingested' ORDER BY md5(seq::text || '$seed') LIMIT 1)".to_owned());
    all
}

/// Another value of a column's type.
fn other(column: &str) -> String {
    match column {
        "occurred_on" => format!("{column} + 1"),
        "as_of" | "effective_at" | "created_at" => format!("{column} + interval '1 microsecond'"),
        "void" => "NOT void".to_owned(),
        "rule_id" => "gen_random_uuid()".to_owned(),
        "batch_signature" => "reverse(batch_signature)".to_owned(),
        "currency" => "'EUR'".to_owned(),
        "status" => "CASE status WHEN 'open' THEN 'resolved' ELSE 'open' END".to_owned(),
        "state" => "CASE state WHEN 'withdrawn' THEN 'queued' ELSE 'withdrawn' END".to_owned(),
        "version" => "coalesce(version, 0) + 1".to_owned(),
        "external_id" | "description" | "memo" | "counterparty" | "first_seen_batch" | "last_seen_batch" | "description_norm" | "row_checksum"
        | "target_sheet" | "target_header" | "batch_id" | "topic" | "match_notes" | "checksum" | "request_key" => {
            format!("coalesce({column}, '') || 'x'")
        }
        _ => format!("{column} + 1000"),
    }
}
