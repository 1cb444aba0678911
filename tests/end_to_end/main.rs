//! End-to-end tests: one parent boots once, and every test that needs enclaves runs in it.
//!
//! `cargo test -p tests [NAME…]` runs those whose name contains one of the words. A test leaves nothing behind: after
//! each one the parent must be as it was, or that test has failed.

#![expect(clippy::print_stderr, reason = "a test runner's output")]

mod attestation;
mod bad_input;
mod images;
mod isolation;
mod lifecycle;
mod reproducible;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use tests::parent::{Parent, programs};

use images::Images;

/// What a test gets to work with.
struct Scene<'a> {
    parent: &'a Parent,
    images: &'a Images,
}

type Test = (&'static str, fn(&Scene<'_>) -> Result<()>);

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("end-to-end tests cannot run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let tests: Vec<Test> = [
        lifecycle::TESTS,
        isolation::TESTS,
        attestation::TESTS,
        bad_input::TESTS,
        reproducible::TESTS,
    ]
    .concat()
    .into_iter()
    .filter(|(name, _)| words.is_empty() || words.iter().any(|word| name.contains(word.as_str())))
    .collect();
    if std::env::args().any(|argument| argument == "--list") {
        for (name, _) in &tests {
            println!("{name}: test");
        }
        return Ok(true);
    }
    println!("\nrunning {} tests", tests.len());
    let programs = programs()?;
    let boot = Instant::now();
    let mut parent = Parent::start(&programs).context("the parent does not boot")?;
    println!("parent up in {:.1} s", boot.elapsed().as_secs_f32());
    let images = Images::build(&parent, &programs)?;

    let (mut failed, mut wedges) = (Vec::new(), 0);
    for (name, test) in &tests {
        let mut outcome = attempt(*test, &parent, &images);
        if outcome.as_ref().is_err_and(|error| parent.is_wedged(error)) {
            wedges += 1;
            eprintln!(
                "WEDGED PARENT (a known fault of the emulator, not of this project) in {name}; starting a fresh one"
            );
            drop(parent);
            parent = Parent::start(&programs)?;
            outcome = attempt(*test, &parent, &images);
        }
        match outcome {
            Ok(seconds) => println!("test {name} ... ok ({seconds:.1} s)"),
            Err(error) => {
                println!("test {name} ... FAILED");
                eprintln!("---- {name} ----\n{error:#}\n");
                failed.push(*name);
                // What a failed test leaves behind must not fail the next one.
                if let Err(error) = parent.clean() {
                    eprintln!("cannot clean up after {name}: {error:#}; starting a fresh parent");
                    drop(parent);
                    parent = Parent::start(&programs)?;
                }
            }
        }
    }
    if wedges > 1 {
        eprintln!(
            "{wedges} wedged parents in one run: more than the emulator's known fault explains"
        );
        failed.push("more than one wedged parent");
    }
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {} passed; {} failed; 0 ignored; 0 measured",
        tests.len().saturating_sub(failed.len()),
        failed.len()
    );
    for name in &failed {
        println!("    {name}");
    }
    Ok(failed.is_empty())
}

/// Runs one test and checks that it left nothing behind; the seconds it took.
fn attempt(test: fn(&Scene<'_>) -> Result<()>, parent: &Parent, images: &Images) -> Result<f32> {
    let start = Instant::now();
    test(&Scene { parent, images })?;
    parent.check_clean().context("the test passed but left something behind")?;
    Ok(start.elapsed().as_secs_f32())
}
