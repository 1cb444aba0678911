//! The program as its user meets it: exit codes, stdout and stderr, without KVM and without root. State folders are fresh ones,
//! so no machine of the user's own gets involved.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its case has failed")]

mod attestation;
mod bad_arguments;
mod images;
mod program;
