//! Wiring, supervision, shutdown: the only place that builds adapters.
