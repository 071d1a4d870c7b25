//! The ledger of posts: one row of `sheet_posts` per confirmed post and tab with at least one row operation, and no other.
//!
//! What must never happen here: a post that no intent explains passing as one.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::inputs::Inputs;
use super::inputs::control::{IntentRow, IntentTab};
use super::replay::KEPT;
use super::report::{Class, Finding, Report};

/// Judges posts against the intents they confirm.
pub fn judge(inputs: &Inputs, report: &mut Report) {
    let mut wanted: BTreeMap<(&str, &str), (&IntentRow, &IntentTab)> = BTreeMap::new();
    for intent in inputs.control.intents.iter().filter(|intent| intent.state == "confirmed") {
        for tab in intent.tabs.iter().filter(|tab| tab.row_count > 0) {
            wanted.insert((&tab.company, &tab.signature), (intent, tab));
        }
    }
    let intents: BTreeMap<Uuid, &IntentRow> = inputs.control.intents.iter().map(|intent| (intent.intent_id, intent)).collect();
    let mut there = BTreeSet::new();
    for post in &inputs.control.posts {
        let key = (post.company_id.as_str(), post.batch_signature.as_str());
        there.insert(key);
        let Some(intent_id) = post.intent_id else {
            report.take(&post.company_id, "posts", "the original system wrote them", 1);
            continue;
        };
        let subject = format!("sheet_posts {}", post.batch_signature);
        match (wanted.get(&key), intents.contains_key(&intent_id)) {
            (Some((intent, tab)), _) => {
                let (is, must) = ((post.intent_id, i64::from(post.row_count)), (Some(intent.intent_id), tab.row_count));
                if is != must {
                    push(report, Class::Altered, key.0, subject, format!("{} rows", must.1), format!("{} rows", is.1), intent.intent_id);
                }
            }
            (None, false) if post.created_at < inputs.at - KEPT => report.take(key.0, "posts", "intents are kept for 90 days", 1),
            (None, _) => push(report, Class::Doubled, key.0, subject, "nothing".to_owned(), "a post".to_owned(), intent_id),
        }
    }
    for (key, (intent, tab)) in wanted.into_iter().filter(|(key, _)| !there.contains(key)) {
        let expected = format!("a row: the post of {} rows was confirmed", tab.row_count);
        push(report, Class::Lost, key.0, format!("sheet_posts {}", key.1), expected, "none".to_owned(), intent.intent_id);
    }
}

fn push(report: &mut Report, class: Class, company: &str, subject: String, expected: String, found: String, intent: Uuid) {
    let (company, origin) = (company.to_owned(), format!("intent {intent}"));
    report.findings.push(Finding { class, invariant: "I4", company, subject, expected, found, origin });
}
