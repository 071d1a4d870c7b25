//! Everything an audit looks at, read and not yet judged.
//!
//! Put together by `runtime::audit` in the order that the crate's `audit` documentation gives. What must never happen here: a decision.

pub mod book;
pub mod control;
pub mod postgres;
pub mod topic;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use book::Book;
use control::{Control, LetterRow};
use topic::{Place, Told, Topic};

use crate::domain::sheet::ObservedTab;
use crate::domain::tab::Role;

/// All inputs.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The database's clock at the beginning.
    pub at: DateTime<Utc>,
    pub txns: Topic,
    pub promote: Topic,
    pub control: Control,
    pub books: Vec<Book>,
    pub tabs: Vec<LiveTab>,
    /// Companies whose database could not be read, with the reason.
    pub unread: BTreeMap<String, String>,
    /// Topics and spreadsheets that could not be read, with the reason.
    pub unreadable: Vec<String>,
}

/// Why a tab cannot be judged that no post has made.
pub const NEVER_POSTED: &str = "nothing was posted to it yet";

/// A tab as it was read.
#[derive(Clone, Debug)]
pub struct LiveTab {
    pub company: String,
    pub role: Role,
    pub spreadsheet: String,
    /// `None`: there is no such tab any more.
    pub seen: Option<ObservedTab>,
    /// The seq that it was last made equal to, and nothing was posted to its spreadsheet while it was read. Otherwise why it cannot be judged.
    pub posted_seq: Result<i64, &'static str>,
    /// Of a Pending tab: how often answers had been stored when it was made equal.
    pub answer_seq: i64,
}

impl Inputs {
    pub(super) fn topic(&self, name: &str) -> Option<&Topic> {
        [&self.txns, &self.promote].into_iter().find(|topic| &*topic.name == name)
    }

    /// Whether the topic still holds this place.
    pub(super) fn holds(&self, topic: &str, partition: i32, offset: i64) -> bool {
        let span = self.topic(topic).and_then(|topic| topic.spans.get(&partition));
        span.is_some_and(|span| (span.low..span.high).contains(&offset))
    }

    /// Whether the message was promised durable when the audit began.
    pub(super) fn is_committed(&self, place: &Place) -> bool {
        let span = self.topic(&place.topic).and_then(|topic| topic.spans.get(&place.partition));
        span.and_then(|span| span.committed).is_some_and(|committed| place.offset < committed)
    }

    pub(super) fn is_held(&self, place: &Place) -> bool {
        self.control.held.iter().any(|held| held.topic == *place.topic && (held.partition, held.offset) == (place.partition, place.offset))
    }

    pub(super) fn letters_at<'a>(&'a self, place: &Place) -> impl Iterator<Item = &'a LetterRow> + use<'a> {
        let key = (place.topic.to_string(), place.partition, place.offset);
        self.control.letters.get(&key).into_iter().flatten()
    }

    /// Whether this message is the replay of a letter that is open again, or given up: then its failure counts on that letter.
    pub(super) fn failed_again(&self, told: &Told) -> bool {
        let is_it = |letter: &LetterRow| told.replay_of == Some(letter.id) && ["new", "discarded"].contains(&letter.state.as_str());
        told.replay_of.is_some() && self.control.letters.values().flatten().any(is_it)
    }
}
