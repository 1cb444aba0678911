//! The console of a debug enclave: the last [`CAPACITY`] bytes, and readers that each have a place in the stream. A reader that falls so far behind that its
//! place is overwritten is dropped; nothing ever waits for one.

use std::collections::VecDeque;

/// Bytes kept.
pub const CAPACITY: usize = 256 * 1024;

/// The kept end of a stream; positions count from its beginning.
#[derive(Debug, Default)]
pub struct ConsoleRing {
    kept: VecDeque<u8>,
    end: u64,
}

impl ConsoleRing {
    /// Adds what the guest wrote. Memory grows as it is used, to [`CAPACITY`].
    pub fn push(&mut self, bytes: &[u8]) {
        self.end += bytes.len() as u64;
        let bytes = bytes.get(bytes.len().saturating_sub(CAPACITY)..).unwrap_or(bytes);
        let excess = (self.kept.len() + bytes.len()).saturating_sub(CAPACITY);
        self.kept.drain(..excess);
        self.kept.extend(bytes);
    }

    /// Where the kept part begins.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.end - self.kept.len() as u64
    }

    /// Where the next byte goes.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// What is kept from `position` on, as far as it lies in one piece; `None` if that has been overwritten.
    #[must_use]
    pub fn from(&self, position: u64) -> Option<&[u8]> {
        let skip = usize::try_from(position.checked_sub(self.start())?).ok()?;
        let (first, second) = self.kept.as_slices();
        match skip.checked_sub(first.len()) {
            None => first.get(skip..),
            Some(skip) => second.get(skip..),
        }
    }

    /// The last `limit` bytes as text, what does not print replaced.
    #[must_use]
    pub fn tail(&self, limit: usize) -> String {
        let skip = self.kept.len().saturating_sub(limit);
        let bytes: Vec<u8> = self.kept.iter().skip(skip).copied().collect();
        String::from_utf8_lossy(&bytes)
            .chars()
            .filter(|c| *c != '\r')
            .map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(ring: &ConsoleRing, mut position: u64) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        while position < ring.end() {
            let piece = ring.from(position)?;
            all.extend_from_slice(piece);
            position += piece.len() as u64;
        }
        Some(all)
    }

    #[test]
    fn history_then_what_comes() {
        let mut ring = ConsoleRing::default();
        ring.push(b"one ");
        let at = ring.end();
        ring.push(b"two");
        assert_eq!(read_all(&ring, 0).unwrap(), b"one two");
        assert_eq!(read_all(&ring, at).unwrap(), b"two");
        assert_eq!(ring.from(ring.end()).unwrap(), b"");
        assert!(ring.from(ring.end() + 1).is_none());
    }

    #[test]
    fn it_never_holds_more_and_says_what_is_lost() {
        let mut ring = ConsoleRing::default();
        for number in 0..600_u32 {
            ring.push(&[u8::try_from(number % 251).unwrap(); 1000]);
        }
        assert_eq!(ring.end() - ring.start(), CAPACITY as u64);
        assert!(ring.from(ring.start() - 1).is_none());
        let kept = read_all(&ring, ring.start()).unwrap();
        assert_eq!(kept.len(), CAPACITY);
        assert_eq!(kept.last(), Some(&u8::try_from(599_u32 % 251).unwrap()));
        ring.push(&vec![7; CAPACITY * 3]);
        assert_eq!(read_all(&ring, ring.start()).unwrap(), vec![7; CAPACITY]);
    }

    #[test]
    fn the_tail_prints() {
        let mut ring = ConsoleRing::default();
        ring.push(b"abc\x1b[2Jpanic\r\n\xff");
        assert_eq!(ring.tail(100), "abc\u{fffd}[2Jpanic\n\u{fffd}");
        assert_eq!(ring.tail(1), "\u{fffd}");
    }
}
