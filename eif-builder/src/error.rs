//! The crate's one error. Each text names the value that was refused, where it is (byte offsets in
//! the EIF, paths in the image) and what was expected; [`Error::hint`] says what to do next. Images
//! come from strangers, so every text escapes what it quotes.

use std::io;
use std::path::PathBuf;

use guest_abi::manifest::ManifestError;
use nsm::Pcr;

use crate::format::{
    MAX_METADATA, MAX_SECTIONS, MAX_SIGNATURE, OLDEST_VERSION, SectionKind, VERSION,
};

/// What can go wrong when an image is read, measured or built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are named in the text of each variant")]
pub enum Error {
    // Reading an EIF.
    /// The file ends too soon.
    #[error(
        "EIF ends inside the {what} at offset {offset:#x}: {needed} bytes needed, {present} there"
    )]
    Truncated { what: String, offset: u64, needed: u64, present: u64 },
    /// Not an EIF at all.
    #[error("not an EIF: the first bytes are {found:02x?}, expected 2e 65 69 66 (\".eif\")")]
    Magic { found: [u8; 4] },
    /// A version nobody defined, or one that never left AWS.
    #[error("EIF version {version} at offset 0x4, expected {OLDEST_VERSION} to {VERSION}")]
    Version { version: u16 },
    /// Flag bits nobody defined.
    #[error("EIF flags {flags:#06x} at offset 0x6, expected 0 (x86_64) or 1 (aarch64)")]
    Flags { flags: u16 },
    /// A field that must be zero and is not.
    #[error("reserved field at offset {offset:#x} is {value:#x}, expected 0")]
    Reserved { offset: u64, value: u64 },
    /// The number of sections is out of range.
    #[error("{count} sections at offset 0x1a, expected 2 to {MAX_SECTIONS}")]
    SectionCount { count: u16 },
    /// A section type nobody defined.
    #[error("section {section} at offset {offset:#x} has type {code}, expected 1 to 5")]
    SectionType { section: usize, offset: u64, code: u16 },
    /// A section with flags, which nobody defined.
    #[error("section {section} ({kind}) at offset {offset:#x} has flags {flags:#06x}, expected 0")]
    SectionFlags { section: usize, kind: SectionKind, offset: u64, flags: u16 },
    /// The file header and the section's own header disagree about its size.
    #[error(
        "section {section} ({kind}) at offset {offset:#x} says it has {own} bytes, the file header says {table}"
    )]
    SectionSize { section: usize, kind: SectionKind, offset: u64, own: u64, table: u64 },
    /// Bytes between two sections.
    #[error("{} bytes between sections: section {section} ({kind}) is at offset {found:#x}, expected {expected:#x}", found.saturating_sub(*expected))]
    Gap { section: usize, kind: SectionKind, found: u64, expected: u64 },
    /// A section that starts before the one before it ends.
    #[error(
        "section {section} ({kind}) at offset {found:#x} starts before the previous one ends at {expected:#x}"
    )]
    Overlap { section: usize, kind: SectionKind, found: u64, expected: u64 },
    /// Bytes after the last section.
    #[error("{} bytes after the last section, which ends at offset {end:#x}", length.saturating_sub(*end))]
    Trailing { end: u64, length: u64 },
    /// Too many or too few sections of one kind.
    #[error("{count} {kind} sections, expected {expected}")]
    SectionTally { kind: SectionKind, count: usize, expected: &'static str },
    /// A ramdisk in front of the kernel.
    #[error("section {section} (ramdisk) at offset {offset:#x} comes before the kernel")]
    RamdiskBeforeKernel { section: usize, offset: u64 },
    /// A section that this version of the format does not have.
    #[error("{kind} section at offset {offset:#x}, which EIF version {version} does not have")]
    NotInVersion { kind: SectionKind, version: u16, offset: u64 },
    /// The checksum is wrong.
    #[error("CRC at offset 0x220 is {stored:08x}, the file's is {computed:08x}")]
    Crc { stored: u32, computed: u32 },
    /// The command line would be cut at a NUL.
    #[error("cmdline has a NUL byte at offset {offset:#x}")]
    CmdlineNul { offset: u64 },
    /// The command line is not UTF-8.
    #[error("cmdline is not UTF-8 at offset {offset:#x}")]
    CmdlineText { offset: u64 },
    /// The metadata is not a JSON object.
    #[error("metadata at offset {offset:#x} is not a JSON object: {detail}")]
    MetadataJson { offset: u64, detail: String },
    /// The metadata is longer than this crate reads.
    #[error("metadata of {size} bytes is over the limit of {MAX_METADATA}")]
    MetadataSize { size: u64 },
    /// The signature section is longer than the format allows.
    #[error("signature section of {size} bytes is over the limit of {MAX_SIGNATURE}")]
    SignatureSize { size: u64 },

    // The signature of an EIF.
    /// The section, the COSE structure in it or the signed payload is malformed.
    #[error("malformed {part}: {detail}")]
    SignatureEncoding { part: &'static str, detail: String },
    /// The certificate cannot be read or has a key that EIFs are not signed with.
    #[error("signing certificate: {detail}")]
    Certificate { detail: String },
    /// The signature does not verify under the certificate it comes with.
    #[error("signature is not valid under its certificate")]
    SignatureInvalid,
    /// The certificate is not valid yet.
    #[error("signing certificate is valid from {not_before}, the time is {now}")]
    CertificateNotYetValid { not_before: String, now: String },
    /// The certificate is not valid any more.
    #[error("signing certificate was valid until {not_after}, the time is {now}")]
    CertificateExpired { not_after: String, now: String },
    /// The signature was made for another image.
    #[error("signature is for an image with PCR0 {signed}, this one's is {computed}")]
    SignatureOfOtherImage { signed: Pcr, computed: Pcr },

    // Writing.
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A folder, a FIFO or a device where a file was named.
    #[error("`{path}`: it is not a regular file")]
    NotRegular { path: String },
    /// Reading contents failed in the middle of a section.
    #[error("cannot copy {what}")]
    Copy {
        what: String,
        #[source]
        source: io::Error,
    },
    /// A section out of the order in which AWS's builder writes.
    #[error(
        "{kind} section after {previous}: the order is kernel, cmdline, metadata, ramdisks, signature"
    )]
    SectionOrder { kind: SectionKind, previous: String },
    /// More sections than the tables have slots.
    #[error("more than {MAX_SECTIONS} sections")]
    TooManySections,
    /// The image was continued after one of its sections had failed.
    #[error("an earlier section of the image failed")]
    Unfinished,
    /// A source that is shorter or longer than it said.
    #[error("{what} has {found} bytes, expected {expected}")]
    Length { what: String, found: u64, expected: u64 },
    /// Something a newc archive cannot hold.
    #[error("`{path}` cannot be in a cpio archive: {problem}")]
    Cpio { path: String, problem: String },

    // Sources of an image.
    /// A file or folder that cannot be part of an image.
    #[error("`{path}` cannot be part of an image: {problem}")]
    Unsupported { path: String, problem: String },
    /// A file of an OCI layout that is malformed or not what its place calls for.
    #[error("{file}: {problem}")]
    Oci { file: String, problem: String },
    /// A blob whose content is not what its name says.
    #[error("blob {expected} has digest {computed}")]
    Digest { expected: String, computed: String },
    /// A blob whose size is not what its descriptor says.
    #[error("blob {digest} has {found} bytes, its descriptor says {expected}")]
    BlobSize { digest: String, found: u64, expected: u64 },
    /// No image in the layout has that name.
    #[error("no image `{wanted}` in {}; there are: {available}", layout.display())]
    NoSuchImage { layout: PathBuf, wanted: String, available: String },
    /// Several images, and no name to choose by.
    #[error("{} holds {count} images and no tag was given; there are: {available}", layout.display())]
    WhichImage { layout: PathBuf, count: usize, available: String },
    /// Nothing for this machine in the image.
    #[error("image is for {found}, expected linux/amd64")]
    Platform { found: String },
    /// An entry of a layer that is malformed or dangerous.
    #[error("layer {layer}, entry `{entry}`: {problem}")]
    Layer { layer: String, entry: String, problem: String },
    /// A layer that cannot be read as a tar archive.
    #[error("layer {layer} at byte {offset} of its archive: {problem}")]
    Archive { layer: String, offset: u64, problem: String },
    /// Over one of [`crate::build::Limits`].
    #[error("image has more than {limit} {what}")]
    Limit { what: &'static str, limit: u64 },

    // Building.
    /// The manifest made of the image's settings and the options breaks a rule.
    #[error("manifest of the image")]
    Manifest(#[source] ManifestError),
    /// The manifest file given cannot be read as one.
    #[error("{}", path.display())]
    ManifestFile {
        path: PathBuf,
        #[source]
        source: ManifestError,
    },
    /// Neither image nor options say what to run.
    #[error("no command: the image sets neither Entrypoint nor Cmd")]
    NoCommand,
    /// The command is not in the image.
    #[error("command `{command}` is not in the image; looked for {looked}")]
    CommandMissing { command: String, looked: String },
    /// The command is there and cannot be run.
    #[error("command `{command}` cannot be run: `{path}` {problem}")]
    CommandUnusable { command: String, path: String, problem: String },
    /// The working directory is there and is no folder.
    #[error("working directory `{workdir}`: {problem}")]
    Workdir { workdir: String, problem: String },
    /// A user or group that the image does not know.
    #[error("`{name}` of user `{user}` is not in the image's {file}")]
    UnknownUser { user: String, name: String, file: &'static str },
    /// The image has something else where the enclave mounts a file system.
    #[error("`/{path}` in the image is a {found}; the enclave needs a folder there")]
    MountPoint { path: &'static str, found: &'static str },
    /// An option's value is wrong.
    #[error("{option} `{value}`: {problem}")]
    Option { option: &'static str, value: String, problem: String },
}

impl Error {
    /// What to do next, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Truncated { .. } | Self::Crc { .. } => {
                "the file was cut or changed after it was built; copy or build it again"
            }
            Self::SectionSize { kind: SectionKind::Signature, .. } => {
                "older nitro-cli versions leave a stale size when they sign an image again; build and sign it afresh"
            }
            Self::SignatureOfOtherImage { .. } => {
                "the signature was copied from another image; sign this one"
            }
            Self::CertificateExpired { .. } | Self::CertificateNotYetValid { .. } => {
                "check the clock, or sign the image with a certificate in date"
            }
            Self::NoCommand => "add --cmd, or cmd = [...] to the manifest",
            Self::CommandMissing { .. } | Self::CommandUnusable { .. } => {
                "give a path inside the image with --cmd"
            }
            Self::NoSuchImage { .. } | Self::WhichImage { .. } => "name one as DIR:TAG",
            Self::Platform { .. } => "build the image for linux/amd64",
            Self::Limit { what: "unpacked bytes", .. } => "raise it with --max-unpacked",
            Self::UnknownUser { .. } => "use a numeric id, or add the account to the image",
            Self::Manifest(source) | Self::ManifestFile { source, .. } => return source.hint(),
            _ => return None,
        })
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// Bytes of a path as text for a message: lossy, escaped, and cut where it is very long.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 300;
    let text = String::from_utf8_lossy(bytes.get(..MOST).unwrap_or(bytes));
    let cut = if bytes.len() > MOST { "…" } else { "" };
    format!("{}{cut}", text.escape_debug())
}
