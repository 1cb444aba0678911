//! Enclave image files (EIF v4): read, write, measure, build from OCI images, bit for bit.

#![forbid(unsafe_code)]

pub mod eif;
pub mod format;
pub mod measure;
pub mod signature;
pub mod write;

mod error;

pub use eif::Eif;
pub use error::Error;
pub use measure::Measurements;
