//! The guest's physical address map and interrupt lines, each with its one name. The low megabyte follows what
//! every PC had, because that is where Linux scans for the MP table (0xf0000) and the RSDP (0xe0000); the 1 GiB under
//! 4 GiB holds no RAM, only the two virtio devices and the interrupt controllers.
//!
//! ```text
//! 0x0000_0500  GDT, IDT          0x0000_7000  boot_params      0x0000_9000  page tables
//! 0x0002_0000  command line      0x0009_fc00  end of low RAM   0x000e_0000  ACPI     0x000f_0000  MP table
//! 0x0010_0000  kernel            ... initrd as high as fits    0xc000_0000  hole     0x1_0000_0000  RAM again
//! ```

/// Global descriptor table: four 8-byte entries and a 16-byte TSS descriptor.
pub const GDT: u64 = 0x500;
/// Interrupt descriptor table: one empty entry, so that any exception before the kernel's own table is a triple fault.
pub const IDT: u64 = 0x540;
/// The "zero page", `struct boot_params`, 4096 bytes.
pub const BOOT_PARAMS: u64 = 0x7000;
/// Stack of the first instructions; grows down, below the page tables.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Level-4 page table.
pub const PML4: u64 = 0x9000;
/// Level-3 page table.
pub const PDPT: u64 = 0xa000;
/// Level-2 page table: 512 pages of 2 MiB, the first GiB one to one.
pub const PD: u64 = 0xb000;
/// Kernel command line, NUL-terminated.
pub const CMDLINE: u64 = 0x2_0000;
/// Longest command line with its NUL, bytes; `COMMAND_LINE_SIZE` of x86 Linux.
pub const CMDLINE_MAX: usize = 2048;
/// End of the first usable range; above it the classic EBDA.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables, RSDP first; up to [`MPTABLE`].
pub const ACPI: u64 = 0xe_0000;
/// MP floating pointer and table; up to [`HIGH_RAM`].
pub const MPTABLE: u64 = 0xf_0000;
/// Where RAM above the first megabyte begins and the kernel is loaded.
pub const HIGH_RAM: u64 = 0x10_0000;

/// Start of the hole in RAM.
pub const HOLE: u64 = 0xc000_0000;
/// First address above the hole.
pub const HOLE_END: u64 = 0x1_0000_0000;

/// First virtio-mmio register file.
pub const VIRTIO: u64 = 0xd000_0000;
/// Distance between register files, bytes; each is announced as 4K.
pub const VIRTIO_STRIDE: u64 = 0x1000;
/// IO-APIC registers (in the kernel).
pub const IOAPIC: u32 = 0xfec0_0000;
/// Local APIC registers (in the kernel).
pub const LAPIC: u32 = 0xfee0_0000;
/// Page that KVM on Intel uses to run real mode; next to three pages of a TSS.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that KVM on Intel uses for a TSS.
pub const KVM_TSS: usize = 0xfffb_d000;

/// Lines of the IO-APIC.
pub const IRQ_LINES: u8 = 24;
/// COM1's interrupt.
pub const SERIAL_IRQ: u32 = 4;
/// COM1's eight ports.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Data port of the keyboard controller.
pub const I8042_DATA: u16 = 0x60;
/// Command port of the keyboard controller; `reboot=k` writes 0xfe here.
pub const I8042_COMMAND: u16 = 0x64;

/// The virtio devices in the order of their register files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// virtio-vsock.
    Vsock,
    /// virtio-nsm.
    Nsm,
}

impl Slot {
    /// Every slot, in order.
    pub const ALL: [Slot; 2] = [Slot::Vsock, Slot::Nsm];

    /// Guest physical address of the register file.
    #[must_use]
    pub const fn address(self) -> u64 {
        match self {
            Slot::Vsock => VIRTIO,
            Slot::Nsm => VIRTIO + VIRTIO_STRIDE,
        }
    }

    /// Interrupt line (GSI), edge-triggered like every line of the ISA bus.
    #[must_use]
    pub const fn irq(self) -> u32 {
        match self {
            Slot::Vsock => 5,
            Slot::Nsm => 6,
        }
    }

    /// The slot whose registers hold `address`, and the offset in them.
    #[must_use]
    pub fn at(address: u64) -> Option<(Slot, u64)> {
        Slot::ALL.into_iter().find_map(|slot| {
            let offset = address.checked_sub(slot.address())?;
            (offset < VIRTIO_STRIDE).then_some((slot, offset))
        })
    }
}

/// Text appended to the image's command line: where the devices are, and nothing else. It is not measured, so it is a
/// constant of this program and no option may ever reach it.
pub const CMDLINE_SUFFIX: &str =
    " virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_appended_text_announces_the_slots_and_nothing_else() {
        let expected: String = Slot::ALL
            .iter()
            .map(|s| format!(" virtio_mmio.device=4K@{:#x}:{}", s.address(), s.irq()))
            .collect();
        assert_eq!(CMDLINE_SUFFIX, expected);
    }

    #[test]
    fn an_address_belongs_to_at_most_one_slot() {
        assert_eq!(Slot::at(VIRTIO - 1), None);
        assert_eq!(Slot::at(VIRTIO), Some((Slot::Vsock, 0)));
        assert_eq!(Slot::at(VIRTIO + 0xfff), Some((Slot::Vsock, 0xfff)));
        assert_eq!(Slot::at(VIRTIO + 0x1000), Some((Slot::Nsm, 0)));
        assert_eq!(Slot::at(VIRTIO + 0x2000), None);
    }
}
