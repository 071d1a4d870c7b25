//! The workflow says of a payload what `kylo publish txns` says of it: one row here and another there would be two transactions.

use std::collections::BTreeMap;

use kylo::domain::clock::{Clock, SystemClock};
use kylo::flow::decode::{Decoded, RawMessage, decode_txns};
use kylo::flow::publish_format::{self, Options};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use crate::node::{Work, run};
use crate::read_json;

/// What a payload's messages come to: by company, each row's identity and content, sorted, with the reasons of bad rows.
type Outcome = (BTreeMap<String, Vec<String>>, Vec<(u64, String)>);

const MAX_BYTES: usize = 4_000;
/// Less than [`publish_format::MAX_ROWS_PER_MESSAGE`], so that the workflow splits what `kylo publish` leaves whole, too.
const MAX_ROWS: usize = 25;

fn rows_of<'a>(messages: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, Vec<String>> {
    let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (company, payload) in messages {
        let raw = RawMessage { payload: Some(payload.as_bytes()), key: Some(company.as_bytes()), topic: "t", partition: 0, offset: 0 };
        let Ok(Decoded::Batch { batch, bad, .. }) = decode_txns(&raw, SystemClock.now()) else { panic!("not taken: {payload}") };
        let good = batch.rows.iter().map(|row| format!("{} {:?} {} {:?}", row.uid, row.facts(), batch.batch_id, row.id));
        let all = good.chain(bad.iter().map(|bad| format!("{} {:?}", bad.reason.class, bad.occurrence)));
        rows.entry(company.to_owned()).or_default().extend(all);
    }
    rows.values_mut().for_each(|rows| rows.sort());
    rows
}

fn published(payload: &str) -> Outcome {
    let options = Options { company: None, default_batch_id: Some("n8n-0123456789abcdef"), created_at: SystemClock.now(), max_bytes: MAX_BYTES };
    let published = publish_format::messages(payload, &options).unwrap();
    let rejects = published.rejects.iter().map(|reject| (u64::try_from(reject.index).unwrap(), reject.reason.clone())).collect();
    (rows_of(published.messages.iter().map(|message| (message.key(), message.payload.as_str()))), rejects)
}

fn answered(answer: &Value) -> Outcome {
    let messages = answer["messages"].as_array().unwrap();
    let rejects = answer["answer"]["rejects"].as_array().unwrap();
    (
        rows_of(messages.iter().map(|message| (message["company_id"].as_str().unwrap(), message["payload"].as_str().unwrap()))),
        rejects.iter().map(|reject| (reject["index"].as_u64().unwrap(), reject["reason"].as_str().unwrap().to_owned())).collect(),
    )
}

fn assert_alike(payloads: &[String]) {
    let works: Vec<Work> = payloads.iter().map(|payload| Work::ingest(payload).limits(MAX_ROWS, MAX_BYTES)).collect();
    for (answer, payload) in run(&works).iter().zip(payloads) {
        assert_eq!(answered(answer), published(payload), "{payload}");
    }
}

fn payload(rows: &[String]) -> String {
    format!(r#"{{"transactions":[{}]}}"#, rows.join(", "))
}

/// Amounts that are equal in different clothes, that a float would change, and that are none.
const AMOUNTS: [&str; 26] = [
    "1",
    "1.0",
    "1.00",
    "1e0",
    "100e-2",
    "0.9999999999",
    "1.0000000004",
    "\"1\"",
    "\"1.00\"",
    "\"$1\"",
    "\"+1.0\"",
    "-1",
    "\"(1)\"",
    "\"-$1.00\"",
    "\"\u{2212}1\"",
    "1000.5",
    "\"1,000.50\"",
    "9007199254740993.12",
    "9007199254740993.13",
    "92233720368547758.07",
    "92233720368547758.08",
    "0",
    "-0.00",
    "1.005",
    "\"1.005\"",
    "null",
];
const DATES: [&str; 7] =
    ["\"2025-08-26\"", "\"2025-08-26T23:00:00-11:00\"", "\"2025-08-26t01:00:00.5Z\"", "\"2025-02-29\"", "\"2024-02-29\"", "\"26.08.2025\"", "5"];
const OTHERS: [&str; 14] = [
    "",
    "",
    "",
    "",
    ",\"currency\":\"USD\"",
    ",\"currency\":\"EUR\"",
    ",\"currency\":null",
    ",\"occurrence\":2",
    ",\"occurrence\":1.0",
    ",\"occurrence\":0",
    ",\"memo\":\"m\"",
    ",\"void\":true",
    ",\"memo\":5",
    ",\"amount\":1",
];
const DESCRIPTIONS: [&str; 6] = ["\"A\"", "\"\\u0041\"", "\"\"", "\"B } ] , \\\" \\\\\"", "\"a\\u0000\"", "7"];
const IDS: [&str; 12] = ["", "", "", "", "", "", "\"id\":null,", "\"id\":\"t1\",", "\"id\":\"t2\",", "\"id\":7,", "\"id\":\"7\",", "\"id\":\" \","];
const COMPANIES: [&str; 8] = ["\"710\"", "\"710\"", "\"710\"", "\"710\"", "\"711\"", "710", "\"\"", "null"];

fn any_row() -> impl Strategy<Value = String> {
    use proptest::sample::select;
    let fields = (select(&COMPANIES[..]), select(&IDS[..]), select(&DATES[..]), select(&AMOUNTS[..]), select(&DESCRIPTIONS[..]), select(&OTHERS[..]));
    fields.prop_map(|(company, id, date, amount, description, other)| {
        format!(r#"{{"company_id" : {company}, {id}"date":{date},"amount":{amount},"description":{description}{other} }}"#)
    })
}

/// Rows that are good and mostly alike, so that numbers and doubles matter.
fn like_row() -> impl Strategy<Value = String> {
    use proptest::sample::select;
    let fields =
        (select(&["", "", "", "", "\"id\":\"t1\","][..]), select(&DATES[..2]), select(&AMOUNTS[..9]), select(&["", "", "", ",\"occurrence\":3"][..]));
    fields.prop_map(|(id, date, amount, other)| format!(r#"{{"company_id":"710",{id}"date":{date},"amount":{amount},"description":"A"{other}}}"#))
}

#[test]
fn any_payload_gives_the_rows_and_rejects_of_kylo_publish() {
    let mut runner = TestRunner::deterministic();
    let strategy = prop_oneof![prop::collection::vec(any_row(), 1..80), prop::collection::vec(like_row(), 1..60)];
    let payloads: Vec<String> = (0..200).map(|_| payload(&strategy.new_tree(&mut runner).unwrap().current())).collect();
    assert_alike(&payloads);
}

#[test]
fn every_amount_and_date_of_the_vectors_is_the_same_transaction_on_both_ways() {
    let vectors = read_json("schemas/vectors.json");
    let lines = |pointer: &str| vectors.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("{pointer} is missing")).clone();
    let mut rows = Vec::new();
    // Each twice, so that each is numbered: what cannot be read gets no number.
    let mut push = |date: &str, amount: &str| {
        let row = format!(r#"{{"company_id":"710","date":{date},"amount":{amount},"description":"A"}}"#);
        rows.extend([row.clone(), row]);
    };
    for pointer in ["/amounts_as_text/good", "/amounts_as_text/bad"] {
        lines(pointer).iter().for_each(|line| push("\"2025-08-26\"", &line["text"].to_string()));
    }
    for pointer in ["/amounts_as_json_numbers/good", "/amounts_as_json_numbers/bad"] {
        lines(pointer).iter().for_each(|line| push("\"2025-08-26\"", line["number"].as_str().unwrap()));
    }
    lines("/dates/good").iter().for_each(|line| push(&line["text"].to_string(), "1"));
    lines("/dates/bad").iter().for_each(|text| push(&text.to_string(), "1"));
    assert!(rows.len() > 100, "the vectors have shrunk");
    assert_alike(&[payload(&rows)]);
}
