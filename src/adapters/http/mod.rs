//! What the process shows over HTTP: health, version, metrics. Started by `runtime`; read by probes, Prometheus and people.
//!
//! What must never happen here: anything but loopback unless the operator asked for that address, or a probe that waits for a database
//! (but `/health/deep`, which is for people).

mod bind;
mod server;

pub use bind::{BindError, bind};
pub use server::{DeepProbe, Server};
