//! `PROMOTE_RULES`, version 1.

use chrono::{DateTime, Utc};

use super::head::{self, Common, Envelope, Expected, Head};
use super::{Counts, DecodedPromote, Poison, RawMessage};
use crate::domain::message::PromoteRequest;

const EXPECTED: Expected = Expected { event_type: "PROMOTE_RULES", versions: &[1] };

pub(super) fn decode(head: &Head<'_>, envelope: Option<&Envelope>, message: &RawMessage<'_>, now: DateTime<Utc>) -> Result<DecodedPromote, Poison> {
    let result = head::common(head, envelope, message, &EXPECTED, now).and_then(|common| request(head, envelope, common));
    result.map_err(|poison| Poison { company_id: head::named_company(head), ..poison })
}

fn request(head: &Head<'_>, envelope: Option<&Envelope>, common: Common) -> Result<DecodedPromote, Poison> {
    head::producer(head)?;
    let v1_routing = head::v1_routing(head)?;
    let strangers = [head::BATCH_ID, head::INGEST_BATCH_ID, head::SLICE_SIGNATURE];
    let strangers = strangers.into_iter().filter(|field| head.has(*field)).count() + usize::from(head.list.is_some());
    let counts = Counts {
        unknown_fields: common.unknown_fields.saturating_add(u32::try_from(strangers).unwrap_or(0)),
        collapsed_in_batch: 0,
        null_key: common.null_key,
        enveloped: envelope.is_some(),
    };
    let request_id = head::name(head, head::REQUEST_ID)?;
    let request = PromoteRequest::new(common.company_id, common.created_at, &common.created_at_text, request_id);
    Ok(DecodedPromote::Request { request, counts, v1_routing })
}
