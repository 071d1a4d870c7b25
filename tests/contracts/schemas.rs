//! The published JSON Schemas agree with the decoder, in both directions.

use std::collections::{BTreeMap, BTreeSet};

use jsonschema::Validator;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use kylo::domain::message::BadRowClass;
use kylo::domain::money::Currency;
use kylo::flow::decode::{Decoded, DecodedPromote, Poison, PoisonClass, decode_promote, decode_txns};

use crate::{Example, examples, now, read_json};

const TXNS: &str = "schemas/txns_batch.v2.schema.json";
const PROMOTE: &str = "schemas/promote_rules.v1.schema.json";

/// Values of every type, near every field's limits.
fn odd_values() -> Vec<Value> {
    let texts = ["", " ", "x", "a\0b", "710", "711", "2025-08-26", "2025-08-26T12:00:00Z", "2025-08-26T12:00:00", "0000-01-01", "12.34", "(5)"];
    let more = ["1.234", "$", "-$1,000.00", "\u{2212}5", "EUR", "JPY", "TXNS_BATCH", "PROMOTE_RULES", "true"];
    let mut values: Vec<Value> = texts.into_iter().chain(more).map(Value::from).collect();
    values.extend([50, 51, 200, 201].map(|n| Value::from("é".repeat(n))));
    values.extend([json!(null), json!(true), json!(false), json!(0), json!(1), json!(2), json!(2.0), json!(-1), json!(1.5)]);
    values.extend([json!(4_294_967_296_u64), json!([]), json!({}), json!({"producer": "p"}), json!([{}])]);
    values
}

fn schema(path: &str) -> Value {
    read_json(path)
}

fn validator(path: &str) -> Validator {
    jsonschema::validator_for(&schema(path)).unwrap()
}

fn row_validator() -> Validator {
    jsonschema::validator_for(&schema(TXNS)["$defs"]["row"]).unwrap()
}

fn properties(schema: &Value) -> BTreeSet<String> {
    schema["properties"].as_object().unwrap().keys().cloned().collect()
}

fn txns(payload: &Value) -> Result<Decoded, Poison> {
    let example = Example { name: "key-null".into(), payload: payload.to_string().into_bytes() };
    decode_txns(&example.message(), now())
}

fn promote(payload: &Value) -> Result<DecodedPromote, Poison> {
    let example = Example { name: "key-null".into(), payload: payload.to_string().into_bytes() };
    decode_promote(&example.message(), now())
}

fn batch_of(row: &Value) -> Value {
    let mut batch = schema(TXNS)["examples"][0].clone();
    batch["transactions"] = json!([row]);
    batch
}

/// What a schema cannot say of a row.
fn is_beyond_a_schema(class: BadRowClass, row: &Value) -> bool {
    match class {
        BadRowClass::CompanyMismatch | BadRowClass::DuplicateId | BadRowClass::DuplicateField => true,
        // Days that the calendar does not have; half a cent; the exact ends of the range.
        BadRowClass::BadDate => row["date"].as_str().is_some_and(|day| day.starts_with("2025-")),
        BadRowClass::BadAmount => row["amount"].is_number() || row["amount"].as_str().is_some_and(|text| text.len() > 19),
        _ => false,
    }
}

fn row_verdict(row: &Value) -> Option<BadRowClass> {
    match txns(&batch_of(row)) {
        Ok(Decoded::Batch { bad, .. }) => bad.first().map(|bad| bad.reason.class),
        other => panic!("{row}: {other:?}"),
    }
}

#[test]
fn a_row_that_the_decoder_takes_is_valid_and_one_it_sets_aside_is_not() {
    let validator = row_validator();
    let good = json!({"date": "2025-08-26", "amount": "1.00", "description": "A"});
    let mut n_checked = 0;
    for field in properties(&schema(TXNS)["$defs"]["row"]) {
        for value in odd_values() {
            let mut row = good.clone();
            row[&field] = value;
            match row_verdict(&row) {
                None => assert!(validator.is_valid(&row), "taken, but not valid: {row}"),
                Some(class) if is_beyond_a_schema(class, &row) => {}
                Some(class) => assert!(!validator.is_valid(&row), "{class}, but valid: {row}"),
            }
            n_checked += 1;
        }
        let mut row = good.clone();
        row.as_object_mut().unwrap().remove(&field);
        assert_eq!(row_verdict(&row).is_none(), validator.is_valid(&row), "without {field}");
    }
    assert!(n_checked > 300);
}

#[test]
fn the_rows_of_all_examples_are_judged_alike_by_decoder_and_schema() {
    let validator = row_validator();
    let (mut n_good, mut n_bad) = (0, 0);
    for example in examples("txns") {
        let Ok(Decoded::Batch { bad, .. }) = decode_txns(&example.message(), now()) else { continue };
        let Ok(fields) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(&example.payload) else { continue };
        let Some(rows) = fields.get("transactions") else { continue };
        let rows: Vec<&RawValue> = serde_json::from_str(rows.get()).unwrap();
        for (index, raw) in rows.into_iter().enumerate() {
            let Ok(row) = serde_json::from_str::<Value>(raw.get()) else { continue };
            match bad.iter().find(|bad| bad.index == index) {
                None => {
                    assert!(validator.is_valid(&row), "{}: taken, but not valid: {row}", example.name);
                    n_good += 1;
                }
                Some(bad) if is_beyond_a_schema(bad.reason.class, &row) => {}
                Some(bad) => {
                    assert!(!validator.is_valid(&row), "{}: {}, but valid: {row}", example.name, bad.reason);
                    n_bad += 1;
                }
            }
        }
    }
    assert!(n_good > 80 && n_bad > 80, "{n_good} good and {n_bad} bad rows are too few to mean anything");
}

fn agree(schema_path: &str, decode: impl Fn(&Value) -> Option<PoisonClass>, beyond: impl Fn(&Value) -> bool) {
    let (schema, validator) = (schema(schema_path), validator(schema_path));
    let good = &schema["examples"][0];
    assert!(validator.is_valid(good) && decode(good).is_none());
    for field in properties(&schema) {
        for value in odd_values() {
            let mut message = good.clone();
            message[&field] = value;
            if beyond(&message) {
                continue;
            }
            let verdict = decode(&message);
            assert_eq!(verdict.is_none(), validator.is_valid(&message), "{verdict:?}: {message}");
        }
        let mut message = good.clone();
        message.as_object_mut().unwrap().remove(&field);
        assert_eq!(decode(&message).is_none(), validator.is_valid(&message), "without {field}");
    }
}

#[test]
fn a_batch_that_the_decoder_takes_is_valid_and_a_poisonous_one_is_not() {
    // Version 1 is taken, but is not what this schema describes; a batch of bad rows alone is taken, though it is not valid.
    let beyond = |message: &Value| message["version"] == 1 || message["transactions"] == json!([{}]);
    agree(TXNS, |message| txns(message).err().map(|poison| poison.class), beyond);
}

#[test]
fn a_request_that_the_decoder_takes_is_valid_and_a_poisonous_one_is_not() {
    agree(PROMOTE, |message| promote(message).err().map(|poison| poison.class), |_| false);
}

#[test]
fn every_field_of_the_schemas_is_known_to_the_decoder_and_others_are_counted() {
    let row_fields = properties(&schema(TXNS)["$defs"]["row"]);
    let mut row = json!({"date": "2025-08-26", "amount": "1.00", "description": "A"});
    for field in &row_fields {
        row.as_object_mut().unwrap().entry(field).or_insert(Value::Null);
    }
    let unknown = |row: &Value| match txns(&batch_of(row)) {
        Ok(Decoded::Batch { counts, .. }) => counts.unknown_fields,
        other => panic!("{other:?}"),
    };
    assert_eq!(unknown(&row), 0);
    row["balance"] = json!(1);
    assert_eq!(unknown(&row), 1);
}

#[test]
fn the_schema_lists_exactly_the_currencies_that_are_taken() {
    let listed: BTreeSet<String> = schema(TXNS)["$defs"]["row"]["properties"]["currency"]["enum"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|code| code.as_str().map(str::to_owned))
        .collect();
    assert_eq!(listed, Currency::all().iter().map(|code| (*code).to_owned()).collect());
}
