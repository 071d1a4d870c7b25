//! The story of the crash matrix: everything that a worker does, twice, in an order that does not depend on its timing.
//!
//! A round: a batch with a bad row, poison, a batch of a company whose schema is away (held), the first batch again, corrections; then the schema
//! is back (drained); then a person approves and a promotion is asked for; then the fence is full (the epoch changes).
//! Every wait is for a state, so a worker may die at any time.

use fake_sheets::{CallRecord, Edit};
use kylo::adapters::kafka::producer::Delivered;
use serde_json::{Value, json};

use super::messages::{batch, row};
use super::world::World;

pub const ROUNDS: usize = 2;
/// The one whose schema goes away is the second.
pub const COMPANIES: [&str; 2] = ["710", "sick"];

/// The world before the first round: nobody has published anything.
pub async fn world() -> World {
    let mut world = World::with_partitions(1).await;
    world.variables.insert("KYLO_HTTP_ADDR", "127.0.0.1:0".to_owned());
    world.add(&COMPANIES).await;
    world
}

/// One round.
pub async fn round(world: &World, round: usize) {
    let of = |name: &str| format!("{name} {round}");
    in_books(world, "ALTER SCHEMA app_sick RENAME TO app_away").await;
    world.consumed(&messages(world, round).await).await;
    world.control_counts("SELECT count(*) FROM control.held_messages", 2).await;
    in_books(world, "ALTER SCHEMA app_away RENAME TO app_sick").await;
    world.control_execute("UPDATE control.company_config SET updated_at = now() WHERE company_id = 'sick'").await;
    world.control_counts("SELECT count(*) FROM control.held_messages", 0).await;
    world.control_counts("SELECT count(*) FROM control.company_trouble", 0).await;
    world.settled(&COMPANIES).await;

    world.approve("710", &of("STARBUCKS"), "OPEX", "COFFEE");
    world.type_in("710", &of("UBER"), "Match_Notes", "seen by me");
    let request = format!("r-{round}");
    world.promote("710", &request).await;
    world.promoted("710", &request).await;
    world.settled(&COMPANIES).await;

    fill_the_fence(world, "710");
    let at = world.publish(&batch("710", &of("last"), at(round, 9), &[row(&of("t9"), "-9.00", &of("LAST"))])).await;
    world.consumed(&[at]).await;
    world.settled(&COMPANIES).await;
    // Whatever went wrong on the way is over.
    world.control_counts("SELECT count(*) FROM control.company_trouble", 0).await;
}

async fn messages(world: &World, round: usize) -> Vec<Delivered> {
    let of = |name: &str| format!("{name} {round}");
    let first = batch(
        "710",
        &of("first"),
        at(round, 0),
        &[
            row(&of("t1"), "-1.00", &of("STARBUCKS")),
            row(&of("t2"), "-2.00", &of("WALMART")),
            row(&of("bad"), "5-", &of("BAD")),
            json!({"date": "2025-08-26", "amount": "-3.00", "description": of("CASH")}),
            json!({"date": "2025-08-26", "amount": "-3.00", "description": of("CASH")}),
        ],
    );
    let void = json!({"id": of("t2"), "date": "2025-08-26", "amount": "-2.00", "description": of("WALMART"), "void": true});
    let corrections =
        batch("710", &of("second"), at(round, 1), &[row(&of("t1"), "-1.50", &of("STARBUCKS")), void, row(&of("t3"), "-4.00", &of("UBER"))]);
    let sick = |n: i64, amount: &str| batch("sick", &format!("{} {n}", of("sick")), at(round, n), &[row(&of("s"), amount, &of("ALPHA"))]);
    let poison = of("not json");
    let mut delivered = vec![world.publish(&first).await];
    delivered.push(world.publish_raw(&world.topic_txns(), Some("710"), Some(poison.as_bytes()), &[]).await);
    for message in [sick(0, "-5.00"), first, corrections, sick(1, "-6.00")] {
        delivered.push(world.publish(&message).await);
    }
    delivered
}

/// Minutes into the test's day.
fn at(round: usize, minutes: i64) -> i64 {
    i64::try_from(round).unwrap() * 60 + minutes
}

/// As if a hundred more posts had landed: the next one must prune, and so change the epoch.
pub fn fill_the_fence(world: &World, company: &str) {
    let spreadsheet = world.place(company).spreadsheet.clone();
    let book = world.model().book(&spreadsheet).unwrap();
    let highest = book.metadata.keys().max().copied().unwrap();
    let entry = |id: i64| Edit::AddMetadata {
        metadata: json!({"metadataId": id, "metadataKey": "kylo.fence", "metadataValue": mark(), "location": {"spreadsheet": true}, "visibility": "DOCUMENT"}),
    };
    let entries: Vec<Edit> = (highest + 1..=highest + 100).map(entry).collect();
    world.edit(company, &entries);
}

fn mark() -> String {
    let mark: Value = json!({"intent": uuid::Uuid::new_v4(), "spreadsheet": "s", "environment": "default"});
    mark.to_string()
}

/// Batches that were applied to a company's spreadsheet.
pub fn landed(world: &World, company: &str) -> Vec<CallRecord> {
    let spreadsheet = &world.place(company).spreadsheet;
    world.calls().into_iter().filter(|call| call.op == "batchUpdate" && call.applied && call.spreadsheet == *spreadsheet).collect()
}

/// Runs SQL where the companies' schemas are.
async fn in_books(world: &World, sql: &'static str) {
    world.books.execute(sql).await;
}
