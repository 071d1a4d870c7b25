//! Many at once: companies, rows, workers, and two workers on one company.

use std::collections::BTreeMap;

use serde_json::Value;

use super::messages::{batch, row};
use super::world::{Mode, World};

const TEN: [&str; 10] = ["701", "702", "703", "704", "705", "706", "707", "708", "709", "710"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_companies_times_three_messages_on_sixteen_partitions_each_arrive_once_and_in_order() {
    let mut world = World::with_partitions(16).await;
    world.add(&TEN).await;
    world.start(&Mode::Post);
    // Each message corrects the row of the one before, so the last one must win.
    for n in 1..=3 {
        let messages: Vec<Value> = TEN
            .iter()
            .map(|id| {
                batch(id, &format!("b-{n}"), n, &[row("same", &format!("{n}.00"), "CORRECTED"), row(&format!("t{n}"), "1.00", &format!("ROW {n}"))])
            })
            .collect();
        world.publish_all(&messages).await;
    }
    for company in TEN {
        world.pending_shows(company, &["CORRECTED", "ROW 1", "ROW 2", "ROW 3"]).await;
    }
    world.settled(&TEN).await;
    for company in TEN {
        let seqs = world.texts(company, "SELECT batch_id FROM ingest_batches ORDER BY seq").await;
        assert_eq!(seqs, ["b-1", "b-2", "b-3"], "I6: order of {company}");
        assert_eq!(world.pending_row(company, "CORRECTED").unwrap().cells["Amount"].value, 3.0, "{company}");
        world.assert_decided_once(company).await;
        world.assert_tab_equals_postgres(company).await;
    }
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_rows_in_one_message_appear_in_the_tab_by_a_few_calls() {
    let mut world = World::new().await;
    world.add(&["710"]).await;
    world.start(&Mode::Post);
    let rows: Vec<Value> = (0..5_000).map(|n| row(&format!("t{n}"), &format!("{}.{:02}", n / 100, n % 100), &format!("SOURCE {n}"))).collect();
    let at = [world.publish(&batch("710", "b-1", 0, &rows)).await];
    world.consumed(&at).await;
    world.company_counts("710", "SELECT count(*) FROM pending_txns WHERE status = 'open'", 5_000).await;
    world.settled(&["710"]).await;
    world.assert_tab_equals_postgres("710").await;
    assert!(world.applied("710") <= 4, "{} calls for 5,000 rows", world.applied("710"));
    let posted = world.control_number("SELECT sum(row_count)::bigint FROM control.sheet_posts").await;
    assert_eq!(posted, 5_000, "the ledger counts each row once");
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_two_workers_and_rebalances_in_the_middle_apply_everything_once_and_in_order() {
    let mut world = World::with_partitions(8).await;
    world.add(&TEN[..6]).await;
    let companies = &TEN[..6];
    world.start(&Mode::Post);
    let total = 40;
    for n in 0..total {
        let messages: Vec<Value> = companies
            .iter()
            .map(|id| {
                batch(
                    id,
                    &format!("b-{n:02}"),
                    n,
                    &[row("same", &format!("{}.00", n + 1), "RUNNING"), row(&format!("t{n}"), "1.00", &format!("ROW {n}"))],
                )
            })
            .collect();
        world.publish_all(&messages).await;
        match n {
            // A second worker takes partitions over, the first one leaves, a third comes.
            10 => world.start(&Mode::Post),
            20 => world.stop_nth(0).await,
            30 => world.start(&Mode::Post),
            _ => {}
        }
    }
    let batches: Vec<String> = (0..total).map(|n| format!("b-{n:02}")).collect();
    for company in companies {
        world.company_counts(company, "SELECT count(*) FROM ingest_batches", total).await;
        assert_eq!(world.texts(company, "SELECT batch_id FROM ingest_batches ORDER BY seq").await, batches, "I6: order of {company}");
    }
    world.settled(companies).await;
    for company in companies {
        assert_eq!(world.pending_row(company, "RUNNING").unwrap().cells["Amount"].value, f64::from(u8::try_from(total).unwrap()), "{company}");
        world.assert_decided_once(company).await;
        world.assert_tab_equals_postgres(company).await;
    }
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_promotes_and_ingests_of_one_company_at_the_same_moment_leave_no_open_row_with_a_rule() {
    let mut world = World::new().await;
    world.add(&["710"]).await;
    world.start(&Mode::Post);
    let sources = ["COFFEE", "TAXI", "RENT", "HOTEL", "FUEL", "BREAD"];
    let rows = |n: usize| -> Vec<Value> { sources.iter().map(|source| row(&format!("{source}{n}"), "-1.00", source)).collect() };
    let at = [world.publish(&batch("710", "b-start", 0, &rows(0))).await];
    world.consumed(&at).await;
    world.pending_shows("710", &sources).await;
    let mut last = Vec::new();
    for (n, source) in sources.iter().enumerate() {
        let sql = format!(
            "INSERT INTO rules_pending (company_id, source, target_sheet, target_header, approved) VALUES ('710', '{source}', 'OPEX', 'H{n}', TRUE)"
        );
        world.execute("710", &sql).await;
        let message = batch("710", &format!("b-{n}"), i64::try_from(n).unwrap(), &rows(n + 1));
        let request = format!("r-{n}");
        let (published, ()) = tokio::join!(world.publish(&message), world.promote("710", &request));
        last.push(published);
    }
    world.consumed(&last).await;
    for n in 0..sources.len() {
        world.promoted("710", &format!("r-{n}")).await;
    }
    world.assert_decided_once("710").await;
    assert_eq!(
        world.number("710", "SELECT count(*) FROM matched_txns WHERE state = 'queued'").await,
        42,
        "six rows of each of six sources and the first six"
    );
    world.pending_shows("710", &[]).await;
    world.settled(&["710"]).await;
    let active: BTreeMap<String, String> =
        world.active("710").iter().map(|row| (row.shown("Source").to_owned(), row.shown("Target_Header").to_owned())).collect();
    assert_eq!(active.len(), sources.len());
    assert_eq!(active["FUEL"], "H4");
    world.end_with_zero("in the end").await;
}
