//! The vmm process: `/dev/kvm`, guest memory, one pinned thread for each vCPU and one I/O thread. It never sees a key. It
//! loads the image, gives up every privilege, and only then waits for the keeper's word to run the first guest instruction.

pub mod acpi;
pub mod console;
pub mod cpuid;
pub mod error;
pub mod io_loop;
pub mod layout;
pub mod load;
pub mod machine;
pub mod memory;
pub mod messages;
pub mod mmio;
pub mod mptable;
pub mod nsm_device;
pub mod ports;
pub mod registers;
#[cfg(test)]
mod test_driver;
pub mod vcpu;
pub mod virtqueue;
pub mod vsock;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use eif_builder::eif::Eif;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::channel::Channel;
use crate::probe;
use crate::sealed_image::SealedImage;
use crate::spawn;
use error::Error;
use io_loop::{IoLoop, tell};
use load::{Entry, Image};
use machine::{Kicks, Machine, eventfd};
use memory::{Memory, Pages};
use messages::{FromVmm, Timings, ToVmm, VmmConfig};
use vcpu::{Bus, End, Place, Run};
use vsock::Vsock;
use vsock::muxer::Muxer;

/// What the keeper gives a vmm process.
#[derive(Debug)]
pub struct Descriptors {
    /// SEQPACKET to the keeper.
    pub keeper: OwnedFd,
    /// The sealed image.
    pub image: OwnedFd,
    /// SEQPACKET to the nsm process.
    pub nsm: OwnedFd,
    /// Pipe for the console, in debug mode.
    pub console: Option<OwnedFd>,
    /// `cgroup.threads` of the vCPUs' cgroup.
    pub cgroup: Option<OwnedFd>,
}

/// The role `enclave-vmm vmm` on the descriptors of `docs/architecture.md`. `started` is when the process began. Returns the
/// exit code: 0 after an end that belongs to an enclave's life, 1 after a failure, 2 without its descriptors.
#[must_use]
pub fn run(started: Instant) -> u8 {
    let descriptors = || -> crate::Result<Descriptors> {
        Ok(Descriptors {
            keeper: spawn::inherited(3)?,
            image: spawn::inherited(4)?,
            nsm: spawn::inherited(5)?,
            // These two are there or not.
            console: spawn::inherited(6).ok(),
            cgroup: spawn::inherited(7).ok(),
        })
    };
    match descriptors() {
        Ok(descriptors) => run_with(descriptors, started, Pages::Huge),
        // Nobody to tell: the keeper is what is missing.
        Err(_) => 2,
    }
}

/// The role on given descriptors, from the first message to the last; `pages` are [`Pages::Huge`] for enclaves. Returns
/// the exit code.
#[must_use]
pub fn run_with(descriptors: Descriptors, started: Instant, pages: Pages) -> u8 {
    let Descriptors { keeper, image, nsm, console, cgroup } = descriptors;
    let keeper = Channel::new(keeper, "the keeper");
    let parts = Parts { image, nsm, console, cgroup, pages };
    let last = match live(&keeper, parts, started) {
        Ok(End::Stopped(reason)) => FromVmm::Stopped { reason },
        Ok(End::Failed(error)) | Err(error) => {
            FromVmm::Failed { code: error.code(), message: with_causes(&error), hint: error.hint() }
        }
    };
    // If the keeper is gone, nobody is left to tell.
    let told = tell(&keeper, &last);
    u8::from(told.is_err() || !matches!(last, FromVmm::Stopped { .. }))
}

struct Parts {
    image: OwnedFd,
    nsm: OwnedFd,
    console: Option<OwnedFd>,
    cgroup: Option<OwnedFd>,
    pages: Pages,
}

fn live(keeper: &Channel, parts: Parts, started: Instant) -> Result<End, Error> {
    let mut clock = Clock { started, last: started };
    let mut timings = Timings::default();
    let config = match receive(keeper)? {
        ToVmm::Config(config) => config,
        ToVmm::Stop => return Ok(End::Stopped(messages::StopReason::Asked)),
        ToVmm::Go => return Err(out_of_turn()),
    };
    timings.start_ns = clock.lap();

    let mut machine = Machine::new(probe::open_kvm()?)?;
    check_vcpus(&config, &machine)?;
    timings.kvm_ns = clock.lap();

    let memory = Memory::new(config.memory_mib, parts.pages)?;
    machine.set_memory(&memory)?;
    timings.memory_ns = clock.lap();

    let entry = load_image(&memory, parts.image, config.vcpus)?;
    timings.load_ns = clock.lap();

    let epoll =
        Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(Error::nix("epoll_create"))?);
    let muxer = Muxer::new(
        config.cid,
        &config.vsock_path,
        config.parameters.clone(),
        Arc::clone(&epoll),
        raise_descriptor_limit(),
    )?;
    let console = parts.console.map(unblock).transpose()?;
    let (bus, kicks) =
        machine.devices(memory.ram(), Vsock::new(config.cid, muxer), parts.nsm, console)?;
    let vcpus = machine.vcpus(config.vcpus, entry)?;
    let ended = eventfd()?;
    let guest = Guest {
        bus: Arc::new(bus),
        run: Arc::new(Run::new(ended.try_clone().map_err(Error::io("dup of an eventfd"))?)),
        kicks,
        ended,
    };
    // From here on nothing needs a privilege: the cgroup's file is open, and threads inherit what is left.
    crate::privileges::drop_all().map_err(|e| Error::Keeper {
        what: format!("left privileges that cannot be given up: {e}"),
    })?;
    let threads = guest.spawn(vcpus, &config, parts.cgroup.map(File::from))?;
    timings.vcpus_ns = clock.lap();

    let outcome = guest.go(keeper, epoll, &mut clock, timings);
    if let Err(error) = outcome {
        guest.run.finish(End::Failed(error));
    }
    join(threads);
    guest.bus.ports.flush_console();
    memory.wipe();
    Ok(guest.run.take_end().unwrap_or(End::Stopped(messages::StopReason::Asked)))
}

/// A machine that is ready to run.
struct Guest {
    bus: Arc<Bus>,
    run: Arc<Run>,
    kicks: Kicks,
    ended: EventFd,
}

impl Guest {
    /// One thread for each vCPU, each where it belongs, all before the gate.
    fn spawn(
        &self,
        vcpus: Vec<kvm_ioctls::VcpuFd>,
        config: &VmmConfig,
        cgroup: Option<File>,
    ) -> Result<Vec<JoinHandle<()>>, Error> {
        // The handler does nothing: the signal is there to make KVM_RUN return.
        extern "C" fn kicked(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
        register_signal_handler(SIGRTMIN(), kicked).map_err(|e| Error::System {
            what: "sigaction",
            source: std::io::Error::from_raw_os_error(e.errno()),
        })?;
        let cgroup = cgroup.map(Arc::new);
        let (placed, places) = std::sync::mpsc::channel();
        let mut threads = Vec::with_capacity(vcpus.len());
        for (index, vcpu) in (0u8..).zip(vcpus) {
            let cpu = config.cpu_ids.get(usize::from(index)).copied();
            let place = Place { index, cgroup: cgroup.clone(), cpu };
            let (placed, bus, run) = (placed.clone(), Arc::clone(&self.bus), Arc::clone(&self.run));
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{index}"))
                .spawn(move || {
                    let outcome = place.take();
                    let there = outcome.is_ok();
                    // The receiver waits for every one of us.
                    let _ = placed.send(outcome);
                    if there {
                        vcpu::run(vcpu, index, &bus, &run);
                    }
                })
                .map_err(Error::io("starting a vCPU thread"));
            match thread {
                Ok(thread) => threads.push(thread),
                Err(error) => return Err(self.give_up(threads, error)),
            }
        }
        for _ in 0..threads.len() {
            if let Ok(Err(error)) = places.recv() {
                return Err(self.give_up(threads, error));
            }
        }
        Ok(threads)
    }

    /// Ends threads that never ran the guest.
    fn give_up(&self, threads: Vec<JoinHandle<()>>, error: Error) -> Error {
        self.run.finish(End::Stopped(messages::StopReason::Asked));
        join(threads);
        error
    }

    /// From `Loaded` to the end of the guest.
    fn go(
        &self,
        keeper: &Channel,
        epoll: Arc<Epoll>,
        clock: &mut Clock,
        mut timings: Timings,
    ) -> Result<(), Error> {
        let mut io = IoLoop::new(epoll, keeper, &self.bus, &self.run, &self.kicks, &self.ended)?;
        tell(keeper, &FromVmm::Loaded)?;
        match receive(keeper)? {
            ToVmm::Go => {}
            ToVmm::Stop => {
                self.run.finish(End::Stopped(messages::StopReason::Asked));
                return Ok(());
            }
            ToVmm::Config(_) => return Err(out_of_turn()),
        }
        timings.wait_ns = clock.lap();
        self.run.open();
        let entered = self.run.wait_entered();
        timings.enter_ns = nanoseconds(entered.saturating_duration_since(clock.last));
        timings.total_ns = nanoseconds(entered.saturating_duration_since(clock.started));
        tell(keeper, &FromVmm::Started(timings))?;
        io.work()
    }
}

struct Clock {
    started: Instant,
    last: Instant,
}

impl Clock {
    /// Nanoseconds since the last call.
    fn lap(&mut self) -> u64 {
        let now = Instant::now();
        let lap = now.saturating_duration_since(self.last);
        self.last = now;
        nanoseconds(lap)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn receive(keeper: &Channel) -> Result<ToVmm, Error> {
    match keeper.receive(None) {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(Error::Keeper { what: "has ended".into() }),
        Err(e) => Err(Error::Keeper { what: format!("cannot be understood: {e}") }),
    }
}

fn out_of_turn() -> Error {
    Error::Keeper { what: "said something out of turn".into() }
}

fn check_vcpus(config: &VmmConfig, machine: &Machine) -> Result<(), Error> {
    let (vcpus, cpu_ids) = (config.vcpus, config.cpu_ids.len());
    let limit = machine.vcpu_limit();
    let matching = cpu_ids == 0 || cpu_ids == usize::from(vcpus);
    if vcpus == 0 || usize::from(vcpus) > limit || !matching {
        return Err(Error::VcpuCount { vcpus, cpu_ids, limit });
    }
    Ok(())
}

/// Image and tables into guest memory. The image is mapped only here.
fn load_image(memory: &Memory, image: OwnedFd, vcpus: u8) -> Result<Entry, Error> {
    let damaged = |e: &dyn std::fmt::Display| Error::Image { what: e.to_string() };
    let sealed = SealedImage::from_fd(image).map_err(|e| damaged(&e))?;
    let bytes = sealed.map().map_err(|e| damaged(&e))?;
    let eif = Eif::parse(&bytes).map_err(|e| damaged(&e))?;
    let image =
        Image { kernel: eif.kernel(), cmdline: eif.cmdline(), ramdisks: eif.ramdisks().collect() };
    let entry = load::load(memory.ram(), &image)?;
    registers::write_tables(memory.ram())?;
    mptable::write(memory.ram(), vcpus)?;
    acpi::write(memory.ram(), vcpus)?;
    Ok(entry)
}

/// As many descriptors as allowed, because each connection has one.
fn raise_descriptor_limit() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let wanted = hard.min(4096).max(soft);
    let got = if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft };
    usize::try_from(got).unwrap_or(usize::MAX)
}

fn unblock(pipe: OwnedFd) -> Result<OwnedFd, Error> {
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(Error::nix("fcntl"))?;
    Ok(pipe)
}

/// Kicks the threads out of the guest until all have ended. A kick may come just before a thread enters, so it is
/// repeated.
fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        while !thread.is_finished() {
            let _ = thread.kill(SIGRTMIN());
            std::thread::sleep(Duration::from_millis(1));
        }
        // A panic has been printed already, and the guest is over either way.
        let _ = thread.join();
    }
}

/// The error and its causes on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
