use std::time::Duration;

use fake_sheets::{Answer, Commit, Fault, FaultKind};
use serde_json::json;

use crate::support::{BOOK, World, append, assertion, grant, marker};

fn post(kind: FaultKind) -> Fault {
    Fault::once("batchUpdate", kind)
}

/// Waits until the condition holds, at most a minute.
async fn eventually(what: &str, world: &World, holds: impl Fn(&World) -> bool) {
    let waiting = async {
        let mut change = 0;
        while !holds(world) {
            change = world.model().change_after(change).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("{what}: {:?}", world.column()));
}

#[tokio::test]
async fn a_dropped_request_is_not_applied_and_an_applied_one_may_lose_its_answer() {
    let world = World::start().await;
    for (kind, rows) in [(FaultKind::Refuse, 0), (FaultKind::DropBefore, 0), (FaultKind::ApplyThenDrop, 1)] {
        world.model().push_fault(post(kind.clone()));
        assert!(world.batch(json!([append("x")])).await.is_none(), "{kind:?} gives no answer");
        assert_eq!(world.column().len(), rows, "{kind:?}");
    }
    assert_eq!(world.batch(json!([append("x")])).await.unwrap().status, 200, "each fault acts once");
    let calls = world.model().calls(0);
    let seen: Vec<_> = calls.iter().filter(|c| c.op == "batchUpdate").map(|c| (c.status, c.applied)).collect();
    assert_eq!(seen, [(0, false), (0, false), (0, true), (200, true)]);
}

#[tokio::test]
async fn an_applied_request_may_be_answered_with_an_error() {
    let world = World::start().await;
    for (answer, status, json) in [(Answer::Internal, 500, true), (Answer::Unavailable, 503, true), (Answer::BadGatewayHtml, 502, false)] {
        world.model().push_fault(post(FaultKind::ApplyThenAnswer { answer }));
        let got = world.batch(json!([append("x")])).await.unwrap();
        assert_eq!((got.status, got.text().starts_with('{')), (status, json), "{answer:?}");
    }
    assert_eq!(world.column().len(), 3);
}

#[tokio::test]
async fn a_refusing_answer_applies_nothing() {
    let world = World::start().await;
    for (answer, status) in [
        (Answer::Internal, 500),
        (Answer::Unavailable, 503),
        (Answer::TooMany, 429),
        (Answer::TooManyHtml, 429),
        (Answer::Unauthorized, 401),
        (Answer::Forbidden, 403),
        (Answer::NotFound, 404),
        (Answer::Aborted, 409),
    ] {
        world.model().push_fault(post(FaultKind::Answer { answer }));
        let got = world.batch(json!([append("x")])).await.unwrap();
        assert_eq!(got.status, status);
        assert_eq!(got.head.to_lowercase().contains("www-authenticate: bearer"), status == 401, "{answer:?}");
    }
    assert!(world.column().is_empty());
}

#[tokio::test]
async fn a_fault_meets_only_the_calls_it_names() {
    let world = World::start().await;
    world.model().push_fault(Fault::once("get", FaultKind::DropBefore).after(1));
    world.model().push_fault(Fault::once("write", FaultKind::DropBefore).for_spreadsheet("another"));
    assert_eq!(world.batch(json!([append("x")])).await.unwrap().status, 200);
    assert_eq!(world.get("").await.unwrap().status, 200);
    assert!(world.get("").await.is_none());
    assert_eq!(world.get("").await.unwrap().status, 200);
    assert_eq!(world.model().faults().len(), 1);
}

#[tokio::test]
async fn a_cut_body_comes_after_the_write_was_applied() {
    let world = World::start().await;
    world.model().push_fault(post(FaultKind::CutBody { keep: 12, looks_whole: false }));
    let broken = world.batch(json!([append("x")])).await.unwrap();
    assert_eq!((broken.status, broken.cut, broken.body.len()), (200, true, 12));
    world.model().push_fault(post(FaultKind::CutBody { keep: 12, looks_whole: true }));
    let short = world.batch(json!([append("y")])).await.unwrap();
    assert_eq!((short.status, short.cut, short.body.len()), (200, false, 12));
    assert_eq!(world.column(), ["x", "y"]);
}

#[tokio::test]
async fn a_request_that_hangs_can_land_after_the_next_write() {
    let world = World::start().await;
    world.model().push_fault(post(FaultKind::Hang { hang_ms: 1, commit: Commit::AfterWrites { writes: 1 } }));
    assert!(world.batch(json!([append("late")])).await.is_none());
    assert!(world.column().is_empty());
    assert_eq!(world.batch(json!([append("next")])).await.unwrap().status, 200);
    assert_eq!(world.column(), ["next", "late"]);
    let calls = world.model().calls(0);
    let late = calls.iter().find(|c| c.late).unwrap();
    assert_eq!((late.status, late.applied), (200, true));
}

#[tokio::test]
async fn a_request_that_hangs_is_refused_late_by_a_fence_that_is_taken_meanwhile() {
    let world = World::start().await;
    world.model().push_fault(post(FaultKind::Hang { hang_ms: 1, commit: Commit::OnRelease }));
    assert!(world.batch(json!([append("old plan"), marker(7, "old")])).await.is_none());
    assert_eq!(world.model().waiting(), 1);
    assert_eq!(world.batch(json!([append("new plan"), marker(7, "new")])).await.unwrap().status, 200);
    assert_eq!(world.model().release(), [400]);
    assert_eq!(world.column(), ["new plan"]);
}

#[tokio::test]
async fn a_request_that_hangs_can_land_by_itself_after_a_while_or_never() {
    let world = World::start().await;
    world.model().push_fault(post(FaultKind::Hang { hang_ms: 1, commit: Commit::Never }));
    assert!(world.batch(json!([append("lost")])).await.is_none());
    world.model().push_fault(post(FaultKind::Hang { hang_ms: 1, commit: Commit::After { ms: 20 } }));
    assert!(world.batch(json!([append("late")])).await.is_none());
    eventually("the late one lands", &world, |w| w.column() == ["late"]).await;
    assert_eq!(world.model().waiting(), 0);
}

#[tokio::test]
async fn a_client_that_gives_up_does_not_stop_the_late_commit() {
    let world = World::start().await;
    world.model().push_fault(post(FaultKind::Hang { hang_ms: 60_000, commit: Commit::OnRelease }));
    let call = world.batch(json!([append("late")]));
    let kept = async {
        while world.model().waiting() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        answer = call => panic!("it was answered: {}", answer.is_some()),
        () = kept => {}
    }
    assert_eq!(world.model().release(), [200]);
    assert_eq!(world.column(), ["late"]);
}

#[tokio::test]
async fn a_request_delivered_twice_doubles_its_rows_unless_it_carries_a_marker() {
    let world = World::start().await;
    world.model().push_fault(post(FaultKind::DeliverTwice { answer_second: false }));
    assert_eq!(world.batch(json!([append("twice")])).await.unwrap().status, 200);
    assert_eq!(world.column(), ["twice", "twice"]);
    world.model().push_fault(post(FaultKind::DeliverTwice { answer_second: true }));
    assert_eq!(world.batch(json!([append("once"), marker(4, "m")])).await.unwrap().status, 400);
    assert_eq!(world.column(), ["twice", "twice", "once"]);
}

#[tokio::test]
async fn a_delay_and_an_edit_meet_the_same_call_as_another_fault() {
    let world = World::start().await;
    world.model().push_fault(post(FaultKind::Delay { ms: 30 }));
    world.model().push_fault(post(FaultKind::ApplyThenDrop));
    let started = std::time::Instant::now();
    assert!(world.batch(json!([append("x")])).await.is_none());
    assert!(started.elapsed() >= Duration::from_millis(30));
    assert_eq!(world.model().calls(0).last().unwrap().fault.as_deref(), Some("delay+applyThenDrop"));
}

#[tokio::test]
async fn an_emulator_that_is_offline_refuses_connections_and_comes_back_on_its_port() {
    let world = World::start().await;
    world.model().set_online(false);
    let refused = async {
        while tokio::net::TcpStream::connect(world.sheets.addr()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused).await.unwrap();
    world.model().set_online(true);
    let back = async {
        while world.get("").await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), back).await.unwrap();
    assert!(world.model().book(BOOK).is_some());
}

#[tokio::test]
async fn the_token_endpoint_fails_in_each_of_its_ways() {
    let world = World::start().await;
    let ask = || async { grant(&world.sheets, &assertion(world.sheets.key(), &json!({}), false)).await };
    let fault = |answer| world.model().push_fault(Fault::once("token", FaultKind::Answer { answer }));
    fault(Answer::InvalidGrant);
    let answer = ask().await.unwrap();
    assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("invalid_grant")));
    fault(Answer::TokenErrorObject);
    let answer = ask().await.unwrap();
    assert!(answer.status == 500 && answer.json()["error"].is_object());
    fault(Answer::OkHtml);
    let answer = ask().await.unwrap();
    assert!(answer.status == 200 && answer.text().starts_with("<!DOCTYPE"));
    world.model().push_fault(Fault::once("token", FaultKind::DropBefore));
    assert!(ask().await.is_none());
    world.model().push_fault(Fault::once("token", FaultKind::ShortToken { expires_in: 5 }));
    assert_eq!(ask().await.unwrap().json()["expires_in"], 5);
    world.model().push_fault(Fault::once("token", FaultKind::Delay { ms: 20 }));
    assert_eq!(ask().await.unwrap().json()["expires_in"], 3599);
    assert_eq!(world.model().counts().tokens, 7, "the one of the start included");
}
