//! One thread for each vCPU: it goes into its cgroup and onto its CPU, waits at the gate, then runs the guest and answers
//! its exits until the guest ends or is told to.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use vmm_sys_util::eventfd::EventFd;

use super::error::Error;
use super::layout::Slot;
use super::messages::StopReason;
use super::mmio::Transport;
use super::nsm_device::Nsm;
use super::ports::{Ports, Request};
use super::vsock::Vsock;

/// Everything a vCPU can touch outside of memory.
pub struct Bus {
    /// I/O ports.
    pub ports: Ports,
    /// virtio-vsock.
    pub vsock: Transport<Vsock>,
    /// virtio-nsm.
    pub nsm: Transport<Nsm>,
}

impl Bus {
    fn read(&self, address: u64, data: &mut [u8]) {
        match Slot::at(address) {
            Some((Slot::Vsock, offset)) => self.vsock.read(offset, data),
            Some((Slot::Nsm, offset)) => self.nsm.read(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, address: u64, data: &[u8]) {
        match Slot::at(address) {
            Some((Slot::Vsock, offset)) => self.vsock.write(offset, data),
            Some((Slot::Nsm, offset)) => self.nsm.write(offset, data),
            None => {}
        }
    }
}

/// How a guest came to its end.
#[derive(Debug)]
pub enum End {
    /// In a way that is part of its life.
    Stopped(StopReason),
    /// It cannot run.
    Failed(Error),
}

/// Where vCPUs and the I/O thread meet: the start and the end of the run.
#[derive(Debug)]
pub struct Run {
    gate: OnceLock<()>,
    entered: OnceLock<Instant>,
    over: AtomicBool,
    end: Mutex<Option<End>>,
    ended: EventFd,
}

impl Run {
    /// `ended` is signalled when a vCPU ends the guest.
    #[must_use]
    pub fn new(ended: EventFd) -> Run {
        Run {
            gate: OnceLock::new(),
            entered: OnceLock::new(),
            over: AtomicBool::new(false),
            end: Mutex::new(None),
            ended,
        }
    }

    /// Lets the vCPUs go.
    pub fn open(&self) {
        let _ = self.gate.set(());
    }

    /// Waits until the first guest instruction is about to run, and says when that was.
    pub fn wait_entered(&self) -> Instant {
        *self.entered.wait()
    }

    /// Ends the run; the first cause stays.
    pub fn finish(&self, end: End) {
        if let Ok(mut slot) = self.end.lock() {
            slot.get_or_insert(end);
        }
        self.over.store(true, Ordering::SeqCst);
        self.open();
        // Counts up to 2^64 - 1; a few signals always fit.
        let _ = self.ended.write(1);
    }

    /// Whether the guest has ended or must.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// The cause, once.
    #[must_use]
    pub fn take_end(&self) -> Option<End> {
        self.end.lock().ok().and_then(|mut end| end.take())
    }
}

/// Where a vCPU's thread belongs.
#[derive(Debug)]
pub struct Place {
    /// Which vCPU.
    pub index: u8,
    /// `cgroup.threads` of the vCPUs' cgroup.
    pub cgroup: Option<Arc<File>>,
    /// CPU to stay on.
    pub cpu: Option<u32>,
}

impl Place {
    /// Moves the calling thread there. The cgroup comes first: only in its cpuset is the CPU allowed.
    ///
    /// # Errors
    /// [`Error::Placement`].
    pub fn take(&self) -> Result<(), Error> {
        let fail =
            |what: String| move |source| Error::Placement { index: self.index, what, source };
        if let Some(cgroup) = &self.cgroup {
            // "0" is the thread that writes.
            (&**cgroup).write_all(b"0").map_err(fail("enter its cgroup".into()))?;
        }
        if let Some(cpu) = self.cpu {
            let pin = || {
                let mut set = CpuSet::new();
                set.set(usize::try_from(cpu).unwrap_or(usize::MAX))?;
                sched_setaffinity(Pid::from_raw(0), &set)
            };
            let what = format!("be pinned to CPU {cpu}");
            pin().map_err(|e| fail(what)(e.into()))?;
        }
        Ok(())
    }
}

/// Runs `vcpu` until the end of the guest.
pub fn run(mut vcpu: VcpuFd, index: u8, bus: &Bus, run: &Run) {
    let _guard = Guard { run, index };
    run.gate.wait();
    if index == 0 {
        let _ = run.entered.set(Instant::now());
    }
    while !run.is_over() {
        match step(&mut vcpu, bus) {
            Step::Continue => {}
            Step::End(reason) => run.finish(End::Stopped(reason)),
            Step::Fault(what) => run.finish(End::Failed(Error::Guest { index, what })),
        }
    }
}

/// Ends the guest when a vCPU's thread dies of a fault of ours: half a machine must not go on.
struct Guard<'a> {
    run: &'a Run,
    index: u8,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let what = "its thread panicked".to_owned();
            self.run.finish(End::Failed(Error::Guest { index: self.index, what }));
        }
    }
}

enum Step {
    Continue,
    End(StopReason),
    Fault(String),
}

fn step(vcpu: &mut VcpuFd, bus: &Bus) -> Step {
    let fault = match vcpu.run() {
        Ok(VcpuExit::IoOut(port, data)) => match bus.ports.write(port, data) {
            Request::None => return Step::Continue,
            Request::Reset => return Step::End(StopReason::Reset),
        },
        Ok(VcpuExit::IoIn(port, data)) => {
            bus.ports.read(port, data);
            return Step::Continue;
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            bus.read(address, data);
            return Step::Continue;
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            bus.write(address, data);
            return Step::Continue;
        }
        Ok(VcpuExit::Shutdown) => return Step::End(StopReason::TripleFault),
        Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET | KVM_SYSTEM_EVENT_SHUTDOWN, _)) => {
            return Step::End(StopReason::Reset);
        }
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => return Step::Continue,
        Ok(VcpuExit::FailEntry(reason, cpu)) => {
            return Step::Fault(format!("entry failed on CPU {cpu}, hardware reason {reason:#x}"));
        }
        Ok(VcpuExit::InternalError) => None,
        Ok(other) => Some(format!("unexpected exit {other:?}")),
        // A kick, or a vCPU that waits for SIPI.
        Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => return Step::Continue,
        Err(e) => Some(format!("KVM_RUN: {}", std::io::Error::from_raw_os_error(e.errno()))),
    };
    Step::Fault(fault.unwrap_or_else(|| internal_error(vcpu)))
}

/// What KVM says about an exit of the kind "internal error", with the instruction it stumbled over.
pub(crate) fn internal_error(vcpu: &mut VcpuFd) -> String {
    let run = vcpu.get_kvm_run();
    // SAFETY: called right after an exit of the kind KVM_EXIT_INTERNAL_ERROR, for which the kernel fills this member of the
    // union; every bit pattern is valid for its integers.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let kind = match internal.suberror {
        1 => "KVM cannot emulate an instruction".to_owned(),
        2 => "simultaneous exceptions".to_owned(),
        3 => "an event could not be delivered".to_owned(),
        4 => "the hardware gave a reason KVM does not know".to_owned(),
        other => format!("internal error {other}"),
    };
    match vcpu.get_regs() {
        Ok(regs) => format!("{kind} at {:#x}", regs.rip),
        Err(_) => kind,
    }
}
