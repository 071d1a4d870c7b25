//! Two consumers on one partition: the broker has given it to the second, and the first has not heard of it.

use std::time::Duration;

use kylo::faults::CrashPoint;

use crate::desk::{Desk, Owner, batch, eventually, patience, record};

pub const POINTS: [CrashPoint; 9] = [
    CrashPoint::MessageLettersWriting,
    CrashPoint::MessageLettersWritten,
    CrashPoint::HoldWriting,
    CrashPoint::HoldWritten,
    CrashPoint::DrainLeased,
    CrashPoint::DrainRead,
    CrashPoint::DrainApplied,
    CrashPoint::DrainRemoved,
    CrashPoint::DrainFinished,
];

const LEFT: &str = "SELECT count(*) FROM control.held_messages UNION ALL SELECT count(*) FROM control.company_trouble";

fn deliver(owner: &Owner) {
    owner.send(&[batch(0, 0, "a", "a1"), record(0, 1, "a", "not json"), batch(0, 2, "b", "b1"), batch(0, 3, "a", "a2")]);
}

/// The queue is drained and nobody is in trouble.
async fn over(desk: &Desk, point: CrashPoint) {
    let drained = tokio::time::timeout(patience(), async {
        loop {
            desk.retry_now().await;
            let left = desk.world.rows("a", LEFT).await;
            if left.iter().all(|n| n == "0") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    if drained.await.is_err() {
        let troubles =
            desk.world.rows("a", "SELECT company_id AS a, work AS b, state AS c, reason AS d, drain_until AS e FROM control.company_trouble").await;
        panic!("{point:?}: the queue is not drained: {:?} {troubles:?}", desk.world.rows("a", LEFT).await);
    }
}

#[tokio::test]
async fn r3_a_consumer_that_was_frozen_at_any_stage_changes_nothing_when_it_wakes() {
    for point in POINTS {
        let desk = Desk::new().await;
        desk.set(|script| script.parked.extend(["a".to_owned()]));
        let stale = desk.owner();
        let is_drain = point.as_str().starts_with("drain");
        if !is_drain {
            stale.faults.arm(point);
        }
        deliver(&stale);
        if is_drain {
            stale.stored_up_to(0, 4).await;
            stale.faults.arm(point);
            desk.set(|script| script.parked.clear());
            desk.retry_now().await;
        }
        tokio::time::timeout(Duration::from_secs(120), stale.faults.hit()).await.expect("the point is reached");
        sqlx::query("UPDATE control.company_trouble SET drain_until = now() - interval '1 s' WHERE drain_until IS NOT NULL")
            .execute(&desk.world.control)
            .await
            .unwrap();

        let successor = desk.owner();
        deliver(&successor);
        desk.set(|script| script.parked.clear());
        over(&desk, point).await;
        successor.send(&[batch(0, 4, "a", "a3"), batch(0, 5, "b", "b2")]);
        successor.stored_up_to(0, 6).await;
        over(&desk, point).await;
        let done = (desk.applied("a").await, desk.applied("b").await, desk.world.rows("a", "SELECT * FROM transactions WHERE company_id = $1").await);
        assert_eq!(
            (done.0.as_slice(), done.1.as_slice()),
            (["a1", "a2", "a3"].map(str::to_owned).as_slice(), ["b1", "b2"].map(str::to_owned).as_slice()),
            "{point:?}"
        );

        stale.faults.thaw();
        // What it has in hand it brings to an end: its letters, its queue, its offsets, which nobody reads any more.
        eventually("the frozen one to be done", async || stale.stored(0) == Some(4)).await;
        over(&desk, point).await;
        let after =
            (desk.applied("a").await, desk.applied("b").await, desk.world.rows("a", "SELECT * FROM transactions WHERE company_id = $1").await);
        assert_eq!(after, done, "{point:?}");
        assert_eq!(desk.control("SELECT count(*) FROM control.dead_letters").await, 1, "{point:?}");
        assert!(!stale.running.is_finished() && !successor.running.is_finished(), "{point:?}: a consumer has failed");
    }
}
