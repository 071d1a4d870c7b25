//! The commands that a person runs about tabs: `kylo sheets verify` and `repair`, `kylo company take-over`. The built binary against real Postgres and
//! the emulator of the Sheets API; what their passes promise is in tests/post_support/mend.rs.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "support/database.rs"]
#[expect(dead_code, reason = "shared with tests that use all of it")]
mod database;
#[path = "support/operator.rs"]
#[expect(dead_code, reason = "shared with tests that use all of it")]
mod operator;

use fake_sheets::Edit;
use operator::{Desk, Mode};
use serde_json::{Value, json};

fn states(report: &Value) -> Vec<(String, String)> {
    let text = |tab: &Value, field: &str| tab[field].as_str().unwrap().to_owned();
    report["tabs"].as_array().unwrap().iter().map(|tab| (text(tab, "company_id"), text(tab, "state"))).collect()
}

fn of(company: &str, states: [&str; 2]) -> Vec<(String, String)> {
    states.iter().map(|state| (company.to_owned(), (*state).to_owned())).collect()
}

#[tokio::test]
async fn verify_tells_each_tab_from_postgres_and_writes_nothing_not_even_when_posting() {
    let desk = Desk::new(&["710", "711"]).await;
    desk.pending("710", &["STARBUCKS", "UBER"]).await;
    let report = desk.kylo(Mode::Shadow, &["sheets", "verify", "--json"]).await.exits(1).json("sheets");
    assert_eq!(states(&report), [of("710", ["differs", "not_made"]), of("711", ["not_made", "not_made"])].concat());
    assert_eq!(report["tabs"][0]["append"], json!(2));
    desk.kylo(Mode::Post, &["sheets", "repair"]).await.exits(0);
    let report = desk.kylo(Mode::Shadow, &["sheets", "verify", "--json"]).await.exits(0).json("sheets");
    assert!(report["tabs"].as_array().unwrap().iter().all(|tab| tab["state"] == "equal"), "{report}");

    let written = desk.writes();
    desk.edit(&[Edit::SetCell { tab: "710 Pending".into(), cell: "C2".to_owned(), typed: "CHANGED".to_owned() }]);
    for mode in [Mode::Shadow, Mode::Post] {
        let run = desk.kylo(mode, &["sheets", "verify", "--company", "710"]).await.exits(1);
        assert!(run.stdout.contains("DIFFERS"), "{run:?}");
    }
    assert_eq!(desk.writes(), written);
    desk.kylo(Mode::Shadow, &["sheets", "verify", "--company", "711"]).await.exits(0);
    desk.kylo(Mode::Shadow, &["sheets", "verify", "--company", "999"]).await.exits(1);
}

#[tokio::test]
async fn repair_posts_the_difference_through_the_ledger_and_is_refused_in_shadow() {
    let desk = Desk::new(&["710"]).await;
    desk.pending("710", &["STARBUCKS", "UBER"]).await;
    desk.kylo(Mode::Post, &["sheets", "repair"]).await.exits(0);
    let first = desk.rows("710 Pending")[0][2].clone();
    desk.edit(&[
        Edit::SetCell { tab: "710 Pending".into(), cell: "C2".to_owned(), typed: "CHANGED".to_owned() },
        Edit::SetCell { tab: "710 Pending".into(), cell: "F2".to_owned(), typed: "OPEX".to_owned() },
        Edit::DeleteRows { tab: "710 Pending".into(), at: 2, count: 1 },
    ]);
    let written = desk.writes();
    for args in [&["sheets", "repair"][..], &["sheets", "repair", "--company", "710"]] {
        let run = desk.kylo(Mode::Shadow, args).await.exits(1);
        assert!(run.stderr.contains("in shadow") && run.stderr.contains("KYLO_SHEETS_POST=1"), "{run:?}");
    }
    let outside = desk.kylo(Mode::Canary("711"), &["sheets", "repair", "--company", "710"]).await.exits(1);
    assert!(outside.stderr.contains("KYLO_SHEETS_POST_COMPANIES"), "{outside:?}");
    assert_eq!(desk.writes(), written);

    let report = desk.kylo(Mode::Post, &["sheets", "repair", "--company", "710", "--json"]).await.exits(0).json("sheets");
    assert_eq!(states(&report), of("710", ["equal", "equal"]));
    let rows = desk.rows("710 Pending");
    let mut shown: Vec<_> = rows.iter().map(|row| (row[2].as_str(), row[5].as_str())).collect();
    shown.sort_unstable();
    let of_row = |source| (source, if source == first { "OPEX" } else { "" });
    assert_eq!(shown, ["STARBUCKS", "UBER"].map(of_row), "what was typed stays");
    assert_eq!(desk.posts().await, 2);
    desk.kylo(Mode::Post, &["sheets", "repair"]).await.exits(0);
    assert_eq!(desk.posts().await, 2, "nothing to do is no post");
}

#[tokio::test]
async fn headers_that_are_missing_or_there_twice_come_back_on_request() {
    let desk = Desk::new(&["710"]).await;
    desk.pending("710", &["STARBUCKS"]).await;
    desk.kylo(Mode::Post, &["sheets", "repair"]).await.exits(0);
    let header = desk.header("710 Pending");
    for cells in [vec![("C1", "")], vec![("K1", "Source")], vec![("G1", "target header"), ("I1", "")]] {
        let edits =
            cells.iter().map(|(cell, typed)| Edit::SetCell { tab: "710 Pending".into(), cell: (*cell).to_owned(), typed: (*typed).to_owned() });
        desk.edit(&[Edit::InsertColumns { tab: "710 Pending".into(), at: 10, count: 1 }]);
        desk.edit(&edits.collect::<Vec<_>>());
        let unusable = desk.kylo(Mode::Post, &["sheets", "repair"]).await.exits(1);
        assert!(unusable.stdout.contains("UNUSABLE") && unusable.stderr.contains("--headers"), "{unusable:?}");
        assert!(unusable.stderr.contains("0 spreadsheet(s) were equal already, 1 tab(s) cannot be used"), "{unusable:?}");
        desk.kylo(Mode::Post, &["sheets", "repair", "--headers"]).await.exits(0);
        assert_eq!(desk.header("710 Pending")[..10], header[..10], "{cells:?}");
        assert_eq!(desk.rows("710 Pending")[0][2], "STARBUCKS");
    }
    assert_eq!(desk.header("710 Pending").iter().filter(|text| text.as_str() == "Source").count(), 1);
    let set = |typed: &str| Edit::SetCell { tab: "710 Pending".into(), cell: "C1".to_owned(), typed: typed.to_owned() };
    desk.edit(&[set("Merchant")]);
    let unsure = desk.kylo(Mode::Post, &["sheets", "repair", "--headers"]).await.exits(1);
    assert!(
        unsure.stdout.contains("row 1 lacks Source; where it belongs stands column C with \"Merchant\""),
        "what stands there is named: {unsure:?}"
    );
    desk.edit(&[set("Source")]);
    desk.edit(&[Edit::DeleteColumns { tab: "710 Pending".into(), at: 0, count: 1 }]);
    let refused = desk.kylo(Mode::Post, &["sheets", "repair", "--headers"]).await.exits(1);
    assert!(refused.stdout.contains("UNUSABLE"), "the key column cannot be made up: {refused:?}");
}

#[tokio::test]
async fn a_take_over_shows_whose_spreadsheet_it_is_and_does_it_only_with_yes_and_not_in_shadow() {
    let mut desk = Desk::new(&["710"]).await;
    desk.pending("710", &["STARBUCKS"]).await;
    assert!(desk.kylo(Mode::Shadow, &["company", "take-over", "710"]).await.exits(0).stdout.contains("belongs to nobody"));
    desk.kylo(Mode::Post, &["sheets", "repair"]).await.exits(0);
    assert!(desk.kylo(Mode::Shadow, &["company", "take-over", "710"]).await.exits(0).stdout.contains("this environment"));

    desk.environment = "staging";
    let parked = desk.kylo(Mode::Post, &["sheets", "repair"]).await.exits(0);
    assert!(desk.trouble().await.contains("kylo company take-over"), "{parked:?}");
    let written = desk.writes();
    let dry = desk.kylo(Mode::Post, &["company", "take-over", "710"]).await.exits(0);
    assert!(dry.stdout.contains("belongs to environment \"default\", last posted to at 20") && dry.stderr.contains("--yes"), "{dry:?}");
    let shadow = desk.kylo(Mode::Shadow, &["company", "take-over", "710", "--yes"]).await.exits(1);
    assert!(shadow.stderr.contains("in shadow"), "{shadow:?}");
    assert_eq!(desk.writes(), written);

    let taken = desk.kylo(Mode::Post, &["company", "take-over", "710", "--yes"]).await.exits(0);
    assert!(taken.stdout.contains("belongs to environment \"staging\" now"), "{taken:?}");
    assert_eq!(desk.trouble().await, "");
    desk.environment = "default";
    let dry = desk.kylo(Mode::Post, &["company", "take-over", "710"]).await.exits(0);
    assert!(dry.stdout.contains("belongs to environment \"staging\""), "{dry:?}");
    desk.kylo(Mode::Post, &["company", "take-over", "999"]).await.exits(1);
}
