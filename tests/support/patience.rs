//! Questions to the broker that are asked again while it is only not ready yet: a coordinator or leader that is just being chosen, a crowded machine.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// What a test waits for an answer, all attempts together.
const PATIENCE: Duration = Duration::from_secs(180);

/// The first answer that is no error. Fails when there is none within [`PATIENCE`]. Blocks.
pub fn patiently<T, E: Display>(what: &str, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let began = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) if began.elapsed() > PATIENCE => panic!("{what}: no answer within {PATIENCE:?}: {error}"),
            // An interval of asking, not a time after which anything is assumed.
            Err(_) => std::thread::park_timeout(Duration::from_millis(100)),
        }
    }
}
