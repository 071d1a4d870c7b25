//! What is remembered of people's cells when a tab is read while a post is in doubt, or a post is found to have landed late.
//!
//! Called by whoever stores the cells of a tab. Pure.
//!
//! A post that removes rows *marks* what it read ([`Typed::is_marked`]): until the tab is planned again, nobody knows which rows went, and people may
//! have sorted meanwhile. Promote reads in between. What it reads is newer and comes back should its row be deleted; what it replaces may have gone
//! with a row, and is kept in [`Typed::before`] until the next plan.
//!
//! | remembered | read since | then remembered |
//! |---|---|---|
//! | A, not marked | B | B |
//! | A, marked | B | B with the marks of A, before it A |
//! | B, before it A | C | C with the marks of B, before it A and B |
//! | B, before it A | A | A with the marks of B, before it B |
//! | A, marked or not | nothing | as it was |
//! | nothing, and a post is in doubt | B | B, marked |
//!
//! | what became of the post in doubt | the next plan |
//! |---|---|
//! | it took no row with people's cells in it, or never lands | B stands in its row, or comes back with it; A was typed over: it is left behind, as without promote's read |
//! | it took a row into which A or B had been sorted | whichever no row shows is left behind |
//! | it took one of several rows of the transaction | whatever none of them shows comes back in rows of their own: the person decides |
//! | it is found only after a later read | what it had read is the older, what is remembered by then the newer: the same table |
//!
//! A crash before the cells are stored loses nothing that was remembered, and the tab still shows them; they are stored in one transaction.
//!
//! What must never happen here: marked cells dropped, or older cells in the place of newer ones.

use super::TypedCells;
use crate::domain::tab::Typed;

/// What is remembered of a tab of which `known` was, once promote has read it. `in_doubt`: a post of the spreadsheet is not settled.
pub fn merge_read(known: &TypedCells, mut read: TypedCells, in_doubt: bool) -> TypedCells {
    if in_doubt {
        read.values_mut().for_each(Typed::put_at_risk);
    }
    merge(known, read)
}

/// What is remembered of a tab of which `older` was known, once `newer` was read.
pub fn merge(older: &TypedCells, newer: TypedCells) -> TypedCells {
    let mut merged = older.clone();
    for (uid, cells) in newer {
        let cells = match merged.remove(&uid) {
            Some(older) if older.is_marked() => merge_row(older, cells),
            _ => cells,
        };
        merged.insert(uid, cells);
    }
    merged
}

fn merge_row(older: Typed, mut newer: Typed) -> Typed {
    newer.at_risk |= older.at_risk;
    if let Some(copies) = &older.copies {
        let known = newer.copies.get_or_insert_default();
        let more: Vec<_> = copies.iter().filter(|cells| !known.contains(cells)).cloned().collect();
        known.extend(more);
    }
    let main = older.plain();
    for cells in std::mem::take(&mut newer.before).into_iter().chain([main]).chain(older.before) {
        if !covers(&newer, &cells) && !newer.before.iter().any(|kept| covers(kept, &cells)) {
            newer.before.retain(|kept| !covers(&cells, kept));
            newer.before.push(cells);
        }
    }
    newer
}

/// Every text of `cells` is one of `kept`: as long as these are not lost, nothing of those is.
fn covers(kept: &Typed, cells: &Typed) -> bool {
    cells.texts().all(|text| kept.texts().any(|other| other == text))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::TxnUid;

    fn sheet(text: &str) -> Typed {
        Typed { target_sheet: text.to_owned(), ..Typed::default() }
    }

    fn marked(text: &str) -> Typed {
        Typed { at_risk: true, ..sheet(text) }
    }

    /// One row of which these were read one after the other.
    fn read(cells: &[Typed]) -> Typed {
        let uid = TxnUid(Uuid::from_u128(1));
        let all = cells.iter().fold(TypedCells::new(), |known, cells| merge(&known, TypedCells::from([(uid, cells.clone())])));
        all[&uid].clone()
    }

    #[test]
    fn what_is_read_replaces_unmarked_cells_and_leaves_other_rows_alone() {
        let uid = |n| TxnUid(Uuid::from_u128(n));
        let older = TypedCells::from([(uid(1), sheet("a")), (uid(2), marked("b"))]);
        let merged = merge(&older, TypedCells::from([(uid(1), sheet("c")), (uid(3), sheet("d"))]));
        assert_eq!(merged, TypedCells::from([(uid(1), sheet("c")), (uid(2), marked("b")), (uid(3), sheet("d"))]));
    }

    #[test]
    fn what_promote_reads_is_at_risk_while_a_post_is_in_doubt() {
        let read = TypedCells::from([(TxnUid(Uuid::from_u128(1)), sheet("a"))]);
        let at_risk = |in_doubt| merge_read(&TypedCells::new(), read.clone(), in_doubt).into_values().all(|cells| cells.at_risk);
        assert!(at_risk(true) && !at_risk(false));
    }

    #[test]
    fn marked_cells_stand_before_what_was_read_since_and_each_of_them_once() {
        let found = read(&[marked("a"), sheet("b"), sheet("c"), sheet("b"), sheet("c")]);
        assert_eq!(found, Typed { before: vec![sheet("b"), sheet("a")], ..marked("c") });
        assert_eq!(read(&[marked("a"), sheet("b"), sheet("a")]), Typed { before: vec![sheet("b")], ..marked("a") });
    }

    #[test]
    fn what_the_newer_cells_show_as_well_does_not_stand_before_them() {
        let more = Typed { match_notes: "more".to_owned(), ..sheet("a") };
        assert_eq!(read(&[marked("a"), more.clone()]), Typed { at_risk: true, ..more.clone() });
        let less = read(&[Typed { at_risk: true, ..more.clone() }, sheet("a")]);
        assert_eq!(less, Typed { before: vec![more.clone()], ..marked("a") });
        assert_eq!(read(&[marked("a"), more.clone(), sheet("b")]).before, vec![more], "what covers the other is enough");
    }

    #[test]
    fn a_tick_alone_stands_before_nothing_and_the_newer_one_counts() {
        let ticked = |cells: Typed| Typed { approved: crate::domain::tab::Approved::Yes, ..cells };
        assert_eq!(read(&[ticked(marked("a")), sheet("a")]), marked("a"));
        assert_eq!(read(&[marked("a"), ticked(sheet("a"))]), ticked(marked("a")));
    }

    #[test]
    fn the_marks_of_both_posts_stay_when_one_is_found_after_another_has_read() {
        let with_copies = |cells: Typed, copies: &[&str]| Typed { copies: Some(copies.iter().map(|text| sheet(text)).collect()), ..cells };
        let found = read(&[with_copies(marked("a"), &["x"]), with_copies(sheet("b"), &["y", "x"])]);
        assert_eq!(found, Typed { before: vec![sheet("a")], ..with_copies(marked("b"), &["y", "x"]) });
        assert_eq!(read(&[with_copies(sheet("a"), &[]), sheet("b")]), Typed { before: vec![sheet("a")], ..with_copies(sheet("b"), &[]) });
    }

    #[test]
    fn cells_that_were_stored_without_any_before_are_read_as_they_are() {
        assert_eq!(serde_json::from_str::<Typed>(r#"{"target_sheet": "a", "at_risk": true}"#).unwrap(), marked("a"));
        assert_eq!(serde_json::to_string(&marked("a")).unwrap(), r#"{"target_sheet":"a","at_risk":true}"#);
    }

    fn cells() -> impl Strategy<Value = Typed> {
        ("[a-d]{0,1}", "[a-d]{0,1}", "[a-d]{0,1}").prop_map(|(target_sheet, target_header, match_notes)| Typed {
            target_sheet,
            target_header,
            match_notes,
            ..Typed::default()
        })
    }

    proptest! {
        #[test]
        fn nothing_read_since_a_mark_is_forgotten_and_the_last_read_is_what_comes_back(first in cells(), reads in prop::collection::vec(cells(), 1..12)) {
            let planned = Typed { at_risk: true, ..first };
            let all: Vec<Typed> = std::iter::once(planned.clone()).chain(reads).collect();
            let found = read(&all);
            prop_assert_eq!(Some(&found.plain()), all.last());
            prop_assert!(found.at_risk);
            let texts = |cells: &[&Typed]| -> BTreeSet<String> { cells.iter().flat_map(|cells| cells.texts()).map(str::to_owned).collect() };
            let kept: Vec<&Typed> = std::iter::once(&found).chain(&found.before).collect();
            prop_assert_eq!(texts(&kept), texts(&all.iter().collect::<Vec<_>>()));
            for (at, cells) in found.before.iter().enumerate() {
                prop_assert!(!cells.is_marked() && !covers(&found, cells));
                prop_assert!(found.before.iter().enumerate().all(|(other, kept)| other == at || !covers(kept, cells)));
            }
            prop_assert_eq!(&read(&[planned, found.clone()]), &found, "the post is found to have landed");
            let json = serde_json::to_string(&found).unwrap();
            prop_assert_eq!(serde_json::from_str::<Typed>(&json).unwrap(), found);
        }
    }
}
