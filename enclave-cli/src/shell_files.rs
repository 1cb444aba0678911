//! Completions and manual pages, generated from the command line's own definition so that they cannot lag behind it.

use clap::CommandFactory;

use crate::arguments::CommandLine;
use crate::arguments::ours::{Completions, Man};
use crate::failure::{Failure, Outcome};

/// Writes the completions of one shell to stdout.
pub(crate) fn completions(arguments: &Completions) -> Outcome<u8> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut CommandLine::command(),
        "enclave-cli",
        &mut script,
    );
    crate::output::write(&script)?;
    Ok(0)
}

/// Writes `enclave-cli.1` and one page for each command into a folder.
pub(crate) fn manual_pages(arguments: &Man) -> Outcome<u8> {
    let folder = &arguments.folder;
    std::fs::create_dir_all(folder).map_err(|error| Failure::file("make folder", folder, error))?;
    clap_mangen::generate_to(CommandLine::command(), folder)
        .map_err(|error| Failure::file("write manual pages into", folder, error))?;
    Ok(0)
}
