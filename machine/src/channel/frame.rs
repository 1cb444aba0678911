//! Frames: kind (1 byte), tag (the nonce's first 3 bytes), payload length (u32 little-endian, at
//! most [`MAX_PAYLOAD`]), payload. The decoder holds one frame and a read's worth more, whatever the
//! other side sends.

use std::io::{self, Read};

use super::MAX_PAYLOAD;
use super::opening::Nonce;

/// Bytes before the payload.
pub const HEADER: usize = 8;
/// How much one [`Decoder::fill`] asks for.
const READ_SIZE: usize = 64 * 1024;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A piece of the request.
    Request = 1,
    /// The request is complete; no payload.
    RequestEnd = 2,
    /// Bytes for the command's standard input, or of the file being put.
    Input = 3,
    /// End of that; no payload.
    InputEnd = 4,
    /// A signal for the command's process group: u8.
    Signal = 5,
    /// New terminal size: rows, columns, u16 little-endian each.
    Resize = 6,
    /// Input bytes consumed: u32 little-endian.
    Credit = 7,
    /// Bytes from standard output.
    Output = 8,
    /// Bytes from standard error.
    ErrorOutput = 9,
    /// The command ended: 0 and the exit code, or 1 and the signal.
    Exit = 10,
    /// The file is wanted: send it.
    Ready = 11,
    /// Done: the file is in place, or the order is being carried out.
    Stored = 12,
    /// The request could not be met; the payload says why.
    Failed = 13,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Request,
            2 => Self::RequestEnd,
            3 => Self::Input,
            4 => Self::InputEnd,
            5 => Self::Signal,
            6 => Self::Resize,
            7 => Self::Credit,
            8 => Self::Output,
            9 => Self::ErrorOutput,
            10 => Self::Exit,
            11 => Self::Ready,
            12 => Self::Stored,
            13 => Self::Failed,
            _ => return None,
        })
    }
}

/// Why bytes are not frames of this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No such kind.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// A frame of another session.
    #[error("frame of another session")]
    Tag,
    /// Longer than any frame.
    #[error("frame of {0} bytes")]
    Length(u32),
}

/// Appends one frame to `out`. Payloads beyond [`MAX_PAYLOAD`] are cut into several frames.
pub fn encode(out: &mut Vec<u8>, nonce: &Nonce, kind: Kind, payload: &[u8]) {
    let mut rest = payload;
    loop {
        let (now, later) = rest.split_at(rest.len().min(MAX_PAYLOAD));
        out.push(kind as u8);
        out.extend_from_slice(&nonce.tag());
        // At most MAX_PAYLOAD.
        out.extend_from_slice(&u32::try_from(now.len()).unwrap_or(0).to_le_bytes());
        out.extend_from_slice(now);
        rest = later;
        if rest.is_empty() {
            return;
        }
    }
}

/// Cuts a byte stream into frames.
#[derive(Debug)]
pub struct Decoder {
    nonce: Nonce,
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// `already` is what was read past the opening.
    pub fn new(nonce: Nonce, already: Vec<u8>) -> Self {
        Self { nonce, buffer: already, start: 0 }
    }

    /// Reads once from `source`; the count is 0 at its end. Call only when [`Self::next`] has none.
    pub fn fill(&mut self, source: &mut impl Read) -> io::Result<usize> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let held = self.buffer.len();
        self.buffer.resize(held + READ_SIZE, 0);
        let result = source.read(&mut self.buffer[held..]);
        self.buffer.truncate(held + result.as_ref().copied().unwrap_or(0));
        result
    }

    /// The next whole frame, if there is one.
    #[expect(clippy::should_implement_trait, reason = "lends from the decoder")]
    pub fn next(&mut self) -> Result<Option<(Kind, &[u8])>, FrameError> {
        let Some(header) = self.buffer[self.start..].first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [kind, tag0, tag1, tag2, length @ ..] = *header;
        let kind = Kind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
        if [tag0, tag1, tag2] != self.nonce.tag() {
            return Err(FrameError::Tag);
        }
        let length = u32::from_le_bytes(length);
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size > MAX_PAYLOAD {
            return Err(FrameError::Length(length));
        }
        let payload = self.start + HEADER;
        let end = payload + size;
        if end > self.buffer.len() {
            return Ok(None);
        }
        self.start = end;
        Ok(Some((kind, &self.buffer[payload..end])))
    }

    /// Whether [`Self::next`] would return a frame; an error where it would.
    pub fn has_frame(&mut self) -> Result<bool, FrameError> {
        let start = self.start;
        let found = self.next()?.is_some();
        self.start = start;
        Ok(found)
    }

    /// What is left when the session is over: the next opening may be in it.
    pub fn into_rest(mut self) -> Vec<u8> {
        self.buffer.drain(..self.start);
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: Nonce = Nonce([7; 16]);

    fn frames(bytes: &[u8], chunk: usize) -> Result<Vec<(Kind, Vec<u8>)>, FrameError> {
        let mut decoder = Decoder::new(NONCE, Vec::new());
        let mut found = Vec::new();
        for mut piece in bytes.chunks(chunk) {
            while !piece.is_empty() {
                decoder.fill(&mut piece).unwrap();
            }
            while let Some((kind, payload)) = decoder.next()? {
                found.push((kind, payload.to_vec()));
            }
        }
        Ok(found)
    }

    #[test]
    fn frames_survive_any_cut() {
        let mut bytes = Vec::new();
        encode(&mut bytes, &NONCE, Kind::Output, b"hello");
        encode(&mut bytes, &NONCE, Kind::InputEnd, b"");
        encode(&mut bytes, &NONCE, Kind::Exit, &[0, 3]);
        assert_eq!(&bytes[..HEADER], [8, 7, 7, 7, 5, 0, 0, 0]);
        let expected = vec![
            (Kind::Output, b"hello".to_vec()),
            (Kind::InputEnd, Vec::new()),
            (Kind::Exit, vec![0, 3]),
        ];
        for chunk in 1..bytes.len() {
            assert_eq!(frames(&bytes, chunk).unwrap(), expected, "cut every {chunk}");
        }
    }

    #[test]
    fn a_long_payload_becomes_several_frames() {
        let mut bytes = Vec::new();
        encode(&mut bytes, &NONCE, Kind::Output, &vec![1; 2 * MAX_PAYLOAD + 5]);
        let lengths: Vec<usize> =
            frames(&bytes, 4096).unwrap().iter().map(|(_, payload)| payload.len()).collect();
        assert_eq!(lengths, [MAX_PAYLOAD, MAX_PAYLOAD, 5]);
    }

    #[test]
    fn foreign_frames_are_refused() {
        let mut bytes = Vec::new();
        encode(&mut bytes, &Nonce([8; 16]), Kind::Output, b"x");
        assert_eq!(frames(&bytes, 64), Err(FrameError::Tag));
        assert_eq!(frames(&[0; 64], 64), Err(FrameError::Kind(0)));
        assert_eq!(frames(&[8, 7, 7, 7, 1, 0, 1, 0], 64), Err(FrameError::Length(0x1_0001)));
    }

    #[test]
    fn zeros_end_any_unfinished_frame() {
        // A host that died in the middle of the longest frame: the zeros complete it, and what
        // follows is then no frame.
        let mut bytes = Vec::new();
        encode(&mut bytes, &NONCE, Kind::Input, &vec![1; MAX_PAYLOAD]);
        bytes.truncate(HEADER + 10);
        bytes.resize(bytes.len() + MAX_PAYLOAD + HEADER, 0);
        assert_eq!(frames(&bytes, 4096), Err(FrameError::Kind(0)));
    }
}
