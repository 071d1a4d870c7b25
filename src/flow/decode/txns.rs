//! `TXNS_BATCH`, versions 1 and 2.

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::head::{self, Common, Envelope, Expected, Head};
use super::json::List;
use super::row;
use super::{Counts, Decoded, MAX_ROWS, Poison, PoisonClass, RawMessage};
use crate::domain::message::{Assembled, BatchHead, TxnsBatch};

const EXPECTED: Expected = Expected { event_type: "TXNS_BATCH", versions: &[1, 2] };

pub(super) fn decode(head: &Head<'_>, envelope: Option<&Envelope>, message: &RawMessage<'_>, now: DateTime<Utc>) -> Result<Decoded, Poison> {
    let result = head::common(head, envelope, message, &EXPECTED, now).and_then(|common| batch(head, envelope, common));
    result.map_err(|poison| Poison { company_id: head::named_company(head), ..poison })
}

fn batch(head: &Head<'_>, envelope: Option<&Envelope>, common: Common) -> Result<Decoded, Poison> {
    let v1_routing = if common.version == 1 { head::v1_routing(head)? } else { None };
    let batch_head = BatchHead {
        batch_id: head::name(head, head::BATCH_ID)?.ok_or_else(|| head::missing(head::BATCH_ID))?,
        company_id: common.company_id,
        created_at: common.created_at,
        version: common.version,
        producer: head::producer(head)?,
    };
    let rows = rows(head, common.version)?;
    let mut unknown_fields = common.unknown_fields.saturating_add(not_of_this_version(head, common.version));
    let mut candidates = Vec::with_capacity(rows.len());
    for (index, raw) in rows.iter().enumerate() {
        let (candidate, unknown) = row::read(index, raw.get(), &batch_head.company_id);
        unknown_fields = unknown_fields.saturating_add(unknown);
        candidates.push(candidate);
    }
    let raw_of = |index: usize| rows.get(index).map_or_else(String::new, |raw| raw.get().to_owned());
    let Assembled { batch, bad, collapsed } = TxnsBatch::assemble(batch_head, candidates, raw_of);
    let counts = Counts { unknown_fields, collapsed_in_batch: collapsed, null_key: common.null_key, enveloped: envelope.is_some() };
    Ok(Decoded::Batch { batch: Box::new(batch), bad, counts, v1_routing })
}

fn rows<'h, 'a>(head: &'h Head<'a>, version: u8) -> Result<&'h [&'a RawValue], Poison> {
    let wrong = |reason: String| Poison::at(PoisonClass::WrongShape, "transactions", reason);
    match &head.list {
        Some(List::Elements(_, total)) if *total > MAX_ROWS => {
            let reason = format!("transactions has {total} rows, more than {MAX_ROWS}: split the batch");
            Err(Poison::at(PoisonClass::TooLarge, "transactions", reason))
        }
        Some(List::Elements(rows, 1..)) => Ok(rows),
        Some(List::Elements(..)) => Err(wrong("transactions is empty: a batch has at least one row".to_owned())),
        Some(List::Other) => Err(wrong("transactions must be a list of rows".to_owned())),
        None if version == 1 => Err(wrong("version 1 is accepted only with its rows: publish version 2, with transactions".to_owned())),
        None => Err(head::missing(head::TRANSACTIONS)),
    }
}

/// Known names that do not belong into a message of this version.
fn not_of_this_version(head: &Head<'_>, version: u8) -> u32 {
    let originals = [head::ROUTING, head::INGEST_BATCH_ID, head::SLICE_SIGNATURE];
    let strangers = originals.into_iter().filter(|_| version != 1).chain([head::REQUEST_ID]);
    u32::try_from(strangers.filter(|field| head.has(*field)).count()).unwrap_or(0)
}
