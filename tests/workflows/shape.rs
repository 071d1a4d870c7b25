//! The files themselves.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{INGEST, PROMOTE, complaints, node_named, read, read_json};

/// Node types and the versions of them that these workflows may have: those that scripts/test-n8n.sh runs in the n8n it installs (there
/// Kafka's may be 1), and how many outputs each has here.
const TRIED: [(&str, &[f64], usize); 12] = [
    ("code", &[2.0], 2),
    ("crypto", &[1.0], 2),
    ("if", &[2.2], 2),
    ("kafka", &[2.0], 2),
    ("manualTrigger", &[1.0], 1),
    ("postgres", &[2.6], 2),
    ("respondToWebhook", &[1.5], 0),
    ("set", &[3.4], 1),
    ("splitOut", &[1.0], 1),
    ("stickyNote", &[1.0], 0),
    // Ends a run with an error that the editor shows; only after an answer.
    ("stopAndError", &[1.0], 0),
    ("webhook", &[2.1], 1),
];
/// What no trigger leads to but through an answer.
const AFTER_AN_ANSWER: &str = "n8n-nodes-base.stopAndError";

fn workflows() -> [(&'static str, Value); 2] {
    [INGEST, PROMOTE].map(|path| (path, read_json(path)))
}

fn nodes(workflow: &Value) -> &[Value] {
    workflow["nodes"].as_array().unwrap()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is missing in {value}"))
}

fn of_type<'a>(workflow: &'a Value, kind: &str) -> Vec<&'a Value> {
    nodes(workflow).iter().filter(|node| text(node, "type") == format!("n8n-nodes-base.{kind}")).collect()
}

/// For each output of a node, where it leads.
fn outputs(workflow: &Value, name: &str) -> Vec<Vec<String>> {
    let Some(outputs) = workflow["connections"][name]["main"].as_array() else { return Vec::new() };
    let targets = |output: &Value| output.as_array().unwrap().iter().map(|target| text(target, "node").to_owned()).collect();
    outputs.iter().map(targets).collect()
}

#[test]
fn the_files_are_what_n8n_imports() {
    for (path, workflow) in workflows() {
        assert_eq!(complaints("tests/workflows/workflow.schema.json", &workflow), Vec::<String>::new(), "{path}");
        let names: BTreeSet<&str> = nodes(&workflow).iter().map(|node| text(node, "name")).collect();
        let ids: BTreeSet<&str> = nodes(&workflow).iter().map(|node| text(node, "id")).collect();
        assert_eq!((names.len(), ids.len()), (nodes(&workflow).len(), nodes(&workflow).len()), "{path}: a name or id stands there twice");
        for name in workflow["connections"].as_object().unwrap().keys() {
            assert!(names.contains(name.as_str()), "{path}: {name} is connected and missing");
            outputs(&workflow, name).concat().iter().for_each(|target| assert!(names.contains(target.as_str()), "{path}: {name} leads to {target}"));
        }
    }
}

#[test]
fn every_node_is_of_a_type_and_version_that_was_tried() {
    for (path, workflow) in workflows() {
        for node in nodes(&workflow) {
            let kind = text(node, "type").trim_start_matches("n8n-nodes-base.");
            let tried = TRIED.iter().find(|(known, ..)| *known == kind).unwrap_or_else(|| panic!("{path}: {kind} has not been tried"));
            let version = node["typeVersion"].as_f64().unwrap();
            assert!(tried.1.iter().any(|known| known.total_cmp(&version).is_eq()), "{path}: {kind} {version} has not been tried");
        }
    }
}

#[test]
fn every_branch_from_a_trigger_ends_in_an_answer() {
    for (path, workflow) in workflows() {
        let triggers: Vec<&Value> = [of_type(&workflow, "webhook"), of_type(&workflow, "manualTrigger")].concat();
        assert!(!triggers.is_empty(), "{path}");
        let mut open: Vec<String> = triggers.iter().map(|node| text(node, "name").to_owned()).collect();
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let node = node_named(&workflow, &name);
            let kind = text(node, "type").trim_start_matches("n8n-nodes-base.");
            if kind == "respondToWebhook" {
                continue;
            }
            let expected = TRIED.iter().find(|(known, ..)| *known == kind).unwrap().2;
            let found = outputs(&workflow, &name);
            assert_eq!(found.len(), expected, "{path}: an output of {name} leads nowhere: the caller would get an empty 200");
            open.extend(found.concat());
        }
        let is_reached = |node: &&Value| !matches!(text(node, "type"), "n8n-nodes-base.stickyNote" | AFTER_AN_ANSWER);
        nodes(&workflow).iter().filter(is_reached).for_each(|node| assert!(seen.contains(text(node, "name")), "{path}: {node} is never reached"));
    }
}

#[test]
fn an_answer_is_the_status_and_json_of_the_branch_that_led_to_it() {
    for (path, workflow) in workflows() {
        for answer in of_type(&workflow, "respondToWebhook") {
            let parameters = &answer["parameters"];
            assert_eq!(parameters["responseBody"], "={{ JSON.stringify($json.answer) }}", "{path}");
            assert_eq!(parameters["options"]["responseCode"], "={{ $json.status }}", "{path}");
        }
        for webhook in of_type(&workflow, "webhook") {
            assert_eq!(webhook["parameters"]["responseMode"], "responseNode", "{path}");
            assert_eq!(webhook["parameters"]["httpMethod"], "POST", "{path}");
        }
    }
    assert_eq!(of_type(&read_json(INGEST), "webhook")[0]["parameters"]["path"], "txns.ingest");
    assert_eq!(of_type(&read_json(INGEST), "webhook")[0]["parameters"]["options"]["rawBody"], true);
    assert_eq!(of_type(&read_json(PROMOTE), "webhook")[0]["parameters"]["path"], "rules.promote");
}

#[test]
fn a_failed_database_tells_its_cause_in_words() {
    let workflow = read_json(PROMOTE);
    let said = text(&node_named(&workflow, "Database failed")["parameters"], "jsonOutput");
    // The Postgres node says {message, error: {..}}: `error` alone would be "[object Object]".
    assert!(said.contains("cause: String($json.message ?? $json.error)"), "{said}");
}

#[test]
fn kafka_gets_the_message_itself_by_company_compressed_and_fully_acknowledged() {
    for ((path, workflow), topic) in workflows().iter().zip(["txns.company.batches", "rules.promote.requests"]) {
        let producers = of_type(workflow, "kafka");
        assert_eq!(producers.len(), 1, "{path}");
        let parameters = &producers[0]["parameters"];
        assert_eq!(parameters["topic"], topic);
        assert_eq!((&parameters["sendInputData"], &parameters["message"]), (&Value::from(false), &Value::from("={{ $json.payload }}")));
        assert_eq!((&parameters["useKey"], &parameters["key"]), (&Value::from(true), &Value::from("={{ $json.company_id }}")));
        // Version 2 of the node gives librdkafka this word, and fails with the `true` that version 1 wants (scripts/n8n/files.mjs).
        assert_eq!(parameters["options"], serde_json::json!({"acks": true, "compression": "gzip"}));
    }
}

#[test]
fn no_secret_routing_or_retry_is_in_a_workflow() {
    for (path, workflow) in workflows() {
        let text = workflow.to_string();
        for banned in ["://", "dsn_rw", "password", "db_schema", "spreadsheet", "tab_pending", "tab_active", "retryOnFail", "company_config"] {
            assert!(!text.contains(banned), "{path} holds {banned}");
        }
    }
}

#[test]
fn the_code_needs_no_permission_and_reads_only_nodes_that_exist() {
    for (path, workflow) in workflows() {
        let text = workflow.to_string();
        for banned in ["require(", "process.", "$env", "fetch(", "Math.random", "import(", "$execution"] {
            assert!(!text.contains(banned), "{path} uses {banned}");
        }
        for reference in text.split("$('").skip(1) {
            let name = reference.split('\'').next().unwrap();
            node_named(&workflow, name);
        }
    }
}

#[test]
fn the_code_in_the_files_is_that_of_its_sources() {
    let sources =
        BTreeMap::from([("Group by company", "group_by_company.js"), ("Read request", "read_request.js"), ("Build requests", "build_requests.js")]);
    let mut found = 0;
    for (path, workflow) in workflows() {
        for node in of_type(&workflow, "code") {
            let name = text(node, "name");
            let source = read(&format!("workflows/n8n/code/{}", sources[name]));
            assert_eq!(text(&node["parameters"], "jsCode"), source.trim_end(), "{path}: {name} differs: run `node scripts/n8n/embed.mjs`");
            found += 1;
        }
    }
    assert_eq!(found, sources.len());
}
