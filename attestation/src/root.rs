//! A root that a caller trusts, with the name it is known by. AWS's G1 root is built in; every
//! other comes from the caller. A root is pinned by its bytes and never taken from a document.

use crate::Error;
use crate::certificate::Certificate;

/// AWS Nitro Enclaves Root-G1, as AWS publishes it.
const AWS_G1: &str = include_str!("../testdata/aws-nitro-root-g1.pem");

/// A pinned root certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Root {
    name: String,
    certificate: Certificate,
}

impl Root {
    /// AWS's root G1, named `aws`.
    ///
    /// # Errors
    /// None in practice: a test reads the built-in certificate.
    pub fn aws() -> Result<Self, Error> {
        Self::from_pem("aws", AWS_G1.as_bytes())
    }

    /// A root from PEM, under the name that verification reports (`local`, a file's name, …).
    ///
    /// # Errors
    /// [`Error::Certificate`].
    pub fn from_pem(name: &str, pem: &[u8]) -> Result<Self, Error> {
        Ok(Self::new(name, Certificate::from_pem(name, pem)?))
    }

    /// A root from DER.
    ///
    /// # Errors
    /// [`Error::Certificate`].
    pub fn from_der(name: &str, der: &[u8]) -> Result<Self, Error> {
        Ok(Self::new(name, Certificate::from_der(name, der)?))
    }

    /// A root that is already read.
    #[must_use]
    pub fn new(name: &str, certificate: Certificate) -> Self {
        Self { name: name.to_owned(), certificate }
    }

    /// The name the caller knows it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// SHA-256 of the DER, lower-case hexadecimal: how AWS identifies its root.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(self.certificate.der())
    }
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, der))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_root_is_the_one_aws_publishes() {
        let root = Root::aws().unwrap();
        assert_eq!(
            root.fingerprint(),
            "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
        );
        assert_eq!(root.certificate().der().len(), 533);
    }

    #[test]
    fn a_root_is_exactly_one_certificate() {
        for bad in [
            String::new(),
            "x".to_owned(),
            format!("{AWS_G1}{AWS_G1}"),
            AWS_G1.replace("CERTIFICATE", "PUBLIC KEY"),
        ] {
            assert!(Root::from_pem("x", bad.as_bytes()).is_err());
        }
        assert_eq!(
            Root::from_pem("aws", format!("\n{AWS_G1}\n\n").as_bytes()).unwrap(),
            Root::aws().unwrap()
        );
        let der = Root::aws().unwrap().certificate().der().to_vec();
        assert!(Root::from_der("x", &[der.clone(), vec![0]].concat()).is_err());
        assert!(Root::from_der("x", &der[..der.len() - 1]).is_err());
    }
}
