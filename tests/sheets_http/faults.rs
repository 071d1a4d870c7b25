//! What goes wrong on the way, and what the gateway says about it: never "not applied" of a write that may have been.

use std::time::{Duration, Instant};

use fake_sheets::{Answer, Commit, FaultKind, Role};
use kylo::domain::sheet::Request;
use kylo::ports::{CallError, SheetGateway};

use crate::world::{BOOK, Wish, World, fence, kind, text, write};

/// A batch that can land only once.
fn batch() -> Vec<Request> {
    vec![fence(41, "intent"), write(0, 0, vec![vec![text("row")]])]
}

/// What the gateway says of a write that meets this fault, whether it landed, and how often it was sent.
async fn write_meets(fault: FaultKind, wish: Wish) -> (String, bool, usize) {
    let world = World::with(wish).await;
    // A connection that is already open, as in the middle of work.
    world.gateway.directory(&world.book).await.unwrap();
    world.fault("batchUpdate", fault);
    let result = world.apply(batch(), &[("First", 1)]).await;
    let landed = !world.model().texts(BOOK, "First").is_empty();
    let sent = world.api_calls().iter().filter(|call| call.op == "batchUpdate").count();
    (kind(&result).to_owned(), landed, sent)
}

async fn expect(fault: FaultKind, outcome: &str, landed: bool) {
    let name = format!("{fault:?}");
    assert_eq!(write_meets(fault, Wish::default()).await, (outcome.to_owned(), landed, 1), "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_never_came_is_in_doubt_and_is_sent_once() {
    for (fault, landed) in [(FaultKind::Refuse, false), (FaultKind::DropBefore, false), (FaultKind::ApplyThenDrop, true)] {
        expect(fault, "unknown", landed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_answered_with_408_409_or_5xx_is_in_doubt_whether_it_landed_or_not() {
    for answer in [Answer::Internal, Answer::Unavailable, Answer::BadGatewayHtml, Answer::TimeoutHtml, Answer::Aborted] {
        expect(FaultKind::ApplyThenAnswer { answer }, "unknown", true).await;
        expect(FaultKind::Answer { answer }, "unknown", false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_2xx_cannot_be_read_is_in_doubt() {
    for looks_whole in [false, true] {
        for keep in [0, 30] {
            expect(FaultKind::CutBody { keep, looks_whole }, "unknown", true).await;
        }
    }
    expect(FaultKind::ApplyThenAnswer { answer: Answer::OkHtml }, "unknown", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_refused_is_told_by_the_status() {
    for (answer, outcome) in [(Answer::Invalid, "refused"), (Answer::Forbidden, "forbidden"), (Answer::NotFound, "not_found")] {
        expect(FaultKind::Answer { answer }, outcome, false).await;
    }
    for answer in [Answer::TooMany, Answer::TooManyHtml] {
        expect(FaultKind::Answer { answer }, "throttled", false).await;
    }
}

#[tokio::test]
async fn a_call_that_is_not_answered_in_time_is_in_doubt_after_that_time() {
    let wish = Wish { call_timeout: Duration::from_secs(3), ..Wish::default() };
    let asked_at = Instant::now();
    let hang = FaultKind::Hang { hang_ms: 120_000, commit: Commit::OnRelease };
    assert_eq!(write_meets(hang, wish).await, ("unknown".to_owned(), false, 0), "it is logged when it ends");
    assert!(asked_at.elapsed() < Duration::from_secs(100), "{:?}", asked_at.elapsed());
}

#[tokio::test]
async fn a_request_that_is_delivered_twice_lands_once() {
    let (outcome, landed, sent) = write_meets(FaultKind::DeliverTwice { answer_second: true }, Wish::default()).await;
    assert_eq!((outcome.as_str(), landed), ("refused", true), "the fence refuses the second");
    assert!(sent >= 1);
}

#[tokio::test]
async fn a_server_that_is_not_there_was_sent_nothing() {
    let world = World::start().await;
    world.gateway.directory(&world.book).await.unwrap();
    let before = world.model().calls(0).len();
    world.model().set_online(false);
    let result = loop {
        let result = world.apply(batch(), &[]).await;
        // The open connection may be found closed only when it is used: then the outcome is unknown, as it must be.
        if kind(&result) != "unknown" {
            break result;
        }
    };
    assert_eq!(kind(&result), "not_sent", "{result:?}");
    assert_eq!(world.model().calls(0).len(), before);
    world.model().set_online(true);
    assert_eq!(kind(&world.apply(batch(), &[]).await), "ok");
}

#[tokio::test]
async fn reads_are_told_by_the_same_rules() {
    let world = World::start().await;
    for (answer, outcome) in [(Answer::Unavailable, "unknown"), (Answer::Forbidden, "forbidden"), (Answer::NotFound, "not_found")] {
        world.fault("get", FaultKind::Answer { answer });
        assert_eq!(kind(&world.read(&["First"]).await), outcome);
        world.fault("get", FaultKind::Answer { answer });
        assert_eq!(kind(&world.gateway.directory(&world.book).await), outcome);
    }
    world.fault("get", FaultKind::CutBody { keep: 20, looks_whole: true });
    assert_eq!(kind(&world.read(&["First"]).await), "unknown");
    world.fault("developerMetadata.get", FaultKind::Answer { answer: Answer::Unavailable });
    assert_eq!(kind(&world.gateway.metadata(&world.book, 1).await), "unknown", "no answer is not an absent fence");
    world.apply(vec![fence(1, "x")], &[]).await.unwrap();
    world.fault("developerMetadata.get", FaultKind::CutBody { keep: 5, looks_whole: false });
    assert_eq!(kind(&world.gateway.metadata(&world.book, 1).await), "unknown");
}

#[tokio::test]
async fn a_spreadsheet_that_is_not_shared_is_forbidden_and_a_reader_may_read() {
    let world = World::start().await;
    world.model().unshare(BOOK, world.fake.account()).unwrap();
    assert_eq!(kind(&world.gateway.directory(&world.book).await), "forbidden");
    world.model().share(BOOK, world.fake.account(), Role::Reader).unwrap();
    assert_eq!(kind(&world.read(&["First"]).await), "ok");
    assert_eq!(kind(&world.apply(batch(), &[]).await), "forbidden");
}

#[tokio::test]
async fn after_a_429_no_write_starts_before_the_pause_is_over() {
    let world = World::start().await;
    world.fault("batchUpdate", FaultKind::Answer { answer: Answer::TooMany });
    assert!(matches!(world.apply(batch(), &[]).await, Err(CallError::Throttled { .. })));
    let refused_at = Instant::now();
    assert_eq!(kind(&world.apply(batch(), &[]).await), "ok");
    assert!(refused_at.elapsed() >= Duration::from_millis(900), "{:?}", refused_at.elapsed());
}

#[tokio::test]
async fn the_gateway_makes_no_more_calls_than_the_budget_allows() {
    let window = Duration::from_millis(900);
    let world = World::with(Wish { per_minute: 2, window, ..Wish::default() }).await;
    let begun_at = Instant::now();
    for _ in 0..5 {
        world.gateway.directory(&world.book).await.unwrap();
    }
    assert!(begun_at.elapsed() >= window * 2, "{:?}", begun_at.elapsed());
    world.pool.close().await;
    let result = world.gateway.directory(&world.book).await;
    assert!(matches!(&result, Err(CallError::NotSent(reason)) if reason.contains("control database")), "{result:?}");
    assert_eq!(world.model().counts().reads, 5);
}

#[tokio::test]
async fn every_call_is_counted_by_operation_and_outcome() {
    let world = World::start().await;
    world.gateway.directory(&world.book).await.unwrap();
    world.read(&["First"]).await.unwrap();
    world.apply(batch(), &[]).await.unwrap();
    assert_eq!(kind(&world.apply(batch(), &[]).await), "refused");
    assert_eq!(world.gateway.metadata(&world.book, 99).await, Ok(None));
    let expected = [("directory", "ok"), ("read", "ok"), ("apply", "ok"), ("apply", "refused"), ("metadata", "not_found"), ("metadata", "ok")];
    assert_eq!(world.outcomes(), expected);
    assert_eq!(world.api_calls().len(), expected.len(), "one count per call");
}
