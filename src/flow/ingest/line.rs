//! One transaction while batches are folded into it: what stands in Postgres, what the batches make of it, what must be written.
//!
//! Pure. What must never happen here: a transaction that is not void ending both pending and matched, or neither (invariant I1).

use chrono::{DateTime, NaiveDate, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::domain::ids::{TxnUid, push_part};
use crate::domain::message::Row;
use crate::domain::rules::RuleSet;
use crate::domain::triage::{Decision, decide};
use crate::faults::{Bug, planted};
use crate::store::company::matched::MatchWrite;
use crate::store::company::pending::PendingWrite;
use crate::store::company::transactions::{StoredTxn, TxnWrite};

/// What the bank says about a transaction: what may be corrected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content<'a> {
    date: NaiveDate,
    cents: i64,
    currency: &'a str,
    description: &'a str,
    memo: &'a str,
    counterparty: &'a str,
    void: bool,
}

impl<'a> Content<'a> {
    fn of(row: &'a Row) -> Self {
        Self {
            date: row.date,
            cents: row.cents.0,
            currency: row.currency.as_str(),
            description: &row.description,
            memo: row.memo.as_deref().unwrap_or_default(),
            counterparty: row.counterparty.as_deref().unwrap_or_default(),
            void: row.void,
        }
    }

    fn shows_the_same(&self, other: &Self) -> bool {
        (self.date, self.cents, self.description) == (other.date, other.cents, other.description)
    }
}

#[derive(Clone, Copy, Debug)]
struct Pending<'a> {
    first_batch: &'a str,
    last_batch: &'a str,
    open: bool,
    seq: i64,
    resolved_seq: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
struct Match<'a> {
    rule_id: Uuid,
    ruleset_version: i32,
    sheet: &'a str,
    header: &'a str,
    cents: i64,
    revision: i32,
    live: bool,
    seq: i64,
}

/// The batch that speaks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speaker<'a> {
    pub(super) batch_id: &'a str,
    pub(super) signature: &'a str,
    pub(super) as_of: DateTime<Utc>,
    pub(super) seq: i64,
    /// The ledger knew its content already.
    pub(super) known: bool,
    pub(super) rules: &'a RuleSet,
}

/// What a row did to its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    New,
    /// Older than what is known: changes nothing.
    Stale,
    Equal,
    /// Equal to a row without id of another batch: by definition the same transaction.
    Collapsed,
    Corrected,
    Voided,
    Unvoided,
}

/// Where a new or corrected transaction went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    Nowhere,
    Matched,
    Pending,
}

/// Effect of one row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effect {
    pub(super) told: Told,
    pub(super) went: Went,
    /// What the Pending tab must show has changed.
    pub(super) tab_changed: bool,
    /// The row became open: it is news for whoever approves.
    pub(super) opened: bool,
}

/// The working state of one transaction.
#[derive(Clone, Debug)]
pub(super) struct Line<'a> {
    pub(super) company: usize,
    pub(super) uid: TxnUid,
    external_id: Option<&'a str>,
    occurrence: Option<i32>,
    content: Content<'a>,
    norm: &'a str,
    as_of: DateTime<Utc>,
    seq: i64,
    content_seq: i64,
    signature: &'a str,
    pending: Option<Pending<'a>>,
    matched: Option<Match<'a>>,
    txn_dirty: bool,
    pending_dirty: bool,
    match_dirty: bool,
}

impl<'a> Line<'a> {
    /// As it stands in Postgres.
    pub(super) fn stored(company: usize, row: &'a StoredTxn) -> Self {
        let pending = match (&row.pending_first, &row.pending_last, row.pending_open, row.pending_seq) {
            (Some(first), Some(last), Some(open), Some(seq)) => {
                Some(Pending { first_batch: first, last_batch: last, open, seq, resolved_seq: row.pending_resolved })
            }
            _ => None,
        };
        let matched = row.match_state.as_deref().zip(row.match_rule).map(|(state, rule_id)| Match {
            rule_id,
            ruleset_version: row.match_version.unwrap_or_default(),
            sheet: row.match_sheet.as_deref().unwrap_or_default(),
            header: row.match_header.as_deref().unwrap_or_default(),
            cents: row.match_cents.unwrap_or_default(),
            revision: row.match_revision.unwrap_or_default(),
            live: state != "withdrawn",
            seq: row.seq,
        });
        Self {
            company,
            uid: TxnUid(row.txn_uid),
            external_id: row.external_id.as_deref(),
            occurrence: row.occurrence,
            content: Content {
                date: row.occurred_on,
                cents: row.amount_cents,
                currency: &row.currency,
                description: &row.description,
                memo: &row.memo,
                counterparty: &row.counterparty,
                void: row.void,
            },
            norm: "",
            as_of: row.as_of,
            seq: row.seq,
            content_seq: row.content_seq,
            signature: &row.batch_signature,
            pending,
            matched,
            txn_dirty: false,
            pending_dirty: false,
            match_dirty: false,
        }
    }

    /// A transaction that nobody has heard of.
    pub(super) fn new(company: usize, row: &'a Row, speaker: &Speaker<'a>) -> (Self, Effect) {
        let mut line = Self {
            company,
            uid: row.uid,
            external_id: row.id.as_deref(),
            occurrence: row.occurrence.and_then(|n| i32::try_from(n).ok()),
            content: Content::of(row),
            norm: &row.description_norm,
            as_of: speaker.as_of,
            seq: speaker.seq,
            content_seq: speaker.seq,
            signature: speaker.signature,
            pending: None,
            matched: None,
            txn_dirty: true,
            pending_dirty: false,
            match_dirty: false,
        };
        let effect = line.triage(Told::New, false, speaker);
        (line, effect)
    }

    /// Hears what a batch says about a known transaction.
    pub(super) fn hear(&mut self, row: &'a Row, speaker: &Speaker<'a>) -> Effect {
        let quiet = |told| Effect { told, went: Went::Nowhere, tab_changed: false, opened: false };
        if speaker.as_of < self.as_of && !planted(Bug::StaleRowWins) {
            return quiet(Told::Stale);
        }
        let content = Content::of(row);
        if content == self.content {
            self.hear_the_same(row, speaker);
            let collapsed = row.id.is_none() && !speaker.known && self.signature != speaker.signature;
            return quiet(if collapsed { Told::Collapsed } else { Told::Equal });
        }
        let told = match (self.content.void, content.void) {
            (false, true) => Told::Voided,
            (true, false) => Told::Unvoided,
            _ => Told::Corrected,
        };
        let shown_changed = !content.shows_the_same(&self.content);
        self.content = content;
        self.norm = &row.description_norm;
        self.as_of = speaker.as_of;
        self.content_seq = speaker.seq;
        self.signature = speaker.signature;
        self.txn_dirty = true;
        // Its pending row follows, also a resolved one: what it says must not depend on which messages were applied together.
        self.pending_dirty |= self.pending.is_some();
        self.triage(told, shown_changed, speaker)
    }

    fn hear_the_same(&mut self, row: &'a Row, speaker: &Speaker<'a>) {
        if speaker.as_of > self.as_of {
            self.as_of = speaker.as_of;
            self.txn_dirty = true;
        }
        if let Some(pending) = self.pending.as_mut().filter(|pending| pending.open && pending.last_batch != speaker.batch_id) {
            pending.last_batch = speaker.batch_id;
            self.norm = &row.description_norm;
            self.pending_dirty = true;
        }
    }

    fn triage(&mut self, told: Told, shown_changed: bool, speaker: &Speaker<'a>) -> Effect {
        let mut effect = Effect { told, went: Went::Nowhere, tab_changed: false, opened: false };
        if self.content.void {
            effect.tab_changed = self.resolve(speaker);
            self.withdraw(speaker);
            return effect;
        }
        match decide(self.norm, speaker.rules) {
            Decision::Matched(rule) => {
                effect.went = Went::Matched;
                effect.tab_changed = self.resolve(speaker);
                let revision = self.matched.map_or(1, |before| before.revision.saturating_add(1));
                let (sheet, header) = (rule.target_sheet.as_str(), rule.target_header.as_str());
                let (rule_id, ruleset_version, cents) = (rule.rule_id, rule.ruleset_version, self.content.cents);
                self.matched = Some(Match { rule_id, ruleset_version, sheet, header, cents, revision, live: true, seq: speaker.seq });
                self.match_dirty = true;
            }
            Decision::Pending => {
                effect.went = Went::Pending;
                effect.opened = self.open(speaker);
                effect.tab_changed = effect.opened || shown_changed;
                self.withdraw(speaker);
            }
        }
        effect
    }

    /// Answers whether it was not open before.
    fn open(&mut self, speaker: &Speaker<'a>) -> bool {
        self.pending_dirty = true;
        let before = self.pending;
        let fresh = Pending { first_batch: speaker.batch_id, last_batch: speaker.batch_id, open: true, seq: speaker.seq, resolved_seq: None };
        self.pending = Some(match before {
            None => fresh,
            Some(before) if before.open => Pending { last_batch: speaker.batch_id, ..before },
            // It comes back as a new row at the end of the tab: its old place is gone.
            Some(before) => Pending { first_batch: before.first_batch, ..fresh },
        });
        before.is_none_or(|before| !before.open)
    }

    /// Answers whether it was open before.
    fn resolve(&mut self, speaker: &Speaker<'a>) -> bool {
        let Some(pending) = self.pending.as_mut().filter(|pending| pending.open) else { return false };
        *pending = Pending { open: false, resolved_seq: Some(speaker.seq), last_batch: speaker.batch_id, ..*pending };
        self.pending_dirty = true;
        true
    }

    fn withdraw(&mut self, speaker: &Speaker<'a>) {
        if let Some(matched) = self.matched.as_mut().filter(|matched| matched.live) {
            matched.live = false;
            matched.seq = speaker.seq;
            self.match_dirty = true;
        }
    }

    /// The row of `transactions`, if it must be written.
    pub(super) fn txn_write(&self, company_id: &'a str) -> Option<TxnWrite<'a>> {
        self.txn_dirty.then_some(TxnWrite {
            company_id,
            txn_uid: self.uid.0,
            external_id: self.external_id,
            occurred_on: self.content.date,
            amount_cents: self.content.cents,
            currency: self.content.currency,
            description: self.content.description,
            memo: self.content.memo,
            counterparty: self.content.counterparty,
            occurrence: self.occurrence,
            void: self.content.void,
            as_of: self.as_of,
            seq: self.seq,
            content_seq: self.content_seq,
            batch_signature: self.signature,
        })
    }

    /// The row of `pending_txns`, if it must be written.
    pub(super) fn pending_write(&self, company_id: &'a str) -> Option<PendingWrite<'a>> {
        let pending = self.pending.filter(|_| self.pending_dirty)?;
        Some(PendingWrite {
            company_id,
            txn_uid: self.uid.0,
            first_seen_batch: pending.first_batch,
            last_seen_batch: pending.last_batch,
            occurred_on: self.content.date,
            description: self.content.description,
            description_norm: self.norm,
            amount_cents: self.content.cents,
            open: pending.open,
            row_checksum: row_checksum(self.content.date, self.content.cents, self.content.description),
            seq: pending.seq,
            resolved_seq: pending.resolved_seq,
        })
    }

    /// The row of `matched_txns`, if it must be written.
    pub(super) fn match_write(&self, company_id: &'a str) -> Option<MatchWrite<'a>> {
        let matched = self.matched.filter(|_| self.match_dirty)?;
        Some(MatchWrite {
            company_id,
            txn_uid: self.uid.0,
            rule_id: matched.rule_id,
            ruleset_version: matched.ruleset_version,
            target_sheet: matched.sheet,
            target_header: matched.header,
            amount_cents: matched.cents,
            revision: matched.revision,
            state: if matched.live { "queued" } else { "withdrawn" },
            seq: matched.seq,
        })
    }
}

/// Hex SHA-256 over what the Pending tab shows of a transaction: date, cents, description, each as a part of the contract's encoding.
fn row_checksum(date: NaiveDate, cents: i64, description: &str) -> String {
    let mut bytes = Vec::with_capacity(64);
    push_part(&mut bytes, date.to_string().as_bytes());
    push_part(&mut bytes, cents.to_string().as_bytes());
    push_part(&mut bytes, description.as_bytes());
    crate::domain::ids::BatchSignature(Sha256::digest(&bytes).into()).to_string()
}
