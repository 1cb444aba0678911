//! The X.509 certificate an image is signed with. OpenSSL reads it, because P-521 is allowed here and
//! the project's other cryptographic library does not have it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use nsm::Pcr;
use openssl::asn1::Asn1Time;
use openssl::ec::{EcKey, EcKeyRef};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::Public;
use openssl::x509::X509;
use ring::digest::{SHA384, digest};
use serde::{Deserialize, Serialize};

use crate::Error;

/// The curves an EIF can be signed on, each with its own hash.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn of(key: &EcKeyRef<Public>) -> Option<Self> {
        match key.group().curve_name()? {
            Nid::X9_62_PRIME256V1 => Some(Self::P256),
            Nid::SECP384R1 => Some(Self::P384),
            Nid::SECP521R1 => Some(Self::P521),
            _ => None,
        }
    }

    pub(super) fn digest(self) -> MessageDigest {
        match self {
            Self::P256 => MessageDigest::sha256(),
            Self::P384 => MessageDigest::sha384(),
            Self::P521 => MessageDigest::sha512(),
        }
    }

    /// Bytes of r, and of s.
    pub(super) const fn scalar_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// The map {1: alg} with alg -7, -35 or -36.
    pub(super) const fn protected_header(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0xa1, 0x01, 0x26],
            Self::P384 => &[0xa1, 0x01, 0x38, 0x22],
            Self::P521 => &[0xa1, 0x01, 0x38, 0x23],
        }
    }
}

/// A certificate with an EC key on P-256, P-384 or P-521.
#[derive(Clone, Debug)]
pub struct SigningCertificate {
    certificate: X509,
    der: Vec<u8>,
    key: EcKey<Public>,
    curve: Curve,
}

/// The certificate as `describe-eif` shows it (nitro.md 6.2), fields in this order.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CertificateDetails {
    /// By the long names of the attributes, `commonName` and so on.
    pub issuer_name: BTreeMap<String, String>,
    /// For example `ecdsa-with-SHA384`.
    pub algorithm: String,
    /// For example `Nov 22 20:00:00 2026 GMT`.
    pub not_before: String,
    /// In the same form.
    pub not_after: String,
    /// Upper-case hexadecimal, a colon between bytes.
    pub signature: String,
}

impl SigningCertificate {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// [`Error::Certificate`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let certificate = X509::from_pem(pem).map_err(|error| refuse("not PEM", &error))?;
        let der = certificate.to_der().map_err(|error| refuse("not DER", &error))?;
        let key = certificate
            .public_key()
            .and_then(|key| key.ec_key())
            .map_err(|error| refuse("its key is not an EC key", &error))?;
        let curve = Curve::of(&key).ok_or_else(|| Error::Certificate {
            detail: "its key is not on P-256, P-384 or P-521".to_owned(),
        })?;
        Ok(Self { certificate, der, key, curve })
    }

    /// The certificate, DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// PCR8 of images signed with it: SHA-384 of the DER, extended into a fresh register.
    #[must_use]
    pub fn pcr8(&self) -> Pcr {
        Pcr::of(digest(&SHA384, &self.der).as_ref())
    }

    /// What there is to show of it.
    ///
    /// # Errors
    /// [`Error::Certificate`] for a name that is not text.
    pub fn details(&self) -> Result<CertificateDetails, Error> {
        let mut issuer_name = BTreeMap::new();
        for entry in self.certificate.issuer_name().entries() {
            let value = entry.data().to_string().map_err(|error| refuse("issuer name", &error))?;
            issuer_name.insert(entry.object().to_string(), value);
        }
        let mut signature = String::new();
        for (index, byte) in self.certificate.signature().as_slice().iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            // Writing to a String cannot fail.
            let _ = write!(signature, "{colon}{byte:02X}");
        }
        Ok(CertificateDetails {
            issuer_name,
            algorithm: self.certificate.signature_algorithm().object().to_string(),
            not_before: self.certificate.not_before().to_string(),
            not_after: self.certificate.not_after().to_string(),
            signature,
        })
    }

    pub(super) const fn curve(&self) -> Curve {
        self.curve
    }

    pub(super) fn key(&self) -> &EcKeyRef<Public> {
        &self.key
    }

    /// Why the certificate is not to be used at `now` (seconds since 1970), if so. Both ends of
    /// its life are part of it.
    pub(super) fn out_of_date(&self, now: i64) -> Result<Option<Error>, Error> {
        let unusable = |error: ErrorStack| refuse("its dates cannot be compared", &error);
        let now = Asn1Time::from_unix(now).map_err(unusable)?;
        let (not_before, not_after) = (self.certificate.not_before(), self.certificate.not_after());
        if now.compare(not_before).map_err(unusable)?.is_lt() {
            let not_before = not_before.to_string();
            return Ok(Some(Error::CertificateNotYetValid { not_before, now: now.to_string() }));
        }
        if now.compare(not_after).map_err(unusable)?.is_gt() {
            let not_after = not_after.to_string();
            return Ok(Some(Error::CertificateExpired { not_after, now: now.to_string() }));
        }
        Ok(None)
    }
}

fn refuse(what: &str, error: &ErrorStack) -> Error {
    // OpenSSL's text names files and functions of its own; the reason is the part that helps.
    let reason = error.errors().first().and_then(|error| error.reason()).unwrap_or("unreadable");
    Error::Certificate { detail: format!("{what}: {reason}") }
}
