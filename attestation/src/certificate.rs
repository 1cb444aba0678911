//! One certificate and one certificate authority's key, and how the one is made with the other:
//! X.509 version 3, P-384 and ecdsa-with-SHA384 throughout, the extensions of nitro.md 5.2 and no
//! others, because foreign verifiers refuse what they do not expect (an EKU on the leaf, a fourth
//! path length). Time and serial numbers come from the caller.

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{HasParams, PKey, PKeyRef, Private, Public};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, KeyUsage, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Name};
use zeroize::Zeroizing;

use crate::Error;
use crate::document::MAX_CERTIFICATE;

/// Characters X.509 allows in a common or organisation name (RFC 5280, upper bounds).
pub(crate) const MAX_NAME: usize = 64;

/// A P-384 key that signs certificates. OpenSSL zeroes it when it is freed.
#[derive(Clone)]
pub struct CaKey(PKey<Private>);

impl std::fmt::Debug for CaKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CaKey(..)")
    }
}

impl CaKey {
    /// Makes a new key from OpenSSL's random generator.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn generate() -> Result<Self, Error> {
        EcGroup::from_curve_name(Nid::SECP384R1)
            .and_then(|group| EcKey::generate(&group))
            .and_then(PKey::from_ec_key)
            .map(Self)
            .map_err(Error::crypto("make a P-384 key"))
    }

    /// Reads a PKCS#8 or SEC1 PEM; `what` names it in errors.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn from_pem(what: &str, pem: &[u8]) -> Result<Self, Error> {
        let bad = |detail: String| Error::Key { what: what.to_owned(), detail };
        // Never a prompt: an encrypted key is refused.
        let key = PKey::private_key_from_pem_callback(pem, |_| Ok(0))
            .map_err(|_| bad("no unencrypted private key in PEM".to_owned()))?;
        check_curve(&key).map_err(bad)?;
        Ok(Self(key))
    }

    /// PKCS#8 PEM, overwritten with zeroes when dropped.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn to_pem(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.0
            .private_key_to_pem_pkcs8()
            .map(Zeroizing::new)
            .map_err(Error::crypto("write a private key"))
    }

    pub(crate) fn matches(&self, certificate: &Certificate) -> Result<bool, Error> {
        let public =
            certificate.openssl()?.public_key().map_err(Error::crypto("read a public key"))?;
        Ok(self.0.public_eq(&public))
    }

    pub(crate) fn public(&self) -> Result<PKey<Public>, Error> {
        self.0
            .public_key_to_der()
            .and_then(|der| PKey::public_key_from_der(&der))
            .map_err(Error::crypto("read a public key"))
    }
}

/// A certificate of ours or of AWS: DER, parsed once so that its dates are known to be there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    der: Vec<u8>,
    not_before: i64,
    not_after: i64,
}

impl Certificate {
    /// Reads exactly one DER certificate; `what` names it in errors.
    ///
    /// # Errors
    /// [`Error::Certificate`].
    pub fn from_der(what: &str, der: &[u8]) -> Result<Self, Error> {
        let bad = |detail: String| Error::Certificate { what: what.to_owned(), detail };
        let (rest, parsed) =
            x509_parser::parse_x509_certificate(der).map_err(|error| bad(error.to_string()))?;
        if !rest.is_empty() {
            return Err(bad(format!("{} bytes follow it", rest.len())));
        }
        let validity = parsed.validity();
        Ok(Self {
            der: der.to_vec(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// Reads exactly one PEM certificate; `what` names it in errors.
    ///
    /// # Errors
    /// [`Error::Certificate`].
    pub fn from_pem(what: &str, pem: &[u8]) -> Result<Self, Error> {
        let bad = |detail: String| Error::Certificate { what: what.to_owned(), detail };
        let (rest, block) = x509_parser::pem::parse_x509_pem(pem)
            .map_err(|error| bad(format!("no PEM: {error}")))?;
        if block.label != "CERTIFICATE" {
            return Err(bad(format!("the PEM holds a {:.40}", block.label)));
        }
        if !rest.trim_ascii().is_empty() {
            return Err(bad("something follows the first certificate".to_owned()));
        }
        Self::from_der(what, &block.contents)
    }

    /// DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// PEM.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn to_pem(&self) -> Result<Vec<u8>, Error> {
        self.openssl()?.to_pem().map_err(Error::crypto("write a certificate"))
    }

    /// First second of its life, unix time.
    #[must_use]
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// Last second of its life, unix time.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Whether to issue its successor: it is outside its life, or in the last third of it. With
    /// AWS's lifetimes an authority renewed so always outlives what it is about to sign.
    #[must_use]
    pub fn needs_renewal(&self, now: i64) -> bool {
        now < self.not_before || now >= self.renew_at()
    }

    /// When the last third of its life begins, unix time.
    #[must_use]
    pub fn renew_at(&self) -> i64 {
        self.not_after - (self.not_after - self.not_before) / 3
    }

    pub(crate) fn openssl(&self) -> Result<X509, Error> {
        X509::from_der(&self.der).map_err(Error::crypto("read a certificate"))
    }
}

/// What a certificate to be made says.
pub(crate) struct Profile<'a> {
    /// Organisation.
    pub(crate) organisation: &'a str,
    /// Common name.
    pub(crate) common_name: &'a str,
    /// Big-endian, not zero.
    pub(crate) serial: &'a [u8],
    /// Unix time.
    pub(crate) not_before: i64,
    /// Unix time.
    pub(crate) not_after: i64,
    /// What it may sign.
    pub(crate) role: Role,
}

/// What the key of a certificate may sign; decides the extensions (nitro.md 5.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// Certificates, with this many authorities after it, and revocation lists if `crl`.
    Authority {
        /// `None`: any number.
        path_len: Option<u32>,
        /// Whether the key usage names revocation lists and signatures too.
        crl: bool,
    },
    /// Documents.
    Leaf,
}

/// Issues a certificate for `public_key`; without an `issuer` it is self-signed by `signer`.
pub(crate) fn issue(
    profile: &Profile<'_>,
    public_key: &PKeyRef<Public>,
    issuer: Option<&Certificate>,
    signer: &CaKey,
) -> Result<Certificate, Error> {
    let issuer = issuer.map(Certificate::openssl).transpose()?;
    let subject = subject(profile)?;
    let not_before = asn1_time(profile.not_before)?;
    let not_after = asn1_time(profile.not_after)?;
    let build = || {
        let mut builder = X509::builder()?;
        builder.set_version(2)?;
        builder
            .set_serial_number(&*Asn1Integer::from_bn(&*BigNum::from_slice(profile.serial)?)?)?;
        builder.set_subject_name(&subject)?;
        builder
            .set_issuer_name(issuer.as_ref().map_or(&subject, |issuer| issuer.subject_name()))?;
        builder.set_not_before(&not_before)?;
        builder.set_not_after(&not_after)?;
        builder.set_pubkey(public_key)?;
        match profile.role {
            Role::Leaf => {
                builder.append_extension(BasicConstraints::new().critical().build()?)?;
                let usage = KeyUsage::new().digital_signature().non_repudiation().build()?;
                builder.append_extension(usage)?;
            }
            Role::Authority { path_len, crl } => {
                let mut basic = BasicConstraints::new();
                basic.critical().ca();
                if let Some(path_len) = path_len {
                    basic.pathlen(path_len);
                }
                builder.append_extension(basic.build()?)?;
                if let Some(issuer) = &issuer {
                    let context = builder.x509v3_context(Some(issuer), None);
                    let id = AuthorityKeyIdentifier::new().keyid(true).build(&context)?;
                    builder.append_extension(id)?;
                }
                let context = builder.x509v3_context(issuer.as_deref(), None);
                let id = SubjectKeyIdentifier::new().build(&context)?;
                builder.append_extension(id)?;
                let mut usage = KeyUsage::new();
                usage.critical().key_cert_sign();
                if crl {
                    usage.digital_signature().crl_sign();
                }
                builder.append_extension(usage.build()?)?;
            }
        }
        builder.sign(&signer.0, MessageDigest::sha384())?;
        builder.build().to_der()
    };
    let der = build().map_err(Error::crypto("issue a certificate"))?;
    if der.len() > MAX_CERTIFICATE {
        return Err(Error::CertificateTooLong { len: der.len() });
    }
    Certificate::from_der("The certificate just issued", &der)
}

/// Reads a DER SubjectPublicKeyInfo of a P-384 key; `what` names it in errors.
pub(crate) fn public_key(what: &str, der: &[u8]) -> Result<PKey<Public>, Error> {
    let bad = |detail: String| Error::Key { what: what.to_owned(), detail };
    let key = PKey::public_key_from_der(der)
        .map_err(|_| bad("no SubjectPublicKeyInfo in DER".to_owned()))?;
    check_curve(&key).map_err(bad)?;
    Ok(key)
}

fn check_curve<T: HasParams>(key: &PKeyRef<T>) -> Result<(), String> {
    let curve = key.ec_key().ok().and_then(|key| key.group().curve_name());
    match curve {
        Some(Nid::SECP384R1) => Ok(()),
        Some(other) => Err(format!("its curve is {}", other.short_name().unwrap_or("another"))),
        None => Err("it is no key of a named elliptic curve".to_owned()),
    }
}

fn subject(profile: &Profile<'_>) -> Result<X509Name, Error> {
    let fields =
        [("O", "Organisation", profile.organisation), ("CN", "Common name", profile.common_name)];
    for (_, what, value) in fields {
        if value.is_empty()
            || value.chars().count() > MAX_NAME
            || value.chars().any(char::is_control)
        {
            let value = value.chars().take(2 * MAX_NAME).collect();
            return Err(Error::Name { what, value, max: MAX_NAME });
        }
    }
    let build = || {
        let mut name = X509Name::builder()?;
        for (field, _, value) in fields {
            name.append_entry_by_text(field, value)?;
        }
        Ok(name.build())
    };
    build().map_err(Error::crypto("write a subject"))
}

fn asn1_time(seconds: i64) -> Result<Asn1Time, Error> {
    Asn1Time::from_unix(seconds).map_err(|_| Error::Time { seconds })
}
