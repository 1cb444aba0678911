//! The enclave's way out: connections that an enclave opens to its parent are carried to one fixed TCP destination.
//!
//! Bytes pass untouched (TLS stays end to end), each direction is closed on its own (half-close), and what the
//! destination cannot take in time is not read from the enclave (back-pressure), so memory per connection is fixed.

#![forbid(unsafe_code)]

mod address;
mod error;
mod forward;
mod listener;

pub use address::{Destination, ListenAddress};
pub use error::Error;
pub use forward::{Event, Limits, serve};
pub use listener::Listener;
