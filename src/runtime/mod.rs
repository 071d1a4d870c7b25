//! Wiring, supervision, shutdown: the only place that builds adapters.

mod control;
pub mod demo;
mod supervise;
