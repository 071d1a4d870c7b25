//! The server: listens on loopback, serves the API, the token endpoint, the admin interface and the page, and ends
//! connections where a fault says so. Started by tests through `FakeSheets::start` and by the binary through `serve`.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use axum::response::Html;
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::apply::Behaviour;
use crate::http::Severed;
use crate::quota::Limits;
use crate::state::Model;
use crate::{admin, http};

/// The account of the key file, unless options name another.
pub const DEFAULT_ACCOUNT: &str = "robot@fake-sheets.iam.gserviceaccount.com";

/// How an emulator is set up. The default suits tests: a free port, everything shared with nobody, no quota.
#[derive(Debug)]
pub struct Options {
    /// Where to listen, unless `listener` is given; port 0 takes a free one. Loopback only.
    pub addr: SocketAddr,
    /// An address that is already bound.
    pub listener: Option<std::net::TcpListener>,
    /// Where to write the key file of `account`, readable by its owner only; `None` writes none.
    pub key_file: Option<PathBuf>,
    /// The service account of the key file.
    pub account: String,
    /// Every account may open every spreadsheet.
    pub open: bool,
    /// Refuse tokens to accounts that were not made here. Otherwise any account gets one, its signature unchecked.
    pub only_known_accounts: bool,
    /// Calls per minute and account.
    pub quota: Limits,
    /// Limits and open choices.
    pub behaviour: Behaviour,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            listener: None,
            key_file: None,
            account: DEFAULT_ACCOUNT.to_owned(),
            open: false,
            only_known_accounts: false,
            quota: Limits::default(),
            behaviour: Behaviour::default(),
        }
    }
}

/// Why an emulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address that others can reach: there is no protection here.
    #[error("refusing to listen on {0}: fake-sheets has no protection, use a loopback address such as 127.0.0.1:0")]
    NotLoopback(SocketAddr),
    /// The port cannot be had.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The key file cannot be written.
    #[error("cannot write the key file {path}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] crate::auth::KeyError),
}

/// The emulator.
#[derive(Debug)]
pub struct FakeSheets;

/// A running emulator; it stops when this is dropped or shut down.
#[derive(Debug)]
pub struct Handle {
    addr: SocketAddr,
    model: Model,
    key: serde_json::Value,
    key_file: Option<PathBuf>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl FakeSheets {
    /// Starts an emulator on the current runtime.
    ///
    /// # Errors
    /// Where the address is not loopback or taken, or the key file cannot be written.
    pub async fn start(options: Options) -> Result<Handle, StartError> {
        let (listener, addr) = listen(options.listener, options.addr).await?;
        let model = Model::new(options.behaviour, options.quota, options.open, options.only_known_accounts);
        let token_uri = format!("http://{addr}/token");
        let account = options.account.clone();
        // Making the key takes a second of computing.
        let made = {
            let (model, token_uri) = (model.clone(), token_uri.clone());
            tokio::task::spawn_blocking(move || {
                let _pair = crate::auth::key_pair()?;
                model.state().accounts.make(&account, &token_uri)
            })
            .await
        };
        let key = match made {
            Ok(key) => key?,
            Err(error) => return Err(StartError::Listen { addr, source: io::Error::other(error) }),
        };
        if let Some(path) = &options.key_file {
            let source = |source| StartError::KeyFile { path: path.clone(), source };
            write_private(path, &key.to_string()).map_err(source)?;
        }
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve_connections(listener, addr, model.clone(), stopped));
        Ok(Handle { addr, model, key, key_file: options.key_file, stop, task: Some(task) })
    }
}

async fn listen(given: Option<std::net::TcpListener>, addr: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let wrap = |source| StartError::Listen { addr, source };
    let listener = match given {
        Some(listener) => {
            listener.set_nonblocking(true).map_err(wrap)?;
            TcpListener::from_std(listener).map_err(wrap)?
        }
        None if !addr.ip().is_loopback() => return Err(StartError::NotLoopback(addr)),
        None => TcpListener::bind(addr).await.map_err(wrap)?,
    };
    let addr = listener.local_addr().map_err(wrap)?;
    if addr.ip().is_loopback() { Ok((listener, addr)) } else { Err(StartError::NotLoopback(addr)) }
}

/// Writes a file that only its owner may read, also where it existed with wider rights.
fn write_private(path: &Path, content: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(content.as_bytes())
}

impl Handle {
    /// Base URL with a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.addr)
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What the key file of the account holds; its `token_uri` is this server's.
    #[must_use]
    pub fn key(&self) -> &serde_json::Value {
        &self.key
    }

    /// The account of the key file.
    #[must_use]
    pub fn account(&self) -> &str {
        self.key.get("client_email").and_then(serde_json::Value::as_str).unwrap_or("")
    }

    /// The key file, if one was asked for.
    #[must_use]
    pub fn key_file(&self) -> Option<&Path> {
        self.key_file.as_deref()
    }

    /// The state behind the server.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Another service account; the answer is what its key file holds.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn add_account(&self, email: &str) -> Result<serde_json::Value, crate::error::ApiError> {
        self.model.add_account(email, &format!("{}token", self.url()))
    }

    /// Stops listening, ends all connections, and waits until that is done.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::warn!(%error, "fake-sheets did not stop cleanly");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

fn router(model: Model, addr: SocketAddr) -> Router {
    Router::new()
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/token", post(http::token))
        .nest("/_fake", admin::router(addr))
        .fallback(http::handle)
        .with_state(model)
}

/// Accepts connections until told to stop; while the model is offline the port is closed.
async fn serve_connections(listener: TcpListener, addr: SocketAddr, model: Model, mut stopped: watch::Receiver<bool>) {
    let app = router(model.clone(), addr);
    let mut online = model.inner.online.subscribe();
    let mut listener = Some(listener);
    loop {
        let Some(open) = listener.take() else {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return,
                up = online.wait_for(|online| *online) => if up.is_err() { return },
            }
            match TcpListener::bind(addr).await {
                Ok(again) => listener = Some(again),
                Err(error) => {
                    tracing::warn!(%addr, %error, "cannot listen again, trying once more");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
            continue;
        };
        // Dropping the set ends the connections.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = open.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(connection(stream, app.clone()));
                        while connections.try_join_next().is_some() {}
                    }
                    Err(error) => tracing::warn!(%error, "cannot accept a connection"),
                },
                _ = stopped.wait_for(|stop| *stop) => return,
                down = online.wait_for(|online| !*online) => if down.is_err() { return } else { break },
            }
        }
    }
}

/// The connection ends because a fault says so.
#[derive(Debug, thiserror::Error)]
#[error("ended on purpose")]
struct Ended;

async fn connection(stream: TcpStream, app: Router) {
    let _unbuffered = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = TowerToHyperService::new(app.clone()).call(request);
        async move {
            let answer: Result<Response<Body>, Infallible> = answer.await;
            match answer {
                Ok(response) if response.extensions().get::<Severed>().is_some() => Err(Ended),
                Ok(response) => Ok(response),
                Err(never) => match never {},
            }
        }
    });
    let served = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}
