//! Logs, metrics, typed status.
