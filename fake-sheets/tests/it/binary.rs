use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::exchange;

const BINARY: &str = env!("CARGO_BIN_EXE_fake-sheets");

#[tokio::test]
async fn the_binary_tells_its_address_in_one_line_serves_and_stops_at_sigterm() {
    let key_file = std::env::temp_dir().join(format!("fake-sheets-binary-{}.json", rand::random::<u64>()));
    let mut child = Command::new(BINARY).args(["--addr=127.0.0.1:0", "--open", "--key-file"]).arg(&key_file).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["key_file"].as_str().unwrap(), key_file.to_str().unwrap());
    let url = ready["url"].as_str().unwrap();
    let addr = url.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
    assert_eq!(exchange(addr, "GET", "/", &[], b"").await.unwrap().status, 200);
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(child.wait().unwrap().success());
    std::fs::remove_file(key_file).unwrap();
}

#[test]
fn the_binary_refuses_addresses_that_others_can_reach_and_unknown_arguments() {
    let public = Command::new(BINARY).args(["--addr", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(public.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&public.stderr).contains("refusing to listen on 0.0.0.0:0"));
    let unknown = Command::new(BINARY).arg("--port").output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("unknown argument \"--port\""));
}
