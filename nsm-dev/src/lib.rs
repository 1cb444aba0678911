//! The Nitro Secure Module as a program inside an enclave sees it: the character device `/dev/nsm` and its
//! one ioctl (nitro.md 4.2), with the typed messages of the `nsm` crate over it. A crate of its own because
//! init and applications both use it, and because the ioctl is the only unsafe line either of them needs.

#![deny(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use nsm::message::{AttestationFields, ErrorCode, MAX_RESPONSE, Request, Response};

mod ioctl;

/// Where the kernel's driver puts the device, mode 0666.
pub const PATH: &str = "/dev/nsm";

/// Why the device gave no answer, or not the one asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such device: not in an enclave, or a kernel without the driver.
    #[error("cannot open {PATH}")]
    Open(#[source] io::Error),
    /// A request that cannot be sent, for example over 4096 bytes.
    #[error("cannot write the request to {PATH}")]
    Request(#[source] nsm::Error),
    /// The driver refused, or the device did not answer in the driver's time (120 s).
    #[error("request to {PATH} failed")]
    Ioctl(#[source] io::Error),
    /// Bytes that are no response.
    #[error("{PATH} answered something that is no response")]
    Response(#[source] nsm::Error),
    /// The device says no.
    #[error("{PATH} refused the request: {0:?}")]
    Refused(ErrorCode),
    /// The answer to another question.
    #[error("{PATH} answered another request than the one sent")]
    Mismatch,
}

impl Error {
    /// What to do next, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Open(error) if error.kind() == io::ErrorKind::NotFound => {
                Some("this program runs inside an enclave only")
            }
            Self::Request(_) | Self::Refused(ErrorCode::InputTooLarge) => {
                Some("user data, nonce and public key must fit into one request of 4096 bytes")
            }
            _ => None,
        }
    }
}

/// The open device. Calls may come from several threads: the driver takes one at a time.
#[derive(Debug)]
pub struct Device {
    file: File,
}

impl Device {
    /// Opens [`PATH`]; the descriptor is not inherited by programs started later.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open() -> Result<Self, Error> {
        Self::open_at(Path::new(PATH))
    }

    fn open_at(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(Error::Open)?;
        Ok(Self { file })
    }

    /// Sends one request and reads its response; [`Response::Error`] becomes [`Error::Refused`].
    ///
    /// # Errors
    /// Every variant but [`Error::Open`] and [`Error::Mismatch`].
    pub fn call(&self, request: &Request) -> Result<Response, Error> {
        let request = request.to_vec().map_err(Error::Request)?;
        let mut buffer = vec![0; MAX_RESPONSE];
        let length = ioctl::exchange(&self.file, &request, &mut buffer).map_err(Error::Ioctl)?;
        match Response::from_slice(&buffer[..length.min(MAX_RESPONSE)]) {
            Ok(Response::Error(code)) => Err(Error::Refused(code)),
            Ok(response) => Ok(response),
            Err(error) => Err(Error::Response(error)),
        }
    }

    /// A fresh attestation document, COSE_Sign1, with `fields` in it.
    ///
    /// # Errors
    /// As [`Device::call`], and [`Error::Mismatch`].
    pub fn attest(&self, fields: AttestationFields) -> Result<Vec<u8>, Error> {
        match self.call(&Request::Attestation(fields))? {
            Response::Attestation { document } => Ok(document),
            _ => Err(Error::Mismatch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_says_where_it_was_looked_for() {
        let error = Device::open_at(Path::new("/nonexistent/nsm")).unwrap_err();
        assert!(matches!(error, Error::Open(_)));
        assert!(error.to_string().contains("/dev/nsm"), "{error}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn a_file_that_is_no_device_fails_in_the_ioctl() {
        let device = Device::open_at(Path::new("/dev/null")).unwrap();
        let error = device.call(&Request::GetRandom).unwrap_err();
        assert!(matches!(error, Error::Ioctl(_)), "{error}");
    }

    #[test]
    fn a_request_over_the_limit_is_not_sent() {
        let device = Device::open_at(Path::new("/dev/null")).unwrap();
        let fields = AttestationFields { user_data: Some(vec![0; 4096]), ..Default::default() };
        assert!(matches!(device.attest(fields), Err(Error::Request(_))));
    }
}
