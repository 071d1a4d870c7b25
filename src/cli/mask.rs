//! Masks secrets in what a dead letter shows: DSN passwords (version 1 messages carry DSNs in `routing`), tokens, keys.
//!
//! What must never happen here: a secret shown because it was written in an unusual way. When in doubt the value is masked.

use serde_json::Value;

const MASK: &str = "***";

/// Names of fields whose value is never shown, whatever it is; compared without case and separators.
const SECRET_NAMES: [&str; 13] = [
    "password",
    "passwd",
    "pwd",
    "secret",
    "token",
    "apikey",
    "privatekey",
    "credential",
    "dsn",
    "connectionstring",
    "databaseurl",
    "authorization",
    "cookie",
];

/// A name that speaks of a secret.
pub fn is_secret_name(name: &str) -> bool {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    SECRET_NAMES.iter().any(|secret| plain.contains(secret))
}

/// Bytes as text for people: JSON is masked by field and by value, other text by pattern, what is no text is shown as such with `�`.
pub fn bytes(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match serde_json::from_str::<Value>(&text) {
        // Only when there is something to mask is the text written anew: the original's own form is evidence too.
        Ok(value) => {
            let masked = json(&value);
            if masked == value { in_text(&text) } else { masked.to_string() }
        }
        Err(_) => in_text(&text),
    }
}

/// The same for a JSON value.
pub fn json(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, field)| {
                let hidden = is_secret_name(name) && !field.is_null();
                (name.clone(), if hidden { Value::from(MASK) } else { json(field) })
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(json).collect::<Vec<_>>().into(),
        // An envelope's message may be JSON inside a string.
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(inner) if inner.is_object() || inner.is_array() => {
                let masked = json(&inner);
                if masked == inner { Value::from(in_text(text)) } else { Value::from(masked.to_string()) }
            }
            _ => Value::from(in_text(text)),
        },
        other => other.clone(),
    }
}

/// Credentials inside a text: `scheme://user:password@`, `password=...`, `"db_dsn_rw": "..."` of a broken JSON.
fn in_text(text: &str) -> String {
    let masked = mask_urls(text);
    mask_pairs(&masked)
}

/// Everything between `://` and the last `@` before the host ends is credentials.
fn mask_urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | ',')).unwrap_or(after.len());
        let (url, tail) = after.split_at(end);
        match url.rfind('@') {
            Some(at) => {
                out.push_str(MASK);
                out.push_str(&url[at..]);
            }
            None => out.push_str(url),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// `name=value` and `"name": "value"` where the name speaks of a secret.
fn mask_pairs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(c);
        if c.is_alphanumeric() || c == '_' || c == '-' {
            word.push(c);
            continue;
        }
        let separator = matches!(c, '=' | ':');
        if separator && is_secret_name(&word) && !word.is_empty() {
            let mut quote = None;
            while let Some(next) = chars.next_if(|next| next.is_whitespace() || matches!(next, '"' | '\'' | '\\')) {
                quote = matches!(next, '"' | '\'').then_some(next).or(quote);
                out.push(next);
            }
            out.push_str(MASK);
            // A quoted value ends with its quote, whatever stands in it.
            let ends = |next: &char| match quote {
                Some(quote) => *next == quote,
                None => next.is_whitespace() || matches!(next, '"' | '\'' | '&' | ',' | '}' | ';' | '\\'),
            };
            while chars.next_if(|next| !ends(next)).is_some() {}
        }
        // `"name" :` keeps the word over its closing quote and spaces.
        if !matches!(c, '"' | '\'' | '\\' | ' ') {
            word.clear();
        }
    }
    out
}

/// What people are told beside masked text.
pub const NOTE: &str = "secrets are shown as ***; a replay publishes the original bytes";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_way_of_writing_a_password_is_shown() {
        for original in [
            r#"{"routing":{"db_dsn_rw":"postgres://kylo:hunter2@db/books","db_schema":"app"}}"#,
            r#"{"key":"710","message":"{\"routing\":{\"dsn\":\"host=db password=hunter2\"}}"}"#,
            r#"{"note":"see postgres://kylo:hunter2@db/books and more"}"#,
            r#"{"note":"postgres://kylo:hun@ter2:hunter2@db/books"}"#,
            r#"{"routing":{"db_dsn_rw":"postgres://kylo:hunter2@db/books""#,
            r#"{"a":"host=db user=x password=hunter2 dbname=y"}"#,
            r#"{"a":"host=db password='hunter2'"}"#,
            r#"{"API-Key":"hunter2","nested":[{"accessToken":{"x":"hunter2"}}]}"#,
            "password: hunter2",
            r#"{"db_password" : "hunter2", broken"#,
            r#"{"key":"x","message":"{\"db_dsn\":\"hunter2\", broken"}"#,
        ] {
            let shown = bytes(original.as_bytes());
            assert!(!shown.contains("hunter2"), "{original}\n -> {shown}");
            assert!(shown.contains("***"), "{shown}");
        }
    }

    #[test]
    fn what_has_no_secret_is_shown_as_it_came() {
        for original in [r#"{"amount": 1.50,  "description":"STARBUCKS #12 @ AIRPORT: gate"}"#, "not json at all", r#"{"a":1e400}"#] {
            assert_eq!(bytes(original.as_bytes()), original);
        }
        assert_eq!(bytes(b"\xff\xfe{"), "\u{fffd}\u{fffd}{");
    }
}
