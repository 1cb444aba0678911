//! One enclave: keeper, NSM process and a minimal KVM virtual machine monitor. The commands call [`launch`] to start one, [`registry`] and
//! [`control`] to see and end it, [`resources`] for the pool; the rest are the three processes themselves (`docs/architecture.md`).

pub mod authority_folder;
pub mod channel;
pub mod control;
pub mod description;
pub mod error;
pub mod history;
pub mod identity;
pub mod json_file;
pub mod keeper;
pub mod launch;
pub mod min_memory;
pub mod nsm_process;
pub mod paths;
pub mod privileges;
pub mod probe;
pub mod registry;
pub mod resources;
pub mod sealed_image;
pub mod spawn;
pub mod vmm;

pub use error::{Error, Failure, Result};
