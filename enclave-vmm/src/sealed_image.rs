//! One set of bytes. The EIF is read once, into a memfd that is then sealed against writing, growing, shrinking and further
//! seals; measuring and loading use that memfd only. Whoever rewrites the file afterwards, root included, changes nothing of
//! what is measured or run.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::slice;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::error::{Error, Result};

/// Largest image taken, bytes. Far above any real one (nitro-cli plans 90 s a 6 GiB); it bounds what a pipe can make us hold.
pub const MAX_IMAGE: u64 = 64 << 30;

const SEALS: SealFlag = SealFlag::F_SEAL_WRITE
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL);

/// `MFD_NOEXEC_SEAL` (Linux 6.3), which nix does not know: the image is never executed as a file.
const MFD_NOEXEC_SEAL: u32 = 0x8;

/// An image that nobody can change any more.
#[derive(Debug)]
pub struct SealedImage {
    fd: OwnedFd,
    length: u64,
}

impl SealedImage {
    /// Reads the file at `path` once.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::ImageTooLarge`].
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::file("open", path))?;
        if file.metadata().map_err(Error::file("read", path))?.is_dir() {
            let source = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(Error::File { action: "read", path: path.to_owned(), source });
        }
        Self::copy(&mut file, path, MAX_IMAGE)
    }

    /// Reads a stream to its end, at most `limit` bytes: an image that comes through a pipe. `label` is what messages call it.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::ImageTooLarge`].
    pub fn from_stream(stream: &mut impl Read, label: &Path, limit: u64) -> Result<Self> {
        Self::copy(stream, label, limit)
    }

    fn copy(input: &mut impl Read, label: &Path, limit: u64) -> Result<Self> {
        let mut memory = File::from(create_memfd()?);
        // One byte more than allowed tells "just fits" from "too large".
        let mut bounded = input.take(limit.saturating_add(1));
        let mut buffer = vec![0_u8; 256 * 1024];
        let mut length = 0_u64;
        loop {
            let count = match bounded.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::file("read", label)(error)),
            };
            length += count as u64;
            if length > limit {
                return Err(Error::ImageTooLarge { limit });
            }
            memory
                .write_all(buffer.get(..count).unwrap_or(&[]))
                .map_err(Error::system("hold the enclave image in memory"))?;
        }
        memory.seek(SeekFrom::Start(0)).map_err(Error::system("rewind the enclave image"))?;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(SEALS))
            .map_err(Error::system("seal the enclave image"))?;
        Ok(Self { fd: memory.into(), length })
    }

    /// Takes over a memfd made by another process, if it is sealed.
    ///
    /// # Errors
    /// [`Error::NotSealed`], [`Error::System`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(|_| Error::NotSealed)?;
        if !SealFlag::from_bits_truncate(seals).contains(SEALS) {
            return Err(Error::NotSealed);
        }
        let file = File::from(fd);
        let length =
            file.metadata().map_err(Error::system("read the enclave image's length"))?.len();
        Ok(Self { fd: file.into(), length })
    }

    /// Length, bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there is not one byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Maps it read-only.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn map(&self) -> Result<MappedImage> {
        let length = usize::try_from(self.length)
            .map_err(|_| Error::ImageTooLarge { limit: usize::MAX as u64 })?;
        let Some(size) = NonZeroUsize::new(length) else {
            return Ok(MappedImage { address: NonNull::dangling(), length: 0 });
        };
        // SAFETY: a new mapping at an address of the kernel's choice, read-only; it aliases no Rust object.
        let address =
            unsafe { mmap(None, size, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &self.fd, 0) }
                .map_err(Error::system("map the enclave image"))?;
        Ok(MappedImage { address: address.cast(), length })
    }
}

impl AsFd for SealedImage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The image's bytes; unmapped when dropped.
#[derive(Debug)]
pub struct MappedImage {
    address: NonNull<u8>,
    length: usize,
}

impl Deref for MappedImage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `address` is a live read-only mapping of `length` bytes (or dangling with length 0). The memfd is
        // sealed against writing and shrinking, so no process can change or cut the bytes while the slice lives.
        unsafe { slice::from_raw_parts(self.address.as_ptr(), self.length) }
    }
}

impl Drop for MappedImage {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: `map` made this mapping with this length, and no slice of it outlives self.
            let _ = unsafe { munmap(self.address.cast(), self.length) };
        }
    }
}

fn create_memfd() -> Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let with_noexec = flags | MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL);
    memfd_create(c"enclave-image", with_noexec)
        .or_else(|_| memfd_create(c"enclave-image", flags))
        .map_err(Error::system("make memory for the enclave image"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn rewriting_the_file_after_sealing_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.eif");
        std::fs::write(&path, b"the bytes that were read").unwrap();
        let image = SealedImage::open(&path).unwrap();
        let mapped = image.map().unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"OTHER", 0).unwrap();
        file.set_len(3).unwrap();
        assert_eq!(&mapped[..], b"the bytes that were read");
        assert_eq!(&image.map().unwrap()[..], b"the bytes that were read");
        assert_eq!(image.len(), 24);
    }

    #[test]
    fn a_sealed_image_refuses_every_change() {
        let image = SealedImage::from_stream(&mut &b"abc"[..], Path::new("-"), 10).unwrap();
        let file = File::from(image.fd.try_clone().unwrap());
        assert!(file.write_all_at(b"x", 0).is_err());
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(100).is_err());
        let again = SealedImage::from_fd(file.into()).unwrap();
        assert_eq!(&again.map().unwrap()[..], b"abc");
    }

    #[test]
    fn what_is_not_sealed_is_not_taken() {
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(SealedImage::from_fd(file.into()), Err(Error::NotSealed)));
        let open = create_memfd().unwrap();
        assert!(matches!(SealedImage::from_fd(open), Err(Error::NotSealed)));
    }

    #[test]
    fn a_stream_is_bounded() {
        let endless = &mut io::repeat(7);
        let error = SealedImage::from_stream(endless, Path::new("-"), 1000).unwrap_err();
        assert!(matches!(error, Error::ImageTooLarge { limit: 1000 }));
        let exact = SealedImage::from_stream(&mut &[1_u8; 1000][..], Path::new("-"), 1000);
        assert_eq!(exact.unwrap().len(), 1000);
    }

    #[test]
    fn an_empty_file_and_a_folder() {
        let image = SealedImage::from_stream(&mut io::empty(), Path::new("-"), 10).unwrap();
        assert!(image.is_empty() && image.map().unwrap().is_empty());
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(SealedImage::open(folder.path()).unwrap_err().code(), 7);
    }
}
