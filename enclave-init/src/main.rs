//! PID 1 of an enclave: mounts, heartbeat, attestation agent, then the application of the measured manifest, as
//! whom and where it says; at its end the exit status goes to the parent and the machine resets. Small,
//! static and without async: all of it is measured, and all of it runs as root. Its own arguments and environment
//! are never read, because the kernel fills them from its command line.

#![deny(unsafe_code)]
#![cfg_attr(not(test), no_main)]

mod accounts;
mod agent;
mod child;
mod command;
mod console;
mod control;
mod entry;
mod error;
mod heartbeat;
mod loopback;
mod mounts;
mod name_files;
mod reset;
mod small_file;
mod supervision;

use std::path::Path;

use error::Error;
use guest_abi::control::{Exit, ToVmm};
use guest_abi::manifest::{self, Manifest};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Pid, getpid, sethostname};

use command::Command;

/// Descriptors a process may have: soft as programs that use `select` expect it, hard for those that ask.
const DESCRIPTORS: (u64, u64) = (1024, 1 << 19);

/// Everything, from the kernel's hand-over to the reset. Started by mistake in a running system it does
/// nothing, and tells by the exit code.
fn run() -> i32 {
    if getpid() != Pid::from_raw(1) {
        console::say("this is PID 1 of an enclave and does nothing elsewhere");
        return 2;
    }
    reset::on_panic();
    match enclave() {
        Ok(exit) => reset::after_exit(exit),
        Err(error) => reset::after_failure(&error),
    }
}

/// The test harness wants Rust's own; see [`entry`] for the real one.
#[cfg(test)]
fn main() {
    std::process::exit(run());
}

fn enclave() -> Result<Exit, Error> {
    supervision::block_signals()?;
    mounts::early()?;
    console::attach()?;
    let listener = agent::listen()?;
    heartbeat::beat()?;
    if let Err(error) = control::connect() {
        console::say(&format!("no control connection to the parent (CID 3, port 9002): {error}"));
    }

    let manifest = read_manifest()?;
    mounts::enter_image()?;
    mounts::populate()?;
    loopback::up()?;
    sethostname("enclave").map_err(Error::call("set the host name"))?;
    setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS.0, DESCRIPTORS.1)
        .map_err(Error::call("set the limit of open files"))?;
    let root = Path::new("/");
    for error in name_files::repair(root) {
        console::say(&error.chain());
    }

    let command = Command::new(&manifest, root)?;
    agent::serve(listener)?;
    let application = child::start(&command)?;
    control::send(&ToVmm::Ready);
    // The kernel's process numbers are positive and fit a pid_t, whatever type carries them.
    let pid = Pid::from_raw(application.id().cast_signed());
    supervision::until_exit(pid)
}

fn read_manifest() -> Result<Manifest, Error> {
    let path = Path::new("/").join(manifest::FILE_NAME);
    let limit = u64::try_from(manifest::MAX_LEN).unwrap_or(u64::MAX);
    let bytes = small_file::read(&path, limit)?.ok_or_else(|| {
        Error::file("open", &path)(std::io::Error::from_raw_os_error(libc::ENOENT))
    })?;
    Manifest::parse(&bytes).map_err(Error::Manifest)
}
