//! Dead letters and held messages: what must have been set aside is, with its bytes, and nothing else is.
//!
//! What must never happen here: a poison message or a bad row below the committed offset without its bytes (nothing else keeps them).

use chrono::TimeDelta;
use sha2::{Digest, Sha256};

use super::inputs::Inputs;
use super::inputs::control::LetterRow;
use super::inputs::topic::{Place, Said, Told};
use super::replay::{Index, KEPT};
use super::report::{Class, Finding, Report};
use crate::domain::ids::CompanyId;

/// Classes that lie outside the message: the letter itself is the record of them.
const RECORDED: [&str; 5] = ["clock", "unknown_company", "routing_mismatch", "unroutable_company", "rejected_by_database"];
/// `created_at` may lie this far ahead of the worker's clock; a minute is left for the difference of two clocks.
const CLOCK: TimeDelta = TimeDelta::minutes(4);

/// Judges letters and held messages of both topics.
pub fn judge(inputs: &Inputs, index: &Index<'_>, report: &mut Report) {
    for told in inputs.txns.told.iter().chain(&inputs.promote.told) {
        called_for(inputs, told, report);
    }
    for ((topic, partition, offset), letters) in &inputs.control.letters {
        if !inputs.holds(topic, *partition, *offset) {
            for letter in letters {
                report.take(letter.company_id.as_deref().unwrap_or_default(), "dead letters", "the topic no longer holds their messages", 1);
            }
            continue;
        }
        let place = Place { topic: topic.as_str().into(), partition: *partition, offset: *offset };
        let told = index.by_place.get(&place).copied();
        for letter in letters {
            kept(told, letter, report);
        }
    }
    for held in &inputs.control.held {
        let place = Place { topic: held.topic.as_str().into(), partition: held.partition, offset: held.offset };
        let Some(told) = index.by_place.get(&place) else {
            report.take(&held.company_id, "held messages", "the topic no longer holds them", 1);
            continue;
        };
        let whose = told.company().map(CompanyId::as_str).unwrap_or_default();
        if held.payload_sha256 != told.sha256 || whose != held.company_id {
            let class = if whose == held.company_id { Class::Altered } else { Class::Misrouted };
            let (expected, found) = (format!("a message of company {whose}"), "other bytes, or under another company".to_owned());
            push(report, class, &held.company_id, format!("held message {place}"), expected, found, place.to_string());
        }
    }
}

/// The letters that a message calls for are there.
fn called_for(inputs: &Inputs, told: &Told, report: &mut Report) {
    if inputs.failed_again(told) {
        return;
    }
    let company = told.company().map(ToString::to_string).unwrap_or_default();
    let mut wanted: Vec<(String, [u8; 32], &str)> = Vec::new();
    match &told.said {
        Said::Poison { class, .. } => wanted.push((String::new(), told.sha256, class.as_str())),
        Said::Batch { bad, .. } => {
            let whole = inputs.letters_at(&told.place).any(|letter| letter.pointer.is_empty());
            if !whole && !inputs.is_held(&told.place) {
                wanted.extend(bad.iter().map(|bad| (bad.pointer.clone(), Sha256::digest(&bad.raw).into(), bad.reason.class.as_str())));
            }
        }
        Said::Tombstone | Said::Request(_) => {}
    }
    for (pointer, sha256, class) in wanted {
        let letters: Vec<&LetterRow> =
            inputs.letters_at(&told.place).filter(|letter| letter.pointer == pointer && letter.bytes_sha256 == sha256).collect();
        let subject = format!("dead letter {}{pointer}", told.place);
        match letters.first() {
            Some(letter) if letter.class == class || RECORDED.contains(&letter.class.as_str()) => {}
            Some(letter) => push(report, Class::Altered, &company, subject, class.to_owned(), letter.class.clone(), told.place.to_string()),
            None if !inputs.is_committed(&told.place) => report.on_their_way += 1,
            None if told.written_at.is_some_and(|at| at < inputs.at - KEPT) => {
                report.take(&company, "dead letters", "settled ones are kept for 90 days", 1);
            }
            None => push(report, Class::Lost, &company, subject, class.to_owned(), "none".to_owned(), told.place.to_string()),
        }
    }
}

/// A letter has its message's bytes, and the message called for it.
fn kept(told: Option<&Told>, letter: &LetterRow, report: &mut Report) {
    let company = letter.company_id.as_deref().unwrap_or_default();
    let place = format!("{}/{}/{}", letter.topic, letter.partition, letter.offset);
    let subject = || format!("dead letter {} at {place}{}", letter.id, letter.pointer);
    if letter.kept_sha256 != letter.bytes_sha256 {
        push(report, Class::Altered, company, subject(), "the bytes that its hash is of".to_owned(), "others".to_owned(), place.clone());
    }
    // A compacted or transactional topic may have no message at an offset.
    let Some(told) = told else { return };
    let recorded = RECORDED.contains(&letter.class.as_str());
    let called_for = match &told.said {
        Said::Poison { .. } => letter.pointer.is_empty(),
        Said::Batch { bad, .. } => recorded || bad.iter().any(|bad| bad.pointer == letter.pointer),
        Said::Request(_) => recorded && letter.pointer.is_empty(),
        Said::Tombstone => false,
    };
    if !called_for || (letter.pointer.is_empty() && letter.bytes_sha256 != told.sha256) {
        if told.written_at.is_some_and(|at| at > letter.first_seen_at) {
            return report.take(company, "dead letters", "the topic was made anew since", 1);
        }
        push(report, Class::Doubled, company, subject(), "nothing".to_owned(), format!("a letter of class {}", letter.class), place.clone());
    }
    let created_at = match &told.said {
        Said::Batch { batch, .. } => Some(batch.created_at),
        Said::Request(request) => Some(request.created_at),
        Said::Tombstone | Said::Poison { .. } => None,
    };
    if letter.class == "clock" && created_at.is_some_and(|at| at <= letter.first_seen_at + CLOCK) {
        let (expected, found) = ("applied: its created_at was not ahead of the clock".to_owned(), "a letter of class clock".to_owned());
        push(report, Class::Lost, company, subject(), expected, found, place);
    }
}

fn push(report: &mut Report, class: Class, company: &str, subject: String, expected: String, found: String, origin: String) {
    report.findings.push(Finding { class, invariant: "I5", company: company.to_owned(), subject, expected, found, origin });
}
