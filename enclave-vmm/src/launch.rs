//! Starting an enclave, as `run-enclave` does: start its keeper in a session of its own, tell it what is wanted, and follow its reports until the
//! heartbeat. Everything is taken and put back by the keeper; a caller that dies before the heartbeat ends the tree, and one that dies after changes nothing.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::channel::{self, Channel};
use crate::description::{Measurements, RunDescription};
use crate::error::{Error, Failure, Result};
use crate::min_memory::MemoryRule;
use crate::paths::Paths;
use crate::resources::cpu_topology::CpuRequest;
use crate::sealed_image::SealedImage;
use crate::spawn::{Role, Tie};
use crate::vmm::messages::{Parameters, Timings};

/// What is wanted. First message on the launch socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchSpec {
    /// Name wished for; without, the image's file name.
    pub name: Option<String>,
    /// The image's path, for people; the bytes come as a descriptor.
    pub eif_path: String,
    /// Memory, MiB; rounded up to 2.
    pub memory_mib: u64,
    /// How the least memory is computed.
    pub memory_rule: MemoryRule,
    /// CPUs.
    pub cpus: CpuRequest,
    /// CID wished for; `None` or 0 for any.
    pub cid: Option<u64>,
    /// Debug mode.
    pub debug: bool,
    /// The parent's vsock socket; without, `vsock.sock` in the enclave's folder.
    pub vsock_path: Option<PathBuf>,
    /// IAM role ARN, measured into PCR3.
    pub role: Option<String>,
    /// For the app.
    pub parameters: Parameters,
    /// `<run>`.
    pub run_dir: PathBuf,
    /// `<state>`.
    pub state_dir: PathBuf,
    /// `CLOCK_MONOTONIC` when the command began, ns: where [`Timing`] counts from.
    pub began_ns: u64,
}

impl LaunchSpec {
    /// An ordinary start of the image at `eif_path`; change fields as needed.
    #[must_use]
    pub fn new(paths: &Paths, eif_path: &Path, memory_mib: u64, cpus: CpuRequest) -> Self {
        Self {
            name: None,
            eif_path: eif_path.to_string_lossy().into_owned(),
            memory_mib,
            memory_rule: MemoryRule::default(),
            cpus,
            cid: None,
            debug: false,
            vsock_path: None,
            role: None,
            parameters: Parameters::default(),
            run_dir: paths.run.clone(),
            state_dir: paths.state.clone(),
            began_ns: monotonic_ns(),
        }
    }
}

/// What the keeper reports to whoever launches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// CPUs and pages are taken.
    Allocated(RunDescription),
    /// The image is measured.
    Measured(Measurements),
    /// The first guest instruction has run.
    Started(Timing),
    /// The enclave is up. Last message.
    Heartbeat(Timing),
    /// It is not, and everything is put back. Last message.
    Failed(Failure),
}

/// Where the time went, each in µs since the command began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// The keeper runs and knows what is wanted.
    pub keeper_us: u64,
    /// CPUs and pages are taken.
    pub allocated_us: u64,
    /// nsm and vmm are started.
    pub spawned_us: u64,
    /// The image is measured.
    pub measured_us: u64,
    /// The nsm has its certificates.
    pub serving_us: u64,
    /// The image is in guest memory.
    pub loaded_us: u64,
    /// The guest runs.
    pub started_us: u64,
    /// The heartbeat was answered.
    pub heartbeat_us: u64,
    /// The vmm's own account, ns.
    pub vmm: Timings,
}

/// An enclave that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// As `run-enclave` prints it.
    pub description: RunDescription,
    /// Its image's registers.
    pub measurements: Option<Measurements>,
    /// Where the time went.
    pub timing: Timing,
}

/// `nitro-cli`'s time for a start: 90 s for each 6 GiB of image and each 100 GiB of memory begun.
#[must_use]
pub fn boot_timeout(image_bytes: u64, memory_mib: u64) -> Duration {
    let image = image_bytes.div_ceil(6 << 30).max(1);
    let memory = memory_mib.div_ceil(100 << 10).max(1);
    Duration::from_secs(90_u64.saturating_mul(image.saturating_add(memory)))
}

/// What a start may take beside booting: waiting for the run lock and for another start's memory, and tidying up.
const BESIDE_BOOT: Duration = Duration::from_secs(300);

/// Starts an enclave and waits for its heartbeat. `program` is `enclave-vmm` ([`Paths::helper`]); `log` gets what the tree writes on standard error;
/// `progress` sees each report as it comes.
///
/// # Errors
/// [`Error::Reported`] with the keeper's own account, when everything is put back already; [`Error::Spawn`], [`Error::Closed`], [`Error::Timeout`].
pub fn launch(
    spec: &LaunchSpec,
    image: SealedImage,
    program: &Path,
    log: Option<&File>,
    mut progress: impl FnMut(&Report),
) -> Result<Running> {
    let limit = boot_timeout(image.len(), spec.memory_mib) + BESIDE_BOOT;
    let (ours, theirs) = channel::pair()?;
    let fds = [(3, theirs.as_fd()), (4, image.as_fd())];
    let mut keeper =
        Role { name: "keeper", program, fds: &fds, tie: Tie::OwnSession, log }.start()?;
    // Their end must be theirs alone, or its closing would go unseen; and the image's memory is theirs to free.
    drop(theirs);
    drop(image);
    let channel = Channel::new(ours, "The enclave's keeper");
    let outcome =
        channel.send(spec).and_then(|()| follow(&channel, Instant::now() + limit, &mut progress));
    if outcome.is_err() {
        // With our end closed the keeper ends what it may still have, then itself.
        drop(channel);
        let _ = keeper.wait();
    }
    outcome
}

/// Reads reports until the last.
fn follow(
    channel: &Channel,
    deadline: Instant,
    progress: &mut impl FnMut(&Report),
) -> Result<Running> {
    let mut description = None;
    let mut measurements = None;
    loop {
        let report: Report = channel.expect_value(Some(deadline))?;
        progress(&report);
        match report {
            Report::Allocated(allocated) => description = Some(allocated),
            Report::Measured(measured) => measurements = Some(measured),
            Report::Started(_) => {}
            Report::Failed(failure) => return Err(Error::Reported(failure)),
            Report::Heartbeat(timing) => {
                let description =
                    description.ok_or(Error::Closed { peer: "The enclave's keeper" })?;
                return Ok(Running { description, measurements, timing });
            }
        }
    }
}

/// `CLOCK_MONOTONIC`, ns; one clock for all processes of the tree.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let Ok(time) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 0 };
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use super::*;
    use crate::description::example;

    fn spec() -> LaunchSpec {
        let paths = Paths::from_env(|_| None, 0);
        LaunchSpec::new(&paths, Path::new("/x/hello.eif"), 256, CpuRequest::Count(2))
    }

    fn image() -> SealedImage {
        SealedImage::from_stream(&mut &b"image"[..], Path::new("-"), 100).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn the_timeout_is_nitro_clis() {
        assert_eq!(boot_timeout(1, 256).as_secs(), 180);
        assert_eq!(boot_timeout((6 << 30) + 1, 101 << 10).as_secs(), 360);
        assert!(boot_timeout(u64::MAX, u64::MAX).as_secs() > 1 << 30);
    }

    #[test]
    fn reports_up_to_the_heartbeat() {
        let (ours, theirs) = channel::pair().unwrap();
        let keeper = thread::spawn(move || {
            let channel = Channel::new(theirs, "command");
            let got: LaunchSpec = channel.expect_value(None).unwrap();
            let whole = example("i-0-enc1", "hello", 16);
            channel.send(&Report::Allocated(whole.run)).unwrap();
            channel.send(&Report::Measured(whole.measurements)).unwrap();
            channel.send(&Report::Started(Timing::default())).unwrap();
            channel
                .send(&Report::Heartbeat(Timing { heartbeat_us: 9, ..Timing::default() }))
                .unwrap();
            got
        });
        let channel = Channel::new(ours, "keeper");
        channel.send(&spec()).unwrap();
        let mut seen = 0;
        let running = follow(&channel, soon(), &mut |_| seen += 1).unwrap();
        assert_eq!(
            (running.description.enclave_cid, running.timing.heartbeat_us, seen),
            (16, 9, 4)
        );
        let got = keeper.join().unwrap();
        assert_eq!(got, spec_like(&got));
    }

    /// The same but for the moment it was made.
    fn spec_like(other: &LaunchSpec) -> LaunchSpec {
        LaunchSpec { began_ns: other.began_ns, ..spec() }
    }

    #[test]
    fn a_failure_is_the_keepers_own_words() {
        let (ours, theirs) = channel::pair().unwrap();
        let failure = Failure::new(27, "too few").with_hint("more");
        Channel::new(theirs, "command").send(&Report::Failed(failure.clone())).unwrap();
        let error = follow(&Channel::new(ours, "keeper"), soon(), &mut |_| {}).unwrap_err();
        assert_eq!(Failure::from(error), failure);
    }

    #[test]
    fn a_keeper_that_dies_or_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("enclave-vmm");
        std::fs::write(&program, "#!/bin/sh\nexit 1\n").unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let error = launch(&spec(), image(), &program, None, |_| {}).unwrap_err();
        assert!(matches!(error, Error::Closed { .. }), "{error}");
        let missing = folder.path().join("missing");
        let error = launch(&spec(), image(), &missing, None, |_| {}).unwrap_err();
        assert!(matches!(error, Error::Spawn { role: "keeper", .. }), "{error}");
    }
}
