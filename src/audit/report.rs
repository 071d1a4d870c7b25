//! What an audit says.
//!
//! Read by `cli::audit` and by tests. What must never happen here: a zero that hides a book which could not be read.

use std::collections::BTreeMap;

use serde::Serialize;

use super::inputs::{Inputs, LiveTab};

/// What kind of difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// It must be there and is not.
    Lost,
    /// It is there although nothing calls for it, or more than once.
    Doubled,
    /// It is another company's.
    Misrouted,
    /// It took effect in another order, or stands in another place.
    Reordered,
    /// It is there, once, in its place, and says something else.
    Altered,
}

impl Class {
    pub const ALL: [Self; 5] = [Self::Lost, Self::Doubled, Self::Misrouted, Self::Reordered, Self::Altered];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Misrouted => "misrouted",
            Self::Reordered => "reordered",
            Self::Altered => "altered",
        }
    }
}

/// One place where what is there is not what must be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub class: Class,
    /// The contract's invariant (`I1` ..) that it breaks.
    pub invariant: &'static str,
    pub company: String,
    /// Table and key, letter, tab and row.
    pub subject: String,
    pub expected: String,
    pub found: String,
    /// `topic/partition/offset` of the message it comes from, or what else says so.
    pub origin: String,
}

/// What could not be recomputed and was believed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Taken {
    pub company: String,
    /// Of what.
    pub what: &'static str,
    pub why: String,
    pub count: u64,
}

/// All of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Messages of both topics that were read.
    pub messages: u64,
    /// Transactions in all books.
    pub transactions: u64,
    pub companies: u64,
    /// Books whose every seq was replayed.
    pub books_recomputed: u64,
    /// Books of which the topics or the records no longer hold the beginning.
    pub books_partly: u64,
    pub tabs_judged: u64,
    /// How many tabs [`Report::not_judged`] names.
    pub tabs_not_judged: u64,
    /// Messages in `control.held_messages`.
    pub held: u64,
    /// Messages beyond the committed offsets that have not taken effect yet.
    pub on_their_way: u64,
    /// By class; every class is there.
    pub counts: BTreeMap<&'static str, u64>,
    pub findings: Vec<Finding>,
    pub taken_from_postgres: Vec<Taken>,
    /// Tabs that were never posted to, were due, or changed while they were read, and which of it.
    pub not_judged: Vec<String>,
    /// What could not be read, and why: nothing is known about it.
    pub incomplete: Vec<String>,
}

impl Report {
    pub(super) fn new(inputs: &Inputs) -> Self {
        let companies: std::collections::BTreeSet<_> = inputs.books.iter().map(|book| &book.company).collect();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Self {
            messages: count(inputs.txns.told.len() + inputs.promote.told.len()),
            transactions: inputs.books.iter().map(|book| count(book.transactions.len())).sum(),
            companies: count(companies.len()),
            incomplete: inputs.unread.values().chain(&inputs.unreadable).cloned().collect(),
            ..Self::default()
        }
    }

    pub(super) fn take(&mut self, company: &str, what: &'static str, why: impl Into<String>, count: usize) {
        let (why, count) = (why.into(), u64::try_from(count).unwrap_or(u64::MAX));
        if count == 0 {
            return;
        }
        match self.taken_from_postgres.iter_mut().find(|taken| taken.company == company && taken.what == what && taken.why == why) {
            Some(taken) => taken.count += count,
            None => self.taken_from_postgres.push(Taken { company: company.to_owned(), what, why, count }),
        }
    }

    pub(super) fn not_judged(&mut self, live: &LiveTab, why: &str) {
        self.tabs_not_judged += 1;
        self.not_judged.push(format!("the {} tab of company {} in spreadsheet {}: {why}", live.role.as_str(), live.company, live.spreadsheet));
    }

    pub(super) fn finish(mut self) -> Self {
        self.findings.sort_by(|a, b| (a.class, &a.company, &a.subject).cmp(&(b.class, &b.company, &b.subject)));
        self.taken_from_postgres.sort();
        self.not_judged.sort();
        self.counts = Class::ALL.into_iter().map(|class| (class.as_str(), u64::try_from(self.of(class).count()).unwrap_or(u64::MAX))).collect();
        self
    }

    /// The findings of a class.
    pub fn of(&self, class: Class) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.class == class)
    }

    /// Nothing was found, and everything could be read.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.incomplete.is_empty()
    }

    /// One line.
    pub fn summary(&self) -> String {
        let counts: Vec<_> = Class::ALL.into_iter().map(|class| format!("{} {}", class.as_str(), self.of(class).count())).collect();
        let taken: u64 = self.taken_from_postgres.iter().map(|taken| taken.count).sum();
        format!(
            "{}; {} messages, {} companies, {} transactions; books recomputed {}, in part {}; tabs judged {}, not judged {}; held {}, on their way {}; \
             taken from Postgres {taken}; could not be read {}",
            counts.join(", "),
            self.messages,
            self.companies,
            self.transactions,
            self.books_recomputed,
            self.books_partly,
            self.tabs_judged,
            self.tabs_not_judged,
            self.held,
            self.on_their_way,
            self.incomplete.len(),
        )
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { class, invariant, company, subject, expected, found, origin } = self;
        write!(f, "{} {invariant} company {company}: {subject}: expected {expected}; found {found}; from {origin}", class.as_str())
    }
}
