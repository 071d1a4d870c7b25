//! Settings in two layers: what was typed ([`mod@env`]: environment, files, flags), and what is usable ([`settings`]: parsed, cross-checked, typed).
//!
//! Called once at the start of every command. What must never happen here: a secret in a text, or a misspelt variable that is silently ignored.

pub mod env;
mod parse;
mod relay;
pub mod secret;
pub mod settings;
#[cfg(test)]
mod tests;
mod vars;

pub use secret::Secret;
pub use settings::Settings;

/// The configuration cannot be used. Every problem at once, so that nobody has to start five times to find five. Exit code 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", text(.0))]
pub struct ConfigError(pub Vec<Problem>);

impl ConfigError {
    /// A single problem.
    pub fn one(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self(vec![Problem::new(message, hint)])
    }
}

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub message: String,
    pub hint: String,
}

impl Problem {
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

fn text(problems: &[Problem]) -> String {
    let lines: Vec<_> = problems.iter().map(|problem| format!("{}\n  hint: {}", problem.message, problem.hint)).collect();
    lines.join("\n")
}
