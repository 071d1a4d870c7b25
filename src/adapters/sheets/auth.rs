//! Access tokens for the service account: yup-oauth2's flow, made safe.
//!
//! Called by [`super::gateway`] before every call. yup-oauth2 takes an error *object* from the token endpoint for a token that is not there and
//! caches it, asks once per concurrent caller, ignores the HTTP status and never tries again; so each token is made by an authenticator
//! of its own, under one lock, and looked at before it is used. What must never happen here: a call without `Authorization`, two token requests
//! at once, or the key, the assertion or a token in an error.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::FutureExt;
use google_sheets4::api::Scope;
use google_sheets4::hyper_util::client::legacy::Client;
use google_sheets4::yup_oauth2::client::CustomHyperClientBuilder;
use google_sheets4::yup_oauth2::error::{AuthErrorCode, Error as OauthError};
use google_sheets4::yup_oauth2::{AccessToken, ServiceAccountAuthenticator};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::client::Connector;
use super::key::{KeyError, KeyFile};

/// Why there is no token. Nothing was sent to the Sheets API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The endpoint judged the key; trying again will not help.
    #[error("the token endpoint refused the key of {client_email} ({code}): check that the key is not deleted and the clock is right")]
    Refused { client_email: String, code: String },
    #[error("no token for {client_email}: {reason}")]
    Unavailable { client_email: String, reason: String },
}

/// How token requests are made.
#[derive(Clone, Copy, Debug)]
pub struct TokenOptions {
    /// For one request, answer included.
    pub timeout: Duration,
    /// How many requests before giving up.
    pub attempts: usize,
    /// The wait after the first failure; doubles, with jitter.
    pub first_wait: Duration,
}

impl Default for TokenOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(20), attempts: 3, first_wait: Duration::from_millis(500) }
    }
}

/// The one source of tokens of a gateway.
pub(super) struct Tokens {
    key: KeyFile,
    client: Client<Connector, String>,
    options: TokenOptions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// The last failure, so that those who waited for the same attempt share it instead of each trying again.
    failed: Option<(Instant, TokenError)>,
}

struct Token {
    access: AccessToken,
    text: Arc<str>,
    made_at: Instant,
}

/// Google's tokens live an hour. One that does not say how long it lives is used no longer than this.
const LONGEST_USE: Duration = Duration::from_secs(55 * 60);

impl Token {
    fn usable(&self) -> bool {
        !self.access.is_expired() && self.made_at.elapsed() < LONGEST_USE
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("key", &self.key.path()).finish_non_exhaustive()
    }
}

impl Tokens {
    pub(super) fn new(key: KeyFile, client: Client<Connector, String>, options: TokenOptions) -> Self {
        Self { key, client, options, state: Mutex::default() }
    }

    /// A token that was not expired a moment ago.
    ///
    /// # Errors
    /// The key file's, the endpoint's refusal, or that it could not be reached.
    pub(super) async fn get(&self) -> Result<Arc<str>, TokenError> {
        let asked_at = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(token) = state.token.as_ref().filter(|token| token.usable()) {
            return Ok(Arc::clone(&token.text));
        }
        if let Some((_, error)) = state.failed.as_ref().filter(|(failed_at, _)| *failed_at >= asked_at) {
            return Err(error.clone());
        }
        match self.make().await {
            Ok(token) => {
                let text = Arc::clone(&token.text);
                *state = State { token: Some(token), failed: None };
                Ok(text)
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// The API did not accept `token`: the next [`Tokens::get`] makes a new one, unless somebody has already done so.
    pub(super) async fn reject(&self, token: &str) {
        let mut state = self.state.lock().await;
        if state.token.as_ref().is_some_and(|known| &*known.text == token) {
            state.token = None;
        }
    }

    async fn make(&self) -> Result<Token, TokenError> {
        let mut waits = ExponentialBuilder::default()
            .with_min_delay(self.options.first_wait)
            .with_max_times(self.options.attempts.max(1) - 1)
            .with_jitter()
            .build();
        loop {
            match (self.ask().await, waits.next()) {
                (Err(TokenError::Unavailable { reason, .. }), Some(wait)) => {
                    tracing::debug!(%reason, "no token yet, asking again");
                    tokio::time::sleep(wait).await;
                }
                (answer, _) => return answer,
            }
        }
    }

    async fn ask(&self) -> Result<Token, TokenError> {
        let key = self.key.read().await?;
        let client_email = key.client_email.clone();
        let unavailable = |reason: String| TokenError::Unavailable { client_email: client_email.clone(), reason };
        // A new authenticator each time: its cache is where the token that is none would stay.
        let builder = ServiceAccountAuthenticator::with_client(key, CustomHyperClientBuilder::from(self.client.clone()));
        let bad_key = |_| KeyError::NotAKey { path: self.key.path().to_owned(), reason: "its private_key cannot be used for signing".to_owned() };
        let authenticator = builder.build().await.map_err(bad_key)?;
        let scopes = [Scope::Spreadsheet];
        // It panics on a life of the token that no calendar holds.
        let token = AssertUnwindSafe(authenticator.token(&scopes)).catch_unwind();
        let access = match tokio::time::timeout(self.options.timeout, token).await {
            Err(_) => return Err(unavailable(format!("the token endpoint did not answer within {} ms", self.options.timeout.as_millis()))),
            Ok(Err(_)) => return Err(unavailable("the token endpoint's answer cannot be used".to_owned())),
            Ok(Ok(Err(error))) => return Err(judge(&error, &client_email)),
            Ok(Ok(Ok(access))) => access,
        };
        let text = access.token().filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()));
        let Some(text) = text.map(Arc::from) else {
            return Err(unavailable("the token endpoint's answer contains no token".to_owned()));
        };
        Ok(Token { access, text, made_at: Instant::now() })
    }
}

/// By kind and by the OAuth error code, which is a fixed word. Texts from the endpoint are not repeated: they may quote what was sent.
fn judge(error: &OauthError, client_email: &str) -> TokenError {
    let client_email = client_email.to_owned();
    let unavailable = |reason: &str| TokenError::Unavailable { client_email: client_email.clone(), reason: reason.to_owned() };
    match error {
        OauthError::AuthError(refusal) => match &refusal.error {
            AuthErrorCode::Other(_) => unavailable("the token endpoint reported a fault of its own"),
            code => TokenError::Refused { client_email, code: code.as_str().to_owned() },
        },
        OauthError::HttpClientError(_) => unavailable("the token endpoint cannot be reached"),
        OauthError::HttpError(_) => unavailable("the token endpoint's answer was cut off"),
        OauthError::JSONError(_) => unavailable("the token endpoint answered with something that is not JSON"),
        _ => unavailable("the token endpoint's answer cannot be used"),
    }
}
