//! Ingest against real Postgres.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod company_world;
#[path = "ingest/histories.rs"]
mod histories;

use std::sync::Arc;
use std::time::Duration;

use company_world::{World, row};
use kylo::flow::ingest::{Ingest, IngestOptions, NoMetrics};
use kylo::flow::work::{Handled, Stuck, TxnsWork};
use kylo::store::pools::{PoolOptions, Pools, lazy_pool};
use serde_json::{Value, json};
use sqlx::{Connection, Executor};

const TXNS: &str = "SELECT external_id AS a, amount_cents AS b, description AS c, void AS d FROM transactions WHERE company_id = $1 ORDER BY 1";
const PENDING: &str = "SELECT description AS a, amount_cents AS b, status AS c, answer AS d FROM pending_txns WHERE company_id = $1 ORDER BY 1, 2";
const MATCHED: &str =
    "SELECT amount_cents AS a, revision AS b, state AS c, target_sheet AS d, target_header AS e FROM matched_txns WHERE company_id = $1 ORDER BY 1";

async fn seqs(world: &World, company: &str) -> Vec<String> {
    world.rows(company, "SELECT seq AS a, pending_seq AS b, changed_seq AS c FROM company_state WHERE company_id = $1").await
}

#[tokio::test]
async fn i1_a_batch_is_applied_once_however_often_it_is_delivered() {
    let world = World::new(&[("710", "app_710")]).await;
    let rows = json!([row("t1", "-12.34", "STARBUCKS"), row("t2", "5", "Shell 42")]);
    assert_eq!(world.ingest("710", "b-1", 0, &rows).await, Handled::Applied);
    let after_first = seqs(&world, "710").await;
    assert_eq!(world.ingest("710", "b-1", 0, &rows).await, Handled::Duplicate);
    assert_eq!(world.ingest("710", "b-1 under another name", 0, &rows).await, Handled::Duplicate);
    assert_eq!(seqs(&world, "710").await, after_first, "a repetition changes nothing that a tab or a reader could see");
    assert_eq!(world.rows("710", PENDING).await, ["STARBUCKS|-1234|open|", "Shell 42|500|open|"]);
    assert_eq!(world.rows("710", "SELECT batch_id AS a, deliveries AS b FROM ingest_batches WHERE company_id = $1").await, ["b-1|3"]);
    assert_eq!(world.rows("710", "SELECT batch_id AS a FROM ingest_batch_ids WHERE company_id = $1").await, ["b-1 under another name"]);
    assert_eq!(world.count("710", "SELECT count(*) FROM outbox_events WHERE event_type = 'batch.ingested'").await, 1);
    assert_eq!(world.count("710", "SELECT count(*) FROM outbox_events WHERE event_type = 'pending.ready'").await, 1);
    world.assert_each_decided_once("710").await;
    world.end().await;
}

#[tokio::test]
async fn going_back_to_an_older_content_comes_out_right() {
    let world = World::new(&[("710", "app_710")]).await;
    let (ten, twelve) = (json!([row("t1", "10", "A")]), json!([row("t1", "12", "A")]));
    for (batch, minute, rows, cents) in [("b-1", 0, &ten, 1000), ("b-2", 1, &twelve, 1200), ("b-3", 2, &ten, 1000)] {
        assert_eq!(world.ingest("710", batch, minute, rows).await, Handled::Applied);
        assert_eq!(world.rows("710", TXNS).await, [format!("t1|{cents}|A|false")]);
        assert_eq!(world.rows("710", PENDING).await, [format!("A|{cents}|open|")]);
    }
    // Redelivered in any order: the first two are older than what stands, the third is what stands.
    for (batch, minute, rows) in [("b-2", 1, &twelve), ("b-1", 0, &ten), ("b-3", 2, &ten), ("b-2", 1, &twelve)] {
        assert_eq!(world.ingest("710", batch, minute, rows).await, Handled::Duplicate);
        assert_eq!(world.rows("710", TXNS).await, ["t1|1000|A|false"]);
    }
    world.end().await;
}

#[tokio::test]
async fn an_older_row_changes_nothing_and_a_tie_goes_to_the_later_arrival() {
    let world = World::new(&[("710", "app_710")]).await;
    world.ingest("710", "b-2", 5, &json!([row("t1", "12", "A")])).await;
    world.ingest("710", "b-1", 4, &json!([row("t1", "10", "A")])).await;
    assert_eq!(world.rows("710", TXNS).await, ["t1|1200|A|false"]);
    assert_eq!(world.tally.of("stale"), 1);
    world.ingest("710", "b-3", 5, &json!([row("t1", "13", "A")])).await;
    assert_eq!(world.rows("710", TXNS).await, ["t1|1300|A|false"]);
    // Equal content only raises as_of: what was newer before is older now.
    world.ingest("710", "b-4", 9, &json!([row("t1", "13", "A")])).await;
    world.ingest("710", "b-5", 8, &json!([row("t1", "14", "A")])).await;
    assert_eq!(world.rows("710", TXNS).await, ["t1|1300|A|false"]);
    world.end().await;
}

#[tokio::test]
async fn a_void_leaves_pending_or_withdraws_the_match_and_can_be_taken_back() {
    let world = World::new(&[("710", "app_710")]).await;
    world.rule("710", "Coffee", "OPEX", "COFFEE").await;
    let void = |id: &str, description: &str| json!([{"id": id, "date": "2025-08-26", "amount": 1, "description": description, "void": true}]);
    world.ingest("710", "b-1", 0, &json!([row("c", "1", "COFFEE"), row("x", "1", "Xylophone")])).await;
    assert_eq!(world.rows("710", MATCHED).await, ["100|1|queued|OPEX|COFFEE"]);
    world.ingest("710", "b-2", 1, &void("c", "COFFEE")).await;
    world.ingest("710", "b-3", 1, &void("x", "Xylophone")).await;
    assert_eq!(world.rows("710", MATCHED).await, ["100|1|withdrawn|OPEX|COFFEE"]);
    assert_eq!(world.rows("710", PENDING).await, ["Xylophone|100|resolved|"]);
    world.assert_each_decided_once("710").await;
    world.ingest("710", "b-4", 2, &json!([row("c", "1", "COFFEE"), row("x", "1", "Xylophone")])).await;
    assert_eq!(world.rows("710", MATCHED).await, ["100|2|queued|OPEX|COFFEE"]);
    assert_eq!(world.rows("710", PENDING).await, ["Xylophone|100|open|"]);
    world.assert_each_decided_once("710").await;
    // A void that comes first: known, and in neither list.
    world.ingest("710", "b-5", 3, &void("new", "COFFEE")).await;
    assert_eq!(world.count("710", "SELECT count(*) FROM transactions").await, 3);
    world.assert_each_decided_once("710").await;
    world.end().await;
}

#[tokio::test]
async fn a_correction_is_decided_again() {
    let world = World::new(&[("710", "app_710")]).await;
    world.rule("710", "Coffee", "OPEX", "COFFEE").await;
    world.ingest("710", "b-1", 0, &json!([row("t", "1", "COFFEE")])).await;
    world.sql("710", "UPDATE matched_txns SET state = 'taken'").await;
    world.ingest("710", "b-2", 1, &json!([row("t", "2", "coffee!")])).await;
    assert_eq!(world.rows("710", MATCHED).await, ["200|2|queued|OPEX|COFFEE"], "a match that still holds is queued again, one revision up");
    world.ingest("710", "b-3", 2, &json!([row("t", "2", "TEA")])).await;
    assert_eq!(world.rows("710", MATCHED).await, ["200|2|withdrawn|OPEX|COFFEE"]);
    assert_eq!(world.rows("710", PENDING).await, ["TEA|200|open|"]);
    world.ingest("710", "b-4", 3, &json!([row("t", "2", "COFFEE")])).await;
    assert_eq!(world.rows("710", MATCHED).await, ["200|3|queued|OPEX|COFFEE"]);
    assert_eq!(world.rows("710", PENDING).await, ["COFFEE|200|resolved|"]);
    world.assert_each_decided_once("710").await;
    world.end().await;
}

#[tokio::test]
async fn i11_a_version_that_a_restored_database_gives_out_again_has_its_own_rules() {
    let world = World::new(&[("710", "app_710")]).await;
    let version = |checksum: &str| {
        format!("INSERT INTO ruleset_versions (company_id, version, checksum, snapshot, seq) VALUES ('710', 1, '{checksum}', '[]', 1)")
    };
    world.rule("710", "Coffee", "OPEX", "COFFEE").await;
    world.sql("710", &version("one")).await;
    world.ingest("710", "b-1", 0, &json!([row("t1", "1", "COFFEE")])).await;
    world.sql("710", "DELETE FROM rules_active; DELETE FROM ruleset_versions; UPDATE company_state SET ruleset_version = 0").await;
    world.rule("710", "Tea", "OPEX", "TEA").await;
    world.sql("710", &version("another")).await;
    world.ingest("710", "b-2", 1, &json!([row("t2", "2", "COFFEE"), row("t3", "3", "TEA")])).await;
    assert_eq!(world.rows("710", MATCHED).await, ["100|1|queued|OPEX|COFFEE", "300|1|queued|OPEX|TEA"]);
    assert_eq!(world.rows("710", PENDING).await, ["COFFEE|200|open|"]);
    world.end().await;
}

#[tokio::test]
async fn an_answer_goes_when_the_row_describes_something_else_and_stays_when_it_does_not() {
    let world = World::new(&[("710", "app_710")]).await;
    world.ingest("710", "b-1", 0, &json!([row("t", "1", "TEA")])).await;
    world.sql("710", "UPDATE pending_txns SET answer = 'conflict: two targets', answer_input = 'x'").await;
    world.ingest("710", "b-2", 1, &json!([row("t", "2", "TEA")])).await;
    assert_eq!(world.rows("710", PENDING).await, ["TEA|200|open|conflict: two targets"]);
    world.ingest("710", "b-3", 2, &json!([row("t", "2", "GREEN TEA")])).await;
    assert_eq!(world.rows("710", PENDING).await, ["GREEN TEA|200|open|"]);
    world.end().await;
}

#[tokio::test]
async fn the_pending_tab_is_due_exactly_when_what_it_shows_changes() {
    let world = World::new(&[("710", "app_710")]).await;
    world.rule("710", "Coffee", "OPEX", "COFFEE").await;
    let memo = |memo: &str| json!([{"id": "t", "date": "2025-08-26", "amount": "1", "description": "TEA", "memo": memo}]);
    world.ingest("710", "b-1", 0, &memo("a")).await;
    assert_eq!(seqs(&world, "710").await, ["1|1|0"]);
    world.ingest("710", "b-2", 1, &memo("b")).await;
    assert_eq!(seqs(&world, "710").await, ["2|1|2"], "a memo is not shown, but a correction");
    world.ingest("710", "b-3", 2, &json!([row("m", "1", "COFFEE")])).await;
    assert_eq!(seqs(&world, "710").await, ["3|1|2"], "a matched row never was in the tab");
    world.ingest("710", "b-4", 3, &json!([row("t", "3", "TEA")])).await;
    assert_eq!(seqs(&world, "710").await, ["4|4|4"]);
    world.ingest("710", "b-5", 2, &json!([row("t", "4", "TEA")])).await;
    assert_eq!(seqs(&world, "710").await, ["5|4|4"], "a stale row shows nothing new");
    world.end().await;
}

#[tokio::test]
async fn rows_without_id_are_one_by_their_facts_and_occurrence() {
    let world = World::new(&[("710", "app_710")]).await;
    let coffee = json!({"date": "2025-08-26", "amount": "-3.50", "description": "COFFEE"});
    world.ingest("710", "b-1", 0, &json!([coffee, coffee])).await;
    assert_eq!(world.count("710", "SELECT count(*) FROM transactions").await, 2, "two equal purchases stay two");
    world.ingest("710", "b-1", 0, &json!([coffee, coffee])).await;
    world.ingest("710", "b-2", 1, &json!([coffee])).await;
    assert_eq!(world.count("710", "SELECT count(*) FROM transactions").await, 2);
    assert_eq!(world.tally.of("collapsed"), 1);
    world.ingest("710", "b-3", 2, &json!([coffee, coffee, coffee])).await;
    assert_eq!(world.count("710", "SELECT count(*) FROM transactions").await, 3);
    world.assert_each_decided_once("710").await;
    world.end().await;
}

#[tokio::test]
async fn bad_rows_become_dead_letters_and_the_good_ones_are_applied() {
    let world = World::new(&[("710", "app_710")]).await;
    let rows = json!([row("t1", "1", "A"), {"id": "t2"}, row("t3", "1", "A"), row("t3", "2", "A")]);
    assert_eq!(world.ingest("710", "b-1", 0, &rows).await, Handled::Applied);
    assert_eq!(world.count("710", "SELECT count(*) FROM transactions").await, 1);
    let letters = "SELECT pointer AS a, class AS b, kind AS c, envelope->>'batch_id' AS d FROM control.dead_letters ORDER BY pointer";
    assert_eq!(
        world.rows("710", letters).await,
        ["/transactions/1|missing_field|row|b-1", "/transactions/2|duplicate_id|row|b-1", "/transactions/3|duplicate_id|row|b-1"]
    );
    let all_bad = json!([{"id": "t2"}]);
    assert_eq!(world.ingest("710", "b-2", 1, &all_bad).await, Handled::DeadLettered);
    assert_eq!(world.ingest("710", "b-3", 2, &all_bad).await, Handled::DeadLettered);
    let ledger = world.rows("710", "SELECT batch_id AS a, row_count AS b, bad_count AS c FROM ingest_batches ORDER BY seq").await;
    assert_eq!(ledger, ["b-1|1|3", "b-2|0|1"], "a ledger row with none");
    world.end().await;
}

#[tokio::test]
async fn five_thousand_rows_of_one_message_are_applied_at_once() {
    let world = World::new(&[("710", "app_710")]).await;
    world.rule("710", "Source 7", "S", "H").await;
    let rows: Vec<Value> = (0..5_000).map(|n| row(&format!("t{n}"), &format!("{}.{:02}", n / 100, n % 100), &format!("Source {}", n % 50))).collect();
    assert_eq!(world.ingest("710", "b-1", 0, &Value::from(rows)).await, Handled::Applied);
    assert_eq!(world.count("710", "SELECT count(*) FROM pending_txns WHERE status = 'open'").await, 4_900);
    assert_eq!(world.count("710", "SELECT count(*) FROM matched_txns").await, 100);
    assert_eq!(world.count("710", "SELECT sum(amount_cents)::bigint FROM transactions").await, (0..5_000).sum::<i64>());
    world.assert_each_decided_once("710").await;
    world.end().await;
}

#[tokio::test]
async fn companies_that_share_a_schema_share_nothing_else() {
    let world = World::new(&[("710", "app_both"), ("711", "app_both")]).await;
    world.rule("711", "STARBUCKS", "S", "H").await;
    let rows = json!([row("t1", "1", "STARBUCKS")]);
    let works = [world.batch("711", "b-1", 0, &rows), world.batch("710", "b-1", 0, &rows)];
    assert!(world.apply(&works).await.iter().all(|result| matches!(result, Ok(Handled::Applied))));
    assert_eq!(world.rows("710", PENDING).await, ["STARBUCKS|100|open|"]);
    assert_eq!(world.rows("711", PENDING).await, Vec::<String>::new());
    assert_eq!(world.rows("711", MATCHED).await, ["100|1|queued|S|H"]);
    world.end().await;
}

#[tokio::test]
async fn i2_a_pooled_connection_never_writes_into_another_companys_schema() {
    let companies: Vec<(String, String)> = (0..8).map(|n| (format!("c{n}"), format!("app_{n}"))).collect();
    let borrowed: Vec<(&str, &str)> = companies.iter().map(|(c, s)| (c.as_str(), s.as_str())).collect();
    let world = World::new(&borrowed).await;
    let pools = Pools::new(PoolOptions { max_connections: 1, ..PoolOptions::default() });
    let ingest = Arc::new(Ingest::new(IngestOptions { control: world.control.clone(), pools: Arc::clone(&pools), metrics: Arc::new(NoMetrics) }));
    for round in 0..5 {
        let mut tasks = tokio::task::JoinSet::new();
        for (company, _) in &companies {
            let bad = json!([row("t", "99999999999999", company), row(&format!("r{round}"), "1", company)]);
            let works = vec![world.batch(company, &format!("b-{round}"), round, &bad)];
            let ingest = Arc::clone(&ingest);
            tasks.spawn(async move { ingest.apply(works).await });
        }
        while let Some(results) = tasks.join_next().await {
            assert!(results.unwrap().iter().all(Result::is_ok));
        }
    }
    for (company, _) in &companies {
        for table in ["transactions", "pending_txns", "ingest_batches", "outbox_events", "company_state"] {
            let foreign = world.count(company, &format!("SELECT count(*) FROM {table} WHERE company_id <> '{company}'")).await;
            assert_eq!(foreign, 0, "{table} of {company}");
        }
        assert_eq!(world.count(company, "SELECT count(*) FROM transactions").await, 6);
    }
    pools.close().await;
    world.end().await;
}

const TRIGGER: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.company_id = 'bad' AND NEW.description LIKE '%poison%' THEN RAISE EXCEPTION 'not %', NEW.description; END IF; RETURN NEW; END $$;
    CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON transactions FOR EACH ROW EXECUTE FUNCTION refuse()";

#[tokio::test]
async fn a_company_whose_trigger_raises_inside_a_coalesced_transaction_costs_its_row_and_nobody_elses() {
    let world = World::new(&[("bad", "app_both"), ("good", "app_both")]).await;
    world.sql("bad", TRIGGER).await;
    let mut rows: Vec<Value> = (0..20).map(|n| row(&format!("t{n}"), "1", "fine")).collect();
    rows[13] = row("t13", "1", "poison");
    rows[4] = row("t4", "1", "also poison");
    let works = [
        world.batch("good", "g-1", 0, &json!([row("t", "1", "fine")])),
        world.batch("bad", "b-1", 0, &json!([row("first", "1", "fine")])),
        world.batch("bad", "b-2", 1, &Value::from(rows)),
        world.batch("bad", "b-3", 2, &json!([row("last", "1", "fine")])),
        world.batch("bad", "b-4", 3, &json!([row("t13", "1", "poison")])),
        world.batch("good", "g-2", 1, &json!([row("u", "1", "fine")])),
    ];
    let results = world.apply(&works).await;
    let outcomes: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    let expected = [Handled::Applied, Handled::Applied, Handled::Applied, Handled::Applied, Handled::DeadLettered, Handled::Applied];
    assert_eq!(outcomes, expected);
    assert_eq!(world.count("bad", "SELECT count(*) FROM transactions WHERE company_id = 'bad'").await, 20);
    assert_eq!(world.count("bad", "SELECT count(*) FROM transactions WHERE company_id = 'good'").await, 2);
    let letters = world
        .rows("bad", "SELECT batch_id AS a, pointer AS b, class AS c, convert_from(original, 'UTF8')::jsonb->>'id' AS d, reason AS e FROM control.dead_letters ORDER BY id")
        .await;
    assert_eq!(letters.len(), 3);
    for (letter, start) in letters.iter().zip([
        "b-2|/transactions/4|rejected_by_database|t4|",
        "b-2|/transactions/13|rejected_by_database|t13|",
        "b-4|/transactions/0|rejected_by_database|t13|",
    ]) {
        assert!(letter.starts_with(start), "{letter}");
        assert!(letter.contains("P0001") && !letter.contains("not poison"), "the code, not the row: {letter}");
    }
    world.assert_each_decided_once("bad").await;
    // Once the trigger is gone, replaying the row alone applies it: what was set aside was not entered in the ledger.
    world.sql("bad", "DROP TRIGGER refuse ON transactions").await;
    assert_eq!(world.ingest("bad", "b-4", 3, &json!([row("t13", "1", "poison")])).await, Handled::Applied);
    assert_eq!(world.count("bad", "SELECT count(*) FROM transactions WHERE company_id = 'bad'").await, 21);
    world.end().await;
}

#[tokio::test]
async fn what_is_rejected_only_as_a_whole_becomes_one_dead_letter() {
    let world = World::new(&[("710", "app_710")]).await;
    world.sql("710", "ALTER TABLE ingest_batches ADD CONSTRAINT no_b1 CHECK (batch_id <> 'b-1')").await;
    let works = [world.batch("710", "b-1", 0, &json!([row("t", "1", "A")])), world.batch("710", "b-2", 1, &json!([row("u", "1", "A")]))];
    let results: Vec<_> = world.apply(&works).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(results, [Handled::DeadLettered, Handled::Applied]);
    assert_eq!(world.rows("710", TXNS).await, ["u|100|A|false"]);
    world.end().await;
}

#[tokio::test]
async fn a_missing_or_old_schema_parks_its_company_only() {
    let mut world = World::new(&[("710", "app_710"), ("old", "app_old")]).await;
    world.add("lost", "app_nowhere");
    world.sql("old", "DELETE FROM schema_migrations").await;
    let rows = json!([row("t", "1", "A")]);
    let works: Vec<TxnsWork> = ["lost", "710", "old"].iter().map(|company| world.batch(company, "b-1", 0, &rows)).collect();
    let results = world.apply(&works).await;
    for (at, company) in [(0, "lost"), (2, "old")] {
        let Err(Stuck::Parked { company: parked, reason }) = &results[at] else { panic!("{:?}", results[at]) };
        assert_eq!(parked, company);
        assert!(reason.contains("kylo migrate"), "{reason}");
    }
    assert!(matches!(results[1], Ok(Handled::Applied)));
    // A schema that loses a table later is noticed as well, and comes back when it is mended.
    world.sql("710", "ALTER TABLE pending_txns RENAME TO gone").await;
    assert!(matches!(world.apply(&[world.batch("710", "b-2", 1, &json!([row("u", "1", "A")]))]).await[0], Err(Stuck::Parked { .. })));
    world.sql("710", "ALTER TABLE gone RENAME TO pending_txns").await;
    assert_eq!(world.ingest("710", "b-2", 1, &json!([row("u", "1", "A")])).await, Handled::Applied);
    world.migrate("app_nowhere").await;
    assert_eq!(world.ingest("lost", "b-1", 0, &rows).await, Handled::Applied);
    world.end().await;
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_down_and_its_password_is_not_told() {
    let mut world = World::new(&[("710", "app_710")]).await;
    world.add_at("far", "app_far", "postgres://kylo:s3cret-pw@127.0.0.1:1/none");
    world.add_at("odd", "app_odd", "postgres://kylo:s3cret-pw@[nonsense");
    let rows = json!([row("t", "1", "A")]);
    let far = world.apply(&[world.batch("far", "b-1", 0, &rows)]).await.remove(0);
    assert!(matches!(far, Err(Stuck::Down { .. })), "{far:?}");
    let odd = world.apply(&[world.batch("odd", "b-1", 0, &rows)]).await.remove(0);
    assert!(matches!(odd, Err(Stuck::Parked { .. })), "{odd:?}");
    assert!(!format!("{far:?}{odd:?}").contains("s3cret"));
    world.end().await;
}

#[tokio::test]
async fn a_lost_control_database_stops_everything_without_loss() {
    let world = World::new(&[("710", "app_710")]).await;
    let control =
        lazy_pool("postgres://127.0.0.1:1/none", &PoolOptions { acquire_timeout: Duration::from_millis(300), ..PoolOptions::default() }).unwrap();
    let ingest = Ingest::new(IngestOptions { control, pools: Arc::clone(&world.pools), metrics: Arc::new(NoMetrics) });
    let results = ingest.apply(vec![world.batch("710", "b-1", 0, &json!([row("t", "1", "A"), {"id": 1}]))]).await;
    assert!(matches!(results[0], Err(Stuck::Control(_))), "{results:?}");
    assert_eq!(world.count("710", "SELECT count(*) FROM transactions").await, 0, "the dead letter comes first");
    world.end().await;
}

#[tokio::test]
async fn a_company_whose_row_is_locked_does_not_hold_up_the_others_of_its_schema() {
    let world = World::new(&[("slow", "app_both"), ("710", "app_both")]).await;
    let rows = json!([row("t", "1", "A")]);
    world.ingest("slow", "b-0", 0, &rows).await;
    let mut other = world.conn("slow").await;
    let mut lock = other.begin().await.unwrap();
    lock.execute("SELECT 1 FROM company_state WHERE company_id = 'slow' FOR UPDATE").await.unwrap();
    let works = [world.batch("slow", "b-1", 1, &json!([row("u", "1", "A")])), world.batch("710", "b-1", 1, &rows)];
    let results = world.apply(&works).await;
    assert!(matches!(results[0], Err(Stuck::Down { .. })), "{results:?}");
    assert!(matches!(results[1], Ok(Handled::Applied)), "{results:?}");
    lock.rollback().await.unwrap();
    assert!(matches!(world.apply(&works).await[..], [Ok(Handled::Applied), Ok(Handled::Duplicate)]));
    world.end().await;
}
