//! The token endpoint at its worst: no call ever goes out without a token, and no caller ever asks for one that is on its way.

use std::path::PathBuf;
use std::time::Duration;

use fake_sheets::{Answer, Fault, FaultKind, Role};
use futures::future::join_all;
use kylo::adapters::sheets::{GoogleSheets, KeyFile, SetupError, SheetsOptions, endpoint};
use kylo::ports::{CallError, SheetGateway};

use crate::world::{BOOK, Wish, World, kind};

async fn directories(world: &World, n: usize) -> Vec<&'static str> {
    join_all((0..n).map(|_| world.gateway.directory(&world.book))).await.iter().map(kind).collect()
}

fn key_path(world: &World) -> PathBuf {
    world.folder.path().join("key.json")
}

/// The text of a failure, which must not hold what the key file and the endpoint hold.
fn not_sent(world: &World, result: Result<kylo::domain::sheet::Observed, CallError>) -> String {
    let Err(CallError::NotSent(reason)) = result else { panic!("{result:?}") };
    for secret in ["PRIVATE", "assertion", "ya29", world.fake.key()["private_key"].as_str().unwrap()] {
        assert!(!reason.contains(secret), "{reason}");
    }
    reason
}

#[tokio::test]
async fn callers_at_once_share_one_token_request_and_later_ones_its_token() {
    let world = World::start().await;
    assert_eq!(directories(&world, 8).await, ["ok"; 8]);
    assert_eq!(directories(&world, 2).await, ["ok"; 2]);
    assert_eq!(world.model().counts().tokens, 1);
    assert!(world.api_calls().iter().all(|call| call.account == world.fake.account()));
}

#[tokio::test]
async fn a_token_answer_that_is_no_token_is_asked_again_and_nothing_is_sent_without_one() {
    for answer in [Answer::TokenErrorObject, Answer::Unavailable, Answer::BadGatewayHtml, Answer::OkHtml] {
        let world = World::start().await;
        world.fault("token", FaultKind::Answer { answer });
        assert_eq!(directories(&world, 3).await, ["ok"; 3], "{answer:?}");
        assert_eq!(world.model().counts().tokens, 2, "{answer:?}");
        assert!(world.api_calls().iter().all(|call| !call.account.is_empty()), "{answer:?}");
    }
}

#[tokio::test]
async fn a_token_answer_that_is_cut_or_dropped_is_asked_again() {
    for fault in [FaultKind::CutBody { keep: 20, looks_whole: true }, FaultKind::DropBefore, FaultKind::Refuse] {
        let world = World::start().await;
        world.fault("token", fault.clone());
        assert_eq!(directories(&world, 1).await, ["ok"], "{fault:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_stays_broken_is_given_up_once_for_all_who_wait() {
    let world = World::start().await;
    world.model().push_fault(Fault::once("token", FaultKind::Answer { answer: Answer::TokenErrorObject }).always());
    assert_eq!(directories(&world, 8).await, ["not_sent"; 8]);
    assert_eq!(world.model().counts().tokens, 3, "three attempts, shared");
    assert!(world.api_calls().is_empty());
    let reason = not_sent(&world, world.gateway.directory(&world.book).await);
    assert!(reason.contains(world.fake.account()), "{reason}");
    assert_eq!(world.model().counts().tokens, 6, "who comes later tries anew");
    world.model().clear_faults();
    assert_eq!(directories(&world, 1).await, ["ok"], "nothing of the failure is remembered");
}

#[tokio::test]
async fn a_key_that_is_refused_is_said_so_and_not_tried_again() {
    let world = World::start().await;
    world.model().push_fault(Fault::once("token", FaultKind::Answer { answer: Answer::InvalidGrant }).always());
    let reason = not_sent(&world, world.gateway.directory(&world.book).await);
    assert!(reason.contains("invalid_grant") && reason.contains(world.fake.account()), "{reason}");
    assert_eq!(world.model().counts().tokens, 1);
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_not_waited_for_for_ever() {
    let world = World::with(Wish { token_timeout: Duration::from_millis(700), ..Wish::default() }).await;
    world.model().push_fault(Fault::once("token", FaultKind::Delay { ms: 120_000 }).always());
    let reason = not_sent(&world, world.gateway.directory(&world.book).await);
    assert!(reason.contains("did not answer within 700 ms"), "{reason}");
    assert!(world.api_calls().is_empty());
}

#[tokio::test]
async fn a_token_that_has_run_out_is_made_anew() {
    let world = World::start().await;
    world.fault("token", FaultKind::ShortToken { expires_in: 30 });
    assert_eq!(directories(&world, 1).await, ["ok"]);
    assert_eq!(directories(&world, 1).await, ["ok"], "within a minute of its end a token is not used again");
    assert_eq!(directories(&world, 1).await, ["ok"]);
    assert_eq!(world.model().counts().tokens, 2);
}

#[tokio::test]
async fn after_a_401_the_call_is_made_once_more_with_a_new_token_that_all_share() {
    let world = World::start().await;
    assert_eq!(directories(&world, 1).await, ["ok"]);
    world.model().revoke_tokens();
    assert_eq!(directories(&world, 5).await, ["ok"; 5]);
    assert_eq!(world.model().counts().tokens, 2, "one renewal for five refusals");
}

#[tokio::test]
async fn a_401_that_stays_is_unauthorised_after_one_renewal() {
    let world = World::start().await;
    world.model().push_fault(Fault::once("any", FaultKind::Answer { answer: Answer::Unauthorized }).always());
    assert_eq!(directories(&world, 1).await, ["unauthorised"]);
    assert_eq!((world.model().counts().tokens, world.api_calls().len()), (2, 2));
    assert_eq!(world.outcomes(), [("directory", "unauthorised"); 2]);
}

#[tokio::test]
async fn a_rotated_key_file_is_read_with_the_next_token_and_a_missing_one_is_named() {
    let world = World::start().await;
    assert_eq!(directories(&world, 1).await, ["ok"]);
    let other = "rotated@fake-sheets.iam.gserviceaccount.com";
    std::fs::write(key_path(&world), world.fake.add_account(other).unwrap().to_string()).unwrap();
    world.model().share(BOOK, other, Role::Writer).unwrap();
    world.model().revoke_tokens();
    assert_eq!(directories(&world, 1).await, ["ok"]);
    assert_eq!(world.api_calls().last().unwrap().account, other);
    std::fs::remove_file(key_path(&world)).unwrap();
    world.model().revoke_tokens();
    let reason = not_sent(&world, world.gateway.directory(&world.book).await);
    assert!(reason.contains("key.json") && reason.contains("GOOGLE_APPLICATION_CREDENTIALS"), "{reason}");
}

#[tokio::test]
async fn a_key_whose_private_key_does_not_sign_is_named() {
    let world = World::start().await;
    let mut key = world.fake.key().clone();
    key["private_key"] = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".into();
    std::fs::write(key_path(&world), key.to_string()).unwrap();
    let reason = not_sent(&world, world.gateway.directory(&world.book).await);
    assert!(reason.contains("key.json") && reason.contains("signing"), "{reason}");
}

#[tokio::test]
async fn the_endpoint_may_end_with_a_slash_or_not_and_is_unencrypted_on_loopback_only() {
    let world = World::start().await;
    let bare = world.fake.url().trim_end_matches('/').to_owned();
    assert_eq!(endpoint(&bare).unwrap().as_str(), world.fake.url());
    for bad in ["http://sheets.googleapis.com", "sheets.googleapis.com", "https://u:hunter2@x.test/", "https://x.test/?a=b", "ftp://127.0.0.1/"] {
        let error = endpoint(bad).unwrap_err();
        assert!(matches!(error, SetupError::Endpoint { .. }), "{bad}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let budget = kylo::store::control::budget::Budget::new(world.pool.clone(), &crate::control::credential(), 60, 60);
    let hook = std::sync::Arc::new(|_, _| ());
    let options = SheetsOptions::new(url::Url::parse(&bare).unwrap(), KeyFile::open(&key_path(&world)).unwrap(), budget.into(), hook);
    let gateway = GoogleSheets::new(SheetsOptions { connect_timeout: Duration::from_secs(1), ..options }).unwrap();
    assert_eq!(kind(&gateway.directory(&world.book).await), "ok");
    assert!(!format!("{gateway:?}").contains("PRIVATE"));
}
