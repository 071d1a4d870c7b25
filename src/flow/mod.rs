//! The story. Read top to bottom: messages come in, are routed, ingested, promoted, and posted.

pub mod decode;
pub mod offsets;
pub mod publish_format;
pub mod ingest;
pub mod routing;
pub mod source;
pub mod work;
