//! One emulator per test, and a client that reports what really came over the wire: whole answers, cut ones, none.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use fake_sheets::{FakeSheets, Handle, Model, Options};
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const SCOPE: &str = "https://www.googleapis.com/auth/spreadsheets";
pub const BOOK: &str = "book-1";
pub const TAB: i64 = 101;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// The length header promised more than came.
    pub cut: bool,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// One exchange on a connection of its own; `None` where it ended without an answer.
pub async fn exchange(addr: std::net::SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(addr).await.ok()?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    let _may_be_cut = stream.write_all(body).await;
    let mut raw = Vec::new();
    let _may_be_reset = stream.read_to_end(&mut raw).await;
    let end = raw.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&raw[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
    let body = raw[end + 4..].to_vec();
    let cut = length.is_some_and(|length| length > body.len());
    Some(Answer { status, head, body, cut })
}

/// An emulator with a spreadsheet `book-1` (tab `Data`, id 101, 12 x 6) and a token of the key file's account.
pub struct World {
    pub sheets: Handle,
    pub token: String,
}

impl World {
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        let sheets = FakeSheets::start(options).await.unwrap();
        let account = sheets.account().to_owned();
        let tab = json!({"properties": {"sheetId": TAB, "title": "Data", "gridProperties": {"rowCount": 12, "columnCount": 6}}});
        sheets.model().create(Some(BOOK), &json!({"properties": {"title": "Book"}, "sheets": [tab]}), &account).unwrap();
        let token = token(&sheets, sheets.key(), SCOPE).await;
        Self { sheets, token }
    }

    pub fn model(&self) -> &Model {
        self.sheets.model()
    }

    pub async fn call_as(&self, token: &str, method: &str, path: &str, body: &Value) -> Option<Answer> {
        let bearer = format!("Bearer {token}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        exchange(self.sheets.addr(), method, path, &[("authorization", &bearer)], body.as_bytes()).await
    }

    pub async fn call(&self, method: &str, path: &str, body: &Value) -> Option<Answer> {
        self.call_as(&self.token, method, path, body).await
    }

    pub async fn batch(&self, requests: Value) -> Option<Answer> {
        self.call("POST", &format!("/v4/spreadsheets/{BOOK}:batchUpdate"), &json!({ "requests": requests })).await
    }

    pub async fn get(&self, query: &str) -> Option<Answer> {
        self.call("GET", &format!("/v4/spreadsheets/{BOOK}{query}"), &Value::Null).await
    }

    /// Column A as shown.
    pub fn column(&self) -> Vec<String> {
        self.model().texts(BOOK, "Data").into_iter().map(|row| row.first().cloned().unwrap_or_default()).collect()
    }
}

/// appendCells of one text.
pub fn append(text: &str) -> Value {
    json!({"appendCells": {"sheetId": TAB, "fields": "userEnteredValue", "rows": [{"values": [{"userEnteredValue": {"stringValue": text}}]}]}})
}

/// A metadata marker on the spreadsheet: what a client uses as a fence.
pub fn marker(id: i64, value: &str) -> Value {
    json!({"createDeveloperMetadata": {"developerMetadata": {
        "metadataId": id, "metadataKey": "fence", "metadataValue": value, "visibility": "DOCUMENT", "location": {"spreadsheet": true}}}})
}

/// A signed assertion, with some claims replaced (null removes one).
pub fn assertion(key: &Value, claims: &Value, padded: bool) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut body = json!({"iss": key["client_email"], "scope": SCOPE, "aud": key["token_uri"], "iat": now, "exp": now + 3595});
    for (name, value) in claims.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let engine = if padded { URL_SAFE } else { URL_SAFE_NO_PAD };
    let signed = format!("{}.{}", engine.encode(json!({"alg": "RS256", "typ": "JWT"}).to_string()), engine.encode(body.to_string()));
    let pem: String = key["private_key"].as_str().unwrap().lines().filter(|line| !line.starts_with('-')).collect();
    let pair = RsaKeyPair::from_pkcs8(&STANDARD.decode(pem).unwrap()).unwrap();
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &ring::rand::SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", engine.encode(signature))
}

/// Asks the token endpoint.
pub async fn grant(sheets: &Handle, assertion: &str) -> Option<Answer> {
    let form = format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={}", assertion.replace('=', "%3D"));
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    exchange(sheets.addr(), "POST", "/token", &headers, form.as_bytes()).await
}

/// A token for an account and scopes.
pub async fn token(sheets: &Handle, key: &Value, scope: &str) -> String {
    let answer = grant(sheets, &assertion(key, &json!({"scope": scope}), false)).await.unwrap();
    answer.json()["access_token"].as_str().unwrap().to_owned()
}
