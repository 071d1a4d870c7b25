//! The token endpoint's answer, as the gateway reads it over HTTP: first byte = the status, the rest the body. Whatever it is, nothing is sent to
//! the Sheets API on the strength of it that is not allowed, and no error repeats it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use fake_sheets::{FakeSheets, Options};
use kylo::adapters::sheets::{GoogleSheets, KeyFile, SheetsOptions, TokenOptions, endpoint};
use kylo::domain::company::SpreadsheetId;
use kylo::ports::{CallError, SheetGateway};
use kylo::store::control::budget::Budget;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// An endpoint that answers what it is told, and a key for it.
struct Bench {
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
    url: String,
    /// Status and body of the next token answer.
    answer: Arc<Mutex<(u16, Vec<u8>)>>,
    /// Calls of anything but the token endpoint.
    n_api: Arc<AtomicUsize>,
}

fn bench() -> &'static Bench {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    BENCH.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (answer, n_api) = (Arc::<Mutex<(u16, Vec<u8>)>>::default(), Arc::<AtomicUsize>::default());
        let url = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let path = folder.path().join("key.json");
            // Only for its key.
            let fake = FakeSheets::start(Options { key_file: Some(path.clone()), ..Options::default() }).await.unwrap();
            let mut key: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            fake.shutdown().await;
            key["token_uri"] = format!("{url}/token").into();
            std::fs::write(&path, key.to_string()).unwrap();
            tokio::spawn(serve(listener, Arc::clone(&answer), Arc::clone(&n_api)));
            url
        });
        Bench { runtime, folder, url, answer, n_api }
    })
}

async fn serve(listener: TcpListener, answer: Arc<Mutex<(u16, Vec<u8>)>>, n_api: Arc<AtomicUsize>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let (answer, n_api) = (Arc::clone(&answer), Arc::clone(&n_api));
        tokio::spawn(async move {
            let mut seen = Vec::new();
            let mut part = [0; 4_096];
            // The assertion ends the request; it is far shorter than this.
            while !is_whole(&seen) {
                match stream.read(&mut part).await {
                    Ok(n) if n > 0 => seen.extend_from_slice(&part[..n]),
                    _ => return,
                }
            }
            if !seen.starts_with(b"POST /token ") {
                n_api.fetch_add(1, Ordering::SeqCst);
            }
            let (status, body) = answer.lock().unwrap().clone();
            let head =
                format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _gone = stream.write_all(&[head.as_bytes(), &body].concat()).await;
        });
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").and_then(|n| n.trim().parse::<usize>().ok()));
    body.len() >= length.unwrap_or(0)
}

/// The token that a body gives, as an independent reader sees it.
fn token_in(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(value.get("access_token")?.as_str()?.to_owned()).filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
}

pub fn token(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    let bench = bench();
    let status = [200, 200, 400, 401, 500, 503][usize::from(*kind) % 6];
    *bench.answer.lock().unwrap() = (status, body.to_vec());
    let result = bench.runtime.block_on(async {
        let key = KeyFile::open(&bench.folder.path().join("key.json")).unwrap();
        // Nobody listens there: a call that is let through ends at the budget, before it is sent.
        let pool =
            sqlx::postgres::PgPoolOptions::new().acquire_timeout(Duration::from_millis(1)).connect_lazy("postgres://nobody@127.0.0.1:1/x").unwrap();
        let budget = Arc::new(Budget::new(pool, "kylo@example.test", 60, 60));
        let options = SheetsOptions::new(endpoint(&bench.url).unwrap(), key, budget, Arc::new(|_, _| {}));
        let token = TokenOptions { timeout: Duration::from_secs(5), attempts: 1, first_wait: Duration::from_millis(1) };
        let gateway = GoogleSheets::new(SheetsOptions { token, ..options }).unwrap();
        gateway.directory(&SpreadsheetId::parse("sheet").unwrap()).await
    });
    let Err(CallError::NotSent(reason)) = result else { panic!("{result:?}") };
    let is_let_through = reason.contains("did not grant a call");
    assert!(!is_let_through || token_in(body).is_some(), "a call was let through without a token: {:?}", String::from_utf8_lossy(body));
    if let Ok(text) = std::str::from_utf8(body)
        && text.len() >= 12
    {
        assert!(!reason.contains(text), "the answer was repeated: {reason}");
    }
    assert_eq!(bench.n_api.load(Ordering::SeqCst), 0, "something was sent to the API");
}
