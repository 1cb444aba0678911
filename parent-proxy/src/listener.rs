//! The two listening sockets behind one accept: vsock for enclaves that the kernel carries, Unix for the `muxer` backend.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio_vsock::{VsockAddr, VsockListener};

use crate::{Error, ListenAddress};

/// A bound listening socket. A socket file is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    file: Option<PathBuf>,
}

#[derive(Debug)]
enum Socket {
    Vsock(VsockListener),
    Unix(UnixListener),
}

/// One accepted connection, whatever carried it.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl Listener {
    /// Binds `address`. A socket file that nobody listens on any more is replaced; its new mode is 0600.
    ///
    /// # Errors
    /// [`Error::InUse`] where somebody listens on the socket file, else [`Error::Listen`].
    pub fn bind(address: &ListenAddress) -> Result<Self, Error> {
        let failed = |source| Error::Listen { address: address.to_string(), source };
        let Some(file) = address.socket_file() else {
            let ListenAddress::Vsock(port) = *address else {
                return Err(Error::ListenAddress(address.to_string()));
            };
            let socket =
                VsockListener::bind(VsockAddr::new(vsock::VMADDR_CID_ANY, port)).map_err(failed)?;
            return Ok(Self { socket: Socket::Vsock(socket), file: None });
        };
        if fs::symlink_metadata(&file).is_ok_and(|meta| meta.file_type().is_socket()) {
            match StdUnixStream::connect(&file) {
                Ok(_) => return Err(Error::InUse(file)),
                Err(_) => fs::remove_file(&file).map_err(failed)?,
            }
        }
        let socket = UnixListener::bind(&file).map_err(failed)?;
        let listener = Self { socket: Socket::Unix(socket), file: Some(file.clone()) };
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(listener)
    }

    /// The next connection and who it is from, for the log.
    pub(crate) async fn accept(&self) -> io::Result<(Box<dyn Connection>, String)> {
        match &self.socket {
            Socket::Vsock(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Box::new(stream), format!("cid {} port {}", peer.cid(), peer.port())))
            }
            Socket::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let name =
                    self.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
                Ok((Box::new(stream), name))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // The socket is ours; when somebody has removed the file already there is nothing left to do.
            let _ = fs::remove_file(file);
        }
    }
}
