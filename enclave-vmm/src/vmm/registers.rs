//! How the first vCPU stands at the kernel's 64-bit entry: long mode, paging on with the first GiB mapped one to one,
//! flat segments under the selectors the boot protocol names (code 0x10, data 0x18), `rsi` at the zero page, interrupts
//! off. The other vCPUs wait for INIT and SIPI and only get LINT, MSRs and FPU.

use kvm_bindings::{Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::error::Error;
use super::layout;
use super::memory::GuestRam;

const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TSS: u16 = 0x20;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS always reads as 1.
const RFLAGS: u64 = 2;

const PAGE_PRESENT: u64 = 1;
const PAGE_WRITABLE: u64 = 2;
const PAGE_LARGE: u64 = 1 << 7;
const PAGE_2M: u64 = 1 << 21;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, write-back where none says otherwise.
const MTRR_WRITE_BACK: u64 = (1 << 11) | 6;

const FPU_CONTROL: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;

const LAPIC_LVT_LINT0: usize = 0x350;
const LAPIC_LVT_LINT1: usize = 0x360;
const DELIVERY_NMI: u32 = 4 << 8;
const DELIVERY_EXTINT: u32 = 7 << 8;
const DELIVERY_MASK: u32 = 7 << 8;

/// Descriptor tables and page tables into the first pages of guest memory.
///
/// # Errors
/// [`Error::Kernel`] when guest memory is too small for them.
pub fn write_tables(ram: &GuestRam) -> Result<(), Error> {
    let put = |value: u64, at: u64| {
        ram.write_obj(value, GuestAddress(at))
            .map_err(|e| Error::Kernel { what: format!("boot tables at {at:#x}: {e}") })
    };
    for (index, descriptor) in
        [0, 0, descriptor(&code()), descriptor(&data()), descriptor(&tss())].into_iter().enumerate()
    {
        put(descriptor, layout::GDT + 8 * index as u64)?;
    }
    put(0, layout::IDT)?;
    put(layout::PDPT | PAGE_PRESENT | PAGE_WRITABLE, layout::PML4)?;
    put(layout::PD | PAGE_PRESENT | PAGE_WRITABLE, layout::PDPT)?;
    for index in 0..512 {
        let entry = (index * PAGE_2M) | PAGE_PRESENT | PAGE_WRITABLE | PAGE_LARGE;
        put(entry, layout::PD + 8 * index)?;
    }
    Ok(())
}

/// Registers of the vCPU that starts at `ip`.
///
/// # Errors
/// [`Error::Ioctl`].
pub fn set_boot(vcpu: &VcpuFd, ip: u64) -> Result<(), Error> {
    let mut sregs = vcpu.get_sregs().map_err(Error::ioctl("KVM_GET_SREGS"))?;
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 6 * 8 - 1;
    sregs.idt.base = layout::IDT;
    sregs.idt.limit = 7;
    sregs.cs = code();
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data(), data(), data(), data(), data());
    sregs.tr = tss();
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = layout::PML4;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs).map_err(Error::ioctl("KVM_SET_SREGS"))?;
    let regs = kvm_regs {
        rip: ip,
        rsi: layout::BOOT_PARAMS,
        rsp: layout::BOOT_STACK,
        rbp: layout::BOOT_STACK,
        rflags: RFLAGS,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(Error::ioctl("KVM_SET_REGS"))
}

/// What every vCPU needs before it runs: FPU, MSRs and the local APIC's two pins.
///
/// # Errors
/// [`Error::Ioctl`].
pub fn set_common(vcpu: &VcpuFd) -> Result<(), Error> {
    let fpu = kvm_fpu { fcw: FPU_CONTROL, mxcsr: MXCSR, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(Error::ioctl("KVM_SET_FPU"))?;
    // KVM leaves every other MSR at its reset value, zero, as the kernel expects.
    let entries = [
        kvm_msr_entry { index: MSR_MISC_ENABLE, data: MISC_FAST_STRING, ..Default::default() },
        kvm_msr_entry { index: MSR_MTRR_DEF_TYPE, data: MTRR_WRITE_BACK, ..Default::default() },
    ];
    let refused = |errno| Error::Ioctl {
        request: "KVM_SET_MSRS for MISC_ENABLE and MTRR_DEF_TYPE",
        source: std::io::Error::from_raw_os_error(errno),
    };
    let msrs = Msrs::from_entries(&entries).map_err(|_| refused(libc::E2BIG))?;
    let done = vcpu.set_msrs(&msrs).map_err(|e| refused(e.errno()))?;
    if done != entries.len() {
        return Err(refused(libc::EINVAL));
    }
    let mut lapic = vcpu.get_lapic().map_err(Error::ioctl("KVM_GET_LAPIC"))?;
    set_delivery(&mut lapic, LAPIC_LVT_LINT0, DELIVERY_EXTINT);
    set_delivery(&mut lapic, LAPIC_LVT_LINT1, DELIVERY_NMI);
    vcpu.set_lapic(&lapic).map_err(Error::ioctl("KVM_SET_LAPIC"))
}

fn set_delivery(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let mut bytes = [0u8; 4];
    for (byte, from) in bytes.iter_mut().zip(&lapic.regs[register..]) {
        *byte = from.to_ne_bytes()[0];
    }
    let value = (u32::from_le_bytes(bytes) & !DELIVERY_MASK) | mode;
    for (byte, to) in value.to_le_bytes().into_iter().zip(&mut lapic.regs[register..]) {
        *to = std::ffi::c_char::from_ne_bytes([byte]);
    }
}

fn code() -> kvm_segment {
    // Execute/read, accessed.
    kvm_segment { selector: CODE, type_: 0xb, l: 1, ..flat() }
}

fn data() -> kvm_segment {
    // Read/write, accessed.
    kvm_segment { selector: DATA, type_: 0x3, db: 1, ..flat() }
}

fn flat() -> kvm_segment {
    kvm_segment { limit: 0xffff_ffff, present: 1, s: 1, g: 1, ..Default::default() }
}

fn tss() -> kvm_segment {
    // Busy 64-bit TSS; nothing ever switches to it.
    kvm_segment { selector: TSS, limit: 0x67, type_: 0xb, present: 1, ..Default::default() }
}

/// The 8 bytes that describe `segment` in a descriptor table.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let access = u64::from(segment.type_)
        | (u64::from(segment.s) << 4)
        | (u64::from(segment.dpl) << 5)
        | (u64::from(segment.present) << 7);
    let flags = u64::from(segment.avl)
        | (u64::from(segment.l) << 1)
        | (u64::from(segment.db) << 2)
        | (u64::from(segment.g) << 3);
    (limit & 0xffff)
        | ((segment.base & 0xff_ffff) << 16)
        | (access << 40)
        | ((limit >> 16 & 0xf) << 48)
        | (flags << 52)
        | ((segment.base >> 24 & 0xff) << 56)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_the_ones_the_boot_protocol_knows() {
        assert_eq!(descriptor(&code()), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&data()), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&tss()), 0x0000_8b00_0000_0067);
    }

    #[test]
    fn the_pins_keep_their_other_bits() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs[LAPIC_LVT_LINT0 + 2] = 1; // the mask bit, 16
        set_delivery(&mut lapic, LAPIC_LVT_LINT0, DELIVERY_EXTINT);
        assert_eq!(lapic.regs[LAPIC_LVT_LINT0 + 1], 7);
        assert_eq!(lapic.regs[LAPIC_LVT_LINT0 + 2], 1);
    }
}
