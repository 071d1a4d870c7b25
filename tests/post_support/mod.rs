//! Doubles and helpers of `tests/post.rs`.

pub mod book;
pub mod gateway;
pub mod world;
