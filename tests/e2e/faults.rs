//! Answers that never come, come late, or are wrong, through the production client: each row once, each post once in the ledger (I4).

use fake_sheets::faults::{Answer, Commit};
use fake_sheets::{Fault, FaultKind};

use super::messages::{batch, row};
use super::world::{Mode, World};

/// A name for a company, and what happens to its first batchUpdate.
fn write_faults() -> Vec<(&'static str, Fault)> {
    let once = |kind| Fault::once("batchUpdate", kind);
    vec![
        ("unavailable", once(FaultKind::Answer { answer: Answer::Unavailable }).times(2)),
        ("gatewayhtml", once(FaultKind::Answer { answer: Answer::BadGatewayHtml })),
        ("refused", once(FaultKind::Refuse)),
        ("dropped", once(FaultKind::DropBefore)),
        ("appliedthendropped", once(FaultKind::ApplyThenDrop)),
        ("appliedthen503", once(FaultKind::ApplyThenAnswer { answer: Answer::Unavailable })),
        ("cutbody", once(FaultKind::CutBody { keep: 40, looks_whole: false })),
        ("cutlookswhole", once(FaultKind::CutBody { keep: 40, looks_whole: true })),
        ("late", once(FaultKind::Hang { hang_ms: 100, commit: Commit::After { ms: 1_500 } })),
        ("latenextpost", once(FaultKind::Hang { hang_ms: 100, commit: Commit::AfterWrites { writes: 1 } })),
        ("never", once(FaultKind::Hang { hang_ms: 100, commit: Commit::Never })),
        ("twice", once(FaultKind::DeliverTwice { answer_second: true })),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_whatever_becomes_of_a_post_each_row_is_on_its_tab_once_and_each_post_in_the_ledger_once() {
    let mut world = World::new().await;
    let faults = write_faults();
    let companies: Vec<&str> = faults.iter().map(|(company, _)| *company).collect();
    world.add(&companies).await;
    for (company, fault) in &faults {
        world.model().push_fault(fault.clone().for_spreadsheet(&world.place(company).spreadsheet));
    }
    world.start(&Mode::Post);
    for (n, rows) in [vec![row("t1", "-1.00", "ALPHA"), row("t2", "-2.00", "BRAVO")], vec![row("t3", "-3.00", "CHARLIE")]].into_iter().enumerate() {
        let messages: Vec<_> = companies.iter().map(|company| batch(company, &format!("b-{n}"), 0, &rows)).collect();
        let at = world.publish_all(&messages).await;
        world.consumed(&at).await;
        world.settled(&companies).await;
    }
    world
        .eventually("no request hangs any more", async || {
            let late = world.calls().iter().filter(|call| call.late).count();
            if late >= 3 && world.model().faults().is_empty() { Ok(()) } else { Err(format!("{late} late, {:?} wait", world.model().faults())) }
        })
        .await;
    for company in &companies {
        world.pending_shows(company, &["ALPHA", "BRAVO", "CHARLIE"]).await;
        world.assert_tab_equals_postgres(company).await;
        assert_eq!(world.posts(company).await, [format!("{company} Pending 2"), format!("{company} Pending 1")], "{company}: the ledger");
        let confirmed = world
            .control_number(&format!("SELECT count(*) FROM control.sheet_intents WHERE '{company}' = ANY(companies) AND state = 'confirmed'"))
            .await;
        assert_eq!(i64::try_from(world.applied(company)).unwrap(), confirmed, "{company}: what landed is what was confirmed");
    }
    let overtaken = world.calls().into_iter().filter(|call| call.late && call.spreadsheet == "sheet-latenextpost").collect::<Vec<_>>();
    assert!(overtaken.len() == 1 && !overtaken[0].applied, "a request that arrives after its successor is refused by the fence: {overtaken:?}");
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_that_is_used_up_delays_a_post_and_loses_nothing() {
    let mut world = World::new().await;
    world.add(&["710"]).await;
    world.model().push_fault(Fault::once("batchUpdate", FaultKind::Answer { answer: Answer::TooMany }));
    world.model().push_fault(Fault::once("batchUpdate", FaultKind::Answer { answer: Answer::TooManyHtml }));
    world.start(&Mode::Post);
    world.publish(&batch("710", "b-1", 0, &[row("t1", "-1.00", "ALPHA"), row("t2", "-2.00", "BRAVO")])).await;
    world.pending_shows("710", &["ALPHA", "BRAVO"]).await;
    world.settled(&["710"]).await;
    assert!(world.model().faults().is_empty(), "both refusals were met");
    assert_eq!(world.posts("710").await, ["710 Pending 2"]);
    world.end_with_zero("in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_fail_are_made_again_and_nothing_is_written_blindly() {
    let mut world = World::new().await;
    world.add(&["cut", "unavailable", "dropped"]).await;
    let faults = [
        ("cut", FaultKind::CutBody { keep: 30, looks_whole: false }),
        ("unavailable", FaultKind::Answer { answer: Answer::Unavailable }),
        ("dropped", FaultKind::DropBefore),
    ];
    for (company, kind) in faults {
        world.model().push_fault(Fault::once("read", kind).times(2).for_spreadsheet(&world.place(company).spreadsheet));
    }
    world.model().push_fault(Fault::once("token", FaultKind::Answer { answer: Answer::TokenErrorObject }));
    world.start(&Mode::Post);
    for company in ["cut", "unavailable", "dropped"] {
        world.publish(&batch(company, "b-1", 0, &[row("t1", "-1.00", "ALPHA")])).await;
        world.pending_shows(company, &["ALPHA"]).await;
        world.settled(&["cut"]).await;
        assert_eq!(world.posts(company).await, [format!("{company} Pending 1")]);
    }
    assert!(world.model().faults().is_empty(), "every fault was met: {:?}", world.model().faults());
    world.end_with_zero("in the end").await;
}
