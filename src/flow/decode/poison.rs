//! A message that cannot be used, and why.

use super::CompanyId;
use crate::domain::message::classes;

classes! {
    /// Why a whole message is a dead letter. The last three are found after decoding, by whoever routes.
    PoisonClass {
        /// Larger, or with more rows, than is looked at.
        TooLarge = "too_large",
        /// Not UTF-8.
        NotUtf8 = "not_utf8",
        /// Not one JSON value.
        NotJson = "not_json",
        /// JSON, but not of the contract's shape.
        WrongShape = "wrong_shape",
        /// Another `event_type` than the topic carries.
        UnknownEventType = "unknown_event_type",
        /// A `version` this program does not know.
        UnknownVersion = "unknown_version",
        /// The record key is not the message's company.
        KeyMismatch = "key_mismatch",
        /// `created_at` lies too far ahead of our clock.
        Clock = "clock",
        /// No such company in `control.company_config`.
        UnknownCompany = "unknown_company",
        /// Version 1 with a routing that is not the company's.
        RoutingMismatch = "routing_mismatch",
        /// The company's row in `control.company_config` cannot be used.
        UnroutableCompany = "unroutable_company",
    }
}

/// A message that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {reason}")]
pub struct Poison {
    /// For filters and metrics.
    pub class: PoisonClass,
    /// JSON pointer to what is wrong (into the inner message where an envelope was unwrapped).
    pub pointer: Option<String>,
    /// For people: what is wrong and what to do. Holds no description, amount, memo or counterparty.
    pub reason: String,
    /// The company, where the message names one in the right shape.
    pub company_id: Option<CompanyId>,
}

impl Poison {
    pub(super) fn new(class: PoisonClass, reason: impl Into<String>) -> Self {
        Self { class, pointer: None, reason: reason.into(), company_id: None }
    }

    pub(super) fn at(class: PoisonClass, field: &str, reason: impl Into<String>) -> Self {
        Self { pointer: Some(format!("/{field}")), ..Self::new(class, reason) }
    }
}
