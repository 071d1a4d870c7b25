//! The poster with the production client against the Sheets API emulator, over HTTP.

use std::sync::Arc;

use fake_sheets::{Answer, Commit, Edit, FakeSheets, Fault, FaultKind, Handle, Options, Role, Tab};
use kylo::adapters::sheets::{GoogleSheets, KeyFile, SheetsOptions, endpoint};
use kylo::store::control::budget::Budget;

use crate::post_support::world::{SHEET, World};

struct Google {
    world: World,
    fake: Handle,
    _key: tempfile::TempDir,
}

async fn google(companies: &[&str]) -> Google {
    let key = tempfile::tempdir().unwrap();
    let path = key.path().join("key.json");
    let fake = FakeSheets::start(Options { key_file: Some(path.clone()), ..Options::default() }).await.unwrap();
    fake.model().create_spreadsheet(Some(SHEET), "Books", &["Sheet1"]).unwrap();
    fake.model().share(SHEET, fake.account(), Role::Writer).unwrap();
    let mut world = World::new(companies).await;
    let key_file = KeyFile::open(&path).unwrap();
    let budget = Arc::new(Budget::new(world.pool.clone(), key_file.client_email(), 600, 600));
    let options = SheetsOptions::new(endpoint(&fake.url()).unwrap(), key_file, budget, Arc::new(|_, _| ()));
    world.gateway = Arc::new(GoogleSheets::new(options).unwrap());
    world.emulator = Some(fake.model().clone());
    Google { world, fake, _key: key }
}

fn pending() -> Tab {
    Tab::Title("710 Pending".to_owned())
}

fn set(cell: &str, typed: &str) -> Edit {
    Edit::SetCell { tab: pending(), cell: cell.to_owned(), typed: typed.to_owned() }
}

/// Each landed post is in the ledger once, and the fence has an entry for each.
async fn assert_exactly_once(google: &Google, what: &str) {
    let world = &google.world;
    world.assert_equal("710").await;
    let landed = "SELECT count(*) FROM control.sheet_intents, jsonb_array_elements(tabs) t WHERE state = 'confirmed' AND (t->>'row_count')::int > 0";
    assert_eq!(world.count("SELECT count(*) FROM control.sheet_posts").await, world.count(landed).await, "{what}");
    assert_eq!(
        world.pending("710").texts("Source").len() as i64,
        world.count("SELECT count(*) FROM app_710.pending_txns WHERE status = 'open'").await,
        "{what}"
    );
}

#[tokio::test]
async fn the_tabs_look_as_promised_and_are_posted_once() {
    let google = google(&["710", "711"]).await;
    let world = &google.world;
    world.add("710", "a", "=cmd|' /C calc'!A0", -1234).await;
    world.add("710", "b", &"long ".repeat(12_000), i64::MAX).await;
    world.add("711", "c", "WALMART", 4567).await;
    world.rules("710", &[("STARBUCKS", "OPEX", "COFFEE")], 1).await;
    world.settle().await;
    let tab = google.fake.model().tab(SHEET, "710 Pending").unwrap();
    assert_eq!((tab.frozen_rows, tab.hidden_columns.as_slice()), (1, [0].as_slice()));
    let row = &tab.cells[1];
    assert_eq!((row[2].kind, row[2].shown.as_str()), ("text", "=cmd|' /C calc'!A0"));
    assert_eq!((row[4].kind, row[8].checkbox), ("number", true));
    assert_eq!(tab.cells[2][4].shown, "92233720368547758.07");
    assert!(google.fake.model().tab(SHEET, "_kylo").unwrap().hidden);
    assert_eq!(world.grid("710 Active").texts("Source"), ["STARBUCKS"]);
    world.assert_equal("710").await;
    world.assert_equal("711").await;
    let writes = google.fake.model().counts();
    world.sql("710", "UPDATE company_state SET seq = seq + 1, pending_seq = seq + 1, active_seq = seq + 1").await;
    world.settle().await;
    assert_eq!(google.fake.model().counts().writes, writes.writes, "what is equal is not written");
}

#[tokio::test]
async fn whatever_becomes_of_an_answer_the_rows_arrive_exactly_once() {
    let google = google(&["710"]).await;
    let world = &google.world;
    world.add("710", "first", "FIRST", 1).await;
    world.settle().await;
    let answers = [Answer::Internal, Answer::Unavailable, Answer::BadGatewayHtml, Answer::TimeoutHtml, Answer::Aborted, Answer::OkHtml];
    let mut kinds: Vec<FaultKind> = vec![
        FaultKind::Refuse,
        FaultKind::DropBefore,
        FaultKind::ApplyThenDrop,
        FaultKind::CutBody { keep: 10, looks_whole: true },
        FaultKind::CutBody { keep: 10, looks_whole: false },
        FaultKind::DeliverTwice { answer_second: false },
        FaultKind::DeliverTwice { answer_second: true },
        FaultKind::Hang { hang_ms: 50, commit: Commit::Never },
        FaultKind::Hang { hang_ms: 50, commit: Commit::AfterWrites { writes: 1 } },
        FaultKind::Hang { hang_ms: 50, commit: Commit::After { ms: 0 } },
        FaultKind::Answer { answer: Answer::Unauthorized },
    ];
    kinds.extend(answers.into_iter().flat_map(|answer| [FaultKind::Answer { answer }, FaultKind::ApplyThenAnswer { answer }]));
    for (n, kind) in kinds.into_iter().enumerate() {
        let what = format!("{kind:?}");
        world.add("710", &format!("t{n}"), &format!("ROW {n}"), n as i64).await;
        google.fake.model().push_fault(Fault::once("batchUpdate", kind));
        assert_exactly_once(&google, &what).await;
        assert!(google.fake.model().faults().is_empty(), "{what}: the fault was met");
    }
}

#[tokio::test]
async fn reads_that_fail_and_a_used_up_quota_delay_a_post_and_lose_nothing() {
    let google = google(&["710"]).await;
    let world = &google.world;
    for (n, answer) in [Answer::Unavailable, Answer::TooMany, Answer::BadGatewayHtml].into_iter().enumerate() {
        for on in ["read", "batchUpdate"] {
            world.add("710", &format!("{on}{n}"), &format!("{on} {n}"), 1).await;
            google.fake.model().push_fault(Fault::once(on, FaultKind::Answer { answer }));
            assert_exactly_once(&google, &format!("{answer:?} on {on}")).await;
        }
    }
}

#[tokio::test]
async fn edits_between_read_and_write_are_healed() {
    let google = google(&["710"]).await;
    let world = &google.world;
    for (id, description) in [("a", "STARBUCKS"), ("b", "WALMART"), ("c", "UBER"), ("d", "EBAY")] {
        world.add("710", id, description, 100).await;
    }
    world.settle().await;
    google.fake.model().edit(SHEET, &[set("F2", "KEEP1"), set("G4", "KEEP2"), set("I4", "TRUE")]).unwrap();
    let sort = |by: &str| Edit::SortRange { tab: pending(), range: "A2:J6".to_owned(), by: by.to_owned(), descending: true };
    let edits: Vec<Vec<Edit>> = vec![
        vec![sort("C")],
        vec![Edit::InsertRows { tab: pending(), at: 2, count: 3 }],
        vec![Edit::DeleteRows { tab: pending(), at: 2, count: 1 }],
        vec![Edit::CopyRow { tab: pending(), at: 2, to: 3 }],
        vec![
            Edit::RenameTab { tab: pending(), to: "710 pending!".to_owned() },
            Edit::RenameTab { tab: Tab::Title("710 pending!".to_owned()), to: "710 Pending".to_owned() },
        ],
        vec![Edit::InsertColumns { tab: pending(), at: 2, count: 1 }],
    ];
    for (n, edits) in edits.into_iter().enumerate() {
        world.add("710", &format!("n{n}"), &format!("NEW {n}"), 5).await;
        if n == 0 {
            world.resolve("710", "EBAY").await;
        }
        google.fake.model().push_fault(Fault::once("batchUpdate", FaultKind::Edit { edits: edits.clone() }));
        assert_exactly_once(&google, &format!("{edits:?}")).await;
        let tab = world.pending("710");
        assert_eq!(tab.text(tab.row_of("STARBUCKS"), "Target_Sheet"), "KEEP1", "{edits:?}");
        assert_eq!(tab.text(tab.row_of("UBER"), "Target_Header"), "KEEP2", "{edits:?}");
    }
}

#[tokio::test]
async fn a_batch_that_arrives_after_its_successors_have_pruned_its_fence_is_refused() {
    let google = google(&["710"]).await;
    let world = &google.world;
    world.add("710", "a", "A", 1).await;
    world.settle().await;
    world.add("710", "late", "LATE", 1).await;
    google.fake.model().push_fault(Fault::once("batchUpdate", FaultKind::Hang { hang_ms: 20, commit: Commit::AfterWrites { writes: 103 } }));
    for n in 0..105 {
        world.add("710", &format!("n{n}"), &format!("ROW {n}"), n).await;
        world.post().await;
        world.clock.advance(std::time::Duration::from_secs(10));
    }
    assert_exactly_once(&google, "late and pruned").await;
}

#[tokio::test]
async fn an_unshared_spreadsheet_is_parked_and_posted_once_it_is_shared() {
    let google = google(&["710"]).await;
    let world = &google.world;
    world.add("710", "a", "A", 1).await;
    google.fake.model().unshare(SHEET, google.fake.account()).unwrap();
    assert_eq!(world.post().await.parked, 1);
    assert!(world.text("SELECT reason FROM control.spreadsheets").await.contains("share"));
    google.fake.model().share(SHEET, google.fake.account(), Role::Writer).unwrap();
    world.clock.advance(std::time::Duration::from_secs(901));
    assert_exactly_once(&google, "shared again").await;
}
