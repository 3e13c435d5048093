//! The revocation feed as it comes in: server-sent events, a message or chunk each.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use identity::feed::{Line, MAX_LINE};

use crate::authority::exchange::Endless;
use crate::error::{AnswerFault, Error};

/// Messages of the feed and chunks of its snapshots, in the order in which the CA sent them, none of
/// them verified: that is for [`identity::feed::Envelope::verify`] and [`identity::feed::FeedState`].
#[derive(Debug)]
pub struct FeedStream {
    answer: Endless,
    events: Events,
}

impl FeedStream {
    pub(crate) fn new(answer: Endless) -> Self {
        Self { answer, events: Events::default() }
    }

    /// The next line; none once the CA ends the stream, as it does when it stops, and with
    /// subscribers that are slow or whose certificate has come to its end.
    ///
    /// Fails where nothing comes for longer than heartbeats take, and for anything that is no
    /// line of a feed. May be dropped at any await.
    pub async fn next(&mut self) -> Result<Option<Line>, Error> {
        loop {
            if let Some(line) = self.events.next_data().map_err(|fault| self.unexpected(fault))? {
                let line = Line::parse(&line);
                return line.map(Some).map_err(|_| self.unexpected(AnswerFault::Shape));
            }
            match tokio::time::timeout(READ_TIMEOUT, self.answer.next()).await {
                Ok(next) => match next? {
                    Some(bytes) => self.events.buffer.extend_from_slice(&bytes),
                    None => return Ok(None),
                },
                Err(elapsed) => {
                    let (url, source) = (self.answer.url.clone(), elapsed.into());
                    return Err(Error::Unreachable { url, source });
                }
            }
        }
    }

    /// Whether it ended only because the CA's certificate did: whoever asks again meets the next one.
    pub(crate) fn has_expired(&self) -> bool {
        self.answer.has_expired()
    }

    fn unexpected(&self, fault: AnswerFault) -> Error {
        Error::UnexpectedAnswer { url: self.answer.url.clone(), status: 200, fault }
    }
}

/// The data lines of an event stream (WHATWG HTML §9.2.6); ours is one line an event.
#[derive(Debug, Default)]
struct Events {
    buffer: BytesMut,
    /// So much of the buffer has no line break.
    searched: usize,
}

impl Events {
    fn next_data(&mut self) -> Result<Option<Bytes>, AnswerFault> {
        loop {
            let rest = &self.buffer[self.searched..];
            let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
                self.searched = self.buffer.len();
                let fits = self.buffer.len() <= MAX_EVENT;
                return if fits { Ok(None) } else { Err(AnswerFault::TooLarge) };
            };
            let line = self.buffer.split_to(self.searched + length + 1).freeze();
            self.searched = 0;
            let line = line.slice(..line.len() - 1 - usize::from(line.ends_with(b"\r\n")));
            if let Some(data) = line.strip_prefix(b"data:") {
                let data = data.strip_prefix(b" ").unwrap_or(data);
                return Ok(Some(line.slice_ref(data)));
            }
        }
    }
}

const MAX_EVENT: usize = MAX_LINE + b"data: \r\n".len();
/// Four heartbeats: the CA, or the way to it, is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(8);

#[cfg(test)]
mod tests {
    use super::*;

    fn data(events: &mut Events) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| events.next_data().unwrap()).map(Vec::from).collect()
    }

    #[test]
    fn events_are_read_however_they_are_cut() {
        let stream = b": hello\r\nevent: x\r\ndata: one\r\n\r\ndata:two\n\ndata: three";
        for cut in 1..stream.len() {
            let mut events = Events::default();
            let mut read = Vec::new();
            for piece in stream.chunks(cut) {
                events.buffer.extend_from_slice(piece);
                read.append(&mut data(&mut events));
            }
            assert_eq!(read, [&b"one"[..], b"two"], "the third has no end yet");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut events = Events::default();
        events.buffer.extend_from_slice(&vec![b'a'; MAX_EVENT]);
        assert_eq!(events.next_data(), Ok(None));
        events.buffer.extend_from_slice(b"a");
        assert_eq!(events.next_data(), Err(AnswerFault::TooLarge));
    }
}
