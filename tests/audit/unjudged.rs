//! What an audit could not judge is named: silence means that it was looked at.

use super::messages::{batch, row};
use super::world::{Mode, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spreadsheet_that_was_never_posted_to_is_named_and_one_that_cannot_be_read_too() {
    let mut world = World::with_partitions(1).await;
    world.add(&["750"]).await;
    let mut gone = world.usual_place("751");
    gone.spreadsheet = "sheet-751-gone".to_owned();
    world.configure(&gone).await;
    world.start(&Mode::Shadow);
    let at = world.publish(&batch("750", "b-1", 0, &[row("t1", "-1.00", "SHADOW")])).await;
    world.consumed(&[at]).await;
    world.stop().await;
    let report = world.audit().await;
    assert_eq!(report.findings, [], "{}", report.summary());
    let never = |line: &String| line.contains("the pending tab of company 750 in spreadsheet sheet-750") && line.contains("nothing was posted");
    assert!(report.not_judged.iter().any(never), "{:?}", report.not_judged);
    assert_eq!((report.tabs_judged, report.tabs_not_judged), (0, u64::try_from(report.not_judged.len()).unwrap()));
    assert!(report.incomplete.iter().any(|line| line.contains("sheet-751-gone cannot be read")), "{:?}", report.incomplete);

    // Once it is posted, it is judged.
    sqlx::query("DELETE FROM control.company_config WHERE company_id = '751'").execute(&world.control.pool).await.unwrap();
    world.start(&Mode::Post);
    world.settled(&["750"]).await;
    world.stop().await;
    let report = world.audit_is_clean("when it is posted").await;
    assert_eq!((report.tabs_judged, report.not_judged), (2, Vec::new()));
    world.end().await;
}
