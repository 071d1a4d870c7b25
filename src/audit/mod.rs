//! The auditor: what must every company hold, computed again from the topics by the contract alone, and does it?
//!
//! Called by `runtime::audit` (for `kylo audit`, and for tests as their judge) with everything read; pure from there on. Shares with the workers the
//! contract's types only (ids, money, text, and the decoder of messages), none of their logic and none of their SQL: `flow::*` and `store::*` are
//! closed to it (tests/architecture.rs). It is plain and slow on purpose: one company after the other, one message after the other, whole rows.
//!
//! # What goes in ([`inputs`])
//! | input | what it is | what it settles |
//! |---|---|---|
//! | both topics, first offset to end | what was said | contents, poison, bad rows, requests |
//! | committed offsets of both groups | what was promised durable (I5) | which messages may still be on their way |
//! | `outbox_events` (`batch.ingested`), `promote_requests`, `ruleset_versions`: one seq each | the recorded order of effects | which message or request took which seq |
//! | `ruleset_versions.snapshot`, `rules_pending.promoted_in` | what a promotion had read and decided | the rules of each version |
//! | dead letters, held messages | what was set aside, also for reasons that lie outside the message (clock, routing, the database) | which rows are not to be there |
//! | everything else in Postgres, `sheet_posts`, `sheet_intents`, live tabs | **what is judged** | |
//!
//! # What comes out ([`report`])
//! A [`report::Finding`] for each place where the two differ, of one class: `lost`, `doubled`, `misrouted`, `reordered`, or `altered` (it is there, once, in
//! its place, and says something else). What could not be recomputed is counted by itself as taken from Postgres, with the reason.
//!
//! # How
//! A *book* is one company in one schema. Its seqs 1..n are replayed in order ([`replay`]) through the reference implementation ([`model`]); the rows
//! that come out must be the rows that are there ([`compare`]). A message that took no seq must have been entitled to be dismissed where it stood: its
//! content known to the ledger, and applying it would change nothing. Otherwise it must be held, a dead letter, or beyond the committed offset; else
//! it is lost. A book whose beginning the topic no longer holds is judged by [`partial`]: the last word of the messages that are there, and
//! the invariants over the rows. Rules, letters, posts and tabs have a file each.
//!
//! # The order of reading, so that running workers cause no false finding
//! committed offsets, held messages, tabs' marks (1) -> each database in one snapshot -> live tabs -> dead letters, posts, tabs' marks (2) -> end of topics.
//! A message below the committed offset was durable before the databases were read; a letter is written before the transaction it belongs to; what
//! a database shows was in the topic before the topic's end was asked for. A tab is judged only if its marks are the same before and after.
//!
//! # What must never happen here
//! A write to anything (connections are read-only); a description, memo or counterparty in a finding; an effect excused because a worker would
//! have done the same.
//!
//! # How it could be wrong itself, and what is done about it
//! 1. It trusts the recorded order: but each record must name a message that is there, whose content has the recorded signature, and first
//!    applications of a partition must follow its offsets.
//! 2. A record is missing: a seq without a cause is a finding, unless events of that age are pruned.
//! 3. A message was redelivered, so its effects came twice: each application has its seq and is replayed.
//! 4. A company moved to another schema: each book is replayed by its own record; a message must be accounted for in one of them.
//! 5. A topic was made anew: a record of a message that is younger than the record itself is of another topic of that name; taken from Postgres.
//! 6. Poison by clock or routing is not in the bytes: the letter is taken as recorded, and a letter of class `clock` must be plausible.
//! 7. Rows that a database rejected: recorded as letters; the batch without them has a signature of its own, and the record says which it was.
//! 8. Workers run meanwhile: the order of reading above; what is beyond the committed offsets is counted as on its way.
//! 9. Rows of a company in another's schema, or of nobody: tables are read whole, not by company.
//! 10. A company's database was restored to a backup: what it had forgotten is lost until a recorded backfill has published it again; those
//!     messages are counted as taken, and their successors judged.
//! 11. `kylo selftest` takes its transaction out of its books again: what the topic has of its company is not asked for, and its own books are not
//!     read. Its rows among another company's, and another's among its, are judged like any.
//! 12. A database cannot be read: it is named and the audit does not end well (`incomplete`), instead of ending with zero findings.

mod compare;
pub mod inputs;
mod letters;
pub mod model;
mod partial;
mod posts;
mod replay;
pub mod report;
mod rules;
mod tabs;

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::company::is_real;
use inputs::Inputs;
use inputs::book::Book;
use inputs::topic::{Place, Said, Told};
use replay::{Index, Replayed};
use report::{Class, Finding, Report};

use crate::domain::message::TxnsBatch;

/// Compares what is there with what must be there. Pure.
pub fn judge(inputs: &Inputs) -> Report {
    let index = Index::new(inputs);
    let mut report = Report::new(inputs);
    let mut unaccounted: BTreeMap<&str, BTreeSet<Place>> = BTreeMap::new();
    for (company, told) in &index.by_company {
        unaccounted.insert(*company, told.iter().map(|told| told.place.clone()).collect());
    }
    for book in &inputs.books {
        let missing = one_book(inputs, &index, book, &mut report);
        if let Some(rest) = unaccounted.get_mut(book.company.as_str()) {
            rest.retain(|place| missing.contains(place));
        }
    }
    // The messages of `kylo selftest` stay on the topic although its books are emptied again.
    for (company, places) in unaccounted.into_iter().filter(|(company, _)| is_real(company)) {
        for told in places.iter().filter_map(|place| index.by_place.get(place)) {
            not_in_any_book(inputs, &index, company, told, &mut report);
        }
    }
    tabs::without_book(inputs, &mut report);
    letters::judge(inputs, &index, &mut report);
    posts::judge(inputs, &mut report);
    report.finish()
}

/// Judges one book; gives the company's messages that are not in it.
fn one_book(inputs: &Inputs, index: &Index<'_>, book: &Book, report: &mut Report) -> BTreeSet<Place> {
    let Replayed { account, findings, unaccounted, unknown } = replay::replay(inputs, index, book);
    rules::judge(inputs, book, report);
    let missing = match unknown {
        None => {
            report.books_recomputed += 1;
            report.findings.extend(findings);
            compare::judge(index, book, &account, &unaccounted, report);
            tabs::judge(inputs, index, book, Some(&account), report);
            unaccounted
        }
        Some(why) => {
            report.books_partly += 1;
            let missing = partial::judge(inputs, index, book, &why, report);
            tabs::judge(inputs, index, book, None, report);
            missing
        }
    };
    missing.into_iter().chain(replay::requests_not_in(index, book)).collect()
}

/// A message that no book has: it is set aside, on its way, or lost.
fn not_in_any_book(inputs: &Inputs, index: &Index<'_>, company: &str, told: &Told, report: &mut Report) {
    if inputs.letters_at(&told.place).any(|letter| letter.pointer.is_empty()) || inputs.failed_again(told) {
        return;
    }
    if inputs.is_held(&told.place) {
        report.held += 1;
        return;
    }
    if !inputs.is_committed(&told.place) {
        report.on_their_way += 1;
        return;
    }
    if inputs.unread.contains_key(company) {
        return;
    }
    if is_sent_again(inputs, index, company, told) {
        report.take(company, "messages", "its database was restored to a backup, and `kylo backfill` published them again", 1);
        return;
    }
    let what = match &told.said {
        Said::Request(request) => format!("promote request {}", request.request_key),
        Said::Batch { batch, .. } => format!("batch {}", batch.batch_id),
        Said::Tombstone | Said::Poison { .. } => return,
    };
    report.findings.push(Finding {
        class: Class::Lost,
        invariant: "I5",
        company: company.to_owned(),
        subject: what,
        expected: "applied, held, or a dead letter: its offset is committed".to_owned(),
        found: "none of them".to_owned(),
        origin: told.place.to_string(),
    });
}

/// Whether a recorded backfill of the company has published this batch again, behind it. Its successor is judged where it stands.
fn is_sent_again(inputs: &Inputs, index: &Index<'_>, company: &str, told: &Told) -> bool {
    let Said::Batch { batch, .. } = &told.said else { return false };
    let backfills = || inputs.control.backfills.iter().filter(|row| row.company_id == company && row.topic == *told.place.topic);
    let is_it = |later: &Told, of: &TxnsBatch| {
        let is_behind = later.place.partition == told.place.partition && later.place.offset > told.place.offset;
        let is_of_one = backfills().any(|row| told.written_at < Some(row.created_at) && later.written_at >= Some(row.created_at));
        is_behind && is_of_one && (&of.signature, &of.batch_id, of.created_at) == (&batch.signature, &batch.batch_id, batch.created_at)
    };
    index.batches(company).any(|(later, of)| is_it(later, of))
}
