//! `kylo demo`: the runbook on one machine with nothing to set up. The real workers, on embedded parts: a throwaway PostgreSQL cluster,
//! librdkafka's in-process broker (or `KAFKA_BROKERS`), and fake-sheets.

pub mod postgres;
