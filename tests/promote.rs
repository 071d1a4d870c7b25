//! Promote against real Postgres, with a Pending tab that a person has typed into.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod company_world;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use company_world::{World, day, row};
use futures::future::BoxFuture;
use kylo::domain::clock::TestClock;
use kylo::domain::company::Route;
use kylo::domain::message::PromoteRequest;
use kylo::domain::sheet::{ObservedTab, Value};
use kylo::domain::tab::{Role, TabView, read_pending};
use kylo::flow::promote::{PendingTabReader, Promote, PromoteOptions, TabUnread};
use kylo::flow::work::{Handled, PromoteWork, Stuck};
use serde_json::{Value as Json, json};
use sqlx::{Connection, Executor};

/// What a read of each company's tab gives; a company that is not listed has no tab yet.
#[derive(Debug, Default)]
struct TypedTab {
    tabs: Mutex<HashMap<String, Result<TabView, TabUnread>>>,
    reads: Mutex<usize>,
}

impl PendingTabReader for TypedTab {
    fn read_pending<'a>(&'a self, route: &'a Route) -> BoxFuture<'a, Result<Option<TabView>, TabUnread>> {
        *self.reads.lock().unwrap() += 1;
        let found = self.tabs.lock().unwrap().get(route.company.as_str()).cloned().transpose();
        Box::pin(async move { found })
    }
}

struct Desk {
    world: World,
    tab: Arc<TypedTab>,
    clock: Arc<TestClock>,
    promote: Arc<Promote>,
}

/// What a person typed in the row with this description: targets, notes, Approved.
type Typed<'a> = (&'a str, &'a str, &'a str, &'a str, Value);

fn ticked<'a>(description: &'a str, sheet: &'a str, header: &'a str) -> Typed<'a> {
    (description, sheet, header, "", Value::Bool(true))
}

impl Desk {
    async fn new(companies: &[(&str, &str)]) -> Self {
        let world = World::new(companies).await;
        let (tab, clock) = (Arc::new(TypedTab::default()), Arc::new(TestClock::at(day())));
        let promote = Arc::new(Self::with(&world, &clock, Some(Arc::clone(&tab) as Arc<_>), BTreeSet::new()));
        Self { world, tab, clock, promote }
    }

    fn with(world: &World, clock: &Arc<TestClock>, tab: Option<Arc<dyn PendingTabReader>>, canary: BTreeSet<String>) -> Promote {
        let (control, pools, clock) = (world.control.clone(), Arc::clone(&world.pools), Arc::clone(clock) as Arc<_>);
        Promote::new(PromoteOptions { control, pools, clock, tab, canary })
    }

    /// The tab as the poster would have written it, with what a person typed; rows without are untouched.
    async fn type_in(&self, company: &str, typed: &[Typed<'_>]) {
        let mut rows = vec![Role::Pending.headers().iter().map(|text| Value::Text((*text).to_owned())).collect::<Vec<_>>()];
        let mut conn = self.world.conn(company).await;
        let open: Vec<(uuid::Uuid, String, String, i64)> = sqlx::query_as(
            "SELECT txn_uid, occurred_on::text, description, amount_cents FROM pending_txns WHERE company_id = $1 AND status = 'open' ORDER BY seq, txn_uid",
        )
        .bind(company)
        .fetch_all(&mut conn)
        .await
        .unwrap();
        for (uid, date, description, cents) in open {
            let text = |text: &str| if text.is_empty() { Value::Empty } else { Value::Text(text.to_owned()) };
            let (_, sheet, header, notes, approved) =
                typed.iter().find(|typed| typed.0 == description).cloned().unwrap_or(("", "", "", "", Value::Bool(false)));
            #[expect(clippy::cast_precision_loss, reason = "small amounts")]
            let amount = Value::Number(cents as f64 / 100.0);
            rows.push(vec![
                text(&uid.to_string()),
                text(&date),
                text(&description),
                text(company),
                amount,
                text(sheet),
                text(header),
                text(notes),
                approved,
                Value::Empty,
            ]);
        }
        let tab = ObservedTab { sheet_id: 1, title: "Pending".to_owned(), hidden: false, row_count: 1000, column_count: 10, frozen_rows: 1, rows };
        self.tab.tabs.lock().unwrap().insert(company.to_owned(), Ok(read_pending(&tab).unwrap()));
    }

    fn request(&self, company: &str, key: &str) -> PromoteWork {
        let record = self.world.record(company, &json!({}));
        let route = self.world.route(company);
        let request = PromoteRequest::new(route.company.clone(), day(), key, None);
        PromoteWork { record, route, request }
    }

    async fn promote(&self, company: &str, key: &str) -> Handled {
        self.promote.apply(&self.request(company, key)).await.unwrap()
    }

    async fn outcome(&self, company: &str, key: &str) -> Json {
        let mut conn = self.world.conn(company).await;
        sqlx::query_scalar("SELECT outcome FROM promote_requests WHERE company_id = $1 AND request_key = $2")
            .bind(company)
            .bind(key)
            .fetch_one(&mut conn)
            .await
            .unwrap()
    }

    async fn rules(&self, company: &str) -> Vec<String> {
        self.world
            .rows(company, "SELECT source AS a, target_sheet AS b, target_header AS c, ruleset_version AS d FROM rules_active WHERE company_id = $1 ORDER BY source_norm")
            .await
    }

    async fn open(&self, company: &str) -> Vec<String> {
        self.world
            .rows(
                company,
                "SELECT description AS a, split_part(answer, ':', 1) AS b FROM pending_txns WHERE company_id = $1 AND status = 'open' ORDER BY 1",
            )
            .await
    }

    async fn seqs(&self, company: &str) -> Vec<String> {
        self.world.rows(company, "SELECT seq AS a, pending_seq AS b, active_seq AS c FROM company_state WHERE company_id = $1").await
    }
}

#[tokio::test]
async fn an_approved_row_becomes_a_rule_and_everything_with_its_source_is_decided() {
    let desk = Desk::new(&[("710", "app_710")]).await;
    desk.world.ingest("710", "b-1", 0, &json!([row("t1", "-12.34", "STARBUCKS"), row("t2", "-3", "Starbucks!"), row("t3", "5", "Shell")])).await;
    desk.type_in("710", &[("STARBUCKS", " OPEX ", "COFFEE", "as always", Value::Text("true".to_owned()))]).await;
    assert_eq!(desk.promote("710", "r-1").await, Handled::Applied);
    assert_eq!(desk.rules("710").await, ["STARBUCKS|OPEX|COFFEE|1"]);
    assert_eq!(desk.open("710").await, ["Shell|"]);
    let matched = "SELECT amount_cents AS a, target_sheet AS b, target_header AS c, state AS d, revision AS e, ruleset_version AS f FROM matched_txns ORDER BY 1";
    assert_eq!(desk.world.rows("710", matched).await, ["-1234|OPEX|COFFEE|queued|1|1", "-300|OPEX|COFFEE|queued|1|1"]);
    assert_eq!(desk.seqs("710").await, ["2|2|2"]);
    let pending = "SELECT source AS a, match_notes AS b, approved AS c, origin AS d, promoted_in AS e FROM rules_pending";
    assert_eq!(desk.world.rows("710", pending).await, ["STARBUCKS|as always|true|sheet|1"]);
    let events = "SELECT payload->>'version' AS a FROM outbox_events WHERE event_type = 'rules.updated'";
    assert_eq!(desk.world.rows("710", events).await, ["1"]);
    assert_eq!(desk.world.count("710", "SELECT jsonb_array_length(snapshot)::bigint FROM ruleset_versions WHERE version = 1").await, 1);
    assert_eq!(desk.world.tally.of("pending"), 3);
    // From now on the rule decides at once.
    desk.world.ingest("710", "b-2", 1, &json!([row("t4", "-9", "starbucks")])).await;
    assert_eq!(desk.open("710").await, ["Shell|"]);
    desk.world.assert_each_decided_once("710").await;
    desk.world.end().await;
}

#[tokio::test]
async fn a_request_is_applied_once_and_a_repetition_does_not_even_read_the_tab() {
    let desk = Desk::new(&[("710", "app_710")]).await;
    desk.world.ingest("710", "b-1", 0, &json!([row("t1", "1", "A")])).await;
    desk.promote("710", "r-1").await;
    let before = (desk.seqs("710").await, *desk.tab.reads.lock().unwrap());
    desk.type_in("710", &[ticked("A", "S", "H")]).await;
    assert_eq!(desk.promote("710", "r-1").await, Handled::Duplicate);
    assert_eq!((desk.seqs("710").await, *desk.tab.reads.lock().unwrap()), before);
    assert_eq!(desk.promote("710", "r-2").await, Handled::Applied);
    assert_eq!(desk.rules("710").await, ["A|S|H|1"]);
    desk.world.end().await;
}

#[tokio::test]
async fn nothing_approved_makes_no_version_and_no_tab_is_due() {
    let desk = Desk::new(&[("710", "app_710")]).await;
    desk.world.rule("710", "Esso", "S", "H").await;
    desk.world.ingest("710", "b-1", 0, &json!([row("t1", "1", "A")])).await;
    desk.type_in("710", &[("A", "S", "", "", Value::Bool(false))]).await;
    assert_eq!(desk.promote("710", "r-1").await, Handled::Applied);
    assert_eq!(desk.seqs("710").await, ["2|1|0"]);
    assert_eq!(desk.rules("710").await, ["Esso|S|H|1"], "what is in force stays");
    assert_eq!(desk.outcome("710", "r-1").await["applied"], 0);
    assert_eq!(desk.world.count("710", "SELECT count(*) FROM ruleset_versions").await, 0);
    assert_eq!(desk.world.count("710", "SELECT count(*) FROM outbox_events WHERE event_type = 'rules.updated'").await, 0);
    desk.world.end().await;
}

#[tokio::test]
async fn a_source_with_two_targets_is_answered_on_both_rows_and_the_rest_goes_on() {
    let desk = Desk::new(&[("710", "app_710")]).await;
    desk.world
        .ingest(
            "710",
            "b-1",
            0,
            &json!([row("t1", "1", "Shell"), row("t2", "2", "SHELL"), row("t3", "3", "Aral"), row("t4", "4", "***"), row("t5", "5", "Esso")]),
        )
        .await;
    let typed = [
        ticked("Shell", "S", "FUEL"),
        ticked("SHELL", "S", "SHOP"),
        ticked("Aral", "S", "FUEL"),
        ticked("***", "S", "FUEL"),
        ticked("Esso", "S", ""),
    ];
    desk.type_in("710", &typed).await;
    desk.promote("710", "r-1").await;
    assert_eq!(desk.rules("710").await, ["Aral|S|FUEL|1"]);
    assert_eq!(desk.open("710").await, ["***|invalid", "Esso|incomplete", "SHELL|conflict", "Shell|conflict"]);
    assert_eq!(
        desk.outcome("710", "r-1").await,
        json!({"applied": 1, "changed": 1, "conflicts": 1, "incomplete": 1, "invalid": 1, "replayed": 1, "tab_read": true})
    );
    // Asked again with nothing mended: the same answers, and no tab is due for them.
    let before = desk.seqs("710").await;
    desk.promote("710", "r-2").await;
    assert_eq!(desk.seqs("710").await[0][1..], before[0][1..]);
    // The person decides for one target: what was in conflict before is no more.
    desk.type_in("710", &[ticked("Shell", "S", "FUEL")]).await;
    desk.promote("710", "r-3").await;
    assert_eq!(desk.rules("710").await, ["Aral|S|FUEL|1", "Shell|S|FUEL|2"]);
    assert_eq!(desk.open("710").await, ["***|invalid", "Esso|incomplete"]);
    desk.world.assert_each_decided_once("710").await;
    desk.world.end().await;
}

#[tokio::test]
async fn rules_that_sql_alone_approved_are_promoted_also_in_shadow() {
    let desk = Desk::new(&[("710", "app_710")]).await;
    desk.world.ingest("710", "b-1", 0, &json!([row("t1", "1", "Shell"), row("t2", "2", "Aral")])).await;
    let insert = |source: &str, header: &str, approved: bool| {
        format!(
            "INSERT INTO rules_pending(company_id, source, target_sheet, target_header, approved) VALUES ('710', '{source}', 'S', '{header}', {approved})"
        )
    };
    for sql in [insert("SHELL", "FUEL", true), insert("Aral", "FUEL", false), insert("Esso", "", true), insert("!!", "X", true)] {
        desk.world.sql("710", &sql).await;
    }
    let shadow = Desk::with(&desk.world, &desk.clock, None, BTreeSet::new());
    assert_eq!(shadow.apply(&desk.request("710", "r-1")).await.unwrap(), Handled::Applied);
    assert_eq!(desk.rules("710").await, ["SHELL|S|FUEL|1"]);
    assert_eq!(desk.open("710").await, ["Aral|"]);
    let pending =
        "SELECT source AS a, source_norm AS b, split_part(answer, ':', 1) AS c, promoted_in AS d FROM rules_pending ORDER BY source COLLATE \"C\"";
    assert_eq!(desk.world.rows("710", pending).await, ["!!||invalid|-", "Aral|-||-", "Esso|esso|incomplete|-", "SHELL|shell||1"]);
    // A conflict between what SQL and what the tab says.
    desk.world.sql("710", &insert("aral", "SHOP", true)).await;
    desk.type_in("710", &[ticked("Aral", "S", "FUEL")]).await;
    desk.promote("710", "r-2").await;
    assert_eq!(desk.open("710").await, ["Aral|conflict"]);
    assert_eq!(desk.rules("710").await, ["SHELL|S|FUEL|1"]);
    desk.world.end().await;
}

#[tokio::test]
async fn i3_a_company_outside_the_canary_list_is_promoted_without_a_look_at_its_tab() {
    let desk = Desk::new(&[("710", "app_both"), ("711", "app_both")]).await;
    let promote = Desk::with(&desk.world, &desk.clock, Some(Arc::clone(&desk.tab) as Arc<_>), BTreeSet::from(["711".to_owned()]));
    promote.apply(&desk.request("710", "r-1")).await.unwrap();
    assert_eq!(*desk.tab.reads.lock().unwrap(), 0);
    promote.apply(&desk.request("711", "r-1")).await.unwrap();
    assert_eq!(*desk.tab.reads.lock().unwrap(), 1);
    desk.world.end().await;
}

#[tokio::test]
async fn rules_a_to_b_to_a_are_three_versions_and_old_decisions_stand() {
    let desk = Desk::new(&[("710", "app_710")]).await;
    for (version, header) in [(1, "A"), (2, "B"), (3, "A")] {
        desk.clock.advance(std::time::Duration::from_secs(60));
        desk.world.ingest("710", &format!("b-{version}"), version, &json!([row(&format!("t{version}"), &version.to_string(), "Other")])).await;
        desk.world.sql("710", &format!("INSERT INTO rules_pending(company_id, source, target_sheet, target_header, approved) VALUES ('710', 'Shell', 'S', '{header}', true)")).await;
        desk.promote("710", &format!("r-{version}")).await;
        assert_eq!(desk.rules("710").await, [format!("Shell|S|{header}|{version}")]);
        desk.world.ingest("710", &format!("c-{version}"), version, &json!([row(&format!("s{version}"), &version.to_string(), "shell")])).await;
    }
    let matched = "SELECT amount_cents AS a, target_header AS b, ruleset_version AS c FROM matched_txns ORDER BY 1";
    assert_eq!(desk.world.rows("710", matched).await, ["100|A|1", "200|B|2", "300|A|3"]);
    assert_eq!(desk.world.count("710", "SELECT count(DISTINCT checksum) FROM ruleset_versions").await, 2);
    let times = "SELECT (extract(epoch FROM effective_at - created_at))::int AS a FROM rules_active";
    assert_eq!(desk.world.rows("710", times).await, ["120"], "effective since its present content, created with its first");
    desk.world.end().await;
}

#[tokio::test]
async fn i7_an_approval_given_to_other_content_does_not_count() {
    let desk = Desk::new(&[("710", "app_710")]).await;
    desk.world.ingest("710", "b-1", 0, &json!([row("t1", "1", "Shell"), row("t2", "2", "Aral")])).await;
    desk.type_in("710", &[ticked("Shell", "S", "FUEL"), ticked("Aral", "S", "FUEL")]).await;
    // The correction arrives after the person ticked the row, and before the tab shows it.
    desk.world.ingest("710", "b-2", 1, &json!([row("t1", "1", "Shell Recharge")])).await;
    desk.promote("710", "r-1").await;
    assert_eq!(desk.rules("710").await, ["Aral|S|FUEL|1"]);
    assert_eq!(desk.open("710").await, ["Shell Recharge|"]);
    // With nothing else to do, the tab is due all the same: the tick must go, and Status must say why.
    desk.promote("710", "r-2").await;
    assert_eq!(desk.seqs("710").await, ["4|4|3"]);
    desk.world.end().await;
}

#[tokio::test]
async fn i7_what_was_typed_in_a_row_that_leaves_unapplied_is_kept() {
    let desk = Desk::new(&[("710", "app_710")]).await;
    desk.world.ingest("710", "b-1", 0, &json!([row("t1", "1", "Shell"), row("t2", "2", "SHELL")])).await;
    desk.type_in("710", &[ticked("Shell", "S", "FUEL"), ("SHELL", "S", "SHOP", "maybe", Value::Bool(false))]).await;
    desk.promote("710", "r-1").await;
    assert_eq!(desk.open("710").await, Vec::<String>::new());
    let left = "SELECT source AS a, target_header AS b, match_notes AS c, approved AS d, origin AS e FROM rules_pending WHERE origin = 'left'";
    assert_eq!(desk.world.rows("710", left).await, ["SHELL|SHOP|maybe|false|left"]);
    desk.world.end().await;
}

#[tokio::test]
async fn while_the_tab_cannot_be_read_the_request_waits_and_nothing_is_written() {
    let desk = Desk::new(&[("710", "app_710")]).await;
    desk.world
        .sql("710", "INSERT INTO rules_pending(company_id, source, target_sheet, target_header, approved) VALUES ('710', 'Shell', 'S', 'H', true)")
        .await;
    let set = |unread: TabUnread| desk.tab.tabs.lock().unwrap().insert("710".to_owned(), Err(unread));
    set(TabUnread::Wait("503".to_owned()));
    assert!(matches!(desk.promote.apply(&desk.request("710", "r-1")).await, Err(Stuck::Down { .. })));
    set(TabUnread::Parked("not shared".to_owned()));
    assert!(matches!(desk.promote.apply(&desk.request("710", "r-1")).await, Err(Stuck::Parked { .. })));
    assert_eq!(desk.rules("710").await, Vec::<String>::new());
    assert_eq!(desk.world.count("710", "SELECT count(*) FROM promote_requests").await, 0);
    desk.tab.tabs.lock().unwrap().clear();
    assert_eq!(desk.promote("710", "r-1").await, Handled::Applied);
    assert_eq!(desk.rules("710").await, ["Shell|S|H|1"]);
    desk.world.end().await;
}

#[tokio::test]
async fn a_source_of_sixty_thousand_characters_can_be_a_rule() {
    let desk = Desk::new(&[("710", "app_710")]).await;
    let long = "é x".repeat(20_000);
    desk.world
        .ingest("710", "b-1", 0, &json!([row("t1", "1", &long), row("t2", "1", &long.to_uppercase()), row("t3", "1", &format!("{long}y"))]))
        .await;
    let mut conn = desk.world.conn("710").await;
    sqlx::query("INSERT INTO rules_pending(company_id, source, target_sheet, target_header, approved) VALUES ('710', $1, 'S', 'H', true)")
        .bind(&long)
        .execute(&mut conn)
        .await
        .unwrap();
    desk.promote("710", "r-1").await;
    assert_eq!(desk.world.count("710", "SELECT count(*) FROM matched_txns").await, 2);
    assert_eq!(desk.open("710").await.len(), 1);
    desk.world.end().await;
}

#[tokio::test]
async fn a_promotion_that_the_database_rejects_is_a_dead_letter() {
    let desk = Desk::new(&[("710", "app_710")]).await;
    desk.world.sql("710", "ALTER TABLE rules_active ADD CONSTRAINT no_shell CHECK (source_norm <> 'shell')").await;
    desk.world
        .sql("710", "INSERT INTO rules_pending(company_id, source, target_sheet, target_header, approved) VALUES ('710', 'Shell', 'S', 'H', true)")
        .await;
    assert_eq!(desk.promote("710", "r-1").await, Handled::DeadLettered);
    let letters = "SELECT kind AS a, class AS b, company_id AS c FROM control.dead_letters";
    assert_eq!(desk.world.rows("710", letters).await, ["message|rejected_by_database|710"]);
    desk.world.end().await;
}

#[tokio::test]
async fn i11_a_promote_and_an_ingest_at_the_same_moment_leave_no_open_row_with_a_rule() {
    let desk = Desk::new(&[("710", "app_710")]).await;
    for round in 0..60_i64 {
        let source = format!("Source {}", round / 2);
        desk.world.sql("710", &format!("INSERT INTO rules_pending(company_id, source, target_sheet, target_header, approved) VALUES ('710', '{source}', 'S', 'H{round}', true)")).await;
        let works: Vec<_> = (0..3).map(|n| desk.world.batch("710", "b", round, &json!([row(&format!("t{round}-{n}"), "1", &source)]))).collect();
        let (ingest, promote, request) = (Arc::clone(&desk.world.ingest), Arc::clone(&desk.promote), desk.request("710", &format!("r-{round}")));
        let barrier = Arc::new(tokio::sync::Barrier::new(2));
        let other = Arc::clone(&barrier);
        let ingesting = tokio::spawn(async move {
            other.wait().await;
            for work in works {
                assert!(matches!(ingest.apply(vec![work]).await[..], [Ok(Handled::Applied)]));
            }
        });
        barrier.wait().await;
        assert_eq!(promote.apply(&request).await.unwrap(), Handled::Applied);
        ingesting.await.unwrap();
        assert_eq!(desk.open("710").await, Vec::<String>::new(), "round {round}");
    }
    desk.world.assert_each_decided_once("710").await;
    assert_eq!(desk.world.count("710", "SELECT count(*) FROM matched_txns").await, 180);
    // The ledger of a company has no two effects at one place.
    let seqs = desk
        .world
        .count("710", "SELECT count(DISTINCT seq) - count(*) FROM (SELECT seq FROM ingest_batches UNION ALL SELECT seq FROM promote_requests) s")
        .await;
    assert_eq!(seqs, 0);
    desk.world.end().await;
}

#[tokio::test]
async fn posters_are_told_when_a_promotion_makes_a_tab_due() {
    let desk = Desk::new(&[("710", "app_710")]).await;
    let mut listener = sqlx::postgres::PgListener::connect(&desk.world.dsn).await.unwrap();
    listener.listen("kylo_due").await.unwrap();
    desk.world.ingest("710", "b-1", 0, &json!([row("t1", "1", "Shell")])).await;
    let told = tokio::time::timeout(std::time::Duration::from_secs(120), listener.recv()).await.unwrap().unwrap();
    assert_eq!(told.payload(), "710");
    desk.type_in("710", &[ticked("Shell", "S", "H")]).await;
    desk.promote("710", "r-1").await;
    let told = tokio::time::timeout(std::time::Duration::from_secs(120), listener.recv()).await.unwrap().unwrap();
    assert_eq!(told.payload(), "710");
    drop(listener);
    desk.world.end().await;
}

#[tokio::test]
async fn a_frozen_transaction_of_another_session_delays_a_promotion_only_until_its_lock_times_out() {
    let desk = Desk::new(&[("710", "app_710")]).await;
    desk.world.ingest("710", "b-1", 0, &json!([row("t1", "1", "Shell")])).await;
    let mut other = desk.world.conn("710").await;
    let mut lock = other.begin().await.unwrap();
    lock.execute("SELECT 1 FROM company_state WHERE company_id = '710' FOR UPDATE").await.unwrap();
    assert!(matches!(desk.promote.apply(&desk.request("710", "r-1")).await, Err(Stuck::Down { .. })));
    lock.rollback().await.unwrap();
    assert_eq!(desk.promote("710", "r-1").await, Handled::Applied);
    desk.world.end().await;
}
