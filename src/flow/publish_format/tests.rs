use proptest::prelude::*;

use super::*;
use crate::domain::message::TxnsBatch;
use crate::flow::decode::{Decoded, DecodedPromote, RawMessage, decode_promote, decode_txns};

fn now() -> DateTime<Utc> {
    "2025-08-26T12:00:00Z".parse().unwrap()
}

fn options<'a>() -> Options<'a> {
    Options { company: None, default_batch_id: None, created_at: now(), max_bytes: 500_000 }
}

fn decoded(message: &OutMessage) -> TxnsBatch {
    let raw = RawMessage { payload: Some(message.payload.as_bytes()), key: Some(message.key().as_bytes()), topic: "t", partition: 0, offset: 0 };
    match decode_txns(&raw, now()) {
        Ok(Decoded::Batch { batch, bad, .. }) if bad.is_empty() => *batch,
        other => panic!("{other:?} of {}", message.payload),
    }
}

const SAMPLE: &str = r#"{"batch_id":"b-9","transactions":[
 {"id":"t1","company_id":"710","date":"2025-08-26","amount":-12.34,"description":"STARBUCKS"},
 {"id":"t2","company_id":"711","date":"2025-08-26","amount":45.670,"description":"WALMART"},
 {"id":"t3","company_id":"710","date":"2025-08-26","amount":10.00,"description":"UNKNOWN"}]}"#;

#[test]
fn the_webhooks_payload_becomes_one_message_per_company_in_order_of_appearance() {
    let published = messages(SAMPLE, &options()).unwrap();
    let shown: Vec<_> = published.messages.iter().map(|message| (message.key(), message.name.as_str(), message.n_rows)).collect();
    assert_eq!(shown, [("710", "b-9", 2), ("711", "b-9", 1)]);
    assert!(published.rejects.is_empty());
    let batch = decoded(&published.messages[0]);
    assert_eq!(batch.rows.iter().map(|row| row.cents.0).collect::<Vec<_>>(), [-1234, 1000]);
    assert_eq!((batch.producer.as_deref(), batch.created_at), (Some(PRODUCER), now()));
}

#[test]
fn amounts_keep_the_digits_of_the_input() {
    let published = messages(SAMPLE, &options()).unwrap();
    assert!(published.messages[0].payload.contains(r#""amount":10.00,"#));
    assert!(published.messages[1].payload.contains(r#""amount":45.670,"#));
}

#[test]
fn the_same_input_gives_the_same_bytes_and_a_batch_without_name_gets_one_from_its_content() {
    let unnamed = SAMPLE.replace(r#""batch_id":"b-9","#, "");
    let published = messages(&unnamed, &options()).unwrap();
    assert_eq!(published, messages(&unnamed, &options()).unwrap());
    let later = Options { created_at: now() + chrono::TimeDelta::seconds(9), ..options() };
    assert_eq!(messages(&unnamed, &later).unwrap().messages[0].name, published.messages[0].name);
    let other = messages(&unnamed.replace("12.34", "12.35"), &options()).unwrap();
    assert_ne!(other.messages[0].name, published.messages[0].name);
    assert_eq!(other.messages[1], published.messages[1]);
    let named = Options { default_batch_id: Some("mine"), ..options() };
    assert_eq!(messages(&unnamed, &named).unwrap().messages[0].name, "mine");
    assert_eq!(messages(SAMPLE, &named).unwrap().messages[0].name, "b-9");
}

#[test]
fn only_the_company_asked_for_is_published() {
    let company = CompanyId::parse("711").unwrap();
    let published = messages(SAMPLE, &Options { company: Some(&company), ..options() }).unwrap();
    assert_eq!((published.messages.len(), published.n_filtered), (1, 2));
    assert_eq!(published.messages[0].key(), "711");
}

#[test]
fn rows_without_usable_company_are_rejected_by_place_and_the_rest_goes_out() {
    let input = r#"{"transactions":[
        {"date":"2025-08-26","amount":1,"description":"A"}, 5, {"company_id":["710"]}, {"company_id":""},
        {"company_id":"710","company_id":"711"}, {"company_id":710,"date":"2025-08-26","amount":1,"description":"A"},
        {"company_id":"__proto__","date":"2025-08-26","amount":1,"description":"A"}]}"#;
    let published = messages(input, &options()).unwrap();
    assert_eq!(published.rejects.iter().map(|reject| reject.index).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(published.messages.iter().map(OutMessage::key).collect::<Vec<_>>(), ["710", "__proto__"]);
    published.messages.iter().for_each(|message| assert_eq!(decoded(message).rows.len(), 1));
}

#[test]
fn a_txns_batch_keeps_its_name_its_time_and_its_meta() {
    let input = r#"{"event_type":"TXNS_BATCH","version":2,"batch_id":"b-1","company_id":"710","created_at":"2025-08-20T14:00:00+02:00",
        "transactions":[{"id":"t1","date":"2025-08-26","amount":-12.34,"description":"STARBUCKS"}],"meta":{"producer":"n8n@ingest","x":[1]}}"#;
    let published = messages(input, &options()).unwrap();
    let batch = decoded(&published.messages[0]);
    assert_eq!((batch.batch_id.as_str(), batch.producer.as_deref()), ("b-1", Some("n8n@ingest")));
    assert_eq!(batch.created_at.to_rfc3339(), "2025-08-20T12:00:00+00:00");
    assert_eq!(batch.signature.to_string(), "b7a4071e7090471a551d4a29c2055f14c0c08069aa973cbc34c0476519b73d7b");
}

#[test]
fn the_originals_batch_leaves_as_version_two_without_its_routing() {
    let input = r#"{"event_type":"TXNS_BATCH","version":1,"batch_id":"b-1","company_id":"710","created_at":"2025-08-20T14:00:00",
        "ingest_batch_id":5,"routing":{"db_dsn_rw":"postgres://u:secret@h/d"},
        "transactions":[{"id":"t1","date":"2025-08-26","amount":-12.34,"description":"STARBUCKS"}]}"#;
    let published = messages(input, &options()).unwrap();
    assert!(!published.messages[0].payload.contains("secret"));
    assert_eq!(decoded(&published.messages[0]).version, 2);
}

#[test]
fn several_documents_one_after_the_other_or_one_a_line_are_all_published() {
    let line = |company: &str| format!(r#"{{"transactions":[{{"company_id":"{company}","date":"2025-08-26","amount":1,"description":"A"}}]}}"#);
    let input = format!("\u{feff}{}\n{}\r\n\n{SAMPLE}\n", line("1"), line("2"));
    let published = messages(&input, &options()).unwrap();
    assert_eq!(published.messages.iter().map(OutMessage::key).collect::<Vec<_>>(), ["1", "2", "710", "711"]);
    let with_reject = format!("{}\n{{\"transactions\":[{{}}]}}", line("1"));
    let rejects = messages(&with_reject, &options()).unwrap().rejects;
    assert_eq!((rejects[0].document, rejects[0].index), (1, 0));
}

#[test]
fn input_of_another_shape_is_refused_as_a_whole_and_says_where() {
    for (input, part) in [
        ("", "is empty"),
        ("  \n", "is empty"),
        ("hello", "not JSON at line 1"),
        ("[1]", "not a JSON object"),
        ("{}", "transactions is missing"),
        (r#"{"transactions":[]}"#, "nothing to publish"),
        (r#"{"transactions":{}}"#, "must be a list"),
        (r#"{"transactions":[{}],"transactions":[{}]}"#, "stands there twice"),
        (r#"{"event_type":"PROMOTE_RULES","transactions":[{}]}"#, "not TXNS_BATCH"),
        (r#"{"event_type":"TXNS_BATCH","version":3,"company_id":"1","transactions":[{}]}"#, "version must be 1 or 2"),
        (r#"{"event_type":"TXNS_BATCH","transactions":[{}]}"#, "company_id is missing"),
        (r#"{"batch_id":"","transactions":[{}]}"#, "batch_id must not be empty"),
    ] {
        let error = messages(input, &options()).unwrap_err().to_string();
        assert!(error.contains(part) && error.starts_with("document 1"), "{input}: {error}");
    }
    let second = format!("{SAMPLE}\n{{");
    assert!(messages(&second, &options()).unwrap_err().to_string().starts_with("document 2"));
}

#[test]
fn a_row_larger_than_a_message_is_rejected_and_its_neighbours_go_out() {
    let big = "x".repeat(2_000);
    let input = format!(
        r#"{{"transactions":[{{"company_id":"1","date":"2025-08-26","amount":1,"description":"A"}},
           {{"company_id":"1","date":"2025-08-26","amount":1,"description":"{big}"}},
           {{"company_id":"1","date":"2025-08-26","amount":1,"description":"C"}}]}}"#
    );
    let published = messages(&input, &Options { max_bytes: 1_000, ..options() }).unwrap();
    assert_eq!(published.rejects.iter().map(|reject| reject.index).collect::<Vec<_>>(), [1]);
    assert_eq!(published.messages.iter().map(|message| message.n_rows).sum::<usize>(), 2);
}

#[test]
fn occurrence_is_written_only_where_a_row_needs_it() {
    for (row, wanted) in [
        (r#"{"date":"d"}"#, r#"{"date":"d","occurrence":3}"#),
        (r#"{ "occurrence" : null, "amount" : 1.00 }"#, r#"{"amount":1.00,"occurrence":3}"#),
        (r#"{"id":null}"#, r#"{"id":null,"occurrence":3}"#),
        (r#"{"id":"t1"}"#, r#"{"id":"t1"}"#),
        (r#"{"occurrence":1}"#, r#"{"occurrence":1}"#),
        ("[1]", "[1]"),
        ("{}", r#"{"occurrence":3}"#),
    ] {
        assert_eq!(with_occurrence(row, 3), wanted);
    }
}

#[test]
fn a_promote_request_is_one_the_decoder_takes() {
    for (id, key) in [(Some("r \"1\""), "r \"1\""), (None, "2025-08-26T12:00:00Z")] {
        let message = promote(&CompanyId::parse("7\"10").unwrap(), now(), id);
        let raw = RawMessage { payload: Some(message.payload.as_bytes()), key: Some(b"7\"10"), topic: "t", partition: 0, offset: 0 };
        let Ok(DecodedPromote::Request { request, counts, .. }) = decode_promote(&raw, now()) else { panic!("{}", message.payload) };
        assert_eq!((request.request_key.as_str(), counts.unknown_fields), (key, 0));
    }
}

proptest! {
    #[test]
    fn a_batch_that_is_split_is_the_same_transactions_and_no_message_is_too_large(
        rows in prop::collection::vec((prop::option::of(0_u8..20), 0_i64..3, "[ab]{0,3}", prop::option::of(1_u32..4)), 1..60),
        max_bytes in 400_usize..1_500,
    ) {
        let texts: Vec<String> = rows.iter().map(|(id, cents, description, occurrence)| {
            let id = id.map(|id| format!(r#""id":"t{id}","#)).unwrap_or_default();
            let occurrence = occurrence.map(|n| format!(r#","occurrence":{n}"#)).unwrap_or_default();
            // The content of a row with id follows from its id, so that repeats agree.
            let (cents, description) = if id.is_empty() { (*cents, description.as_str()) } else { (1, "same") };
            format!(r#"{{"company_id":"710",{id}"date":"2025-08-26","amount":{cents},"description":"{description}"{occurrence}}}"#)
        }).collect();
        let input = format!(r#"{{"transactions":[{}]}}"#, texts.join(","));
        let whole = messages(&input, &Options { max_bytes: 1 << 20, ..options() }).unwrap();
        prop_assert_eq!(whole.messages.len(), 1);
        let split = messages(&input, &Options { max_bytes, ..options() }).unwrap();
        let mut left_out = 0;
        for reject in &split.rejects {
            prop_assert!(reject.index < rows.len());
            left_out += 1;
        }
        prop_assert!(split.messages.iter().all(|message| message.payload.len() <= max_bytes));
        let facts = |messages: &[OutMessage]| {
            let mut facts: Vec<_> = messages.iter().flat_map(|message| decoded(message).rows).map(|row| (row.uid, row.cents, row.occurrence)).collect();
            facts.sort();
            facts
        };
        if left_out == 0 {
            prop_assert_eq!(facts(&split.messages), facts(&whole.messages));
        }
    }
}
