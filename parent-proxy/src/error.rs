//! What can go wrong before and while forwarding; the text names the value, `hint` the next step.

use std::io;
use std::path::PathBuf;

/// Errors of the proxy. The cause is in `source` and never repeated in the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A listen address of an unknown form.
    #[error("Listen address `{0}` is neither a vsock port, `vsock:PORT` nor `unix:PATH:PORT`")]
    ListenAddress(String),
    /// A port outside what its address family can carry.
    #[error("Port `{port}` is not a number from 1 to {most}")]
    Port {
        /// As given.
        port: String,
        /// The largest port of that address family.
        most: u32,
    },
    /// The listening socket could not be had.
    #[error("Cannot listen on {address}")]
    Listen {
        /// What was asked for.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A socket file that somebody is listening on.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
}

impl Error {
    /// What to do next, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::ListenAddress(_) => Some(
                "for an enclave with the muxer backend: unix:/run/enclave/<id>/vsock.sock:8000",
            ),
            Self::Port { .. } => None,
            Self::Listen { source, .. } if source.raw_os_error() == Some(EAFNOSUPPORT) => Some(
                "this machine has no vsock: load the module (modprobe vsock_loopback) or listen on unix:PATH:PORT",
            ),
            Self::Listen { .. } => Some("see who holds it: ss --vsock -l, ss -xl"),
            Self::InUse(_) => Some("stop that process, or choose another port"),
        }
    }
}

/// Linux: address family not supported by protocol.
const EAFNOSUPPORT: i32 = 97;
