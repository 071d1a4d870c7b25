//! Commands that look or publish, through the built binary, and the answers over HTTP: their JSON is as `schemas/cli/` says.

use kylo::runtime::Workers;
use serde_json::{Value, json};

use super::world::{ALL, Mode, World};

/// The text as JSON that is as `schemas/cli/<name>.json` says.
#[track_caller]
fn checked(name: &str, text: &str) -> Value {
    let path = format!("{}/schemas/cli/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<_> = validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{name}: {errors:?}\n{value:#}");
    value
}

impl World {
    async fn json(&self, args: &[&str], schema: &str, code: i32) -> Value {
        let run = self.kylo(args).await;
        assert_eq!(run.code, code, "{args:?}: {run:?}");
        checked(schema, &run.stdout)
    }
}

fn states(topics: &Value) -> Vec<&str> {
    topics.as_array().unwrap().iter().map(|topic| topic["state"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_made_and_compared_a_payload_is_published_and_plan_shows_what_a_post_would_write() {
    let mut world = World::without_topics().await;
    world.variables.insert("GOOGLE_APPLICATION_CREDENTIALS", world.key_file());
    world.add(&["710"]).await;
    assert_eq!(states(&world.json(&["topics", "verify", "--json"], "topics", 1).await), ["missing"; 3]);
    assert_eq!(states(&world.json(&["topics", "ensure", "--json"], "topics", 0).await), ["created"; 3]);
    assert_eq!(states(&world.json(&["topics", "verify", "--json"], "topics", 0).await), ["ok"; 3]);

    let file = tempfile::NamedTempFile::new().unwrap();
    let row = |company: &str, id: &str| json!({"company_id": company, "id": id, "date": "2025-08-26", "amount": -12.34, "description": "STARBUCKS"});
    std::fs::write(file.path(), json!({"batch_id": "b-1", "transactions": [row("710", "t1"), row("710", "t2"), row("711", "t3")]}).to_string())
        .unwrap();
    let path = file.path().display().to_string();
    let sent = world.json(&["publish", "txns", &path, "--company", "710", "--json"], "publish", 0).await;
    assert_eq!((&sent["published"][0]["company_id"], &sent["published"][0]["rows"]), (&json!("710"), &json!(2)));
    assert_eq!((sent["published"].as_array().unwrap().len(), &sent["rejected"], &sent["failed"]), (1, &json!([]), &json!([])));

    let health = world.serve_http();
    world.start_workers(&Mode::Shadow, Workers { http: Some(0), ..ALL });
    world.company_counts("710", "SELECT count(*) FROM pending_txns WHERE status = 'open'", 2).await;
    let plan = world.json(&["plan", "--company", "710", "--json"], "plan", 0).await;
    assert_eq!((&plan["company_id"], &plan["mode"]), (&json!("710"), &json!("shadow")));
    let pending = plan["tabs"].as_array().unwrap().iter().find(|tab| tab["role"] == "pending").unwrap();
    assert_eq!((&pending["exists"], &pending["appended"], &pending["problem"]), (&json!(false), &json!(2), &Value::Null));
    assert_eq!(world.model().counts().writes, 0, "plan only looks");

    let asked = world.json(&["publish", "promote", "--company", "710", "--request-id", "r-1", "--json"], "publish", 0).await;
    assert_eq!(asked["published"][0]["name"], "r-1");
    world.control_counts("SELECT count(*) FROM control.dead_letters", 0).await;

    health.is_ready(&world).await;
    for path in ["/health/live", "/health/ready", "/health/deep"] {
        let well = async || match health.get(path).await {
            Some((200, body)) => Ok(body),
            other => Err(format!("{other:?}")),
        };
        checked("health", &world.eventually(path, well).await);
    }
    let (_, version) = health.get("/version").await.unwrap();
    assert_eq!(checked("version", &version)["name"], "kylo");
    super::offsets::delete(&[&format!("{}.events", world.name)]).await;
    world.end().await;
}
