//! `allocator apply|status|release`: the pool of CPUs and huge pages that enclaves take from.

use std::path::Path;

use enclave_vmm::paths::Paths;
use enclave_vmm::resources::allocator_file::PoolRequest;
use enclave_vmm::resources::cpu_topology::{CpuRequest, CpuSet};

use crate::arguments::ours::{AllocatorAction, AllocatorApply};
use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};
use crate::memory_size::MemoryMib;
use crate::progress::line;
use crate::route::Route;
use crate::{enclaves, output};

/// Where nitro-cli's allocator has its file.
const DEFAULT_FILE: &str = "/etc/nitro_enclaves/allocator.yaml";

/// Carries one of them out; each prints the pool as it is then.
pub(crate) fn run(action: &AllocatorAction, route: &Route) -> Outcome<u8> {
    // The file is the host's, so it is read here and sent on as options.
    let request = match action {
        AllocatorAction::Apply(arguments) => Some(request(arguments)?),
        AllocatorAction::Status(_) | AllocatorAction::Release(_) => None,
    };
    if let Some(machine) = route.machine() {
        let mut words = vec!["allocator".to_owned()];
        match action {
            AllocatorAction::Apply(_) => {
                words.push("apply".to_owned());
                words.extend(request.iter().flat_map(to_words));
            }
            AllocatorAction::Status(_) => words.push("status".to_owned()),
            AllocatorAction::Release(_) => words.push("release".to_owned()),
        }
        return machine.run(&words);
    }
    let ledger = enclaves::ledger(&Paths::current());
    let open = ledger.open()?;
    if let Some(request) = &request {
        let pool = open.apply_pool(request)?;
        let cpus = CpuSet(pool.cpus.iter().copied().collect()).list();
        line(&format!(
            "Set aside {} MiB and CPUs {cpus} for enclaves.",
            pool.pages * enclave_vmm::resources::huge_pages::PAGE_MIB
        ));
    } else if matches!(action, AllocatorAction::Release(_)) {
        open.release_pool()?;
        line("Gave the pool back to this machine.");
    }
    output::json(&open.pool_status()?)?;
    Ok(0)
}

/// Reads the options, or the file they name; with none at all, nitro-cli's file.
fn request(arguments: &AllocatorApply) -> Outcome<PoolRequest> {
    let AllocatorApply { memory_mib, cpu_count, cpu_pool, config } = arguments;
    if let Some(path) = config {
        return Ok(PoolRequest::read(path)?);
    }
    let Some(memory) = memory_mib else {
        return Ok(PoolRequest::read(Path::new(DEFAULT_FILE))?);
    };
    let memory_mib = memory.parse::<MemoryMib>()?.mib();
    let cpus = match (cpu_count, cpu_pool) {
        (Some(count), _) => CpuRequest::Count(count.parse().map_err(|_| {
            Failure::new(
                ErrorNumber::INTEGER_PARSING,
                format!("CPU count {count:?} is not a whole number"),
            )
        })?),
        (None, Some(list)) => CpuRequest::Ids(CpuSet::parse(list)?.0.into_iter().collect()),
        (None, None) => {
            return Err(Failure::new(
                ErrorNumber::MISSING_ARGUMENT,
                "--cpu-count or --cpu-pool is needed",
            ));
        }
    };
    Ok(PoolRequest { memory_mib, cpus })
}

/// The same request as options.
fn to_words(request: &PoolRequest) -> Vec<String> {
    let (option, value) = match &request.cpus {
        CpuRequest::Count(count) => ("--cpu-count", count.to_string()),
        CpuRequest::Ids(ids) => ("--cpu-pool", CpuSet(ids.iter().copied().collect()).list()),
    };
    vec!["--memory-mib".to_owned(), request.memory_mib.to_string(), option.to_owned(), value]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::ours::Allocator;
    use crate::arguments::{Command, CommandLine};

    fn parsed(words: &[&str]) -> Outcome<PoolRequest> {
        let line =
            CommandLine::try_parse_from(["x", "allocator", "apply"].iter().chain(words)).unwrap();
        match line.command {
            Command::Allocator(Allocator { action: AllocatorAction::Apply(arguments) }) => {
                request(&arguments)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_and_words_are_the_same_request() {
        for words in [
            ["--memory-mib", "512", "--cpu-count", "2"],
            ["--memory-mib", "64", "--cpu-pool", "2-3,6"],
        ] {
            assert_eq!(to_words(&parsed(&words).unwrap()), words);
        }
    }

    #[test]
    fn a_file_is_read_and_sent_as_options() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("allocator.yaml");
        std::fs::write(&path, "---\n# comment\nmemory_mib: 512\ncpu_pool: \"2,3,6-7\"\n").unwrap();
        let request = parsed(&["--config", path.to_str().unwrap()]).unwrap();
        assert_eq!(to_words(&request), ["--memory-mib", "512", "--cpu-pool", "2-3,6-7"]);
    }

    #[test]
    fn wrong_values_have_their_numbers() {
        for (words, number) in [
            (&["--memory-mib", "lots", "--cpu-count", "1"][..], ErrorNumber::INTEGER_PARSING),
            (&["--memory-mib", "0", "--cpu-count", "1"], ErrorNumber::INVALID_ARGUMENT),
            (&["--memory-mib", "64", "--cpu-count", "two"], ErrorNumber::INTEGER_PARSING),
            (&["--memory-mib", "64", "--cpu-pool", "3-2"], ErrorNumber::MALFORMED_CPU_ID),
            (&["--memory-mib", "64", "--cpu-pool", "2,2"], ErrorNumber::INVALID_CPU_CONFIGURATION),
            (&["--config", "/nonexistent"], ErrorNumber::READ_FROM_DISK),
        ] {
            assert_eq!(parsed(words).unwrap_err().number(), number, "{words:?}");
        }
    }
}
