//! When a client is made anew with other credentials: its broker has rejected what it shows (or it the broker's certificate), and the files have
//! something else by now. So a rotated password or CA needs no restart, whichever side is changed first.
//!
//! | first changed | what happens |
//! |---|---|
//! | the broker's password | connections that stand go on; the next one is rejected; the file is looked at every second until it has another password |
//! | the file | nothing until a connection breaks; a client that is made meanwhile is rejected, and librdkafka tries on until the broker knows the password |
//!
//! librdkafka reports a fault that stays the same every 30 s only, so one rejection is enough to go on looking until the client is replaced.
//!
//! And when it has reached no broker for [`KafkaSettings::remake_after`]. librdkafka connects again by itself, except when a broker that is just
//! starting has answered that its cluster has no brokers: then it forgets all of them and never asks again
//! (<https://github.com/confluentinc/librdkafka/issues/5301>, seen with 2.12.1). Nobody can tell that from a broker that is away, so in a long
//! absence the client is replaced again and again.
//!
//! And when its topic is another one than before (see `identity`).
//!
//! Called by the consumer's thread and by the producer. What must never happen here: a client that works being replaced, or one that is
//! replaced more than once a second.

use std::time::{Duration, Instant};

use super::client::{ClientError, Credentials, KafkaSettings};
use super::trouble::Board;

/// Between two looks at the files.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a client is made anew; reads as the end of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Credentials,
    Away,
    Remade,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Credentials => "with the credentials that its files have now",
            Self::Away => "because it has reached no broker for a long time",
            Self::Remade => "because its topic was deleted and made again: it is read from its beginning",
        })
    }
}

/// The credentials of one client, and whether it is to be replaced.
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

    /// Whether and why a client is to be made anew, with what [`Self::credentials`] gives from now on. Looks once a second, and reads no file
    /// while the broker accepts the client. A file that cannot be read, or is empty, is being replaced at this moment.
    pub fn due(&mut self, board: &Board) -> Option<Cause> {
        if self.looked.elapsed() < LOOK_EVERY {
            return None;
        }
        self.looked = Instant::now();
        let is_away = board.away_for() >= self.settings.remake_after;
        let is_remade = board.is_remade();
        if !is_away && !is_remade && !board.is_rejected() {
            return None;
        }
        match self.settings.credentials() {
            Ok(now) if now != self.used => {
                self.used = now;
                Some(Cause::Credentials)
            }
            _ if is_remade => Some(Cause::Remade),
            _ => is_away.then_some(Cause::Away),
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
            rotation.due(&board)
        };
        assert_eq!(later(&mut rotation), None);
        std::fs::write(file.path(), "new").unwrap();
        assert_eq!(later(&mut rotation), None, "the broker accepts the client");
        rejected(&board);
        std::fs::write(file.path(), "").unwrap();
        assert_eq!(later(&mut rotation), None, "the file is being written");
        std::fs::write(file.path(), "new\n").unwrap();
        assert_eq!(later(&mut rotation), Some(Cause::Credentials));
        assert_eq!(later(&mut rotation), None, "it is tried once");
    }

    #[test]
    fn a_client_that_reaches_no_broker_for_long_is_replaced_and_one_that_reaches_one_is_not() {
        let settings = KafkaSettings { remake_after: Duration::ZERO, ..KafkaSettings::plaintext("127.0.0.1:1") };
        let patient = KafkaSettings { remake_after: Duration::from_secs(60), ..settings.clone() };
        let due = |settings: &KafkaSettings, board: &Board| {
            let mut rotation = Rotation::new(settings).unwrap();
            rotation.looked = Instant::now().checked_sub(LOOK_EVERY).unwrap();
            rotation.due(board)
        };
        let board = Board::default();
        assert_eq!(due(&patient, &board), None);
        board.report(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(due(&patient, &board), None, "not for long");
        assert_eq!(due(&settings, &board), Some(Cause::Away));
        board.connected();
        assert_eq!(due(&patient, &board), None);
        assert_eq!(board.away_for(), Duration::ZERO);
        board.report(&KafkaError::Global(RDKafkaErrorCode::UnknownTopicOrPartition), "no such topic");
        assert_eq!(board.away_for(), Duration::ZERO, "a broker said so");
    }
}
