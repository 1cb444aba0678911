//! Starting the application: a fresh session, an empty signal mask, the ids of its account, no descriptor
//! but the three standard ones. `std` does the fork and brings the errno of a failed exec back; what it has
//! no safe call for happens between fork and exec in here, in system calls only.

#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::unix::fs::fchown;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::ptr;

use crate::Error;
use crate::command::Command;

/// Starts `command` and returns once the kernel has taken the program.
pub(crate) fn start(command: &Command) -> Result<Child, Error> {
    // OCI engines make a missing working folder too, owned by root.
    fs::create_dir_all(&command.workdir).map_err(Error::file("create", &command.workdir))?;
    give_console(command);
    let mut prepared = std::process::Command::new(&command.program);
    if let Some((name, rest)) = command.arguments.split_first() {
        prepared.arg0(name).args(rest);
    }
    // What stdin would carry comes from the parent's side of the UART, unmeasured: there is none.
    prepared
        .env_clear()
        .envs(command.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&command.workdir)
        .stdin(Stdio::null());
    let (uid, gid) = (command.identity.uid, command.identity.gid);
    let groups = command.identity.groups.clone();
    // SAFETY: the closure runs in the child between fork and exec, where only async-signal-safe calls
    // are allowed: it makes plain system calls, allocates nothing and takes no lock.
    unsafe { prepared.pre_exec(move || become_application(uid, gid, &groups)) };
    prepared.spawn().map_err(|source| start_error(command, source))
}

/// Lets an application that is not root open `/dev/stdout` and `/dev/stderr` again, as engines do.
fn give_console(command: &Command) {
    if command.identity.uid != 0 {
        // A console that is not there (a kernel without one) cannot be given away; nothing is lost.
        let _ = fchown(io::stdout(), Some(command.identity.uid), None);
        let _ = fchown(io::stderr(), Some(command.identity.uid), None);
    }
}

/// "No such file" for a file that is there means the `#!` line or the ELF loader; say so.
fn start_error(command: &Command, source: io::Error) -> Error {
    let path = command.program.clone();
    let is_there = command.workdir.join(&path).is_file();
    if source.kind() == io::ErrorKind::NotFound && is_there {
        return Error::NoInterpreter { path, source };
    }
    Error::Start { path, source }
}

/// The child's last steps before exec. Ids go last and in this order: after `setuid` the others would fail.
///
/// Raw system calls, because glibc's wrappers of the id calls synchronise all threads of a process, and
/// this one is the copy of a single thread.
fn become_application(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: an all-zero sigset_t is a valid object for sigemptyset to fill.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is a live local, exclusively ours.
    unsafe { libc::sigemptyset(&raw mut none) };
    // SAFETY: both pointers are a live set and null, which means that the old mask is not wanted.
    let masked = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
    check(masked.into())?;
    // SAFETY: no arguments, no memory.
    check(unsafe { libc::syscall(libc::SYS_setsid) })?;
    // SAFETY: numbers only. The descriptors are marked, not closed, so that the one over which `std`
    // reports a failed exec works until the exec. A kernel without this call (before 5.9) is no failure:
    // every descriptor here was opened to be closed on exec; this is the second lock on that door.
    let _ = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    // SAFETY: pointer and length are those of a live slice, which the kernel only reads.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_setgid, gid) })?;
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_setuid, uid) })?;
    Ok(())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::accounts::Identity;

    fn command(program: &str) -> Command {
        Command {
            program: PathBuf::from(program),
            arguments: vec![program.to_owned()],
            environment: Vec::new(),
            workdir: PathBuf::from("/"),
            identity: Identity { uid: 0, gid: 0, groups: Vec::new(), home: "/".into() },
        }
    }

    #[test]
    fn errors_tell_a_missing_program_from_a_missing_interpreter() {
        let not_found = || io::Error::from_raw_os_error(libc::ENOENT);
        let gone = start_error(&command("/no/such/program"), not_found());
        assert!(gone.chain().contains("/no/such/program"), "{}", gone.chain());
        assert!(matches!(gone, Error::Start { .. }));
        let here = start_error(&command("/proc/self/exe"), not_found());
        assert!(matches!(here, Error::NoInterpreter { .. }), "{here}");
    }
}
