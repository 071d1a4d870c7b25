//! Logs and metrics.

pub mod health;
pub mod logging;
pub mod metrics;

/// The commit this was built from, if the build knew it (`KYLO_COMMIT` at build time), else `unknown`.
pub fn commit() -> &'static str {
    option_env!("KYLO_COMMIT").unwrap_or("unknown")
}

/// `0.1.0 (abc1234)` or `0.1.0`.
pub fn version() -> String {
    match option_env!("KYLO_COMMIT") {
        Some(commit) => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
        None => env!("CARGO_PKG_VERSION").to_owned(),
    }
}
