//! Logs: `tracing` to stderr, as text or JSON. Called once, by every command.
//!
//! What must never happen here: a token or a password in a log. The libraries that would print request headers and token answers below
//! info (hyper, rustls, yup-oauth2, google-apis) are capped whatever `RUST_LOG` says.

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::settings::{Log, LogFormat};

/// Libraries that may print secrets below info.
const CAPPED: [&str; 9] = ["yup_oauth2", "google_sheets4", "google_apis_common", "hyper", "hyper_util", "hyper_rustls", "rustls", "reqwest", "h2"];

/// Starts logging. A second call in one process changes nothing.
pub fn init(log: &Log) {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => filtered(&log.filter).with(layer.with_ansi(false)).try_init(),
        LogFormat::Json => filtered(&log.filter).with(layer.json().flatten_event(true)).try_init(),
    };
    // Already started: by a test, or by the demonstration.
    drop(started);
}

/// What passes, for every layer alike. A filter of one layer alone would lose events: when a library asks whether it should log (sqlx does,
/// through the `log` crate, for each statement) and is told no, such a filter remembers the answer for the thread's next event.
fn filtered(filter: &str) -> impl Subscriber + for<'span> LookupSpan<'span> + Send + Sync + use<> {
    let chosen = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // librdkafka reports through the `log` crate; its debug lines would flood whoever asks for kylo's own.
    let quiet = Targets::new().with_default(LevelFilter::TRACE).with_target("librdkafka", LevelFilter::INFO).with_target("sqlx", LevelFilter::INFO);
    tracing_subscriber::registry().with(chosen).with(filter_fn(|meta| !capped(meta.target()) || *meta.level() <= LevelFilter::INFO)).with(quiet)
}

fn capped(target: &str) -> bool {
    let root = target.split("::").next().unwrap_or(target);
    CAPPED.contains(&root)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing::Callsite as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn libraries_that_print_tokens_are_capped_and_kylo_is_not() {
        assert!(capped("yup_oauth2::service_account") && capped("hyper_util::client::legacy::pool") && capped("hyper"));
        assert!(!capped("kylo::flow::post") && !capped("hyperion"));
    }

    #[test]
    fn an_event_is_not_lost_because_a_library_asked_before_it_whether_to_log() {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::with_default(filtered("info").with(layer), || {
            // Any metadata below info will do: this is what `log::log_enabled!` asks.
            let debug = tracing::callsite!(name: "asked", kind: tracing::metadata::Kind::EVENT, level: tracing::Level::DEBUG, fields: ).metadata();
            for _ in 0..2 {
                tracing::warn!("parked");
                assert!(!tracing::dispatcher::get_default(|to| to.enabled(debug)));
            }
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("parked").count(), 2, "{text}");
    }
}
