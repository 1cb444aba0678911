//! Blobs of an OCI layout (image-spec, image-layout.md): files named after the digest of their
//! content. A blob is believed only when all of it has been read and both its size and its digest are
//! those of the descriptor that named it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use ring::digest::{Algorithm, Context, SHA256, SHA512};

use super::document::Descriptor;
use crate::Error;
use crate::error::shown;
use crate::input::open;

/// The longest index, manifest or configuration that is read, in bytes.
const MAX_DOCUMENT: u64 = 4 << 20;

/// `sha256:` or `sha512:` and lower-case hexadecimal digits: nothing else gets near a path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Digest {
    text: String,
    algorithm: &'static Algorithm,
}

impl Digest {
    /// `None` for what is not a digest or is of another algorithm.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, digits) = text.split_once(':')?;
        let algorithm = match name {
            "sha256" => &SHA256,
            "sha512" => &SHA512,
            _ => return None,
        };
        let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (digits.len() == 2 * algorithm.output_len() && digits.bytes().all(lower_hex))
            .then(|| Self { text: text.to_owned(), algorithm })
    }

    /// `algorithm:digits`.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The digits alone.
    pub(super) fn digits(&self) -> &str {
        self.text.split_once(':').map_or("", |(_, digits)| digits)
    }

    /// The first digits, for messages.
    pub(super) fn short(&self) -> &str {
        self.digits().get(..12).unwrap_or_default()
    }

    pub(super) fn hasher(&self) -> Context {
        Context::new(self.algorithm)
    }

    /// Compares with what was hashed.
    pub(super) fn check(&self, hashed: Context) -> Result<(), Error> {
        let name = self.text.split_once(':').map_or("", |(name, _)| name);
        let computed = format!("{name}:{}", hex::encode(hashed.finish()));
        if computed == self.text {
            return Ok(());
        }
        Err(Error::Digest { expected: self.text.clone(), computed })
    }
}

/// A blob that is being read; [`Blob::finish`] says whether to believe what came out of it.
pub(super) struct Blob {
    file: File,
    hasher: Context,
    digest: Digest,
    size: u64,
    read: u64,
}

impl Blob {
    /// Opens the blob a descriptor names. Links are followed: what is read is checked by its digest.
    pub(super) fn open(layout: &Path, descriptor: &Descriptor) -> Result<Self, Error> {
        let digest = descriptor.digest()?;
        let (algorithm, digits) = digest.text.split_once(':').unwrap_or_default();
        let path = layout.join("blobs").join(algorithm).join(digits);
        let file = open(&path)?;
        let found = file.metadata().map_err(Error::io("read", &path))?.len();
        if found != descriptor.size {
            let digest = digest.text;
            return Err(Error::BlobSize { digest, found, expected: descriptor.size });
        }
        let hasher = digest.hasher();
        Ok(Self { file, hasher, digest, size: descriptor.size, read: 0 })
    }

    /// Bytes read so far.
    pub(super) const fn position(&self) -> u64 {
        self.read
    }

    /// Reads what is left and compares.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        io::copy(&mut self, &mut io::sink())
            .map_err(|source| Error::Copy { what: self.digest.text.clone(), source })?;
        if self.read != self.size {
            let (digest, found, expected) = (self.digest.text, self.read, self.size);
            return Err(Error::BlobSize { digest, found, expected });
        }
        self.digest.check(self.hasher)
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One byte more than there should be, so that a file that grew is noticed.
        let left = (self.size + 1).saturating_sub(self.read);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        self.hasher.update(&buffer[..count]);
        self.read += count as u64;
        Ok(count)
    }
}

/// All of a small blob.
pub(super) fn read_document(layout: &Path, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    let mut blob = Blob::open(layout, descriptor)?;
    let mut bytes = Vec::new();
    if descriptor.size > MAX_DOCUMENT {
        return Err(too_long(descriptor.digest()?.as_str()));
    }
    blob.read_to_end(&mut bytes)
        .map_err(|source| Error::Copy { what: blob.digest.text.clone(), source })?;
    blob.finish()?;
    Ok(bytes)
}

/// All of a small file with a name of its own.
pub(super) fn read_named(layout: &Path, name: &str) -> Result<Vec<u8>, Error> {
    let path = layout.join(name);
    let mut bytes = Vec::new();
    open(&path)?
        .take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", &path))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(too_long(&shown(path.as_os_str().as_encoded_bytes())));
    }
    Ok(bytes)
}

fn too_long(file: &str) -> Error {
    let problem = format!("more than {MAX_DOCUMENT} bytes");
    Error::Oci { file: file.to_owned(), problem }
}
