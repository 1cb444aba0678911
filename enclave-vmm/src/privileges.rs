//! Giving up what a process of the tree does not need: capabilities (all sets), new privileges, core dumps, and being traced by the
//! same user. After that a hole in one of them is worth less.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;

use crate::error::{Error, Result};

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Drops every capability for ever, also through exec, and arms the parent-death signal again (losing capabilities disarms it).
///
/// # Errors
/// [`Error::System`].
pub fn drop_all() -> Result<()> {
    prctl::set_no_new_privs().map_err(Error::system("give up new privileges"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(Error::system("switch core dumps off"))?;
    drop_bounding_set();
    clear_capabilities()?;
    prctl::set_dumpable(false).map_err(Error::system("switch tracing off"))?;
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(Error::system("tie a process to its parent"))
}

fn drop_bounding_set() {
    const PR_CAPBSET_DROP: libc::c_int = 24;
    for capability in 0..64 {
        // SAFETY: numbers only. Fails harmlessly beyond the last capability, or without CAP_SETPCAP, where the
        // bounding set gives nothing because of no_new_privs.
        unsafe { libc::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
}

fn clear_capabilities() -> Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let sets = [CapabilitySets::default(); 2];
    // SAFETY: version 3 reads one header and two sets, which live through the call; capset writes only the header.
    let outcome = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    if outcome < 0 {
        return Err(Error::System {
            action: "give up capabilities",
            source: io::Error::last_os_error(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_without_capabilities_stays_without() {
        // Capabilities belong to a thread, so the other tests keep theirs.
        let status = std::thread::spawn(|| {
            clear_capabilities().unwrap();
            prctl::set_no_new_privs().unwrap();
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        })
        .join()
        .unwrap();
        for set in ["CapInh", "CapPrm", "CapEff"] {
            let line = status.lines().find(|line| line.starts_with(set)).unwrap();
            assert!(line.ends_with("0000000000000000"), "{line}");
        }
        assert!(status.contains("NoNewPrivs:\t1"));
    }
}
