//! Finds out whether this machine's `/dev/kvm` can run a guest, by running one: a few hundred bytes in a VM made like an
//! enclave's, with the instructions, controllers and exits that an ordinary kernel needs in its first second. Some hosts
//! have a `/dev/kvm` that opens, makes VMs and then stumbles over the first such instruction; nothing but running shows it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::vmm::layout;
use crate::vmm::load::Entry;
use crate::vmm::machine::Machine;
use crate::vmm::memory::{GuestRam, Memory, Pages};
use crate::vmm::registers;
use crate::vmm::vcpu::internal_error;

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmFault {
    /// There is no `/dev/kvm`.
    #[error("there is no /dev/kvm")]
    Missing,
    /// It may not be opened.
    #[error("/dev/kvm may not be opened by this user")]
    Permission(#[source] io::Error),
    /// It cannot be opened for another reason.
    #[error("/dev/kvm cannot be opened")]
    Open(#[source] io::Error),
    /// It speaks another version.
    #[error("/dev/kvm has API version {found}, and 12 is needed")]
    Api {
        /// What it said.
        found: i32,
    },
    /// It takes a guest but does not run it as a processor would.
    #[error("/dev/kvm cannot run an ordinary kernel: {what}")]
    CannotRun {
        /// The first thing that went wrong.
        what: String,
    },
}

impl KvmFault {
    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            KvmFault::Missing => {
                "load kvm_intel or kvm_amd (modprobe), switch virtualisation on in the firmware or nested virtualisation in the hypervisor, or use enclave-cli machine"
            }
            KvmFault::Permission(_) => "join the group that owns it (usually kvm), or run as root",
            KvmFault::Open(_) | KvmFault::Api { .. } | KvmFault::CannotRun { .. } => {
                "use enclave-cli machine, which brings a parent whose KVM works"
            }
        }
    }
}

/// Opens `/dev/kvm` and checks its version.
///
/// # Errors
/// [`KvmFault`], without trying to run anything.
pub fn open_kvm() -> Result<Kvm, KvmFault> {
    /// The version since Linux 2.6.22; it never changes any more.
    const API: i32 = 12;
    let kvm = Kvm::new().map_err(|e| {
        let error = io::Error::from_raw_os_error(e.errno());
        match e.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmFault::Missing,
            libc::EACCES | libc::EPERM => KvmFault::Permission(error),
            _ => KvmFault::Open(error),
        }
    })?;
    match kvm.get_api_version() {
        API => Ok(kvm),
        found => Err(KvmFault::Api { found }),
    }
}

/// How long the guest may stay at one step. On a working KVM all steps take a few milliseconds, and what this KVM cannot do
/// usually ends it at once; only a hang takes this long. It is generous because the machine may itself be emulated and busy,
/// and a KVM that works must not be refused.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the steps are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long a kicked vCPU may take to come back before it is left alone.
const GRACE: Duration = Duration::from_millis(100);

const STEP_PORT: u16 = 0x99;
/// Before the first step of the guest come these.
const STEP_VCPU: u8 = 0x80;
const STEP_ENTER: u8 = 0x81;
const STEP_DONE: u8 = 0xff;
const STEP_WRONG: u8 = 0xfe;
const DEVICE: u64 = layout::VIRTIO;
const DEVICE_WRITTEN: u32 = 0x1ee7_c0de;
const DEVICE_READ: u32 = 0x600d_f00d;

const CODE: u64 = 0x1_0000;
/// Page directory of the fourth GiB, where devices and the local APIC are.
const HIGH_PD: u64 = 0xc000;
const IDT: u64 = 0xd000;
/// What the guest's `lidt` reads.
const IDT_POINTER: u64 = 0x7000;
const TIMER_VECTOR: u64 = 0x40;
const MIB: u64 = 2;

/// Runs a few real instructions in a small VM. Takes well under a second, unless the guest hangs.
///
/// # Errors
/// [`KvmFault`]: what is missing, or the first thing that a processor would do and this KVM does not.
pub fn kvm_runs_guests() -> Result<(), KvmFault> {
    run_on(open_kvm()?)
}

fn run_on(kvm: Kvm) -> Result<(), KvmFault> {
    extern "C" fn kicked(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), kicked)
        .map_err(|e| cannot(format!("sigaction: {}", io::Error::from_raw_os_error(e.errno()))))?;
    let progress = Arc::new(Progress::default());
    let (done, outcome) = mpsc::channel();
    let for_guest = Arc::clone(&progress);
    // A thread of its own, because a vCPU that hangs in the kernel cannot be waited for.
    let thread = std::thread::Builder::new()
        .name("kvm-probe".into())
        .spawn(move || {
            // Nobody listens any more once the time is up.
            let _ = done.send(guest(kvm, &for_guest));
        })
        .map_err(|e| cannot(format!("a thread cannot be started: {e}")))?;
    let mut seen = (0, Instant::now());
    while seen.1.elapsed() < PATIENCE {
        match outcome.recv_timeout(LOOK) {
            Ok(outcome) => return outcome,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(cannot("the probe itself failed".into()));
            }
        }
        let step = progress.step.load(Ordering::SeqCst);
        if step != seen.0 {
            seen = (step, Instant::now());
        }
    }
    progress.stop.store(true, Ordering::SeqCst);
    for _ in 0..GRACE.as_millis() / 5 {
        if thread.is_finished() {
            break;
        }
        let _ = thread.kill(SIGRTMIN());
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(cannot(format!(
        "the guest hangs at {} (for {} s)",
        step_name(progress.step.load(Ordering::SeqCst)),
        PATIENCE.as_secs()
    )))
}

#[derive(Debug, Default)]
struct Progress {
    step: AtomicU8,
    stop: AtomicBool,
}

fn guest(kvm: Kvm, progress: &Progress) -> Result<(), KvmFault> {
    let setup = |e: crate::vmm::error::Error| match std::error::Error::source(&e) {
        Some(cause) => cannot(format!("{e}: {cause}")),
        None => cannot(e.to_string()),
    };
    let mut machine = Machine::new(kvm).map_err(setup)?;
    let memory = Memory::new(MIB, Pages::Ordinary).map_err(setup)?;
    machine.set_memory(&memory).map_err(setup)?;
    registers::write_tables(memory.ram()).map_err(setup)?;
    write_guest(memory.ram()).map_err(|e| cannot(format!("its memory: {e}")))?;
    progress.step.store(STEP_VCPU, Ordering::SeqCst);
    let mut vcpus = machine.vcpus(1, Entry { ip: CODE }).map_err(setup)?;
    let mut vcpu = vcpus.pop().ok_or_else(|| cannot("no vCPU".into()))?;
    progress.step.store(STEP_ENTER, Ordering::SeqCst);
    run(&mut vcpu, progress)
}

/// Code, the interrupt table with the timer's handler, and a page directory for the fourth GiB.
fn write_guest(ram: &GuestRam) -> Result<(), vm_memory::GuestMemoryError> {
    const PRESENT_WRITABLE: u64 = 3;
    const UNCACHED_2M: u64 = 0x80 | 0x10 | PRESENT_WRITABLE;
    const PAGE_2M: u64 = 1 << 21;
    const GIB_3: u64 = 3 << 30;
    let program = program();
    ram.write_slice(program.code, GuestAddress(CODE))?;
    ram.write_obj(HIGH_PD | PRESENT_WRITABLE, GuestAddress(layout::PDPT + 3 * 8))?;
    for address in [DEVICE, u64::from(layout::LAPIC)] {
        let page = address & !(PAGE_2M - 1);
        let entry = HIGH_PD + (page - GIB_3) / PAGE_2M * 8;
        ram.write_obj(page | UNCACHED_2M, GuestAddress(entry))?;
    }
    let handler = CODE + program.timer;
    // A 64-bit interrupt gate in the boot code segment.
    let gate = (handler & 0xffff) | (0x10 << 16) | (0x8e << 40) | ((handler >> 16 & 0xffff) << 48);
    ram.write_obj(gate, GuestAddress(IDT + TIMER_VECTOR * 16))?;
    ram.write_obj(handler >> 32, GuestAddress(IDT + TIMER_VECTOR * 16 + 8))?;
    ram.write_obj(0xfffu16, GuestAddress(IDT_POINTER))?;
    ram.write_slice(&IDT.to_le_bytes(), GuestAddress(IDT_POINTER + 2))
}

fn run(vcpu: &mut VcpuFd, progress: &Progress) -> Result<(), KvmFault> {
    let at = |what: String| {
        cannot(format!("{what}, at {}", step_name(progress.step.load(Ordering::SeqCst))))
    };
    loop {
        if progress.stop.load(Ordering::SeqCst) {
            return Err(at("it was stopped".into()));
        }
        let fault = match vcpu.run() {
            Ok(VcpuExit::IoOut(STEP_PORT, [STEP_DONE])) => return Ok(()),
            Ok(VcpuExit::IoOut(STEP_PORT, [STEP_WRONG])) => "a wrong result".to_owned(),
            Ok(VcpuExit::IoOut(STEP_PORT, [step])) => {
                progress.step.store(*step, Ordering::SeqCst);
                continue;
            }
            Ok(VcpuExit::MmioWrite(DEVICE, data)) if *data == DEVICE_WRITTEN.to_le_bytes() => {
                continue;
            }
            Ok(VcpuExit::MmioRead(address, data)) if address == DEVICE + 4 && data.len() == 4 => {
                data.copy_from_slice(&DEVICE_READ.to_le_bytes());
                continue;
            }
            Ok(VcpuExit::Intr) => continue,
            Ok(VcpuExit::Shutdown) => "a triple fault".to_owned(),
            Ok(VcpuExit::InternalError) => internal_error(vcpu),
            Ok(exit) => format!("an unexpected exit {exit:?}"),
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => continue,
            Err(e) => format!("KVM_RUN: {}", io::Error::from_raw_os_error(e.errno())),
        };
        return Err(at(fault));
    }
}

fn cannot(what: String) -> KvmFault {
    KvmFault::CannotRun { what }
}

/// The parts of `probe/guest.s`.
fn step_name(step: u8) -> &'static str {
    match step {
        0 => "the making of a VM",
        STEP_VCPU => "the making of a vCPU",
        STEP_ENTER => "its first instruction",
        1 => "CPUID",
        2 => "RDMSR and WRMSR of EFER",
        3 => "the control registers",
        4 => "string instructions",
        5 => "SSE",
        6 => "XSAVE",
        7 => "atomic instructions",
        8 => "device registers in memory",
        9 => "the local APIC",
        10 => "sleep and timer interrupt",
        _ => "a step that does not exist",
    }
}

struct Program {
    code: &'static [u8],
    /// Offset of the timer's handler in it.
    timer: u64,
}

core::arch::global_asm!(include_str!("probe/guest.s"));

fn program() -> Program {
    unsafe extern "C" {
        static enclave_probe_guest_start: u8;
        static enclave_probe_guest_timer: u8;
        static enclave_probe_guest_end: u8;
    }
    let (start, timer, end) = (
        &raw const enclave_probe_guest_start,
        &raw const enclave_probe_guest_timer,
        &raw const enclave_probe_guest_end,
    );
    let length = end.addr() - start.addr();
    // SAFETY: guest.s puts the three labels in this order into one read-only section, which lives as long as the program.
    let code = unsafe { std::slice::from_raw_parts(start, length) };
    Program { code, timer: (timer.addr() - start.addr()) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_whole_and_fits_its_page() {
        let program = program();
        assert!(program.code.len() > 300 && program.code.len() < 4096);
        assert_eq!(program.code[..4], [0xb0, 1, 0xe6, 0x99], "mov al, 1; out 0x99, al");
        assert!(program.code.ends_with(&[0x48, 0xcf]), "iretq");
        let timer = usize::try_from(program.timer).unwrap();
        assert_eq!(program.code[timer..timer + 2], [0xff, 0xc5], "inc ebp");
    }

    #[test]
    fn an_answer_comes_either_way_and_in_time() {
        let began = Instant::now();
        let outcome = kvm_runs_guests();
        assert!(began.elapsed() < PATIENCE * 3, "{:?}", began.elapsed());
        if let Err(fault) = outcome {
            assert!(!fault.to_string().is_empty() && !fault.hint().is_empty());
        }
    }
}
