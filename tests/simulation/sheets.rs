//! The spreadsheet service in memory: every way in which a call can end, batches that stay in the air and land when nobody waits for them any
//! more, and people who edit while a batch is on its way.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use kylo::domain::company::SpreadsheetId;
use kylo::domain::fence::{self, Mark};
use kylo::domain::sheet::{Applied, Batch, MetadataEntry, Observed, Request};
use kylo::ports::{CallError, SheetGateway};
use uuid::Uuid;

use super::people::People;
use super::store::Turns;
use crate::post_support::book::{Book, Grid};

/// How a write ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Applied,
    /// The request was lost, or a 5xx that applied nothing.
    NotApplied,
    /// Applied; the answer was lost, cut, or a 5xx.
    AnswerLost,
    /// No answer; it lands later.
    Late(When),
    /// Delivered twice at once; the answer is the first one's.
    Twice,
    /// Delivered twice at once; the answer is the second one's: refused, although it landed.
    TwiceRefused,
    /// Applied and answered, and delivered again later.
    TwiceLate(When),
    /// 429.
    Throttled,
    /// Connection refused.
    NotSent,
    /// 400 for no reason; nothing was applied.
    Refused,
}

/// When a batch in the air lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    BeforeNextRead,
    AfterNextRead,
    /// Between the next write's read and that write.
    BeforeNextWrite,
    AfterNextWrite,
    /// After fence entries were pruned.
    AfterPrune,
    /// Once all is at rest.
    AtTheEnd,
}

pub const FATES: [Fate; 20] = [
    Fate::Applied,
    Fate::NotApplied,
    Fate::AnswerLost,
    Fate::Late(When::BeforeNextRead),
    Fate::Late(When::AfterNextRead),
    Fate::Late(When::BeforeNextWrite),
    Fate::Late(When::AfterNextWrite),
    Fate::Late(When::AfterPrune),
    Fate::Late(When::AtTheEnd),
    Fate::Twice,
    Fate::TwiceRefused,
    Fate::TwiceLate(When::BeforeNextRead),
    Fate::TwiceLate(When::AfterNextRead),
    Fate::TwiceLate(When::BeforeNextWrite),
    Fate::TwiceLate(When::AfterNextWrite),
    Fate::TwiceLate(When::AfterPrune),
    Fate::TwiceLate(When::AtTheEnd),
    Fate::Throttled,
    Fate::NotSent,
    Fate::Refused,
];

#[derive(Debug)]
struct Flying {
    spreadsheet: String,
    requests: Vec<Request>,
    when: When,
}

/// A batch that the service took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landing {
    pub spreadsheet: String,
    pub intent: Uuid,
    pub generation: i64,
    /// Changed nothing because nothing was in it but the frame.
    pub n_requests: usize,
}

#[derive(Debug, Default)]
pub struct State {
    pub books: BTreeMap<String, Book>,
    pub people: People,
    flying: Vec<Flying>,
    /// What the next write is to meet, whatever the weather.
    pub next_fate: Option<Fate>,
    pub landings: Vec<Landing>,
    /// How often each fate befell a write.
    pub fates: BTreeMap<Fate, usize>,
    /// Batches from the air that the fence or the epoch kept out.
    pub n_kept_out: usize,
    /// People's edits between a read and a write.
    pub n_between: usize,
    pub n_pruned: usize,
}

/// Chances, each one in so many; 0 = never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// A write ends otherwise than well.
    pub writes: usize,
    /// A read or a look-up of metadata fails.
    pub reads: usize,
    /// People edit between read and write.
    pub people: usize,
}

/// What is left out to show that a test sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unfenced {
    #[default]
    Fenced,
    /// A second entry of one id is taken.
    NoFence,
    /// A batch that names a control tab which is gone is taken.
    NoEpoch,
}

#[derive(Clone, Debug)]
pub struct Sheets {
    pub state: Arc<Mutex<State>>,
    pub weather: Arc<Mutex<Weather>>,
    pub turns: Turns,
    pub unfenced: Unfenced,
}

fn unknown(what: &str) -> CallError {
    CallError::Unknown(what.to_owned())
}

/// New tabs get few rows: to copy a thousand empty ones for every batch would take most of the time there is.
fn small(requests: &[Request]) -> Cow<'_, [Request]> {
    let mut small = Cow::Borrowed(requests);
    if requests.iter().any(|request| matches!(request, Request::AddSheet { .. })) {
        for request in small.to_mut() {
            if let Request::AddSheet { rows, .. } = request {
                *rows = (*rows).min(12);
            }
        }
    }
    small
}

fn n_fences(book: &Book) -> usize {
    book.metadata.iter().filter(|entry| entry.key == fence::KEY).count()
}

impl Sheets {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn set_weather(&self, weather: Weather) {
        *self.weather.lock().unwrap() = weather;
    }

    pub fn book(&self, spreadsheet: &str) -> Book {
        self.lock().books[spreadsheet].clone()
    }

    /// What is in the air lands, or is kept out.
    pub fn land(&self, is_due: impl Fn(When) -> bool) {
        let mut state = self.lock();
        self.land_in(&mut state, is_due);
    }

    fn land_in(&self, state: &mut State, is_due: impl Fn(When) -> bool) {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut state.flying).into_iter().partition(|flying| is_due(flying.when));
        state.flying = later;
        for Flying { spreadsheet, requests, .. } in due {
            if self.take(state, &spreadsheet, &requests).is_err() {
                state.n_kept_out += 1;
            }
        }
    }

    /// One delivery of a batch.
    fn take(&self, state: &mut State, spreadsheet: &str, requests: &[Request]) -> Result<(), String> {
        let book = state.books.get_mut(spreadsheet).unwrap();
        let before = n_fences(book);
        let requests = &*small(requests);
        let taken = match self.unfenced {
            Unfenced::Fenced => book.apply(requests),
            Unfenced::NoFence => {
                let ids: Vec<i32> = book.metadata.iter().map(|entry| entry.id).collect();
                let is_free = |request: &&Request| !matches!(request, Request::CreateMetadata { id, .. } if ids.contains(id));
                book.apply(&requests.iter().filter(is_free).cloned().collect::<Vec<_>>())
            }
            Unfenced::NoEpoch => {
                let mut there: Vec<i32> = book.grids.iter().map(|grid: &Grid| grid.sheet_id).collect();
                there.extend(
                    requests.iter().filter_map(|request| if let Request::AddSheet { sheet_id, .. } = request { Some(*sheet_id) } else { None }),
                );
                let is_there = |request: &&Request| !matches!(request, Request::WriteCells { sheet_id, .. } if !there.contains(sheet_id));
                book.apply(&requests.iter().filter(is_there).cloned().collect::<Vec<_>>())
            }
        };
        taken?;
        let pruned = n_fences(book) <= before;
        if let Some(Request::CreateMetadata { id, value, .. }) = requests.first() {
            let mark: Mark = serde_json::from_str(value).unwrap();
            let generation = i64::from(*id) - i64::from(fence::id(1).unwrap()) + 1;
            state.landings.push(Landing { spreadsheet: spreadsheet.to_owned(), intent: mark.intent, generation, n_requests: requests.len() });
        }
        if pruned && self.unfenced == Unfenced::Fenced {
            state.n_pruned += 1;
            self.land_in(state, |when| when == When::AfterPrune);
        }
        Ok(())
    }

    fn observe(&self, id: &SpreadsheetId, titles: Option<&[String]>) -> Result<Observed, CallError> {
        let mut state = self.lock();
        let state = &mut *state;
        if self.turns.dice.one_in(self.weather.lock().unwrap().reads) {
            return Err(self.turns.dice.pick(&[unknown("503"), CallError::NotSent("refused".to_owned()), throttled()]).clone());
        }
        self.land_in(state, |when| when == When::BeforeNextRead);
        let book = &state.books[id.as_str()];
        let wanted = |title: &str| titles.is_none_or(|titles| titles.iter().any(|wanted| wanted.to_lowercase() == title.to_lowercase()));
        let mut tabs: Vec<_> = book.grids.iter().filter(|grid| wanted(&grid.title)).map(Grid::observe).collect();
        let observed = match titles {
            Some(titles) if titles.len() != tabs.len() => Err(CallError::Refused("Unable to parse range".to_owned())),
            _ => {
                if titles.is_none() {
                    tabs.iter_mut().for_each(|tab| tab.rows.clear());
                }
                Ok(Observed { title: "book".to_owned(), tabs, metadata: book.metadata.clone() })
            }
        };
        self.land_in(state, |when| when == When::AfterNextRead);
        observed
    }

    fn write(&self, id: &SpreadsheetId, batch: &Batch) -> Result<Applied, CallError> {
        let mut state = self.lock();
        let state = &mut *state;
        let weather = *self.weather.lock().unwrap();
        let dice = &self.turns.dice;
        if dice.one_in(weather.people) {
            state.n_between += 1;
            let State { books, people, .. } = state;
            people.edit(books.get_mut(id.as_str()).unwrap(), dice);
        }
        let by_chance = if dice.one_in(weather.writes) { *dice.pick(&FATES) } else { Fate::Applied };
        let fate = state.next_fate.take().unwrap_or(by_chance);
        *state.fates.entry(fate).or_default() += 1;
        self.land_in(state, |when| when == When::BeforeNextWrite);
        let answer = self.befall(state, id.as_str(), batch, fate);
        self.land_in(state, |when| when == When::AfterNextWrite);
        answer
    }

    fn befall(&self, state: &mut State, id: &str, batch: &Batch, fate: Fate) -> Result<Applied, CallError> {
        let fly = |state: &mut State, when| {
            state.flying.push(Flying { spreadsheet: id.to_owned(), requests: batch.requests.clone(), when });
        };
        match fate {
            Fate::NotApplied => return Err(unknown("timed out")),
            Fate::Throttled => return Err(throttled()),
            Fate::NotSent => return Err(CallError::NotSent("connection refused".to_owned())),
            Fate::Refused => return Err(CallError::Refused("for no reason".to_owned())),
            Fate::Late(when) => {
                fly(state, when);
                return Err(unknown("timed out"));
            }
            Fate::AnswerLost | Fate::Applied | Fate::Twice | Fate::TwiceRefused | Fate::TwiceLate(_) => {}
        }
        let taken = self.take(state, id, &batch.requests);
        let shown = echo(&state.books[id], batch);
        let again = match fate {
            Fate::Twice | Fate::TwiceRefused => self.take(state, id, &batch.requests),
            Fate::TwiceLate(when) => {
                fly(state, when);
                Ok(())
            }
            _ => Ok(()),
        };
        match fate {
            Fate::AnswerLost => return Err(unknown("cut")),
            Fate::TwiceRefused => again.map_err(CallError::Refused)?,
            _ => {}
        }
        taken.map(|()| shown).map_err(CallError::Refused)
    }
}

fn throttled() -> CallError {
    CallError::Throttled { retry_after: Some(Duration::from_secs(3)), message: "Quota exceeded".to_owned() }
}

fn echo(book: &Book, batch: &Batch) -> Applied {
    let mut tabs = BTreeMap::new();
    for echo in &batch.echo {
        let Some(grid) = book.grids.iter().find(|grid| grid.title.to_lowercase() == echo.title.to_lowercase()) else { continue };
        let mut tab = grid.observe();
        tab.rows.iter_mut().for_each(|row| row.truncate(echo.columns as usize));
        tabs.insert(grid.sheet_id, tab);
    }
    Applied { tabs }
}

impl SheetGateway for Sheets {
    fn directory<'a>(&'a self, spreadsheet: &'a SpreadsheetId) -> BoxFuture<'a, Result<Observed, CallError>> {
        Box::pin(async move {
            self.turns.wait().await;
            let observed = self.observe(spreadsheet, None);
            self.turns.wait().await;
            observed
        })
    }

    fn read<'a>(&'a self, spreadsheet: &'a SpreadsheetId, titles: &'a [String]) -> BoxFuture<'a, Result<Observed, CallError>> {
        Box::pin(async move {
            self.turns.wait().await;
            let observed = self.observe(spreadsheet, Some(titles));
            self.turns.wait().await;
            observed
        })
    }

    fn apply<'a>(&'a self, spreadsheet: &'a SpreadsheetId, batch: &'a Batch) -> BoxFuture<'a, Result<Applied, CallError>> {
        Box::pin(async move {
            self.turns.wait().await;
            let applied = self.write(spreadsheet, batch);
            self.turns.wait().await;
            applied
        })
    }

    fn metadata<'a>(&'a self, spreadsheet: &'a SpreadsheetId, id: i32) -> BoxFuture<'a, Result<Option<MetadataEntry>, CallError>> {
        Box::pin(async move {
            self.turns.wait().await;
            let observed = self.observe(spreadsheet, None)?;
            Ok(observed.metadata.into_iter().find(|entry| entry.id == id))
        })
    }
}
