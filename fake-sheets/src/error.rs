//! Refusals of the API, in Google's two shapes: the error object of the REST API and the flat one of OAuth.
//! Made everywhere, turned into HTTP in `http.rs`. A refusal must never leave a trace in a spreadsheet.

use serde_json::{Value, json};

/// An answer other than 2xx.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// HTTP status.
    pub code: u16,
    /// The name beside it, such as `INVALID_ARGUMENT`.
    pub status: &'static str,
    /// For people; programs must not match on it.
    pub message: String,
    /// `google.rpc` details.
    pub details: Vec<Value>,
}

impl ApiError {
    /// An error without details.
    #[must_use]
    pub fn new(code: u16, status: &'static str, message: impl Into<String>) -> Self {
        Self { code, status, message: message.into(), details: Vec::new() }
    }

    /// 400 `INVALID_ARGUMENT`.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "INVALID_ARGUMENT", message)
    }

    /// 400 with the field violations that JSON errors carry.
    #[must_use]
    pub fn bad_payload(field: &str, description: String) -> Self {
        let mut violation = json!({ "description": description });
        if !field.is_empty() {
            violation["field"] = field.into();
        }
        Self {
            details: vec![json!({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]})],
            ..Self::invalid(description)
        }
    }

    /// 404 for a spreadsheet, or a path, that is not there.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(404, "NOT_FOUND", "Requested entity was not found.")
    }

    /// 403 for an account the spreadsheet is not shared with.
    #[must_use]
    pub fn forbidden() -> Self {
        Self::new(403, "PERMISSION_DENIED", "The caller does not have permission")
    }

    /// 401 for a token that nobody issued, or that has expired.
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self::new(
            401,
            "UNAUTHENTICATED",
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid \
             authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
        )
    }

    /// 403 for a token whose scopes do not allow this method.
    #[must_use]
    pub fn scope(method: &str) -> Self {
        Self {
            details: vec![json!({
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
                "domain": "googleapis.com",
                "metadata": {"service": "sheets.googleapis.com",
                             "method": format!("google.apps.sheets.v4.{method}")},
            })],
            ..Self::new(403, "PERMISSION_DENIED", "Request had insufficient authentication scopes.")
        }
    }

    /// 501 for a method or request kind that Google has and this emulator has not.
    #[must_use]
    pub fn unimplemented(what: &str) -> Self {
        Self::new(501, "UNIMPLEMENTED", format!("fake-sheets does not implement {what}"))
    }

    /// The body Google sends.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut error = json!({"code": self.code, "message": self.message, "status": self.status});
        if !self.details.is_empty() {
            error["details"] = self.details.clone().into();
        }
        json!({ "error": error })
    }
}

/// Why a request of a batch is not applied; the batch adds its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 400: what Google says after `Invalid requests[i].kind: `.
    Invalid(String),
    /// 501: a kind, or a corner of one, that this emulator does not have.
    Missing(String),
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self::Invalid(message)
    }
}

impl From<&str> for Refusal {
    fn from(message: &str) -> Self {
        Self::Invalid(message.to_owned())
    }
}

impl Refusal {
    /// As an answer, with the place in front of the text (`Invalid requests[0].addSheet`).
    #[must_use]
    pub fn at(self, place: &str) -> ApiError {
        match self {
            Self::Invalid(text) if place.is_empty() => ApiError::invalid(text),
            Self::Invalid(text) => ApiError::invalid(format!("{place}: {text}")),
            Self::Missing(what) => ApiError::unimplemented(&what),
        }
    }
}
