//! Tests that bite: every bug that can be planted is caught by a named check, and the check passes without it.
//!
//! Runs over `Bug::ALL`; the match in [`check_of`] does not compile without a check for a new bug. Each run has a thread and a runtime of its
//! own, because a bug is planted for a thread. A zero elsewhere counts only because these are not zero.

#![cfg(feature = "faults")]
#![expect(clippy::cast_possible_truncation, reason = "grids of tests are small")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing helper fails its test")]
#![expect(dead_code, reason = "the harnesses are those of other tests, which use all of them")]

mod company_world;
mod post_support;

#[path = "faults_support/desk.rs"]
mod desk;
#[path = "faults_support/checks_of_consume.rs"]
mod of_consume;
#[path = "faults_support/checks_of_ingest.rs"]
mod of_ingest;
#[path = "faults_support/checks_of_post.rs"]
mod of_post;
#[path = "faults_support/checks_of_promote.rs"]
mod of_promote;
#[path = "faults_support/typed_tab.rs"]
mod typed_tab;

use std::collections::BTreeMap;
use std::sync::Mutex;

use company_world::database;

use futures::future::LocalBoxFuture;
use kylo::faults::{Bug, plant};

/// Runs at the same time.
const AT_ONCE: usize = 4;

/// A property, by its name, and how it is checked.
#[derive(Clone, Copy)]
struct Check {
    name: &'static str,
    run: fn() -> LocalBoxFuture<'static, ()>,
}

/// `check!(module::name)`
macro_rules! check {
    ($module:ident::$name:ident) => {
        Check { name: stringify!($name), run: || Box::pin($module::$name()) }
    };
}

/// What catches a bug.
fn check_of(bug: Bug) -> Check {
    match bug {
        Bug::OffsetBeforeWork | Bug::OffsetOfTheMessage => check!(of_consume::i5_an_offset_is_stored_once_its_message_is_durable),
        Bug::OffsetPastTheHead | Bug::LetterOnOutage | Bug::LaneSkipsFailed => {
            check!(of_consume::i5_an_outage_stops_its_company_and_no_offset_passes_its_messages)
        }
        Bug::OffsetOfAnOldAssignment => check!(of_consume::i5_what_was_taken_before_a_revoke_moves_nothing_after_it),
        Bug::LetterNotWritten => check!(of_consume::i5_a_poison_message_is_a_dead_letter_before_its_offset_moves),
        Bug::HeldNotWritten | Bug::QueueOvertaken | Bug::QueueEmptiedUnapplied => {
            check!(of_consume::i6_held_messages_are_all_applied_before_newer_ones)
        }
        Bug::NoLedger => check!(of_ingest::i1_a_batch_that_is_delivered_again_does_nothing),
        Bug::LedgerBeforeRows => check!(of_ingest::i1_a_crash_before_the_commit_leaves_neither_rows_nor_ledger),
        Bug::SeqNotLocked => check!(of_ingest::i11_two_ingests_of_one_company_take_one_seq_after_the_other),
        Bug::SearchPathLeaks => check!(of_ingest::i2_a_connection_goes_back_pointing_at_no_companys_schema),
        Bug::StaleRowWins => check!(of_ingest::an_older_batch_never_overwrites_a_newer_one),
        Bug::SupersededDismissed => check!(of_ingest::a_known_batch_whose_rows_have_changed_is_compared_again),
        Bug::OldRulesTrusted => check!(of_ingest::i11_a_row_that_comes_after_its_rule_is_matched),
        Bug::BadRowDropped => check!(of_ingest::i5_a_bad_row_is_a_dead_letter_and_its_neighbours_are_applied),
        Bug::RequestNotRecorded => check!(of_promote::a_promote_request_is_applied_once),
        Bug::ApprovalsByPosition | Bug::OpenRowsNotReplayed => check!(of_promote::i7_i11_an_approval_counts_for_its_own_row_and_nothing_stays_open),
        Bug::PromotedUnread => check!(of_promote::a_promotion_waits_while_the_tab_cannot_be_read),
        Bug::NoFence | Bug::FenceIdSkipped => check!(of_post::i4_a_batch_that_arrives_after_its_successor_is_refused),
        Bug::FenceNotAdvanced => check!(of_post::i4_post_after_post_lands),
        Bug::EpochNotChecked | Bug::PrunedInTheSameEpoch => check!(of_post::i4_a_batch_that_arrives_after_its_fence_was_pruned_is_refused),
        Bug::RetriedBlindly | Bug::DoubtTakenForLanded => check!(of_post::i4_whatever_becomes_of_an_answer_what_landed_is_what_is_confirmed),
        Bug::AnswerNotCompared => check!(of_post::i7_what_people_do_between_read_and_write_is_healed),
        Bug::TypedForgotten => check!(of_post::i7_a_row_that_was_deleted_comes_back_with_what_was_typed),
        Bug::CanaryIgnored => check!(of_post::i3_a_company_outside_the_canary_list_is_left_alone),
    }
}

/// What a run says when it fails.
fn run(bug: Option<Bug>, check: Check) -> Result<(), String> {
    let ran = std::thread::Builder::new().name(check.name.to_owned()).spawn(move || {
        let _planted = bug.map(plant);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on((check.run)());
    });
    ran.unwrap().join().map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_else(|| "a panic without words".to_owned())
    })
}

/// Does all of it, some at a time; gives what is wrong.
fn all<T: Send>(of: Vec<T>, one: impl Fn(T) -> Option<String> + Sync) -> Vec<String> {
    let (left, wrong) = (Mutex::new(of), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(next) = left.lock().unwrap().pop() else { return };
                    let found = one(next);
                    wrong.lock().unwrap().extend(found);
                }
            });
        }
    });
    wrong.into_inner().unwrap()
}

#[test]
fn r7_every_planted_bug_is_caught_by_its_check() {
    let wrong = all(Bug::ALL.to_vec(), |bug| {
        let check = check_of(bug);
        match run(Some(bug), check) {
            Ok(()) => Some(format!("{} ({}) is not caught by {}", bug.as_str(), bug.says(), check.name)),
            Err(said) => {
                println!("{} is caught by {}: {}", bug.as_str(), check.name, said.lines().next().unwrap_or_default());
                None
            }
        }
    });
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn without_a_bug_every_check_passes() {
    let checks: BTreeMap<_, _> = Bug::ALL.iter().map(|bug| (check_of(*bug).name, check_of(*bug))).collect();
    let wrong = all(checks.into_values().collect(), |check| run(None, check).err().map(|said| format!("{}: {said}", check.name)));
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn there_are_at_least_twenty_and_the_page_of_guarantees_names_them_all() {
    assert!(Bug::ALL.len() >= 20);
    let mut table = String::from("| planted bug | what it breaks | caught by |\n|---|---|---|\n");
    for bug in Bug::ALL {
        table.push_str(&format!("| `{}` | {} | `{}` |\n", bug.as_str(), bug.says(), check_of(*bug).name));
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guarantees-crashes.md")).unwrap();
    assert!(page.contains(&table), "docs/guarantees-crashes.md must have:\n{table}");
}
