//! Where the proxy listens and where it connects to, as written on the command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::Error;

/// The enclave's side. An enclave that dials CID 3 reaches both forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `PORT` or `vsock:PORT`: `AF_VSOCK` on any CID (on AWS the parent is CID 3, here it is 2 or 1).
    Vsock(u32),
    /// `unix:PATH:PORT`: the socket `PATH_PORT`, which the `muxer` backend of the enclave with the vsock path
    /// `PATH` connects to when its guest dials `PORT`.
    Unix {
        /// The enclave's vsock path.
        path: PathBuf,
        /// The port the guest dials.
        port: u32,
    },
}

impl ListenAddress {
    /// The socket file of a `Unix` address.
    #[must_use]
    pub fn socket_file(&self) -> Option<PathBuf> {
        match self {
            Self::Vsock(_) => None,
            Self::Unix { path, port } => {
                let mut file = path.clone().into_os_string();
                file.push(format!("_{port}"));
                Some(file.into())
            }
        }
    }
}

impl FromStr for ListenAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(rest) = text.strip_prefix("unix:") {
            let (path, port) =
                rest.rsplit_once(':').ok_or_else(|| Error::ListenAddress(text.into()))?;
            if path.is_empty() {
                return Err(Error::ListenAddress(text.into()));
            }
            return Ok(Self::Unix { path: path.into(), port: vsock_port(port)? });
        }
        let port = text.strip_prefix("vsock:").unwrap_or(text);
        if port.starts_with(|c: char| !c.is_ascii_digit()) || port.is_empty() {
            return Err(Error::ListenAddress(text.into()));
        }
        Ok(Self::Vsock(vsock_port(port)?))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock(port) => write!(f, "vsock:{port}"),
            Self::Unix { path, port } => write!(f, "unix:{}:{port}", path.display()),
        }
    }
}

/// Vsock ports are 32 bits wide; the highest value means "any" to the kernel.
fn vsock_port(text: &str) -> Result<u32, Error> {
    match text.parse() {
        Ok(port) if port != 0 && port != u32::MAX => Ok(port),
        _ => Err(Error::Port { port: text.into(), most: u32::MAX - 1 }),
    }
}

/// The world's side: a host name or IP address and a TCP port. Names are resolved anew for each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
}

impl Destination {
    /// Takes `host` and `port` as AWS's `vsock-proxy` command line has them.
    ///
    /// # Errors
    /// [`Error::Port`] for port 0.
    pub fn new(host: &str, port: u16) -> Result<Self, Error> {
        if port == 0 {
            return Err(Error::Port { port: "0".into(), most: u32::from(u16::MAX) });
        }
        Ok(Self { host: host.trim_start_matches('[').trim_end_matches(']').into(), port })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        assert_eq!("8000".parse::<ListenAddress>().unwrap(), ListenAddress::Vsock(8000));
        assert_eq!("vsock:8000".parse::<ListenAddress>().unwrap(), ListenAddress::Vsock(8000));
        let unix: ListenAddress = "unix:/run/a:b/vsock.sock:9".parse().unwrap();
        assert_eq!(unix, ListenAddress::Unix { path: "/run/a:b/vsock.sock".into(), port: 9 });
        assert_eq!(unix.socket_file().unwrap(), PathBuf::from("/run/a:b/vsock.sock_9"));
        assert_eq!(unix.to_string(), "unix:/run/a:b/vsock.sock:9");
    }

    #[test]
    fn refuses_what_names_no_socket() {
        for bad in [
            "",
            "tcp:1",
            "vsock:",
            "vsock:x",
            "unix:",
            "unix:/p",
            "unix::1",
            "0",
            "4294967295",
            "99999999999",
        ] {
            let error = bad.parse::<ListenAddress>().unwrap_err();
            assert!(error.to_string().contains(bad.rsplit(':').next().unwrap()), "{bad}: {error}");
        }
    }

    #[test]
    fn shows_ipv6_destinations_in_brackets() {
        assert_eq!(Destination::new("[::1]", 443).unwrap().to_string(), "[::1]:443");
        assert_eq!(Destination::new("kms.test", 443).unwrap().to_string(), "kms.test:443");
        assert!(Destination::new("x", 0).is_err());
    }
}
