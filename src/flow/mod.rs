//! The story. Read top to bottom: messages come in, are routed, ingested, promoted, and posted; events
//! go out through the relay.

pub mod consume;
pub mod dead_letter;
pub mod decode;
pub mod hold;
pub mod ingest;
pub mod lanes;
pub mod offsets;
pub mod post;
pub mod promote;
pub mod publish_format;
pub mod relay;
pub mod routing;
pub mod source;
pub mod work;
