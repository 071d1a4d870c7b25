//! `schemas/vectors.json`: every line of it holds for this program.

use serde_json::{Value, json};

use kylo::domain::date::business_date;
use kylo::domain::ids::push_part;
use kylo::domain::money::{MoneyError, parse_number, parse_text};
use kylo::domain::text::normalise;
use kylo::flow::decode::{Decoded, decode_txns};

use crate::{Example, now, read_json};

fn vectors() -> Value {
    read_json("schemas/vectors.json")
}

fn list<'a>(vectors: &'a Value, pointer: &str) -> &'a [Value] {
    let list = vectors.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("{pointer} is missing"));
    assert!(list.len() >= 7, "{pointer} has hardly any lines");
    list
}

fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_else(|| panic!("{field} is missing in {line}"))
}

fn why(error: MoneyError) -> &'static str {
    match error {
        MoneyError::Shape => "shape",
        MoneyError::Precision => "precision",
        MoneyError::Range => "range",
    }
}

#[test]
fn parts_are_encoded_as_the_vectors_say() {
    for line in list(&vectors(), "/parts") {
        let mut encoded = Vec::new();
        for part in line["parts"].as_array().unwrap() {
            push_part(&mut encoded, part.as_str().unwrap().as_bytes());
        }
        assert_eq!(String::from_utf8(encoded).unwrap(), text(line, "encoded"), "{line}");
    }
}

#[test]
fn batches_get_the_identities_and_signatures_of_the_vectors() {
    for line in list(&vectors(), "/batches") {
        if line["transactions"].as_array().unwrap().is_empty() {
            continue;
        }
        let payload = json!({
            "event_type": "TXNS_BATCH", "version": 2, "batch_id": "b", "created_at": "2025-08-26T12:00:00Z",
            "company_id": line["company_id"], "transactions": line["transactions"],
        });
        let example = Example { name: "key-null".into(), payload: payload.to_string().into_bytes() };
        let Ok(Decoded::Batch { batch, bad, .. }) = decode_txns(&example.message(), now()) else { panic!("{line}") };
        assert!(bad.is_empty(), "{line}");
        assert_eq!(batch.signature.to_string(), text(line, "batch_signature"), "{}", text(line, "case"));
        let uids: Vec<String> = batch.rows.iter().map(|row| row.uid.to_string()).collect();
        assert_eq!(Value::from(uids), line["txn_uids"], "{}", text(line, "case"));
        let parts = batch.rows.iter().map(|row| {
            let mut parts = Vec::new();
            row.facts().push_parts(&mut parts);
            String::from_utf8(parts).unwrap()
        });
        assert_eq!(Value::from(parts.collect::<Vec<_>>()), line["row_parts"], "{}", text(line, "case"));
    }
}

#[test]
fn a_batch_without_good_rows_has_the_signature_of_the_vectors() {
    let vectors = vectors();
    let line = list(&vectors, "/batches").iter().find(|line| line["txn_uids"] == json!([])).unwrap();
    let payload =
        br#"{"event_type":"TXNS_BATCH","version":2,"batch_id":"b","company_id":"710","created_at":"2025-08-26T12:00:00Z","transactions":[{}]}"#;
    let example = Example { name: "x".into(), payload: payload.to_vec() };
    let Ok(Decoded::Batch { batch, .. }) = decode_txns(&example.message(), now()) else { panic!() };
    assert_eq!(batch.signature.to_string(), text(line, "batch_signature"));
}

#[test]
fn amounts_written_as_text_are_read_as_the_vectors_say() {
    let vectors = vectors();
    for line in list(&vectors, "/amounts_as_text/good") {
        let cents = parse_text(text(line, "text")).map(|cents| cents.0.to_string());
        assert_eq!(cents, Ok(text(line, "cents").to_owned()), "{line}");
    }
    for line in list(&vectors, "/amounts_as_text/bad") {
        assert_eq!(parse_text(text(line, "text")).map_err(why), Err(text(line, "why")), "{line}");
    }
}

#[test]
fn amounts_written_as_json_numbers_are_read_as_the_vectors_say() {
    let vectors = vectors();
    for line in list(&vectors, "/amounts_as_json_numbers/good") {
        let cents = parse_number(text(line, "number")).map(|cents| cents.0.to_string());
        assert_eq!(cents, Ok(text(line, "cents").to_owned()), "{line}");
    }
    for line in list(&vectors, "/amounts_as_json_numbers/bad") {
        assert_eq!(parse_number(text(line, "number")).map_err(why), Err(text(line, "why")), "{line}");
    }
}

#[test]
fn texts_are_normalised_as_the_vectors_say() {
    for line in list(&vectors(), "/normalise") {
        assert_eq!(normalise(text(line, "text")), text(line, "normal"), "{line}");
    }
}

#[test]
fn dates_are_read_as_the_vectors_say() {
    let vectors = vectors();
    for line in list(&vectors, "/dates/good") {
        assert_eq!(business_date(text(line, "text")).map(|date| date.to_string()), Ok(text(line, "date").to_owned()), "{line}");
    }
    for line in list(&vectors, "/dates/bad") {
        assert!(business_date(line.as_str().unwrap()).is_err(), "{line}");
    }
}
