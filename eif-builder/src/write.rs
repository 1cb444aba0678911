//! Writing an EIF, version 4, in the order of AWS's builder: kernel, command line, metadata,
//! ramdisks, signature. Sections are streamed: each byte is checksummed, measured and written once,
//! and the numbers that are only known afterwards (sizes, CRC) are put in place at the end. The file
//! gets its name when it is complete and on disk, so a failed build leaves nothing, and nobody ever
//! sees half an image.

use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::format::{
    Architecture, CRC_AT, DEFAULT_CPUS, DEFAULT_CPUS_AT, DEFAULT_MEMORY, DEFAULT_MEMORY_AT,
    FLAGS_AT, HEADER_LEN, MAGIC, MAX_METADATA, MAX_SECTIONS, MAX_SIGNATURE, SECTION_COUNT_AT,
    SECTION_HEADER_LEN, SECTION_OFFSETS_AT, SECTION_SIZES_AT, SectionKind, VERSION, VERSION_AT,
};
use crate::measure::{Measurements, Measurer};

mod output;

use output::OutputFile;

/// Bytes read from a source, and gathered before a write, at a time.
const CHUNK: usize = 128 * 1024;

/// An image in the making. Dropped before [`EifWriter::finish`], it leaves nothing behind.
pub struct EifWriter {
    file: OutputFile,
    output: PathBuf,
    architecture: Architecture,
    sections: Vec<Done>,
    /// Of everything after the file header.
    crc: crc32fast::Hasher,
    measurer: Measurer,
    position: u64,
    /// A section was begun and not ended: its source failed, and the file is of no use any more.
    broken: bool,
}

struct Done {
    kind: SectionKind,
    offset: u64,
    size: u64,
}

/// A finished image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Written {
    /// Of the sections as they were written. PCR8 is never set: a signed image is measured by
    /// [`Measurements::of`].
    pub measurements: Measurements,
    /// Bytes of the file.
    pub size: u64,
    /// The CRC in its header.
    pub crc: u32,
}

impl EifWriter {
    /// Starts an image that will be at `output`, replacing what is there.
    ///
    /// # Errors
    /// [`Error::Io`] where no file can be made in that folder.
    pub fn create(output: &Path, architecture: Architecture) -> Result<Self, Error> {
        let file =
            OutputFile::create(output).map_err(Error::io("create a file in", folder_of(output)))?;
        let mut writer = Self {
            file,
            output: output.to_owned(),
            architecture,
            sections: Vec::new(),
            crc: crc32fast::Hasher::new(),
            measurer: Measurer::new(),
            position: 0,
            broken: false,
        };
        // The place of the header, which is only known at the end.
        writer.append(&[0; HEADER_LEN])?;
        Ok(writer)
    }

    /// Adds a section of exactly `size` bytes.
    ///
    /// # Errors
    /// [`Error::SectionOrder`], [`Error::TooManySections`], [`Error::Length`] where the source is
    /// shorter or longer, [`Error::Copy`] where it cannot be read, [`Error::Io`].
    pub fn section(
        &mut self,
        kind: SectionKind,
        size: u64,
        source: &mut dyn Read,
    ) -> Result<(), Error> {
        self.section_with(kind, |sink| {
            let copied = copy(source, sink, &kind.to_string())?;
            if copied != size {
                let what = kind.to_string();
                return Err(Error::Length { what, found: copied, expected: size });
            }
            Ok(())
        })
    }

    /// Adds a section of whatever `fill` writes.
    ///
    /// # Errors
    /// What `fill` returns; [`Error::SectionOrder`], [`Error::TooManySections`],
    /// [`Error::MetadataSize`], [`Error::SignatureSize`], [`Error::Io`].
    pub fn section_with(
        &mut self,
        kind: SectionKind,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.check_order(kind)?;
        self.broken = true;
        let offset = self.position;
        self.append(&[0; SECTION_HEADER_LEN])?;
        self.measurer.begin(kind);
        let mut sink = Sink::new(self);
        fill(&mut sink)?;
        let (size, data_crc) = sink.finish().map_err(Error::io("write", &self.output))?;
        match kind {
            SectionKind::Metadata if size > MAX_METADATA => {
                return Err(Error::MetadataSize { size });
            }
            SectionKind::Signature if size > MAX_SIGNATURE => {
                return Err(Error::SignatureSize { size });
            }
            _ => {}
        }
        let mut header = [0; SECTION_HEADER_LEN];
        put(&mut header, 0, &kind.code().to_be_bytes());
        put(&mut header, 4, &size.to_be_bytes());
        self.write_at(&header, offset)?;
        self.crc.update(&header);
        self.crc.combine(&data_crc);
        self.sections.push(Done { kind, offset, size });
        self.broken = false;
        Ok(())
    }

    /// Completes the file, waits until it is on disk and gives it its name.
    ///
    /// # Errors
    /// [`Error::SectionTally`] where kernel, command line or metadata is missing, [`Error::Unfinished`]
    /// after a section that failed, [`Error::Io`].
    pub fn finish(self) -> Result<Written, Error> {
        if self.broken {
            return Err(Error::Unfinished);
        }
        for kind in [SectionKind::Kernel, SectionKind::Cmdline, SectionKind::Metadata] {
            if !self.sections.iter().any(|section| section.kind == kind) {
                return Err(Error::SectionTally { kind, count: 0, expected: "exactly one" });
            }
        }
        let mut header = self.header();
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[..CRC_AT]);
        crc.combine(&self.crc);
        let crc = crc.finalize();
        put(&mut header, CRC_AT, &crc.to_be_bytes());
        self.write_at(&header, 0)?;
        let output = self.output;
        self.file.persist(&output).map_err(Error::io("write", &output))?;
        Ok(Written { measurements: self.measurer.finish(), size: self.position, crc })
    }

    /// The file header without its CRC.
    fn header(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        put(&mut header, 0, &MAGIC);
        put(&mut header, VERSION_AT, &VERSION.to_be_bytes());
        put(&mut header, FLAGS_AT, &self.architecture.flags().to_be_bytes());
        put(&mut header, DEFAULT_MEMORY_AT, &DEFAULT_MEMORY.to_be_bytes());
        put(&mut header, DEFAULT_CPUS_AT, &DEFAULT_CPUS.to_be_bytes());
        let mut count: u16 = 0;
        for (slot, section) in self.sections.iter().enumerate() {
            put(&mut header, SECTION_OFFSETS_AT + 8 * slot, &section.offset.to_be_bytes());
            put(&mut header, SECTION_SIZES_AT + 8 * slot, &section.size.to_be_bytes());
            count += 1;
        }
        put(&mut header, SECTION_COUNT_AT, &count.to_be_bytes());
        header
    }

    fn check_order(&self, kind: SectionKind) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Unfinished);
        }
        if self.sections.len() == MAX_SECTIONS {
            return Err(Error::TooManySections);
        }
        let previous = self.sections.last().map(|section| section.kind);
        let allowed = match previous {
            None => kind == SectionKind::Kernel,
            Some(SectionKind::Kernel) => kind == SectionKind::Cmdline,
            Some(SectionKind::Cmdline) => kind == SectionKind::Metadata,
            Some(SectionKind::Metadata | SectionKind::Ramdisk) => {
                matches!(kind, SectionKind::Ramdisk | SectionKind::Signature)
            }
            Some(SectionKind::Signature) => false,
        };
        if allowed {
            return Ok(());
        }
        let previous = previous.map_or_else(|| "the start".to_owned(), |kind| kind.to_string());
        Err(Error::SectionOrder { kind, previous })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.append_raw(bytes).map_err(Error::io("write", &self.output))
    }

    fn append_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.file().write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.file.file().write_all_at(bytes, offset).map_err(Error::io("write", &self.output))
    }
}

/// The data of one section on its way: gathered into chunks, then measured, checksummed, written.
struct Sink<'a> {
    writer: &'a mut EifWriter,
    pending: Vec<u8>,
    crc: crc32fast::Hasher,
    size: u64,
}

impl<'a> Sink<'a> {
    fn new(writer: &'a mut EifWriter) -> Self {
        let pending = Vec::with_capacity(CHUNK);
        Self { writer, pending, crc: crc32fast::Hasher::new(), size: 0 }
    }

    fn pass_on(&mut self) -> io::Result<()> {
        self.crc.update(&self.pending);
        self.writer.measurer.update(&self.pending);
        self.writer.append_raw(&self.pending)?;
        self.pending.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<(u64, crc32fast::Hasher)> {
        self.pass_on()?;
        Ok((self.size, self.crc))
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let take = bytes.len().min(CHUNK - self.pending.len());
        self.pending.extend_from_slice(&bytes[..take]);
        self.size += take as u64;
        if self.pending.len() == CHUNK {
            self.pass_on()?;
        }
        Ok(take)
    }

    /// Does nothing: whoever fills the section does not decide when it is written.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies everything and says how much that was; `what` is named when reading or writing fails.
pub(crate) fn copy(source: &mut dyn Read, sink: &mut dyn Write, what: &str) -> Result<u64, Error> {
    let failed = |source| Error::Copy { what: what.to_owned(), source };
    let mut buffer = vec![0; CHUNK];
    let mut copied = 0;
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        sink.write_all(&buffer[..count]).map_err(failed)?;
        copied += count as u64;
    }
}

/// The folder a file is in; `.` for a bare name.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Offsets are constants within arrays of fixed size.
fn put(header: &mut [u8], at: usize, field: &[u8]) {
    header[at..at + field.len()].copy_from_slice(field);
}

#[cfg(test)]
mod tests;
