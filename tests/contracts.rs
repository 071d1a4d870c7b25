//! The published contract against the decoder: example payloads with snapshots, JSON Schemas, test vectors.
//!
//! To accept a changed snapshot after reading the difference: `INSTA_UPDATE=always cargo test --test contracts`.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "contracts/examples.rs"]
mod examples;
#[path = "contracts/invariants.rs"]
mod invariants;
#[path = "contracts/schemas.rs"]
mod schemas;
#[path = "contracts/vectors.rs"]
mod vectors;

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use kylo::flow::decode::RawMessage;

/// The instant at which every example is decoded.
pub fn now() -> DateTime<Utc> {
    "2025-08-26T12:30:00Z".parse().unwrap()
}

pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn read_json(path: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(repository().join(path)).unwrap()).unwrap()
}

/// An example: its name and the bytes of its payload.
#[derive(Debug)]
pub struct Example {
    pub name: String,
    pub payload: Vec<u8>,
}

impl Example {
    /// The record key an example comes with: the company of all examples, but for those about keys.
    pub fn key(&self) -> Option<&'static [u8]> {
        match self.name.as_str() {
            "key-null" => None,
            name if name.ends_with("null-record-key") => None,
            "key-other-company" => Some(b"711"),
            "key-empty" => Some(b""),
            "key-not-utf8" => Some(b"\xff\xfe"),
            "company-taken-exactly" => Some(b" 710 "),
            _ => Some(b"710"),
        }
    }

    pub fn message(&self) -> RawMessage<'_> {
        RawMessage { payload: Some(&self.payload), key: self.key(), topic: "t", partition: 0, offset: 0 }
    }
}

pub fn examples(folder: &str) -> Vec<Example> {
    let folder = repository().join("tests/contracts").join(folder);
    let mut examples: Vec<Example> = files(&folder, "json")
        .into_iter()
        .map(|name| Example { payload: std::fs::read(folder.join(format!("{name}.json"))).unwrap(), name })
        .collect();
    examples.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(examples.len() > 20, "examples are missing in {}", folder.display());
    examples
}

/// The names, without their ending, of a folder's files with that ending.
pub fn files(folder: &Path, ending: &str) -> Vec<String> {
    let ending = format!(".{ending}");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(&ending).map(str::to_owned)).collect()
}
