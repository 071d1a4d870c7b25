use std::time::Duration;

use fake_sheets::Options;
use serde_json::{Value, json};

use crate::support::{BOOK, World, assertion, exchange, grant, token};

async fn refusal(world: &World, assertion: &str) -> (u16, String, String) {
    let answer = grant(&world.sheets, assertion).await.unwrap();
    let body = answer.json();
    let field = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    (answer.status, field("error"), field("error_description"))
}

#[tokio::test]
async fn an_assertion_is_granted_with_and_without_padding() {
    let world = World::start().await;
    for padded in [false, true] {
        let answer = grant(&world.sheets, &assertion(world.sheets.key(), &json!({}), padded)).await.unwrap();
        assert_eq!((answer.status, answer.json()["token_type"].as_str()), (200, Some("Bearer")));
    }
}

#[tokio::test]
async fn each_fault_of_an_assertion_is_refused_in_oauths_shape() {
    let world = World::start().await;
    let key = world.sheets.key();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for (claims, error, text) in [
        (json!({"aud": "https://example.com/token"}), "invalid_grant", "Invalid JWT: Failed audience check."),
        (json!({"iat": now - 7200, "exp": now - 3600}), "invalid_grant", "Invalid JWT: Token must be a short-lived token"),
        (json!({"iat": now, "exp": now + 7200}), "invalid_grant", "Invalid JWT: Token must be a short-lived token"),
        (json!({"iat": null}), "invalid_grant", "Invalid JWT: Token must be a short-lived token"),
        (json!({"iss": null}), "invalid_grant", "Invalid grant: account not found"),
        (json!({"scope": ""}), "invalid_scope", "Invalid OAuth scope"),
    ] {
        let got = refusal(&world, &assertion(key, &claims, false)).await;
        assert_eq!((got.0, got.1.as_str()), (400, error), "{claims}");
        assert!(got.2.starts_with(text), "{claims}: {}", got.2);
    }
    assert_eq!(refusal(&world, "no.jwt").await.1, "invalid_request");
}

#[tokio::test]
async fn an_account_made_here_must_sign_with_its_key() {
    let world = World::start().await;
    let good = assertion(world.sheets.key(), &json!({}), false);
    let (signed, _) = good.rsplit_once('.').unwrap();
    let other = assertion(world.sheets.key(), &json!({"scope": "https://www.googleapis.com/auth/drive"}), false);
    let forged = format!("{signed}.{}", other.rsplit_once('.').unwrap().1);
    let got = refusal(&world, &forged).await;
    assert_eq!((got.1.as_str(), got.2.as_str()), ("invalid_grant", "Invalid JWT Signature."));
}

#[tokio::test]
async fn unknown_accounts_get_tokens_unless_the_options_forbid_it() {
    for (only_known_accounts, status) in [(false, 200), (true, 400)] {
        let world = World::with(Options { only_known_accounts, ..Options::default() }).await;
        let claims = json!({"iss": "stranger@elsewhere.iam.gserviceaccount.com"});
        assert_eq!(grant(&world.sheets, &assertion(world.sheets.key(), &claims, false)).await.unwrap().status, status);
    }
}

#[tokio::test]
async fn a_token_ends_when_its_time_is_over_or_when_it_is_revoked() {
    let world = World::start().await;
    assert_eq!(world.get("").await.unwrap().status, 200);
    world.model().clock().advance(Duration::from_secs(3600));
    let answer = world.get("").await.unwrap();
    assert_eq!(answer.status, 401);
    assert!(answer.head.to_lowercase().contains("www-authenticate: bearer"));
    let fresh = token(&world.sheets, world.sheets.key(), crate::support::SCOPE).await;
    world.model().revoke_tokens();
    assert_eq!(world.call_as(&fresh, "GET", &format!("/v4/spreadsheets/{BOOK}"), &Value::Null).await.unwrap().status, 401);
}

#[tokio::test]
async fn a_scope_that_only_reads_cannot_write_and_no_token_is_not_a_bad_token() {
    let world = World::start().await;
    let reader = token(&world.sheets, world.sheets.key(), "https://www.googleapis.com/auth/spreadsheets.readonly").await;
    let path = format!("/v4/spreadsheets/{BOOK}");
    assert_eq!(world.call_as(&reader, "GET", &path, &Value::Null).await.unwrap().status, 200);
    let write = world.call_as(&reader, "POST", &format!("{path}:batchUpdate"), &json!({"requests": []})).await.unwrap();
    assert_eq!(write.json()["error"]["details"][0]["reason"], "ACCESS_TOKEN_SCOPE_INSUFFICIENT");
    let none = exchange(world.sheets.addr(), "GET", &path, &[], b"").await.unwrap();
    assert_eq!(none.status, 403);
}

#[tokio::test]
async fn the_key_file_is_readable_by_its_owner_only_and_an_address_others_can_reach_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::temp_dir().join(format!("fake-sheets-test-{}.json", rand::random::<u64>()));
    let world = World::with(Options { key_file: Some(path.clone()), ..Options::default() }).await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let key: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(key["token_uri"], format!("{}token", world.sheets.url()));
    std::fs::remove_file(&path).unwrap();
    let options = Options { addr: "0.0.0.0:0".parse().unwrap(), ..Options::default() };
    let error = fake_sheets::FakeSheets::start(options).await.unwrap_err();
    assert!(error.to_string().contains("refusing to listen on 0.0.0.0"), "{error}");
}
