//! Settings: what is accepted, what is refused, and what is said.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use super::env::Typed;
use super::{ConfigError, Settings};

fn resolve(pairs: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let typed = Typed::read(pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))), &BTreeMap::new())?;
    Settings::resolve(&typed)
}

fn refusal(pairs: &[(&str, &str)]) -> String {
    resolve(pairs).unwrap_err().to_string()
}

#[test]
fn nothing_set_is_shadow_mode_on_the_documented_defaults() {
    let settings = resolve(&[]).unwrap();
    assert!(!settings.sheets.post);
    assert_eq!(settings.sheets.mode(), "shadow");
    assert_eq!(settings.kafka.brokers, "localhost:9092");
    assert_eq!((settings.kafka.topic_txns.as_str(), settings.kafka.topic_promote.as_str()), ("txns.company.batches", "rules.promote.requests"));
    assert_eq!((settings.kafka.group_txns.as_str(), settings.kafka.group_promote.as_str()), ("kylo-workers-txns", "kylo-workers-promote"));
    assert_eq!((settings.poison_cap, settings.drain, settings.sheets.sweep), (100, Duration::from_secs(10), Some(Duration::from_secs(3600))));
    let (address, explicit) = settings.http.address(8088);
    assert_eq!((address.to_string().as_str(), explicit), ("127.0.0.1:8088", false));
    assert!(settings.control().unwrap_err().to_string().contains("PG_DSN_RW is not set"));
}

#[test]
fn posting_is_on_with_1_off_with_0_and_an_error_with_anything_else() {
    assert!(resolve(&[("KYLO_SHEETS_POST", "1")]).unwrap().sheets.post);
    assert!(!resolve(&[("KYLO_SHEETS_POST", "0")]).unwrap().sheets.post);
    for text in ["", "true", "yes", "2", " 1", "01", "on", "TRUE"] {
        assert!(refusal(&[("KYLO_SHEETS_POST", text)]).contains("it must be 0 or 1"), "{text:?}");
    }
}

#[test]
fn only_canary_companies_post() {
    let sheets = resolve(&[("KYLO_SHEETS_POST", "1"), ("KYLO_SHEETS_POST_COMPANIES", " 710, 711 ")]).unwrap().sheets;
    assert!(sheets.posts("710") && sheets.posts("711") && !sheets.posts("712"));
    assert!(resolve(&[("KYLO_SHEETS_POST", "1"), ("KYLO_SHEETS_POST_COMPANIES", "")]).unwrap().sheets.posts("712"));
    assert!(!resolve(&[("KYLO_SHEETS_POST_COMPANIES", "710")]).unwrap().sheets.posts("710"));
}

#[test]
fn an_endpoint_has_one_slash_and_plain_http_stays_on_loopback() {
    for text in ["http://127.0.0.1:9099", "http://127.0.0.1:9099/"] {
        assert_eq!(resolve(&[("KYLO_SHEETS_ENDPOINT", text)]).unwrap().sheets.endpoint, "http://127.0.0.1:9099/");
    }
    assert_eq!(resolve(&[("KYLO_SHEETS_ENDPOINT", "https://proxy.example/google/")]).unwrap().sheets.endpoint, "https://proxy.example/google/");
    assert!(resolve(&[("KYLO_SHEETS_ENDPOINT", "http://[::1]:1")]).is_ok() && resolve(&[("KYLO_SHEETS_ENDPOINT", "http://localhost:1")]).is_ok());
    assert!(refusal(&[("KYLO_SHEETS_ENDPOINT", "http://sheets.example/")]).contains("on 127.0.0.1"));
    for text in ["sheets", "ftp://x/", "https://user:hunter2@x/", "https://x/?key=hunter2"] {
        let told = refusal(&[("KYLO_SHEETS_ENDPOINT", text)]);
        assert!(told.contains("KYLO_SHEETS_ENDPOINT") && !told.contains("hunter2"), "{told}");
    }
}

#[test]
fn posting_without_a_usable_key_file_is_refused_and_the_path_is_named() {
    let base = [("KYLO_SHEETS_POST", "1"), ("PG_DSN_RW", "postgres://x@y/z")];
    let without = resolve(&base).unwrap().check_worker().unwrap_err().to_string();
    assert!(without.contains("GOOGLE_APPLICATION_CREDENTIALS is not set"), "{without}");
    let with = |path: &str| {
        let pairs: Vec<_> = base.iter().copied().chain([("GOOGLE_APPLICATION_CREDENTIALS", path)]).collect();
        resolve(&pairs).unwrap().check_worker()
    };
    assert!(with("/nowhere/key.json").unwrap_err().to_string().contains("/nowhere/key.json"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    std::fs::write(file.path(), r#"{"private_key":"hunter2"}"#).unwrap();
    let told = with(path).unwrap_err().to_string();
    assert!(told.contains(path) && told.contains("client_email") && !told.contains("hunter2"), "{told}");
    std::fs::write(file.path(), r#"{"client_email":"a","private_key":"b","token_uri":"c"}"#).unwrap();
    assert!(with(path).is_ok());
    assert!(resolve(&[("PG_DSN_RW", "postgres://x@y/z")]).unwrap().check_worker().is_ok(), "shadow needs no credentials");
}

#[test]
fn a_sasl_login_is_complete_or_refused() {
    assert!(refusal(&[("KAFKA_SECURITY_PROTOCOL", "SASL_SSL"), ("KAFKA_USERNAME", "u")]).contains("the login is not complete"));
    let settings = resolve(&[
        ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
        ("KAFKA_SASL_MECHANISM", "scram-sha-512"),
        ("KAFKA_USERNAME", "u"),
        ("KAFKA_PASSWORD", "hunter2"),
    ])
    .unwrap();
    assert_eq!(settings.kafka.sasl.unwrap().mechanism, "SCRAM-SHA-512");
    assert_eq!(resolve(&[("KAFKA_USERNAME", "u")]).unwrap().warnings.len(), 1);
}

#[test]
fn every_problem_is_told_at_once() {
    let told = refusal(&[
        ("KAFKA_BROKERS", "kafka://x"),
        ("KYLO_POISON_CAP", "0"),
        ("KYLO_LOG", "xml"),
        ("KYLO_HTTP_ADDR", "here"),
        ("KAFKA_TOPIC_PROMOTE", "txns.company.batches"),
        ("RUST_LOG", "kylo=loud"),
        ("KAFKA_SSL_CA_LOCATION", "/nowhere/ca.pem"),
    ]);
    for part in ["KAFKA_BROKERS", "KYLO_POISON_CAP", "KYLO_LOG", "KYLO_HTTP_ADDR", "three topics", "RUST_LOG", "/nowhere/ca.pem"] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

#[test]
fn the_printed_configuration_has_no_secret_in_it() {
    let settings = resolve(&[
        ("PG_DSN_RW", "postgres://kylo:hunter2@db:5432/books?sslpassword=hunter2"),
        ("KYLO_HTTP_TOKEN", "hunter2"),
        ("KAFKA_PASSWORD", "hunter2"),
        ("KYLO_COMPANY_DSN", "postgres://kylo:hunter2@db:5432/books"),
    ])
    .unwrap();
    let told = format!("{settings}{settings:?}");
    assert!(!told.contains("hunter2"), "{told}");
    assert!(told.contains("PG_DSN_RW=postgres://kylo:***@db:5432/books"), "{told}");
}

#[test]
fn an_explicit_address_is_known_as_such() {
    let http = resolve(&[("KYLO_HTTP_ADDR", "0.0.0.0:9000")]).unwrap().http;
    assert_eq!(http.address(8088), ("0.0.0.0:9000".parse().unwrap(), true));
    let http = resolve(&[("KYLO_HTTP_ADDR", "localhost")]).unwrap().http;
    assert_eq!(http.address(8089), ("127.0.0.1:8089".parse().unwrap(), false));
}
