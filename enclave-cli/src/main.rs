//! `enclave-cli`: build, launch, describe, attest and terminate enclaves. This file only parses the command line, hands it to the
//! module of its command, and turns what comes back into text and an exit code; it is the one place where errors are printed.

#![forbid(unsafe_code)]

mod allocator_commands;
mod arguments;
mod attestation_get;
mod attestation_show;
mod attestation_verify;
mod build_enclave;
mod connect;
mod diagnosis;
mod diagnosis_of_installation;
mod doctor;
mod document_file;
mod enclaves;
mod error_log;
mod error_table;
mod exit_wait;
mod explain;
mod failure;
mod guest_port;
mod image_description;
mod input_file;
mod invocation;
mod machine_commands;
mod memory_size;
mod output;
mod pcr;
mod progress;
mod pump;
mod route;
mod run_enclave;
mod run_request;
mod shell_files;
mod timing;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::arguments::ours::AttestationAction;
use crate::arguments::{Command, CommandLine};
use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Family, Outcome};
use crate::invocation::Invocation;
use crate::route::Route;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let invocation = Invocation::current(&words);
    let plain: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let line = match CommandLine::try_parse_from(&words) {
        Ok(line) => line,
        Err(error) => return parse_failed(&error, &plain),
    };
    let family = line.command.family();
    match run(&line.command, invocation) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => report(&failure, family, &plain, invocation),
    }
}

/// What concerns enclaves asks first where they are; everything else is done here, machine or not.
fn run(command: &Command, invocation: Invocation) -> Outcome<u8> {
    let route = || Route::find(invocation);
    match command {
        Command::BuildEnclave(arguments) => build_enclave::run(arguments),
        Command::DescribeEif(arguments) => image_description::run(arguments),
        Command::Pcr(arguments) => pcr::run(arguments),
        Command::Measure(arguments) => pcr::measure(arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::RunEnclave(arguments) => run_enclave::run(arguments, invocation, &route()?),
        Command::DescribeEnclaves(arguments) => enclaves::describe(arguments, &route()?),
        Command::TerminateEnclave(arguments) => enclaves::terminate(arguments, &route()?),
        Command::Console(arguments) => enclaves::console(arguments, &route()?),
        Command::Connect(arguments) => connect::run(arguments, &route()?),
        Command::Allocator(arguments) => allocator_commands::run(&arguments.action, &route()?),
        Command::Attestation(arguments) => match &arguments.action {
            AttestationAction::Get(arguments) => attestation_get::run(arguments, &route()?),
            AttestationAction::Verify(arguments) => attestation_verify::run(arguments),
            AttestationAction::Show(arguments) => attestation_show::run(arguments),
        },
        Command::Machine(arguments) => machine_commands::run(&arguments.action, invocation),
        Command::Doctor(arguments) => doctor::run(arguments, &route()?),
        Command::Completions(arguments) => shell_files::completions(arguments),
        Command::Man(arguments) => shell_files::manual_pages(arguments),
    }
}

/// Prints a failure, once, and gives its exit code.
fn report(failure: &Failure, family: Family, words: &[String], invocation: Invocation) -> ExitCode {
    let code = ExitCode::from(failure.exit_code(family));
    if failure.is_printed() {
        return code;
    }
    let log =
        (family == Family::Nitro).then(|| error_log::write(failure, words, invocation)).flatten();
    let mut text = failure.render(family, log.as_deref());
    if family == Family::Nitro && std::env::var_os("BACKTRACE").is_some_and(|value| value == "1") {
        text.push_str(&error_log::details(failure, words));
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
    code
}

/// Help and version go to stdout and are no failure. A wrong command line shows clap's own text, which names the option and a usage;
/// nitro-cli's commands put their frame around it and exit with its numbers.
fn parse_failed(error: &clap::Error, words: &[String]) -> ExitCode {
    let number = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        ErrorKind::MissingRequiredArgument => ErrorNumber::MISSING_ARGUMENT,
        ErrorKind::ArgumentConflict => ErrorNumber::CONFLICTING_ARGUMENT,
        ErrorKind::InvalidSubcommand | ErrorKind::MissingSubcommand => ErrorNumber::INVALID_COMMAND,
        _ => ErrorNumber::INVALID_ARGUMENT,
    };
    let family = arguments::family_of_words(words);
    let code = match family {
        Family::Ours => {
            let _ = error.print();
            failure::EXIT_USAGE
        }
        Family::Nitro => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
            let failure = Failure::new(number, text);
            let _ = std::io::stderr().write_all(failure.render(family, None).as_bytes());
            number.exit_code()
        }
    };
    ExitCode::from(code)
}
