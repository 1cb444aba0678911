//! A parent virtual machine for hosts whose own KVM cannot run guests: Debian's kernel in QEMU, with
//! the host's root as its own (read-only, changes kept in memory) and real nested KVM, even where
//! QEMU has to emulate the processor. Everything goes over a private channel of virtio-serial ports;
//! nothing else listens.
//!
//! What the parent sees of the host: `/` is a snapshot in effect (9p, cached for good, so a file
//! rewritten on the host may show old or new bytes); [`HOST_VIEW`] is the same tree uncached;
//! [`SHARED_STATE`] is `<state>/machine/share`, read-write and uncached. Programs and images are
//! best streamed in with [`Machine::ensure_program`] and [`Machine::put_file`].

#![deny(unsafe_code)]

pub mod channel;
mod command;
mod config;
mod console_log;
mod cpio;
mod error;
mod exec;
mod held_signals;
mod initramfs;
mod lifecycle;
mod module_file;
mod parent_kernel;
mod qemu;
mod record;
mod session;
mod terminal;
mod transfer;

pub use command::{Captured, Command, Exit, Limits};
pub use config::{Accel, Config};
pub use error::Error;

pub use initramfs::MODULE_LIST;
pub use lifecycle::{Machine, Stopped};
pub use module_file::ModuleError;
pub use record::Status;

/// 9p tag of the host's root, cached.
pub const HOST_ROOT_TAG: &str = "host-root";
/// 9p tag of the host's root, uncached.
pub const HOST_VIEW_TAG: &str = "host-view";
/// 9p tag of `<state>/machine/share`.
pub const SHARE_TAG: &str = "share";
/// Where the parent sees the host's root uncached, read-only.
pub const HOST_VIEW: &str = "/run/host";
/// Where the parent sees `<state>/machine/share`.
pub const SHARED_STATE: &str = "/var/lib/enclave";

/// The version of the QEMU that [`Machine::start`] would use, for those who only want to know.
///
/// # Errors
/// [`Error::QemuMissing`], [`Error::QemuTooOld`], [`Error::QemuVersionUnreadable`].
pub fn qemu_version() -> Result<String, Error> {
    qemu::find().map(|qemu| qemu.version)
}
