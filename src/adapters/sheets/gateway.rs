//! [`SheetGateway`] over google-sheets4: the only place that talks to the Sheets API.
//!
//! Built by the wiring, called by `flow::post`, `flow::promote` and the commands that look. What must never happen here: a call without a time limit
//! or outside the budget, a wider scope than spreadsheets, a second sending of a write whose first outcome is unknown.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use google_sheets4::api::{DeveloperMetadata, Scope, Sheets};
use google_sheets4::common::{Body, Client};
use serde::Serialize;
use serde_json::value::RawValue;
use url::Url;

use super::auth::{TokenOptions, Tokens};
use super::classify::{Head, classify};
use super::client::{self, Connector};
use super::decode::{BatchWire, DIRECTORY_FIELDS, ECHO_FIELDS, NO_ECHO_FIELDS, READ_FIELDS, SpreadsheetWire};
use super::key::KeyFile;
use super::quota::{CallHook, Quota};
use super::{a1, encode, send};
use crate::domain::company::SpreadsheetId;
use crate::domain::sheet::{Applied, Batch, MetadataEntry, Observed};
use crate::ports::{CallError, SheetGateway};
use crate::store::control::budget::{Budget, CallKind};

/// Where the Sheets API is, if nothing else is said.
pub const GOOGLE: &str = "https://sheets.googleapis.com/";

/// Everything the gateway needs.
#[derive(Clone)]
pub struct SheetsOptions {
    /// Base URL, with or without a slash at its end. Plain http on loopback only.
    pub endpoint: Url,
    pub key: KeyFile,
    /// The budget of `key`'s account.
    pub budget: Arc<Budget>,
    /// Counts calls.
    pub hook: CallHook,
    /// For one call, answer included. Google itself gives up after 180 s; less than that makes outcomes unknown that need not be.
    pub call_timeout: Duration,
    pub connect_timeout: Duration,
    pub token: TokenOptions,
}

impl SheetsOptions {
    /// With the usual times: 190 s for a call, 10 s to connect.
    pub fn new(endpoint: Url, key: KeyFile, budget: Arc<Budget>, hook: CallHook) -> Self {
        let (call_timeout, connect_timeout) = (Duration::from_secs(190), Duration::from_secs(10));
        Self { endpoint, key, budget, hook, call_timeout, connect_timeout, token: TokenOptions::default() }
    }
}

impl std::fmt::Debug for SheetsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SheetsOptions").field("endpoint", &self.endpoint.as_str()).field("key", &self.key).finish_non_exhaustive()
    }
}

/// Why a gateway cannot be built. All of it is configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("KYLO_SHEETS_ENDPOINT {endpoint} cannot be used: {reason}")]
    Endpoint { endpoint: String, reason: String },
    #[error("no CA certificates were found, so TLS cannot be used ({0}): install the package ca-certificates")]
    Certificates(#[source] std::io::Error),
}

/// Checks a base URL and gives it the slash at its end that the hub relies on.
///
/// # Errors
/// Says what is wrong with it.
pub fn endpoint(text: &str) -> Result<Url, SetupError> {
    let bad = |reason: String| SetupError::Endpoint { endpoint: shown(text), reason };
    let mut url = Url::parse(text).map_err(|error| bad(error.to_string()))?;
    client::check_url(&url).map_err(bad)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("a base URL has no query and no fragment".to_owned()));
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

/// The text without what may be a password in it.
fn shown(text: &str) -> String {
    match Url::parse(text) {
        Ok(mut url) if !url.username().is_empty() || url.password().is_some() => {
            let _ = url.set_password(None);
            let _ = url.set_username("");
            url.to_string()
        }
        _ => text.chars().take(200).collect(),
    }
}

/// The production gateway. Cheap when idle: no task, no timer, connections closed after a minute.
pub struct GoogleSheets {
    endpoint: Url,
    client: Client<Connector>,
    tokens: Tokens,
    quota: Quota,
}

impl std::fmt::Debug for GoogleSheets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GoogleSheets").field("endpoint", &self.endpoint.as_str()).field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl GoogleSheets {
    /// Makes no call.
    ///
    /// # Errors
    /// If the endpoint may not be called, or there is no TLS on this machine and it is needed.
    pub fn new(options: SheetsOptions) -> Result<Self, SetupError> {
        let endpoint = endpoint(options.endpoint.as_str())?;
        let connector = client::connector(options.connect_timeout, endpoint.scheme() == "https").map_err(SetupError::Certificates)?;
        let tokens = Tokens::new(options.key, client::client::<String>(connector.clone()), options.token);
        let quota = Quota::new(options.budget, options.call_timeout, options.hook);
        Ok(Self { endpoint, client: client::client::<Body>(connector), tokens, quota })
    }

    /// One call with a token; after a 401, one more with a new token, which takes another call from the budget.
    async fn authorised<T, F>(&self, op: &'static str, kind: CallKind, call: impl Fn(Arc<str>) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let token = self.token().await?;
        match self.quota.call(op, kind, call(Arc::clone(&token))).await {
            Err(CallError::Unauthorised(_)) => {
                self.tokens.reject(&token).await;
                let renewed = self.token().await?;
                self.quota.call(op, kind, call(renewed)).await
            }
            result => result,
        }
    }

    /// Before the permit is taken, so that a slow token endpoint uses up no budget.
    async fn token(&self) -> Result<Arc<str>, CallError> {
        self.tokens.get().await.map_err(|error| CallError::NotSent(error.to_string()))
    }

    /// A hub for one call: its token is in hand, so the crate has no way to send without one.
    fn hub(&self, token: &str) -> Sheets<Connector> {
        let mut hub = Sheets::new(self.client.clone(), token.to_owned());
        hub.base_url(self.endpoint.to_string());
        hub
    }

    fn url(&self, spreadsheet: &SpreadsheetId, verb: &str, params: &[(&str, &str)]) -> Result<Url, CallError> {
        let text = format!("{}v4/spreadsheets/{}{verb}", self.endpoint, spreadsheet.as_str());
        Url::parse_with_params(&text, params).map_err(|error| CallError::NotSent(format!("spreadsheet {spreadsheet} gives no URL: {error}")))
    }

    async fn get(&self, op: &'static str, spreadsheet: &SpreadsheetId, params: &[(&str, &str)]) -> Result<SpreadsheetWire, CallError> {
        let url = &self.url(spreadsheet, "", params)?;
        let call = |token: Arc<str>| async move {
            let mut head = Head::default();
            let answer = send::exchange::<SpreadsheetWire>(&self.client, url, &token, None, &mut head).await;
            answer.map_err(|error| classify(&error, head)).and_then(|wire| same(spreadsheet, &wire.spreadsheet_id).map(|()| wire))
        };
        self.authorised(op, CallKind::Read, call).await
    }

    async fn send_batch(&self, spreadsheet: &SpreadsheetId, batch: &Batch) -> Result<Applied, CallError> {
        let echo = !batch.echo.is_empty();
        let ranges: Vec<String> = batch.echo.iter().map(|echo| a1::columns(&echo.title, echo.columns)).collect();
        let requests = encode::requests(&batch.requests).map_err(|reason| CallError::Refused(format!("the batch was not sent: {reason}")))?;
        let body = BatchBody { requests, include_spreadsheet_in_response: echo, response_include_grid_data: echo, response_ranges: ranges };
        let body = &serde_json::to_vec(&body).map_err(|error| CallError::NotSent(format!("the batch has no JSON form: {error}")))?;
        let fields = if echo { ECHO_FIELDS } else { NO_ECHO_FIELDS };
        let url = &self.url(spreadsheet, ":batchUpdate", &[("fields", fields), ("prettyPrint", "false"), ("alt", "json")])?;
        let call = |token: Arc<str>| async move {
            let mut head = Head::default();
            let answer = send::exchange::<BatchWire>(&self.client, url, &token, Some(body.clone()), &mut head).await;
            answer.map_err(|error| classify(&error, head)).and_then(|wire| same(spreadsheet, &wire.spreadsheet_id).map(|()| wire))
        };
        let wire = self.authorised("apply", CallKind::Write, call).await?;
        Ok(wire.applied(&batch.echo))
    }

    async fn entry(&self, spreadsheet: &SpreadsheetId, id: i32) -> Result<MetadataEntry, CallError> {
        let call = |token: Arc<str>| async move {
            let mut head = Head::default();
            let hub = self.hub(&token);
            let call = hub.spreadsheets().developer_metadata_get(spreadsheet.as_str(), id).add_scope(Scope::Spreadsheet).delegate(&mut head);
            let answer = call.doit().await;
            answer.map(|(_, entry)| entry).map_err(|error| classify(&error, head))
        };
        let DeveloperMetadata { metadata_id, metadata_key, metadata_value, .. } = self.authorised("metadata", CallKind::Read, call).await?;
        Ok(MetadataEntry { id: metadata_id.unwrap_or(id), key: metadata_key.unwrap_or_default(), value: metadata_value.unwrap_or_default() })
    }

    /// Whether the spreadsheet itself can be seen.
    async fn exists(&self, spreadsheet: &SpreadsheetId) -> Result<(), CallError> {
        let call = |token: Arc<str>| async move {
            let mut head = Head::default();
            let hub = self.hub(&token);
            let call = hub.spreadsheets().get(spreadsheet.as_str()).param("fields", "spreadsheetId").add_scope(Scope::Spreadsheet);
            let answer = call.delegate(&mut head).doit().await;
            answer.map(drop).map_err(|error| classify(&error, head))
        };
        self.authorised("metadata", CallKind::Read, call).await
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BatchBody {
    requests: Vec<Box<RawValue>>,
    include_spreadsheet_in_response: bool,
    response_include_grid_data: bool,
    response_ranges: Vec<String>,
}

/// Every mask asks for the id: a success that does not carry it did not come from the Sheets API, and says nothing about a write.
fn same(asked: &SpreadsheetId, answered: &str) -> Result<(), CallError> {
    if asked.as_str() == answered {
        Ok(())
    } else {
        Err(CallError::Unknown(format!("the answer does not name spreadsheet {asked}: something between here and Google answered instead")))
    }
}

impl SheetGateway for GoogleSheets {
    fn directory<'a>(&'a self, spreadsheet: &'a SpreadsheetId) -> BoxFuture<'a, Result<Observed, CallError>> {
        async move {
            let params = [("fields", DIRECTORY_FIELDS), ("prettyPrint", "false"), ("alt", "json")];
            Ok(self.get("directory", spreadsheet, &params).await?.observed(None))
        }
        .boxed()
    }

    fn read<'a>(&'a self, spreadsheet: &'a SpreadsheetId, titles: &'a [String]) -> BoxFuture<'a, Result<Observed, CallError>> {
        async move {
            // Without a range Google would send every tab's cells; none was asked for.
            let fields = if titles.is_empty() { DIRECTORY_FIELDS } else { READ_FIELDS };
            let ranges: Vec<String> = titles.iter().map(|title| a1::tab(title)).collect();
            let mut params = vec![("fields", fields), ("prettyPrint", "false"), ("alt", "json")];
            params.extend(ranges.iter().map(|range| ("ranges", range.as_str())));
            Ok(self.get("read", spreadsheet, &params).await?.observed(Some(titles)))
        }
        .boxed()
    }

    fn apply<'a>(&'a self, spreadsheet: &'a SpreadsheetId, batch: &'a Batch) -> BoxFuture<'a, Result<Applied, CallError>> {
        self.send_batch(spreadsheet, batch).boxed()
    }

    /// Google answers 404 both for a missing entry and for a missing spreadsheet, and its texts are localised. So a 404 is followed by one
    /// more read that asks for the spreadsheet's id alone: its status tells the two apart.
    fn metadata<'a>(&'a self, spreadsheet: &'a SpreadsheetId, id: i32) -> BoxFuture<'a, Result<Option<MetadataEntry>, CallError>> {
        async move {
            match self.entry(spreadsheet, id).await {
                Ok(entry) => Ok(Some(entry)),
                Err(CallError::NotFound(_)) => self.exists(spreadsheet).await.map(|()| None),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }
}
