//! The two processes below the keeper and the descriptors between the three.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::place::Place;
use crate::channel::{self, Channel};
use crate::error::{Error, Result};
use crate::sealed_image::SealedImage;
use crate::spawn::{Role, Tie};

/// What is running now, also when the file on disk has been replaced by an upgrade.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// A child and the channel to it.
#[derive(Debug)]
pub(super) struct Member {
    child: Child,
    pub(super) channel: Channel,
    /// How it ended, once it has.
    pub(super) ended: Option<ExitStatus>,
}

/// Both, and the console of a debug enclave.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) nsm: Member,
    pub(super) vmm: Member,
    pub(super) console: Option<File>,
}

impl Members {
    /// Starts both and puts them into the enclave's cgroup.
    ///
    /// # Errors
    /// [`Error::Spawn`], [`Error::System`], [`Error::File`]; nothing is left running.
    pub(super) fn start(place: &Place, image: &SealedImage, debug: bool) -> Result<Self> {
        let (nsm_end, vmm_end) = channel::pair()?;
        let cgroup = place.cgroup();
        let log = log_file();
        let nsm = Member::start("nsm", &[(4, image.as_fd()), (5, nsm_end.as_fd())], log.as_ref())?;
        cgroup.add(nsm.pid())?;

        let threads = cgroup.threads()?;
        let console = if debug {
            let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(Error::system("make a pipe"))?;
            set_nonblocking(&read)?;
            Some((File::from(read), write))
        } else {
            None
        };
        let mut fds: Vec<(RawFd, BorrowedFd<'_>)> =
            vec![(4, image.as_fd()), (5, vmm_end.as_fd()), (7, threads.as_fd())];
        if let Some((_, write)) = &console {
            fds.push((6, write.as_fd()));
        }
        let vmm = Member::start("vmm", &fds, log.as_ref())?;
        cgroup.add(vmm.pid())?;
        Ok(Self { nsm, vmm, console: console.map(|(read, _)| read) })
    }
}

impl Member {
    fn start(
        name: &'static str,
        others: &[(RawFd, BorrowedFd<'_>)],
        log: Option<&File>,
    ) -> Result<Self> {
        let (ours, theirs) = channel::pair()?;
        let mut fds = vec![(3, theirs.as_fd())];
        fds.extend_from_slice(others);
        let program = Path::new(THIS_PROGRAM);
        let child = Role { name, program, fds: &fds, tie: Tie::DiesWithUs, log }.start()?;
        Ok(Self { child, channel: Channel::new(ours, name), ended: None })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sees whether it has ended.
    pub(super) fn reap(&mut self) {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.ended = Some(status);
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Waits for its end, and makes one after `patience`.
    pub(super) fn finish(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            self.reap();
            if self.ended.is_some() {
                return;
            }
            if Instant::now() >= deadline {
                self.kill();
                self.ended = self.child.wait().ok();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.reap();
        if self.ended.is_none() {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// The keeper's own standard error, which the launching command chose.
fn log_file() -> Option<File> {
    std::io::stderr().as_fd().try_clone_to_owned().ok().map(File::from)
}

fn set_nonblocking(fd: &OwnedFd) -> Result<()> {
    use nix::fcntl::{FcntlArg, fcntl};
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map(drop)
        .map_err(Error::system("make a pipe that does not wait"))
}
