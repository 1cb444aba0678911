//! Starting a process of the tree with exactly the descriptors of the contract (`docs/architecture.md`), at fixed numbers,
//! and nothing else: everything this crate opens is close-on-exec, and the few that pass are put in place between fork and exec.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Pid, getppid, setsid};

use crate::error::{Error, Result};

/// The first descriptor number handed to a process of the tree.
pub const FIRST_FD: RawFd = 3;

/// Above every number of the contract, so that a source is never overwritten by an earlier target.
const CLEAR_OF_TARGETS: RawFd = 32;

/// What the new process has to do with the one that starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// A session of its own; it outlives us and Ctrl-C does not reach it.
    OwnSession,
    /// Killed when the thread that starts it ends.
    DiesWithUs,
}

/// How a process of the tree is started.
#[derive(Debug)]
pub struct Role<'a> {
    /// The argument that chooses the role: `keeper`, `nsm`, `vmm`.
    pub name: &'static str,
    /// `enclave-vmm`.
    pub program: &'a Path,
    /// Descriptors by number, from [`FIRST_FD`] to 31; the others are closed.
    pub fds: &'a [(RawFd, BorrowedFd<'a>)],
    /// Its life.
    pub tie: Tie,
    /// Where its standard error goes; `/dev/null` without.
    pub log: Option<&'a File>,
}

impl Role<'_> {
    /// Starts it.
    ///
    /// # Errors
    /// [`Error::Spawn`], [`Error::System`].
    pub fn start(&self) -> Result<Child> {
        let mut placed: Vec<(OwnedFd, RawFd)> = Vec::with_capacity(self.fds.len());
        for (target, fd) in self.fds {
            placed.push((duplicate_high(fd.as_fd())?, *target));
        }
        // std reports a failed exec through a descriptor of its own; it must not get a number that we overwrite.
        let _low_numbers_taken = occupy_low_numbers()?;

        let mut command = Command::new(self.program);
        // What `ps` shows; the program itself may be `/proc/self/exe`.
        command.arg0("enclave-vmm").arg(self.name).env_clear().current_dir("/");
        // The tree needs none of OpenSSL's configuration, and its file is one thing less to read in a process with keys.
        command.env("OPENSSL_CONF", "/dev/null");
        for name in ["RUST_BACKTRACE", "TZ"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        match self.log {
            Some(file) => {
                let file = file.try_clone().map_err(Error::system("duplicate the log file"))?;
                command.stderr(file)
            }
            None => command.stderr(Stdio::null()),
        };

        let tie = self.tie;
        let parent = Pid::this();
        let child_side = move || -> io::Result<()> {
            for (source, target) in &placed {
                duplicate_to(source.as_raw_fd(), *target)?;
            }
            // The mask survives exec; the keeper has signals blocked that its children must get.
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            match tie {
                Tie::OwnSession => {
                    setsid()?;
                }
                Tie::DiesWithUs => {
                    prctl::set_pdeathsig(Signal::SIGKILL)?;
                    // It may have died before the line above.
                    if getppid() != parent {
                        return Err(Errno::ESRCH.into());
                    }
                }
            }
            Ok(())
        };
        // SAFETY: between fork and exec only async-signal-safe system calls are made (dup2, sigprocmask, setsid,
        // prctl, getppid); nothing allocates and no lock is taken.
        unsafe { command.pre_exec(child_side) };
        command.spawn().map_err(|source| Error::Spawn {
            role: self.name,
            program: self.program.to_owned(),
            source,
        })
    }
}

/// Takes over a descriptor that the contract says this process was started with, and makes it close-on-exec.
///
/// Call it once for a number, at the start of a role.
///
/// # Errors
/// [`Error::System`] if there is none.
pub fn inherited(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: F_SETFD takes no pointer; on a number that is not open it fails with EBADF.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(Error::System {
            action: "find the descriptor a process of the tree is started with",
            source: io::Error::last_os_error(),
        });
    }
    // SAFETY: the descriptor is open (checked above) and nothing else in this process owns it: it came through exec, and each
    // role takes each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn duplicate_high(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(CLEAR_OF_TARGETS))
        .map_err(Error::system("duplicate a descriptor"))?;
    // SAFETY: fcntl has just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn occupy_low_numbers() -> Result<Vec<File>> {
    let mut held = Vec::new();
    loop {
        let file = File::open("/dev/null").map_err(Error::file("open", Path::new("/dev/null")))?;
        if file.as_raw_fd() >= CLEAR_OF_TARGETS {
            return Ok(held);
        }
        held.push(file);
    }
}

fn duplicate_to(source: RawFd, target: RawFd) -> io::Result<()> {
    // SAFETY: two numbers, no pointers. `target` belongs to nobody in the forked child, which execs next.
    if unsafe { libc::dup2(source, target) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::pair;

    #[test]
    fn a_missing_program_is_one_clear_error() {
        let program = Path::new("/nonexistent/enclave-vmm");
        let role = Role { name: "nsm", program, fds: &[], tie: Tie::DiesWithUs, log: None };
        let error = role.start().unwrap_err();
        assert!(error.to_string().contains("/nonexistent/enclave-vmm"), "{error}");
        assert_eq!(error.code(), crate::error::code::PROCESS_SPAWN);
    }

    #[test]
    fn a_child_has_only_the_descriptors_of_the_contract() {
        // The shell takes its role's name as a script: it lists what it was given.
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("lister");
        std::fs::write(&program, "#!/bin/sh\nls /proc/$$/fd >&4\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let (ours, theirs) = pair().unwrap();
        let output = File::create(folder.path().join("out")).unwrap();
        let fds = [(3, theirs.as_fd()), (4, output.as_fd())];
        let role =
            Role { name: "vmm", program: &program, fds: &fds, tie: Tie::DiesWithUs, log: None };
        assert!(role.start().unwrap().wait().unwrap().success());
        drop(ours);
        let listed = std::fs::read_to_string(folder.path().join("out")).unwrap();
        let numbers: Vec<u32> = listed.split_whitespace().map(|n| n.parse().unwrap()).collect();
        // 10 or 255 is the shell's own copy of the script.
        let given: Vec<u32> = numbers.into_iter().filter(|n| *n < 10).collect();
        assert_eq!(given, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn an_inherited_number_that_is_not_open_is_an_error() {
        assert!(inherited(30_000).is_err());
    }
}
