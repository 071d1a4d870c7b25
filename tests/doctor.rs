//! `kylo doctor`: each cause of trouble is provoked and must be named, with what to do, without hiding the state of everything else. The built binary
//! against real Postgres, the usual broker and the emulator of the Sheets API; the causes on a secured wire are in tests/wire.rs.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "support/database.rs"]
#[expect(dead_code, reason = "shared with tests that use all of it")]
mod database;
#[path = "support/operator.rs"]
#[expect(dead_code, reason = "shared with tests that use all of it")]
mod operator;

use fake_sheets::faults::Answer;
use fake_sheets::{Edit, Fault, FaultKind, Role};
use operator::{BOOK, Desk, Mode, Run};
use serde_json::Value;

/// A desk with topics of its own on the usual broker.
async fn desk(companies: &[&str]) -> Desk {
    let mut desk = Desk::new(companies).await;
    let name = uuid::Uuid::new_v4().simple().to_string();
    let broker = database::variable("KAFKA_BROKERS").expect("KAFKA_BROKERS is not set: run scripts/up.sh, which writes it to .local/env");
    desk.variables = vec![
        ("KAFKA_BROKERS", broker),
        ("KAFKA_TOPIC_TXNS", format!("{name}.txns")),
        ("KAFKA_TOPIC_PROMOTE", format!("{name}.promote")),
        ("KAFKA_TOPIC_EVENTS", format!("{name}.events")),
    ];
    desk
}

/// Without a broker: what is asked does not need one.
async fn without_broker(companies: &[&str]) -> Desk {
    Desk::new(companies).await
}

/// The failed checks: name and class.
fn failures(report: &Value) -> Vec<(String, String)> {
    let failed = report["checks"].as_array().unwrap().iter().filter(|check| check["state"] == "failed");
    failed
        .map(|check| {
            assert!(check["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "a failure says what to do: {check}");
            (check["name"].as_str().unwrap().to_owned(), check["class"].as_str().unwrap().to_owned())
        })
        .collect()
}

async fn report(desk: &Desk, mode: Mode, code: i32) -> (Value, Run) {
    let run = desk.kylo(mode, &["doctor", "--json"]).await.exits(code);
    (run.json("doctor"), run)
}

/// The classes of the failures of this check.
fn classes(report: &Value, name: &str) -> Vec<String> {
    failures(report).into_iter().filter(|(of, _)| of == name).map(|(_, class)| class).collect()
}

#[tokio::test]
async fn where_everything_works_every_line_is_ok_and_nothing_is_changed() {
    let desk = desk(&["710"]).await;
    let (missing, _) = report(&desk, Mode::Shadow, 1).await;
    assert_eq!(classes(&missing, "kafka topic"), ["topic_missing"; 3], "{missing:#}");
    assert!(missing.to_string().contains("kylo topics ensure"));
    desk.kylo(Mode::Shadow, &["topics", "ensure"]).await.exits(0);
    desk.pending("710", &["STARBUCKS"]).await;
    desk.kylo(Mode::Post, &["sheets", "repair"]).await.exits(0);
    for mode in [Mode::Shadow, Mode::Post] {
        let (good, _) = report(&desk, mode, 0).await;
        assert_eq!(good["ok"], true);
        for name in [
            "kafka dns",
            "kafka tcp",
            "kafka protocol",
            "kafka topic",
            "kafka group",
            "kafka advertised",
            "control database",
            "control schema",
            "company schema",
        ] {
            assert!(good["checks"].as_array().unwrap().iter().any(|check| check["name"] == name && check["state"] == "ok"), "{name}: {good:#}");
        }
    }
    let text = desk.kylo(Mode::Post, &["doctor", "--company", "710"]).await.exits(0);
    assert!(text.stdout.lines().count() > 12 && text.stdout.contains("may edit it"), "{text:?}");
    let report = desk.kylo(Mode::Shadow, &["sheets", "verify"]).await;
    assert_eq!(report.code, 0, "the doctor has changed no tab: {report:?}");
}

#[tokio::test]
async fn a_broker_that_is_away_or_no_broker_is_named_and_hides_nothing_else() {
    let mut desk = without_broker(&["710"]).await;
    let (away, _) = report(&desk, Mode::Shadow, 1).await;
    assert_eq!(failures(&away), [("kafka tcp".to_owned(), "connection".to_owned())], "{away:#}");
    desk.variables = vec![("KAFKA_BROKERS", "no-such-host.invalid:9092".to_owned())];
    assert_eq!(classes(&report(&desk, Mode::Shadow, 1).await.0, "kafka dns"), ["dns"]);
    // An HTTP server is no broker.
    let port = desk.sheets.addr().port();
    desk.variables = vec![("KAFKA_BROKERS", format!("127.0.0.1:{port}"))];
    let (other, _) = report(&desk, Mode::Shadow, 1).await;
    assert_eq!(failures(&other).len(), 1, "{other:#}");
    assert_eq!(failures(&other)[0].0, "kafka protocol");
}

#[tokio::test]
async fn each_fault_of_a_database_is_told_apart_and_no_password_is_shown() {
    let mut desk = without_broker(&["710"]).await;
    let mut url = url::Url::parse(&desk.control.dsn).unwrap();
    let good = desk.control.dsn.clone();
    url.set_path("/no_such_database");
    let missing = url.to_string();
    url.set_password(Some("hunter2")).unwrap();
    let wrong = url.to_string();
    for (dsn, class) in [(wrong.as_str(), "authentication"), (&missing, "database_missing"), ("postgres://u:hunter2@127.0.0.1:1/x", "connection")] {
        desk.variables = vec![("PG_DSN_RW", dsn.to_owned())];
        let (broken, run) = report(&desk, Mode::Shadow, 1).await;
        assert_eq!(classes(&broken, "control database"), [class], "{broken:#}");
        assert!(!format!("{run:?}").contains("hunter2"), "{run:?}");
    }
    desk.variables = vec![("PG_DSN_RW", good)];
    desk.company("711", &wrong).await;
    desk.company("712", "postgres://u:hunter2@127.0.0.1:1/x").await;
    sqlx::raw_sql("UPDATE control.company_config SET tab_active = '' WHERE company_id = '710'").execute(&desk.control.pool).await.unwrap();
    let (broken, run) = report(&desk, Mode::Shadow, 1).await;
    assert_eq!(classes(&broken, "company database"), ["authentication", "connection"], "{broken:#}");
    assert_eq!(classes(&broken, "company row"), ["company"]);
    assert!(!format!("{run:?}").contains("hunter2"), "{run:?}");
    sqlx::raw_sql(
        "UPDATE control.company_config SET tab_active = '710 Active' WHERE company_id = '710'; DELETE FROM control.company_config WHERE company_id <> '710';
         DELETE FROM app_710.schema_migrations",
    )
    .execute(&desk.control.pool)
    .await
    .unwrap();
    let (broken, _) = report(&desk, Mode::Shadow, 1).await;
    assert_eq!(classes(&broken, "company schema"), ["schema"]);
    assert!(broken.to_string().contains("kylo migrate"));
    sqlx::raw_sql("DELETE FROM control.schema_migrations").execute(&desk.control.pool).await.unwrap();
    assert_eq!(classes(&report(&desk, Mode::Shadow, 1).await.0, "control schema"), ["schema"]);
}

#[tokio::test]
async fn each_fault_of_google_is_told_apart() {
    let mut desk = without_broker(&["710"]).await;
    desk.pending("710", &["STARBUCKS"]).await;
    desk.kylo(Mode::Post, &["sheets", "repair"]).await.exits(0);
    let model = desk.sheets.model().clone();
    let account = desk.sheets.account().to_owned();
    let google = async |desk: &Desk, mode: Mode| {
        let (report, _) = report(desk, mode, 1).await;
        failures(&report).into_iter().filter(|(name, _)| !name.starts_with("kafka")).collect::<Vec<_>>()
    };
    let one = |name: &str, class: &str| vec![(name.to_owned(), class.to_owned())];
    assert_eq!(google(&desk, Mode::Post).await, []);

    let answers = [
        (Answer::Forbidden, "spreadsheet shared", "not_shared"),
        (Answer::NotFound, "spreadsheet shared", "not_found"),
        (Answer::TooMany, "quota", "quota"),
    ];
    for (answer, name, class) in answers {
        model.push_fault(Fault::once("get", FaultKind::Answer { answer }).always());
        assert_eq!(google(&desk, Mode::Shadow).await, one(name, class));
        model.clear_faults();
    }
    model.push_fault(Fault::once("token", FaultKind::Answer { answer: Answer::InvalidGrant }).always());
    assert_eq!(google(&desk, Mode::Shadow).await, one("google credentials", "credentials"));
    model.clear_faults();

    model.share(BOOK, &account, Role::Reader).unwrap();
    assert_eq!(google(&desk, Mode::Post).await, one("spreadsheet shared", "not_shared"), "a reader is no editor");
    model.share(BOOK, &account, Role::Writer).unwrap();

    desk.edit(&[Edit::SetCell { tab: "710 Pending".into(), cell: "C1".to_owned(), typed: String::new() }]);
    let (report, _) = report(&desk, Mode::Shadow, 1).await;
    assert_eq!(classes(&report, "tab and headers"), ["header"]);
    assert!(report.to_string().contains("Source") && report.to_string().contains("kylo sheets repair --company 710 --headers"), "{report:#}");
    desk.kylo(Mode::Post, &["sheets", "repair", "--headers"]).await.exits(0);

    desk.environment = "staging";
    assert_eq!(google(&desk, Mode::Post).await, one("spreadsheet owner", "other_environment"));
    desk.environment = "default";
    std::fs::write(desk.key_file(), "{}").unwrap();
    assert_eq!(google(&desk, Mode::Shadow).await, one("google credentials", "credentials"));
}
