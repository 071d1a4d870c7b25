use proptest::prelude::*;

use super::*;

fn head() -> BatchHead {
    BatchHead {
        batch_id: BatchId::parse("b-1").unwrap(),
        company_id: CompanyId::parse("710").unwrap(),
        created_at: DateTime::from_timestamp(1_756_209_600, 0).unwrap(),
        version: 2,
        producer: None,
    }
}

fn row(cents: i64, description: &str) -> RowInput {
    RowInput::new(NaiveDate::from_ymd_opt(2025, 8, 26).unwrap(), Cents(cents), description)
}

fn assemble(candidates: Vec<Candidate>) -> Assembled {
    TxnsBatch::assemble(head(), candidates, |index| format!("raw {index}"))
}

fn good(rows: Vec<RowInput>) -> Assembled {
    assemble(rows.into_iter().enumerate().map(|(index, input)| Candidate::good(index, input)).collect())
}

fn occurrences(assembled: &Assembled) -> Vec<Option<u32>> {
    assembled.batch.rows.iter().map(|row| row.occurrence).collect()
}

fn set_aside(assembled: &Assembled) -> Vec<(usize, BadRowClass, Option<u32>)> {
    assembled.bad.iter().map(|bad| (bad.index, bad.reason.class, bad.occurrence)).collect()
}

#[test]
fn two_equal_purchases_stay_two_and_the_batch_again_stays_the_same_two() {
    let rows = || vec![row(-500, "COFFEE"), row(-700, "LUNCH"), row(-500, "COFFEE")];
    let first = good(rows());
    assert_eq!(occurrences(&first), [Some(1), Some(1), Some(2)]);
    assert_ne!(first.batch.rows[0].uid, first.batch.rows[2].uid);
    assert_eq!(good(rows()), first);
}

#[test]
fn equal_rows_with_other_memos_are_still_counted_apart() {
    let with_memo = RowInput { memo: Some("card 2".into()), ..row(-500, "COFFEE") };
    let assembled = good(vec![row(-500, "COFFEE"), with_memo]);
    assert_eq!(occurrences(&assembled), [Some(1), Some(2)]);
    assert!(assembled.bad.is_empty());
}

#[test]
fn a_number_that_a_row_claims_is_given_to_no_other() {
    let claiming = |n| RowInput { occurrence: Some(n), ..row(-500, "COFFEE") };
    let assembled = good(vec![row(-500, "COFFEE"), claiming(1), row(-500, "COFFEE"), claiming(3), row(-500, "COFFEE")]);
    assert_eq!(occurrences(&assembled), [Some(2), Some(1), Some(4), Some(3), Some(5)]);
}

#[test]
fn mending_a_bad_row_does_not_renumber_its_equals() {
    let reason = BadRowReason::new(BadRowClass::BadText, "memo contains U+0000");
    let broken = assemble(vec![Candidate::bad(0, reason, Some(row(-500, "COFFEE"))), Candidate::good(1, row(-500, "COFFEE"))]);
    let whole = good(vec![row(-500, "COFFEE"), row(-500, "COFFEE")]);
    assert_eq!(set_aside(&broken), [(0, BadRowClass::BadText, Some(1))]);
    assert_eq!(broken.batch.rows[0].uid, whole.batch.rows[1].uid);
    let alone = good(vec![RowInput { occurrence: broken.bad[0].occurrence, ..row(-500, "COFFEE") }]);
    assert_eq!(alone.batch.rows[0].uid, whole.batch.rows[0].uid);
}

#[test]
fn an_occurrence_on_a_row_with_id_is_dropped() {
    let plain = good(vec![row(-500, "COFFEE").with_id("t1")]);
    let numbered = good(vec![RowInput { occurrence: Some(7), ..row(-500, "COFFEE").with_id("t1") }]);
    assert_eq!(plain.batch, numbered.batch);
}

#[test]
fn the_same_id_with_equal_content_is_one_row_and_counted() {
    let spaced = RowInput { memo: Some(String::new()), ..row(-500, "COFFEE").with_id("t1") };
    let assembled = good(vec![row(-500, "COFFEE").with_id("t1"), spaced, row(-1, "X")]);
    assert_eq!((assembled.batch.rows.len(), assembled.collapsed), (2, 1));
    let once = good(vec![row(-500, "COFFEE").with_id("t1"), row(-1, "X")]);
    assert_eq!(assembled.batch.signature, once.batch.signature);
}

#[test]
fn the_same_id_with_different_content_is_set_aside_every_time_it_stands_there() {
    let assembled = good(vec![
        row(-500, "COFFEE").with_id("t1"),
        row(-9, "OTHER").with_id("t2"),
        row(-500, "COFFEE").with_id("t1"),
        row(-501, "COFFEE").with_id("t1"),
    ]);
    let expected = [0, 2, 3].map(|index| (index, BadRowClass::DuplicateId, None));
    assert_eq!(set_aside(&assembled), expected);
    assert_eq!(assembled.batch.rows.len(), 1);
    assert_eq!(assembled.bad[1].raw, "raw 2");
    assert_eq!(assembled.bad[1].pointer, "/transactions/2");
    assert_eq!(assembled.collapsed, 0);
}

#[test]
fn one_occurrence_claimed_twice_with_different_content_is_set_aside() {
    let first = RowInput { occurrence: Some(1), ..row(-500, "COFFEE") };
    let second = RowInput { memo: Some("m".into()), ..first.clone() };
    assert_eq!(set_aside(&good(vec![first, second])), [(0, BadRowClass::DuplicateId, Some(1)), (1, BadRowClass::DuplicateId, Some(1))]);
}

#[test]
fn blank_ids_nul_characters_and_occurrence_zero_do_not_get_in() {
    let assembled = good(vec![
        row(-1, "A").with_id(" \u{a0}\t"),
        row(-1, "A\0"),
        RowInput { memo: Some("\0".into()), ..row(-1, "A") },
        RowInput { counterparty: Some("\0".into()), ..row(-1, "A") },
        row(-1, "A").with_id("t\0"),
        RowInput { occurrence: Some(0), ..row(-1, "A") },
    ]);
    let classes: Vec<_> = assembled.bad.iter().map(|bad| bad.reason.class).collect();
    use BadRowClass::{BadOccurrence, BadText, BlankId};
    assert_eq!(classes, [BlankId, BadText, BadText, BadText, BadText, BadOccurrence]);
    assert!(assembled.batch.rows.is_empty());
}

#[test]
fn a_batch_of_bad_rows_alone_has_a_signature_and_no_rows() {
    let assembled = good(vec![row(-1, "A").with_id("")]);
    assert!(assembled.batch.rows.is_empty());
    assert_eq!(assembled.batch.signature, good(Vec::new()).batch.signature);
}

#[test]
fn printing_a_batch_for_a_log_shows_no_row_contents() {
    let secret = RowInput { memo: Some("SECRETMEMO".into()), ..row(-9_876_543, "SECRETTEXT") };
    let assembled =
        assemble(vec![Candidate::good(0, secret.clone()), Candidate::bad(1, BadRowReason::new(BadRowClass::BadDate, "date"), Some(secret.clone()))]);
    let assembled = Assembled { bad: vec![BadRow { raw: "SECRETTEXT".into(), ..assembled.bad[0].clone() }], ..assembled };
    for shown in [format!("{assembled:?}"), format!("{secret:?}"), format!("{:?}", Candidate::good(0, secret.clone()))] {
        assert!(!shown.contains("SECRET") && !shown.contains("9876543"), "{shown}");
    }
}

#[test]
fn a_promote_request_is_known_by_its_id_or_else_by_its_time() {
    let company = || CompanyId::parse("710").unwrap();
    let at = DateTime::from_timestamp(1_756_209_600, 0).unwrap();
    let text = "2025-08-26T14:00:00+02:00";
    assert_eq!(PromoteRequest::new(company(), at, text, None).request_key, text);
    let named = PromoteRequest::new(company(), at, text, Some(BatchId::parse("r-1").unwrap()));
    assert_eq!(named.request_key, "r-1");
}

#[test]
fn many_claims_cost_no_more_than_their_number() {
    let started = std::time::Instant::now();
    let claims = (1..=50_000).map(|n| RowInput { occurrence: Some(n), ..row(-1, "A") });
    let assembled = good(claims.chain((0..50_000).map(|_| row(-1, "A"))).collect());
    assert_eq!(assembled.batch.rows.last().unwrap().occurrence, Some(100_000));
    assert!(started.elapsed() < std::time::Duration::from_secs(60), "took {:?}", started.elapsed());
}

fn any_row() -> impl Strategy<Value = RowInput> {
    (prop::option::of("[ab]"), -2_i64..2, "[xy]?", prop::option::of("[mn]?"), prop::option::of(1_u32..4), any::<bool>())
        .prop_map(|(id, cents, description, memo, occurrence, void)| RowInput { id, memo, occurrence, void, ..row(cents, &description) })
}

proptest! {
    #[test]
    fn every_row_is_a_row_of_the_batch_or_collapsed_or_set_aside_and_no_transaction_is_twice(
        rows in prop::collection::vec(any_row(), 0..24),
    ) {
        let n = rows.len();
        let assembled = good(rows);
        let uids: std::collections::HashSet<_> = assembled.batch.rows.iter().map(|row| row.uid).collect();
        prop_assert_eq!(uids.len(), assembled.batch.rows.len());
        prop_assert_eq!(assembled.batch.rows.len() + assembled.bad.len() + assembled.collapsed as usize, n);
    }

    #[test]
    fn the_rows_of_a_batch_written_out_again_with_their_occurrence_are_the_same_batch(
        rows in prop::collection::vec(any_row(), 0..24),
        seed in any::<u64>(),
    ) {
        let first = good(rows).batch;
        let mut again: Vec<RowInput> = first.rows.iter().map(|row| RowInput {
            id: row.id.clone(), date: row.date, cents: row.cents, currency: row.currency, description: row.description.clone(),
            memo: row.memo.clone(), counterparty: row.counterparty.clone(), occurrence: row.occurrence, void: row.void,
        }).collect();
        let turn = if again.is_empty() { 0 } else { usize::try_from(seed % again.len() as u64).unwrap() };
        again.rotate_left(turn);
        let second = good(again);
        prop_assert!(second.bad.is_empty());
        prop_assert_eq!(second.batch.signature, first.signature);
    }
}
