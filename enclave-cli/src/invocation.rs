//! How this process was called: under which name, and on which side of a machine. Two variables carry that into the machine, where the
//! program has another name and must not look for a machine of its own.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Set to 1 by a command that sends itself into the machine.
pub(crate) const IN_MACHINE: &str = "ENCLAVE_IN_MACHINE";
/// The name the user called, for the command inside the machine.
pub(crate) const CALLED_AS: &str = "ENCLAVE_CALLED_AS";

const NITRO_CLI: &str = "nitro-cli";

/// How this process was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Invocation {
    /// As `nitro-cli`: its memory rule applies and its error logs are written.
    pub(crate) nitro_cli: bool,
    /// Inside the machine, on behalf of a command outside.
    pub(crate) in_machine: bool,
}

impl Invocation {
    /// For this process, whose words were `words`.
    pub(crate) fn current(words: &[OsString]) -> Self {
        Self::new(words.first().map(OsString::as_os_str), |name| std::env::var_os(name))
    }

    fn new(program: Option<&OsStr>, get: impl Fn(&str) -> Option<OsString>) -> Self {
        let in_machine = get(IN_MACHINE).is_some_and(|value| value == "1");
        let own_name =
            program.and_then(|program| Path::new(program).file_name().map(OsStr::to_owned));
        let name = if in_machine { get(CALLED_AS) } else { own_name };
        Self { nitro_cli: name.is_some_and(|name| name == NITRO_CLI), in_machine }
    }

    /// The variables for the same command inside the machine.
    pub(crate) fn machine_environment(self) -> Vec<(String, String)> {
        let mut variables = vec![(IN_MACHINE.to_owned(), "1".to_owned())];
        if self.nitro_cli {
            variables.push((CALLED_AS.to_owned(), NITRO_CLI.to_owned()));
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(program: &str, variables: &[(&str, &str)]) -> Invocation {
        Invocation::new(Some(OsStr::new(program)), |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_name_decides_on_the_host_and_the_variable_inside() {
        assert!(called("/usr/bin/nitro-cli", &[]).nitro_cli);
        assert!(!called("/usr/bin/enclave-cli", &[(CALLED_AS, "nitro-cli")]).nitro_cli);
        let inside =
            called("/run/p/enclave-cli-abc", &[(IN_MACHINE, "1"), (CALLED_AS, "nitro-cli")]);
        assert!(inside.nitro_cli && inside.in_machine);
        assert!(!called("x", &[(IN_MACHINE, "0")]).in_machine);
    }

    #[test]
    fn the_variables_say_the_same_inside() {
        let outside = called("nitro-cli", &[]);
        let variables = outside.machine_environment();
        let pairs: Vec<(&str, &str)> =
            variables.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let inside = called("enclave-cli-abc", &pairs);
        assert_eq!(inside, Invocation { in_machine: true, ..outside });
    }
}
