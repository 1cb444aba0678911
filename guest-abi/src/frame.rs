//! Frames on ports 9001 and 9002: a u32 big-endian length, then that many bytes. The limit is checked
//! before anything is allocated, so a peer's four bytes cannot make us reserve memory.

use std::io::{self, Read, Write};

use crate::Error;

/// Bytes of the length field.
pub const HEADER: usize = 4;

/// Reads one frame of at most `limit` bytes.
///
/// # Errors
/// [`Error::FrameTooLong`] when the peer announces more, [`Error::FrameCut`] when the stream ends first
/// (`got` 0 of [`HEADER`]: it ended between frames), [`Error::Io`] for the rest, time-outs among them.
pub fn read(stream: &mut impl Read, limit: usize) -> Result<Vec<u8>, Error> {
    let mut header = [0; HEADER];
    fill(stream, &mut header)?;
    let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(Error::FrameTooLong { length, limit });
    }
    let mut body = vec![0; length];
    fill(stream, &mut body)?;
    Ok(body)
}

/// Writes `body` as one frame, with a single `write` so that it does not leave in two packets.
///
/// # Errors
/// [`Error::FrameTooLong`] when `body` is over `limit` (nothing is written), [`Error::Io`] for the rest.
pub fn write(stream: &mut impl Write, body: &[u8], limit: usize) -> Result<(), Error> {
    let frame = encode(body, limit)?;
    stream.write_all(&frame)?;
    stream.flush()?;
    Ok(())
}

/// The bytes of one frame, for callers with a buffer of their own (the VMM's event loop).
///
/// # Errors
/// [`Error::FrameTooLong`] when `body` is over `limit`.
pub fn encode(body: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    let length = body.len();
    let too_long = Error::FrameTooLong { length, limit };
    let header = match u32::try_from(length) {
        Ok(header) if length <= limit => header.to_be_bytes(),
        _ => return Err(too_long),
    };
    let mut frame = Vec::with_capacity(HEADER + length);
    frame.extend_from_slice(&header);
    frame.extend_from_slice(body);
    Ok(frame)
}

/// Looks for one whole frame at the start of `bytes`, for callers that collect bytes as they come.
/// Gives its body and the number of bytes it took, or `None` while more are needed.
///
/// # Errors
/// [`Error::FrameTooLong`] as soon as the header announces more than `limit`.
pub fn split(bytes: &[u8], limit: usize) -> Result<Option<(&[u8], usize)>, Error> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(Error::FrameTooLong { length, limit });
    }
    Ok(rest.get(..length).map(|body| (body, HEADER + length)))
}

/// `read_exact` that says how far it came.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> Result<(), Error> {
    let expected = buffer.len();
    let mut got = 0;
    while got < expected {
        match stream.read(&mut buffer[got..]) {
            Ok(0) => return Err(Error::FrameCut { got, expected }),
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives its bytes one at a time, with an interruption before each, as a slow peer would.
    struct Trickle<'a>(&'a [u8], bool);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            buffer[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        write(&mut out, b"abc", 3).unwrap();
        assert_eq!(out, [0, 0, 0, 3, b'a', b'b', b'c']);
        assert_eq!(read(&mut Trickle(&out, false), 3).unwrap(), b"abc");
    }

    #[test]
    fn an_empty_frame_is_a_frame() {
        assert_eq!(read(&mut &[0_u8; 4][..], 0).unwrap(), b"");
        assert_eq!(split(&[0; 5], 0).unwrap(), Some((&[][..], 4)));
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_the_body_comes() {
        let huge = [0xff; 4];
        let limit = 4096;
        assert!(matches!(
            read(&mut &huge[..], limit),
            Err(Error::FrameTooLong { length: 0xffff_ffff, limit: 4096 })
        ));
        assert!(matches!(split(&huge, limit), Err(Error::FrameTooLong { .. })));
        assert!(matches!(encode(&[0; 5], 4), Err(Error::FrameTooLong { length: 5, limit: 4 })));
    }

    #[test]
    fn a_cut_frame_says_where_it_was_cut() {
        let frame = encode(b"hello", 16).unwrap();
        for end in 0..frame.len() {
            let error = read(&mut &frame[..end], 16).unwrap_err();
            let (at, due) = if end < HEADER { (end, HEADER) } else { (end - HEADER, 5) };
            assert!(
                matches!(error, Error::FrameCut { got, expected } if got == at && expected == due)
            );
            assert_eq!(split(&frame[..end], 16).unwrap(), None);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(body in proptest::collection::vec(any::<u8>(), 0..300), tail in 0_usize..9) {
            let mut bytes = encode(&body, 300).unwrap();
            let length = bytes.len();
            bytes.extend(std::iter::repeat_n(0xaa, tail));
            prop_assert_eq!(read(&mut &bytes[..], 300).unwrap(), body.clone());
            prop_assert_eq!(split(&bytes, 300).unwrap(), Some((&body[..], length)));
        }

        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(body) = read(&mut &bytes[..], 32) {
                prop_assert!(body.len() <= 32);
            }
            if let Ok(Some((body, used))) = split(&bytes, 32) {
                prop_assert!(body.len() <= 32 && used <= bytes.len());
            }
        }
    }
}
