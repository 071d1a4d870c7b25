//! The routes. Health is open to everybody who reaches the port; the rest asks for the bearer token if one is set.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::future::BoxFuture;
use secrecy::ExposeSecret;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use crate::config::Secret;
use crate::telemetry;
use crate::telemetry::health::{Check, Health, HealthBoard, State as HealthState};
use crate::telemetry::metrics::Metrics;

/// `/health/deep` gives up on a check after this long.
const DEEP_LIMIT: Duration = Duration::from_secs(5);

/// Asks the databases and the broker themselves; for `/health/deep` only.
pub type DeepProbe = Arc<dyn Fn() -> BoxFuture<'static, BTreeMap<String, Check>> + Send + Sync>;

/// What the routes read.
#[derive(Clone)]
pub struct Server {
    pub board: Arc<HealthBoard>,
    pub metrics: Arc<Metrics>,
    pub deep: DeepProbe,
    /// Bearer token of everything but health; read again for each request.
    pub token: Option<Secret>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Serves until `stop` is done, then lets answers under way finish.
    ///
    /// # Errors
    /// The listener's.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        axum::serve(listener, self.router()).with_graceful_shutdown(stop).await
    }

    fn router(self) -> Router {
        let closed = Router::new()
            .route("/version", get(version))
            .route("/metrics", get(metrics))
            .route_layer(middleware::from_fn_with_state(self.clone(), authorise));
        Router::new()
            .route("/health/live", get(live))
            .route("/health/ready", get(ready))
            .route("/health/deep", get(deep))
            .merge(closed)
            .fallback(unknown)
            .with_state(self)
    }
}

async fn live() -> Response {
    answer(Health::of(BTreeMap::from([("process".to_owned(), Check::ok("answers"))])))
}

async fn ready(State(server): State<Server>) -> Response {
    answer(server.board.ready())
}

async fn deep(State(server): State<Server>) -> Response {
    let mut checks = server.board.ready().checks;
    match tokio::time::timeout(DEEP_LIMIT, (server.deep)()).await {
        Ok(found) => checks.extend(found),
        Err(_) => {
            checks.insert("deep".to_owned(), Check::failed(format!("no answer within {} s", DEEP_LIMIT.as_secs())));
        }
    }
    answer(Health::of(checks))
}

fn answer(health: Health) -> Response {
    let status = if health.status == HealthState::Failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(health)).into_response()
}

async fn version() -> Json<serde_json::Value> {
    Json(json!({ "name": "kylo", "version": env!("CARGO_PKG_VERSION"), "commit": telemetry::commit() }))
}

async fn metrics(State(server): State<Server>) -> Response {
    match server.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot render the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn unknown() -> Response {
    let body = json!({ "error": "not found", "paths": ["/health/live", "/health/ready", "/health/deep", "/version", "/metrics"] });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

async fn authorise(State(server): State<Server>, request: Request, next: Next) -> Response {
    let Some(secret) = &server.token else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
    // Unreadable token file: nobody gets in.
    let allowed = match (given, secret.current()) {
        (Some(given), Ok(token)) => same(given, token.expose_secret()),
        _ => false,
    };
    if allowed {
        return next.run(request).await;
    }
    let body = json!({ "error": "this path asks for the token of KYLO_HTTP_TOKEN: send the header Authorization: Bearer <token>" });
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], Json(body)).into_response()
}

/// Compares digests, so that the time taken says nothing about the token.
fn same(a: &str, b: &str) -> bool {
    Sha256::digest(a.as_bytes()) == Sha256::digest(b.as_bytes())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use secrecy::SecretString;

    use super::*;

    async fn started(token: Option<&str>, deep: BTreeMap<String, Check>) -> (String, Arc<HealthBoard>) {
        let board = HealthBoard::new();
        let server = Server {
            board: Arc::clone(&board),
            metrics: Metrics::new(false).unwrap(),
            deep: Arc::new(move || futures::future::ready(deep.clone()).boxed()),
            token: token.map(|value| Secret::Value { name: "KYLO_HTTP_TOKEN", value: SecretString::from(value.to_owned()) }),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(server.serve(listener, std::future::pending()));
        (url, board)
    }

    async fn get(url: &str, path: &str) -> (u16, serde_json::Value) {
        let answer = reqwest::get(format!("{url}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    #[tokio::test]
    async fn ready_is_200_when_idle_200_degraded_for_a_company_and_503_without_the_database() {
        let (url, board) = started(None, BTreeMap::new()).await;
        board.set("control_database", Check::ok("answers"));
        assert_eq!(
            get(&url, "/health/ready").await,
            (200, json!({"status": "ok", "checks": {"control_database": {"status": "ok", "detail": "answers"}}}))
        );
        board.set("companies", Check::degraded("710 is parked"));
        let (code, body) = get(&url, "/health/ready").await;
        assert_eq!((code, &body["status"]), (200, &json!("degraded")));
        board.set("control_database", Check::failed("down"));
        assert_eq!(get(&url, "/health/ready").await.0, 503);
        assert_eq!(get(&url, "/health/live").await.0, 200);
    }

    #[tokio::test]
    async fn deep_adds_what_the_databases_say_themselves() {
        let (url, _board) = started(None, BTreeMap::from([("broker".to_owned(), Check::failed("no answer"))])).await;
        assert_eq!(get(&url, "/health/ready").await.0, 200);
        let (code, body) = get(&url, "/health/deep").await;
        assert_eq!((code, &body["checks"]["broker"]["detail"]), (503, &json!("no answer")));
    }

    #[tokio::test]
    async fn with_a_token_metrics_and_version_ask_for_it_and_health_does_not() {
        let (url, _board) = started(Some("hunter2"), BTreeMap::new()).await;
        assert_eq!(get(&url, "/health/ready").await.0, 200);
        for path in ["/metrics", "/version"] {
            assert_eq!(get(&url, path).await.0, 401);
            let client = reqwest::Client::new();
            let with = |token: &'static str| client.get(format!("{url}{path}")).bearer_auth(token).send();
            assert_eq!(with("hunter3").await.unwrap().status(), 401);
            assert_eq!(with("hunter2").await.unwrap().status(), 200);
        }
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text_and_an_unknown_path_names_the_known_ones() {
        let (url, _board) = started(None, BTreeMap::new()).await;
        let text = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
        assert!(text.contains("# TYPE kylo_held_messages gauge"), "{text}");
        assert_eq!(get(&url, "/version").await.1["name"], "kylo");
        let (code, body) = get(&url, "/metric").await;
        assert_eq!(code, 404);
        assert!(body["paths"].as_array().unwrap().contains(&json!("/metrics")));
    }
}
