//! What holds for any bytes. What is made of which message is in `tests/contracts/`.

use proptest::prelude::*;

use super::*;

fn now() -> DateTime<Utc> {
    "2025-08-26T12:30:00Z".parse().unwrap()
}

fn message<'a>(payload: Option<&'a [u8]>, key: Option<&'a [u8]>) -> RawMessage<'a> {
    RawMessage { payload, key, topic: "t", partition: 0, offset: 0 }
}

fn decode(payload: &str) -> Result<Decoded, Poison> {
    decode_txns(&message(Some(payload.as_bytes()), None), now())
}

fn batch_of(rows: &str) -> String {
    format!(
        r#"{{"event_type":"TXNS_BATCH","version":2,"batch_id":"b","company_id":"710","created_at":"2025-08-26T12:00:00Z","transactions":[{rows}]}}"#
    )
}

fn row(n: usize) -> String {
    format!(r#"{{"id":"t{n}","date":"2025-08-26","amount":-12.34,"description":"STARBUCKS {n}"}}"#)
}

#[test]
fn a_null_value_is_a_tombstone_whatever_its_key() {
    for key in [None, Some(b"710".as_slice()), Some(b"\xff".as_slice())] {
        assert_eq!(decode_txns(&message(None, key), now()), Ok(Decoded::Tombstone));
        assert_eq!(decode_promote(&message(None, key), now()), Ok(DecodedPromote::Tombstone));
    }
}

#[test]
fn five_thousand_rows_in_one_message_keep_their_order() {
    let rows: Vec<String> = (0..5_000).map(row).collect();
    let Ok(Decoded::Batch { batch, bad, .. }) = decode(&batch_of(&rows.join(","))) else { panic!() };
    assert!(bad.is_empty());
    let ids: Vec<&str> = batch.rows.iter().filter_map(|row| row.id.as_deref()).collect();
    assert_eq!(ids, (0..5_000).map(|n| format!("t{n}")).collect::<Vec<_>>());
}

#[test]
fn one_bad_row_in_the_middle_leaves_all_others() {
    let rows: Vec<String> = (0..100).map(|n| if n == 50 { r#"{"date":[[[[]]]]}"#.to_owned() } else { row(n) }).collect();
    let Ok(Decoded::Batch { batch, bad, .. }) = decode(&batch_of(&rows.join(","))) else { panic!() };
    assert_eq!((batch.rows.len(), bad.len()), (99, 1));
    assert_eq!((bad[0].pointer.as_str(), bad[0].raw.as_str()), ("/transactions/50", r#"{"date":[[[[]]]]}"#));
}

#[test]
fn more_rows_or_bytes_than_are_looked_at_are_refused_cheaply() {
    let rows = "0,".repeat(MAX_ROWS) + "0";
    let poison = decode(&batch_of(&rows)).unwrap_err();
    assert_eq!((poison.class, poison.pointer.as_deref()), (PoisonClass::TooLarge, Some("/transactions")));
    assert_eq!(poison.company_id.unwrap().as_str(), "710");
    let bytes = vec![b' '; MAX_PAYLOAD_BYTES + 1];
    let poison = decode_txns(&message(Some(&bytes), None), now()).unwrap_err();
    assert_eq!(poison.class, PoisonClass::TooLarge);
}

#[test]
fn nesting_of_any_depth_costs_no_stack() {
    let depth = 500_000;
    let nested = "[".repeat(depth) + &"]".repeat(depth);
    let objects = r#"{"a":"#.repeat(depth) + "1" + &"}".repeat(depth);
    for value in [&nested, &objects] {
        assert_eq!(decode(value).unwrap_err().class, PoisonClass::WrongShape);
        assert_eq!(decode(&format!(r#"{{"message":{value}}}"#)).unwrap_err().class, PoisonClass::WrongShape);
        let Ok(Decoded::Batch { bad, .. }) = decode(&batch_of(&format!(r#"{{"id":{value},"memo":{value},"x":{value}}}"#))) else { panic!() };
        assert_eq!(bad.len(), 1);
    }
    assert_eq!(decode(&nested[..depth]).unwrap_err().class, PoisonClass::NotJson);
}

#[test]
fn decoding_the_same_message_again_gives_the_same() {
    let payload = batch_of(&(0..20).map(|n| row(n % 7)).collect::<Vec<_>>().join(","));
    assert_eq!(decode(&payload), decode(&payload));
}

#[test]
fn the_names_of_classes_are_snake_case_and_each_its_own() {
    let names: std::collections::BTreeSet<&str> = PoisonClass::ALL.iter().map(|class| class.as_str()).collect();
    assert_eq!(names.len(), PoisonClass::ALL.len());
    assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')));
}

/// A valid message with a few bytes changed, cut out or doubled.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let whole = batch_of(&format!("{},{}", row(1), r#"{"date":"2025-08-26","amount":"(1,000.00)","description":"é\u00e9","memo":null,"void":true}"#));
    let enveloped = format!(r#"{{"key":"710","message":{}}}"#, serde_json::Value::from(whole.as_str()));
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6);
    (prop::sample::select(vec![whole, enveloped]), edits).prop_map(|(text, edits)| {
        let mut bytes = text.into_bytes();
        for (at, byte, what) in edits {
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => bytes[at] = b"{}[]\",:0e-\\u"[usize::from(byte) % 12],
                2 => {
                    bytes.remove(at);
                }
                _ => bytes.insert(at, bytes[at]),
            }
        }
        bytes
    })
}

/// Text of roughly the shape of a message, with anything in its fields.
fn near_message() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("2".to_owned()),
        Just("[]".to_owned()),
        Just("[{}]".to_owned()),
        Just("{}".to_owned()),
        Just(r#""710""#.to_owned()),
        Just(r#""TXNS_BATCH""#.to_owned()),
        Just(r#""\ud800""#.to_owned()),
        Just("-0.0e-999".to_owned()),
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
    ];
    let fields = prop::collection::vec((0..head::FIELDS.len(), value), 0..10);
    fields.prop_map(|fields| {
        let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("\"{}\":{value}", head::FIELDS[name])).collect();
        format!("{{{}}}", fields.join(","))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), key in prop::option::of(prop::collection::vec(any::<u8>(), 0..4))) {
        let _ = decode_txns(&message(Some(&bytes), key.as_deref()), now());
        let _ = decode_promote(&message(Some(&bytes), key.as_deref()), now());
    }

    #[test]
    fn no_damaged_message_makes_the_decoder_panic(bytes in damaged()) {
        let decoded = decode_txns(&message(Some(&bytes), Some(b"710")), now());
        if let Ok(Decoded::Batch { batch, bad, counts, .. }) = decoded {
            let n = batch.rows.len() + bad.len() + usize::try_from(counts.collapsed_in_batch).unwrap();
            prop_assert!(n >= 1);
        }
    }

    #[test]
    fn no_message_with_odd_fields_makes_the_decoder_panic(text in near_message()) {
        let _ = decode(&text);
        let _ = decode_promote(&message(Some(text.as_bytes()), None), now());
    }
}
