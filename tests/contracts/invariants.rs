//! The invariants that decoding alone answers for.

use serde_json::{Value, json};

use kylo::domain::money::{Cents, parse_number, parse_text};
use kylo::flow::decode::{Decoded, decode_txns};

use crate::{Example, examples, now};

fn decoded(rows: &[Value]) -> Decoded {
    let payload = json!({
        "event_type": "TXNS_BATCH", "version": 2, "batch_id": "b", "company_id": "710", "created_at": "2025-08-26T12:00:00Z",
        "transactions": rows,
    });
    let example = Example { name: "x".into(), payload: payload.to_string().into_bytes() };
    decode_txns(&example.message(), now()).unwrap()
}

#[test]
fn i8_every_cent_is_exact_whether_it_comes_as_text_or_as_a_producers_double() {
    // The original's int(amount * 100) was a cent off for 4,586 of the first 100,000 amounts.
    for cents in 0..100_000_i64 {
        let text = format!("{}.{:02}", cents / 100, cents % 100);
        let double: f64 = text.parse().unwrap();
        assert_eq!(parse_text(&text), Ok(Cents(cents)));
        assert_eq!(parse_number(&json!(double).to_string()), Ok(Cents(cents)));
    }
    let row = |amount: Value| json!({"date": "2025-08-26", "amount": amount, "description": ""});
    let Decoded::Batch { batch, bad, .. } = decoded(&[row(json!(19.99)), row(json!("-0.29")), row(json!(0.1 + 0.2))]) else { panic!() };
    assert!(bad.is_empty());
    assert_eq!(batch.rows.iter().map(|row| row.cents).collect::<Vec<_>>(), [Cents(1999), Cents(-29), Cents(30)]);
}

#[test]
fn i8_instants_are_utc_and_business_dates_do_not_move_between_zones() {
    for (date, day) in [("2025-08-26T23:30:00-11:00", "2025-08-26"), ("2025-08-27T00:30:00+14:00", "2025-08-27"), ("2025-08-26", "2025-08-26")] {
        let Decoded::Batch { batch, .. } = decoded(&[json!({"date": date, "amount": 1, "description": ""})]) else { panic!() };
        assert_eq!(batch.rows[0].date.to_string(), day);
        assert_eq!(batch.created_at.to_rfc3339(), "2025-08-26T12:00:00+00:00");
    }
}

#[test]
fn i9_text_that_looks_like_a_formula_or_sql_or_a_path_is_kept_letter_by_letter() {
    let long = "=HYPERLINK(\"x\") ".repeat(4_000);
    for text in
        ["=1+1", "+1", "-1", "@SUM(A1)", "'; DROP TABLE x; --", "../../etc/passwd", "${HOME}", "%s%n", "\t=1", "<b>", "a\r\nb", "\u{202e}x", &long]
    {
        let row = json!({"id": text, "date": "2025-08-26", "amount": 1, "description": text, "memo": text, "counterparty": text});
        let Decoded::Batch { batch, bad, .. } = decoded(&[row]) else { panic!() };
        assert!(bad.is_empty(), "{text}");
        let row = &batch.rows[0];
        for kept in [row.id.as_deref(), Some(row.description.as_str()), row.memo.as_deref(), row.counterparty.as_deref()] {
            assert_eq!(kept, Some(text));
        }
    }
}

#[test]
fn i10_neither_a_reason_nor_the_debug_form_of_what_was_decoded_shows_contents_or_secrets() {
    let mut n_checked = 0;
    for example in examples("txns") {
        let mut shown = Vec::new();
        match decode_txns(&example.message(), now()) {
            Ok(decoded) => {
                shown.push(format!("{decoded:?}"));
                if let Decoded::Batch { bad, .. } = decoded {
                    shown.extend(bad.into_iter().map(|bad| bad.reason.to_string()));
                }
            }
            Err(poison) => shown.extend([poison.to_string(), format!("{poison:?}")]),
        }
        for text in shown {
            for secret in ["STARBUCKS", "starbucks", "COFFEE", "LUNCH", "card 2", "secret", "postgres://", "12.34", "Cents("] {
                // "-12.34" stands in the hint that shows what an amount looks like.
                let text = text.replace("like -12.34", "");
                assert!(!text.contains(secret), "{}: {text}", example.name);
            }
            n_checked += 1;
        }
    }
    assert!(n_checked > 150);
}
