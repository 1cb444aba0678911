//! The nsm process: measures the image, holds the PCRs and the key that signs documents, and answers the guest's NSM requests. It is a process of its
//! own because it is all that a document's worth rests on: it opens no file, has no KVM, no network and no capability, and the key never leaves it.

pub mod messages;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use attestation::{AttestationDocument, LeafChain, LeafKey};
use eif_builder::eif::Eif;
use eif_builder::measure::Measurements;
use eif_builder::signature::SignatureSection;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use nsm::device::{Claims, Device, Environment, ModuleId, Unavailable};
use nsm::message::{MAX_REQUEST, MAX_RESPONSE};
use nsm::{Pcr, PcrBank};
use ring::rand::{SecureRandom, SystemRandom};

use self::messages::{FromNsm, Measured, Setup, ToNsm};
use crate::channel::{Channel, Received};
use crate::error::{Error, Failure, Result};
use crate::sealed_image::SealedImage;
use crate::{privileges, spawn};

/// The role `enclave-vmm nsm`. Returns when the enclave is over.
///
/// # Errors
/// Whatever stopped it; the keeper has been told.
pub fn run() -> Result<()> {
    let keeper = Channel::new(spawn::inherited(3)?, "The keeper");
    let image = spawn::inherited(4)?;
    let vmm = spawn::inherited(5)?;
    privileges::drop_all()?;
    serve(&keeper, image, &vmm).inspect_err(|error| {
        // If the keeper is gone there is nobody to tell.
        let _ = keeper.send(&FromNsm::Failed(Failure::from(error)));
    })
}

/// The whole life of the process on its three descriptors.
fn serve(keeper: &Channel, image: OwnedFd, vmm: &OwnedFd) -> Result<()> {
    let ToNsm::Setup(setup) = keeper.expect_value(None)? else {
        return Err(out_of_order("certificates before setup"));
    };
    // The image is unmapped and its memory let go as soon as it is measured.
    let measurements = measure(image, now_seconds())?;
    let key = LeafKey::generate().map_err(authority_error("key for documents"))?;
    keeper.send(&FromNsm::Measured(Measured {
        pcr0: measurements.pcr0,
        pcr1: measurements.pcr1,
        pcr2: measurements.pcr2,
        pcr8: measurements.pcr8,
        leaf_public_key: hex::encode(key.public_key_der()),
    }))?;
    let ToNsm::Certificates(certificates) = keeper.expect_value(None)? else {
        return Err(out_of_order("a second setup"));
    };
    let mut device = device(&setup, &measurements)?;
    let mut signer = Signer { key, chain: decode(&certificates)?, random: SystemRandom::new() };
    keeper.send(&FromNsm::Serving)?;

    loop {
        let mut fds = [
            PollFd::new(keeper.as_fd(), PollFlags::POLLIN),
            PollFd::new(vmm.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(Error::system("wait for a request")(errno)),
            Ok(_) => {}
        }
        let [from_keeper, from_vmm] = fds.map(|fd| fd.any().unwrap_or(true));
        if from_keeper {
            match keeper.try_receive()? {
                Received::Value(ToNsm::Certificates(certificates)) => {
                    signer.chain = decode(&certificates)?;
                    keeper.send(&FromNsm::Serving)?;
                }
                Received::Value(ToNsm::Setup(_)) => return Err(out_of_order("a second setup")),
                Received::Nothing => {}
                Received::End => return Ok(()),
            }
        }
        if from_vmm && !answer_one(vmm, &mut device, &mut signer)? {
            return Ok(());
        }
    }
}

/// Answers one request; false when the vmm is gone.
fn answer_one(vmm: &OwnedFd, device: &mut Device, signer: &mut Signer) -> Result<bool> {
    // One byte more than allowed shows what is too long.
    let mut request = [0_u8; MAX_REQUEST + 1];
    let length = match recv(vmm.as_raw_fd(), &mut request, MsgFlags::MSG_DONTWAIT) {
        Ok(0) => {
            // A guest's empty request is an empty record; the end of the vmm is a hang-up.
            let mut fds = [PollFd::new(vmm.as_fd(), PollFlags::empty())];
            poll(&mut fds, PollTimeout::ZERO).map_err(Error::system("watch the vmm"))?;
            if fds.iter().any(|fd| fd.any().unwrap_or(true)) {
                return Ok(false);
            }
            0
        }
        Ok(length) => length,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(true),
        Err(Errno::ECONNRESET) => return Ok(false),
        Err(errno) => return Err(Error::system("receive an NSM request")(errno)),
    };
    let response = device.handle(request.get(..length).unwrap_or(&[]), MAX_RESPONSE, signer);
    match send(vmm.as_raw_fd(), &response, MsgFlags::MSG_NOSIGNAL) {
        Ok(_) | Err(Errno::EINTR) => Ok(true),
        Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(false),
        Err(errno) => Err(Error::system("send an NSM response")(errno)),
    }
}

/// Measures the image. PCR8 is there only if the signature verifies, its certificate is in date at `now` (seconds since 1970), and what it
/// signs is this very image.
fn measure(image: OwnedFd, now: i64) -> Result<Measurements> {
    let bytes = SealedImage::from_fd(image)?.map()?;
    let image_error = |source| Error::Image { source: Box::new(source) };
    let eif = Eif::parse(&bytes).map_err(image_error)?;
    let mut measurements = Measurements::of_boot_sections(&eif);
    if let Some(section) = eif.signature() {
        let bad = |error: eif_builder::Error| Error::Signature { reason: error.to_string() };
        let report = SignatureSection::parse(section)
            .and_then(|signature| signature.check(measurements.pcr0, now))
            .map_err(bad)?;
        if let Some(refusal) = report.refusals.into_iter().next() {
            return Err(bad(refusal));
        }
        measurements.pcr8 = Some(report.pcr8);
    }
    Ok(measurements)
}

fn device(setup: &Setup, measurements: &Measurements) -> Result<Device> {
    let module_id: ModuleId = setup
        .module_id
        .parse()
        .map_err(|source| Error::Authority { what: "module id", source: Box::new(source) })?;
    let bank = PcrBank::for_enclave(
        measurements.pcr0,
        measurements.pcr1,
        measurements.pcr2,
        setup.pcr3,
        setup.pcr4,
        measurements.pcr8.unwrap_or(Pcr::ZERO),
    );
    Ok(Device::new(module_id, bank, setup.debug))
}

/// What the device needs from outside: the clock, randomness, the key.
struct Signer {
    key: LeafKey,
    chain: LeafChain,
    random: SystemRandom,
}

impl Environment for Signer {
    fn now_ms(&mut self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn random(&mut self, out: &mut [u8]) -> std::result::Result<(), Unavailable> {
        self.random.fill(out).map_err(|_| Unavailable)
    }

    fn attest(&mut self, claims: &Claims) -> std::result::Result<Vec<u8>, Unavailable> {
        let document = AttestationDocument::new(claims, &self.chain);
        self.key.sign_document(&document).map_err(|_| Unavailable)
    }
}

fn now_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn decode(certificates: &messages::Certificates) -> Result<LeafChain> {
    certificates.decode().map_err(authority_error("certificates"))
}

fn authority_error<E: std::error::Error + Send + Sync + 'static>(
    what: &'static str,
) -> impl FnOnce(E) -> Error {
    move |source| Error::Authority { what, source: Box::new(source) }
}

fn out_of_order(what: &'static str) -> Error {
    Error::System {
        action: "follow the keeper",
        source: io::Error::new(io::ErrorKind::InvalidData, what),
    }
}

#[cfg(test)]
mod tests;
