//! Wiring, supervision, shutdown: the only place that builds adapters.
pub mod demo;
