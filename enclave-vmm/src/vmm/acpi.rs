//! The smallest ACPI that Linux accepts (ACPI 6.5, hardware-reduced): RSDP, XSDT, FADT, MADT with every vCPU and the IO-APIC, and
//! a DSDT that announces COM1, the keyboard controller and the virtio devices (`LNRO0005`). Kernels with ACPI take this;
//! kernels without it take the MP table and the command line, which say the same.

use vm_memory::{Bytes, GuestAddress};

use super::error::Error;
use super::layout::{self, Slot};
use super::memory::GuestRam;

const TABLE_HEADER: usize = 36;
const OEM: &[u8; 6] = b"ENCLAV";
const OEM_TABLE: &[u8; 8] = b"ENCLAVE ";
const CREATOR: &[u8; 4] = b"ENCL";
/// Tables begin at multiples of this.
const ALIGNMENT: u64 = 16;

/// Writes all tables between [`layout::ACPI`] and [`layout::MPTABLE`], for CPUs with APIC ids 0 to `vcpus - 1`.
///
/// # Errors
/// [`Error::Kernel`] when they do not fit.
pub fn write(ram: &GuestRam, vcpus: u8) -> Result<(), Error> {
    let tables = build(vcpus);
    if tables.len() as u64 > layout::MPTABLE - layout::ACPI {
        return Err(Error::Kernel { what: format!("ACPI tables of {} bytes", tables.len()) });
    }
    ram.write_slice(&tables, GuestAddress(layout::ACPI))
        .map_err(|e| Error::Kernel { what: format!("ACPI tables could not be written: {e}") })
}

/// The tables as they stand at [`layout::ACPI`], RSDP first.
fn build(vcpus: u8) -> Vec<u8> {
    let mut image = vec![0; 64];
    let mut place = |table: &[u8]| {
        image.resize(image.len().next_multiple_of(16), 0);
        let address = layout::ACPI + image.len() as u64;
        debug_assert!(address.is_multiple_of(ALIGNMENT));
        image.extend_from_slice(table);
        address
    };
    let dsdt = place(&table(b"DSDT", 2, &dsdt()));
    let fadt = place(&table(b"FACP", 6, &fadt(dsdt)));
    let madt = place(&table(b"APIC", 6, &madt(vcpus)));
    let xsdt = place(&table(b"XSDT", 1, &[fadt.to_le_bytes(), madt.to_le_bytes()].concat()));
    let rsdp = rsdp(xsdt);
    for (to, from) in image.iter_mut().zip(rsdp) {
        *to = from;
    }
    image
}

fn rsdp(xsdt: u64) -> Vec<u8> {
    const LENGTH: u32 = 36;
    const VERSION_1_LENGTH: usize = 20;
    let mut rsdp = b"RSD PTR ".to_vec();
    rsdp.push(0);
    rsdp.extend_from_slice(OEM);
    rsdp.push(2);
    rsdp.extend_from_slice(&[0; 4]);
    set_checksum(&mut rsdp, VERSION_1_LENGTH, 8);
    rsdp.extend_from_slice(&LENGTH.to_le_bytes());
    rsdp.extend_from_slice(&xsdt.to_le_bytes());
    rsdp.extend_from_slice(&[0; 4]);
    let length = rsdp.len();
    set_checksum(&mut rsdp, length, 32);
    rsdp
}

/// A table with its header.
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    // Far below 64 KiB, see `write`.
    let length = u32::try_from(TABLE_HEADER + body.len()).unwrap_or(u32::MAX);
    let mut table = signature.to_vec();
    table.extend_from_slice(&length.to_le_bytes());
    table.extend_from_slice(&[revision, 0]);
    table.extend_from_slice(OEM);
    table.extend_from_slice(OEM_TABLE);
    table.extend_from_slice(&1u32.to_le_bytes());
    table.extend_from_slice(CREATOR);
    table.extend_from_slice(&1u32.to_le_bytes());
    table.extend_from_slice(body);
    let length = table.len();
    set_checksum(&mut table, length, 9);
    table
}

/// Makes the first `length` bytes sum to zero by the byte at `at`.
fn set_checksum(bytes: &mut [u8], length: usize, at: usize) {
    let sum = bytes.iter().take(length).fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(at) {
        *byte = byte.wrapping_sub(sum);
    }
}

/// Hardware-reduced: no fixed registers at all. Offsets are of the whole table.
fn fadt(dsdt: u64) -> Vec<u8> {
    const LENGTH: usize = 276;
    const BOOT_ARCHITECTURE: usize = 109;
    const FLAGS: usize = 112;
    const MINOR_VERSION: usize = 131;
    const X_DSDT: usize = 140;
    /// No VGA, no MSI, no CMOS clock; there is a keyboard controller.
    const NO_VGA_MSI_RTC: u16 = (1 << 2) | (1 << 3) | (1 << 5) | (1 << 1);
    /// Hardware-reduced, neither power nor sleep button as fixed hardware.
    const HARDWARE_REDUCED: u32 = (1 << 20) | (1 << 4) | (1 << 5);
    let mut body = vec![0; LENGTH - TABLE_HEADER];
    let mut put = |offset: usize, bytes: &[u8]| {
        for (to, from) in body.iter_mut().skip(offset - TABLE_HEADER).zip(bytes) {
            *to = *from;
        }
    };
    put(BOOT_ARCHITECTURE, &NO_VGA_MSI_RTC.to_le_bytes());
    put(FLAGS, &HARDWARE_REDUCED.to_le_bytes());
    put(MINOR_VERSION, &[5]);
    put(X_DSDT, &dsdt.to_le_bytes());
    body
}

fn madt(vcpus: u8) -> Vec<u8> {
    const ENABLED: u32 = 1;
    let mut body = layout::LAPIC.to_le_bytes().to_vec();
    body.extend_from_slice(&[0; 4]);
    for id in 0..vcpus {
        body.extend_from_slice(&[0, 8, id, id]);
        body.extend_from_slice(&ENABLED.to_le_bytes());
    }
    body.extend_from_slice(&[1, 12, vcpus, 0]);
    body.extend_from_slice(&layout::IOAPIC.to_le_bytes());
    body.extend_from_slice(&[0; 4]);
    body
}

/// `EISAID("PNP0501")`: a 16550 UART.
const PNP0501: [u8; 5] = [0x0c, 0x41, 0xd0, 0x05, 0x01];
/// `EISAID("PNP0303")`: a PC keyboard.
const PNP0303: [u8; 5] = [0x0c, 0x41, 0xd0, 0x03, 0x03];

/// `Scope (\_SB_) { Device … }`, AML.
fn dsdt() -> Vec<u8> {
    let mut devices = Vec::new();
    let com1 = [io_ports(layout::SERIAL_PORT, 8), interrupt(layout::SERIAL_IRQ)].concat();
    devices.extend(device(b"COM1", &PNP0501, 0, &com1));
    let keyboard =
        [io_ports(layout::I8042_DATA, 1), io_ports(layout::I8042_COMMAND, 1), interrupt(1)];
    devices.extend(device(b"PS2_", &PNP0303, 0, &keyboard.concat()));
    for (index, slot) in (0u8..).zip(Slot::ALL) {
        let resources = [memory(slot.address()), interrupt(slot.irq())].concat();
        let name = [b'V', b'I', b'O', b'0' + index];
        devices.extend(device(&name, b"\x0dLNRO0005\0", index, &resources));
    }
    [&[0x10][..], &package(&[b"\\_SB_", &devices[..]].concat())].concat()
}

fn device(name: &[u8; 4], hid: &[u8], uid: u8, resources: &[u8]) -> Vec<u8> {
    let mut body = name.to_vec();
    body.extend_from_slice(b"\x08_HID");
    body.extend_from_slice(hid);
    body.extend_from_slice(b"\x08_UID\x0a");
    body.push(uid);
    // Its DMA sees what the CPUs see; kernels on other architectures insist on hearing that.
    body.extend_from_slice(b"\x08_CCA\x01");
    body.extend_from_slice(b"\x08_CRS");
    // A resource template ends with a tag whose checksum may be zero: "not computed".
    let template = [resources, &[0x79, 0]].concat();
    let length = u8::try_from(template.len()).unwrap_or(u8::MAX);
    body.push(0x11);
    body.extend(package(&[&[0x0a, length][..], &template].concat()));
    [&[0x5b, 0x82][..], &package(&body)].concat()
}

/// A package length (ACPI 6.5, 20.2.4), which counts itself, and what it is the length of. Up to 4095 bytes.
fn package(body: &[u8]) -> Vec<u8> {
    let one = body.len() + 1;
    let two = body.len() + 2;
    let mut bytes = match (u8::try_from(one), u16::try_from(two)) {
        (Ok(length), _) if length < 0x40 => vec![length],
        (_, Ok(length)) => {
            let [low, high] = (length << 4).to_le_bytes();
            vec![0x40 | low >> 4, high]
        }
        _ => Vec::new(),
    };
    bytes.extend_from_slice(body);
    bytes
}

/// `Memory32Fixed (ReadWrite, address, 0x1000)`; devices are below 4 GiB.
fn memory(address: u64) -> Vec<u8> {
    let base = u32::try_from(address).unwrap_or(0);
    let length = u32::try_from(layout::VIRTIO_STRIDE).unwrap_or(0);
    [&[0x86, 9, 0, 1][..], &base.to_le_bytes(), &length.to_le_bytes()].concat()
}

/// `Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { line }`.
fn interrupt(line: u32) -> Vec<u8> {
    [&[0x89, 6, 0, 0b0011, 1][..], &line.to_le_bytes()].concat()
}

/// `IO (Decode16, first, first, 1, count)`.
fn io_ports(first: u16, count: u8) -> Vec<u8> {
    [&[0x47, 1][..], &first.to_le_bytes(), &first.to_le_bytes(), &[1, count]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u32_at(bytes: &[u8], at: usize) -> usize {
        usize::try_from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap()
    }

    fn u64_at(bytes: &[u8], at: usize) -> usize {
        usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// The table at a physical address.
    fn at(image: &[u8], address: usize) -> &[u8] {
        let start = address - usize::try_from(layout::ACPI).unwrap();
        &image[start..start + u32_at(image, start + 4)]
    }

    #[test]
    fn every_table_is_found_from_the_rsdp_and_sums_to_zero() {
        for vcpus in [1, 2, 254] {
            let image = build(vcpus);
            assert!(image.len() as u64 <= layout::MPTABLE - layout::ACPI);
            assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
            let xsdt = at(&image, u64_at(&image, 24));
            assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
            let fadt = at(&image, u64_at(xsdt, 36));
            assert_eq!((&fadt[..4], sum(fadt), fadt.len()), (&b"FACP"[..], 0, 276));
            let madt = at(&image, u64_at(xsdt, 44));
            assert_eq!((&madt[..4], sum(madt)), (&b"APIC"[..], 0));
            assert_eq!(madt.len(), 44 + 8 * usize::from(vcpus) + 12);
            let dsdt = at(&image, u64_at(fadt, 140));
            assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        }
    }

    #[test]
    fn lengths_count_themselves() {
        assert_eq!(package(&[0; 62])[0], 63);
        assert_eq!(package(&[0; 63])[..2], [0x41, 0x04]);
        assert_eq!(package(&[0; 0x234 - 2])[..2], [0x44, 0x23]);
    }

    #[test]
    fn a_virtio_device_is_announced_as_linux_expects() {
        let resources = [memory(0xd000_0000), interrupt(5)].concat();
        let expected: &[u8] = b"\x5b\x82\x40\x05VIO0\
            \x08_HID\x0dLNRO0005\0\
            \x08_UID\x0a\x00\
            \x08_CCA\x01\
            \x08_CRS\x11\x1a\x0a\x17\
            \x86\x09\x00\x01\x00\x00\x00\xd0\x00\x10\x00\x00\
            \x89\x06\x00\x03\x01\x05\x00\x00\x00\
            \x79\x00";
        let bytes = device(b"VIO0", b"\x0dLNRO0005\0", 0, &resources);
        assert_eq!(bytes[4..], expected[4..]);
        assert_eq!(usize::from(bytes[2] & 0xf) | usize::from(bytes[3]) << 4, bytes.len() - 2);
    }
}
