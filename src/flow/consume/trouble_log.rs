//! Says what is wrong once a minute, and when it is over: an outage must not fill the log.

use std::time::Duration;

use tokio::time::Instant;

const PAUSE: Duration = Duration::from_secs(60);

/// One kind of trouble.
#[derive(Debug, Default)]
pub struct TroubleLog {
    said: Option<Instant>,
    text: Option<String>,
}

impl TroubleLog {
    /// The trouble is there. `true` = say it now.
    pub fn there(&mut self, text: &str, now: Instant) -> bool {
        let repeat = self.text.as_deref() == Some(text) || self.said.is_some_and(|at| now.duration_since(at) < Duration::from_secs(1));
        self.text = Some(text.to_owned());
        if repeat && self.said.is_some_and(|at| now.duration_since(at) < PAUSE) {
            return false;
        }
        self.said = Some(now);
        true
    }

    /// The trouble is over. `true` = say so.
    pub fn over(&mut self) -> bool {
        self.said = None;
        self.text.take().is_some()
    }

    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_said_once_a_minute_and_its_end_once() {
        let mut log = TroubleLog::default();
        let start = Instant::now();
        assert!(log.there("down", start));
        assert!(!log.there("down", start + Duration::from_secs(59)));
        assert!(log.there("down", start + Duration::from_secs(61)));
        assert!(log.over());
        assert!(!log.over());
        assert!(log.there("down", start + Duration::from_secs(62)));
    }
}
