//! The two topics: how their messages are decoded, routed and handed on.
//!
//! What must never happen here: a message of version 1 that names another routing than `control.company_config` being applied (invariant I2).

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::domain::clock::Clock;
use crate::domain::company::Route;
use crate::domain::ids::CompanyId;
use crate::domain::message::{BadRow, PromoteRequest, TxnsBatch};
use crate::flow::decode::{self, Counts, Decoded, DecodedPromote, Poison, PoisonClass, RawMessage, V1Routing};
use crate::flow::lanes::{LaneKey, LaneLimits};
use crate::flow::work::{Handled, PromoteWork, Record, Stuck, TxnsWork};
use crate::store::control::trouble::WorkKind;

/// What a message turned out to be.
#[derive(Debug)]
pub enum Read<M> {
    Message { company: CompanyId, message: M, counts: Counts },
    Tombstone,
    Poison(Poison),
}

/// A topic's own part of consuming.
pub trait Topic: Send + Sync + fmt::Debug + 'static {
    /// Decoded, not routed yet.
    type Message: Send + 'static;
    /// Decoded and routed.
    type Work: Send + 'static;

    fn kind(&self) -> WorkKind;

    fn limits(&self) -> LaneLimits;

    /// Pure but for the clock.
    fn read(&self, record: &Record) -> Read<Self::Message>;

    /// # Errors
    /// Poison, when the message contradicts the route.
    fn route(&self, record: &Arc<Record>, message: Self::Message, route: &Arc<Route>) -> Result<Self::Work, Poison>;

    /// The route that the work was given.
    fn route_of(&self, work: &Self::Work) -> Arc<Route>;

    /// Work with the same key may be handled in one call.
    fn key(&self, work: &Self::Work) -> LaneKey;

    fn rows(&self, work: &Self::Work) -> usize;

    /// Handles work of one key; one answer for each, in order. When a company's message is stuck, its later ones must not be applied.
    fn apply(&self, works: Vec<Self::Work>) -> BoxFuture<'_, Vec<Result<Handled, Stuck>>>;
}

/// Writes batches into one company database: `flow::ingest`, or a test's double.
pub trait TxnsHandler: Send + Sync + fmt::Debug + 'static {
    /// One answer for each, in order. All are of one database. When a company's batch is stuck, its later ones must not be applied.
    fn apply(&self, works: Vec<TxnsWork>) -> BoxFuture<'_, Vec<Result<Handled, Stuck>>>;
}

/// Applies promote requests: `flow::promote`, or a test's double.
pub trait PromoteHandler: Send + Sync + fmt::Debug + 'static {
    fn apply<'a>(&'a self, work: &'a PromoteWork) -> BoxFuture<'a, Result<Handled, Stuck>>;
}

/// The topic of transaction batches, coalesced per company database.
pub struct TxnsTopic<H> {
    pub handler: H,
    pub clock: Arc<dyn Clock>,
    pub limits: LaneLimits,
}

impl<H> fmt::Debug for TxnsTopic<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxnsTopic").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A decoded batch before it is routed.
#[derive(Debug)]
pub struct TxnsMessage {
    batch: TxnsBatch,
    bad: Vec<BadRow>,
    v1_routing: Option<V1Routing>,
}

impl<H: TxnsHandler> Topic for TxnsTopic<H> {
    type Message = TxnsMessage;
    type Work = TxnsWork;

    fn kind(&self) -> WorkKind {
        WorkKind::Ingest
    }

    fn limits(&self) -> LaneLimits {
        self.limits.clone()
    }

    fn read(&self, record: &Record) -> Read<TxnsMessage> {
        match decode::decode_txns(&raw(record), self.clock.now()) {
            Ok(Decoded::Tombstone) => Read::Tombstone,
            Ok(Decoded::Batch { batch, bad, counts, v1_routing }) => {
                Read::Message { company: batch.company_id.clone(), message: TxnsMessage { batch: *batch, bad, v1_routing }, counts }
            }
            Err(poison) => Read::Poison(poison),
        }
    }

    fn route(&self, record: &Arc<Record>, message: TxnsMessage, route: &Arc<Route>) -> Result<TxnsWork, Poison> {
        agrees(message.v1_routing.as_ref(), route)?;
        Ok(TxnsWork { record: Arc::clone(record), route: Arc::clone(route), batch: message.batch, bad: message.bad })
    }

    fn route_of(&self, work: &TxnsWork) -> Arc<Route> {
        Arc::clone(&work.route)
    }

    fn key(&self, work: &TxnsWork) -> LaneKey {
        LaneKey::Database(work.route.dsn.clone())
    }

    fn rows(&self, work: &TxnsWork) -> usize {
        work.batch.rows.len() + work.bad.len()
    }

    fn apply(&self, works: Vec<TxnsWork>) -> BoxFuture<'_, Vec<Result<Handled, Stuck>>> {
        self.handler.apply(works)
    }
}

/// The topic of promote requests, one at a time per company.
pub struct PromoteTopic<H> {
    pub handler: H,
    pub clock: Arc<dyn Clock>,
    pub limits: LaneLimits,
}

impl<H> fmt::Debug for PromoteTopic<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromoteTopic").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<H: PromoteHandler> Topic for PromoteTopic<H> {
    type Message = (PromoteRequest, Option<V1Routing>);
    type Work = PromoteWork;

    fn kind(&self) -> WorkKind {
        WorkKind::Promote
    }

    fn limits(&self) -> LaneLimits {
        self.limits.clone()
    }

    fn read(&self, record: &Record) -> Read<Self::Message> {
        match decode::decode_promote(&raw(record), self.clock.now()) {
            Ok(DecodedPromote::Tombstone) => Read::Tombstone,
            Ok(DecodedPromote::Request { request, counts, v1_routing }) => {
                Read::Message { company: request.company_id.clone(), message: (request, v1_routing), counts }
            }
            Err(poison) => Read::Poison(poison),
        }
    }

    fn route(&self, record: &Arc<Record>, (request, v1_routing): Self::Message, route: &Arc<Route>) -> Result<PromoteWork, Poison> {
        agrees(v1_routing.as_ref(), route)?;
        Ok(PromoteWork { record: Arc::clone(record), route: Arc::clone(route), request })
    }

    fn route_of(&self, work: &PromoteWork) -> Arc<Route> {
        Arc::clone(&work.route)
    }

    fn key(&self, work: &PromoteWork) -> LaneKey {
        LaneKey::Company(work.route.company.clone())
    }

    fn rows(&self, _work: &PromoteWork) -> usize {
        1
    }

    fn apply(&self, works: Vec<PromoteWork>) -> BoxFuture<'_, Vec<Result<Handled, Stuck>>> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(works.len());
            for work in &works {
                answers.push(self.handler.apply(work).await);
            }
            answers
        })
    }
}

fn raw(record: &Record) -> RawMessage<'_> {
    RawMessage {
        payload: record.payload.as_deref(),
        key: record.key.as_deref(),
        topic: &record.position.topic,
        partition: record.position.partition,
        offset: record.position.offset,
    }
}

/// Whether what a version 1 message believes about routing is what the table says.
fn agrees(believed: Option<&V1Routing>, route: &Route) -> Result<(), Poison> {
    let Some(believed) = believed else { return Ok(()) };
    let fields = [
        ("db_schema", believed.db_schema.as_deref(), route.schema.as_str()),
        ("spreadsheet_id", believed.spreadsheet_id.as_deref(), route.spreadsheet.as_str()),
        ("tab_pending", believed.tab_pending.as_deref(), &route.tab_pending),
        ("tab_active", believed.tab_active.as_deref(), &route.tab_active),
    ];
    match fields.into_iter().find(|(_, theirs, ours)| theirs.is_some_and(|theirs| theirs != *ours)) {
        None => Ok(()),
        Some((name, _, ours)) => Err(Poison {
            class: PoisonClass::RoutingMismatch,
            pointer: Some(format!("/routing/{name}")),
            reason: format!("routing.{name} is not what control.company_config says ({ours:?}): mend the producer or the table, then replay"),
            company_id: Some(route.company.clone()),
        }),
    }
}
