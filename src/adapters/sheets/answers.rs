//! What the bytes of an answer say, without the network: the way that every answer goes, for the fuzz targets.
//!
//! What must never happen here: another way than the gateway's.

use google_sheets4::hyper::body::Bytes;
use google_sheets4::hyper::{Response, StatusCode};

use super::classify::{Head, classify};
use super::{decode, send};
use crate::domain::sheet::{Applied, EchoRange, Observed};
use crate::ports::CallError;

pub use decode::MOST_CELLS;

/// A 2xx answer to a read of these tabs.
///
/// # Errors
/// `Unknown` if it cannot be read.
pub fn read(body: &[u8], titles: &[String]) -> Result<Observed, CallError> {
    let wire: decode::SpreadsheetWire = serde_json::from_slice(body).map_err(|error| classify(&send::unreadable(error), Head::default()))?;
    Ok(wire.observed(Some(titles)))
}

/// A 2xx answer to a batch.
///
/// # Errors
/// `Unknown` if it cannot be read.
pub fn applied(body: &[u8], echoed: &[EchoRange]) -> Result<Applied, CallError> {
    let wire: decode::BatchWire = serde_json::from_slice(body).map_err(|error| classify(&send::unreadable(error), Head::default()))?;
    Ok(wire.applied(echoed))
}

/// Any other answer. A status that HTTP does not have counts as 500.
pub fn failure(status: u16, body: &[u8]) -> CallError {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut head = Head::default();
    let error = send::refusal(parts, &Bytes::copy_from_slice(body), &mut head);
    classify(&error, head)
}
