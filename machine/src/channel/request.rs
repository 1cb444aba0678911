//! What the host asks for. Fields are length-prefixed (u32 little-endian) bytes, because arguments,
//! paths and environment need not be text.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// Largest encoded request in bytes: well under the kernel's own limit on arguments and environment.
pub const MAX_REQUEST: usize = 1024 * 1024;

/// Terminal size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// A command to run in the parent, as root, in a session of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Run {
    /// Program and arguments; the program is looked for on `PATH`.
    pub argv: Vec<OsString>,
    /// Added to (or replacing parts of) the agent's own small environment.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory; `/` when none is given.
    pub cwd: Option<OsString>,
    /// Whether input frames follow; otherwise standard input is empty.
    pub input: bool,
    /// A terminal of this size for all three standard streams, where one is wanted.
    pub terminal: Option<TerminalSize>,
}

/// A file to put into the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Absolute path; folders above it are made.
    pub path: OsString,
    /// Permission bits.
    pub mode: u32,
    /// Bytes that follow.
    pub size: u64,
    /// SHA-256 of them; the file appears under its name only when it matches.
    pub sha256: [u8; 32],
    /// Whether a file of that name and size is taken to be this one (names made from the hash).
    pub keep_existing: bool,
}

/// One session's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run a command.
    Run(Run),
    /// Store a file.
    Put(Put),
    /// End every process, then switch the parent off.
    PowerOff,
}

/// A request that does not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed request: {0}")]
pub struct RequestError(&'static str);

impl Request {
    /// The bytes that go into `Request` frames.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Run(run) => {
                out.push(1);
                put_count(&mut out, run.argv.len());
                for argument in &run.argv {
                    put_bytes(&mut out, argument.as_bytes());
                }
                put_count(&mut out, run.env.len());
                for (name, value) in &run.env {
                    put_bytes(&mut out, name.as_bytes());
                    put_bytes(&mut out, value.as_bytes());
                }
                out.push(u8::from(run.cwd.is_some()));
                put_bytes(&mut out, run.cwd.as_deref().unwrap_or_default().as_bytes());
                out.push(u8::from(run.input));
                out.push(u8::from(run.terminal.is_some()));
                let size = run.terminal.unwrap_or(TerminalSize { rows: 0, columns: 0 });
                out.extend_from_slice(&size.rows.to_le_bytes());
                out.extend_from_slice(&size.columns.to_le_bytes());
            }
            Self::Put(put) => {
                out.push(2);
                put_bytes(&mut out, put.path.as_bytes());
                out.extend_from_slice(&put.mode.to_le_bytes());
                out.extend_from_slice(&put.size.to_le_bytes());
                out.extend_from_slice(&put.sha256);
                out.push(u8::from(put.keep_existing));
            }
            Self::PowerOff => out.push(3),
        }
        out
    }

    /// The reverse; trailing bytes are refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, RequestError> {
        let mut input = Input(bytes);
        let request = match input.u8()? {
            1 => {
                let argv = (0..input.count()?).map(|_| input.string()).collect::<Result<_, _>>()?;
                let env = (0..input.count()?)
                    .map(|_| Ok((input.string()?, input.string()?)))
                    .collect::<Result<_, _>>()?;
                let has_cwd = input.flag()?;
                let cwd = input.string()?;
                let wants_input = input.flag()?;
                let has_terminal = input.flag()?;
                let rows = u16::from_le_bytes(input.array()?);
                let columns = u16::from_le_bytes(input.array()?);
                Self::Run(Run {
                    argv,
                    env,
                    cwd: has_cwd.then_some(cwd),
                    input: wants_input,
                    terminal: has_terminal.then_some(TerminalSize { rows, columns }),
                })
            }
            2 => Self::Put(Put {
                path: input.string()?,
                mode: u32::from_le_bytes(input.array()?),
                size: u64::from_le_bytes(input.array()?),
                sha256: input.array()?,
                keep_existing: input.flag()?,
            }),
            3 => Self::PowerOff,
            _ => return Err(RequestError("unknown kind")),
        };
        if input.0.is_empty() { Ok(request) } else { Err(RequestError("trailing bytes")) }
    }
}

/// Requests are bounded by [`MAX_REQUEST`] before they are sent, so lengths always fit.
fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], RequestError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(RequestError("cut short"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, RequestError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Result<bool, RequestError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RequestError("a flag is neither 0 nor 1")),
        }
    }

    /// A count of things of at least one byte each, so it cannot promise more than is there.
    fn count(&mut self) -> Result<usize, RequestError> {
        let count = usize::try_from(u32::from_le_bytes(self.array()?)).unwrap_or(usize::MAX);
        if count > self.0.len() { Err(RequestError("cut short")) } else { Ok(count) }
    }

    fn string(&mut self) -> Result<OsString, RequestError> {
        let length = self.count()?;
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(OsString::from_vec(head.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> [Request; 4] {
        [
            Request::Run(Run {
                argv: vec!["sh".into(), "-c".into(), OsString::from_vec(vec![0xff, b'\n', 0xfe])],
                env: vec![("A".into(), "".into()), ("B".into(), "=".into())],
                cwd: Some("/tmp".into()),
                input: true,
                terminal: Some(TerminalSize { rows: 24, columns: 80 }),
            }),
            Request::Run(Run { argv: vec!["true".into()], ..Run::default() }),
            Request::Put(Put {
                path: "/run/x".into(),
                mode: 0o755,
                size: u64::MAX,
                sha256: [3; 32],
                keep_existing: true,
            }),
            Request::PowerOff,
        ]
    }

    #[test]
    fn requests_survive_the_wire() {
        for request in examples() {
            assert_eq!(Request::decode(&request.encode()).as_ref(), Ok(&request));
        }
    }

    #[test]
    fn cut_or_extended_requests_are_refused() {
        for request in examples() {
            let bytes = request.encode();
            for length in 0..bytes.len() {
                assert!(Request::decode(&bytes[..length]).is_err(), "{request:?} at {length}");
            }
            assert!(Request::decode(&[bytes, vec![0]].concat()).is_err());
        }
    }

    #[test]
    fn counts_that_lie_allocate_nothing() {
        assert_eq!(Request::decode(&[1, 0xff, 0xff, 0xff, 0xff]), Err(RequestError("cut short")));
    }
}
