//! What the image, its init and the VMM agree on: ports, the manifest, and the wire formats of the
//! agent (9001) and of the control connection (9002). One crate for both ends, so that neither can
//! drift. No sockets and no files: everything works over `std::io::Read` and `Write`.

#![forbid(unsafe_code)]

pub mod agent;
pub mod cid;
pub mod control;
pub mod frame;
pub mod manifest;
pub mod ports;

mod error;

pub use cid::Cid;
pub use error::Error;
