//! What is remembered of people's cells when a tab is read by two at once, while a post is in doubt, or when a post is found to have landed late.
//!
//! Called by whoever stores the cells of a tab. Pure.
//!
//! A post that removes rows, or that is planned while another is in doubt, *marks* what it read ([`Typed::is_marked`]): until the tab is planned again,
//! nobody knows which rows went, and people may have sorted meanwhile. Promote reads in between. What it reads is newer and comes back should its row
//! be deleted; what it replaces may have gone with a row, and is kept in [`Typed::before`] until the next plan.
//!
//! Promote takes no lease, so it may read while a post is under way, and store what it read long after. Therefore everybody loads what is *known* of a
//! tab before looking at it. Where something else is *stored* by the time the look is stored, nobody can tell which look was the newer: a post's counts,
//! because only posts change rows, and promote's is kept before it.
//!
//! | remembered | read since | then remembered |
//! |---|---|---|
//! | A, not marked | B | B |
//! | A, marked | B | B with the marks of A, before it A |
//! | B, before it A | C | C with the marks of B, before it A and B |
//! | B, before it A | A | A with the marks of B, before it B |
//! | A, marked or not | nothing | as it was |
//! | nothing, and a post is in doubt, or was since what is known was loaded | B | B, marked |
//! | something else than was known, B | A, by promote | B, before it A |
//! | something else than was known, A | B or nothing, by a post | B or nothing, before it A; if A is what was known, it was typed over: nothing before it |
//!
//! | what became of the post in doubt | the next plan |
//! |---|---|
//! | it took no row with people's cells in it, or never lands | B stands in its row, or comes back with it; A was typed over: it is left behind, as without promote's read |
//! | it took a row into which A or B had been sorted | whichever no row shows is left behind |
//! | it took one of several rows of the transaction | whatever none of them shows comes back in rows of their own: the person decides |
//! | it is found only after a later read | what it had read is the older, what is remembered by then the newer: the same table |
//!
//! Cells are compared, not counted: a person who types back exactly what stood there before, while promote reads, is not noticed.
//!
//! A crash before the cells are stored loses nothing that was remembered, and the tab still shows them; they are stored in one transaction.
//!
//! What must never happen here: marked cells dropped, or older cells in the place of newer ones.

use super::TypedCells;
use crate::domain::tab::Typed;

/// What is remembered of a tab once promote has read it, when `known` was remembered before its look, and by now `stored` is. `in_doubt`: a post was
/// not settled at some time in between.
pub fn merge_read(known: &TypedCells, stored: &TypedCells, read: TypedCells, in_doubt: bool) -> TypedCells {
    let mut merged = stored.clone();
    for (uid, mut cells) in read {
        if in_doubt {
            cells.put_at_risk();
        }
        let (before, now) = (known.get(&uid), merged.remove(&uid));
        let has_changed = !is_same(before, now.as_ref());
        let cells = match now {
            // Somebody has settled since what we saw again.
            now if has_changed && before.is_some_and(|before| covers(before, &cells)) => now,
            now if has_changed => Some(merge_row(cells, now.unwrap_or_default())),
            Some(older) if older.is_marked() => Some(merge_row(older, cells)),
            _ => Some(cells),
        };
        merged.extend(cells.map(|cells| (uid, cells)));
    }
    merged
}

/// What is remembered of a tab once a post has `seen` it, when `known` was remembered before its look, and by now `stored` is.
pub fn merge_seen(known: &TypedCells, stored: &TypedCells, mut seen: TypedCells) -> TypedCells {
    for (uid, cells) in stored.iter().filter(|(uid, cells)| !is_same(known.get(uid), Some(cells))) {
        let newer = seen.remove(uid).unwrap_or_default();
        seen.insert(*uid, merge_row(cells.clone(), newer));
    }
    seen
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

/// Marks say what a post did with rows, not what a person typed.
fn is_same(one: Option<&Typed>, other: Option<&Typed>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.says_the_same(other),
        (None, None) => true,
        _ => false,
    }
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
        let at_risk = |in_doubt| merge_read(&TypedCells::new(), &TypedCells::new(), read.clone(), in_doubt).into_values().all(|cells| cells.at_risk);
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

    fn one(cells: Option<Typed>) -> TypedCells {
        cells.map(|cells| (TxnUid(Uuid::from_u128(1)), cells)).into_iter().collect()
    }

    fn with_before(cells: Typed, before: &[&str]) -> Typed {
        Typed { before: before.iter().map(|text| sheet(text)).collect(), ..cells }
    }

    #[test]
    fn what_promote_stored_while_a_post_was_under_way_stands_before_what_the_post_saw() {
        let (known, stored) = (one(Some(sheet("a"))), one(Some(sheet("b"))));
        assert_eq!(merge_seen(&known, &stored, one(Some(sheet("a")))), one(Some(with_before(sheet("a"), &["b"]))));
        assert_eq!(merge_seen(&known, &stored, one(None)), one(Some(with_before(Typed::default(), &["b"]))));
        assert_eq!(merge_seen(&known, &stored, stored.clone()), stored, "the post has seen it as well");
        assert_eq!(merge_seen(&known, &known, one(Some(sheet("c")))), one(Some(sheet("c"))), "nobody was there");
        assert_eq!(merge_seen(&known, &known, one(None)), one(None));
        assert_eq!(merge_seen(&known, &one(None), one(Some(sheet("c")))), one(Some(sheet("c"))));
        assert_eq!(merge_seen(&known, &one(Some(marked("a"))), one(Some(sheet("c")))), one(Some(sheet("c"))), "only a mark has changed");
    }

    #[test]
    fn what_a_post_stored_while_promote_read_stays_and_what_promote_read_stands_before_it() {
        let read = |known: Option<Typed>, stored: Option<Typed>, read: &str| {
            merge_read(&one(known), &one(stored), one(Some(sheet(read))), false).into_values().next()
        };
        assert_eq!(read(Some(sheet("a")), Some(sheet("b")), "c"), Some(with_before(sheet("b"), &["c"])));
        assert_eq!(read(Some(sheet("a")), None, "c"), Some(with_before(Typed::default(), &["c"])));
        assert_eq!(read(None, Some(sheet("b")), "c"), Some(with_before(sheet("b"), &["c"])));
        assert_eq!(read(Some(sheet("a")), Some(sheet("b")), "a"), Some(sheet("b")), "it was typed over since");
        assert_eq!(read(Some(sheet("a")), None, "a"), None, "it was cleared or left since");
        assert_eq!(read(Some(sheet("a")), Some(sheet("a")), "c"), Some(sheet("c")), "nobody was there");
        assert_eq!(read(Some(sheet("a")), Some(marked("a")), "c"), Some(with_before(marked("c"), &["a"])), "only a mark has changed");
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
