//! The image into guest memory: kernel (bzImage by its 64-bit entry, or ELF), ramdisks, command line and the zero page,
//! as Linux' `Documentation/arch/x86/boot.rst` asks. Everything is copied straight from the mapped image file.

use std::io::Cursor;

use linux_loader::loader::bootparam::{XLF_KERNEL_64, boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::error::Error;
use super::layout;
use super::memory::GuestRam;

/// The parts of an image that a guest boots from.
#[derive(Debug, Clone)]
pub struct Image<'a> {
    /// bzImage or ELF.
    pub kernel: &'a [u8],
    /// Without the text that is appended.
    pub cmdline: &'a [u8],
    /// In file order; Linux unpacks their concatenation.
    pub ramdisks: Vec<&'a [u8]>,
}

/// What the first instruction finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Address of the first instruction, in 64-bit mode.
    pub ip: u64,
}

/// `HdrS`, little-endian, at 0x202 of a bzImage.
const BZIMAGE_MAGIC: u32 = 0x5372_6448;
const ELF_MAGIC: &[u8] = b"\x7fELF";
/// First protocol whose `xloadflags` are valid.
const PROTOCOL_2_12: u16 = 0x020c;
/// From the load address to the 64-bit entry.
const ENTRY_64: u64 = 0x200;
/// A loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
/// Ramdisks end below this when the kernel says nothing (ELF).
const INITRD_MAX: u64 = 0x7fff_ffff;

/// Loads `image`; the guest's RAM must be fresh, that is, zero.
///
/// # Errors
/// [`Error::Kernel`], [`Error::Cmdline`], [`Error::ImageTooLarge`].
pub fn load(ram: &GuestRam, image: &Image<'_>) -> Result<Entry, Error> {
    let kernel = load_kernel(ram, image.kernel)?;
    let initrd = load_ramdisks(ram, &image.ramdisks, &kernel)?;
    let cmdline_length = load_cmdline(ram, image.cmdline, kernel.cmdline_limit)?;

    let mut params = boot_params { hdr: kernel.header, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = BZIMAGE_MAGIC;
    params.hdr.cmd_line_ptr = low(layout::CMDLINE)?;
    params.hdr.cmdline_size = low(cmdline_length)?;
    params.hdr.ramdisk_image = low(initrd.start)?;
    params.hdr.ramdisk_size = low(initrd.length)?;
    params.acpi_rsdp_addr = layout::ACPI;
    for (entry, slot) in e820(ram).into_iter().zip(params.e820_table.iter_mut()) {
        *slot = entry;
        params.e820_entries += 1;
    }
    ram.write_obj(params, GuestAddress(layout::BOOT_PARAMS)).map_err(|e| kernel_error(&e))?;
    Ok(Entry { ip: kernel.entry })
}

struct Kernel {
    entry: u64,
    /// End of everything the kernel uses before it knows about the ramdisks.
    run_end: u64,
    initrd_max: u64,
    cmdline_limit: usize,
    header: setup_header,
}

struct Initrd {
    start: u64,
    length: u64,
}

fn kernel_error(what: &dyn std::fmt::Display) -> Error {
    Error::Kernel { what: what.to_string() }
}

fn low(value: u64) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| kernel_error(&format!("{value:#x} is beyond 4 GiB")))
}

fn load_kernel(ram: &GuestRam, file: &[u8]) -> Result<Kernel, Error> {
    let high_ram = GuestAddress(layout::HIGH_RAM);
    if file.starts_with(ELF_MAGIC) {
        let loaded = Elf::load(ram, None, &mut Cursor::new(file), Some(high_ram))
            .map_err(|e| kernel_error(&e))?;
        return Ok(Kernel {
            entry: loaded.kernel_load.0,
            run_end: loaded.kernel_end,
            initrd_max: INITRD_MAX,
            cmdline_limit: layout::CMDLINE_MAX,
            header: setup_header { kernel_alignment: 0x20_0000, ..Default::default() },
        });
    }
    let header = bzimage_header(file)?;
    let (version, flags) = (header.version, header.xloadflags);
    if version < PROTOCOL_2_12 {
        return Err(kernel_error(&format!("boot protocol {}.{}", version >> 8, version & 0xff)));
    }
    if flags & XLF_KERNEL_64 == 0 {
        return Err(kernel_error(&format!("it has no 64-bit entry (xloadflags {flags:#x})")));
    }
    let (preferred, init_size) = (header.pref_address, u64::from(header.init_size));
    let run_end = preferred.max(layout::HIGH_RAM).checked_add(init_size);
    let run_end = run_end
        .ok_or_else(|| kernel_error(&format!("it asks for address {preferred:#x}")))?
        .max(layout::HIGH_RAM.saturating_add(file.len() as u64));
    let have = low_ram(ram);
    if run_end > have {
        return Err(too_large(ram, run_end));
    }
    let loaded = BzImage::load(ram, Some(high_ram), &mut Cursor::new(file), Some(high_ram))
        .map_err(|e| kernel_error(&e))?;
    let header = loaded.setup_header.ok_or_else(|| kernel_error(&"it has no setup header"))?;
    let limit = usize::try_from(header.cmdline_size).unwrap_or(usize::MAX);
    Ok(Kernel {
        entry: loaded.kernel_load.0 + ENTRY_64,
        run_end,
        initrd_max: u64::from(header.initrd_addr_max),
        cmdline_limit: limit.saturating_add(1).min(layout::CMDLINE_MAX),
        header,
    })
}

/// The setup header, with what [`BzImage::load`] takes for granted checked.
fn bzimage_header(file: &[u8]) -> Result<setup_header, Error> {
    const OFFSET: usize = 0x1f1;
    let bytes = file
        .get(OFFSET..OFFSET + size_of::<setup_header>())
        .ok_or_else(|| kernel_error(&format!("a file of {} bytes", file.len())))?;
    let header = vm_memory::ByteValued::from_slice(bytes).copied();
    let header: setup_header = match header {
        Some(header) => header,
        None => return Err(kernel_error(&"its header cannot be read")),
    };
    if { header.header } != BZIMAGE_MAGIC {
        return Err(kernel_error(&"it is neither a bzImage nor an ELF file"));
    }
    Ok(header)
}

/// Ramdisks one after the other, each padded to 4 bytes as cpio archives must be, the whole as high as it fits.
fn load_ramdisks(ram: &GuestRam, ramdisks: &[&[u8]], kernel: &Kernel) -> Result<Initrd, Error> {
    let length: u64 = ramdisks.iter().map(|r| (r.len() as u64).next_multiple_of(4)).sum();
    if length == 0 {
        return Ok(Initrd { start: 0, length: 0 });
    }
    let top = low_ram(ram).min(kernel.initrd_max.saturating_add(1));
    let floor = kernel.run_end.next_multiple_of(PAGE);
    let start = match top.checked_sub(length) {
        Some(start) if start & !(PAGE - 1) >= floor => start & !(PAGE - 1),
        _ => return Err(too_large(ram, floor.saturating_add(length.next_multiple_of(PAGE)))),
    };
    let mut at = start;
    for ramdisk in ramdisks {
        ram.write_slice(ramdisk, GuestAddress(at))
            .map_err(|e| Error::Image { what: format!("a ramdisk at {at:#x}: {e}") })?;
        at += (ramdisk.len() as u64).next_multiple_of(4);
    }
    Ok(Initrd { start, length })
}

/// Length without the NUL.
fn load_cmdline(ram: &GuestRam, cmdline: &[u8], limit: usize) -> Result<u64, Error> {
    let length = cmdline.len() + layout::CMDLINE_SUFFIX.len();
    if length >= limit {
        return Err(Error::Cmdline { length, what: "is longer than the kernel takes" });
    }
    if cmdline.contains(&0) {
        return Err(Error::Cmdline { length, what: "has a NUL in it" });
    }
    let text = [cmdline, layout::CMDLINE_SUFFIX.as_bytes(), b"\0"].concat();
    ram.write_slice(&text, GuestAddress(layout::CMDLINE)).map_err(|e| kernel_error(&e))?;
    Ok(length as u64)
}

/// End of the RAM below the hole.
fn low_ram(ram: &GuestRam) -> u64 {
    ram.find_region(GuestAddress(0)).map_or(0, |region| region.len())
}

fn too_large(ram: &GuestRam, need: u64) -> Error {
    let have: u64 = ram.iter().map(GuestMemoryRegion::len).sum();
    Error::ImageTooLarge { need_mib: need.div_ceil(MIB), have_mib: have / MIB }
}

/// Low RAM, the reserved stretch with the tables in it, and the rest. What is not listed does not exist.
fn e820(ram: &GuestRam) -> Vec<boot_e820_entry> {
    let entry = |addr: u64, end: u64, r#type| boot_e820_entry { addr, size: end - addr, r#type };
    let mut map = vec![
        entry(0, layout::LOW_RAM_END, E820_RAM),
        entry(layout::LOW_RAM_END, layout::HIGH_RAM, E820_RESERVED),
    ];
    for region in ram.iter() {
        let start = region.start_addr().0.max(layout::HIGH_RAM);
        let end = region.start_addr().0 + region.len();
        if end > start {
            map.push(entry(start, end, E820_RAM));
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::memory::{Memory, Pages};

    /// A bzImage as small as they get: one setup sector and `body` as the kernel.
    fn bzimage(version: u16, xloadflags: u16, init_size: u32, body: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 1024];
        file[0x1f1] = 1;
        file[0x202..0x206].copy_from_slice(&BZIMAGE_MAGIC.to_le_bytes());
        file[0x206..0x208].copy_from_slice(&version.to_le_bytes());
        file[0x211] = 1;
        file[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
        file[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
        file[0x236..0x238].copy_from_slice(&xloadflags.to_le_bytes());
        file[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
        file[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
        file[0x260..0x264].copy_from_slice(&init_size.to_le_bytes());
        file.extend_from_slice(body);
        file
    }

    fn good() -> Vec<u8> {
        bzimage(0x20f, XLF_KERNEL_64, 0x10_0000, &[0x90; 2048])
    }

    fn image<'a>(kernel: &'a [u8], ramdisks: Vec<&'a [u8]>) -> Image<'a> {
        Image { kernel, cmdline: b"reboot=k", ramdisks }
    }

    #[test]
    fn a_small_image_is_laid_out_as_the_protocol_asks() {
        let memory = Memory::new(32, Pages::Ordinary).unwrap();
        let kernel = good();
        let entry = load(memory.ram(), &image(&kernel, vec![b"abcde", b"fgh"])).unwrap();
        assert_eq!(entry.ip, 0x10_0200);
        let params: boot_params = memory.ram().read_obj(GuestAddress(layout::BOOT_PARAMS)).unwrap();
        assert_eq!({ params.hdr.ramdisk_size }, 12);
        assert_eq!({ params.hdr.ramdisk_image }, 32 * 1024 * 1024 - 4096);
        let mut initrd = [0; 12];
        memory.ram().read_slice(&mut initrd, GuestAddress(32 * 1024 * 1024 - 4096)).unwrap();
        assert_eq!(&initrd, b"abcde\0\0\0fgh\0");
        let mut text = vec![0; 9 + layout::CMDLINE_SUFFIX.len()];
        memory.ram().read_slice(&mut text, GuestAddress(layout::CMDLINE)).unwrap();
        assert_eq!(text, format!("reboot=k{}\0", layout::CMDLINE_SUFFIX).into_bytes());
        assert_eq!(params.e820_entries, 3);
        let last = params.e820_table[2];
        assert_eq!({ last.addr } + { last.size }, 32 * 1024 * 1024);
    }

    #[test]
    fn ramdisks_that_do_not_fit_name_the_need() {
        let memory = Memory::new(20, Pages::Ordinary).unwrap();
        let kernel = good();
        let big = vec![1; 4 * 1024 * 1024];
        match load(memory.ram(), &image(&kernel, vec![&big])) {
            Err(Error::ImageTooLarge { need_mib, have_mib }) => {
                assert_eq!((need_mib, have_mib), (21, 20));
            }
            other => panic!("{other:?}"),
        }
        let memory = Memory::new(22, Pages::Ordinary).unwrap();
        load(memory.ram(), &image(&kernel, vec![&big])).unwrap();
    }

    #[test]
    fn kernels_that_cannot_be_started_are_refused() {
        let memory = Memory::new(32, Pages::Ordinary).unwrap();
        for kernel in [
            vec![],
            b"\x7fELF".to_vec(),
            vec![0; 4096],
            bzimage(0x20b, XLF_KERNEL_64, 4096, b""),
            bzimage(0x20f, 0, 4096, b""),
            good()[..700].to_vec(),
        ] {
            let result = load(memory.ram(), &image(&kernel, vec![]));
            assert!(matches!(result, Err(Error::Kernel { .. })), "{result:?}");
        }
        let greedy = bzimage(0x20f, XLF_KERNEL_64, u32::MAX, b"");
        let result = load(memory.ram(), &image(&greedy, vec![]));
        assert!(matches!(result, Err(Error::ImageTooLarge { .. })), "{result:?}");
    }

    #[test]
    fn a_command_line_too_long_or_with_a_nul_is_refused() {
        let memory = Memory::new(32, Pages::Ordinary).unwrap();
        let kernel = good();
        let long = vec![b'a'; 2047 - layout::CMDLINE_SUFFIX.len()];
        for (cmdline, ok) in [(&long[1..], true), (&long[..], true), (b"a\0b", false)] {
            let image = Image { kernel: &kernel, cmdline, ramdisks: vec![] };
            assert_eq!(load(memory.ram(), &image).is_ok(), ok);
        }
        let longer = [&long[..], b"a"].concat();
        let image = Image { kernel: &kernel, cmdline: &longer, ramdisks: vec![] };
        assert!(matches!(load(memory.ram(), &image), Err(Error::Cmdline { length: 2048, .. })));
    }
}
