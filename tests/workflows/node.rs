//! Runs the code of Code nodes under plain Node.js.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::read;

/// What a Code node is given.
#[derive(Debug, Clone)]
pub struct Work(Value);

impl Work {
    /// "Group by company" with a request whose body is these bytes.
    pub fn ingest(body: impl AsRef<[u8]>) -> Self {
        let code = read("workflows/n8n/code/group_by_company.js");
        let hash = "0123456789abcdef".repeat(4);
        Self(json!({"code": code, "item": {"json": {"headers": {}, "rows_hash": hash}, "raw": body.as_ref()}}))
    }

    /// "Group by company" where n8n hands over what it has parsed, and no bytes.
    pub fn ingest_parsed(body: &Value) -> Self {
        let mut work = Self::ingest("");
        work.0["item"] = json!({"json": {"headers": {}, "rows_hash": "f".repeat(64), "body": body}});
        work
    }

    pub fn read_request(json: &Value) -> Self {
        Self(json!({"code": read("workflows/n8n/code/read_request.js"), "item": {"json": json}}))
    }

    /// "Build requests", after "Read request" has answered `request` and the database these companies.
    pub fn build_requests(request: &Value, companies: &[&str]) -> Self {
        let item = json!({"json": {"companies": companies}});
        Self(json!({"code": read("workflows/n8n/code/build_requests.js"), "item": item, "nodes": {"Read request": request}}))
    }

    /// With smaller limits than the real ones, so that little is enough to be split.
    pub fn limits(mut self, max_rows: usize, max_bytes: usize) -> Self {
        self.0["limits"] = json!({"MAX_ROWS": max_rows, "MAX_BYTES": max_bytes});
        self
    }
}

/// What each answers: the one item that every Code node here ends with.
pub fn run(works: &[Work]) -> Vec<Value> {
    let mut child = Command::new("node")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/workflows/run_code.mjs"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start node: {e}; scripts/setup.sh installs it"));
    let input = Value::from(works.iter().map(|work| work.0.clone()).collect::<Vec<_>>()).to_string();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "node ended with {}", output.status);
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.len(), works.len());
    answers.into_iter().map(only_item).collect()
}

fn only_item(mut answer: Value) -> Value {
    assert_eq!(answer["items"].as_array().map(Vec::len), Some(1), "{answer}");
    answer["items"][0]["json"].take()
}

pub fn run_one(work: Work) -> Value {
    run(&[work]).remove(0)
}
