//! The examples of the contract; more of them in `schemas/vectors.json`.

use proptest::prelude::*;

use super::*;

fn company() -> CompanyId {
    CompanyId::parse("710").unwrap()
}

fn starbucks() -> RowFacts<'static> {
    RowFacts {
        id: "t1",
        date: NaiveDate::from_ymd_opt(2025, 8, 26).unwrap(),
        cents: Cents(-1234),
        currency: Currency::USD,
        description: "STARBUCKS",
        memo: "",
        counterparty: "",
        occurrence: None,
        void: false,
    }
}

#[test]
fn the_contracts_example_has_the_contracts_identities() {
    let row = starbucks();
    let mut parts = Vec::new();
    row.push_parts(&mut parts);
    assert_eq!(String::from_utf8(parts).unwrap(), "2:t110:2025-08-265:-12343:USD9:STARBUCKS0:0:0:0:");
    assert_eq!(txn_uid(&company(), TxnKey::Id("t1")).to_string(), "67e315f9-7fc3-5460-8e04-f020465bab6a");
    let key = TxnKey::Row { date: row.date, cents: row.cents, currency: row.currency, description: row.description, occurrence: 1 };
    assert_eq!(txn_uid(&company(), key).to_string(), "a001fded-fdbf-5681-8e8c-65e5ea00e275");
    assert_eq!(batch_signature(&company(), [row].into_iter()).to_string(), "b7a4071e7090471a551d4a29c2055f14c0c08069aa973cbc34c0476519b73d7b");
}

#[test]
fn a_signature_is_read_back_from_its_hexadecimal_text() {
    let signature = batch_signature(&company(), std::iter::empty());
    assert_eq!(signature.to_string().parse::<BatchSignature>().unwrap(), signature);
    for text in ["", "abc", &"g".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
        assert_eq!(text.parse::<BatchSignature>(), Err(IdError::NotHex), "{text}");
    }
}

#[test]
fn a_company_id_is_taken_exactly_as_it_is_within_its_limits() {
    for text in ["710", " 710 ", "710 EMPIRE", "__proto__", "é", &"é".repeat(50)] {
        assert_eq!(CompanyId::parse(text).unwrap().as_str(), text);
    }
    assert_eq!(CompanyId::parse(""), Err(IdError::Empty));
    assert_eq!(CompanyId::parse(&"é".repeat(51)), Err(IdError::TooLong { max: 50 }));
    assert_eq!(CompanyId::parse("a\0b"), Err(IdError::Nul));
    assert_eq!(BatchId::parse(&"b".repeat(200)).unwrap().as_str().len(), 200);
    assert_eq!(BatchId::parse(&"b".repeat(201)), Err(IdError::TooLong { max: 200 }));
}

#[test]
fn the_order_of_rows_does_not_change_the_signature_but_every_fact_does() {
    let first = starbucks();
    let second = RowFacts { id: "t10", description: "A longer one, so that lengths differ in digits", ..first };
    let forward = batch_signature(&company(), [first, second].into_iter());
    assert_eq!(batch_signature(&company(), [second, first].into_iter()), forward);
    let variants = [
        RowFacts { id: "t2", ..first },
        RowFacts { date: NaiveDate::from_ymd_opt(2025, 8, 27).unwrap(), ..first },
        RowFacts { cents: Cents(-1235), ..first },
        RowFacts { currency: Currency::parse("EUR").unwrap(), ..first },
        RowFacts { description: "STARBUCKS ", ..first },
        RowFacts { memo: "m", ..first },
        RowFacts { counterparty: "m", ..first },
        RowFacts { occurrence: Some(1), ..first },
        RowFacts { void: true, ..first },
    ];
    let mut seen = std::collections::BTreeSet::from([batch_signature(&company(), [first].into_iter())]);
    for variant in variants {
        assert!(seen.insert(batch_signature(&company(), [variant].into_iter())), "{variant:?}");
    }
}

fn encode(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    parts.iter().for_each(|part| push_part(&mut out, part));
    out
}

proptest! {
    #[test]
    fn different_lists_of_parts_never_encode_to_the_same_bytes(
        one in prop::collection::vec(prop::collection::vec(prop_oneof![Just(b':'), Just(b'1'), any::<u8>()], 0..4), 0..4),
        other in prop::collection::vec(prop::collection::vec(prop_oneof![Just(b':'), Just(b'1'), any::<u8>()], 0..4), 0..4),
    ) {
        prop_assert_eq!(encode(&one) == encode(&other), one == other);
    }

    #[test]
    fn numbers_and_dates_are_encoded_as_their_plain_text(number in any::<i64>(), days in 0_u64..3_652_058) {
        let mut ours = Vec::new();
        push_number(&mut ours, number);
        prop_assert_eq!(ours, encode(&[number.to_string().into_bytes()]));
        let date = NaiveDate::from_ymd_opt(1, 1, 1).unwrap() + chrono::Days::new(days);
        let mut ours = Vec::new();
        push_date(&mut ours, date);
        prop_assert_eq!(ours, encode(&[date.to_string().into_bytes()]));
    }
}
