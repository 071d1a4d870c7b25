//! The built binary as a process: how it starts and refuses to start, what a kill leaves, how it stops, what it costs at rest, what it says.
//!
//! Needs `PG_DSN_RW` and `KAFKA_BROKERS` as tests/e2e.rs does. The program is built without optimisation here; where that matters the bound
//! says so.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![expect(dead_code, reason = "the harness is that of tests/e2e.rs, which uses all of it")]

#[path = "support/database.rs"]
mod database;
#[path = "e2e/databases.rs"]
mod databases;
#[path = "e2e/health.rs"]
mod health;
#[path = "e2e/messages.rs"]
mod messages;
#[path = "e2e/offsets.rs"]
mod offsets;
#[path = "support/patience.rs"]
mod patience;
#[path = "e2e/process.rs"]
mod process;
#[path = "e2e/sheets.rs"]
mod sheets;
#[path = "e2e/worker.rs"]
mod worker;
#[path = "e2e/world.rs"]
mod world;

use std::time::{Duration, Instant};

use fake_sheets::faults::Answer;
use fake_sheets::{Fault, FaultKind};
use messages::{batch, row};
use process::run;
use rand::Rng;
use serde_json::{Value, json};
use world::{Mode, Place, World};

/// Variables, and what the refusal must say.
type Case<'a> = (&'a [(&'a str, &'a str)], [&'a str; 2]);

async fn refusal(variables: &[(&str, &str)], code: i32) -> String {
    let environment: Vec<_> = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let run = run(&environment, &["run"]).await;
    assert_eq!(run.code, code, "{variables:?}: {run:?}");
    assert_eq!(run.stdout, "", "stdout is data");
    run.stderr
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_at_start_with_exit_2_and_says_what_to_do() {
    let database = database::Database::create().await;
    let dsn = ("PG_DSN_RW", database.dsn.as_str());
    let cases: [Case<'_>; 6] = [
        (&[], ["PG_DSN_RW is not set", "postgres://user:password@host:5432/kylo"]),
        (&[dsn, ("KYLO_SHEET_POST", "1")], ["KYLO_SHEET_POST is not a variable", "did you mean KYLO_SHEETS_POST?"]),
        (&[dsn, ("KYLO_SHEETS_POST", "2")], ["KYLO_SHEETS_POST is \"2\"", "0"]),
        (&[dsn, ("KYLO_SHEETS_POST", "1")], ["GOOGLE_APPLICATION_CREDENTIALS", "KYLO_SHEETS_POST=0"]),
        (
            &[dsn, ("KYLO_SHEETS_POST", "1"), ("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")],
            ["/nowhere/key.json", "create a key for the service account"],
        ),
        (&[dsn, ("KYLO_HTTP_ADDR", "127.0.0.1:0")], ["kylo migrate", "--status"]),
    ];
    for (variables, said) in cases {
        let stderr = refusal(variables, 2).await;
        for text in said {
            assert!(stderr.contains(text), "{variables:?} does not say {text:?}: {stderr}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explicit_http_port_that_is_taken_is_an_error_and_a_default_one_gives_way() {
    let mut world = World::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    world.variables.insert("KYLO_HTTP_ADDR", address.clone());
    let refused = world.kylo(&["run"]).await;
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains(&format!("cannot listen on {address} (KYLO_HTTP_ADDR)")), "{refused:?}");

    world.variables.remove("KYLO_HTTP_ADDR");
    // Taken by us, or by somebody else already: both will do.
    let default = std::net::TcpListener::bind("127.0.0.1:8088");
    let mut worker = world.spawn(&Mode::Shadow, &["run"]);
    world
        .eventually("served on the next free port", async || {
            let said = worker.said();
            if said.contains("port 8088 is taken") && said.contains("health and metrics are served on 127.0.0.1:80") { Ok(()) } else { Err(said) }
        })
        .await;
    drop(default);
    assert_eq!(worker.terminate().await.0, Some(0));
    world.end().await;
}

/// Backlog of `total` messages with one row each, over four companies that share a database and a spreadsheet.
async fn backlog(world: &mut World, total: usize) -> Vec<Value> {
    for company in FOUR {
        world.add_at(Place { spreadsheet: "sheet-all".to_owned(), ..world.usual_place(company) }).await;
    }
    let messages: Vec<Value> = (0..total)
        .map(|n| batch(FOUR[n % 4], &format!("b-{n:04}"), i64::try_from(n).unwrap(), &[row(&format!("t{n}"), "-1.00", &format!("ROW {n:04}"))]))
        .collect();
    world.publish_all(&messages).await;
    messages
}

const FOUR: [&str; 4] = ["701", "702", "703", "704"];

async fn ingested(world: &World) -> i64 {
    let mut all = 0;
    for company in FOUR {
        all += world.number(company, "SELECT count(*) FROM ingest_batches").await;
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_i5_a_worker_killed_again_and_again_in_a_backlog_leaves_every_row_exactly_once() {
    let mut world = World::new().await;
    world.variables.insert("KYLO_HTTP_ADDR", "127.0.0.1:0".to_owned());
    let total = 2_000;
    backlog(&mut world, total).await;
    let wanted = i64::try_from(total).unwrap();
    let mut reached = 0;
    for kill in 0..4 {
        let worker = world.spawn(&Mode::Post, &["run"]);
        // Into the ingest the first times, into the posting the last time: at a moment that is another one at each run.
        let goal = if kill < 3 { reached + rand::rng().random_range(1..=wanted / 4) } else { wanted };
        reached = world
            .eventually(&format!("{goal} batches after kill {kill}"), async || {
                let now = ingested(&world).await;
                if now >= goal { Ok(now) } else { Err(format!("{now}; {}", worker.said())) }
            })
            .await;
        if kill == 3 {
            world.eventually("a call was sent", async || if world.applied("701") > 0 { Ok(()) } else { Err(worker.said()) }).await;
        }
        worker.kill().await;
        reached = reached.min(wanted - 1);
    }
    let mut worker = world.spawn(&Mode::Post, &["run"]);
    world
        .eventually("everything is ingested", async || {
            let now = ingested(&world).await;
            if now == wanted { Ok(()) } else { Err(format!("{now}; {}", worker.said())) }
        })
        .await;
    world.settled(&FOUR).await;
    for (n, company) in FOUR.iter().enumerate() {
        assert_eq!(world.number(company, "SELECT count(*) FROM transactions").await, wanted / 4, "{company}");
        let order = world.texts(company, "SELECT batch_id FROM ingest_batches ORDER BY seq").await;
        let expected: Vec<String> = (n..total).step_by(4).map(|n| format!("b-{n:04}")).collect();
        assert_eq!(order, expected, "I6: order of {company}");
        world.assert_decided_once(company).await;
        world.assert_tab_equals_postgres(company).await;
        let posted = world.control_number(&format!("SELECT sum(row_count)::bigint FROM control.sheet_posts WHERE company_id = '{company}'")).await;
        assert_eq!(posted, wanted / 4, "{company}: each row is in the ledger once");
    }
    assert_eq!(world.control_number("SELECT count(*) FROM control.dead_letters").await, 0);
    assert_eq!(worker.terminate().await.0, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_in_a_backlog_finishes_what_is_in_hand_and_no_more_and_nothing_is_processed_again() {
    let mut world = World::new().await;
    world.variables.insert("KYLO_HTTP_ADDR", "127.0.0.1:0".to_owned());
    // What is in hand may take long on a busy machine; that nothing is cut off must not depend on that.
    world.variables.insert("KYLO_DRAIN_SECONDS", "60".to_owned());
    let total = 10_000;
    backlog(&mut world, total).await;
    let mut worker = world.spawn(&Mode::Shadow, &["run"]);
    world.eventually("work is under way", async || if ingested(&world).await >= 50 { Ok(()) } else { Err(worker.said()) }).await;
    let (code, took) = worker.terminate().await;
    let done = ingested(&world).await;
    assert_eq!(code, Some(0), "{}", worker.said());
    // Two seconds are promised. A program built without optimisation needs a multiple of the time for the same work, beside other tests:
    // `cargo test --release --all-features --test binary sigterm` holds it to its word.
    let most = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 2 });
    assert!(took < most, "SIGTERM took {took:?}: {}", worker.said());

    let mut worker = world.spawn(&Mode::Shadow, &["run"]);
    let wanted = i64::try_from(total).unwrap();
    world.eventually("the rest follows", async || if ingested(&world).await == wanted { Ok(()) } else { Err(worker.said()) }).await;
    assert!(done < wanted, "it went on to the end of the backlog");
    // A process is told to stop when it runs, not while it starts.
    let runs = async || if worker.said().contains("Kafka consumer started for") { Ok(()) } else { Err(worker.said()) };
    world.eventually("the second runs", runs).await;
    assert_eq!(worker.terminate().await.0, Some(0));
    let mut again = 0;
    for company in FOUR {
        again += world.number(company, "SELECT sum(deliveries - 1)::bigint FROM ingest_batches").await;
    }
    assert_eq!(again, 0, "messages processed again after {done} were done at SIGTERM");
    world.end().await;
}

/// CPU ticks (of which there are 100 in a second) that a process has used.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// A line of /proc/PID/status, in KiB.
fn memory(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_at_rest_uses_less_than_a_hundredth_of_a_core_and_forty_mebibytes() {
    let mut world = World::with_partitions(16).await;
    world.add(&["710", "711"]).await;
    let health = world.serve_http();
    let mut worker = world.spawn(&Mode::Shadow, &["run"]);
    health.is_ready(&world).await;
    let at = [world.publish(&batch("710", "b-1", 0, &[row("t1", "-1.00", "ROW")])).await];
    world.consumed(&at).await;
    // A program built without optimisation needs a multiple of the time for the same work, and its text is several times as large.
    let (most_share, most_kib) = if cfg!(debug_assertions) { (0.03, 80 * 1024) } else { (0.01, 40 * 1024) };
    let mut share = f64::MAX;
    // What a program at rest uses is what it uses in a window in which nothing happens; on a busy machine the first ones may not be that. Work in
    // bursts further apart than a window is not seen here.
    for _ in 0..6 {
        // This is a measurement over time, not a wait for something to happen.
        let (before, began) = (ticks(worker.pid()), Instant::now());
        tokio::time::sleep(Duration::from_secs(10)).await;
        let used = ticks(worker.pid()) - before;
        share = used as f64 / 100.0 / began.elapsed().as_secs_f64();
        if share < most_share {
            break;
        }
    }
    let (rss, anonymous) = (memory(worker.pid(), "VmRSS"), memory(worker.pid(), "RssAnon"));
    println!("at rest: {:.2} % of a core, {} MiB resident, {} MiB of them its own", share * 100.0, rss / 1024, anonymous / 1024);
    assert!(share < most_share, "{:.2} % of a core at rest", share * 100.0);
    assert!(rss < most_kib, "{rss} KiB resident");
    assert!(anonymous < 40 * 1024, "{anonymous} KiB of its own memory");
    assert_eq!(worker.terminate().await.0, Some(0));
    world.end().await;
}

/// What must never be seen outside: secrets, and what rows say.
const MARKS: [&str; 9] = ["DSNSECRET", "TOKENSECRET", "BEGIN PRIVATE KEY", "DESCRMARK", "descrmark", "MEMOMARK", "PARTYMARK", "4711.23", "471123"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_no_secret_and_nothing_a_row_says_is_in_any_log_metric_health_answer_or_reason() {
    let mut world = World::with_partitions(2).await;
    let health = world.serve_http();
    world.variables.insert("KYLO_HTTP_TOKEN", "TOKENSECRET".to_owned());
    world.add(&["710", "711", "712"]).await;
    let with_password = |dsn: &str, port: Option<u16>| {
        let mut url = url::Url::parse(dsn).unwrap();
        url.set_password(Some("DSNSECRET")).unwrap();
        if port.is_some() {
            url.set_port(port).unwrap();
        }
        url.to_string()
    };
    world.configure(&Place { dsn: with_password(&world.books.dsn, Some(1)), ..world.place("711").clone() }).await;
    world.configure(&Place { dsn: "DSNSECRET=no=dsn".to_owned(), ..world.place("712").clone() }).await;
    world.model().push_fault(Fault::once("batchUpdate", FaultKind::Answer { answer: Answer::Invalid }).for_spreadsheet("sheet-710"));
    world.model().push_fault(Fault::once("batchUpdate", FaultKind::CutBody { keep: 4_000, looks_whole: false }).for_spreadsheet("sheet-710"));
    let mut worker = world.spawn(&Mode::Post, &["run"]);

    let telling = |id: &str, amount: &str| json!({"id": id, "date": "2025-08-26", "amount": amount, "description": format!("DESCRMARK {id}"), "memo": "MEMOMARK", "counterparty": "PARTYMARK"});
    let mut at = Vec::new();
    for company in ["710", "711", "712"] {
        at.push(world.publish(&batch(company, "b-1", 0, &[telling("t1", "4711.23"), telling("t2", "4711.23")])).await);
    }
    // Bad rows, the same id twice, a row that a trigger refuses with its contents, and messages that are broken in the middle of a text.
    world.execute("710", "CREATE FUNCTION app_710.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.description LIKE '%refused%' THEN RAISE EXCEPTION 'no % %', NEW.description, NEW.amount_cents; END IF; RETURN NEW; END $$; CREATE TRIGGER refuse BEFORE INSERT ON app_710.transactions FOR EACH ROW EXECUTE FUNCTION app_710.refuse()").await;
    let rows = [telling("t3", "4711.23-"), telling("t4", "4711.23"), telling("t4", "4711.2"), telling("refused", "4711.23")];
    at.push(world.publish(&batch("710", "b-2", 1, &rows)).await);
    for broken in ["{\"description\": \"DESCRMARK", "{\"event_type\": \"TXNS_BATCH\", \"version\": \"DESCRMARK\"}", "\"DESCRMARK\""] {
        at.push(world.publish_raw(&world.topic_txns(), Some("710"), Some(broken.as_bytes()), &[]).await);
    }
    let posted = async || {
        let shown = world.pending("710").len();
        if shown == 2 { Ok(()) } else { Err(format!("{shown} rows; {}", worker.said())) }
    };
    world.eventually("two rows are on the tab", posted).await;
    world.approve("710", "DESCRMARK t1", "DESCRMARK", "COFFEE");
    world.approve("710", "DESCRMARK t2", "OPEX", "");
    world.promote("710", "r-1").await;
    world.promoted("710", "r-1").await;
    world.settled(&["710"]).await;
    world.control_counts("SELECT count(DISTINCT company_id) FROM control.company_trouble WHERE company_id IN ('711', '712')", 2).await;

    let mut seen = Vec::new();
    for path in ["/metrics", "/health/live", "/health/ready", "/health/deep", "/version"] {
        let (status, body) = health.get(path).await.unwrap();
        assert!(status == 200 || status == 503 || status == 401, "{path}: {status}");
        seen.push((path.to_owned(), body));
    }
    for args in
        [["status"].as_slice(), &["status", "--json"], &["dlq", "list"], &["dlq", "list", "--json"], &["company", "list"], &["company", "check"]]
    {
        let run = world.kylo(args).await;
        seen.push((format!("kylo {args:?}"), run.stdout + &run.stderr));
    }
    for column in [
        "reason FROM control.dead_letters",
        "reason FROM control.company_trouble",
        "reason FROM control.spreadsheets",
        "reason FROM control.sheet_intents",
    ] {
        let texts = world.control_texts(&format!("SELECT {column} WHERE reason IS NOT NULL")).await;
        seen.push((column.to_owned(), texts.join("\n")));
    }
    assert_eq!(worker.terminate().await.0, Some(0));
    let said = worker.said();
    assert!(said.lines().count() > 10, "there is a log to look at: {said}");
    seen.push(("the log".to_owned(), said));
    for (place, text) in &seen {
        for mark in MARKS {
            assert!(!text.contains(mark), "I10: {mark} in {place}: {}", text.lines().find(|line| line.contains(mark)).unwrap_or_default());
        }
    }
    world.end().await;
}
