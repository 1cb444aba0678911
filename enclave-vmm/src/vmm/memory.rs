//! Guest memory: one memfd of 2 MiB pages, shared (a later vhost worker or helper maps the same pages), reserved
//! when it is mapped and faulted before anything runs, so that a short pool is an error here and never a SIGBUS in a running guest. It stays
//! out of core dumps, and an orderly end writes zeros over it before the pages go back to the pool.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr::NonNull;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MmapAdvise, madvise};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap,
    mmap::{MmapRegionBuilder, MmapRegionError},
};

use super::error::Error;
use super::layout;

/// Guest memory as vm-memory sees it, without dirty tracking.
pub type GuestRam = vm_memory::GuestMemoryMmap<()>;

const MIB: u64 = 1 << 20;
/// Bytes.
const HUGE_PAGE: u64 = 2 * MIB;

/// What backs guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// 2 MiB pages from the pool: what enclaves run on.
    Huge,
    /// Ordinary pages: for unit tests on machines without a pool.
    Ordinary,
}

/// Guest memory and the file behind it.
#[derive(Debug)]
pub struct Memory {
    ram: GuestRam,
    file: File,
    bytes: u64,
}

impl Memory {
    /// Reserves, allocates, maps and faults `mib` MiB, split around the hole under 4 GiB.
    ///
    /// # Errors
    /// [`Error::MemorySize`], [`Error::MemoryShort`] when the pool has too few pages, [`Error::MemoryMap`].
    pub fn new(mib: u64, pages: Pages) -> Result<Memory, Error> {
        let bytes = mib.checked_mul(MIB).filter(|b| *b >= HUGE_PAGE && b.is_multiple_of(HUGE_PAGE));
        let bytes = bytes.ok_or(Error::MemorySize { mib })?;
        let map = |what: &str, e: &dyn std::fmt::Display| Error::MemoryMap {
            mib,
            what: format!("{what}: {e}"),
        };
        let huge = match pages {
            Pages::Huge => MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB,
            Pages::Ordinary => MFdFlags::empty(),
        };
        let file: File = memfd_create(c"enclave-memory", MFdFlags::MFD_CLOEXEC | huge)
            .map_err(|e| map("memfd_create", &e))?
            .into();
        file.set_len(bytes).map_err(|e| map("ftruncate", &e))?;
        let short = |source: io::Error| Error::MemoryShort {
            mib,
            pages: bytes / HUGE_PAGE,
            free: free_huge_pages(),
            source,
        };
        let mut regions = Vec::with_capacity(2);
        for (base, offset, size) in ranges(bytes) {
            let backing = file.try_clone().map_err(|e| map("dup", &e))?;
            let size = usize::try_from(size).map_err(|_| Error::MemorySize { mib })?;
            // Without MAP_NORESERVE the kernel sets the huge pages aside here, or says that it cannot.
            let region = MmapRegionBuilder::new(size)
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_SHARED)
                .with_file_offset(FileOffset::new(backing, offset))
                .build()
                .map_err(|e| match e {
                    MmapRegionError::Mmap(e) if e.raw_os_error() == Some(libc::ENOMEM) => short(e),
                    e => map("mmap", &e),
                })?;
            regions.push(
                GuestRegionMmap::new(region, GuestAddress(base))
                    .ok_or(Error::MemorySize { mib })?,
            );
        }
        for region in &regions {
            advise(region, MmapAdvise::MADV_DONTDUMP).map_err(|e| map("madvise", &e))?;
            // Faults every page now; where a later access would be a SIGBUS (a hugetlb cgroup, a NUMA policy), this
            // returns an error instead.
            advise(region, MmapAdvise::MADV_POPULATE_WRITE).map_err(|e| {
                match e.raw_os_error() {
                    Some(libc::EFAULT | libc::ENOMEM | libc::EHWPOISON) => short(e),
                    _ => map("populating", &e),
                }
            })?;
        }
        let ram = GuestRam::from_regions(regions).map_err(|e| map("regions", &e))?;
        Ok(Memory { ram, file, bytes })
    }

    /// The memory itself; clones share it.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Size, bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes zeros over all of it and gives the pages back. For the end, when no vCPU runs any more.
    pub fn wipe(&self) {
        for region in self.ram.iter() {
            let length = usize::try_from(region.len()).unwrap_or(usize::MAX);
            if let Ok(slice) = self.ram.get_slice(region.start_addr(), length) {
                zero(&slice);
            }
        }
        if let Ok(length) = i64::try_from(self.bytes) {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // A failure leaves zeroed pages allocated until the process ends, a moment later.
            let _ = fallocate(&self.file, flags, 0, length);
        }
    }
}

/// `(guest address, offset in the file, length)` of each stretch of RAM.
fn ranges(bytes: u64) -> Vec<(u64, u64, u64)> {
    let low = bytes.min(layout::HOLE);
    let mut ranges = vec![(0, 0, low)];
    if bytes > low {
        ranges.push((layout::HOLE_END, low, bytes - low));
    }
    ranges
}

fn advise(region: &vm_memory::MmapRegion<()>, advice: MmapAdvise) -> io::Result<()> {
    let start = NonNull::new(region.as_ptr().cast::<c_void>())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the range is exactly one mapping that `region` owns, and DONTDUMP changes nothing about its contents.
    unsafe { madvise(start, region.size(), advice) }.map_err(io::Error::from)
}

fn zero(slice: &vm_memory::VolatileSlice<'_, ()>) {
    let guard = slice.ptr_guard_mut();
    // SAFETY: the guard points to `slice.len()` mapped bytes for its whole life; guest memory is only ever accessed
    // through raw pointers, so no Rust reference to it exists, and no vCPU runs any more.
    unsafe { std::ptr::write_bytes(guard.as_ptr(), 0, slice.len()) };
}

/// Free 2 MiB pages of this machine; 0 when the kernel does not say.
#[must_use]
pub fn free_huge_pages() -> u64 {
    std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn ram_is_split_around_the_hole() {
        assert_eq!(ranges(64 * MIB), vec![(0, 0, 64 * MIB)]);
        assert_eq!(ranges(layout::HOLE), vec![(0, 0, layout::HOLE)]);
        assert_eq!(
            ranges(layout::HOLE + HUGE_PAGE),
            vec![(0, 0, layout::HOLE), (layout::HOLE_END, layout::HOLE, HUGE_PAGE)]
        );
    }

    #[test]
    fn sizes_that_are_no_huge_pages_are_refused() {
        for mib in [0, 1, 3, u64::MAX, u64::MAX / MIB] {
            assert!(
                matches!(Memory::new(mib, Pages::Ordinary), Err(Error::MemorySize { .. })),
                "{mib}"
            );
        }
    }

    #[test]
    fn a_wipe_leaves_zeros() {
        let memory = Memory::new(4, Pages::Ordinary).unwrap();
        memory.ram().write_slice(b"secret", GuestAddress(0x20_0000)).unwrap();
        memory.wipe();
        let mut back = [1u8; 6];
        memory.ram().read_slice(&mut back, GuestAddress(0x20_0000)).unwrap();
        assert_eq!(back, [0; 6]);
    }

    #[test]
    fn a_short_pool_is_an_error_that_names_the_need() {
        // 16 TiB of huge pages: no machine that runs tests has them.
        match Memory::new(16 << 20, Pages::Huge) {
            Err(Error::MemoryShort { pages, .. }) => assert_eq!(pages, 8 << 20),
            Err(Error::MemoryMap { .. }) => {} // A kernel without hugetlb says so at memfd_create.
            other => panic!("{other:?}"),
        }
    }
}
