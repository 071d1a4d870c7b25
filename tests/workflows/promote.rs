//! The promote workflow's code: who is asked for, and the messages.

use kylo::domain::clock::{Clock, SystemClock};
use kylo::flow::decode::{DecodedPromote, RawMessage, decode_promote};
use serde_json::{Value, json};

use crate::complaints;
use crate::node::{Work, run, run_one};

fn webhook(body: &Value) -> Value {
    json!({"headers": {}, "params": {}, "query": {}, "body": body})
}

#[test]
fn the_button_asks_for_everyone_and_the_webhook_for_whom_it_names() {
    for (json, company, request) in [
        (json!({}), "", json!(null)),
        (webhook(&json!({"all": true})), "", json!(null)),
        (webhook(&json!({"company_id": "710"})), "710", json!(null)),
        (webhook(&json!({"company_id": 710, "request_id": "r-1"})), "710", json!("r-1")),
        (webhook(&json!({"company_id": "__proto__", "all": false})), "__proto__", json!(null)),
    ] {
        assert_eq!(run_one(Work::read_request(&json)), json!({"ok": true, "company_id": company, "request_id": request}), "{json}");
    }
}

#[test]
fn a_request_that_names_nobody_is_a_400_and_never_means_everyone() {
    let bodies = [json!({}), json!([]), json!("710"), json!(null), json!({"company": "710"}), json!({"company_id": ""}), json!({"company_id": null})];
    let more = [json!({"company_id": ["710"]}), json!({"all": "yes"}), json!({"all": 1}), json!({"all": true, "company_id": "710"})];
    let ids = [json!({"all": true, "request_id": ""}), json!({"all": true, "request_id": 5}), json!({"all": true, "request_id": "x".repeat(201)})];
    let works: Vec<Work> = bodies.iter().chain(&more).chain(&ids).map(|body| Work::read_request(&webhook(body))).collect();
    for (answer, body) in run(&works).iter().zip(bodies.iter().chain(&more).chain(&ids)) {
        assert_eq!((&answer["ok"], &answer["status"]), (&json!(false), &json!(400)), "{body}");
        assert_eq!((&answer["answer"]["ok"], &answer["answer"]["items_published"]), (&json!(false), &json!(0)), "{body}");
    }
}

#[test]
fn each_company_gets_one_message_that_kylo_takes() {
    let request = json!({"company_id": "", "request_id": "r-1"});
    let answer = run_one(Work::build_requests(&request, &["710", "a\"b 漢", "__proto__"]));
    assert_eq!(answer["answer"], json!({"ok": true, "items_published": 3, "companies": ["710", "a\"b 漢", "__proto__"]}));
    for message in answer["messages"].as_array().unwrap() {
        let (company, payload) = (message["company_id"].as_str().unwrap(), message["payload"].as_str().unwrap());
        let value: Value = serde_json::from_str(payload).unwrap();
        assert_eq!(complaints("schemas/promote_rules.v1.schema.json", &value), Vec::<String>::new());
        assert_eq!(value["meta"], json!({"producer": "n8n@promote"}));
        let raw = RawMessage { payload: Some(payload.as_bytes()), key: Some(company.as_bytes()), topic: "t", partition: 0, offset: 0 };
        let Ok(DecodedPromote::Request { request, counts, .. }) = decode_promote(&raw, SystemClock.now()) else { panic!("{payload}") };
        assert_eq!((request.company_id.as_str(), request.request_key.as_str(), counts.unknown_fields), (company, "r-1", 0));
    }
}

#[test]
fn an_unknown_company_is_a_404_and_so_is_an_empty_list() {
    for (company, part) in [("999", "\"999\" is not configured"), ("", "no company is configured")] {
        let answer = run_one(Work::build_requests(&json!({"company_id": company, "request_id": null}), &[]));
        assert_eq!((&answer["status"], &answer["messages"], &answer["answer"]["ok"]), (&json!(404), &json!([]), &json!(false)));
        assert!(answer["answer"]["error"].as_str().unwrap().contains(part), "{answer}");
    }
}
