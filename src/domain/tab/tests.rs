use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn header(role: Role) -> Vec<Value> {
    role.headers().iter().map(|header| text(header)).collect()
}

fn observed(rows: Vec<Vec<Value>>) -> ObservedTab {
    let row_count = u32::try_from(rows.len()).unwrap();
    ObservedTab { sheet_id: 7, title: "710 Pending".to_owned(), hidden: false, row_count, column_count: 12, frozen_rows: 1, rows }
}

fn open(n: u128, description: &str, cents: i64) -> OpenRow {
    OpenRow {
        uid: TxnUid(Uuid::from_u128(n)),
        occurred_on: NaiveDate::from_ymd_opt(2025, 8, 26).unwrap(),
        description: description.to_owned(),
        amount_cents: cents,
        answer: String::new(),
        answer_input: None,
        seq: 1,
        content_seq: 1,
    }
}

fn row_of(wanted: &OpenRow, typed: [Value; 4]) -> Vec<Value> {
    let [sheet, column, notes, approved] = typed;
    let amount = wanted.amount_cents as f64 / 100.0;
    vec![
        text(&wanted.uid.to_string()),
        text("2025-08-26"),
        text(&wanted.description),
        text("710"),
        Value::Number(amount),
        sheet,
        column,
        notes,
        approved,
    ]
}

fn one_row(wanted: &OpenRow, typed: [Value; 4]) -> PendingRow {
    read_pending(&observed(vec![header(Role::Pending), row_of(wanted, typed)])).unwrap().rows.remove(0)
}

#[test]
fn a_column_is_found_by_its_header_wherever_it_stands() {
    let mut head = header(Role::Pending);
    head.reverse();
    head[3] = text("  Target_Header ");
    let mut row = vec![Value::Empty; 10];
    row[3] = text("COFFEE");
    row[9] = text(&Uuid::from_u128(5).to_string());
    let view = read_pending(&observed(vec![head, row])).unwrap();
    assert_eq!(view.rows[0].typed.target_header, "COFFEE");
    assert_eq!(view.rows[0].key, RowKey::Uid(TxnUid(Uuid::from_u128(5))));
}

#[test]
fn a_missing_a_doubled_and_no_header_at_all_are_told_apart() {
    let mut missing = header(Role::Pending);
    missing[2] = text("source");
    assert_eq!(read_pending(&observed(vec![missing])), Err(HeaderError::Missing(vec!["Source"])));
    let mut doubled = header(Role::Pending);
    doubled.push(text("Status"));
    assert_eq!(read_pending(&observed(vec![doubled])), Err(HeaderError::Doubled(vec!["Status"])));
    assert_eq!(read_pending(&observed(vec![vec![Value::Empty], vec![Value::Bool(false)]])), Err(HeaderError::Empty));
    assert_eq!(read_active(&observed(vec![])), Err(HeaderError::Empty));
}

#[test]
fn approved_is_a_ticked_box_or_the_text_true_and_anything_odd_is_answered() {
    let wanted = open(1, "STARBUCKS", -1234);
    let judge = |approved: Value| approval(&one_row(&wanted, [text("OPEX"), text("COFFEE"), Value::Empty, approved]), &wanted);
    for yes in [Value::Bool(true), text("TRUE"), text(" true "), text("True")] {
        assert_eq!(judge(yes), Approval::Counts);
    }
    for no in [Value::Bool(false), Value::Empty, text(""), text(" false"), text("FALSE")] {
        assert_eq!(judge(no), Approval::None);
    }
    for odd in [text("yes"), text("x"), Value::Number(1.0)] {
        assert!(matches!(judge(odd), Approval::Odd(answer) if answer.starts_with("invalid:")));
    }
}

#[test]
fn a_formula_in_a_persons_cell_is_not_read_and_is_answered() {
    let wanted = open(1, "STARBUCKS", -1234);
    let row = one_row(&wanted, [Value::Formula("=A1".to_owned()), text("COFFEE"), Value::Empty, Value::Bool(true)]);
    assert_eq!(row.typed.target_sheet, "");
    assert!(matches!(approval(&row, &wanted), Approval::Odd(answer) if answer.contains("Target_Sheet")));
    let notes = one_row(&wanted, [text("OPEX"), text("COFFEE"), Value::Formula("=1".to_owned()), Value::Bool(true)]);
    assert_eq!(approval(&notes, &wanted), Approval::Counts, "notes decide nothing");
    assert!(notes.typed.invalid().is_some());
}

#[test]
fn an_approval_counts_only_if_date_source_and_amount_equal_postgres() {
    let wanted = open(1, "STARBUCKS", -1234);
    let row = one_row(&wanted, [text("OPEX"), text("COFFEE"), Value::Empty, Value::Bool(true)]);
    assert_eq!(approval(&row, &wanted), Approval::Counts);
    assert_eq!(approval(&row, &open(1, "STARBUCKS", -1235)), Approval::Mismatch(vec!["Amount"]));
    assert_eq!(approval(&row, &open(1, "STARBUCKS 2", -1234)), Approval::Mismatch(vec!["Source"]));
    let mut moved = wanted.clone();
    moved.occurred_on = NaiveDate::from_ymd_opt(2025, 8, 27).unwrap();
    assert_eq!(approval(&row, &moved), Approval::Mismatch(vec!["Date"]));
}

#[test]
fn an_approval_without_a_target_is_incomplete() {
    let wanted = open(1, "STARBUCKS", -1234);
    let row = one_row(&wanted, [text("  "), text("COFFEE"), Value::Empty, Value::Bool(true)]);
    assert_eq!(approval(&row, &wanted), Approval::Incomplete(vec!["Target_Sheet"]));
}

#[test]
fn a_text_of_sixty_thousand_characters_is_shown_cut_and_still_equal() {
    for long in ["x".repeat(60_000), "é".repeat(60_000), "🚀".repeat(30_000)] {
        let cut = shown(&long);
        assert!(cut.ends_with(" … [cut]"));
        assert!((48_998..=49_000).contains(&cut.encode_utf16().count()));
        let wanted = open(1, &long, 5);
        assert!(!wanted.mismatches(&one_row(&wanted, [const { Value::Empty }; 4])).is_empty(), "the whole text is not what the cell shows");
        assert!(wanted.shows(pending::SOURCE, &text(&cut)));
    }
    assert_eq!(shown(&"é".repeat(49_000)), "é".repeat(49_000));
}

#[test]
fn amounts_are_compared_as_cents() {
    assert!(shows_amount(&Value::Number(-12.34), -1234));
    assert!(shows_amount(&Value::Number(-12.340_000_000_000_001), -1234));
    assert!(!shows_amount(&Value::Number(-12.35), -1234));
    assert!(!shows_amount(&text("abc"), -1234));
    assert!(!shows_amount(&Value::Empty, 0));
    assert_eq!(amount_cell(i64::MAX), CellWrite::Text("92233720368547758.07".to_owned()));
    assert!(shows_amount(&text("92233720368547758.07"), i64::MAX));
    assert!(!shows_amount(&Value::Number(92_233_720_368_547_758.07), i64::MAX));
}

#[test]
fn a_fingerprint_changes_with_every_persons_cell() {
    let base = Typed { target_sheet: "a".into(), target_header: "b".into(), ..Typed::default() };
    let others = [
        Typed { target_sheet: "ab".into(), target_header: String::new(), ..Typed::default() },
        Typed { match_notes: "n".into(), ..base.clone() },
        Typed { approved: Approved::Yes, ..base.clone() },
        Typed { approved: Approved::Odd("yes".into()), ..base.clone() },
        Typed { formula_in: vec!["Match_Notes".into()], ..base.clone() },
    ];
    for other in &others {
        assert_ne!(base.fingerprint(), other.fingerprint(), "{other:?}");
    }
    assert_eq!(base.fingerprint(), base.clone().fingerprint());
}

#[test]
fn a_copied_row_that_says_something_else_is_seen() {
    let wanted = open(1, "STARBUCKS", -1234);
    let typed = |sheet: &str| row_of(&wanted, [text(sheet), Value::Empty, Value::Empty, Value::Bool(false)]);
    let differs = |copies: &[&str]| {
        let rows = std::iter::once(header(Role::Pending)).chain(copies.iter().map(|sheet| typed(sheet))).collect();
        let view = read_pending(&observed(rows)).unwrap();
        view.topmost()[&wanted.uid].1
    };
    assert!(!differs(&["OPEX"]));
    assert!(!differs(&["OPEX", "OPEX", ""]));
    assert!(differs(&["OPEX", "", "RENT"]));
}

proptest! {
    #[test]
    fn every_amount_is_shown_as_it_is_written(cents in any::<i64>()) {
        let seen = match amount_cell(cents) {
            CellWrite::Money(units) => Value::Number(units),
            CellWrite::Text(written) => Value::Text(written),
            other => panic!("{other:?}"),
        };
        prop_assert!(shows_amount(&seen, cents));
    }

    #[test]
    fn what_was_typed_survives_json(sheet in ".{0,8}", notes in ".{0,8}", ticked in any::<bool>()) {
        let typed = Typed { target_sheet: sheet, match_notes: notes, approved: if ticked { Approved::Yes } else { Approved::No }, ..Typed::default() };
        let json = serde_json::to_string(&typed).unwrap();
        prop_assert_eq!(serde_json::from_str::<Typed>(&json).unwrap(), typed);
    }
}
