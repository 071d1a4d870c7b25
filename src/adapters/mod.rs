//! The edge. Each adapter owns its foreign types and knows no rule.

pub mod http;
pub mod kafka;
pub mod sheets;
