//! The spreadsheet service as a stateful double: books by id, faults as data, people's edits between a read and a write.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kylo::domain::company::SpreadsheetId;
use kylo::domain::sheet::{Applied, Batch, MetadataEntry, Observed, Request};
use kylo::ports::{CallError, SheetGateway};

use super::book::Book;

/// What happens to the next batch.
pub enum Fault {
    /// Nothing arrives; the caller cannot know.
    Lost,
    /// Applied, and the answer is lost (timeout, 503, cut body).
    AppliedAnswerLost,
    /// The answer is lost now; the batch lands when the test says so.
    LandsLater,
    /// Refused for sure, with this error.
    Says(CallError),
    /// People edit just before the batch is applied.
    PeopleFirst(Box<dyn FnOnce(&mut Book) + Send>),
    /// The caller is frozen inside the call until it is dropped, and nothing arrives.
    Freezes,
}

#[derive(Default)]
pub struct State {
    pub books: BTreeMap<String, Book>,
    pub faults: VecDeque<Fault>,
    /// Every read fails with this while it is set.
    pub read_error: Option<CallError>,
    /// Every batch in which this text stands is lost, as by a service that fails on it.
    pub lost_with: Option<String>,
    pub late: Vec<(String, Vec<Request>)>,
    pub calls: Vec<String>,
    /// Every batch that was sent, as it was sent.
    pub sent: Vec<Vec<Request>>,
}

#[derive(Default)]
pub struct Service {
    state: Mutex<State>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Service")
    }
}

impl Service {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn fault(&self, fault: Fault) {
        self.lock().faults.push_back(fault);
    }

    pub fn edit<T>(&self, spreadsheet: &str, edit: impl FnOnce(&mut Book) -> T) -> T {
        edit(self.lock().books.get_mut(spreadsheet).unwrap())
    }

    pub fn book(&self, spreadsheet: &str) -> Book {
        self.lock().books[spreadsheet].clone()
    }

    pub fn n_calls(&self, name: &str) -> usize {
        self.lock().calls.iter().filter(|call| *call == name).count()
    }

    /// Waits until a call is in the air.
    pub async fn holds_a_call(&self) {
        let held = async {
            while self.lock().late.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), held).await.expect("a call is sent");
    }

    /// The batches that were in the air arrive now. Answers how many the service took.
    pub fn land_late(&self) -> usize {
        let mut state = self.lock();
        let late = std::mem::take(&mut state.late);
        late.into_iter().filter(|(id, requests)| state.books.get_mut(id).unwrap().apply(requests).is_ok()).count()
    }

    fn observe(&self, call: &str, id: &SpreadsheetId, titles: Option<&[String]>) -> Result<Observed, CallError> {
        let mut state = self.lock();
        state.calls.push(call.to_owned());
        if let Some(error) = state.read_error.clone() {
            return Err(error);
        }
        let book = state.books.get(id.as_str()).ok_or_else(|| CallError::NotFound("Requested entity was not found.".to_owned()))?;
        let wanted = |title: &str| titles.is_none_or(|titles| titles.iter().any(|wanted| wanted.to_lowercase() == title.to_lowercase()));
        let mut tabs: Vec<_> = book.grids.iter().filter(|grid| wanted(&grid.title)).map(super::book::Grid::observe).collect();
        match titles {
            None => tabs.iter_mut().for_each(|tab| tab.rows.clear()),
            Some(titles) if titles.len() != tabs.len() => return Err(CallError::Refused("Unable to parse range".to_owned())),
            Some(_) => {}
        }
        Ok(Observed { title: "book".to_owned(), tabs, metadata: book.metadata.clone() })
    }

    /// `None` = the caller stays in the call.
    fn attempt(&self, id: &SpreadsheetId, batch: &Batch) -> Option<Result<Applied, CallError>> {
        let mut state = self.lock();
        state.calls.push("apply".to_owned());
        state.sent.push(batch.requests.clone());
        let unknown = || Some(Err(CallError::Unknown("timed out".to_owned())));
        if state.lost_with.as_ref().is_some_and(|text| serde_json::to_string(&batch.requests).unwrap().contains(text)) {
            return unknown();
        }
        let fault = state.faults.pop_front();
        let Some(book) = state.books.get_mut(id.as_str()) else { return Some(Err(CallError::NotFound("no such spreadsheet".to_owned()))) };
        match fault {
            Some(Fault::Lost) => return unknown(),
            Some(Fault::AppliedAnswerLost) => {
                let _refused = book.apply(&batch.requests);
                return unknown();
            }
            Some(Fault::LandsLater) => {
                state.late.push((id.to_string(), batch.requests.clone()));
                return unknown();
            }
            Some(Fault::Freezes) => {
                state.late.push((id.to_string(), batch.requests.clone()));
                return None;
            }
            Some(Fault::Says(error)) => return Some(Err(error)),
            Some(Fault::PeopleFirst(edit)) => edit(book),
            None => {}
        }
        if let Err(reason) = book.apply(&batch.requests) {
            return Some(Err(CallError::Refused(reason)));
        }
        let mut tabs = BTreeMap::new();
        for echo in &batch.echo {
            let Some(grid) = book.grids.iter().find(|grid| grid.title.to_lowercase() == echo.title.to_lowercase()) else { continue };
            let mut tab = grid.observe();
            tab.rows.iter_mut().for_each(|row| row.truncate(echo.columns as usize));
            tabs.insert(grid.sheet_id, tab);
        }
        Some(Ok(Applied { tabs }))
    }
}

impl SheetGateway for Service {
    fn directory<'a>(&'a self, spreadsheet: &'a SpreadsheetId) -> BoxFuture<'a, Result<Observed, CallError>> {
        async move { self.observe("directory", spreadsheet, None) }.boxed()
    }

    fn read<'a>(&'a self, spreadsheet: &'a SpreadsheetId, titles: &'a [String]) -> BoxFuture<'a, Result<Observed, CallError>> {
        async move { self.observe("read", spreadsheet, Some(titles)) }.boxed()
    }

    fn apply<'a>(&'a self, spreadsheet: &'a SpreadsheetId, batch: &'a Batch) -> BoxFuture<'a, Result<Applied, CallError>> {
        async move {
            match self.attempt(spreadsheet, batch) {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn metadata<'a>(&'a self, spreadsheet: &'a SpreadsheetId, id: i32) -> BoxFuture<'a, Result<Option<MetadataEntry>, CallError>> {
        async move {
            let observed = self.observe("metadata", spreadsheet, None)?;
            Ok(observed.metadata.into_iter().find(|entry| entry.id == id))
        }
        .boxed()
    }
}
