//! Reading tar archives as layers use them: ustar, with PAX records or GNU's long names (POSIX.1-2017
//! pax, "ustar Interchange Format" and "pax Extended Header"). Every length is checked before it is
//! believed, and what is held in memory is bounded: a layer is written by strangers.

use std::io::{self, Read};

mod header;
mod records;

use header::Header;
pub(super) use header::TarKind;
use records::Overrides;

/// Bytes of a header, and what data is padded to.
const BLOCK: usize = 512;

/// The longest PAX header or long name, in bytes.
const MAX_EXTENSION: u64 = 1 << 20;

/// One member of the archive.
#[derive(Debug)]
pub(super) struct TarEntry {
    pub(super) path: Vec<u8>,
    pub(super) kind: TarKind,
    /// Of a hard link or symlink.
    pub(super) target: Vec<u8>,
    /// The low 12 bits of the mode.
    pub(super) permissions: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Bytes of data; 0 for everything but files.
    pub(super) size: u64,
    /// Major and minor of a device.
    pub(super) device: (u32, u32),
    /// Extended attributes it has, which a cpio archive cannot hold.
    pub(super) xattrs: usize,
}

/// Why the archive cannot be read on: for the message.
#[derive(Debug)]
pub(super) struct TarError {
    /// In the archive, after decompression.
    pub(super) offset: u64,
    pub(super) problem: String,
}

pub(super) struct TarReader<R> {
    input: R,
    position: u64,
    /// Data of the current member that nobody has read yet, and its padding.
    unread: u64,
    padding: u64,
}

impl<R: Read> TarReader<R> {
    pub(super) const fn new(input: R) -> Self {
        Self { input, position: 0, unread: 0, padding: 0 }
    }

    /// The next member, or `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<TarEntry>, TarError> {
        let mut overrides = Overrides::default();
        loop {
            self.skip()?;
            let start = self.position;
            let at_start = |problem: String| TarError { offset: start, problem };
            let Some(block) = self.block()? else {
                if overrides.is_empty() {
                    return Ok(None);
                }
                return Err(at_start("the archive ends after an extended header".to_owned()));
            };
            let header = Header::parse(&block).map_err(at_start)?;
            match header.flag {
                b'x' => {
                    let bytes = self.extension(&header)?;
                    overrides.read_pax(&bytes).map_err(at_start)?;
                }
                b'g' => {
                    let bytes = self.extension(&header)?;
                    records::check_global(&bytes).map_err(at_start)?;
                }
                b'L' => overrides.path = Some(records::gnu_name(self.extension(&header)?)),
                b'K' => overrides.target = Some(records::gnu_name(self.extension(&header)?)),
                _ => {
                    let entry = header.into_entry(overrides).map_err(at_start)?;
                    self.expect_data(entry.size);
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// Reads on to the end of the input behind the archive.
    pub(super) fn finish(mut self) -> Result<R, TarError> {
        let offset = self.position;
        io::copy(&mut self.input, &mut io::sink()).map_err(|error| failed(offset, &error))?;
        Ok(self.input)
    }

    fn expect_data(&mut self, size: u64) {
        self.unread = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// Passes over what is left of the current member.
    fn skip(&mut self) -> Result<(), TarError> {
        let rest = self.unread.saturating_add(self.padding);
        let offset = self.position;
        let skipped = io::copy(&mut (&mut self.input).take(rest), &mut io::sink())
            .map_err(|error| failed(offset, &error))?;
        self.position += skipped;
        self.unread = 0;
        self.padding = 0;
        if skipped < rest {
            let problem = format!("the archive ends {} bytes too soon", rest - skipped);
            return Err(TarError { offset: self.position, problem });
        }
        Ok(())
    }

    /// The next header, or `None` at a block of zeros or the end of the input.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => {
                    let problem = "the archive ends inside a header".to_owned();
                    return Err(TarError { offset: self.position, problem });
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(self.position, &error)),
            }
        }
        self.position += BLOCK as u64;
        Ok(block.iter().any(|byte| *byte != 0).then_some(block))
    }

    /// All the data of a PAX header or long name.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let offset = self.position;
        if header.size > MAX_EXTENSION {
            let problem =
                format!("extended header of {} bytes, the limit is {MAX_EXTENSION}", header.size);
            return Err(TarError { offset, problem });
        }
        self.expect_data(header.size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(|error| failed(offset, &error))?;
        Ok(bytes)
    }
}

/// The data of the current member. Its end being the end of the input is noticed by the next member.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.unread).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.input.read(&mut buffer[..most])?;
        self.unread -= count as u64;
        self.position += count as u64;
        Ok(count)
    }
}

fn failed(offset: u64, error: &io::Error) -> TarError {
    TarError { offset, problem: error.to_string() }
}

#[cfg(test)]
mod tests;
