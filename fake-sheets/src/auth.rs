//! Service accounts and tokens: the JWT bearer grant as Google judges it. An account whose key this emulator made must
//! sign with it; of any other account the signature cannot be known and is taken, unless unknown accounts are refused.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError};

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use rsa::pkcs1::EncodeRsaPublicKey;
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use serde_json::{Value, json};

use crate::clock::real_ms;
use crate::json::{int, text};

const HOUR_S: i64 = 3600;
/// How far a client's clock may be off.
const SKEW_S: i64 = 300;
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const SCOPES: &str = "https://www.googleapis.com/auth/";
const AUDIENCES: [&str; 3] =
    ["https://oauth2.googleapis.com/token", "https://accounts.google.com/o/oauth2/token", "https://www.googleapis.com/oauth2/v4/token"];

/// The key pair of the accounts made here: one for the process, because making one takes a second.
#[derive(Debug)]
pub struct KeyPair {
    /// PKCS#8 PEM, for key files.
    pub private_pem: String,
    public_der: Vec<u8>,
}

/// Why no key could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an RSA key: {0}")]
pub struct KeyError(String);

static KEY: OnceLock<Arc<KeyPair>> = OnceLock::new();
static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// The process' key pair, made at the first call.
///
/// # Errors
/// Where the key cannot be generated or encoded.
pub fn key_pair() -> Result<Arc<KeyPair>, KeyError> {
    let _one = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(key) = KEY.get() {
        return Ok(Arc::clone(key));
    }
    let private = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).map_err(|e| KeyError(e.to_string()))?;
    let private_pem = private.to_pkcs8_pem(LineEnding::LF).map_err(|e| KeyError(e.to_string()))?.to_string();
    let public_der = private.to_public_key().to_pkcs1_der().map_err(|e| KeyError(e.to_string()))?.as_bytes().to_vec();
    Ok(Arc::clone(KEY.get_or_init(|| Arc::new(KeyPair { private_pem, public_der }))))
}

/// A token that was handed out.
#[derive(Debug, Clone)]
pub struct Token {
    /// Account in lower case.
    pub account: String,
    scopes: Vec<String>,
    expires_at_ms: u64,
}

impl Token {
    /// Whether one of its scopes (without Google's prefix) is among these.
    #[must_use]
    pub fn has(&self, scopes: &[&str]) -> bool {
        self.scopes.iter().any(|have| have.strip_prefix(SCOPES).is_some_and(|have| scopes.contains(&have)))
    }
}

/// An OAuth refusal: code and description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthError(pub &'static str, pub &'static str);

/// Accounts and tokens of one emulator.
#[derive(Debug, Default)]
pub struct Accounts {
    /// E-mail addresses with the key they must sign with.
    known: HashMap<String, Arc<KeyPair>>,
    tokens: HashMap<String, Token>,
    /// Refuse accounts that were not made here.
    pub only_known: bool,
}

impl Accounts {
    /// Makes a service account; the answer is what its key file holds.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn make(&mut self, email: &str, token_uri: &str) -> Result<Value, KeyError> {
        let key = key_pair()?;
        self.known.insert(email.to_lowercase(), Arc::clone(&key));
        let project = email.split('@').nth(1).and_then(|host| host.split('.').next()).unwrap_or("fake-sheets");
        Ok(json!({
            "type": "service_account",
            "project_id": project,
            "private_key_id": "0000000000000000000000000000000000000000",
            "private_key": key.private_pem,
            "client_email": email,
            "client_id": "100000000000000000000",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": token_uri,
            "universe_domain": "googleapis.com",
        }))
    }

    /// The account of a token; `None` where nobody issued it or it has expired.
    #[must_use]
    pub fn token(&self, token: &str, now_ms: u64) -> Option<&Token> {
        self.tokens.get(token).filter(|t| t.expires_at_ms > now_ms)
    }

    /// Ends all tokens at once.
    pub fn revoke_all(&mut self) {
        self.tokens.clear();
    }

    /// Answers a grant with a token for `lifetime_s` seconds.
    ///
    /// # Errors
    /// OAuth's error for whatever is wrong with the assertion.
    pub fn grant(&mut self, form: &[(String, String)], own_audience: &str, now_ms: u64, lifetime_s: u64) -> Result<Value, OAuthError> {
        let field = |name: &str| form.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v.as_str());
        if field("grant_type") != GRANT {
            return Err(OAuthError("unsupported_grant_type", "Invalid grant_type: only the JWT bearer grant is supported."));
        }
        let (account, scopes) = self.judge(field("assertion"), own_audience)?;
        self.tokens.retain(|_, t| t.expires_at_ms > now_ms);
        let secret = format!("ya29.fake-{:016x}{:016x}", rand::random::<u64>(), rand::random::<u64>());
        let expires_at_ms = now_ms + lifetime_s * 1000;
        self.tokens.insert(secret.clone(), Token { account, scopes, expires_at_ms });
        Ok(json!({"access_token": secret, "expires_in": lifetime_s, "token_type": "Bearer"}))
    }

    /// The account and scopes an assertion stands for.
    fn judge(&self, assertion: &str, own_audience: &str) -> Result<(String, Vec<String>), OAuthError> {
        let undecodable = OAuthError("invalid_request", "Bad Request");
        let jwt = Jwt::read(assertion).ok_or(undecodable)?;
        if text(&jwt.header, "alg") != Some("RS256") {
            return Err(OAuthError("invalid_grant", "Invalid JWT: Only RS256 is supported."));
        }
        let account = text(&jwt.claims, "iss").unwrap_or("").to_lowercase();
        if !account.contains('@') {
            return Err(OAuthError("invalid_grant", "Invalid grant: account not found"));
        }
        let audience = text(&jwt.claims, "aud").unwrap_or("");
        if audience != own_audience && !AUDIENCES.contains(&audience) {
            return Err(OAuthError("invalid_grant", "Invalid JWT: Failed audience check."));
        }
        let now = i64::try_from(real_ms() / 1000).unwrap_or(i64::MAX);
        let window = int(&jwt.claims, "iat").zip(int(&jwt.claims, "exp"));
        let fits = |(iat, exp): (i64, i64)| iat <= now + SKEW_S && exp > now - SKEW_S && exp > iat && exp - iat <= HOUR_S;
        if !window.is_some_and(fits) {
            return Err(OAuthError(
                "invalid_grant",
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat \
                 and exp values in the JWT claim.",
            ));
        }
        match self.known.get(&account) {
            Some(key) => jwt.verify(key)?,
            None if self.only_known => return Err(OAuthError("invalid_grant", "Invalid grant: account not found")),
            None => {}
        }
        let scopes: Vec<String> = text(&jwt.claims, "scope").unwrap_or("").split_whitespace().map(str::to_owned).collect();
        if scopes.is_empty() || scopes.iter().any(|s| !s.starts_with(SCOPES) || s.ends_with("no.such.scope")) {
            return Err(OAuthError("invalid_scope", "Invalid OAuth scope or ID token audience provided."));
        }
        Ok((account, scopes))
    }
}

/// An assertion taken apart.
struct Jwt<'a> {
    header: Value,
    claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Jwt<'a> {
    /// Some Rust clients send base64url with its padding; Google takes it.
    fn read(assertion: &'a str) -> Option<Self> {
        let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let engine = GeneralPurpose::new(&URL_SAFE, lenient);
        let (signed, signature) = assertion.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let object = |part: &str| serde_json::from_slice::<Value>(&engine.decode(part).ok()?).ok().filter(Value::is_object);
        Some(Self { header: object(header)?, claims: object(claims)?, signed, signature: engine.decode(signature).ok()? })
    }

    fn verify(&self, key: &KeyPair) -> Result<(), OAuthError> {
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &key.public_der);
        let sound = public.verify(self.signed.as_bytes(), &self.signature);
        sound.map_err(|_| OAuthError("invalid_grant", "Invalid JWT Signature."))
    }
}
