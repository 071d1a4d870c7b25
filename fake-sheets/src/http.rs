//! HTTP in and out: reads a request, asks the faults what happens to it, judges token, scope and quota, runs it, logs it,
//! and answers in Google's shapes. The only place that ends a connection on purpose.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Frame, SizeHint};
use serde_json::{Value, json};

use crate::api::{self, Call, Route};
use crate::auth::Token;
use crate::calls::CallRecord;
use crate::error::ApiError;
use crate::faults::{Answer, Commit, FaultKind, Plan};
use crate::json::Json;
use crate::schema;
use crate::state::Model;

/// The largest body that is read.
const MAX_BODY: usize = 64 << 20;
/// How long a body that is cut waits before the connection ends.
const CUT_AFTER: Duration = Duration::from_millis(10);
const JSON: &str = "application/json; charset=UTF-8";

/// Marks a response that must never be sent: the connection ends instead. See `server.rs`.
#[derive(Debug, Clone, Copy)]
pub struct Severed;

fn severed() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(Severed);
    response
}

/// A response of a status, content type and body.
#[must_use]
pub fn respond(status: u16, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == 401 {
        let challenge = HeaderValue::from_static("Bearer realm=\"https://accounts.google.com/\", error=\"invalid_token\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

fn faked(answer: Answer, write: bool) -> (u16, Response<Body>) {
    let (status, kind, body) = answer.render(write);
    (status, respond(status, kind, body))
}

/// A request that has been read, whatever it turns out to be.
struct Incoming {
    verb: String,
    path: String,
    query: String,
    /// From the Authorization header; `None` without one.
    bearer: Option<String>,
    host: String,
    body: Bytes,
}

async fn incoming(request: Request) -> Option<Incoming> {
    let (parts, body) = request.into_parts();
    let text = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
    let mut bearer = text(header::AUTHORIZATION).map(|value| value.strip_prefix("Bearer ").unwrap_or("").to_owned());
    let query = parts.uri.query().unwrap_or("").to_owned();
    if bearer.is_none() {
        bearer = api::pairs(&query).into_iter().find(|(key, _)| key == "access_token").map(|(_, token)| token);
    }
    Some(Incoming {
        verb: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query,
        bearer,
        host: text(header::HOST).unwrap_or_default(),
        body: to_bytes(body, MAX_BODY).await.ok()?,
    })
}

impl Incoming {
    fn record(&self, model: &Model, op: &str, write: bool, spreadsheet: &str) -> CallRecord {
        let query = if self.query.is_empty() { String::new() } else { format!("?{}", self.query) };
        CallRecord {
            n: 0,
            at_ms: model.clock().now_ms(),
            method: self.verb.clone(),
            path: format!("{}{query}", self.path),
            op: op.to_owned(),
            write,
            spreadsheet: spreadsheet.to_owned(),
            account: String::new(),
            status: 0,
            applied: false,
            fault: None,
            late: false,
            error: None,
            body_bytes: self.body.len(),
            body: self.body.clone(),
        }
    }

    fn call(&self, route: Route) -> Result<Call, ApiError> {
        let mut body = if self.body.is_empty() {
            json!({})
        } else {
            serde_json::from_slice(&self.body).map_err(|error| ApiError::bad_payload("", format!("Invalid JSON payload received. {error}")))?
        };
        if let Some(message) = route.method.request {
            schema::check(message, &mut body)?;
        }
        let call = Call { route, query: api::pairs(&self.query), body };
        call.check_query()?;
        Ok(call)
    }
}

/// Everything that is neither the page, nor the admin interface, nor the token endpoint.
pub async fn handle(State(model): State<Model>, request: Request) -> Result<Response<Body>, Infallible> {
    let route = api::route(request.method().as_str(), request.uri().path());
    let (op, write, id) = route.as_ref().map_or(("", false, ""), |r| (r.method.name, r.method.write, r.spreadsheet.as_str()));
    let plan = if op.is_empty() { Plan::default() } else { model.state().faults.plan(op, write, id) };
    if matches!(plan.end, Some(FaultKind::Refuse)) {
        let head = Incoming {
            verb: request.method().to_string(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or("").to_owned(),
            bearer: None,
            host: String::new(),
            body: Bytes::new(),
        };
        log(&model, CallRecord { fault: plan.name, ..head.record(&model, op, write, id) });
        return Ok(severed());
    }
    let Some(incoming) = incoming(request).await else { return Ok(severed()) };
    let mut record = incoming.record(&model, op, write, id);
    record.fault.clone_from(&plan.name);
    if plan.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(plan.delay_ms)).await;
    }
    let Some(route) = route else {
        record.status = 404;
        log(&model, record);
        return Ok(respond(404, JSON, ApiError::not_found().body().to_string()));
    };
    let (record, response) = exchange(&model, &incoming, route, plan, record).await;
    log(&model, record);
    Ok(response)
}

fn log(model: &Model, record: CallRecord) {
    tracing::debug!(method = record.method, op = record.op, status = record.status, fault = record.fault, "call");
    let written = record.applied.then(|| record.spreadsheet.clone());
    model.state().calls.add(record);
    if let Some(spreadsheet) = written {
        model.written(&spreadsheet);
    }
}

/// The account of the call, and the call.
fn admitted(model: &Model, incoming: &Incoming, route: Route) -> Result<(Token, Call), ApiError> {
    let Some(bearer) = &incoming.bearer else {
        return Err(ApiError::new(
            403,
            "PERMISSION_DENIED",
            "Method doesn't allow unregistered callers (callers without \
            established identity). Please use API Key or other form of API consumer identity to call this API.",
        ));
    };
    let now = model.clock().now_ms();
    let token = model.state().accounts.token(bearer, now).cloned().ok_or_else(ApiError::unauthenticated)?;
    let call = incoming.call(route)?;
    model.admit(&call, &token)?;
    Ok((token, call))
}

async fn exchange(model: &Model, incoming: &Incoming, route: Route, plan: Plan, mut record: CallRecord) -> (CallRecord, Response<Body>) {
    let write = route.method.write;
    let known = incoming.bearer.as_ref().and_then(|b| {
        let now = model.clock().now_ms();
        model.state().accounts.token(b, now).map(|t| t.account.clone())
    });
    record.account = known.unwrap_or_default();
    match &plan.end {
        Some(FaultKind::DropBefore) => return (record, severed()),
        Some(FaultKind::Answer { answer }) => {
            let (status, response) = faked(*answer, write);
            record.status = status;
            return (record, response);
        }
        _ => {}
    }
    let (token, call) = match admitted(model, incoming, route) {
        Ok(admitted) => admitted,
        Err(error) => return refused(model, record, error),
    };
    if let Some(FaultKind::Hang { hang_ms, commit }) = plan.end {
        hang(model, call, &token.account, &record, hang_ms, commit).await;
        return (record, severed());
    }
    if !plan.edits.is_empty()
        && let Err(error) = model.edit(&call.route.spreadsheet, &plan.edits)
    {
        tracing::warn!(reason = error.message, "people's edits before a call were refused");
        record.error = Some(format!("the fault's edits were refused: {}", error.message));
    }
    let mut outcome = model.run(&call, &token.account);
    record.applied = write && outcome.is_ok();
    if let Some(FaultKind::DeliverTwice { answer_second }) = plan.end {
        let second = model.again(&call, &token.account, record.clone());
        if answer_second {
            outcome = second;
        }
    }
    let answer = match outcome {
        Ok(answer) => answer,
        Err(error) => return refused(model, record, error),
    };
    record.status = 200;
    ending(plan.end.as_ref(), record, &answer)
}

fn refused(model: &Model, mut record: CallRecord, error: ApiError) -> (CallRecord, Response<Body>) {
    record.status = error.code;
    record.error = Some(error.message.clone());
    let mut shown = error;
    if model.inner.behaviour.localized && shown.code == 400 {
        let place = shown.message.split_once(": ").map(|(place, _)| format!("{place}: ")).unwrap_or_default();
        shown.message = format!("{place}A solicitação não pôde ser concluída porque contém um argumento inválido.");
    }
    let response = respond(record.status, JSON, shown.body().to_string());
    (record, response)
}

/// How a call that was applied ends.
fn ending(end: Option<&FaultKind>, mut record: CallRecord, answer: &Json) -> (CallRecord, Response<Body>) {
    let body = || serde_json::to_vec(answer).unwrap_or_default();
    match end {
        Some(FaultKind::ApplyThenDrop) => {
            record.status = 0;
            (record, severed())
        }
        Some(FaultKind::ApplyThenAnswer { answer }) => {
            let (status, response) = faked(*answer, record.write);
            record.status = status;
            (record, response)
        }
        Some(FaultKind::CutBody { keep, looks_whole }) => {
            let whole = Bytes::from(body());
            let kept = whole.slice(..(*keep).min(whole.len()));
            let body = if *looks_whole {
                Body::from(kept)
            } else {
                Body::new(CutBody { rest: Some(kept), length: whole.len() as u64, pause: Box::pin(tokio::time::sleep(CUT_AFTER)) })
            };
            (record, respond(200, JSON, body))
        }
        _ => (record, respond(200, JSON, body())),
    }
}

/// Keeps the request for later and holds the caller until the connection is to end. What is kept is applied whether or
/// not the caller waits that long.
async fn hang(model: &Model, call: Call, account: &str, record: &CallRecord, hang_ms: u64, commit: Commit) {
    model.keep_late(call, account, record.clone(), commit);
    if let Commit::After { ms } = commit {
        let model = model.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(hang_ms + ms)).await;
            model.release_timed(ms);
        });
    }
    tokio::time::sleep(Duration::from_millis(hang_ms)).await;
}

/// A body that promises more than it delivers.
struct CutBody {
    rest: Option<Bytes>,
    length: u64,
    /// Between the part that is sent and the end, so that the part is on its way before the connection goes.
    pause: Pin<Box<tokio::time::Sleep>>,
}

impl HttpBody for CutBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if let Some(bytes) = self.rest.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        std::task::ready!(self.pause.as_mut().poll(context));
        Poll::Ready(Some(Err(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "cut on purpose"))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

/// The OAuth token endpoint.
pub async fn token(State(model): State<Model>, request: Request) -> Result<Response<Body>, Infallible> {
    let plan = model.state().faults.plan("token", false, "");
    let Some(incoming) = incoming(request).await.filter(|_| !matches!(plan.end, Some(FaultKind::Refuse))) else {
        return Ok(severed());
    };
    let mut record = incoming.record(&model, "token", false, "");
    // The assertion is a credential: the log keeps its size only.
    record.body = Bytes::new();
    record.fault.clone_from(&plan.name);
    if plan.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(plan.delay_ms)).await;
    }
    if let Some(FaultKind::Hang { hang_ms, .. }) = plan.end {
        tokio::time::sleep(Duration::from_millis(hang_ms)).await;
    }
    let form = String::from_utf8_lossy(&incoming.body).into_owned();
    let (now, audience) = (model.clock().now_ms(), format!("http://{}/token", incoming.host));
    let granted = model.state().accounts.grant(&api::pairs(&form), &audience, now, plan.expires_in.unwrap_or(3599));
    let (mut status, body) = match granted {
        Ok(body) => (200, body),
        Err(error) => (400, json!({"error": error.0, "error_description": error.1})),
    };
    let response = match &plan.end {
        Some(FaultKind::Answer { answer } | FaultKind::ApplyThenAnswer { answer }) => {
            let (code, response) = faked(*answer, false);
            status = code;
            response
        }
        Some(FaultKind::CutBody { keep, .. }) => {
            let text = body.to_string();
            let kept: String = text.chars().take(*keep).collect();
            respond(status, JSON, kept)
        }
        Some(_) => {
            status = 0;
            severed()
        }
        None => respond(status, JSON, body.to_string()),
    };
    record.status = status;
    record.error = body.get("error").and_then(Value::as_str).map(str::to_owned);
    log(&model, record);
    Ok(response)
}
