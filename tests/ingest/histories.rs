//! Random histories of deliveries end as the contract says.

use std::collections::BTreeMap;

use kylo::domain::message::Row;
use kylo::flow::work::TxnsWork;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::company_world::{World, day};

/// What the contract says of deliveries in order, row by row and without a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    content: (i64, String, bool),
    as_of: i64,
    revision: i64,
}

#[derive(Clone, Debug)]
struct Message {
    minute: i64,
    /// (id, or none; cents; ruled description; void)
    rows: Vec<(Option<u8>, i64, bool, bool)>,
}

fn messages() -> impl Strategy<Value = Vec<(Message, bool)>> {
    let one_row = (prop_oneof![3 => (0_u8..2).prop_map(Some), 1 => Just(None)], 1_i64..3, any::<bool>(), prop::bool::weighted(0.2));
    let message = (0_i64..4, prop::collection::vec(one_row, 1..3)).prop_map(|(minute, rows)| Message { minute, rows });
    // A few messages, delivered in any order and any number of times; the flag = coalesced with the one before.
    prop::collection::vec(message, 1..4).prop_flat_map(|pool| prop::collection::vec((prop::sample::select(pool), any::<bool>()), 1..9))
}

fn json_rows(message: &Message) -> Value {
    let json_row = |(id, amount, ruled, void): &(Option<u8>, i64, bool, bool)| {
        let description = if *ruled { "RULED" } else { "UNRULED" };
        let mut row = json!({"date": "2025-08-26", "amount": amount, "description": description, "void": void});
        if let Some(id) = id {
            row["id"] = json!(format!("id{id}"));
        }
        row
    };
    message.rows.iter().map(json_row).collect()
}

fn expect(known: &mut BTreeMap<String, Known>, minute: i64, rows: &[Row]) {
    for row in rows {
        let content = (row.cents.0, row.description.clone(), row.void);
        let matched = i64::from(row.description == "RULED" && !row.void);
        match known.get_mut(&row.uid.to_string()) {
            None => {
                known.insert(row.uid.to_string(), Known { content, as_of: minute, revision: matched });
            }
            Some(before) if minute < before.as_of => {}
            Some(before) => {
                if before.content != content {
                    before.revision += matched;
                }
                (before.content, before.as_of) = (content, minute);
            }
        }
    }
}

#[test]
fn any_order_of_deliveries_ends_as_the_contract_says_row_by_row() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut world = runtime.block_on(World::new(&[("seed", "app_orders")]));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() });
    let case = std::cell::Cell::new(0);
    let world_cell = std::cell::RefCell::new(&mut world);
    runner
        .run(&messages(), |deliveries| {
            case.set(case.get() + 1);
            let company = format!("case-{}", case.get());
            let mut world = world_cell.borrow_mut();
            world.add(&company, "app_orders");
            let (seen, expected) = runtime.block_on(deliver(&world, &company, &deliveries));
            prop_assert_eq!(seen, expected);
            Ok(())
        })
        .unwrap();
    runtime.block_on(world.end());
}

async fn deliver(world: &World, company: &str, deliveries: &[(Message, bool)]) -> (Vec<String>, Vec<String>) {
    world.rule(company, "Ruled", "S", "H").await;
    let mut known = BTreeMap::new();
    let mut calls: Vec<Vec<TxnsWork>> = Vec::new();
    for (message, coalesced) in deliveries {
        let work = world.batch(company, "b", message.minute, &json_rows(message));
        expect(&mut known, message.minute, &work.batch.rows);
        match calls.last_mut().filter(|_| *coalesced) {
            Some(call) => call.push(work),
            None => calls.push(vec![work]),
        }
    }
    for call in calls {
        assert!(world.apply(&call).await.iter().all(Result::is_ok));
    }
    world.assert_each_decided_once(company).await;
    let expected = known.into_iter().map(|(uid, known)| {
        let (cents, description, void) = known.content;
        let at = match (void, description.as_str()) {
            (true, _) => "void",
            (false, "RULED") => "matched",
            (false, _) => "pending",
        };
        format!("{uid}|{cents}|{description}|{}|{at}|{}", known.as_of, known.revision)
    });
    let seen = world
        .rows(
            company,
            &format!(
                "SELECT t.txn_uid::text AS a, t.amount_cents AS b, t.description AS c, (extract(epoch FROM t.as_of - '{}') / 60)::int AS d,
                        CASE WHEN t.void THEN 'void' WHEN p.status = 'open' THEN 'pending' ELSE 'matched' END AS e, COALESCE(m.revision, 0) AS f
                 FROM transactions t LEFT JOIN pending_txns p USING (company_id, txn_uid) LEFT JOIN matched_txns m USING (company_id, txn_uid)
                 WHERE t.company_id = $1 ORDER BY 1",
                day().to_rfc3339()
            ),
        )
        .await;
    (seen, expected.collect())
}
