//! The admin interface under `/_fake/`: what tests in other processes and the page use. JSON in, JSON out. It needs no
//! token, so pages of other origins are refused.

use std::net::SocketAddr;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{Response, header};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::routing::{delete, get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::edits::Edit;
use crate::error::ApiError;
use crate::faults::Fault;
use crate::http::respond;
use crate::json::{flag, int, text};
use crate::quota::Limits;
use crate::state::{HOUSE_ACCOUNT, Model, Role};
use crate::view::TabView;

type Answer = Result<Response<Body>, ApiError>;

const JSON: &str = "application/json; charset=UTF-8";
/// The longest wait for a change, in milliseconds.
const MAX_WAIT_MS: u64 = 25_000;

fn ok(body: &Value) -> Response<Body> {
    respond(200, JSON, body.to_string())
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        respond(self.code, JSON, self.body().to_string())
    }
}

fn read<T: serde::de::DeserializeOwned>(body: &Bytes) -> Result<T, ApiError> {
    let body = if body.is_empty() { b"{}" } else { &body[..] };
    serde_json::from_slice(body).map_err(|error| ApiError::invalid(format!("cannot read the body: {error}")))
}

fn done(outcome: Result<Value, ApiError>) -> Answer {
    outcome.map(|body| ok(&body))
}

pub(crate) fn router(addr: SocketAddr) -> Router<Model> {
    Router::new()
        .route("/spreadsheets", get(list).post(create))
        .route("/spreadsheets/{id}", get(show).delete(remove))
        .route("/spreadsheets/{id}/grid", get(grid))
        .route("/spreadsheets/{id}/edits", post(edit))
        .route("/spreadsheets/{id}/share", post(share))
        .route("/spreadsheets/{id}/copy", post(copy))
        .route("/spreadsheets/{id}/snapshots", post(snapshot))
        .route("/faults", get(faults).post(add_fault).delete(clear_faults))
        .route("/faults/{number}", delete(remove_fault))
        .route("/release", post(release))
        .route("/calls", get(calls).delete(clear_calls))
        .route("/quota", post(quota))
        .route("/clock", get(clock).post(advance))
        .route("/tokens", delete(revoke))
        .route("/accounts", post(move |model, body| account(model, body, addr)))
        .route("/changes", get(changes))
        .layer(middleware::from_fn(same_origin))
}

/// A page from elsewhere must not reach in through the browser of whoever runs this.
async fn same_origin(request: Request, next: Next) -> Response<Body> {
    if is_foreign(&request) {
        return ApiError::new(403, "PERMISSION_DENIED", "the admin interface answers its own page and local programs only").into_response();
    }
    next.run(request).await
}

fn is_foreign(request: &Request) -> bool {
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or("");
    let local = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let foreign = text(header::ORIGIN).is_some_and(|origin| origin != format!("http://{host}"));
    foreign || !matches!(local, "localhost" | "127.0.0.1" | "[::1]")
}

fn summary(model: &Model, id: &str) -> Option<Value> {
    let book = model.book(id)?;
    let tabs: Vec<Value> = book
        .sheets
        .iter()
        .map(|s| json!({"sheetId": s.id, "title": s.title, "hidden": s.hidden, "rowCount": s.row_count, "columnCount": s.column_count}))
        .collect();
    let metadata: Vec<Value> = book.metadata.values().map(crate::model::metadata::Entry::to_json).collect();
    Some(json!({"spreadsheetId": id, "title": book.title(), "tabs": tabs, "developerMetadata": metadata}))
}

async fn list(State(model): State<Model>) -> Answer {
    let all: Vec<Value> = model.spreadsheets().iter().filter_map(|id| summary(&model, id)).collect();
    Ok(ok(&json!({ "spreadsheets": all })))
}

async fn show(State(model): State<Model>, Path(id): Path<String>) -> Answer {
    done(summary(&model, &id).ok_or_else(ApiError::not_found))
}

async fn create(State(model): State<Model>, body: Bytes) -> Answer {
    let body: Value = read(&body)?;
    let owner = text(&body, "owner").unwrap_or(HOUSE_ACCOUNT);
    let made = || {
        let id = text(&body, "spreadsheetId");
        let tabs: Vec<&str> = crate::json::list(&body, "tabs").iter().filter_map(Value::as_str).collect();
        let sheets: Vec<Value> = tabs.iter().map(|title| json!({"properties": {"title": title}})).collect();
        let title = text(&body, "title").unwrap_or("Untitled spreadsheet");
        let id = model.create(id, &json!({"properties": {"title": title}, "sheets": sheets}), owner)?;
        for writer in crate::json::list(&body, "writers").iter().filter_map(Value::as_str) {
            model.share(&id, writer, Role::Writer)?;
        }
        if flag(&body, "open") {
            model.open_to_all(&id)?;
        }
        Ok(id)
    };
    done(made().and_then(|id| summary(&model, &id).ok_or_else(ApiError::not_found)))
}

async fn remove(State(model): State<Model>, Path(id): Path<String>) -> Answer {
    done(if model.delete_spreadsheet(&id) { Ok(json!({})) } else { Err(ApiError::not_found()) })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GridQuery {
    tab: Option<String>,
    sheet_id: Option<i64>,
    #[serde(default)]
    from: usize,
    to: Option<usize>,
}

async fn grid(State(model): State<Model>, Path(id): Path<String>, Query(query): Query<GridQuery>) -> Answer {
    let book = model.book(&id).ok_or_else(ApiError::not_found)?;
    let sheet = match (query.sheet_id, &query.tab) {
        (Some(id), _) => book.sheet(id),
        (None, Some(title)) => book.titled(title),
        (None, None) => book.first_visible(),
    };
    let sheet = sheet.ok_or_else(|| ApiError::new(404, "NOT_FOUND", format!("no such tab in spreadsheet {id}")))?;
    let view = TabView::of(sheet, query.from, query.to.unwrap_or(usize::MAX));
    done(serde_json::to_value(view).map_err(|error| ApiError::invalid(error.to_string())))
}

#[derive(Debug, Deserialize)]
struct Edits {
    edits: Vec<Edit>,
}

async fn edit(State(model): State<Model>, Path(id): Path<String>, body: Bytes) -> Answer {
    let Edits { edits } = read(&body)?;
    done(model.edit(&id, &edits).map(|()| json!({})))
}

async fn share(State(model): State<Model>, Path(id): Path<String>, body: Bytes) -> Answer {
    let body: Value = read(&body)?;
    if flag(&body, "open") {
        return done(model.open_to_all(&id).map(|()| json!({})));
    }
    let email = text(&body, "email").ok_or_else(|| ApiError::invalid("name the account as email, or say open: true"))?;
    let role = match text(&body, "role") {
        None | Some("writer") => Role::Writer,
        Some("owner") => Role::Owner,
        Some("reader") => Role::Reader,
        Some("none") => return done(model.unshare(&id, email).map(|()| json!({}))),
        Some(other) => return Err(ApiError::invalid(format!("role {other:?} is none of owner, writer, reader, none"))),
    };
    done(model.share(&id, email, role).map(|()| json!({})))
}

async fn copy(State(model): State<Model>, Path(id): Path<String>, body: Bytes) -> Answer {
    let body: Value = read(&body)?;
    let new = model.copy_spreadsheet(&id, text(&body, "spreadsheetId"));
    done(new.and_then(|id| summary(&model, &id).ok_or_else(ApiError::not_found)))
}

async fn snapshot(State(model): State<Model>, Path(id): Path<String>, body: Bytes) -> Answer {
    let body: Value = read(&body)?;
    let name = text(&body, "name").ok_or_else(|| ApiError::invalid("name the snapshot as name"))?;
    done(model.name_snapshot(&id, name).map(|()| json!({})))
}

async fn faults(State(model): State<Model>) -> Answer {
    let entry = |(number, fault): (u64, Fault)| {
        let mut entry = serde_json::to_value(fault).unwrap_or_default();
        entry["number"] = number.into();
        entry
    };
    let all: Vec<Value> = model.faults().into_iter().map(entry).collect();
    Ok(ok(&json!({"faults": all, "waiting": model.waiting()})))
}

async fn add_fault(State(model): State<Model>, body: Bytes) -> Answer {
    let fault: Fault = read(&body)?;
    let (given, known): (Value, Value) = (read(&body)?, serde_json::to_value(&fault).unwrap_or_default());
    if let Some(strange) = given.as_object().into_iter().flat_map(|map| map.keys()).find(|key| known.get(key.as_str()).is_none()) {
        return Err(ApiError::invalid(format!("a fault of this kind has no field {strange:?}")));
    }
    Ok(ok(&json!({"number": model.push_fault(fault)})))
}

async fn clear_faults(State(model): State<Model>) -> Answer {
    model.clear_faults();
    Ok(ok(&json!({})))
}

async fn remove_fault(State(model): State<Model>, Path(number): Path<u64>) -> Answer {
    done(if model.remove_fault(number) { Ok(json!({})) } else { Err(ApiError::not_found()) })
}

async fn release(State(model): State<Model>) -> Answer {
    Ok(ok(&json!({"statuses": model.release()})))
}

#[derive(Debug, Deserialize)]
struct CallsQuery {
    #[serde(default)]
    since: u64,
    op: Option<String>,
    #[serde(default)]
    bodies: bool,
}

async fn calls(State(model): State<Model>, Query(query): Query<CallsQuery>) -> Answer {
    let wanted = model.calls(query.since).into_iter().filter(|call| query.op.as_ref().is_none_or(|op| *op == call.op));
    let all: Vec<Value> = wanted
        .map(|call| {
            let mut entry = serde_json::to_value(&call).unwrap_or_default();
            if query.bodies {
                entry["body"] = call.json();
            }
            entry
        })
        .collect();
    Ok(ok(&json!({"calls": all, "counts": model.counts()})))
}

async fn clear_calls(State(model): State<Model>) -> Answer {
    model.clear_calls();
    Ok(ok(&json!({})))
}

async fn quota(State(model): State<Model>, body: Bytes) -> Answer {
    let body: Value = read(&body)?;
    let limit = |key| crate::json::index(&body, key);
    model.set_quota(Limits { reads: limit("reads"), writes: limit("writes") });
    Ok(ok(&json!({})))
}

async fn clock(State(model): State<Model>) -> Answer {
    Ok(ok(&json!({"nowMs": model.clock().now_ms()})))
}

async fn advance(State(model): State<Model>, body: Bytes) -> Answer {
    let body: Value = read(&body)?;
    if flag(&body, "stop") {
        model.clock().stop();
    }
    let by = int(&body, "advanceMs").and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
    model.clock().advance(std::time::Duration::from_millis(by));
    clock(State(model)).await
}

async fn revoke(State(model): State<Model>) -> Answer {
    model.revoke_tokens();
    Ok(ok(&json!({})))
}

async fn account(State(model): State<Model>, body: Bytes, addr: SocketAddr) -> Answer {
    let body: Value = read(&body)?;
    let email = text(&body, "email").ok_or_else(|| ApiError::invalid("name the account as email"))?;
    done(model.add_account(email, &format!("http://{addr}/token")))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChangesQuery {
    #[serde(default)]
    after: u64,
    wait_ms: Option<u64>,
}

async fn changes(State(model): State<Model>, Query(query): Query<ChangesQuery>) -> Answer {
    let wait = std::time::Duration::from_millis(query.wait_ms.unwrap_or(MAX_WAIT_MS).min(MAX_WAIT_MS));
    let now = tokio::time::timeout(wait, model.change_after(query.after)).await.unwrap_or(query.after);
    Ok(ok(&json!({ "change": now })))
}
