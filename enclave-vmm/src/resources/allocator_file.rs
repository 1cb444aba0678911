//! AWS's `/etc/nitro_enclaves/allocator.yaml`: three keys with plain values, of which a pool takes `memory_mib` and one of
//! `cpu_count` and `cpu_pool`. Only that shape is read; a YAML parser would be a large thing to trust with three lines.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::cpu_topology::{CpuRequest, CpuSet};
use crate::error::{Error, Result};

/// Largest file read, bytes.
const MAX_FILE: u64 = 64 * 1024;

/// What a pool is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRequest {
    /// Memory, MiB; rounded up to whole huge pages.
    pub memory_mib: u64,
    /// Its CPUs.
    pub cpus: CpuRequest,
}

impl PoolRequest {
    /// Reads such a file.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::AllocatorFile`].
    pub fn read(path: &Path) -> Result<Self> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
            .map_err(Error::file("read", path))?;
        Self::parse(&text, path)
    }

    /// Reads such a text; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::AllocatorFile`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let mut memory_mib = None;
        let mut cpus = None;
        let mut last_line = 1;
        for (index, raw) in text.lines().enumerate() {
            let line = index + 1;
            last_line = line;
            let bad = |reason: String| Error::AllocatorFile { path: path.to_owned(), line, reason };
            let content = without_comment(raw).trim();
            if content.is_empty() || content == "---" {
                continue;
            }
            let Some((key, value)) = content.split_once(':') else {
                return Err(bad(format!("'{}' is no 'key: value'", content.escape_debug())));
            };
            let value = value.trim().trim_matches(['"', '\'']);
            let number = || {
                value.parse::<u64>().map_err(|_| {
                    bad(format!("'{}' is no number for {}", value.escape_debug(), key.trim()))
                })
            };
            match key.trim() {
                "memory_mib" if memory_mib.is_none() => memory_mib = Some(number()?),
                "cpu_count" | "cpu_pool" if cpus.is_some() => {
                    return Err(bad("cpu_count and cpu_pool exclude each other".to_owned()));
                }
                "cpu_count" => {
                    let count = usize::try_from(number()?).unwrap_or(usize::MAX);
                    cpus = Some(CpuRequest::Count(count));
                }
                "cpu_pool" => {
                    let set = CpuSet::parse(value).map_err(|error| bad(error.to_string()))?;
                    cpus = Some(CpuRequest::Ids(set.0.into_iter().collect()));
                }
                "memory_mib" => return Err(bad("memory_mib is there twice".to_owned())),
                other => {
                    return Err(bad(format!("'{}' is not known", other.escape_debug())));
                }
            }
        }
        let missing = |key: &str| Error::AllocatorFile {
            path: path.to_owned(),
            line: last_line,
            reason: format!("{key} is missing"),
        };
        Ok(Self {
            memory_mib: memory_mib.ok_or_else(|| missing("memory_mib"))?,
            cpus: cpus.ok_or_else(|| missing("cpu_count or cpu_pool"))?,
        })
    }
}

fn without_comment(line: &str) -> &str {
    line.split_once('#').map_or(line, |(before, _)| before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PoolRequest> {
        PoolRequest::parse(text, Path::new("allocator.yaml"))
    }

    #[test]
    fn the_file_amazon_ships() {
        let text = "---\n# Enclave configuration file.\n#\n# How much memory to allocate for enclaves (in MiB).\n\
            memory_mib: 512\n#\n# How many CPUs to reserve for enclaves.\ncpu_count: 2\n#\n# cpu_pool: 2,3,6-9\n";
        let request = parse(text).unwrap();
        assert_eq!(request, PoolRequest { memory_mib: 512, cpus: CpuRequest::Count(2) });
    }

    #[test]
    fn a_pool_by_list() {
        let request = parse("memory_mib: 64\ncpu_pool: \"2,3,6-7\"\n").unwrap();
        assert_eq!(request.cpus, CpuRequest::Ids(vec![2, 3, 6, 7]));
    }

    #[test]
    fn mistakes_name_the_line() {
        for (text, line) in [
            ("memory_mib: many\ncpu_count: 1", 1),
            ("memory_mib: 1\ncpu_count: 1\ncpu_pool: 1", 3),
            ("memory_mib: 1\nmemory_mib: 1\ncpu_count: 1", 2),
            ("memory_mib: 1\ncpus: 2", 2),
            ("memory_mib 1", 1),
            ("memory_mib: 1", 1),
            ("cpu_pool: 3-1", 1),
        ] {
            match parse(text).unwrap_err() {
                Error::AllocatorFile { line: found, .. } => assert_eq!(found, line, "{text}"),
                other => panic!("{other}"),
            }
        }
    }
}
