//! The story. Read top to bottom: messages come in, are routed, ingested, promoted, and posted.

pub mod decode;
pub mod post;
pub mod routing;
