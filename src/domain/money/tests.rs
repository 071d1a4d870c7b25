//! The tables of amounts live in `schemas/vectors.json`; here are the properties.

use proptest::prelude::*;

use super::*;

#[test]
fn an_exponent_of_any_size_is_answered_at_once() {
    let started = std::time::Instant::now();
    assert_eq!(parse_number("1e999999999"), Err(MoneyError::Range));
    assert_eq!(parse_number("-1E+99999999999999999999999999"), Err(MoneyError::Range));
    assert_eq!(parse_number("1e-99999999999999999999999999"), Ok(Cents(0)));
    assert_eq!(parse_number("0e999999999"), Ok(Cents(0)));
    assert_eq!(parse_number(&format!("0.{}1e1000001", "0".repeat(1_000_000))), Ok(Cents(100)));
    assert_eq!(parse_number(&"9".repeat(1_000_000)), Err(MoneyError::Range));
    assert_eq!(parse_text(&"0".repeat(1_000_000)), Ok(Cents(0)));
    assert!(started.elapsed() < std::time::Duration::from_secs(60));
}

#[test]
fn a_number_within_a_billionth_of_a_cent_is_that_cent() {
    for (text, cents) in [
        ("0.30000000000000004", 30),
        ("1234567.8900000001", 123_456_789),
        ("0.000000001", 0),
        ("0.001e-6", 0),
        ("0.009999999", 1),
        ("-19.989999999999998", -1999),
        ("99.99999999999", 10_000),
    ] {
        assert_eq!(parse_number(text), Ok(Cents(cents)), "{text}");
    }
    for text in ["0.0000000011", "0.009999998", "1.005", "0.001", "2.675", "1e-3", "0.00000000100000000001"] {
        assert_eq!(parse_number(text), Err(MoneyError::Precision), "{text}");
    }
}

#[test]
fn what_is_not_a_json_number_is_refused() {
    for text in ["", "-", "+1", "01", "1.", ".5", "1e", "1e+", "0x10", "NaN", "1_000", "1 ", " 1", "--1", "1.2.3", "1e1.5"] {
        assert_eq!(parse_number(text), Err(MoneyError::Shape), "{text:?}");
    }
}

proptest! {
    #[test]
    fn every_amount_survives_being_written_and_read(cents in any::<i64>()) {
        let text = Cents(cents).to_string();
        prop_assert_eq!(parse_text(&text), Ok(Cents(cents)));
        prop_assert_eq!(parse_number(&text), Ok(Cents(cents)));
    }

    #[test]
    fn grouping_signs_and_currency_signs_do_not_change_an_amount(cents in 0..i64::MAX) {
        let plain = Cents(cents).to_string();
        let (whole, fraction) = plain.split_once('.').unwrap();
        let mut grouped = String::new();
        for (i, c) in whole.chars().enumerate() {
            if i > 0 && (whole.len() - i) % 3 == 0 { grouped.push(','); }
            grouped.push(c);
        }
        for (text, want) in [
            (format!("${grouped}.{fraction}"), cents),
            (format!("+{grouped}.{fraction}"), cents),
            (format!("(${grouped}.{fraction})"), -cents),
            (format!("\u{2212}{grouped}.{fraction}"), -cents),
            (format!("-${plain}"), -cents),
        ] {
            prop_assert_eq!(parse_text(&text), Ok(Cents(want)), "{}", text);
        }
    }

    #[test]
    fn moving_the_point_by_an_exponent_does_not_change_an_amount(cents in any::<i64>(), shift in -40_i64..40) {
        let digits = cents.unsigned_abs().to_string();
        let sign = if cents < 0 { "-" } else { "" };
        let text = if shift >= 0 {
            format!("{sign}{digits}{}e{}", "0".repeat(usize::try_from(shift).unwrap()), -shift - 2)
        } else {
            let padded = format!("{}{digits}", "0".repeat(usize::try_from(-shift).unwrap()));
            let (whole, fraction) = padded.split_at(padded.len() - usize::try_from(-shift).unwrap());
            let whole = whole.trim_start_matches('0');
            format!("{sign}{}.{fraction}E{:+}", if whole.is_empty() { "0" } else { whole }, -shift - 2)
        };
        prop_assert_eq!(parse_number(&text), Ok(Cents(cents)), "{}", text);
    }

    #[test]
    fn no_text_makes_the_readers_panic(text in any::<String>(), near in "[-+($0-9,.eE)\u{2212}]{0,24}") {
        for text in [text, near] {
            if let Ok(cents) = parse_text(&text) {
                prop_assert_eq!(parse_text(&cents.to_string()), Ok(cents));
            }
            let _ = parse_number(&text);
        }
    }

    #[test]
    fn a_double_printed_by_any_producer_is_its_cent(cents in -1_000_000_000_000_i64..1_000_000_000_000, noise in -3_i64..=3) {
        // Float arithmetic of a producer leaves a few units in the last place; the text it prints is still that cent.
        #[expect(clippy::cast_precision_loss, reason = "the point of the test: what a producer's double prints")]
        let near = cents as f64 / 100.0;
        let bits = i64::from_ne_bytes(near.to_ne_bytes());
        let moved = if cents == 0 { near } else { f64::from_ne_bytes((bits + noise).to_ne_bytes()) };
        if near.abs() < 100_000.0 || noise == 0 {
            prop_assert_eq!(parse_number(&format!("{moved}")), Ok(Cents(cents)));
        }
    }
}
