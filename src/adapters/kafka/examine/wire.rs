//! Kafka's protocol as far as questions need it: frames, and the few requests that ask who may do what. Versions without tagged fields.
//!
//! What must never happen here: a panic or a huge allocation because of what a stranger's port answers.

/// An answer cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbled;

/// A request under construction.
#[derive(Debug, Default)]
pub struct Request(Vec<u8>);

impl Request {
    pub fn new(api: i16, version: i16, correlation: i32, client_id: &str) -> Self {
        Self::default().int16(api).int16(version).int32(correlation).text(client_id)
    }

    pub fn int8(mut self, value: i8) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn int16(mut self, value: i16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn int32(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Texts here are names: far below 32 KiB.
    pub fn text(mut self, text: &str) -> Self {
        self.0.extend(i16::try_from(text.len()).unwrap_or_default().to_be_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(i32::try_from(bytes.len()).unwrap_or_default().to_be_bytes());
        self.0.extend(bytes);
        self
    }

    pub fn texts(self, texts: &[String]) -> Self {
        let request = self.int32(i32::try_from(texts.len()).unwrap_or_default());
        texts.iter().fold(request, |request, text| request.text(text))
    }

    /// With its length in front, as it is sent.
    pub fn frame(self) -> Vec<u8> {
        let mut frame = i32::try_from(self.0.len()).unwrap_or_default().to_be_bytes().to_vec();
        frame.extend(self.0);
        frame
    }
}

/// An answer that is being read.
#[derive(Debug)]
pub struct Answer<'a>(pub &'a [u8]);

impl<'a> Answer<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Garbled> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Garbled)?;
        self.0 = rest;
        Ok(*head)
    }

    pub fn bool(&mut self) -> Result<bool, Garbled> {
        Ok(self.take::<1>()? != [0])
    }

    pub fn int16(&mut self) -> Result<i16, Garbled> {
        self.take().map(i16::from_be_bytes)
    }

    pub fn int32(&mut self) -> Result<i32, Garbled> {
        self.take().map(i32::from_be_bytes)
    }

    fn part(&mut self, length: usize) -> Result<&'a [u8], Garbled> {
        let (part, rest) = self.0.split_at_checked(length).ok_or(Garbled)?;
        self.0 = rest;
        Ok(part)
    }

    /// Null counts as empty.
    pub fn text(&mut self) -> Result<String, Garbled> {
        let length = usize::try_from(self.int16()?).unwrap_or_default();
        Ok(String::from_utf8_lossy(self.part(length)?).into_owned())
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Garbled> {
        let length = usize::try_from(self.int32()?).unwrap_or_default();
        self.part(length)
    }

    /// Every element with this function. Each takes at least a byte, so the answer's own length bounds them.
    pub fn list<T>(&mut self, mut element: impl FnMut(&mut Self) -> Result<T, Garbled>) -> Result<Vec<T>, Garbled> {
        let count = usize::try_from(self.int32()?).unwrap_or_default();
        if count > self.0.len() {
            return Err(Garbled);
        }
        (0..count).map(|_| element(self)).collect()
    }
}

/// Bits of what a principal may do, as Kafka numbers its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(i32);

impl Rights {
    pub const READ: u8 = 3;
    pub const WRITE: u8 = 4;

    /// `None`: the broker does not say.
    pub fn may(self, operation: u8) -> Option<bool> {
        (self.0 != i32::MIN).then(|| self.0 >> operation & 1 == 1)
    }
}

/// A topic as the broker tells it.
#[derive(Debug)]
pub struct TopicAnswer {
    pub error: i16,
    pub name: String,
    pub partitions: usize,
    pub rights: Rights,
}

/// The cluster as the broker tells it.
#[derive(Debug)]
pub struct Metadata {
    /// Host and port under which clients are told to find each broker.
    pub brokers: Vec<(String, i32)>,
    pub topics: Vec<TopicAnswer>,
}

pub const METADATA: i16 = 3;
/// With the rights on topics.
pub const METADATA_VERSION: i16 = 8;

pub fn ask_metadata(request: Request, topics: &[String]) -> Request {
    // No topic is made by asking; rights on the cluster are not asked for, those on topics are.
    request.texts(topics).int8(0).int8(0).int8(1)
}

pub fn metadata(answer: &mut Answer<'_>) -> Result<Metadata, Garbled> {
    let _throttle = answer.int32()?;
    let brokers = answer.list(|broker| {
        let _id = broker.int32()?;
        let place = (broker.text()?, broker.int32()?);
        let _rack = broker.text()?;
        Ok(place)
    })?;
    let _cluster = answer.text()?;
    let _controller = answer.int32()?;
    let topics = answer.list(|topic| {
        let (error, name, _internal) = (topic.int16()?, topic.text()?, topic.bool()?);
        let partitions = topic.list(|partition| {
            let _error = partition.int16()?;
            let (_index, _leader, _epoch) = (partition.int32()?, partition.int32()?, partition.int32()?);
            for _replicas in 0..3 {
                partition.list(Answer::int32)?;
            }
            Ok(())
        })?;
        Ok(TopicAnswer { error, name, partitions: partitions.len(), rights: Rights(topic.int32()?) })
    })?;
    Ok(Metadata { brokers, topics })
}

pub const FIND_COORDINATOR: i16 = 10;

pub fn ask_coordinator(request: Request, group: &str) -> Request {
    request.text(group).int8(0)
}

/// Error and place.
pub fn coordinator(answer: &mut Answer<'_>) -> Result<(i16, String, i32), Garbled> {
    let _throttle = answer.int32()?;
    let (error, _message, _node) = (answer.int16()?, answer.text()?, answer.int32()?);
    Ok((error, answer.text()?, answer.int32()?))
}

pub const DESCRIBE_GROUPS: i16 = 15;

pub fn ask_group(request: Request, group: &str) -> Request {
    request.texts(&[group.to_owned()]).int8(1)
}

/// Error and rights.
pub fn group(answer: &mut Answer<'_>) -> Result<(i16, Rights), Garbled> {
    let _throttle = answer.int32()?;
    let mut groups = answer.list(|group| {
        let error = group.int16()?;
        let (_id, _state, _type, _protocol) = (group.text()?, group.text()?, group.text()?, group.text()?);
        group.list(|member| {
            let (_id, _client, _host) = (member.text()?, member.text()?, member.text()?);
            let (_metadata, _assignment) = (member.bytes()?, member.bytes()?);
            Ok(())
        })?;
        Ok((error, Rights(group.int32()?)))
    })?;
    groups.pop().ok_or(Garbled)
}

pub const SASL_HANDSHAKE: i16 = 17;

/// Error and the mechanisms that the listener takes.
pub fn handshake(answer: &mut Answer<'_>) -> Result<(i16, Vec<String>), Garbled> {
    Ok((answer.int16()?, answer.list(Answer::text)?))
}

pub const SASL_AUTHENTICATE: i16 = 36;

/// Error, its text, and what the server says.
pub fn authenticated(answer: &mut Answer<'_>) -> Result<(i16, String, Vec<u8>), Garbled> {
    Ok((answer.int16()?, answer.text()?, answer.bytes()?.to_vec()))
}

pub const API_VERSIONS: i16 = 18;

/// Error, and the newest version of each request that the broker takes.
pub fn versions(answer: &mut Answer<'_>) -> Result<(i16, Vec<(i16, i16)>), Garbled> {
    let error = answer.int16()?;
    let versions = answer.list(|api| {
        let (key, _oldest, newest) = (api.int16()?, api.int16()?, api.int16()?);
        Ok((key, newest))
    })?;
    Ok((error, versions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_strangers_port_answers_is_no_panic() {
        for bytes in [&[][..], &[0x15, 3, 3, 0], &[0xff; 40], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
            let mut answer = Answer(bytes);
            let read = metadata(&mut answer).is_ok() && group(&mut Answer(bytes)).is_ok() && versions(&mut Answer(bytes)).is_ok();
            assert!(!read, "{bytes:?}");
        }
    }

    #[test]
    fn rights_that_the_broker_does_not_tell_are_not_taken_for_missing() {
        assert_eq!(Rights(i32::MIN).may(Rights::READ), None);
        assert_eq!(Rights(0b1000).may(Rights::READ), Some(true));
        assert_eq!(Rights(0b1000).may(Rights::WRITE), Some(false));
    }
}
