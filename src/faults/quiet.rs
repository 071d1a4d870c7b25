//! Without the feature `faults`: nothing.

use super::{Bug, CrashPoint};

/// Does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults;

impl Faults {
    /// Passes.
    #[expect(clippy::unused_async, reason = "the armed twin of this function waits")]
    pub async fn reached(&self, _point: CrashPoint) {}

    /// Passes.
    pub fn passed(&self, _point: CrashPoint) {}
}

/// No.
pub const fn planted(_bug: Bug) -> bool {
    false
}
