//! Errors as people see them: the chain once, and what to do about it.

use crate::config::ConfigError;

/// A failure with advice. Exit code 1.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failed {
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failed {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, source: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Whether the exit code is 2.
pub fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(<dyn std::error::Error>::is::<ConfigError>)
}

/// `error: what`, one line per cause, then the hint.
pub fn text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let line = cause.to_string();
        // A transparent wrapper says what its cause says: once is enough.
        if !text.ends_with(&line) {
            text.push_str(if depth == 0 { "error: " } else { "\n  caused by: " });
            text.push_str(&line);
        }
    }
    if let Some(hint) = error.chain().find_map(|cause| cause.downcast_ref::<Failed>()?.hint.as_deref()) {
        text.push_str("\n  hint: ");
        text.push_str(hint);
    }
    text
}

/// A panic is reported by its place. Its text may quote what was being processed, so that goes to the debug level.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("?").to_owned();
        tracing::error!(place, thread, "panic: this is a fault of kylo; RUST_LOG=debug shows its text");
        let payload = info.payload();
        let said = payload.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| payload.downcast_ref::<String>().cloned());
        tracing::debug!(said, "panic text");
    }));
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_chain_is_told_once_and_the_hint_comes_last() {
        let error =
            Result::<(), _>::Err(Failed::new("the server does not answer").hint("start it")).context("cannot list the companies").unwrap_err();
        assert_eq!(text(&error), "error: cannot list the companies\n  caused by: the server does not answer\n  hint: start it");
        assert!(!is_usage(&error));
        assert!(is_usage(&ConfigError::one("x", "y").into()));
    }
}
