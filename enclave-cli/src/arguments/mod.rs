//! The command line: one enum of commands, its options in `nitro` (what nitro-cli has, and what we add to it) and `ours`. Values that
//! have an error number of their own (sizes, CPU ids, CIDs) arrive as text and are read where they are used, so that the number,
//! the value and the hint come from one place.

pub(crate) mod nitro;
pub(crate) mod ours;

use clap::{Parser, Subcommand};

use crate::failure::Family;

/// Build, launch, attest and terminate Nitro-style enclaves on plain KVM
///
/// enclave-cli builds an enclave image (EIF), takes dedicated CPUs and memory from this machine, boots the image in its own small
/// virtual machine, and talks to it only over vsock. The commands that nitro-cli has take its options, print its JSON and exit
/// with its error numbers; a link called `nitro-cli` also gives its memory rule.
///
/// On a host whose KVM cannot run guests, `enclave-cli machine start` brings up a parent in which it can; from then on the same commands
/// run there.
#[derive(Debug, Parser)]
#[command(name = "enclave-cli", version, max_term_width = 120)]
#[command(after_long_help = "\
A first tour:
  enclave-cli doctor
  enclave-cli build-enclave --oci-layout ./hello-oci --output-file hello.eif
  enclave-cli run-enclave --eif-path hello.eif --cpu-count 2 --memory 256
  enclave-cli attestation get --enclave-id ID --output hello.doc
  enclave-cli attestation verify --document hello.doc --root local --eif hello.eif
  enclave-cli terminate-enclave --all

nitro-cli's commands exit with its error numbers, which
`enclave-cli explain --error-code E36` explains; the others with 0 (yes, done),
1 (no), 2 (wrong usage) or 3 (could not look).")]
pub(crate) struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    BuildEnclave(nitro::BuildEnclave),
    DescribeEif(nitro::DescribeEif),
    Pcr(nitro::Pcr),
    RunEnclave(nitro::RunEnclave),
    DescribeEnclaves(nitro::DescribeEnclaves),
    Console(nitro::Console),
    TerminateEnclave(nitro::TerminateEnclave),
    Explain(nitro::Explain),
    Measure(ours::Measure),
    Attestation(ours::Attestation),
    Connect(ours::Connect),
    Allocator(ours::Allocator),
    Machine(ours::Machine),
    Doctor(ours::Doctor),
    Completions(ours::Completions),
    Man(ours::Man),
}

impl Command {
    /// Which exit codes it uses.
    pub(crate) fn family(&self) -> Family {
        match self {
            Self::BuildEnclave(_)
            | Self::DescribeEif(_)
            | Self::Pcr(_)
            | Self::RunEnclave(_)
            | Self::DescribeEnclaves(_)
            | Self::Console(_)
            | Self::TerminateEnclave(_)
            | Self::Explain(_) => Family::Nitro,
            Self::Measure(_)
            | Self::Attestation(_)
            | Self::Connect(_)
            | Self::Allocator(_)
            | Self::Machine(_)
            | Self::Doctor(_)
            | Self::Completions(_)
            | Self::Man(_) => Family::Ours,
        }
    }
}

/// The family of a command line that could not be parsed, by its first word that is no option. With no command at all it is ours.
pub(crate) fn family_of_words<S: AsRef<str>>(words: &[S]) -> Family {
    const NITRO: [&str; 8] = [
        "build-enclave",
        "describe-eif",
        "pcr",
        "run-enclave",
        "describe-enclaves",
        "console",
        "terminate-enclave",
        "explain",
    ];
    match words.iter().skip(1).map(AsRef::as_ref).find(|word| !word.starts_with('-')) {
        Some(word) if NITRO.contains(&word) => Family::Nitro,
        _ => Family::Ours,
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[test]
    fn the_surface_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.has_subcommands() {
                for child in command.get_subcommands() {
                    check(child, &path);
                }
            } else if !command.is_hide_set() {
                let help =
                    command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains(path.trim()), "no example of{path} in its long help");
            }
        }
        for command in CommandLine::command().get_subcommands() {
            check(command, "enclave-cli");
        }
    }

    #[test]
    fn words_and_commands_agree_on_the_family() {
        for command in CommandLine::command().get_subcommands() {
            let name = command.get_name();
            let words = ["enclave-cli", name];
            let nitro = family_of_words(&words) == Family::Nitro;
            let in_nitro_module = [
                "build-enclave",
                "describe-eif",
                "pcr",
                "run-enclave",
                "describe-enclaves",
                "console",
                "terminate-enclave",
                "explain",
            ]
            .contains(&name);
            assert_eq!(nitro, in_nitro_module, "{name}");
        }
        let parsed = CommandLine::try_parse_from(["x", "describe-enclaves"]).unwrap();
        assert_eq!(parsed.command.family(), Family::Nitro);
        let parsed = CommandLine::try_parse_from(["x", "doctor"]).unwrap();
        assert_eq!(parsed.command.family(), Family::Ours);
    }

    #[test]
    fn a_config_file_excludes_everything_but_the_console() {
        let run = |words: &[&str]| {
            CommandLine::try_parse_from(["x", "run-enclave"].iter().chain(words))
                .map_err(|error| error.kind())
        };
        assert!(run(&["--config", "f"]).is_ok());
        assert!(run(&["--config", "f", "--attach-console"]).is_ok());
        for other in [
            &["--eif-path", "x"][..],
            &["--memory", "1"],
            &["--cpu-count", "1"],
            &["--cpu-ids", "1"],
            &["--enclave-cid", "9"],
            &["--debug-mode"],
            &["--enclave-name", "n"],
        ] {
            let words: Vec<&str> =
                ["--config", "f"].into_iter().chain(other.iter().copied()).collect();
            assert_eq!(
                run(&words).unwrap_err(),
                clap::error::ErrorKind::ArgumentConflict,
                "{other:?}"
            );
        }
    }

    #[test]
    fn what_run_enclave_needs() {
        use clap::error::ErrorKind::{ArgumentConflict, MissingRequiredArgument};
        let run = |words: &[&str]| {
            CommandLine::try_parse_from(["x", "run-enclave"].iter().chain(words))
                .map(|_| ())
                .map_err(|error| error.kind())
        };
        assert_eq!(run(&[]), Err(MissingRequiredArgument));
        assert_eq!(run(&["--eif-path", "x", "--memory", "1"]), Err(MissingRequiredArgument));
        assert_eq!(run(&["--eif-path", "x", "--cpu-count", "1"]), Err(MissingRequiredArgument));
        assert_eq!(run(&["--memory", "1", "--cpu-count", "1"]), Err(MissingRequiredArgument));
        assert_eq!(
            run(&["--eif-path", "x", "--memory", "1", "--cpu-count", "1", "--cpu-ids", "2"]),
            Err(ArgumentConflict)
        );
        assert_eq!(run(&["--eif-path", "x", "--memory", "1", "--cpu-ids", "2", "3"]), Ok(()));
    }

    #[test]
    fn attestation_verify_needs_one_statement_about_the_image() {
        use clap::error::ErrorKind::{ArgumentConflict, MissingRequiredArgument};
        let verify = |words: &[&str]| {
            let base = ["x", "attestation", "verify", "--document", "d", "--root", "aws"];
            CommandLine::try_parse_from(base.iter().chain(words))
                .map(|_| ())
                .map_err(|error| error.kind())
        };
        assert_eq!(verify(&[]), Err(MissingRequiredArgument));
        assert_eq!(verify(&["--any-image"]), Ok(()));
        assert_eq!(verify(&["--pcr", "0=aa", "--pcr", "1=bb"]), Ok(()));
        assert_eq!(verify(&["--any-image", "--eif", "f"]), Err(ArgumentConflict));
        assert_eq!(verify(&["--pcr", "0=aa", "--any-image"]), Err(ArgumentConflict));
    }
}
