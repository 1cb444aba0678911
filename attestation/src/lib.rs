//! Nitro attestation documents: certificates, signing, strict verification.
