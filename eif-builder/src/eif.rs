//! Reading an EIF in memory. Sections are found by the file header's tables, as AWS's own loader
//! does, and everything on which readers could disagree is then a finding: gaps, overlaps, trailing
//! bytes, sizes that differ, a wrong CRC (nitro.md 1.1 to 1.4). [`Eif::parse`] takes only files
//! without findings and is what launches an image; [`Eif::read`] also takes files with findings, so
//! that they can be described. Nothing is copied and nothing here allocates by a number from the file.

use std::fmt;

use crate::Error;
use crate::format::{
    Architecture, CRC_AT, FLAGS_AT, HEADER_LEN, MAGIC, MAX_SECTIONS, OLDEST_VERSION,
    SECTION_COUNT_AT, SECTION_HEADER_LEN, SECTION_OFFSETS_AT, SECTION_SIZES_AT, SectionKind,
    VERSION, VERSION_AT,
};

mod lint;

/// One section of a file.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Section<'a> {
    /// What it holds.
    pub kind: SectionKind,
    /// Where its 12-byte header is in the file.
    pub offset: u64,
    /// Its data, as long as its own header says.
    pub data: &'a [u8],
    /// Its flags; zero in files without findings.
    pub flags: u16,
    /// Its size in the table of the file header; equal to the data's in files without findings.
    pub table_size: u64,
}

impl Section<'_> {
    /// Where its data is in the file.
    #[must_use]
    pub const fn data_offset(&self) -> u64 {
        self.offset + SECTION_HEADER_LEN as u64
    }

    /// Where it ends in the file.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.data_offset() + self.data.len() as u64
    }
}

/// The checksum in the header and the one of the bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Crc {
    /// At offset 0x220.
    pub stored: u32,
    /// Over everything else.
    pub computed: u32,
}

impl Crc {
    /// Whether the two are equal.
    #[must_use]
    pub const fn is_right(self) -> bool {
        self.stored == self.computed
    }
}

/// An enclave image, borrowed from the bytes of its file.
#[derive(Clone, Eq, PartialEq)]
pub struct Eif<'a> {
    bytes: &'a [u8],
    version: u16,
    architecture: Architecture,
    sections: Vec<Section<'a>>,
    kernel: &'a [u8],
    cmdline: &'a [u8],
    crc: Crc,
}

impl<'a> Eif<'a> {
    /// Reads a file that must be right in every respect.
    ///
    /// # Errors
    /// As [`Eif::read`], else the first of [`Eif::findings`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let eif = Self::read(bytes)?;
        match eif.findings().into_iter().next() {
            None => Ok(eif),
            Some(finding) => Err(finding),
        }
    }

    /// Reads a file whose sections can be told apart, whatever else is wrong with it.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Magic`], [`Error::Version`], [`Error::Flags`],
    /// [`Error::SectionCount`], [`Error::SectionType`], [`Error::SectionTally`] where there is not
    /// exactly one kernel and one command line.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let magic: [u8; 4] =
            field(bytes, 0).ok_or_else(|| cut("file header", 0, HEADER_LEN, bytes))?;
        if magic != MAGIC {
            return Err(Error::Magic { found: magic });
        }
        if bytes.len() < HEADER_LEN {
            return Err(cut("file header", 0, HEADER_LEN, bytes));
        }
        let version = u16_at(bytes, VERSION_AT);
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(Error::Version { version });
        }
        let architecture = match u16_at(bytes, FLAGS_AT) {
            0 => Architecture::X86_64,
            1 => Architecture::Aarch64,
            flags => return Err(Error::Flags { flags }),
        };
        let count = u16_at(bytes, SECTION_COUNT_AT);
        if !(2..=MAX_SECTIONS).contains(&usize::from(count)) {
            return Err(Error::SectionCount { count });
        }
        let sections = (0..usize::from(count))
            .map(|index| section(bytes, index))
            .collect::<Result<Vec<_>, _>>()?;
        let crc = Crc { stored: u32_at(bytes, CRC_AT), computed: checksum(bytes) };
        let kernel = only(&sections, SectionKind::Kernel)?;
        let cmdline = only(&sections, SectionKind::Cmdline)?;
        Ok(Self { bytes, version, architecture, sections, kernel, cmdline, crc })
    }

    /// Everything that is wrong with the file, the weightiest first; empty for a good one. At most
    /// a few per section.
    #[must_use]
    pub fn findings(&self) -> Vec<Error> {
        lint::findings(self)
    }

    /// The format's version, 2 to 4.
    #[must_use]
    pub const fn version(&self) -> u16 {
        self.version
    }

    /// The machine it is for.
    #[must_use]
    pub const fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// All sections in the order of the file header's tables.
    #[must_use]
    pub fn sections(&self) -> &[Section<'a>] {
        &self.sections
    }

    /// The kernel's bytes.
    #[must_use]
    pub const fn kernel(&self) -> &'a [u8] {
        self.kernel
    }

    /// The command line; UTF-8 without NUL in files without findings.
    #[must_use]
    pub const fn cmdline(&self) -> &'a [u8] {
        self.cmdline
    }

    /// The ramdisks in order.
    pub fn ramdisks(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.sections
            .iter()
            .filter(|section| section.kind == SectionKind::Ramdisk)
            .map(|section| section.data)
    }

    /// The metadata's JSON; present in every version 4 file without findings.
    #[must_use]
    pub fn metadata(&self) -> Option<&'a [u8]> {
        self.first(SectionKind::Metadata).map(|section| section.data)
    }

    /// The signature section's CBOR, for [`crate::signature`].
    #[must_use]
    pub fn signature(&self) -> Option<&'a [u8]> {
        self.first(SectionKind::Signature).map(|section| section.data)
    }

    /// The checksums.
    #[must_use]
    pub const fn crc(&self) -> Crc {
        self.crc
    }

    fn first(&self, kind: SectionKind) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.kind == kind)
    }
}

/// Without the data: images are large.
impl fmt::Debug for Section<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:#x}, {} bytes", self.kind, self.offset, self.data.len())
    }
}

impl fmt::Debug for Eif<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eif")
            .field("version", &self.version)
            .field("architecture", &self.architecture)
            .field("sections", &self.sections)
            .field("crc", &self.crc)
            .finish_non_exhaustive()
    }
}

fn section(bytes: &[u8], index: usize) -> Result<Section<'_>, Error> {
    let offset = u64_at(bytes, SECTION_OFFSETS_AT + 8 * index);
    let truncated = |what: String, offset: u64, needed: u64| Error::Truncated {
        what,
        offset,
        needed,
        present: (bytes.len() as u64).saturating_sub(offset),
    };
    let start = usize::try_from(offset).ok();
    let header = start.and_then(|start| field::<SECTION_HEADER_LEN>(bytes, start));
    let (Some(start), Some(header)) = (start, header) else {
        let what = format!("header of section {index}");
        return Err(truncated(what, offset, SECTION_HEADER_LEN as u64));
    };
    let code = u16_at(&header, 0);
    let kind =
        SectionKind::from_code(code).ok_or(Error::SectionType { section: index, offset, code })?;
    let size = u64_at(&header, 4);
    // The header fits, so its end neither overflows nor lies beyond the file.
    let begin = start + SECTION_HEADER_LEN;
    let data = usize::try_from(size)
        .ok()
        .and_then(|size| bytes.get(begin..begin.checked_add(size)?))
        .ok_or_else(|| {
            truncated(format!("data of section {index} ({kind})"), begin as u64, size)
        })?;
    let table_size = u64_at(bytes, SECTION_SIZES_AT + 8 * index);
    Ok(Section { kind, offset, data, flags: u16_at(&header, 2), table_size })
}

/// The data of the one section of this kind.
fn only<'a>(sections: &[Section<'a>], kind: SectionKind) -> Result<&'a [u8], Error> {
    let mut of_kind = sections.iter().filter(|section| section.kind == kind);
    match (of_kind.next(), of_kind.count()) {
        (Some(section), 0) => Ok(section.data),
        (first, more) => {
            let count = more + usize::from(first.is_some());
            Err(Error::SectionTally { kind, count, expected: "exactly one" })
        }
    }
}

/// CRC-32 of the file without its own field (nitro.md 1.3).
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(bytes.get(..CRC_AT).unwrap_or(bytes));
    crc.update(bytes.get(HEADER_LEN..).unwrap_or_default());
    crc.finalize()
}

fn cut(what: &str, offset: u64, needed: usize, bytes: &[u8]) -> Error {
    Error::Truncated {
        what: what.to_owned(),
        offset,
        needed: needed as u64,
        present: bytes.len() as u64,
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Big-endian; callers have checked that the field is there.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    field(bytes, at).map_or(0, u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    field(bytes, at).map_or(0, u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    field(bytes, at).map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests;
