//! The Nitro Secure Module as a pure core: CBOR with strict limits, platform configuration
//! registers, the messages of `/dev/nsm` and the device's state machine. It has no I/O, no clock
//! and no randomness of its own; whoever drives it passes those in, so all of it is tested and
//! fuzzed without a virtual machine.
#![forbid(unsafe_code)]

pub mod cbor;
pub mod device;
mod error;
pub mod message;
pub mod pcr;

pub use device::{Claims, Device, Environment, ModuleId};
pub use error::Error;
pub use message::{Request, Response};
pub use pcr::{Pcr, PcrBank};
