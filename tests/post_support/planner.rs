//! The planner alone, against a grid in memory: random histories of Postgres and of people end with a tab that equals Postgres, and
//! nothing that was read is lost.

use kylo::domain::ids::TxnUid;
use kylo::domain::plan::TypedCells;
use kylo::domain::sheet::{Request, Value};
use kylo::domain::tab::Typed;
use proptest::prelude::*;
use uuid::Uuid;

use super::bench::{Bench, Edit, Op, TAB, bench_of, op};

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_history_the_tab_equals_postgres_and_nothing_that_was_read_is_lost(ops in prop::collection::vec(op(), 1..40)) {
        let mut bench = Bench::new();
        bench.run(Op::Open);
        for op in ops {
            bench.run(op);
        }
        bench.assert_converged();
    }
}

/// Found by the property above, and mended since.
#[test]
fn histories_that_once_lost_what_was_typed_keep_it() {
    use Edit::{Copy, Delete, SortWithKey, SortWithoutKey, Tick, Type};
    use Op::{Open, Post, Resolve, SmallPost};
    let typed = |row, column| Op::Edit(Type { row, column });
    let post = || Post(Vec::new());
    let histories = [
        vec![Resolve(0), Open, Open, Open, Resolve(0), post(), Op::Edit(Copy(19)), typed(10, 0), Post(vec![Copy(39)])],
        vec![post(), typed(0, 2), Op::Edit(Copy(0)), Post(vec![Type { row: 31, column: 2 }, Delete(20)])],
        vec![
            Open,
            Open,
            Open,
            SmallPost,
            Resolve(11),
            Open,
            Op::Edit(Copy(0)),
            Open,
            Open,
            Post(vec![Tick(3)]),
            Open,
            Open,
            Resolve(36),
            typed(6, 0),
            Op::Edit(Copy(5)),
            Op::Edit(Delete(22)),
            Op::Edit(SortWithoutKey(11)),
            Post(vec![Delete(6)]),
        ],
        vec![
            Open,
            Open,
            post(),
            Post(vec![Delete(9), Type { row: 1, column: 1 }]),
            Open,
            post(),
            Op::Edit(Copy(4)),
            Op::Edit(Copy(25)),
            Open,
            Open,
            typed(7, 0),
            Op::Edit(SortWithoutKey(9)),
            Post(vec![SortWithKey(31)]),
        ],
    ];
    for history in histories {
        let mut bench = Bench::new();
        bench.run(Open);
        history.into_iter().for_each(|op| bench.run(op));
        bench.assert_converged();
    }
}

/// Two rows, the lower one with a copy below it and something typed in it; the post that removes the copy meets `between`.
fn after_a_copy_is_removed_while(between: &[Edit]) -> Bench {
    let mut bench = bench_of(2);
    bench.edit(&Edit::Copy(1));
    bench.edit(&Edit::Type { row: 1, column: 0 });
    bench.post(between, 2_000_000);
    bench
}

#[test]
fn what_was_typed_survives_the_removal_of_a_copy_that_hits_the_row_itself() {
    let mut bench = after_a_copy_is_removed_while(&[Edit::Copy(0)]);
    bench.assert_converged();
    assert_eq!(bench.book.grid(TAB).texts("Target_Sheet"), ["", "typed 1"]);
}

#[test]
fn what_was_typed_comes_back_beside_what_a_person_typed_in_the_copy_that_was_left() {
    let mut bench = after_a_copy_is_removed_while(&[Edit::Copy(0), Edit::Type { row: 3, column: 1 }]);
    bench.assert_converged();
    let tab = bench.book.grid(TAB);
    assert_eq!(
        (tab.texts("Target_Sheet"), tab.texts("Target_Header")),
        (vec!["".into(), "".into(), "typed 1".into()], vec!["".into(), "typed 2".into(), "".into()])
    );
}

/// A row with something typed in it and one that leaves; `between` the post's read and its write a person sorts.
fn after_a_row_leaves_while(between: &[Edit]) -> Bench {
    let mut bench = bench_of(2);
    bench.edit(&Edit::Type { row: 0, column: 0 });
    bench.run(Op::Resolve(1));
    bench.post(between, 2_000_000);
    bench
}

#[test]
fn what_a_person_sorts_into_a_row_that_leaves_is_kept_as_left_behind() {
    let mut bench = after_a_row_leaves_while(&[Edit::SortWithoutKey(0)]);
    bench.assert_converged();
    assert_eq!(bench.book.grid(TAB).texts("Target_Sheet"), [""], "its own row is there, without it");
    assert_eq!(bench.left, [Typed { target_sheet: "typed 1".to_owned(), ..Typed::default() }]);
}

#[test]
fn what_stays_on_the_tab_while_a_row_leaves_is_not_kept_a_second_time() {
    for between in [vec![], vec![Edit::SortWithKey(0)], vec![Edit::Insert(1)]] {
        let mut bench = after_a_row_leaves_while(&between);
        bench.assert_converged();
        assert_eq!((bench.book.grid(TAB).texts("Target_Sheet"), bench.left), (vec!["typed 1".to_owned()], vec![]), "{between:?}");
    }
}

#[test]
fn what_was_typed_in_a_decided_row_that_finds_no_room_in_the_batch_is_kept_when_a_person_deletes_it() {
    let mut bench = bench_of(2);
    bench.run(Op::Edit(Edit::Type { row: 0, column: 0 }));
    bench.run(Op::Resolve(0));
    let cut = bench.plan(0);
    assert!(!cut.complete && cut.left.is_empty());
    bench.remember(&cut);
    bench.run(Op::Edit(Edit::Delete(0)));
    bench.assert_converged();
    assert_eq!(bench.left, [Typed { target_sheet: "typed 1".to_owned(), ..Typed::default() }]);
}

#[test]
fn of_a_decided_row_that_is_gone_only_what_was_typed_is_kept() {
    let mut bench = bench_of(2);
    bench.run(Op::Resolve(0));
    bench.post(&[], usize::MAX);
    let typed = Typed { target_sheet: "read by promote".to_owned(), ..Typed::default() };
    let uid = *bench.gone.keys().next().unwrap();
    bench.typed = TypedCells::from([(uid, Typed { before: vec![typed.clone()], ..Typed::default() })]);
    bench.assert_converged();
    assert_eq!(bench.left, [typed]);
}

#[test]
fn a_plan_of_a_hundred_thousand_rows_takes_about_ten_times_as_long_as_one_of_ten_thousand() {
    let time = |n: usize| {
        let mut bench = bench_of(n);
        let middle: Vec<TxnUid> = bench.open.keys().copied().step_by(2).collect();
        for uid in middle {
            let row = bench.open.remove(&uid).unwrap();
            bench.gone.insert(uid, row.description);
        }
        let best = (0..3).map(|_| {
            let started = std::time::Instant::now();
            let plan = bench.plan(usize::MAX);
            assert_eq!(plan.removed, n / 2);
            started.elapsed()
        });
        best.min().unwrap()
    };
    let (small, large) = (time(10_000), time(100_000));
    assert!(large < small * 40, "{small:?} -> {large:?}");
}

#[test]
fn adjacent_cells_travel_together_and_nothing_else_is_written() {
    let mut bench = bench_of(6);
    for row in [2, 3, 4] {
        bench.book.grid_mut(TAB).set(row, "Source", Value::Text("x".to_owned()));
        bench.book.grid_mut(TAB).set(row, "Company_ID", Value::Text("x".to_owned()));
    }
    let plan = bench.plan(usize::MAX);
    let shapes: Vec<_> = plan
        .rows
        .iter()
        .map(|request| match request {
            Request::WriteCells { row, column, cells, .. } => (*row, *column, cells.len(), cells[0].len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(shapes, [(2, 2, 3, 2), (2, 8, 3, 2)], "one block for Source and Company_ID, one for Approved and Status");
    assert_eq!(plan.row_count(), 3);
}

#[test]
fn the_signature_depends_on_every_part_and_on_where_one_ends() {
    let rows = [Request::DeleteRows { sheet_id: 1, start: 2, count: 3 }];
    let intent = Uuid::from_u128(1);
    let base = kylo::domain::plan::signature("710", "s", "tab", intent, &rows);
    assert_eq!(base.len(), 64);
    for other in [
        kylo::domain::plan::signature("71", "0s", "tab", intent, &rows),
        kylo::domain::plan::signature("710", "st", "ab", intent, &rows),
        kylo::domain::plan::signature("710", "s", "tab", Uuid::from_u128(2), &rows),
        kylo::domain::plan::signature("710", "s", "tab", intent, &[]),
    ] {
        assert_ne!(base, other);
    }
}
