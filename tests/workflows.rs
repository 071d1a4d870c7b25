//! The n8n workflows as files: what they are made of, where each branch ends, and what their code says of examples.
//!
//! Needs Node.js (scripts/setup.sh brings it), not n8n. The same workflows in a real n8n: `scripts/test-n8n.sh`.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "workflows/ingest.rs"]
mod ingest;
#[path = "workflows/node.rs"]
mod node;
#[path = "workflows/parity.rs"]
mod parity;
#[path = "workflows/promote.rs"]
mod promote;
#[path = "workflows/shape.rs"]
mod shape;

use std::path::PathBuf;

use serde_json::Value;

pub const INGEST: &str = "workflows/n8n/n8n_ingest_publish_kafka.json";
pub const PROMOTE: &str = "workflows/n8n/n8n_promote_publish_kafka.json";

pub fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn read_json(path: &str) -> Value {
    serde_json::from_str(&read(path)).unwrap()
}

/// A node of a workflow, by its name.
pub fn node_named<'a>(workflow: &'a Value, name: &str) -> &'a Value {
    let nodes = workflow["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("the workflow has no node {name}"))
}

/// Checks against one of the published schemas, and answers what is wrong.
pub fn complaints(schema: &str, value: &Value) -> Vec<String> {
    let validator = jsonschema::validator_for(&read_json(schema)).unwrap();
    validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}
