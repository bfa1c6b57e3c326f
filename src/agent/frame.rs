//! Bytes <-> frames. Pure: nothing is read or written here.
//!
//! A frame is a header of twelve bytes and at most [`MAX_PAYLOAD`] bytes of payload:
//!
//! ```text
//! kind u8 | length u24 | session u32 | crc32 u32 of all before it and payload (little endian)
//! ```
//!
//! An attach outlives its client. The bytes that a dead client sent lie in the stream before those
//! of the next one, and may end in the middle of a frame. So each client begins with [`opening`]:
//! as many zero bytes as the rest of a frame can need (between frames they are skipped), then
//! [`MAGIC`], then its Hello. The zeros complete an open frame, which then fails its checksum; from
//! there the far end looks for the magic. In the other direction, the near end discards everything
//! until it reads [`MAGIC`] and its own nonce.

/// The first bytes of a Hello and a Welcome. The first one is not a [`Kind`].
pub const MAGIC: [u8; 16] = *b"\xf5fastbuild\xf5\r\n\0\x1a\xf5";

/// The largest payload of a frame, in bytes.
pub const MAX_PAYLOAD: usize = (32 << 10) - HEADER;

/// The length of a frame's header, in bytes.
pub const HEADER: usize = 12;

/// The largest message, in bytes: lists of paths are messages, contents are not.
pub const MAX_MESSAGE: usize = 64 << 20;

/// The length of a nonce, in bytes.
pub const NONCE: usize = 16;

/// Distinguishes one client from all others: random bytes.
pub type Nonce = [u8; NONCE];

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The last part of a message.
    Message,
    /// A part of a message that is not the last.
    MessagePart,
    /// A piece of a stream of data. The message before it says which stream.
    Data,
    /// The stream of data is complete.
    DataEnd,
    /// The stream of data is broken off; the payload says why, as text.
    DataFailed,
    /// Standard output of the command.
    Stdout,
    /// Standard error of the command.
    Stderr,
    /// A client's first frame: its nonce, then its message. Directly follows [`MAGIC`].
    Hello,
    /// The answer: the client's nonce, then a message. Directly follows [`MAGIC`].
    Welcome,
}

impl Kind {
    const ALL: [(Kind, u8); 9] = [
        (Kind::Message, 1),
        (Kind::MessagePart, 2),
        (Kind::Data, 3),
        (Kind::DataEnd, 4),
        (Kind::DataFailed, 5),
        (Kind::Stdout, 6),
        (Kind::Stderr, 7),
        (Kind::Hello, 8),
        (Kind::Welcome, 9),
    ];

    fn byte(self) -> u8 {
        Kind::ALL.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, byte)| *byte)
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        Kind::ALL.iter().find(|(_, known)| *known == byte).map(|(kind, _)| *kind)
    }
}

/// What was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A client's first message. The session before it is over.
    Hello {
        /// The client's nonce.
        nonce: Nonce,
        /// The encoded message.
        message: Vec<u8>,
    },
    /// The answer to a Hello.
    Welcome {
        /// The encoded message.
        message: Vec<u8>,
    },
    /// A whole message, encoded.
    Message(Vec<u8>),
    /// A piece of data.
    Data(Vec<u8>),
    /// The data is complete.
    DataEnd,
    /// The data is broken off.
    DataFailed(String),
    /// Standard output of the command.
    Stdout(Vec<u8>),
    /// Standard error of the command.
    Stderr(Vec<u8>),
}

/// Why the stream cannot be read further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame whose checksum, kind, length or session is wrong. The far end looks for the next
    /// [`MAGIC`]; the near end gives up.
    #[error("a damaged frame")]
    Damaged,
    /// A message of more than [`MAX_MESSAGE`].
    #[error("a message of more than {MAX_MESSAGE} bytes")]
    TooLong,
}

/// The session number of a nonce. Every frame of the session carries it.
pub fn session_of(nonce: &Nonce) -> u32 {
    u32::from_le_bytes([nonce[0], nonce[1], nonce[2], nonce[3]])
}

/// Appends one frame to `out`. `payload` has at most [`MAX_PAYLOAD`] bytes.
pub fn push_frame(out: &mut Vec<u8>, session: u32, kind: Kind, payload: &[u8]) {
    debug_assert!(payload.len() <= MAX_PAYLOAD, "frames are cut by the callers below");
    let start = out.len();
    let [a, b, c, _] = (payload.len() as u32).to_le_bytes();
    out.extend_from_slice(&[kind.byte(), a, b, c]);
    out.extend_from_slice(&session.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&out[start..]);
    crc.update(payload);
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(payload);
}

/// Appends a message, in as many frames as needed.
pub fn push_message(out: &mut Vec<u8>, session: u32, message: &[u8]) {
    let mut rest = message;
    while rest.len() > MAX_PAYLOAD {
        let (part, after) = rest.split_at(MAX_PAYLOAD);
        push_frame(out, session, Kind::MessagePart, part);
        rest = after;
    }
    push_frame(out, session, Kind::Message, rest);
}

/// Appends bytes of a kind that can be cut anywhere: data, standard output, standard error.
pub fn push_bytes(out: &mut Vec<u8>, session: u32, kind: Kind, bytes: &[u8]) {
    for part in bytes.chunks(MAX_PAYLOAD) {
        push_frame(out, session, kind, part);
    }
}

/// A client's first bytes: the filler, the magic, and its Hello. `message` is short.
pub fn opening(nonce: &Nonce, message: &[u8]) -> Vec<u8> {
    let mut out = vec![0; HEADER + MAX_PAYLOAD];
    push_greeting(&mut out, nonce, Kind::Hello, message);
    out
}

/// Appends the answer to a Hello.
pub fn push_welcome(out: &mut Vec<u8>, nonce: &Nonce, message: &[u8]) {
    push_greeting(out, nonce, Kind::Welcome, message);
}

fn push_greeting(out: &mut Vec<u8>, nonce: &Nonce, kind: Kind, message: &[u8]) {
    out.extend_from_slice(&MAGIC);
    push_frame(out, session_of(nonce), kind, &[nonce, message].concat());
}

/// The end at which a [`Decoder`] works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In the workspace: accepts any Hello, at any time.
    Far,
    /// The client with this nonce: accepts nothing before the Welcome that carries it.
    Near(Nonce),
}

/// Assembles frames from the bytes that come.
#[derive(Debug)]
pub struct Decoder {
    end: End,
    received: Vec<u8>,
    /// How far `received` has been used.
    at: usize,
    /// `None` until there is a valid greeting.
    session: Option<u32>,
    /// The parts of a message so far.
    parts: Vec<u8>,
}

impl Decoder {
    /// A decoder that has received nothing yet.
    pub fn new(end: End) -> Decoder {
        Decoder { end, received: Vec::new(), at: 0, session: None, parts: Vec::new() }
    }

    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at > 0 && (self.at == self.received.len() || self.at > (1 << 20)) {
            self.received.drain(..self.at);
            self.at = 0;
        }
        self.received.extend_from_slice(bytes);
    }

    /// Whether bytes are left that are in no [`Received`] yet.
    pub fn has_rest(&self) -> bool {
        self.at < self.received.len()
    }

    /// The next complete item; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`]. The far end then looks for the next Hello; the near end's stream is over.
    pub fn next_received(&mut self) -> Result<Option<Received>, FrameError> {
        loop {
            if self.session.is_none() && !self.seek_greeting() {
                return Ok(None);
            }
            let rest = &self.received[self.at..];
            match rest.first() {
                None => return Ok(None),
                Some(0) => {
                    self.at += rest.iter().take_while(|byte| **byte == 0).count();
                    continue;
                }
                Some(&first) if first == MAGIC[0] => {
                    if rest.len() < MAGIC.len() {
                        return Ok(None);
                    }
                    if !rest.starts_with(&MAGIC) {
                        return Err(self.lost());
                    }
                    match self.greeting() {
                        Ok(Some(received)) => return Ok(Some(received)),
                        Ok(None) => return Ok(None),
                        // Data that contains the magic by chance.
                        Err(_) if self.session.is_none() => self.at += 1,
                        Err(error) => return Err(error),
                    }
                }
                Some(_) => match self.frame(self.at, self.session)? {
                    None => return Ok(None),
                    Some((kind, from, to)) => {
                        self.at = to;
                        if let Some(received) = self.understand(kind, from, to)? {
                            return Ok(Some(received));
                        }
                    }
                },
            }
        }
    }

    /// Moves to the next magic; returns whether there is one.
    fn seek_greeting(&mut self) -> bool {
        let rest = &self.received[self.at..];
        let mut from = 0;
        while let Some(found) = rest[from..].iter().position(|byte| *byte == MAGIC[0]) {
            let candidate = &rest[from + found..];
            if candidate.starts_with(&MAGIC)
                || (candidate.len() < MAGIC.len() && MAGIC.starts_with(candidate))
            {
                self.at += from + found;
                return candidate.len() >= MAGIC.len();
            }
            from += found + 1;
        }
        self.at = self.received.len();
        false
    }

    /// Reads the greeting at `self.at`, which has the magic.
    fn greeting(&mut self) -> Result<Option<Received>, FrameError> {
        let Some((kind, from, to)) = self.frame(self.at + MAGIC.len(), None)? else { return Ok(None) };
        let payload = &self.received[from..to];
        let Some((nonce, message)) = payload.split_first_chunk::<NONCE>() else { return Err(self.lost()) };
        let (nonce, message) = (*nonce, message.to_vec());
        let received = match (self.end, kind) {
            (End::Far, Kind::Hello) => Received::Hello { nonce, message },
            (End::Near(own), Kind::Welcome) if own == nonce => Received::Welcome { message },
            _ => return Err(self.lost()),
        };
        self.at = to;
        self.session = Some(session_of(&nonce));
        self.parts.clear();
        Ok(Some(received))
    }

    /// The frame at `start`, if it is complete: its kind, and where its payload begins and ends.
    fn frame(
        &mut self,
        start: usize,
        session: Option<u32>,
    ) -> Result<Option<(Kind, usize, usize)>, FrameError> {
        let rest = &self.received[start..];
        let Some(header) = rest.first_chunk::<HEADER>() else { return Ok(None) };
        let [kind, a, b, c, s0, s1, s2, s3, crc @ ..] = *header;
        let length = u32::from_le_bytes([a, b, c, 0]) as usize;
        let same_session = session.is_none_or(|expected| expected == u32::from_le_bytes([s0, s1, s2, s3]));
        let Some(kind) = Kind::from_byte(kind).filter(|_| length <= MAX_PAYLOAD && same_session) else {
            return Err(self.lost());
        };
        let Some(payload) = rest.get(HEADER..HEADER + length) else { return Ok(None) };
        let mut sum = crc32fast::Hasher::new();
        sum.update(&header[..8]);
        sum.update(payload);
        if sum.finalize() != u32::from_le_bytes(crc) {
            return Err(self.lost());
        }
        Ok(Some((kind, start + HEADER, start + HEADER + length)))
    }

    fn understand(&mut self, kind: Kind, from: usize, to: usize) -> Result<Option<Received>, FrameError> {
        let payload = &self.received[from..to];
        Ok(Some(match kind {
            Kind::MessagePart | Kind::Message => {
                if self.parts.len() + payload.len() > MAX_MESSAGE {
                    self.session = None;
                    return Err(FrameError::TooLong);
                }
                self.parts.extend_from_slice(payload);
                if kind == Kind::MessagePart {
                    return Ok(None);
                }
                Received::Message(std::mem::take(&mut self.parts))
            }
            Kind::Data => Received::Data(payload.to_vec()),
            Kind::DataEnd => Received::DataEnd,
            Kind::DataFailed => Received::DataFailed(String::from_utf8_lossy(payload).into_owned()),
            Kind::Stdout => Received::Stdout(payload.to_vec()),
            Kind::Stderr => Received::Stderr(payload.to_vec()),
            // They came without the magic before them.
            Kind::Hello | Kind::Welcome => return Err(self.lost()),
        }))
    }

    /// From here on only a greeting is accepted.
    fn lost(&mut self) -> FrameError {
        self.session = None;
        self.parts.clear();
        FrameError::Damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE_A: Nonce = [7; NONCE];
    const NONCE_B: Nonce = [9; NONCE];

    fn drain(decoder: &mut Decoder) -> Vec<Result<Received, FrameError>> {
        let mut all = Vec::new();
        loop {
            match decoder.next_received() {
                Ok(None) => return all,
                Ok(Some(received)) => all.push(Ok(received)),
                Err(error) => all.push(Err(error)),
            }
        }
    }

    fn client(nonce: &Nonce, text: &[u8]) -> Vec<u8> {
        let mut bytes = opening(nonce, b"hello");
        push_message(&mut bytes, session_of(nonce), text);
        push_bytes(&mut bytes, session_of(nonce), Kind::Data, &vec![0xf5; MAX_PAYLOAD + 5]);
        push_frame(&mut bytes, session_of(nonce), Kind::DataEnd, b"");
        bytes
    }

    fn received(nonce: &Nonce, text: &[u8]) -> Vec<Received> {
        vec![
            Received::Hello { nonce: *nonce, message: b"hello".to_vec() },
            Received::Message(text.to_vec()),
            Received::Data(vec![0xf5; MAX_PAYLOAD]),
            Received::Data(vec![0xf5; 5]),
            Received::DataEnd,
        ]
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let long = vec![3; MAX_PAYLOAD * 2 + 17];
        let bytes = client(&NONCE_A, &long);
        for size in [1, 7, 4096, 1 << 20] {
            let mut decoder = Decoder::new(End::Far);
            let mut all = Vec::new();
            for part in bytes.chunks(size) {
                decoder.push(part);
                all.extend(drain(&mut decoder));
            }
            let all: Vec<_> = all.into_iter().map(Result::unwrap).collect();
            assert_eq!(all, received(&NONCE_A, &long), "in pieces of {size}");
        }
    }

    #[test]
    fn a_client_that_died_at_any_byte_does_not_keep_the_next_one_out() {
        let first = client(&NONCE_A, b"run something");
        let second = client(&NONCE_B, b"run something else");
        let step = |at: &usize| {
            *at > HEADER + MAX_PAYLOAD - 30 && *at < HEADER + MAX_PAYLOAD + 130 || at.is_multiple_of(9973)
        };
        for cut in (0..=first.len()).filter(step) {
            let mut decoder = Decoder::new(End::Far);
            decoder.push(&first[..cut]);
            drain(&mut decoder);
            decoder.push(&second);
            let all = drain(&mut decoder);
            let from_second: Vec<_> = all.into_iter().filter_map(Result::ok).collect();
            let expected = received(&NONCE_B, b"run something else");
            assert!(from_second.ends_with(&expected), "cut at {cut}: {}", from_second.len());
            // Nothing that the first client sent only in part is taken for complete.
            let before = &from_second[..from_second.len() - expected.len()];
            assert!(received(&NONCE_A, b"run something").starts_with(before), "cut at {cut}");
        }
    }

    #[test]
    fn a_client_does_not_hear_what_was_meant_for_another() {
        let mut stream = Vec::new();
        push_bytes(&mut stream, session_of(&NONCE_A), Kind::Stdout, &MAGIC.repeat(3));
        push_welcome(&mut stream, &NONCE_A, b"not for you");
        push_bytes(&mut stream, session_of(&NONCE_A), Kind::Data, b"cut in the middle");
        stream.truncate(stream.len() - 3);
        push_welcome(&mut stream, &NONCE_B, b"welcome");
        push_bytes(&mut stream, session_of(&NONCE_B), Kind::Stderr, b"x");
        let mut decoder = Decoder::new(End::Near(NONCE_B));
        let mut all = Vec::new();
        for byte in stream {
            decoder.push(&[byte]);
            all.extend(drain(&mut decoder).into_iter().filter_map(Result::ok));
        }
        assert_eq!(
            all,
            [Received::Welcome { message: b"welcome".to_vec() }, Received::Stderr(b"x".to_vec())]
        );
    }

    #[test]
    fn a_flipped_bit_is_no_message() {
        let mut bytes = opening(&NONCE_A, b"hello");
        let from = bytes.len();
        push_message(&mut bytes, session_of(&NONCE_A), b"delete nothing");
        for at in from..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let mut decoder = Decoder::new(End::Far);
                decoder.push(&damaged);
                let all = drain(&mut decoder);
                let messages = all.iter().filter(|one| matches!(one, Ok(Received::Message(_)))).count();
                assert_eq!(messages, 0, "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_message_that_never_ends_is_cut_off() {
        let mut decoder = Decoder::new(End::Far);
        decoder.push(&opening(&NONCE_A, b"hello"));
        drain(&mut decoder);
        let mut part = Vec::new();
        push_frame(&mut part, session_of(&NONCE_A), Kind::MessagePart, &[1; MAX_PAYLOAD]);
        let mut ended = false;
        for _ in 0..=MAX_MESSAGE / MAX_PAYLOAD + 1 {
            decoder.push(&part);
            ended |= drain(&mut decoder).contains(&Err(FrameError::TooLong));
        }
        assert!(ended);
    }
}
