//! "Group by company": what it says of payloads.

use serde_json::{Value, json};

use crate::complaints;
use crate::node::{Work, run, run_one};

const SAMPLE: &str = r#"{"batch_id":"rb-1","transactions":[
 {"id":"t1","company_id":"710","date":"2025-08-26","amount":-12.34,"description":"STARBUCKS"},
 {"id":"t2","company_id":"711","date":"2025-08-26","amount":45.67,"description":"WALMART"},
 {"id":"t3","company_id":"710","date":"2025-08-26","amount":10.00,"description":"UNKNOWN"}]}"#;

fn payloads(answer: &Value) -> Vec<String> {
    let messages = answer["messages"].as_array().unwrap();
    messages.iter().map(|message| message["payload"].as_str().unwrap().to_owned()).collect()
}

fn companies(answer: &Value) -> Vec<&str> {
    answer["messages"].as_array().unwrap().iter().map(|message| message["company_id"].as_str().unwrap()).collect()
}

fn reject_places(answer: &Value) -> Vec<u64> {
    answer["answer"]["rejects"].as_array().unwrap().iter().map(|reject| reject["index"].as_u64().unwrap()).collect()
}

fn row(company: &str, rest: &str) -> String {
    format!(r#"{{"company_id":{company},"date":"2025-08-26","description":"A"{rest}}}"#)
}

#[test]
fn the_runbooks_payload_becomes_one_valid_message_per_company() {
    let answer = run_one(Work::ingest(SAMPLE));
    assert_eq!(answer["status"], 200);
    assert_eq!(answer["answer"], json!({"ok": true, "items_published": 2, "rejects": []}));
    assert_eq!(companies(&answer), ["710", "711"]);
    for payload in payloads(&answer) {
        let message: Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(complaints("schemas/txns_batch.v2.schema.json", &message), Vec::<String>::new());
        let mut fields: Vec<&str> = message.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["batch_id", "company_id", "created_at", "event_type", "meta", "transactions", "version"]);
        assert_eq!((&message["batch_id"], &message["meta"]), (&json!("rb-1"), &json!({"producer": "n8n@ingest"})));
    }
}

#[test]
fn amounts_keep_the_digits_of_the_request() {
    let amounts = ["100.00", "-0.00", "9007199254740993.12", "0.30000000000000004", "1e3", "\"1,234.50\""];
    let rows: Vec<String> = amounts.iter().map(|amount| row("\"710\"", &format!(",\"amount\":{amount}"))).collect();
    let answer = run_one(Work::ingest(format!(r#"{{"transactions":[{}]}}"#, rows.join(","))));
    let payload = payloads(&answer).remove(0);
    amounts.iter().for_each(|amount| assert!(payload.contains(&format!("\"amount\":{amount}}}")), "{amount}: {payload}"));
}

#[test]
fn companies_are_names_and_never_properties() {
    let odd = ["__proto__", "constructor", "toString", "0710", "710 EMPIRE", "a'b\\\"c", "={{ 1 }}", "漢字 Ä", " 710 "];
    let mut rows: Vec<String> = odd.iter().map(|name| row(&format!("\"{name}\""), ",\"amount\":1")).collect();
    rows.extend(["2", "10", "1"].map(|number| row(number, ",\"amount\":1")));
    let answer = run_one(Work::ingest(format!(r#"{{"transactions":[{}]}}"#, rows.join(","))));
    let expected: Vec<String> = odd.iter().map(|name| name.replace("\\\"", "\"")).chain(["2", "10", "1"].map(str::to_owned)).collect();
    assert_eq!(companies(&answer), expected);
    for (payload, company) in payloads(&answer).iter().zip(&expected) {
        let message: Value = serde_json::from_str(payload).unwrap();
        assert_eq!(complaints("schemas/txns_batch.v2.schema.json", &message), Vec::<String>::new());
        assert_eq!(message["company_id"], company.as_str());
        assert_eq!(message["transactions"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn rows_that_name_no_company_are_rejected_by_place_and_the_rest_goes_out() {
    let long = "x".repeat(51);
    let rows = ["5".to_owned(), "null".to_owned(), row("null", ""), row("\"\"", ""), row("true", ""), row("-1", ""), row("1.5", "")];
    let more =
        [row(&format!("\"{long}\""), ""), row("\"a\\u0000\"", ""), row("\"\\ud800\"", ""), row("\"1\",\"company_id\":\"2\"", ""), row("\"ok\"", "")];
    let all: Vec<String> = rows.into_iter().chain(more).collect();
    let answer = run_one(Work::ingest(format!(r#"{{"transactions":[{}]}}"#, all.join(","))));
    assert_eq!((&answer["status"], companies(&answer)), (&json!(200), vec!["ok"]));
    assert_eq!(reject_places(&answer), (0..11).collect::<Vec<_>>());
    assert_eq!(answer["answer"]["items_published"], 1);
}

#[test]
fn a_payload_of_another_shape_is_a_4xx_that_publishes_nothing_and_says_why() {
    let wrong = [
        ("", "is empty"),
        (" \n", "is empty"),
        ("hello", "not JSON"),
        ("transactions=1", "not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{}", "transactions is missing"),
        (r#"{"transactions":null}"#, "transactions is missing"),
        (r#"{"transactions":{}}"#, "must be a list"),
        (r#"{"transactions":"x"}"#, "must be a list"),
        (r#"{"transactions":[]}"#, "nothing to publish"),
        (r#"{"transactions":[ ] }"#, "nothing to publish"),
        (r#"{"transactions":[{}],"transactions":[{}]}"#, "stands there twice"),
        (r#"{"transactions":[{}],"batch_id":""}"#, "batch_id must not be empty"),
        (r#"{"transactions":[{}],"batch_id":7}"#, "batch_id must be text"),
        (r#"{"transactions":[{}],"batch_id":"a\u0000"}"#, "U+0000"),
        (r#"{"transactions":[{}],"ingest_batch_id":true}"#, "ingest_batch_id must be text"),
    ];
    let mut works: Vec<Work> = wrong.iter().map(|(body, _)| Work::ingest(body)).collect();
    works.push(Work::ingest(b"{\"transactions\":[{\"company_id\":\"\xff\"}]}"));
    let answers = run(&works);
    for (answer, (body, reason)) in answers.iter().zip(wrong.iter().chain([&("", "not UTF-8")])) {
        assert_eq!((&answer["status"], &answer["messages"]), (&json!(400), &json!([])), "{body}");
        let said = &answer["answer"];
        assert_eq!((&said["ok"], &said["items_published"]), (&json!(false), &json!(0)), "{body}");
        assert!(said["error"].as_str().unwrap().contains(reason), "{body}: {said}");
    }
    let none = run_one(Work::ingest(r#"{"transactions":[{},{"company_id":""}]}"#));
    assert_eq!((&none["status"], &none["answer"]["ok"], reject_places(&none)), (&json!(422), &json!(false), vec![0, 1]));
}

#[test]
fn a_batch_keeps_its_name_and_one_without_gets_the_hash_of_its_rows() {
    let rows = format!("[{}]", row("\"710\"", ",\"amount\":1"));
    let expected = [
        (r#""batch_id":"mine","#, "mine"),
        (r#""batch_id":null,"#, "n8n-0123456789abcdef"),
        (r#""ingest_batch_id":1756200000,"#, "1756200000"),
        (r#""ingest_batch_id":"i-1","#, "i-1"),
        (r#""batch_id":"mine","ingest_batch_id":5,"#, "mine"),
        ("", "n8n-0123456789abcdef"),
        ("\u{feff}", ""),
    ];
    for (head, name) in expected.iter().filter(|(_, name)| !name.is_empty()) {
        let answer = run_one(Work::ingest(format!("{{{head}\"transactions\":{rows}}}")));
        let message: Value = serde_json::from_str(&payloads(&answer)[0]).unwrap();
        assert_eq!(message["batch_id"], *name, "{head}");
    }
    assert_eq!(run_one(Work::ingest(format!("\u{feff}{{\"transactions\":{rows}}}")))["status"], 200);
}

#[test]
fn five_thousand_rows_are_split_with_occurrence_written_first() {
    let rows: Vec<String> = (0..5_000).map(|n| row("\"710\"", &format!(r#","amount":{}.00,"memo":"{n}""#, n % 10))).collect();
    let answer = run_one(Work::ingest(format!(r#"{{"batch_id":"big","transactions":[{}]}}"#, rows.join(","))));
    assert_eq!(answer["answer"], json!({"ok": true, "items_published": 3, "rejects": []}));
    let mut numbers = Vec::new();
    for payload in payloads(&answer) {
        assert!(payload.len() <= 450_000);
        let message: Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(complaints("schemas/txns_batch.v2.schema.json", &message), Vec::<String>::new());
        numbers.extend(message["transactions"].as_array().unwrap().iter().map(|row| row["occurrence"].as_u64().unwrap()));
    }
    // Ten amounts, five hundred rows of each.
    assert_eq!(numbers, (0..5_000).map(|n| n / 10 + 1).collect::<Vec<u64>>());
}

#[test]
fn a_row_larger_than_a_message_is_rejected_and_its_neighbours_go_out() {
    let rows = [row("\"1\"", ",\"amount\":1"), row("\"1\"", &format!(",\"memo\":\"{}\"", "x".repeat(2_000))), row("\"1\"", ",\"amount\":2")];
    let answer = run_one(Work::ingest(format!(r#"{{"transactions":[{}]}}"#, rows.join(","))).limits(10, 1_000));
    assert_eq!((reject_places(&answer), payloads(&answer).len()), (vec![1], 1));
}

#[test]
fn more_rows_of_one_transaction_than_a_message_takes_are_rejected_with_that_reason() {
    let rows = vec![row("\"1\"", ",\"id\":\"same\",\"amount\":1"); 11];
    let answer = run_one(Work::ingest(format!(r#"{{"transactions":[{}]}}"#, rows.join(","))).limits(10, 100_000));
    assert_eq!((&answer["status"], reject_places(&answer)), (&json!(422), (0..11).collect::<Vec<_>>()));
    let reason = answer["answer"]["rejects"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("11 rows say they are the same transaction") && !reason.contains("shorten"), "{reason}");
}

#[test]
fn without_the_requests_bytes_a_number_that_may_be_rounded_is_rejected() {
    let body = json!({"transactions": [
        {"company_id": "710", "amount": -12.34, "date": "2025-08-26", "description": "A"},
        {"company_id": "710", "amount": 9_007_199_254_740_994_i64, "date": "2025-08-26", "description": "A"},
        {"company_id": "710", "amount": "9007199254740993.12", "date": "2025-08-26", "description": "A"},
        {"company_id": "710", "amount": 1e300, "date": "2025-08-26", "description": "A"},
        {"company_id": "710", "id": 9_007_199_254_740_994_i64, "amount": 1, "date": "2025-08-26", "description": "A"},
    ]});
    let answer = run_one(Work::ingest_parsed(&body));
    assert_eq!((&answer["status"], reject_places(&answer)), (&json!(200), vec![1, 3, 4]));
    assert!(payloads(&answer)[0].contains("-12.34"));
    assert_eq!(run_one(Work::ingest_parsed(&json!("text")))["status"], 400);
}
