//! Which CPUs there are, which share a core, and which may be given away. An enclave gets whole cores, because threads of a core
//! share caches and predictors, and never the core of CPU 0, which the parent cannot do without.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::{Host, read_text};
use crate::error::{Error, Result};

/// Highest CPU number believed.
const MAX_CPU: u32 = 8191;

/// A set of CPUs, as the kernel writes it: `2-3,6`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuSet(pub BTreeSet<u32>);

impl CpuSet {
    /// Reads a list like `2,3,6-9`. Empty text is the empty set.
    ///
    /// # Errors
    /// [`Error::CpuList`], [`Error::CpuTwice`].
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::CpuList { text: text.escape_debug().to_string() };
        let mut set = BTreeSet::new();
        if text.trim().is_empty() {
            return Ok(Self(set));
        }
        for part in text.trim().split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u32 = first.trim().parse().map_err(|_| bad())?;
            let last: u32 = last.trim().parse().map_err(|_| bad())?;
            if first > last || last > MAX_CPU {
                return Err(bad());
            }
            for cpu in first..=last {
                if !set.insert(cpu) {
                    return Err(Error::CpuTwice { cpu });
                }
            }
        }
        Ok(Self(set))
    }

    /// The kernel's way of writing it, with ranges.
    #[must_use]
    pub fn list(&self) -> String {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for &cpu in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        let words: Vec<String> = ranges
            .into_iter()
            .map(
                |(first, last)| {
                    if first == last { first.to_string() } else { format!("{first}-{last}") }
                },
            )
            .collect();
        words.join(",")
    }
}

/// The online CPUs by core and NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuTopology {
    /// Each online CPU's core: all its threads, itself included.
    cores: BTreeMap<u32, BTreeSet<u32>>,
    nodes: BTreeMap<u32, u32>,
}

/// What a start asks for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuRequest {
    /// So many, whichever.
    Count(usize),
    /// Exactly these.
    Ids(Vec<u32>),
}

impl CpuTopology {
    /// Reads sysfs.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::CpuList`].
    pub fn read(host: &Host) -> Result<Self> {
        let cpu_root = host.sys.join("devices/system/cpu");
        let online = CpuSet::parse(&read_text(&cpu_root.join("online"))?)?.0;
        let mut cores = BTreeMap::new();
        let mut nodes = BTreeMap::new();
        for &cpu in &online {
            let folder = cpu_root.join(format!("cpu{cpu}"));
            // Newer kernels say core_cpus_list; all say thread_siblings_list. A kernel without either has one thread a core.
            let siblings = read_text(&folder.join("topology/core_cpus_list"))
                .or_else(|_| read_text(&folder.join("topology/thread_siblings_list")));
            let mut core = match siblings {
                Ok(text) => CpuSet::parse(&text)?.0,
                Err(_) => BTreeSet::new(),
            };
            core.retain(|thread| online.contains(thread));
            core.insert(cpu);
            cores.insert(cpu, core);
            nodes.insert(cpu, node_of(&folder));
        }
        Ok(Self { cores, nodes })
    }

    /// CPUs that can ever be given away: online, and not in the core of CPU 0 (or of the lowest CPU where 0 is offline).
    #[must_use]
    pub fn grantable(&self) -> BTreeSet<u32> {
        let kept = self.cores.first_key_value().map(|(_, core)| core.clone()).unwrap_or_default();
        self.cores.keys().copied().filter(|cpu| !kept.contains(cpu)).collect()
    }

    /// Threads of the fullest core.
    #[must_use]
    pub fn threads_per_core(&self) -> usize {
        self.cores.values().map(BTreeSet::len).max().unwrap_or(1)
    }

    /// Chooses CPUs for `request` out of `free` (a part of [`CpuTopology::grantable`]). Whole cores only. A count is taken from one NUMA node
    /// if one has enough, the fullest-fitting first, so that large enclaves still find a node later.
    ///
    /// # Errors
    /// The CPU errors of [`Error`].
    pub fn choose(&self, request: &CpuRequest, free: &BTreeSet<u32>) -> Result<Vec<u32>> {
        match request {
            CpuRequest::Ids(ids) => self.check(ids, free),
            CpuRequest::Count(count) => self.pick(*count, free),
        }
    }

    fn check(&self, ids: &[u32], free: &BTreeSet<u32>) -> Result<Vec<u32>> {
        if ids.is_empty() {
            return Err(Error::NoCpus);
        }
        let mut wanted = BTreeSet::new();
        for &cpu in ids {
            if !wanted.insert(cpu) {
                return Err(Error::CpuTwice { cpu });
            }
        }
        let grantable = self.grantable();
        for &cpu in ids {
            let Some(core) = self.cores.get(&cpu) else {
                return Err(Error::CpuUnavailable { cpu, reason: "it is not online" });
            };
            if !grantable.contains(&cpu) {
                let reason = "its core runs CPU 0, which stays with the parent";
                return Err(Error::CpuUnavailable { cpu, reason });
            }
            if !free.contains(&cpu) {
                let reason = "it is in use by another enclave or not in the pool";
                return Err(Error::CpuUnavailable { cpu, reason });
            }
            if let Some(&sibling) = core.difference(&wanted).next() {
                return Err(Error::PartOfCore { cpu, sibling });
            }
        }
        Ok(ids.to_vec())
    }

    fn pick(&self, count: usize, free: &BTreeSet<u32>) -> Result<Vec<u32>> {
        if count == 0 {
            return Err(Error::NoCpus);
        }
        // Cores that are free as a whole, by node.
        let mut by_node: BTreeMap<u32, Vec<&BTreeSet<u32>>> = BTreeMap::new();
        for (cpu, core) in &self.cores {
            if core.first() == Some(cpu) && core.is_subset(free) {
                let node = self.nodes.get(cpu).copied().unwrap_or(0);
                by_node.entry(node).or_default().push(core);
            }
        }
        let size = |cores: &[&BTreeSet<u32>]| cores.iter().map(|core| core.len()).sum::<usize>();
        let mut nodes: Vec<Vec<&BTreeSet<u32>>> = by_node.into_values().collect();
        nodes.sort_by_key(|cores| size(cores));
        let everything: Vec<&BTreeSet<u32>> = nodes.iter().flatten().copied().collect();
        let available = size(&everything);
        if available < count {
            return Err(Error::CpuCount { wanted: count, available });
        }
        nodes
            .iter()
            .chain([&everything])
            .filter(|cores| size(cores) >= count)
            .find_map(|cores| fill(cores, count))
            .ok_or(Error::NotWholeCores { count, threads: self.threads_per_core() })
    }
}

/// Takes cores in order until `count` CPUs are there exactly.
fn fill(cores: &[&BTreeSet<u32>], count: usize) -> Option<Vec<u32>> {
    let mut chosen = Vec::with_capacity(count);
    for core in cores {
        if chosen.len() + core.len() <= count {
            chosen.extend(core.iter().copied());
        }
    }
    (chosen.len() == count).then_some(chosen)
}

fn node_of(folder: &std::path::Path) -> u32 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("node")?.parse().ok())
        .next()
        .unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod fixture {
    //! A sysfs of any shape in a temporary folder.
    use std::path::Path;

    use super::super::Host;

    /// `cores`: each a list of CPUs and its node.
    pub(crate) fn machine(root: &Path, online: &str, cores: &[(&[u32], u32)]) -> Host {
        let cpu_root = root.join("sys/devices/system/cpu");
        std::fs::create_dir_all(&cpu_root).unwrap();
        std::fs::write(cpu_root.join("online"), format!("{online}\n")).unwrap();
        for (core, node) in cores {
            let list: Vec<String> = core.iter().map(u32::to_string).collect();
            for cpu in *core {
                let folder = cpu_root.join(format!("cpu{cpu}"));
                std::fs::create_dir_all(folder.join("topology")).unwrap();
                std::fs::create_dir_all(folder.join(format!("node{node}"))).unwrap();
                let text = format!("{}\n", list.join(","));
                std::fs::write(folder.join("topology/thread_siblings_list"), text).unwrap();
            }
        }
        Host { sys: root.join("sys"), cgroup: root.join("cgroup"), proc: root.join("proc") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_threads_a_core() -> CpuTopology {
        let folder = tempfile::tempdir().unwrap();
        // Four cores of two threads, numbered as Intel does, two nodes.
        let cores: [(&[u32], u32); 4] = [(&[0, 4], 0), (&[1, 5], 0), (&[2, 6], 1), (&[3, 7], 1)];
        CpuTopology::read(&fixture::machine(folder.path(), "0-7", &cores)).unwrap()
    }

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        assert_eq!(CpuSet::parse("2,3,6-9").unwrap().list(), "2-3,6-9");
        assert_eq!(CpuSet::parse("").unwrap().list(), "");
        assert_eq!(CpuSet::parse("5").unwrap().list(), "5");
        for bad in ["a", "1-", "3-1", "1,,2", "99999", "-1", "1\u{1b}[2J"] {
            let error = CpuSet::parse(bad).unwrap_err();
            assert_eq!(error.code(), 23, "{bad}");
            assert!(!error.to_string().contains('\u{1b}'));
        }
        assert!(matches!(CpuSet::parse("1,1"), Err(Error::CpuTwice { cpu: 1 })));
    }

    #[test]
    fn the_core_of_cpu_0_stays() {
        let topology = two_threads_a_core();
        assert_eq!(topology.grantable(), BTreeSet::from([1, 2, 3, 5, 6, 7]));
        for cpu in [0, 4] {
            let error = topology.choose(&CpuRequest::Ids(vec![cpu]), &topology.grantable());
            assert!(matches!(error, Err(Error::CpuUnavailable { .. })));
        }
    }

    #[test]
    fn counts_are_whole_cores_of_one_node() {
        let topology = two_threads_a_core();
        let free = topology.grantable();
        assert_eq!(topology.choose(&CpuRequest::Count(2), &free).unwrap(), [1, 5]);
        assert_eq!(topology.choose(&CpuRequest::Count(4), &free).unwrap(), [2, 6, 3, 7]);
        assert_eq!(topology.choose(&CpuRequest::Count(6), &free).unwrap().len(), 6);
        let odd = topology.choose(&CpuRequest::Count(3), &free);
        assert!(matches!(odd, Err(Error::NotWholeCores { count: 3, threads: 2 })));
        let many = topology.choose(&CpuRequest::Count(8), &free);
        assert!(matches!(many, Err(Error::CpuCount { wanted: 8, available: 6 })));
        assert!(matches!(topology.choose(&CpuRequest::Count(0), &free), Err(Error::NoCpus)));
    }

    #[test]
    fn a_core_half_taken_is_not_free() {
        let topology = two_threads_a_core();
        let free = BTreeSet::from([1, 2, 6]);
        assert_eq!(topology.choose(&CpuRequest::Count(2), &free).unwrap(), [2, 6]);
        let taken = topology.choose(&CpuRequest::Ids(vec![1, 5]), &free);
        assert!(matches!(taken, Err(Error::CpuUnavailable { cpu: 5, .. })));
        let half = topology.choose(&CpuRequest::Ids(vec![2]), &free);
        assert!(matches!(half, Err(Error::PartOfCore { cpu: 2, sibling: 6 })));
        let twice = topology.choose(&CpuRequest::Ids(vec![2, 6, 2]), &free);
        assert!(matches!(twice, Err(Error::CpuTwice { cpu: 2 })));
    }

    #[test]
    fn without_topology_files_each_cpu_is_a_core() {
        let folder = tempfile::tempdir().unwrap();
        let topology = CpuTopology::read(&fixture::machine(folder.path(), "0-3", &[])).unwrap();
        assert_eq!(topology.grantable(), BTreeSet::from([1, 2, 3]));
        assert_eq!(topology.choose(&CpuRequest::Count(2), &topology.grantable()).unwrap(), [1, 2]);
    }
}
