//! The signature section (nitro.md 1.6): a certificate and, signed with its key, the image's PCR0 as
//! COSE_Sign1. AWS's tools check less than one would think: at launch they do not compare the signed
//! value with the image, so a section copied from another file passes there. Here
//! [`SignatureSection::check`] asks all three questions: does the signature verify, is the
//! certificate in date, is it about this image. Whom the certificate belongs to is not asked by anyone;
//! its hash is PCR8, and a verifier pins that.

use nsm::{Pcr, cbor};
use openssl::bn::BigNum;
use openssl::ecdsa::EcdsaSig;
use openssl::hash::hash;
use serde::Serialize;
use serde_bytes::Bytes;

use crate::Error;
use crate::format::MAX_SIGNATURE;

mod certificate;
mod wire;

pub use certificate::{CertificateDetails, SigningCertificate};

/// What is signed, fields in this order; the value is an array of integers.
#[derive(Serialize)]
struct Payload {
    register_index: u32,
    register_value: Vec<u8>,
}

/// The first signature of an image, decoded and not yet believed.
#[derive(Clone, Debug)]
pub struct SignatureSection {
    certificate: SigningCertificate,
    protected: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
    signed: Pcr,
}

/// What [`SignatureSection::check`] found out. `nitro-cli` refuses to run an image that has any of the
/// refusals but the last (E59); this project refuses that one too.
#[derive(Debug)]
pub struct SignatureReport {
    /// The hash of the certificate; only to be set where [`SignatureReport::refusals`] is empty.
    pub pcr8: Pcr,
    /// Why the image must not run as signed; empty if it may. Any of [`Error::SignatureInvalid`],
    /// [`Error::SignatureOfOtherImage`], [`Error::CertificateNotYetValid`],
    /// [`Error::CertificateExpired`].
    pub refusals: Vec<Error>,
}

impl SignatureSection {
    /// Decodes the section's CBOR. Of several elements only the first counts, as everywhere.
    ///
    /// # Errors
    /// [`Error::SignatureSize`], [`Error::SignatureEncoding`], [`Error::Certificate`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let size = bytes.len() as u64;
        if size > MAX_SIGNATURE {
            return Err(Error::SignatureSize { size });
        }
        let (pem, cose) = wire::element(bytes)?;
        let certificate = SigningCertificate::from_pem(&pem)?;
        let wire::CoseSign1 { protected, payload, signature } = wire::cose_sign1(&cose)?;
        let signed = wire::signed_pcr0(&payload)?;
        Ok(Self { certificate, protected, payload, signature, signed })
    }

    /// The certificate that came with the signature.
    #[must_use]
    pub const fn certificate(&self) -> &SigningCertificate {
        &self.certificate
    }

    /// The PCR0 that was signed.
    #[must_use]
    pub const fn signed_pcr0(&self) -> Pcr {
        self.signed
    }

    /// PCR8: the hash of the certificate's DER, extended into a fresh register.
    #[must_use]
    pub fn pcr8(&self) -> Pcr {
        self.certificate.pcr8()
    }

    /// Asks the three questions. `pcr0` is the value recomputed from the image, `now` is in seconds
    /// since 1970.
    ///
    /// # Errors
    /// [`Error::Certificate`] where the time cannot be compared with the certificate's.
    pub fn check(&self, pcr0: Pcr, now: i64) -> Result<SignatureReport, Error> {
        let mut refusals = Vec::new();
        if !self.verifies() {
            refusals.push(Error::SignatureInvalid);
        }
        if self.payload != payload(pcr0)? {
            refusals.push(Error::SignatureOfOtherImage { signed: self.signed, computed: pcr0 });
        }
        refusals.extend(self.certificate.out_of_date(now)?);
        Ok(SignatureReport { pcr8: self.pcr8(), refusals })
    }

    /// Whether the signature verifies and is about the image with this PCR0: what `describe-eif` calls
    /// `SignatureCheck`. The certificate's dates are not asked.
    ///
    /// # Errors
    /// [`Error::SignatureEncoding`] where the payload to compare with cannot be encoded.
    pub fn is_valid_for(&self, pcr0: Pcr) -> Result<bool, Error> {
        // Like describe-eif, compare the encoded payload: there is one right encoding.
        Ok(self.payload == payload(pcr0)? && self.verifies())
    }

    /// Whether the signature is valid under the certificate's key.
    fn verifies(&self) -> bool {
        let curve = self.certificate.curve();
        if self.protected != curve.protected_header()
            || self.signature.len() != 2 * curve.scalar_len()
        {
            return false;
        }
        let (r, s) = self.signature.split_at(curve.scalar_len());
        // OpenSSL's errors here say no more than that it is not a signature.
        let verify = || -> Option<bool> {
            let digest = hash(curve.digest(), &self.to_be_signed().ok()?).ok()?;
            let (r, s) = (BigNum::from_slice(r).ok()?, BigNum::from_slice(s).ok()?);
            let signature = EcdsaSig::from_private_components(r, s).ok()?;
            signature.verify(&digest, self.certificate.key()).ok()
        };
        verify().unwrap_or(false)
    }

    fn to_be_signed(&self) -> Result<Vec<u8>, Error> {
        to_be_signed(&self.protected, &self.payload)
    }
}

/// The Sig_structure of RFC 9052 4.4 without external data.
fn to_be_signed(protected: &[u8], payload: &[u8]) -> Result<Vec<u8>, Error> {
    encode(&("Signature1", Bytes::new(protected), Bytes::new(&[]), Bytes::new(payload)))
}

/// What a signature of an image with this PCR0 is over.
fn payload(pcr0: Pcr) -> Result<Vec<u8>, Error> {
    encode(&Payload { register_index: 0, register_value: pcr0.as_bytes().to_vec() })
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    cbor::to_vec(value).map_err(|error| Error::SignatureEncoding {
        part: "signed structure",
        detail: error.to_string(),
    })
}

#[cfg(test)]
pub(crate) mod tests;
