//! Streaming files into the parent. The host's files are visible there over 9p, but a cached view can be
//! old; what must be exact comes this way, checked by SHA-256 on arrival.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ring::digest::{Context, SHA256};

use crate::channel::MAX_PAYLOAD;
use crate::channel::frame::Kind;
use crate::channel::request::{Put, Request};
use crate::session::{Session, Which};
use crate::{Error, Machine};

/// Where streamed programs live in the parent.
const PROGRAMS: &str = "/run/enclave-programs";
/// How long the agent gets to answer between two pieces.
const PATIENCE: Duration = Duration::from_secs(60);

/// Size and SHA-256 of a file.
struct Identity {
    size: u64,
    sha256: [u8; 32],
}

impl Machine {
    /// Puts the host's file `source` at the absolute path `target` in the parent, replacing what is there, with
    /// the permission bits `mode`. The name appears only once all of it has arrived unchanged.
    ///
    /// # Errors
    /// [`Error::File`] for the source; [`Error::Refused`] for the target, or when the source was rewritten
    /// meanwhile; the channel's errors.
    pub fn put_file(&self, source: &Path, target: &Path, mode: u32) -> Result<(), Error> {
        let mut file = File::open(source).map_err(Error::file("open", source))?;
        let identity = identify(&mut file).map_err(Error::file("read", source))?;
        self.put(source, &identity, target, mode, false)
    }

    /// Makes sure that the parent has the program `source` exactly as it is now, and returns its path there,
    /// `/run/enclave-programs/<sha256>/<name>`. Nothing is sent when it is there already.
    ///
    /// # Errors
    /// As [`Self::put_file`].
    pub fn ensure_program(&self, name: &str, source: &Path) -> Result<PathBuf, Error> {
        let mut file = File::open(source).map_err(Error::file("open", source))?;
        let identity = identify(&mut file).map_err(Error::file("read", source))?;
        let mode = file.metadata().map_err(Error::file("inspect", source))?.permissions().mode();
        let target = Path::new(PROGRAMS).join(hex::encode(identity.sha256)).join(name);
        self.put(source, &identity, &target, mode | 0o555, true)?;
        Ok(target)
    }

    fn put(
        &self,
        source: &Path,
        identity: &Identity,
        target: &Path,
        mode: u32,
        keep_existing: bool,
    ) -> Result<(), Error> {
        self.explain("a file was sent", || {
            let mut file = File::open(source).map_err(Error::file("open", source))?;
            let mut session = Session::open(self.folder(), Which::Ordinary, patience())?;
            session.request(&Request::Put(Put {
                path: target.into(),
                mode,
                size: identity.size,
                sha256: identity.sha256,
                keep_existing,
            }))?;
            match session.await_kind(Some(patience()))? {
                Kind::Stored => {
                    session.finish();
                    return Ok(());
                }
                Kind::Ready => {}
                other => return Err(unexpected(other)),
            }
            let mut buffer = vec![0; MAX_PAYLOAD];
            loop {
                let count = file.read(&mut buffer).map_err(Error::file("read", source))?;
                if count == 0 {
                    break;
                }
                session.queue(Kind::Input, &buffer[..count]);
                session.flush(patience())?;
            }
            session.queue(Kind::InputEnd, &[]);
            match session.await_kind(Some(patience()))? {
                Kind::Stored => {
                    session.finish();
                    Ok(())
                }
                other => Err(unexpected(other)),
            }
        })
    }
}

fn patience() -> Instant {
    Instant::now() + PATIENCE
}

fn unexpected(kind: Kind) -> Error {
    Error::Channel(format!("unexpected {kind:?} frame"))
}

fn identify(file: &mut File) -> std::io::Result<Identity> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; MAX_PAYLOAD];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        context.update(&buffer[..count]);
        size += count as u64;
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(context.finish().as_ref());
    Ok(Identity { size, sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_size_and_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let identity = identify(&mut File::open(&path).unwrap()).unwrap();
        assert_eq!(identity.size, 3);
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            hex::encode(identity.sha256),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
