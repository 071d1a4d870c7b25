//! One case per line of the tables in Google's guides and in what was seen of the live API.

use google_sheets4::common::to_response;
use google_sheets4::hyper::{Request, Response as HttpResponse, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::client;
use super::*;

fn envelope(code: u16, status: &str) -> Value {
    json!({"error": {"code": code, "message": "Mensagem localizada", "status": status}})
}

fn json_answer(code: u16, status: &str) -> CallError {
    classify(&Error::BadRequest(envelope(code, status)), Head { status: Some(code), retry_after: None })
}

fn html_answer(code: u16) -> CallError {
    let (parts, ()) = HttpResponse::builder().status(StatusCode::from_u16(code).unwrap()).body(()).unwrap().into_parts();
    let response = to_response(parts, Some("<html>Sorry...</html>"));
    let head = Head::of(&response);
    classify(&Error::Failure(response), head)
}

fn kind(error: &CallError) -> &'static str {
    super::super::quota::outcome(&Err::<(), _>(error.clone()))
}

#[test]
fn a_400_was_refused_and_applied_nothing() {
    assert_eq!(json_answer(400, "INVALID_ARGUMENT"), CallError::Refused("400: Mensagem localizada".to_owned()));
    assert_eq!(html_answer(400), CallError::Refused("400 without a readable message".to_owned()));
    for code in [405, 411, 413, 414, 431] {
        assert_eq!(kind(&html_answer(code)), "refused", "{code}");
    }
}

#[test]
fn a_401_is_about_the_credentials() {
    assert_eq!(kind(&json_answer(401, "UNAUTHENTICATED")), "unauthorised");
    assert_eq!(kind(&html_answer(401)), "unauthorised");
}

#[test]
fn a_403_is_about_rights_unless_its_reason_is_a_rate() {
    assert_eq!(kind(&json_answer(403, "PERMISSION_DENIED")), "forbidden");
    assert_eq!(kind(&html_answer(403)), "forbidden");
    let with = |error: Value| kind(&classify(&Error::BadRequest(json!({"error": error})), Head { status: Some(403), retry_after: None }));
    assert_eq!(with(json!({"code": 403, "details": [{"reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}]})), "forbidden");
    assert_eq!(with(json!({"code": 403, "details": [{"reason": "SERVICE_DISABLED"}]})), "forbidden");
    assert_eq!(with(json!({"code": 403, "details": [{"@type": "Help"}, {"reason": "RATE_LIMIT_EXCEEDED"}]})), "throttled");
    assert_eq!(with(json!({"code": 403, "errors": [{"reason": "userRateLimitExceeded"}]})), "throttled");
    assert_eq!(with(json!({"code": 403, "status": "RESOURCE_EXHAUSTED"})), "throttled");
    assert_eq!(with(json!({"code": 403, "message": "rateLimitExceeded"})), "forbidden", "the message decides nothing");
}

#[test]
fn a_404_is_not_found() {
    assert_eq!(kind(&json_answer(404, "NOT_FOUND")), "not_found");
    assert_eq!(kind(&html_answer(404)), "not_found");
}

#[test]
fn after_408_409_and_every_5xx_a_write_may_have_been_applied() {
    for (code, status) in
        [(408, "DEADLINE_EXCEEDED"), (409, "ABORTED"), (500, "INTERNAL"), (502, "UNAVAILABLE"), (503, "UNAVAILABLE"), (504, "DEADLINE_EXCEEDED")]
    {
        assert_eq!(kind(&json_answer(code, status)), "unknown", "{code}");
        assert_eq!(kind(&html_answer(code)), "unknown", "{code} as HTML");
    }
    for code in [302, 307, 599] {
        assert_eq!(kind(&html_answer(code)), "unknown", "{code}");
    }
}

#[test]
fn a_429_says_how_long_to_wait_if_the_answer_does() {
    assert_eq!(kind(&json_answer(429, "RESOURCE_EXHAUSTED")), "throttled");
    assert_eq!(kind(&html_answer(429)), "throttled");
    let (parts, ()) = HttpResponse::builder().status(429).header("Retry-After", "7").body(()).unwrap().into_parts();
    let head = Head::of(&to_response(parts, None::<&'static str>));
    let error = classify(&Error::BadRequest(envelope(429, "RESOURCE_EXHAUSTED")), head);
    assert_eq!(error, CallError::Throttled { retry_after: Some(Duration::from_secs(7)), message: "429: Mensagem localizada".to_owned() });
}

#[test]
fn a_wait_that_is_no_number_is_ignored_and_a_huge_one_is_cut() {
    let wait = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().unwrap());
        retry_after(&headers)
    };
    assert_eq!(wait("Wed, 21 Oct 2026 07:28:00 GMT"), None);
    assert_eq!(wait("-1"), None);
    assert_eq!(wait("99999999"), Some(Duration::from_secs(600)));
}

#[test]
fn the_status_of_the_answer_outranks_the_code_in_its_body() {
    let error = classify(&Error::BadRequest(envelope(400, "INVALID_ARGUMENT")), Head { status: Some(503), retry_after: None });
    assert_eq!(kind(&error), "unknown");
    let error = classify(&Error::BadRequest(envelope(404, "NOT_FOUND")), Head::default());
    assert_eq!(kind(&error), "not_found", "without a head the body's code has to do");
    assert_eq!(kind(&classify(&Error::BadRequest(json!("odd")), Head::default())), "unknown");
}

#[test]
fn a_success_that_cannot_be_read_leaves_a_write_in_doubt_and_quotes_no_cell() {
    let cut = serde_json::from_str::<Value>("{\"sEcReT\": ").unwrap_err();
    let error = classify(&Error::JsonDecodeError("sEcReT".to_owned(), cut), Head::default());
    assert_eq!(kind(&error), "unknown");
    assert!(!error.to_string().contains("sEcReT"), "{error}");
}

#[test]
fn without_a_token_nothing_was_sent() {
    let error = classify(&Error::MissingToken("assertion=sEcReT".into()), Head::default());
    assert_eq!(kind(&error), "not_sent");
    assert!(!error.to_string().contains("sEcReT"), "{error}");
    assert_eq!(kind(&classify(&Error::Cancelled, Head::default())), "not_sent");
    assert_eq!(kind(&classify(&Error::FieldClash("alt"), Head::default())), "not_sent");
}

#[test]
fn a_long_message_is_cut() {
    let body = json!({"error": {"code": 400, "message": "ä".repeat(2000)}});
    let text = classify(&Error::BadRequest(body), Head { status: Some(400), retry_after: None }).to_string();
    assert!(text.chars().count() < 600, "{}", text.len());
}

async fn failure_of(url: String) -> CallError {
    let connector = client::connector(Duration::from_millis(300), false).unwrap();
    let request = Request::get(url).body(String::new()).unwrap();
    let error = client::client::<String>(connector).request(request).await.unwrap_err();
    classify(&Error::HttpError(error), Head::default())
}

#[tokio::test]
async fn a_refused_connection_sent_nothing() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(kind(&failure_of(format!("http://{address}/")).await), "not_sent");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_sent_nothing() {
    assert_eq!(kind(&failure_of("https://kylo.invalid/".to_owned()).await), "not_sent");
}

#[tokio::test]
async fn a_failed_tls_handshake_sent_nothing() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { listener.accept().await.unwrap().0.write_all(b"no TLS here\r\n").await.unwrap() });
    assert_eq!(kind(&failure_of(format!("https://{address}/")).await), "not_sent");
    server.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_ends_after_the_request_was_read_leaves_a_write_in_doubt() {
    for answer in ["", "HTTP/1.1 20"] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let mut stream = listener.accept().await.unwrap().0;
            let mut buffer = [0; 4096];
            assert!(stream.read(&mut buffer).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        assert_eq!(kind(&failure_of(format!("http://{address}/")).await), "unknown", "after {answer:?}");
        server.await.unwrap();
    }
}
