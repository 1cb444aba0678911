//! The key that signs one enclave's documents. It is made in the nsm process and has no way out of
//! it: there is no accessor for the private half. OpenSSL overwrites it with zeroes when it is freed.

use aws_nitro_enclaves_cose::crypto::{
    MessageDigest, SignatureAlgorithm, SigningPrivateKey, SigningPublicKey,
};
use aws_nitro_enclaves_cose::error::CoseError;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::nid::Nid;
use openssl::pkey::Private;

use crate::Error;
use crate::cose::{self, SIGNATURE_LEN};
use crate::document::AttestationDocument;

/// Bytes of one coordinate of a signature.
const SCALAR_LEN: i32 = 48;

/// A P-384 key for documents.
pub struct LeafKey {
    key: EcKey<Private>,
    public_key_der: Vec<u8>,
}

impl std::fmt::Debug for LeafKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeafKey").finish_non_exhaustive()
    }
}

impl LeafKey {
    /// Makes a new key from OpenSSL's random generator.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn generate() -> Result<Self, Error> {
        let key = EcGroup::from_curve_name(Nid::SECP384R1)
            .and_then(|group| EcKey::generate(&group))
            .map_err(Error::crypto("make a P-384 key"))?;
        let public_key_der =
            key.public_key_to_der().map_err(Error::crypto("write a public key"))?;
        Ok(Self { key, public_key_der })
    }

    /// The public half, DER SubjectPublicKeyInfo: what the keeper has a certificate issued for.
    #[must_use]
    pub fn public_key_der(&self) -> &[u8] {
        &self.public_key_der
    }

    /// Signs a document: an untagged COSE_Sign1, as AWS's.
    ///
    /// # Errors
    /// [`Error::Encode`], [`Error::Cose`].
    pub fn sign_document(&self, document: &AttestationDocument) -> Result<Vec<u8>, Error> {
        cose::sign(&document.encode()?, self)
    }
}

impl SigningPublicKey for LeafKey {
    fn get_parameters(&self) -> Result<(SignatureAlgorithm, MessageDigest), CoseError> {
        Ok((SignatureAlgorithm::ES384, MessageDigest::Sha384))
    }

    fn verify(&self, digest: &[u8], signature: &[u8]) -> Result<bool, CoseError> {
        let fail = |error| CoseError::SignatureError(Box::new(error));
        if signature.len() != SIGNATURE_LEN {
            return Ok(false);
        }
        let (r, s) = signature.split_at(SIGNATURE_LEN / 2);
        let signature = openssl::bn::BigNum::from_slice(r)
            .and_then(|r| Ok((r, openssl::bn::BigNum::from_slice(s)?)))
            .and_then(|(r, s)| EcdsaSig::from_private_components(r, s))
            .map_err(fail)?;
        signature.verify(digest, &self.key).map_err(fail)
    }
}

impl SigningPrivateKey for LeafKey {
    fn sign(&self, digest: &[u8]) -> Result<Vec<u8>, CoseError> {
        let fail = |error| CoseError::SignatureError(Box::new(error));
        let signature = EcdsaSig::sign(digest, &self.key).map_err(fail)?;
        let mut bytes = signature.r().to_vec_padded(SCALAR_LEN).map_err(fail)?;
        bytes.extend(signature.s().to_vec_padded(SCALAR_LEN).map_err(fail)?);
        Ok(bytes)
    }
}
