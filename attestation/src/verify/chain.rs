//! The certificates of a document, from the pinned root to the leaf: strict X.509, Nitro's one
//! algorithm and curve, names and signatures that link, dates at the chosen time, path lengths and
//! key usages. The root is the caller's by its bytes, so its own signature is not looked at. No
//! revocation: Nitro has none that a document could be checked against.

use ring::signature::{ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_SIG_ECDSA_WITH_SHA384,
};
use x509_parser::x509::X509Version;

use crate::document::AttestationDocument;
use crate::refusal::{Reason, Refusal};
use crate::show::rfc3339;

/// An uncompressed point of P-384: 04, x, y.
const POINT_LEN: usize = 97;

/// One certificate and where in the document it is.
struct Link<'a> {
    place: String,
    x509: X509Certificate<'a>,
}

/// Verifies the chain at `at` (unix seconds) and returns the leaf's public key, an uncompressed
/// point. The caller has compared the first certificate of the bundle with a root it trusts.
pub(super) fn verify(document: &AttestationDocument, at: i64) -> Result<Vec<u8>, Refusal> {
    let authorities = document
        .cabundle
        .iter()
        .enumerate()
        .map(|(index, der)| Link::read(format!("cabundle[{index}]"), der))
        .collect::<Result<Vec<_>, _>>()?;
    let leaf = Link::read("certificate".to_owned(), &document.certificate)?;

    let mut issuer: Option<&Link<'_>> = None;
    for (index, link) in authorities.iter().enumerate() {
        link.check_issued(issuer, at)?;
        link.check_authority(authorities.len() - 1 - index)?;
        issuer = Some(link);
    }
    leaf.check_issued(issuer, at)?;
    leaf.check_leaf()?;
    Ok(leaf.point().to_vec())
}

impl<'a> Link<'a> {
    /// Parses one certificate and refuses what Nitro's never have.
    fn read(place: String, der: &'a [u8]) -> Result<Self, Refusal> {
        let malformed = |detail: String| {
            Refusal::new(Reason::MalformedCertificate, format!("{place}: {detail}"))
        };
        let (rest, x509) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| malformed(format!("not X.509: {error}")))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes follow the certificate", rest.len())));
        }
        x509.extensions_map().map_err(|_| malformed("an extension is there twice".to_owned()))?;
        for extension in x509.iter_extensions() {
            if let ParsedExtension::ParseError { error } = extension.parsed_extension() {
                return Err(malformed(format!("extension {}: {error}", extension.oid)));
            }
        }

        let unsupported = |detail: String| {
            Refusal::new(Reason::UnsupportedCertificate, format!("{place}: {detail}"))
        };
        if x509.version() != X509Version::V3 {
            return Err(unsupported(format!("X.509 version {}, not 3", x509.version().0 + 1)));
        }
        for algorithm in [&x509.signature_algorithm, &x509.tbs_certificate.signature] {
            if algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA384 || algorithm.parameters.is_some() {
                return Err(unsupported(format!(
                    "signature algorithm {}, not ecdsa-with-SHA384",
                    algorithm.algorithm
                )));
            }
        }
        let key = x509.public_key();
        let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY
            || curve != Some(OID_NIST_EC_P384)
            || key.subject_public_key.unused_bits != 0
            || key.subject_public_key.data.len() != POINT_LEN
        {
            return Err(unsupported("its key is not an uncompressed point of P-384".to_owned()));
        }
        let critical = x509.iter_extensions().find(|extension| {
            extension.critical
                && !matches!(
                    extension.parsed_extension(),
                    ParsedExtension::BasicConstraints(_) | ParsedExtension::KeyUsage(_)
                )
        });
        if let Some(extension) = critical {
            return Err(unsupported(format!("unknown critical extension {}", extension.oid)));
        }
        Ok(Self { place, x509 })
    }

    fn point(&self) -> &[u8] {
        &self.x509.public_key().subject_public_key.data
    }

    /// Name and signature link to the issuer (none for the pinned root), and `at` is in its life.
    fn check_issued(&self, issuer: Option<&Self>, at: i64) -> Result<(), Refusal> {
        if let Some(issuer) = issuer {
            let (named, subject) = (self.x509.issuer(), issuer.x509.subject());
            if named.as_raw() != subject.as_raw() {
                return Err(self.refuse(
                    Reason::IssuerMismatch,
                    &format!("its issuer is {named}, but {} is {subject}", issuer.place),
                ));
            }
            if named.as_raw() == self.x509.subject().as_raw() {
                return Err(self.refuse(
                    Reason::IssuerMismatch,
                    "it names itself as its issuer, but is not the root",
                ));
            }
            UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, issuer.point())
                .verify(self.x509.tbs_certificate.as_ref(), &self.x509.signature_value.data)
                .map_err(|_| {
                    self.refuse(
                        Reason::CertificateSignature,
                        &format!("its signature is not by the key of {}", issuer.place),
                    )
                })?;
        }
        let validity = self.x509.validity();
        let (first, last) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        if at < first {
            return Err(self.refuse(
                Reason::NotYetValid,
                &format!("not valid before {}, verified at {}", rfc3339(first), rfc3339(at)),
            ));
        }
        if at > last {
            return Err(self.refuse(
                Reason::Expired,
                &format!("not valid after {}, verified at {}", rfc3339(last), rfc3339(at)),
            ));
        }
        Ok(())
    }

    /// May sign certificates, and allows the `below` authorities that follow it.
    fn check_authority(&self, below: usize) -> Result<(), Refusal> {
        let no = |detail: &str| self.refuse(Reason::NotACa, detail);
        let basic = self.x509.basic_constraints().ok().flatten();
        let basic = basic.filter(|basic| basic.value.ca && basic.critical).ok_or_else(|| {
            no("no critical basic constraint says that it is a certificate authority")
        })?;
        let usage = self.x509.key_usage().ok().flatten();
        if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
            return Err(no("its key usage does not include signing certificates"));
        }
        match basic.value.path_len_constraint {
            Some(allowed) if usize::try_from(allowed).is_ok_and(|allowed| below > allowed) => {
                Err(self.refuse(
                    Reason::PathLength,
                    &format!("{below} authorities follow it, it allows {allowed}"),
                ))
            }
            _ => Ok(()),
        }
    }

    /// May sign documents, and nothing but.
    fn check_leaf(&self) -> Result<(), Refusal> {
        let no = |detail: &str| self.refuse(Reason::NotALeaf, detail);
        let basic = self.x509.basic_constraints().ok().flatten();
        if basic.is_none_or(|basic| basic.value.ca) {
            return Err(no("no basic constraint says that it is not a certificate authority"));
        }
        match self.x509.key_usage().ok().flatten() {
            Some(usage) if usage.value.key_cert_sign() => {
                Err(no("its key usage includes signing certificates"))
            }
            Some(usage) if usage.value.digital_signature() => Ok(()),
            _ => Err(no("its key usage does not include digital signatures")),
        }
    }

    fn refuse(&self, reason: Reason, detail: &str) -> Refusal {
        Refusal::new(reason, format!("{}: {detail}", self.place))
    }
}
