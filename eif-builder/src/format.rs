//! The numbers of the enclave image format (EIF), as AWS's tools write it: offsets, limits and
//! section types, each in one place (nitro.md 1.1 and 1.2). Every integer is big-endian and nothing
//! is padded or aligned.

use std::fmt;

/// The first four bytes of the file.
pub const MAGIC: [u8; 4] = *b".eif";

/// The version that is written; metadata is mandatory in it.
pub const VERSION: u16 = 4;

/// The oldest version that is read; 0 and 1 never left AWS.
pub const OLDEST_VERSION: u16 = 2;

/// Bytes of the file header.
pub const HEADER_LEN: usize = 0x224;

/// Bytes of a section header: u16 type, u16 flags, u64 size.
pub const SECTION_HEADER_LEN: usize = 12;

/// Slots in the tables of the file header.
pub const MAX_SECTIONS: usize = 32;

/// The longest signature section, in bytes.
pub const MAX_SIGNATURE: u64 = 32768;

/// The longest metadata section that is read, in bytes. Ours, so that describing a hostile file
/// takes bounded memory; AWS's tools set no limit and write a few hundred bytes.
pub const MAX_METADATA: u64 = 1 << 20;

/// u16.
pub const VERSION_AT: usize = 0x004;
/// u16, bit 0 is the architecture.
pub const FLAGS_AT: usize = 0x006;
/// u64, bytes. Nobody reads it.
pub const DEFAULT_MEMORY_AT: usize = 0x008;
/// u64. Nobody reads it.
pub const DEFAULT_CPUS_AT: usize = 0x010;
/// u16, zero.
pub const RESERVED_AT: usize = 0x018;
/// u16.
pub const SECTION_COUNT_AT: usize = 0x01a;
/// 32 × u64: where in the file each section's header is.
pub const SECTION_OFFSETS_AT: usize = 0x01c;
/// 32 × u64: bytes of each section's data, without its header.
pub const SECTION_SIZES_AT: usize = 0x11c;
/// u32, zero.
pub const RESERVED_2_AT: usize = 0x21c;
/// u32: CRC-32 of the file without these four bytes (nitro.md 1.3).
pub const CRC_AT: usize = 0x220;

/// What AWS's builder writes at [`DEFAULT_MEMORY_AT`]: 1 GiB.
pub const DEFAULT_MEMORY: u64 = 1 << 30;

/// What AWS's builder writes at [`DEFAULT_CPUS_AT`].
pub const DEFAULT_CPUS: u64 = 2;

/// The machine an image is for, bit 0 of the file's flags.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Architecture {
    /// 64-bit x86; the kernel is a bzImage.
    X86_64,
    /// 64-bit Arm; the kernel is an uncompressed `Image`.
    Aarch64,
}

impl Architecture {
    /// The file's flags.
    #[must_use]
    pub const fn flags(self) -> u16 {
        match self {
            Self::X86_64 => 0,
            Self::Aarch64 => 1,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        })
    }
}

/// What a section holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SectionKind {
    /// The kernel; exactly one.
    Kernel,
    /// The kernel's command line, without NUL; exactly one.
    Cmdline,
    /// A cpio archive for the kernel to unpack; the first boots, the others are the application.
    Ramdisk,
    /// COSE signature over PCR0, with its certificate; at most one, since version 3.
    Signature,
    /// JSON that labels the image; exactly one, since version 4.
    Metadata,
}

impl SectionKind {
    /// The type as it is in the file.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Kernel => 1,
            Self::Cmdline => 2,
            Self::Ramdisk => 3,
            Self::Signature => 4,
            Self::Metadata => 5,
        }
    }

    /// The section type with this code; 0 and everything above 5 are none.
    #[must_use]
    pub const fn from_code(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::Kernel,
            2 => Self::Cmdline,
            3 => Self::Ramdisk,
            4 => Self::Signature,
            5 => Self::Metadata,
            _ => return None,
        })
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Cmdline => "cmdline",
            Self::Ramdisk => "ramdisk",
            Self::Signature => "signature",
            Self::Metadata => "metadata",
        })
    }
}
