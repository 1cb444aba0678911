//! Nitro attestation documents: what they say ([`document`]), how they are signed ([`cose`],
//! [`leaf_key`]), the certificates behind a local signature ([`certificate`], [`authority`]) and
//! strict verification under a root the caller names ([`verify`]). The crate does no I/O and reads
//! no clock: time comes in as an argument, files go in and out as bytes.
#![forbid(unsafe_code)]

pub mod authority;
pub mod certificate;
pub mod cose;
pub mod document;
mod error;
pub mod leaf_key;
pub mod refusal;
pub mod root;
pub mod show;
#[cfg(test)]
mod test_authority;
pub mod verify;

pub use authority::{Authority, Identity, LeafChain, Lifetimes};
pub use certificate::{CaKey, Certificate};
pub use document::AttestationDocument;
pub use error::Error;
pub use leaf_key::LeafKey;
pub use refusal::{Reason, Refusal};
pub use root::Root;
pub use verify::{At, Check, Verified, VerifyOptions, verify};
