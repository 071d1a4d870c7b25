//! When a client is made anew with other credentials: its broker has rejected what it shows (or it the broker's certificate), and the files have
//! something else by now. So a rotated password or CA needs no restart, whichever side is changed first.
//!
//! | first changed | what happens |
//! |---|---|
//! | the broker's password | connections that stand go on; the next one is rejected; the file is looked at every second until it has another password |
//! | the file | nothing until a connection breaks; a client that is made meanwhile is rejected, and librdkafka tries on until the broker knows the password |
//!
//! librdkafka reports a fault that stays the same every 30 s only, so one rejection is enough to go on looking until the client is replaced.
//! Called by the consumer's thread and by the producer. What must never happen here: a client that works being replaced, or one that is
//! replaced more than once a second.

use std::time::{Duration, Instant};

use super::client::{ClientError, Credentials, KafkaSettings};
use super::trouble::Board;

/// Between two looks at the files.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The credentials of one client, and whether there are others by now.
#[derive(Debug)]
pub(super) struct Rotation {
    settings: KafkaSettings,
    used: Credentials,
    looked: Instant,
}

impl Rotation {
    /// # Errors
    /// The password file cannot be read.
    pub fn new(settings: &KafkaSettings) -> Result<Self, ClientError> {
        Ok(Self { settings: settings.clone(), used: settings.credentials()?, looked: Instant::now() })
    }

    pub fn settings(&self) -> &KafkaSettings {
        &self.settings
    }

    pub fn credentials(&self) -> &Credentials {
        &self.used
    }

    /// Whether a client is to be made anew, with what [`Self::credentials`] gives from now on. Reads files at most once a second, and none
    /// while the broker accepts the client. A file that cannot be read, or is empty, is being replaced at this moment.
    pub fn is_due(&mut self, board: &Board) -> bool {
        if !board.is_rejected() || self.looked.elapsed() < LOOK_EVERY {
            return false;
        }
        self.looked = Instant::now();
        match self.settings.credentials() {
            Ok(now) if now != self.used => {
                self.used = now;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::{KafkaError, RDKafkaErrorCode};

    use super::*;
    use crate::adapters::kafka::client::SaslSettings;
    use crate::config::Secret;

    fn rejected(board: &Board) {
        board.report(&KafkaError::Global(RDKafkaErrorCode::Authentication), "Authentication failed");
    }

    #[test]
    fn a_client_is_replaced_once_it_was_rejected_and_its_password_file_has_changed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "old").unwrap();
        let password = Secret::File { name: "KAFKA_SASL_PASSWORD", path: file.path().to_owned() };
        let sasl = SaslSettings { mechanism: "PLAIN".to_owned(), username: "u".to_owned(), password };
        let settings = KafkaSettings { security_protocol: "SASL_PLAINTEXT".to_owned(), sasl: Some(sasl), ..KafkaSettings::plaintext("127.0.0.1:1") };
        let (mut rotation, board) = (Rotation::new(&settings).unwrap(), Board::default());
        let later = |rotation: &mut Rotation| {
            rotation.looked = Instant::now().checked_sub(LOOK_EVERY).unwrap();
            rotation.is_due(&board)
        };
        assert!(!later(&mut rotation));
        std::fs::write(file.path(), "new").unwrap();
        assert!(!later(&mut rotation), "the broker accepts the client");
        rejected(&board);
        std::fs::write(file.path(), "").unwrap();
        assert!(!later(&mut rotation), "the file is being written");
        std::fs::write(file.path(), "new\n").unwrap();
        assert!(later(&mut rotation));
        assert!(!later(&mut rotation), "it is tried once");
    }
}
