//! The production gateway beside an emulator of the Sheets API: one spreadsheet, shared with the gateway's account, and a budget of its own.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake_sheets::{CallRecord, FakeSheets, Fault, FaultKind, Handle, Model, Options, Role};
use kylo::adapters::sheets::{GoogleSheets, KeyFile, SheetsOptions, TokenOptions, endpoint};
use kylo::domain::company::SpreadsheetId;
use kylo::domain::sheet::{Applied, Batch, CellWrite, EchoRange, Observed, Request, Value};
use kylo::ports::{CallError, SheetGateway};
use kylo::store::control::budget::Budget;
use sqlx::PgPool;

use crate::control;

pub const BOOK: &str = "1AbCdEf-book_0001";

pub struct World {
    pub fake: Handle,
    pub gateway: GoogleSheets,
    pub book: SpreadsheetId,
    /// The gateway's own connections to the control database.
    pub pool: PgPool,
    pub folder: tempfile::TempDir,
    /// What the hook heard: operation and outcome.
    pub heard: Arc<Mutex<Vec<(&'static str, &'static str)>>>,
}

/// How a world differs from the usual one.
pub struct Wish {
    pub call_timeout: Duration,
    pub per_minute: u32,
    pub window: Duration,
    pub token_timeout: Duration,
}

impl Default for Wish {
    fn default() -> Self {
        Self { call_timeout: Duration::from_secs(20), per_minute: 10_000, window: Duration::from_secs(60), token_timeout: Duration::from_secs(10) }
    }
}

impl World {
    pub async fn start() -> Self {
        Self::with(Wish::default()).await
    }

    pub async fn with(wish: Wish) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fake = FakeSheets::start(Options { key_file: Some(folder.path().join("key.json")), ..Options::default() }).await.unwrap();
        let body = serde_json::json!({"properties": {"title": "Books"}, "sheets": [{"properties": {"sheetId": 0, "title": "First"}}]});
        fake.model().create(Some(BOOK), &body, "bookkeeper@example.test").unwrap();
        fake.model().share(BOOK, fake.account(), Role::Writer).unwrap();
        let pool = control::pool().await;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let gateway = gateway(&fake, &folder.path().join("key.json"), &pool, &heard, &wish);
        Self { fake, gateway, book: SpreadsheetId::parse(BOOK).unwrap(), pool, folder, heard }
    }

    pub fn model(&self) -> &Model {
        self.fake.model()
    }

    pub fn fault(&self, on: &str, kind: FaultKind) {
        self.model().push_fault(Fault::once(on, kind));
    }

    /// The calls of the API itself, without those of the token endpoint.
    pub fn api_calls(&self) -> Vec<CallRecord> {
        self.model().calls(0).into_iter().filter(|call| call.op != "token").collect()
    }

    pub async fn apply(&self, requests: Vec<Request>, echo: &[(&str, u32)]) -> Result<Applied, CallError> {
        let echo = echo.iter().map(|(title, columns)| EchoRange { title: (*title).to_owned(), columns: *columns }).collect();
        self.gateway.apply(&self.book, &Batch { requests, echo }).await
    }

    pub async fn read(&self, titles: &[&str]) -> Result<Observed, CallError> {
        let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
        self.gateway.read(&self.book, &titles).await
    }

    /// The outcomes the hook heard since it was last asked.
    pub fn outcomes(&self) -> Vec<(&'static str, &'static str)> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }
}

fn gateway(fake: &Handle, key: &Path, pool: &PgPool, heard: &Arc<Mutex<Vec<(&'static str, &'static str)>>>, wish: &Wish) -> GoogleSheets {
    let key = KeyFile::open(key).unwrap();
    let budget = Budget::new(pool.clone(), &control::credential(), wish.per_minute, wish.per_minute).with_window(wish.window);
    let heard = Arc::clone(heard);
    let hook = Arc::new(move |op, outcome| heard.lock().unwrap().push((op, outcome)));
    let usual = SheetsOptions::new(endpoint(&fake.url()).unwrap(), key, Arc::new(budget), hook);
    let token = TokenOptions { timeout: wish.token_timeout, attempts: 3, first_wait: Duration::from_millis(20) };
    GoogleSheets::new(SheetsOptions { call_timeout: wish.call_timeout, token, ..usual }).unwrap()
}

pub fn text(text: &str) -> CellWrite {
    CellWrite::Text(text.to_owned())
}

pub fn seen(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub fn new_tab(sheet_id: i32, title: &str) -> Request {
    Request::AddSheet { sheet_id, title: title.to_owned(), rows: 20, columns: 10, frozen_rows: 1, hidden: false, tab_color: Some([0.1, 0.5, 0.9]) }
}

pub fn write(sheet_id: i32, row: u32, cells: Vec<Vec<CellWrite>>) -> Request {
    Request::WriteCells { sheet_id, row, column: 0, cells }
}

pub fn fence(id: i32, value: &str) -> Request {
    Request::CreateMetadata { id, key: "kylo.fence".to_owned(), value: value.to_owned() }
}

/// How the gateway calls an outcome.
pub fn kind<T>(result: &Result<T, CallError>) -> &'static str {
    kylo::adapters::sheets::quota::outcome(result)
}
