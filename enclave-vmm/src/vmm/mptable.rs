//! The MultiProcessor Specification 1.4 table: how a kernel without ACPI finds its CPUs, the IO-APIC and the interrupt
//! lines. One ISA bus, every line wired straight to the IO-APIC pin of the same number (the virtio lines among them), and
//! LINT0/LINT1 of every CPU to ExtINT and NMI.

use vm_memory::{Bytes, GuestAddress};

use super::error::Error;
use super::layout;
use super::memory::GuestRam;

const FLOATING_POINTER: usize = 16;
const HEADER: usize = 44;
const SPEC_1_4: u8 = 4;
/// What a Pentium 4's local APIC and 82093AA-compatible IO-APICs report.
const LAPIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;

const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

const CPU_ENABLED: u8 = 1;
const CPU_BOOT: u8 = 2;
const INT_VECTORED: u8 = 0;
const INT_NMI: u8 = 1;
const INT_EXTINT: u8 = 3;
const ALL_LAPICS: u8 = 0xff;

/// Writes the table for CPUs with APIC ids 0 to `vcpus - 1`.
///
/// # Errors
/// [`Error::Kernel`] when it does not fit between [`layout::MPTABLE`] and [`layout::HIGH_RAM`].
pub fn write(ram: &GuestRam, vcpus: u8) -> Result<(), Error> {
    let table = build(vcpus);
    ram.write_slice(&table, GuestAddress(layout::MPTABLE))
        .map_err(|e| Error::Kernel { what: format!("the MP table could not be written: {e}") })
}

/// Floating pointer and table, as they stand at [`layout::MPTABLE`].
fn build(vcpus: u8) -> Vec<u8> {
    let ioapic_id = vcpus;
    let mut entries = Vec::new();
    let mut count: u16 = 0;
    let mut push = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for id in 0..vcpus {
        let boot = if id == 0 { CPU_BOOT } else { 0 };
        let mut cpu = [0; 20];
        cpu[..4].copy_from_slice(&[PROCESSOR, id, LAPIC_VERSION, CPU_ENABLED | boot]);
        // Signature and feature flags as old kernels want them; new ones ask CPUID.
        cpu[4..6].copy_from_slice(&0x0600u16.to_le_bytes());
        cpu[8..12].copy_from_slice(&0x0201u32.to_le_bytes());
        push(&cpu);
    }
    push(&[BUS, 0, b'I', b'S', b'A', b' ', b' ', b' ']);
    let mut ioapic = [IO_APIC, ioapic_id, IOAPIC_VERSION, 1, 0, 0, 0, 0];
    ioapic[4..].copy_from_slice(&layout::IOAPIC.to_le_bytes());
    push(&ioapic);
    for line in 0..layout::IRQ_LINES {
        push(&[IO_INTERRUPT, INT_VECTORED, 0, 0, 0, line, ioapic_id, line]);
    }
    push(&[LOCAL_INTERRUPT, INT_EXTINT, 0, 0, 0, 0, 0, 0]);
    push(&[LOCAL_INTERRUPT, INT_NMI, 0, 0, 0, 0, ALL_LAPICS, 1]);

    // The address space ends at 64 KiB from here, and 254 CPUs take 5 KiB.
    #[expect(clippy::cast_possible_truncation, reason = "at most 255 * 20 + 224 bytes")]
    let length = (HEADER + entries.len()) as u16;
    #[expect(clippy::cast_possible_truncation, reason = "an address below 1 MiB")]
    let table_address = layout::MPTABLE as u32 + 16;

    let mut pointer = [0; FLOATING_POINTER];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&table_address.to_le_bytes());
    pointer[8] = 1;
    pointer[9] = SPEC_1_4;
    pointer[10] = checksum(&pointer);

    let mut table = Vec::with_capacity(HEADER + entries.len());
    table.extend_from_slice(b"PCMP");
    table.extend_from_slice(&length.to_le_bytes());
    table.extend_from_slice(&[SPEC_1_4, 0]);
    table.extend_from_slice(b"ENCLAVE NITROCOMPAT ");
    table.extend_from_slice(&[0; 6]);
    table.extend_from_slice(&count.to_le_bytes());
    table.extend_from_slice(&layout::LAPIC.to_le_bytes());
    table.extend_from_slice(&[0; 4]);
    table.extend_from_slice(&entries);
    table[7] = checksum(&table);

    [&pointer[..], &table].concat()
}

/// The byte that makes all bytes sum to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_lengths_and_counts_agree_for_any_number_of_cpus() {
        for vcpus in [1, 2, 3, 64, 254] {
            let bytes = build(vcpus);
            let (pointer, table) = bytes.split_at(16);
            assert_eq!(checksum(pointer), 0);
            assert_eq!(checksum(table), 0);
            assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
            let mut at = HEADER;
            let mut entries = 0;
            while at < table.len() {
                at += if table[at] == PROCESSOR { 20 } else { 8 };
                entries += 1;
            }
            assert_eq!(at, table.len());
            assert_eq!(u16::from_le_bytes([table[34], table[35]]), entries);
            assert_eq!(entries, u16::from(vcpus) + 2 + u16::from(layout::IRQ_LINES) + 2);
            assert!(bytes.len() as u64 <= layout::HIGH_RAM - layout::MPTABLE);
        }
    }
}
