//! What this enclave has: its CPUs and memory, as the kernel inside counts them.

use std::fs;
use std::thread;

/// CPUs this process may run on, as `nproc` says.
pub(crate) fn cpus() -> Option<usize> {
    thread::available_parallelism().ok().map(usize::from)
}

/// MemTotal of `/proc/meminfo`, MiB.
pub(crate) fn memory_mib() -> Option<u64> {
    total(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_in_mib() {
        assert_eq!(total("MemTotal:         239104 kB\nMemFree: 1 kB\n"), Some(233));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert_eq!(total("MemTotal:\n"), None);
    }
}
