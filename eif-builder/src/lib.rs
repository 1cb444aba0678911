//! Enclave image files (EIF): read, lint, measure, write, and build from folders and OCI images, bit for
//! bit. Three ways in: [`Eif::parse`] for what is there, [`build::build`] for a whole image,
//! [`write::EifWriter`] for one made of ready sections. Files are streamed and their contents never
//! interpreted on the host: a layer's names, links and devices exist in memory only.

#![forbid(unsafe_code)]

pub mod build;
pub mod describe;
pub mod eif;
pub mod format;
pub mod input;
pub mod measure;
pub mod metadata;
pub mod signature;
pub mod write;

mod cpio;
mod error;
mod oci;
mod ramdisk;
mod rootfs;
mod tree;

pub use eif::Eif;
pub use error::Error;
pub use measure::Measurements;
pub use oci::OciReference;
