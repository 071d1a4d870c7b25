//! One HTTP exchange whose answer is decoded into a type of ours: what google-sheets4's `doit` does, without its type for cells.
//!
//! Called by [`super::gateway`] for the two calls whose answers carry cells (see [`super::decode`] for why). It uses the hub's own client and gives the
//! crate's own errors, so there is one classification for all calls. What must never happen here: a request without `Authorization`.

use google_sheets4::common::{Client, Response, to_body};
use google_sheets4::hyper::body::Bytes;
use google_sheets4::hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use google_sheets4::hyper::http::response::Parts;
use google_sheets4::hyper::{Method, Request};
use google_sheets4::{Error, common};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use url::Url;

use super::classify::Head;
use super::client::Connector;

/// GET without a body, POST with one. `head` tells the status of an answer that is not a success.
pub(super) async fn exchange<T: DeserializeOwned>(
    client: &Client<Connector>,
    url: &Url,
    token: &str,
    body: Option<Vec<u8>>,
    head: &mut Head,
) -> Result<T, Error> {
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let request = Request::builder()
        .method(method)
        .uri(url.as_str())
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .header(CONTENT_TYPE, "application/json")
        .body(to_body(body))
        // Only a URL beyond what HTTP allows gets here; nothing was sent.
        .map_err(|_| Error::Cancelled)?;
    let (parts, body) = client.request(request).await.map_err(Error::HttpError)?.into_parts();
    let collected = body.collect().await;
    if !parts.status.is_success() {
        let bytes = collected.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        return Err(refusal(parts, &bytes, head));
    }
    // A body that was cut off is an answer that cannot be read, as in the crate.
    let bytes: Bytes = collected.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    serde_json::from_slice(&bytes).map_err(unreadable)
}

/// A success that says nothing.
pub(super) fn unreadable(error: serde_json::Error) -> Error {
    Error::JsonDecodeError(String::new(), error)
}

/// Anything else.
pub(super) fn refusal(parts: Parts, body: &Bytes, head: &mut Head) -> Error {
    let response: Response = common::to_response(parts, Some(body.clone()));
    *head = Head::of(&response);
    serde_json::from_slice(body).map_or_else(|_| Error::Failure(response), Error::BadRequest)
}
