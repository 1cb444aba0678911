//! One layer into the tree: decompressed once, both its digests checked, file contents copied to the
//! spool. How much may come out is bounded, so a layer that unpacks without end is an error and not a
//! full disk.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read};
use std::rc::Rc;

use ring::digest::Context;

use super::blob::{Blob, Digest};
use super::document::Compression;
use super::tar::{TarEntry, TarError, TarKind, TarReader};
use crate::Error;
use crate::error::shown;
use crate::tree::{Attributes, Change, Content, Kind, Tree};
use crate::write::copy;

/// Bytes read from a blob at a time.
const CHUNK: usize = 128 * 1024;

/// What is shared by the layers of one image.
pub(super) struct Unpacker<'a> {
    tree: &'a mut Tree,
    spool: BufWriter<File>,
    spooled: u64,
    /// Of the archives, after decompression.
    budget: Rc<RefCell<Budget>>,
    /// Extended attributes that were left out.
    pub(super) xattrs: usize,
}

struct Budget {
    left: u64,
    limit: u64,
    /// There was more to come than was left.
    exceeded: bool,
}

impl<'a> Unpacker<'a> {
    pub(super) fn new(tree: &'a mut Tree, spool: File, limit: u64) -> Self {
        let budget = Rc::new(RefCell::new(Budget { left: limit, limit, exceeded: false }));
        let spool = BufWriter::with_capacity(CHUNK, spool);
        Self { tree, spool, spooled: 0, budget, xattrs: 0 }
    }

    /// The spool, complete.
    pub(super) fn finish(self) -> Result<File, Error> {
        self.spool.into_inner().map_err(|failure| spool_failed(failure.into_error()))
    }

    /// Applies layer number `number`, counted from 1. `progress` is told how many bytes of the blob
    /// have been read.
    pub(super) fn apply(
        &mut self,
        blob: Blob,
        compression: Compression,
        diff_id: &Digest,
        number: u32,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let layer = number.to_string();
        // The blob is needed again behind whatever reads it.
        let blob = Rc::new(RefCell::new(blob));
        let source = BufReader::with_capacity(CHUNK, Shared(Rc::clone(&blob)));
        let broken = |error: &io::Error| Error::Archive {
            layer: layer.clone(),
            offset: 0,
            problem: error.to_string(),
        };
        let plain: Box<dyn Read> = match compression {
            Compression::None => Box::new(source),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
            Compression::Zstd => Box::new(
                zstd::stream::read::Decoder::with_buffer(source).map_err(|error| broken(&error))?,
            ),
        };
        let hasher =
            Hashed { input: plain, hasher: diff_id.hasher(), budget: Rc::clone(&self.budget) };
        let mut archive = TarReader::new(hasher);
        while let Some(entry) =
            archive.next().map_err(|error| self.archive_failed(&layer, error))?
        {
            self.entry(entry, &mut archive, &layer, number)?;
            progress(blob.borrow().position());
        }
        let hashed = archive.finish().map_err(|error| self.archive_failed(&layer, error))?;
        let uncompressed = hashed.hasher;
        drop(hashed.input);
        let Ok(blob) = Rc::try_unwrap(blob) else {
            return Err(broken(&io::Error::other("its blob is still being read")));
        };
        // First what the manifest names, then what the configuration names.
        blob.into_inner().finish()?;
        diff_id.check(uncompressed)
    }

    fn entry(
        &mut self,
        entry: TarEntry,
        data: &mut dyn Read,
        layer: &str,
        number: u32,
    ) -> Result<(), Error> {
        let refuse = |path: &[u8], problem: String| Error::Layer {
            layer: layer.to_owned(),
            entry: shown(path),
            problem,
        };
        let TarEntry { permissions, uid, gid, size, .. } = entry;
        let attributes = Attributes { permissions, uid, gid };
        let (major, minor) = entry.device;
        let change = match entry.kind {
            TarKind::Folder => Change::Put(attributes, Kind::folder()),
            TarKind::Fifo => Change::Put(attributes, Kind::Fifo),
            TarKind::BlockDevice => {
                Change::Put(attributes, Kind::Device { block: true, major, minor })
            }
            TarKind::CharacterDevice => {
                Change::Put(attributes, Kind::Device { block: false, major, minor })
            }
            TarKind::Symlink if entry.target.is_empty() || entry.target.contains(&0) => {
                return Err(refuse(&entry.path, "a symlink to nothing".to_owned()));
            }
            TarKind::Symlink => {
                Change::Put(attributes, Kind::Symlink(entry.target.into_boxed_slice()))
            }
            TarKind::HardLink => Change::Link(entry.target),
            TarKind::File => {
                let content = self.spool(data, size, &entry.path)?;
                Change::Put(attributes, Kind::File(content))
            }
        };
        self.xattrs += entry.xattrs;
        self.tree
            .apply(&entry.path, change, number)?
            .map_err(|problem| refuse(&entry.path, problem))
    }

    fn spool(&mut self, data: &mut dyn Read, size: u64, path: &[u8]) -> Result<Content, Error> {
        let offset = self.spooled;
        let copied = copy(data, &mut self.spool, &shown(path))
            .map_err(|error| self.over_budget().unwrap_or(error))?;
        self.spooled += copied;
        if copied != size {
            let what = format!("`{}`", shown(path));
            return Err(Error::Length { what, found: copied, expected: size });
        }
        Ok(Content::Spooled { offset, size })
    }

    fn archive_failed(&self, layer: &str, error: TarError) -> Error {
        let TarError { offset, problem } = error;
        self.over_budget().unwrap_or_else(|| Error::Archive {
            layer: layer.to_owned(),
            offset,
            problem,
        })
    }

    /// The real reason, where reading failed because the budget was spent.
    fn over_budget(&self) -> Option<Error> {
        let Budget { limit, exceeded, .. } = *self.budget.borrow();
        exceeded.then_some(Error::Limit { what: "unpacked bytes", limit })
    }
}

pub(super) fn spool_failed(source: io::Error) -> Error {
    Error::Copy { what: "the layers to a temporary file".to_owned(), source }
}

/// A blob with two owners, one after the other.
struct Shared(Rc<RefCell<Blob>>);

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(buffer)
    }
}

/// Hashes what passes and ends it where the budget does.
struct Hashed {
    input: Box<dyn Read>,
    hasher: Context,
    budget: Rc<RefCell<Budget>>,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut budget = self.budget.borrow_mut();
        if budget.left == 0 {
            // Nothing more may come; that nothing comes is fine.
            if buffer.is_empty() || self.input.read(&mut [0])? == 0 {
                return Ok(0);
            }
            budget.exceeded = true;
            return Err(io::Error::other("unpacks to more than the limit"));
        }
        let most = usize::try_from(budget.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.input.read(&mut buffer[..most])?;
        budget.left -= count as u64;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
