//! The keeper's one loop: messages of nsm and vmm, the control socket, the console, signals, and what is due by the clock. Nothing in it waits for anybody in
//! particular, so a stuck process or client delays nothing else.

mod farewell;
mod view;

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use self::view::View;
use super::console_ring::ConsoleRing;
use super::control_server::{ControlServer, Subject as _};
use super::ending::Ending;
use super::members::Members;
use super::place::Place;
use super::{AboutImage, hung_up, since};
use crate::authority_folder::{AuthorityFolder, IssuedLeaf, now_seconds};
use crate::channel::{Channel, Received, poll_timeout};
use crate::description::{
    EnclaveDescription, Flags, HASH_ALGORITHM, Measurements, RunDescription, State,
};
use crate::error::{Error, Failure, Result};
use crate::history::Reason;
use crate::launch::{LaunchSpec, Report, Timing, boot_timeout};
use crate::nsm_process::messages::{FromNsm, Measured, ToNsm};
use crate::registry::EnclaveFile;
use crate::vmm::messages::{AppExit, FromVmm, ToVmm};

/// The loop comes round at least so often, for certificates that age by the wall clock.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// An orderly stop wipes memory: so much time, and so much more for each GiB.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
const STOP_PATIENCE_PER_GIB: Duration = Duration::from_secs(5);
/// The nsm has nothing to do at the end but to see it.
const NSM_PATIENCE: Duration = Duration::from_secs(1);
/// How long a renewal may hold up the loop.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(1);

/// What is known of the image.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) length: u64,
    pub(super) about: AboutImage,
}

/// How far the start has come.
#[derive(Debug, Default)]
struct Progress {
    measured: Option<Measurements>,
    public_key: Vec<u8>,
    serving: bool,
    loaded: bool,
    told_to_go: bool,
    up: bool,
}

/// One enclave's keeper, everything started.
#[derive(Debug)]
pub(super) struct Keeper {
    spec: LaunchSpec,
    place: Place,
    members: Members,
    control: ControlServer,
    signals: SignalFd,
    authority: AuthorityFolder,
    leaf: Option<IssuedLeaf>,
    renewal_tried: Instant,
    description: RunDescription,
    image: Image,
    timing: Timing,
    view: View,
    progress: Progress,
    boot_deadline: Instant,
    app: Option<AppExit>,
    init_failure: Option<String>,
    ending: Option<Ending>,
    /// When a vmm that should end is killed.
    stop_deadline: Option<Instant>,
    /// It has closed its channel.
    vmm_silent: bool,
}

impl Keeper {
    #[allow(clippy::too_many_arguments)] // The parts of a keeper, put together in one place.
    pub(super) fn new(
        spec: LaunchSpec,
        place: Place,
        members: Members,
        control: ControlServer,
        signals: SignalFd,
        authority: AuthorityFolder,
        description: RunDescription,
        image: Image,
        timing: Timing,
    ) -> Self {
        let view = View {
            file: place.enclave_file(),
            running: false,
            terminating: false,
            console: spec.debug.then(ConsoleRing::default),
        };
        let now = Instant::now();
        Self {
            boot_deadline: now + boot_timeout(image.length, spec.memory_mib),
            renewal_tried: now,
            spec,
            place,
            members,
            control,
            signals,
            authority,
            leaf: None,
            description,
            image,
            timing,
            view,
            progress: Progress::default(),
            app: None,
            init_failure: None,
            ending: None,
            stop_deadline: None,
            vmm_silent: false,
        }
    }

    /// Keeps the enclave until it ends, then puts everything back.
    pub(super) fn run(mut self, launch: Channel) -> Result<()> {
        let mut launch = Some(launch);
        while self.members.vmm.ended.is_none() {
            if let Err(error) = self.turn(&mut launch) {
                self.end(Ending::of_failure(Reason::StartFailed, Failure::from(error)));
                self.members.vmm.kill();
                self.members.vmm.reap();
            }
        }
        self.finish(launch)
    }

    /// Waits until something happens and deals with it.
    fn turn(&mut self, launch: &mut Option<Channel>) -> Result<()> {
        let ready = self.wait(launch.as_ref())?;
        if ready.signals {
            self.take_signals();
        }
        if ready.launch {
            // The command says nothing after the first message; this is its end.
            self.end(Ending::new(Reason::Terminated, "the command that started it ended"));
            *launch = None;
        }
        if ready.console {
            self.read_console();
        }
        if ready.nsm
            && let Err(error) = self.hear_nsm(launch.as_ref())
        {
            self.end(Ending::of_failure(Reason::NsmDied, Failure::from(error)));
        }
        if ready.vmm
            && let Err(error) = self.hear_vmm(launch)
        {
            self.end(Ending::of_failure(Reason::VmmDied, Failure::from(error)));
        }
        if self.control.serve(&self.view) {
            self.end(Ending::new(Reason::Terminated, "terminated"));
        }
        self.look_at_the_clock()
    }

    fn wait(&self, launch: Option<&Channel>) -> Result<Ready> {
        let input = PollFlags::POLLIN;
        let mut fds = vec![PollFd::new(self.signals.as_fd(), input)];
        let members = &self.members;
        let sources = [
            launch.map(AsFd::as_fd),
            members.nsm.ended.is_none().then(|| members.nsm.channel.as_fd()),
            (!self.vmm_silent).then(|| members.vmm.channel.as_fd()),
            members.console.as_ref().map(AsFd::as_fd),
        ];
        let mut next = fds.len();
        let [launch, nsm, vmm, console] = sources.map(|source| {
            source.map(|_| {
                next += 1;
                next - 1
            })
        });
        fds.extend(sources.into_iter().flatten().map(|fd| PollFd::new(fd, input)));
        for (fd, flags) in self.control.interests(self.view.console()) {
            fds.push(PollFd::new(fd, flags));
        }
        match poll(&mut fds, poll_timeout(Some(self.next_deadline()))) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::system("wait for something to happen")(errno)),
        }
        let is_ready = |slot: Option<usize>| {
            slot.and_then(|index| fds.get(index)).is_some_and(|fd| fd.any().unwrap_or(true))
        };
        Ok(Ready {
            signals: is_ready(Some(0)),
            launch: is_ready(launch),
            nsm: is_ready(nsm),
            vmm: is_ready(vmm),
            console: is_ready(console),
        })
    }

    fn next_deadline(&self) -> Instant {
        let boot = (!self.progress.up && self.ending.is_none()).then_some(self.boot_deadline);
        [boot, self.control.deadline(), self.stop_deadline]
            .into_iter()
            .flatten()
            .fold(Instant::now() + HEARTBEAT, Instant::min)
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            match Signal::try_from(number) {
                Ok(Signal::SIGCHLD) | Err(_) => {}
                Ok(signal) => {
                    self.end(Ending::new(Reason::Terminated, format!("its keeper got {signal}")));
                }
            }
        }
        // What the vmm said last is read before its end counts.
        self.members.vmm.reap();
        if let Some(status) = self.members.vmm.ended {
            while let Ok(Received::Value(message)) = self.members.vmm.channel.try_receive() {
                self.note(message);
            }
            let ending = self
                .nsm_fault()
                .unwrap_or_else(|| Ending::of_process(Reason::VmmDied, "vmm", Some(status)));
            self.end(ending);
        }
        self.see_nsm_end();
    }

    /// The nsm leaves of its own accord when the vmm does; anything else is a fault of its own, and then the vmm's failure is only what follows from it.
    fn nsm_fault(&mut self) -> Option<Ending> {
        let nsm = &mut self.members.nsm;
        if hung_up(&nsm.channel) {
            nsm.finish(NSM_PATIENCE);
        }
        let status = nsm.ended.filter(|status| !status.success())?;
        while let Ok(Received::Value(message)) = nsm.channel.try_receive() {
            if let FromNsm::Failed(failure) = message {
                return Some(Ending::of_failure(Reason::NsmDied, failure));
            }
        }
        Some(Ending::of_process(Reason::NsmDied, "nsm", Some(status)))
    }

    /// Without an nsm there is no enclave, whoever went first.
    fn see_nsm_end(&mut self) {
        self.members.nsm.reap();
        if self.members.nsm.ended.is_none() {
            return;
        }
        match self.nsm_fault() {
            Some(ending) => self.end(ending),
            None => self.expect_vmm_end(),
        }
    }

    /// The vmm is going by itself; if it does not, it is helped.
    fn expect_vmm_end(&mut self) {
        let patience = self.stop_patience();
        self.stop_deadline.get_or_insert_with(|| Instant::now() + patience);
    }

    fn hear_nsm(&mut self, launch: Option<&Channel>) -> Result<()> {
        match self.members.nsm.channel.try_receive()? {
            Received::Nothing => {}
            Received::Value(FromNsm::Measured(measured)) => self.measured(&measured, launch)?,
            Received::Value(FromNsm::Serving) => {
                if !self.progress.serving {
                    self.progress.serving = true;
                    self.timing.serving_us = since(self.spec.began_ns);
                }
                self.go_if_ready()?;
            }
            Received::Value(FromNsm::Failed(failure)) => {
                self.end(Ending::of_failure(Reason::NsmDied, failure));
            }
            Received::End => {
                self.members.nsm.finish(NSM_PATIENCE);
                self.see_nsm_end();
            }
        }
        Ok(())
    }

    fn measured(&mut self, measured: &Measured, launch: Option<&Channel>) -> Result<()> {
        self.timing.measured_us = since(self.spec.began_ns);
        let measurements = Measurements {
            hash_algorithm: HASH_ALGORITHM.to_owned(),
            pcr0: measured.pcr0.to_string(),
            pcr1: measured.pcr1.to_string(),
            pcr2: measured.pcr2.to_string(),
            pcr8: measured.pcr8.map(|pcr| pcr.to_string()),
        };
        report(launch, &Report::Measured(measurements.clone()));
        self.progress.measured = Some(measurements);
        self.progress.public_key =
            hex::decode(&measured.leaf_public_key).map_err(|source| Error::Authority {
                what: "certificate of a key that is no hex",
                source: Box::new(source),
            })?;
        self.certify()
    }

    /// Has the nsm's key signed, and hands it the certificates.
    fn certify(&mut self) -> Result<()> {
        self.renewal_tried = Instant::now();
        let leaf = self.authority.issue_leaf(&self.progress.public_key, &self.place.claim.id)?;
        self.members.nsm.channel.send(&ToNsm::Certificates((&leaf.chain).into()))?;
        self.leaf = Some(leaf);
        // Renewals have an hour to succeed in; nothing else should wait for them.
        self.authority.set_patience(RENEWAL_PATIENCE);
        Ok(())
    }

    fn hear_vmm(&mut self, launch: &mut Option<Channel>) -> Result<()> {
        let message = match self.members.vmm.channel.try_receive()? {
            Received::Nothing => return Ok(()),
            Received::End => {
                // How it ended is known when it can be reaped; with much memory that takes a while.
                self.vmm_silent = true;
                self.expect_vmm_end();
                return Ok(());
            }
            Received::Value(message) => message,
        };
        match message {
            FromVmm::Loaded => {
                self.timing.loaded_us = since(self.spec.began_ns);
                self.place.memory_is_taken()?;
                self.progress.loaded = true;
                self.go_if_ready()
            }
            FromVmm::Started(vmm) => {
                self.timing.started_us = since(self.spec.began_ns);
                self.timing.vmm = vmm;
                report(launch.as_ref(), &Report::Started(self.timing));
                Ok(())
            }
            FromVmm::Heartbeat => self.heartbeat(launch),
            other => {
                self.note(other);
                Ok(())
            }
        }
    }

    /// Remembers what the vmm says about the application and the end.
    fn note(&mut self, message: FromVmm) {
        match message {
            FromVmm::AppExited(exit) => self.app = Some(exit),
            FromVmm::InitFailed { reason } => self.init_failure = Some(reason),
            FromVmm::Stopped { reason } => {
                let init = self.init_failure.as_deref();
                self.end(Ending::of_guest(reason, self.app, init));
            }
            FromVmm::Failed { code, message, hint } => {
                let ending = self.nsm_fault().unwrap_or_else(|| {
                    Ending::of_failure(Reason::VmmDied, Failure { code, message, hint })
                });
                self.end(ending);
            }
            FromVmm::Loaded | FromVmm::Started(_) | FromVmm::Heartbeat | FromVmm::Ready => {}
        }
    }

    fn go_if_ready(&mut self) -> Result<()> {
        let progress = &mut self.progress;
        if progress.serving && progress.loaded && !progress.told_to_go && self.ending.is_none() {
            progress.told_to_go = true;
            return self.members.vmm.channel.send(&ToVmm::Go);
        }
        Ok(())
    }

    /// The enclave is up: from now on it does not depend on the command.
    fn heartbeat(&mut self, launch: &mut Option<Channel>) -> Result<()> {
        let Some(measurements) = self.progress.measured.clone() else { return Ok(()) };
        if self.progress.up || self.ending.is_some() {
            return Ok(());
        }
        self.timing.heartbeat_us = since(self.spec.began_ns);
        let about = std::mem::take(&mut self.image.about);
        self.place.describe(&EnclaveFile {
            description: EnclaveDescription {
                run: self.description.clone(),
                state: State::Running,
                flags: if self.spec.debug { Flags::DebugMode } else { Flags::None },
                measurements,
                image_name: about.name,
                image_version: about.version,
                metadata: about.metadata,
            },
            vsock_path: self.place.claim.vsock_path.clone(),
            owner: nix::unistd::geteuid().as_raw(),
        })?;
        self.progress.up = true;
        self.view.running = true;
        if let Some(command) = launch.take()
            && command.send(&Report::Heartbeat(self.timing)).is_err()
        {
            self.end(Ending::new(Reason::Terminated, "the command that started it ended"));
        }
        Ok(())
    }

    fn read_console(&mut self) {
        let Some(pipe) = &mut self.members.console else { return };
        let mut buffer = [0_u8; 16 * 1024];
        match pipe.read(&mut buffer) {
            Ok(0) => self.members.console = None,
            Ok(count) => {
                if let Some(ring) = &mut self.view.console {
                    ring.push(buffer.get(..count).unwrap_or(&[]));
                }
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.members.console = None,
        }
    }

    fn look_at_the_clock(&mut self) -> Result<()> {
        let now = Instant::now();
        if !self.progress.up && now >= self.boot_deadline {
            let limit = boot_timeout(self.image.length, self.spec.memory_mib).as_secs();
            let detail = format!("no heartbeat within {limit} s");
            self.end(Ending::new(Reason::StartFailed, detail));
        }
        if self.stop_deadline.is_some_and(|deadline| now >= deadline) {
            self.members.vmm.kill();
            self.stop_deadline = None;
        }
        let aged = self.leaf.as_ref().is_some_and(|leaf| leaf.needs_renewal(now_seconds()));
        if aged && self.ending.is_none() && now >= self.renewal_tried + HEARTBEAT {
            // A third of the leaf's life is left to try again in; documents go out under the old one until then.
            if let Err(error) = self.certify() {
                eprintln!("enclave {}: {}", self.place.claim.id, Failure::from(error));
            }
        }
        Ok(())
    }

    /// Decides the end, once; the first reason counts.
    fn end(&mut self, ending: Ending) {
        if self.ending.is_some() {
            return;
        }
        self.view.terminating = true;
        self.ending = Some(ending);
        self.stop_deadline = Some(Instant::now() + self.stop_patience());
        let told = self.members.vmm.channel.send(&ToVmm::Stop);
        if told.is_err() || !self.progress.told_to_go {
            // Nothing has run that would be worth an orderly end.
            self.members.vmm.kill();
        }
    }

    fn stop_patience(&self) -> Duration {
        let gib = u32::try_from(self.spec.memory_mib.div_ceil(1024)).unwrap_or(u32::MAX);
        STOP_PATIENCE.saturating_add(STOP_PATIENCE_PER_GIB.saturating_mul(gib))
    }
}

/// Reports to the command, if it is still there; its end comes as an event of its own.
fn report(launch: Option<&Channel>, report: &Report) {
    if let Some(launch) = launch {
        let _ = launch.send(report);
    }
}

/// Which descriptors have something.
struct Ready {
    signals: bool,
    launch: bool,
    nsm: bool,
    vmm: bool,
    console: bool,
}
