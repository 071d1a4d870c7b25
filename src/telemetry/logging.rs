//! Logs: `tracing` to stderr, as text or JSON. Called once, by every command.
//!
//! What must never happen here: a token or a password in a log. The libraries that would print request headers and token answers below
//! info (hyper, rustls, yup-oauth2, google-apis) are capped whatever `RUST_LOG` says.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::settings::{Log, LogFormat};

/// Libraries that may print secrets below info.
const CAPPED: [&str; 9] = ["yup_oauth2", "google_sheets4", "google_apis_common", "hyper", "hyper_util", "hyper_rustls", "rustls", "reqwest", "h2"];

/// Starts logging. A second call in one process changes nothing.
pub fn init(log: &Log) {
    let chosen = EnvFilter::try_new(&log.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let filter = chosen.and(filter_fn(|meta| !capped(meta.target()) || *meta.level() <= LevelFilter::INFO));
    // librdkafka reports through the `log` crate; its debug lines would flood whoever asks for kylo's own.
    let filter = filter
        .and(Targets::new().with_default(LevelFilter::TRACE).with_target("librdkafka", LevelFilter::INFO).with_target("sqlx", LevelFilter::INFO));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => tracing_subscriber::registry().with(layer.with_ansi(false).with_filter(filter)).try_init(),
        LogFormat::Json => tracing_subscriber::registry().with(layer.json().flatten_event(true).with_filter(filter)).try_init(),
    };
    // Already started: by a test, or by the demonstration.
    drop(started);
}

fn capped(target: &str) -> bool {
    let root = target.split("::").next().unwrap_or(target);
    CAPPED.contains(&root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_print_tokens_are_capped_and_kylo_is_not() {
        assert!(capped("yup_oauth2::service_account") && capped("hyper_util::client::legacy::pool") && capped("hyper"));
        assert!(!capped("kylo::flow::post") && !capped("hyperion"));
    }
}
