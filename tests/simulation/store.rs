//! Postgres in memory, as one process sees it: each transaction done at once, with a pause before and after it in which others get their turn, and
//! now and then an error instead of the answer.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use kylo::domain::clock::Clock;
use kylo::domain::company::{Bound, Dsn, Route, Routes, SchemaName, routes};
use kylo::domain::ids::TxnUid;
use kylo::domain::plan::{Answer, Left, TypedCells};
use kylo::domain::tab::Role;
use kylo::flow::post::{PostStore, Projection, Reply, Shown};
use kylo::store::company::projection::{AnswerSeq, StateRow};
use kylo::store::control::intents::{NewIntent, OpenIntent};
use kylo::store::control::posts::Landed;
use kylo::store::control::spreadsheets::{SpreadsheetRow, TroubleRow};
use kylo::store::control::tabs::{Known, TabRow};
use tokio::sync::Notify;
use uuid::Uuid;

use super::dice::Dice;
use super::tables::{Answered, Tables};

/// Lets others go first a few times.
#[derive(Clone, Debug)]
pub struct Turns {
    pub dice: Dice,
    /// At most so many times around each call.
    pub most: usize,
}

impl Turns {
    /// Nobody else is there.
    pub fn none(dice: &Dice) -> Self {
        Self { dice: dice.clone(), most: 0 }
    }

    pub async fn wait(&self) {
        let n = if self.most == 0 { 0 } else { self.dice.below(self.most + 1) };
        Yield(n).await;
    }
}

struct Yield(usize);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0 == 0 {
            return Poll::Ready(());
        }
        self.0 -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// What the protection against a fault would be without it, to show that a test sees the fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Broken {
    #[default]
    Nothing,
    /// `sheet_posts` gets a row only from an answer that was seen: a post found by its fence is settled without.
    NoLedgerWhenFound,
    /// Intents in doubt are forgotten.
    ForgetsDoubt,
    /// Who was frozen while its lease passed on still writes its intent, and with it what it had read people type.
    IntentWithoutLease,
    /// A post found by its fence puts back what people had typed when it was planned.
    OldTypedWhenFound,
    /// What promote reads does not take the place of what a removing post in doubt may have taken.
    OldTypedInDoubt,
    /// What a post has read takes the place of what promote has stored meanwhile.
    BlindPosts,
    /// What promote has read takes the place of what posts have stored meanwhile.
    BlindPromote,
    /// Answers are stored without a trace in `company_state`: nobody learns of those that a process stored when it woke.
    AnswersUnnoticed,
    /// What leaves the tab unapplied is not kept.
    ForgetsLeft,
}

#[derive(Clone)]
pub struct Memory {
    pub tables: Arc<Mutex<Tables>>,
    pub clock: Arc<dyn Clock>,
    pub turns: Turns,
    /// One call in so many fails, half of them after it was done. 0 = none.
    pub fails: usize,
    pub broken: Broken,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}

impl Memory {
    pub fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    fn lost() -> sqlx::Error {
        sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())
    }

    async fn act<T>(&self, transaction: impl FnOnce(&mut Tables) -> Answered<T>) -> Answered<T> {
        self.turns.wait().await;
        let fails = self.turns.dice.one_in(self.fails);
        if fails && self.turns.dice.one_in(2) {
            return Err(Self::lost());
        }
        let answer = transaction(&mut self.lock());
        self.turns.wait().await;
        if fails { Err(Self::lost()) } else { answer }
    }

    fn reply<'a, T: Send + 'a>(&'a self, transaction: impl FnOnce(&mut Tables) -> T + Send + 'a) -> Reply<'a, T> {
        Box::pin(self.act(move |tables| Ok(transaction(tables))))
    }
}

impl PostStore for Memory {
    fn routes(&self) -> Reply<'_, Arc<Routes>> {
        // No two companies name one tab here, so who is bound to which decides nothing.
        self.reply(|tables| Arc::clone(tables.routes.get_or_insert_with(|| Arc::new(routes(&tables.config, &Bound::new())))))
    }

    fn listen(&self, _wake: Arc<Notify>) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn bindings(&self) -> Reply<'_, Vec<TabRow>> {
        self.reply(|tables| tables.tabs.values().map(|tab| tab.row.clone()).collect())
    }

    fn spreadsheets(&self) -> Reply<'_, Vec<SpreadsheetRow>> {
        self.reply(|tables| tables.sheets.values().map(|sheet| sheet.row.clone()).collect())
    }

    fn unsettled(&self) -> Reply<'_, Vec<String>> {
        self.reply(|tables| tables.unsettled())
    }

    fn troubles(&self) -> Reply<'_, Vec<TroubleRow>> {
        self.reply(|tables| tables.troubles.values().map(|(row, _)| row.clone()).collect())
    }

    fn control_tab<'a>(&'a self, spreadsheet: &'a str) -> Reply<'a, Option<(i32, String)>> {
        self.reply(move |tables| {
            tables.sheets.get(spreadsheet).and_then(|sheet| Some((sheet.row.control_sheet_id?, sheet.row.control_title.clone()?)))
        })
    }

    fn lease<'a>(&'a self, spreadsheet: &'a str, holder: Uuid) -> Reply<'a, Option<SpreadsheetRow>> {
        self.reply(move |tables| tables.lease(spreadsheet, holder, self.clock.now()))
    }

    fn renew<'a>(&'a self, spreadsheet: &'a str, holder: Uuid) -> Reply<'a, bool> {
        self.reply(move |tables| tables.renew(spreadsheet, holder, self.clock.now()))
    }

    fn release<'a>(&'a self, spreadsheet: &'a str, holder: Uuid) -> Reply<'a, ()> {
        self.reply(move |tables| tables.release(spreadsheet, holder))
    }

    fn set_back<'a>(
        &'a self,
        spreadsheet: &'a str,
        state: &'a str,
        reason: &'a str,
        retry_at: DateTime<Utc>,
        config_version: &'a str,
    ) -> Reply<'a, ()> {
        self.reply(move |tables| tables.set_back(spreadsheet, state, reason, retry_at, config_version))
    }

    fn set_ok<'a>(&'a self, spreadsheet: &'a str) -> Reply<'a, ()> {
        self.reply(move |tables| tables.set_ok(spreadsheet))
    }

    fn set_swept<'a>(&'a self, spreadsheet: &'a str, at: DateTime<Utc>) -> Reply<'a, ()> {
        self.reply(move |tables| {
            if let Some(sheet) = tables.sheets.get_mut(spreadsheet) {
                sheet.row.swept_at = Some(at);
            }
        })
    }

    fn set_trouble<'a>(&'a self, company: &'a str, state: &'a str, _reason: &'a str, version: i64, retry_at: DateTime<Utc>) -> Reply<'a, ()> {
        self.reply(move |tables| tables.set_trouble(company, state, version, retry_at))
    }

    fn clear_trouble<'a>(&'a self, company: &'a str) -> Reply<'a, ()> {
        self.reply(move |tables| drop(tables.troubles.remove(company)))
    }

    fn open_intents<'a>(&'a self, spreadsheet: &'a str) -> Reply<'a, Vec<OpenIntent>> {
        let forgets = self.broken == Broken::ForgetsDoubt;
        self.reply(move |tables| {
            if forgets {
                for intent in tables.open_intents(spreadsheet) {
                    tables.settle_intent(intent.intent_id, "superseded");
                }
            }
            tables.open_intents(spreadsheet)
        })
    }

    fn write_intent<'a>(&'a self, intent: &'a NewIntent<'a>) -> Reply<'a, bool> {
        let is_checked = self.broken != Broken::IntentWithoutLease;
        self.reply(move |tables| {
            tables.blind_posts = matches!(self.broken, Broken::BlindPosts | Broken::IntentWithoutLease);
            tables.write_intent(intent, is_checked.then(|| self.clock.now()))
        })
    }

    fn mark_sent(&self, intent: Uuid) -> Reply<'_, bool> {
        self.reply(move |tables| tables.step_intent(intent, "planned", "sent"))
    }

    fn mark_in_doubt<'a>(&'a self, intent: Uuid, _reason: &'a str) -> Reply<'a, ()> {
        self.reply(move |tables| {
            tables.step_intent(intent, "sent", "in_doubt");
        })
    }

    fn settle_intent<'a>(&'a self, intent: Uuid, state: &'a str, _reason: &'a str) -> Reply<'a, ()> {
        self.reply(move |tables| {
            tables.settle_intent(intent, state);
        })
    }

    fn abandon_intent(&self, intent: Uuid) -> Reply<'_, bool> {
        self.reply(move |tables| tables.abandon_intent(intent))
    }

    fn abandon_unrouted<'a>(&'a self, _posted: &'a [String]) -> Reply<'a, ()> {
        // No history here is a day long.
        self.reply(|_| ())
    }

    fn confirm<'a>(&'a self, landed: &'a Landed<'a>) -> Reply<'a, bool> {
        let without = self.broken == Broken::NoLedgerWhenFound && landed.seen.is_none();
        Box::pin(self.act(move |tables| {
            let n_posts = tables.posts.len();
            tables.old_typed = self.broken == Broken::OldTypedWhenFound;
            let confirmed = tables.confirm(landed)?;
            if without {
                tables.posts.truncate(n_posts);
            }
            Ok(confirmed)
        }))
    }

    fn bind_equal<'a>(&'a self, spreadsheet: &'a str, holder: Uuid, shown: &'a [Shown<'a>]) -> Reply<'a, bool> {
        Box::pin(self.act(move |tables| tables.bind_equal(spreadsheet, holder, shown, self.clock.now())))
    }

    fn set_all_due<'a>(&'a self, spreadsheet: &'a str) -> Reply<'a, ()> {
        self.reply(move |tables| tables.set_all_due(spreadsheet))
    }

    fn known<'a>(&'a self, company: &'a str) -> Reply<'a, Known> {
        self.reply(move |tables| tables.known(company))
    }

    fn add_typed<'a>(&'a self, company: &'a str, sheet_id: i32, known: &'a Known, read: &'a TypedCells) -> Reply<'a, ()> {
        self.reply(move |tables| {
            tables.old_in_doubt = self.broken == Broken::OldTypedInDoubt;
            tables.blind_promote = self.broken == Broken::BlindPromote;
            tables.add_typed(company, sheet_id, known, read);
        })
    }

    fn states<'a>(&'a self, _dsn: &'a Dsn, schema: &'a SchemaName, companies: &'a [String]) -> Reply<'a, Vec<StateRow>> {
        let is_theirs = move |company: &&String| schema.as_str().ends_with(company.as_str());
        self.reply(move |tables| {
            companies.iter().filter(is_theirs).filter_map(|id| tables.companies.get(id)).map(|data| data.state.clone()).collect()
        })
    }

    fn project<'a>(&'a self, route: &'a Route, roles: &'a BTreeSet<Role>, seen: &'a [TxnUid]) -> Reply<'a, Projection> {
        self.reply(move |tables| tables.project(route.company.as_str(), roles, seen))
    }

    fn store_answers<'a>(&'a self, route: &'a Route, answers: &'a [Answer], left: &'a [Left]) -> Reply<'a, AnswerSeq> {
        let is_noticed = self.broken != Broken::AnswersUnnoticed;
        let keeps_left = self.broken != Broken::ForgetsLeft;
        self.reply(move |tables| {
            let seq = tables.store_answers(route.company.as_str(), answers, if keeps_left { left } else { &[] });
            if !is_noticed {
                tables.company(route.company.as_str()).state.answer_seq = seq.before;
            }
            AnswerSeq { after: tables.company(route.company.as_str()).state.answer_seq, ..seq }
        })
    }
}
