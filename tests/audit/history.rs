//! A history with everything in it that the contract speaks of, through the real workers.

use kylo::adapters::kafka::producer::Delivered;
use serde_json::{Value, json};

use super::messages::{batch, row};
use super::world::{Mode, World};

/// A row without id.
fn nameless(amount: &str, description: &str) -> Value {
    json!({"date": "2025-08-27", "amount": amount, "description": description})
}

fn void(id: &str, amount: &str, description: &str) -> Value {
    let mut row = row(id, amount, description);
    row["void"] = true.into();
    row
}

/// Companies 710 and 711 each in a schema of its own, 712 in 711's schema and spreadsheet.
pub async fn companies(world: &mut World) {
    world.add(&["710", "711"]).await;
    let mut guest = world.usual_place("712");
    guest.schema = "app_711".to_owned();
    guest.spreadsheet = "sheet-711".to_owned();
    world.add_at(guest).await;
}

/// What the bank says before anybody approves anything.
fn before(company: &str) -> Vec<Value> {
    let first = batch(company, "b-1", 0, &[row("t1", "-12.34", "STARBUCKS"), row("t2", "-8.00", "UBER TRIP"), row("t3", "-99.95", "AWS EMEA")]);
    let renamed =
        batch(company, "b-1-again", 0, &[row("t1", "-12.34", "STARBUCKS"), row("t2", "-8.00", "UBER TRIP"), row("t3", "-99.95", "AWS EMEA")]);
    let twice = [nameless("-3.00", "COFFEE CART"), nameless("-3.00", "COFFEE CART")];
    let mut correction: Vec<Value> = [("10.00", 1), ("12.00", 2), ("10.00", 3)]
        .map(|(amount, at)| batch(company, &format!("c-{at}"), at, &[row("c", amount, "CORRECTED")]))
        .to_vec();
    correction.extend(correction.clone());
    let mut all = vec![first.clone(), first, renamed];
    all.extend(correction);
    all.extend([
        batch(company, "v-1", 4, &[row("v", "5.00", "TAKEN BACK"), row("w", "6.00", "TAKEN BACK AND GIVEN")]),
        batch(company, "v-2", 5, &[void("v", "5.00", "TAKEN BACK"), void("w", "6.00", "TAKEN BACK AND GIVEN")]),
        batch(company, "v-3", 6, &[row("w", "6.50", "TAKEN BACK AND GIVEN")]),
        batch(company, "s-1", 10, &[row("s", "7.00", "NEWER")]),
        batch(company, "s-2", 9, &[row("s", "6.00", "OLDER"), row("s2", "6.00", "OLDER BUT NEW")]),
        batch(company, "tie-1", 11, &[row("x", "1.00", "A TIE")]),
        batch(company, "tie-2", 11, &[row("x", "2.00", "A TIE")]),
        batch(company, "n-1", 12, &twice),
        batch(company, "n-2", 13, &[nameless("-3.00", "COFFEE CART"), nameless("-4.00", "TEA CART")]),
        batch(company, "half", 14, &[row("h1", "1.00", "GOOD"), row("h2", "5-", "BAD"), row("h3", "1.00", "TWICE"), row("h3", "2.00", "TWICE")]),
        batch(company, "bad", 15, &[row("h4", "x", "BAD")]),
        batch(company, "rejected", 16, &[row("r1", "1.00", "ACCEPTED"), row("r2", "777.00", "REJECTED"), row("r3", "3.00", "")]),
        batch(company, "after", 17, &[row("t4", "-1.00", "Starbucks"), row("t5", "-2.00", "UBER TRIP"), row("t6", "-2.50", "uber trip")]),
    ]);
    all
}

/// What it says afterwards: matched at once, corrected, withdrawn, matched again.
fn after(company: &str) -> Vec<Value> {
    vec![
        batch(company, "m-1", 20, &[row("m1", "-1.00", "STARBUCKS"), row("m2", "-2.00", "STARBUCKS"), row("m3", "-3.00", "AWS EMEA")]),
        batch(company, "m-2", 21, &[row("m1", "-1.50", "STARBUCKS"), row("m2", "-2.00", "SOMETHING ELSE"), void("m3", "-3.00", "AWS EMEA")]),
        batch(company, "m-3", 22, &[row("m2", "-2.00", "STARBUCKS"), row("t1", "-12.35", "STARBUCKS")]),
    ]
}

/// Poison of several kinds, between other messages.
async fn poison(world: &World) -> Vec<Delivered> {
    let topic = world.topic_txns();
    let unknown = batch("999", "b-999", 0, &[row("u", "1.00", "UNKNOWN")]).to_string();
    let ahead = {
        let mut message = batch("710", "b-ahead", 0, &[row("f", "1.00", "FROM THE FUTURE")]);
        message["created_at"] = json!(chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now()) + chrono::TimeDelta::hours(1));
        message.to_string()
    };
    let foreign = batch("710", "b-foreign", 0, &[row("k", "1.00", "KEY")]).to_string();
    vec![
        world.publish_raw(&topic, Some("710"), Some(b"{not json"), &[]).await,
        world.publish_raw(&topic, Some("999"), Some(unknown.as_bytes()), &[]).await,
        world.publish_raw(&topic, Some("710"), Some(ahead.as_bytes()), &[]).await,
        world.publish_raw(&topic, Some("711"), Some(foreign.as_bytes()), &[]).await,
        world.publish_raw(&topic, Some("710"), None, &[]).await,
    ]
}

/// Lives it all and stops the workers. Gives the places of all messages.
pub async fn live(world: &mut World) -> Vec<Delivered> {
    companies(world).await;
    for company in ["710", "711"] {
        world.execute(company, "ALTER TABLE transactions ADD CONSTRAINT no_777 CHECK (amount_cents <> 77700)").await;
    }
    world.start(&Mode::Post);
    let mut all = poison(world).await;
    for company in ["710", "711", "712"] {
        all.extend(world.publish_all(&before(company)).await);
    }
    world.consumed(&all).await;
    world.settled(&["710", "711", "712"]).await;

    // A conflict, an incomplete row, and a source that is approved; by SQL one more.
    world.approve("710", "AWS EMEA", "OPEX", "HOSTING");
    world.approve("710", "TEA CART", "OPEX", "");
    let conflicting: Vec<usize> =
        world.pending("710").iter().filter(|row| row.shown("Source").eq_ignore_ascii_case("UBER TRIP")).map(|row| row.at).collect();
    for (at, target) in conflicting.into_iter().zip(["TAXI", "TRAVEL", "TAXI"]) {
        type_at(world, "710", at, &[("Target_Sheet", "OPEX"), ("Target_Header", target), ("Approved", "TRUE")]);
    }
    let by_sql = "INSERT INTO rules_pending (company_id, source, target_sheet, target_header, approved) VALUES";
    for company in ["710", "711"] {
        world.execute(company, &format!("{by_sql} ('{company}', 'Starbucks', 'OPEX', 'COFFEE', TRUE)")).await;
    }
    for company in ["710", "711", "712"] {
        world.promote(company, "r-1").await;
        world.promoted(company, "r-1").await;
    }
    for company in ["710", "711", "712"] {
        all.extend(world.publish_all(&after(company)).await);
    }
    world.consumed(&all).await;
    // A -> B -> A.
    for (request, target) in [("r-2", "CAFE"), ("r-3", "COFFEE")] {
        world.execute("710", &format!("{by_sql} ('710', 'STARBUCKS', 'OPEX', '{target}', TRUE)")).await;
        world.promote("710", request).await;
        world.promoted("710", request).await;
        // The same request again does nothing.
        world.promote("710", request).await;
    }
    all.push(world.publish(&batch("710", "last", 30, &[row("z", "-1.00", "starbucks"), row("z2", "-1.00", "LAST")])).await);
    world.consumed(&all).await;
    world.settled(&["710", "711", "712"]).await;
    world.stop().await;
    all
}

fn type_at(world: &World, company: &str, at: usize, cells: &[(&str, &str)]) {
    let tab = fake_sheets::Tab::from(world.place(company).pending.as_str());
    for (header, text) in cells {
        let cell = world.cell(company, at, header);
        world.edit(company, &[fake_sheets::Edit::SetCell { tab: tab.clone(), cell, typed: (*text).to_owned() }]);
    }
}
