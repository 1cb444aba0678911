//! How a session begins: 8 bytes of magic and a 16-byte nonce, found in a stream that may begin with
//! anything. See the module's head for why.

/// What the host sends.
pub const START: [u8; 8] = *b"\xf5em-go1>";
/// What the agent answers.
pub const ECHO: [u8; 8] = *b"\xf5em-go1<";

/// 16 random bytes that name a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 16]);

impl Nonce {
    /// The three bytes each frame carries.
    pub fn tag(&self) -> [u8; 3] {
        [self.0[0], self.0[1], self.0[2]]
    }

    /// An opening: `magic` and the nonce.
    pub fn opening(&self, magic: [u8; 8]) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&magic);
        bytes[8..].copy_from_slice(&self.0);
        bytes
    }
}

/// Looks for an opening in a stream, keeping no more than it needs.
#[derive(Debug)]
pub struct Scanner {
    magic: [u8; 8],
    expected: Option<Nonce>,
    held: Vec<u8>,
}

impl Scanner {
    /// For the agent: any nonce after [`START`].
    pub fn for_start() -> Self {
        Self { magic: START, expected: None, held: Vec::new() }
    }

    /// For the host: [`ECHO`] with its own nonce.
    pub fn for_echo(nonce: Nonce) -> Self {
        Self { magic: ECHO, expected: Some(nonce), held: Vec::new() }
    }

    /// Takes the next bytes; when an opening is complete, its nonce and the bytes after it.
    pub fn push(&mut self, bytes: &[u8]) -> Option<(Nonce, Vec<u8>)> {
        self.held.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(at) = self.find_magic(from) {
            let Some(nonce) = self.held[at + 8..].first_chunk::<16>() else {
                self.held.drain(..at);
                return None;
            };
            let nonce = Nonce(*nonce);
            if self.expected.is_none_or(|expected| expected == nonce) {
                let rest = self.held.split_off(at + 24);
                self.held.clear();
                return Some((nonce, rest));
            }
            from = at + 1;
        }
        // The magic may be cut: its first seven bytes could be the last seven here.
        let keep = self.held.len().min(7);
        self.held.drain(..self.held.len() - keep);
        None
    }

    fn find_magic(&self, from: usize) -> Option<usize> {
        self.held[from..].windows(8).position(|window| window == self.magic).map(|at| from + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: Nonce = Nonce(*b"0123456789abcdef");

    #[test]
    fn an_opening_is_found_however_it_is_cut() {
        let mut stream = b"leftovers\0\xf5em-go1".to_vec();
        stream.extend_from_slice(&NONCE.opening(START));
        stream.extend_from_slice(b"after");
        for chunk in 1..stream.len() {
            let mut scanner = Scanner::for_start();
            let mut found = None;
            let mut after = Vec::new();
            for piece in stream.chunks(chunk) {
                if found.is_some() {
                    after.extend_from_slice(piece);
                } else if let Some((nonce, rest)) = scanner.push(piece) {
                    found = Some(nonce);
                    after = rest;
                }
            }
            assert_eq!(found, Some(NONCE), "cut every {chunk}");
            assert_eq!(after, b"after", "cut every {chunk}");
        }
    }

    #[test]
    fn an_echo_for_somebody_else_is_passed_over() {
        let mut scanner = Scanner::for_echo(NONCE);
        assert_eq!(scanner.push(&Nonce([9; 16]).opening(ECHO)), None);
        assert_eq!(scanner.push(&NONCE.opening(START)), None);
        assert_eq!(scanner.push(&NONCE.opening(ECHO)), Some((NONCE, Vec::new())));
    }

    #[test]
    fn memory_stays_small_without_an_opening() {
        let mut scanner = Scanner::for_start();
        for _ in 0..100 {
            assert_eq!(scanner.push(&[0xf5; 4096]), None);
            assert!(scanner.held.len() < 24);
        }
    }
}
