//! What `run-enclave` was asked for, from its options or from its configuration file, checked before anything is touched. The file
//! is nitro-cli's: JSON, with the seven keys of its documentation; a key that is none of them is an error, not a silent no.

use std::path::{Path, PathBuf};

use enclave_vmm::resources::cpu_topology::{CpuRequest, CpuSet};
use guest_abi::Cid;
use serde::Deserialize;

use crate::arguments::nitro::RunEnclave;
use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};
use crate::memory_size::MemoryMib;

/// A request that is right in itself; whether it can be met is found out later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunRequest {
    pub(crate) eif_path: PathBuf,
    pub(crate) memory: MemoryMib,
    /// At least one, none twice.
    pub(crate) cpus: CpuRequest,
    /// `None`: one is chosen.
    pub(crate) cid: Option<Cid>,
    /// `None`: made from the image's file name.
    pub(crate) name: Option<String>,
    pub(crate) debug: bool,
    pub(crate) attach_console: bool,
}

/// The configuration file, at most this long.
const MAX_CONFIG: u64 = 64 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    enclave_name: Option<String>,
    cpu_count: Option<usize>,
    cpu_ids: Option<Vec<u32>>,
    memory_mib: u64,
    eif_path: PathBuf,
    enclave_cid: Option<u64>,
    debug_mode: Option<bool>,
    attach_console: Option<bool>,
}

impl RunRequest {
    /// Reads the options; clap has already seen that the mandatory ones are there.
    pub(crate) fn from_arguments(arguments: &RunEnclave) -> Outcome<Self> {
        if let Some(path) = &arguments.config {
            let mut request = Self::from_file(path)?;
            request.attach_console |= arguments.attach_console;
            request.debug |= request.attach_console;
            return Ok(request);
        }
        let (Some(eif_path), Some(memory)) = (&arguments.eif_path, &arguments.memory) else {
            return Err(Failure::new(
                ErrorNumber::MISSING_ARGUMENT,
                "--eif-path and --memory are needed",
            ));
        };
        let cpus = match &arguments.cpu_count {
            Some(count) => CpuRequest::Count(count.parse().map_err(|_| {
                Failure::new(
                    ErrorNumber::INTEGER_PARSING,
                    format!("CPU count {count:?} is not a whole number"),
                )
            })?),
            None => cpu_ids(&arguments.cpu_ids)?,
        };
        let cid = match &arguments.enclave_cid {
            None => None,
            Some(text) => chosen_cid(text.parse().map_err(|_| {
                Failure::new(
                    ErrorNumber::INVALID_ARGUMENT,
                    format!("enclave CID {text:?} is not a whole number"),
                )
            })?)?,
        };
        Self {
            eif_path: eif_path.clone(),
            memory: memory.parse()?,
            cpus,
            cid,
            name: arguments.enclave_name.clone(),
            debug: arguments.debug_mode || arguments.attach_console,
            attach_console: arguments.attach_console,
        }
        .checked()
    }

    fn from_file(path: &Path) -> Outcome<Self> {
        let text = crate::input_file::read_text(path, MAX_CONFIG)?;
        Self::from_json(&text).map_err(|failure| failure.in_file(path))
    }

    fn from_json(text: &str) -> Outcome<Self> {
        let file: ConfigFile = serde_json::from_str(text).map_err(|error| {
            Failure::new(ErrorNumber::SERDE, "not a configuration for run-enclave")
                .because(error)
                .hint(
                    "eif_path, memory_mib and one of cpu_count and cpu_ids are mandatory; \
                 enclave_name, enclave_cid, debug_mode and attach_console are optional",
                )
        })?;
        let cpus = match (file.cpu_count, file.cpu_ids) {
            (Some(count), None) => CpuRequest::Count(count),
            (None, Some(ids)) => cpu_ids(&ids.iter().map(u32::to_string).collect::<Vec<_>>())?,
            (Some(_), Some(_)) => {
                return Err(Failure::new(
                    ErrorNumber::CONFLICTING_ARGUMENT,
                    "cpu_count and cpu_ids are both given",
                )
                .hint("keep one of the two"));
            }
            (None, None) => {
                return Err(Failure::new(
                    ErrorNumber::MISSING_ARGUMENT,
                    "neither cpu_count nor cpu_ids is given",
                ));
            }
        };
        let attach_console = file.attach_console.unwrap_or(false);
        Self {
            eif_path: file.eif_path,
            memory: MemoryMib::new(file.memory_mib)?,
            cpus,
            cid: file.enclave_cid.map(chosen_cid).transpose()?.flatten(),
            name: file.enclave_name,
            debug: file.debug_mode.unwrap_or(false) || attach_console,
            attach_console,
        }
        .checked()
    }

    /// The rules that hold whichever way the request came.
    fn checked(self) -> Outcome<Self> {
        match &self.cpus {
            CpuRequest::Count(0) => {
                return Err(Failure::new(ErrorNumber::INVALID_ARGUMENT, "an enclave with 0 CPUs")
                    .hint("give --cpu-count 1 or more"));
            }
            CpuRequest::Ids(ids) if ids.is_empty() => {
                return Err(Failure::new(
                    ErrorNumber::INVALID_ARGUMENT,
                    "the list of CPU ids is empty",
                ));
            }
            _ => {}
        }
        Ok(self)
    }
}

/// Ids one by one, or as lists and ranges.
fn cpu_ids(words: &[String]) -> Outcome<CpuRequest> {
    Ok(CpuRequest::Ids(CpuSet::parse(&words.join(","))?.0.into_iter().collect()))
}

/// 0 means "choose one", as on Nitro.
fn chosen_cid(number: u64) -> Outcome<Option<Cid>> {
    if number == 0 {
        return Ok(None);
    }
    Cid::try_from(number).map(Some).map_err(|error| {
        let hint = error.hint();
        Failure::new(ErrorNumber::INVALID_ARGUMENT, "an enclave cannot have this address")
            .because(error)
            .maybe_hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::{Command, CommandLine};

    fn request(words: &[&str]) -> Outcome<RunRequest> {
        let line = CommandLine::try_parse_from(["x", "run-enclave"].iter().chain(words)).unwrap();
        let Command::RunEnclave(arguments) = line.command else { panic!("another command") };
        RunRequest::from_arguments(&arguments)
    }

    const BASE: [&str; 4] = ["--eif-path", "dir/hello.eif", "--memory", "1g"];

    fn with(words: &[&str]) -> Outcome<RunRequest> {
        request(&BASE.iter().chain(words).copied().collect::<Vec<_>>())
    }

    #[test]
    fn options_become_a_request() {
        let request =
            with(&["--cpu-ids", "2", "3", "--enclave-cid", "16", "--attach-console"]).unwrap();
        assert_eq!(request.memory.mib(), 1024);
        assert_eq!(request.cpus, CpuRequest::Ids(vec![2, 3]));
        assert_eq!(request.cid, Some(Cid::new(16).unwrap()));
        assert!(request.debug && request.attach_console);
        assert_eq!(with(&["--cpu-count", "2", "--enclave-cid", "0"]).unwrap().cid, None);
    }

    #[test]
    fn wrong_values_have_their_numbers() {
        for (words, number) in [
            (&["--cpu-count", "two"][..], ErrorNumber::INTEGER_PARSING),
            (&["--cpu-count", "0"], ErrorNumber::INVALID_ARGUMENT),
            (&["--cpu-ids", "x"], ErrorNumber::MALFORMED_CPU_ID),
            (&["--cpu-ids", "1", "1"], ErrorNumber::INVALID_CPU_CONFIGURATION),
            (&["--cpu-count", "1", "--enclave-cid", "3"], ErrorNumber::INVALID_ARGUMENT),
            (&["--cpu-count", "1", "--enclave-cid", "4294967295"], ErrorNumber::INVALID_ARGUMENT),
            (&["--cpu-count", "1", "--enclave-cid", "4294967296"], ErrorNumber::INVALID_ARGUMENT),
            (&["--cpu-count", "1", "--enclave-cid", "ten"], ErrorNumber::INVALID_ARGUMENT),
        ] {
            assert_eq!(with(words).unwrap_err().number(), number, "{words:?}");
        }
    }

    #[test]
    fn the_configuration_file_is_nitro_clis() {
        let request = RunRequest::from_json(
            r#"{"enclave_name":"e","cpu_count":2,"memory_mib":512,"eif_path":"/x.eif","enclave_cid":16,"debug_mode":true}"#,
        )
        .unwrap();
        assert_eq!(request.cpus, CpuRequest::Count(2));
        assert!(request.debug && !request.attach_console);
        for (text, number) in [
            ("{", ErrorNumber::SERDE),
            (r#"{"memory_mib":512,"cpu_count":2}"#, ErrorNumber::SERDE),
            (r#"{"memory_mib":512,"eif_path":"x"}"#, ErrorNumber::MISSING_ARGUMENT),
            (
                r#"{"memory_mib":512,"eif_path":"x","cpu_count":1,"cpu_ids":[2]}"#,
                ErrorNumber::CONFLICTING_ARGUMENT,
            ),
            (r#"{"memory_mib":512,"eif_path":"x","cpu_ids":[]}"#, ErrorNumber::INVALID_ARGUMENT),
            (
                r#"{"memory_mib":512,"eif_path":"x","cpu_ids":[2,2]}"#,
                ErrorNumber::INVALID_CPU_CONFIGURATION,
            ),
            (r#"{"memory_mib":0,"eif_path":"x","cpu_count":1}"#, ErrorNumber::INVALID_ARGUMENT),
            (
                r#"{"memory_mib":512,"eif_path":"x","cpu_count":1,"enclave_cid":2}"#,
                ErrorNumber::INVALID_ARGUMENT,
            ),
            (r#"{"memory_mib":512,"eif_path":"x","cpu_count":1,"cpus":2}"#, ErrorNumber::SERDE),
        ] {
            assert_eq!(RunRequest::from_json(text).unwrap_err().number(), number, "{text}");
        }
    }
}
