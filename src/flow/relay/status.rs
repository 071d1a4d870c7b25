//! What a relay says about itself: for readiness, metrics and people.

/// Why an outbox does not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its database does not answer, or is not migrated. The others flow.
    Database,
    /// The control database does not answer: leases and refusals cannot be written.
    Control,
    /// The broker does not answer or does not let us in.
    Broker,
    /// The topic is missing or must not be written to.
    Topic,
    /// The table is not as configured.
    Table,
    /// Too many of its rows were given up.
    GivenUp,
}

impl Why {
    /// As `control.relay_state` has it.
    pub fn state(self) -> &'static str {
        match self {
            Self::Database | Self::Control | Self::Broker | Self::Topic => "waiting",
            Self::Table | Self::GivenUp => "stopped",
        }
    }

    /// Whether the process is not ready because of it. A company's database is a company's trouble.
    pub fn is_grave(self) -> bool {
        self != Self::Database
    }
}

/// An outbox that does not move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxTrouble {
    pub source: String,
    pub why: Why,
    /// What is wrong and what to do. No secrets.
    pub reason: String,
}

/// How a relay stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RelayStatus {
    /// Outboxes that are known.
    pub outboxes: usize,
    /// Those that this process works on; the others are another relay's.
    pub held: usize,
    /// Age of the oldest event that was found waiting at the last look, in seconds; 0 = none waits, or its age is not known.
    pub oldest_seconds: f64,
    pub troubles: Vec<OutboxTrouble>,
}

impl RelayStatus {
    /// The gravest trouble, for a line of text.
    pub fn worst(&self) -> Option<&OutboxTrouble> {
        self.troubles.iter().find(|trouble| trouble.why.is_grave()).or_else(|| self.troubles.first())
    }
}

/// Receives counts.
pub trait RelayMetrics: Send + Sync + std::fmt::Debug {
    /// `n` events came out as `published`, `refused` (one attempt) or `given_up`.
    fn events(&self, outcome: &'static str, n: u64);

    fn status(&self, status: &RelayStatus);
}

/// Counts nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoMetrics;

impl RelayMetrics for NoMetrics {
    fn events(&self, _outcome: &'static str, _n: u64) {}
    fn status(&self, _status: &RelayStatus) {}
}
