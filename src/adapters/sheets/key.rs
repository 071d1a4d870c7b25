//! The service account's key file: where it is, whether it can be used, whose it is.
//!
//! Called by the wiring (a wrong file must stop a start that wants to post) and by [`super::auth`], which reads the file again for every new
//! token, so a rotated key is picked up. What must never happen here: any part of the file's content in an error.

use std::path::{Path, PathBuf};

use google_sheets4::yup_oauth2::ServiceAccountKey;
use url::Url;

/// Why the key file cannot be used. Names the path and what to do, never the content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the key file {} cannot be read ({reason}): GOOGLE_APPLICATION_CREDENTIALS must be the path of a service account's JSON key", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("the key file {} is not a service account key ({reason}): make a JSON key for the service account in the Google Cloud console", path.display())]
    NotAKey { path: PathBuf, reason: String },
    #[error("the key file {} names a token_uri that cannot be used ({reason}): it must be https, or http on loopback", path.display())]
    TokenUri { path: PathBuf, reason: String },
}

/// A key file that could be used when it was opened.
#[derive(Clone, Debug)]
pub struct KeyFile {
    path: PathBuf,
    client_email: String,
}

impl KeyFile {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Says what is wrong with the file at `path` and what to do.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let client_email = parse(path, &std::fs::read(path).map_err(|error| unreadable(path, &error))?)?.client_email;
        Ok(Self { path: path.to_owned(), client_email })
    }

    /// Who must be made an editor of the spreadsheets, and whose quota it is.
    pub fn client_email(&self) -> &str {
        &self.client_email
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key as the file has it now.
    pub(super) async fn read(&self) -> Result<ServiceAccountKey, KeyError> {
        parse(&self.path, &tokio::fs::read(&self.path).await.map_err(|error| unreadable(&self.path, &error))?)
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> KeyError {
    KeyError::Unreadable { path: path.to_owned(), reason: error.kind().to_string() }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<ServiceAccountKey, KeyError> {
    let not_a_key = |reason: String| KeyError::NotAKey { path: path.to_owned(), reason };
    // serde's own text may quote the content, so only the place is said.
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| not_a_key(format!("no JSON at line {}, column {}", error.line(), error.column())))?;
    match value.get("type").and_then(serde_json::Value::as_str) {
        Some("service_account") => {}
        Some("authorized_user") => return Err(not_a_key("its type is authorized_user, a person's own login".to_owned())),
        Some("external_account") => return Err(not_a_key("its type is external_account, which is not supported".to_owned())),
        _ => return Err(not_a_key("its type is not service_account".to_owned())),
    }
    for field in ["client_email", "private_key", "token_uri"] {
        if value.get(field).and_then(serde_json::Value::as_str).is_none_or(str::is_empty) {
            return Err(not_a_key(format!("{field} is missing")));
        }
    }
    let key: ServiceAccountKey = serde_json::from_value(value).map_err(|_| not_a_key("a field has the wrong type".to_owned()))?;
    if !key.private_key.contains("-----BEGIN") {
        return Err(not_a_key("private_key is not PEM".to_owned()));
    }
    let uri = Url::parse(&key.token_uri).map_err(|error| KeyError::TokenUri { path: path.to_owned(), reason: error.to_string() })?;
    super::client::check_url(&uri).map_err(|reason| KeyError::TokenUri { path: path.to_owned(), reason })?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(content: &str) -> Result<KeyFile, KeyError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.json");
        std::fs::write(&path, content).unwrap();
        KeyFile::open(&path)
    }

    fn key(field: &str, value: &str) -> String {
        let mut key = serde_json::json!({
            "type": "service_account", "client_email": "kylo@example.test", "token_uri": "https://oauth2.example.test/token",
            "private_key": "-----BEGIN PRIVATE KEY-----\nsEcReT\n-----END PRIVATE KEY-----\n"
        });
        key[field] = value.into();
        key.to_string()
    }

    #[test]
    fn a_service_account_key_says_whose_it_is() {
        assert_eq!(opened(&key("type", "service_account")).unwrap().client_email(), "kylo@example.test");
    }

    #[test]
    fn a_missing_file_is_named_with_what_to_do() {
        let text = KeyFile::open(Path::new("/nowhere/key.json")).unwrap_err().to_string();
        assert!(text.contains("/nowhere/key.json") && text.contains("GOOGLE_APPLICATION_CREDENTIALS"), "{text}");
    }

    #[test]
    fn what_is_not_a_service_account_key_is_refused_without_quoting_it() {
        let cases = [
            "sEcReT".to_owned(),
            "{\"private_key\": sEcReT".to_owned(),
            "\"sEcReT\"".to_owned(),
            key("type", "authorized_user"),
            key("type", "external_account"),
            key("type", "sEcReT"),
            key("client_email", ""),
            key("private_key", "sEcReT"),
            key("token_uri", ""),
            key("token_uri", "http://oauth2.example.test/token"),
            key("token_uri", "no url"),
        ];
        for case in cases {
            let error = opened(&case).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains("key.json"), "{text}");
            assert!(!text.contains("sEcReT"), "{text}");
        }
    }

    #[test]
    fn a_token_uri_without_tls_is_accepted_on_loopback_only() {
        for uri in ["http://127.0.0.1:8080/token", "http://[::1]:1/token", "http://localhost/token"] {
            assert!(opened(&key("token_uri", uri)).is_ok(), "{uri}");
        }
        assert!(matches!(opened(&key("token_uri", "http://127.0.0.1.example.test/")), Err(KeyError::TokenUri { .. })));
    }
}
