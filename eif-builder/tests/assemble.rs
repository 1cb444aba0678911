//! The `eif-builder` program as its users meet it: output, messages and exit codes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A folder with the four sections of the format's example, and metadata `{}`.
fn sections() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, data) in
        [("k", "kernel"), ("r1", "ramdisk1"), ("r2", "ramdisk2"), ("m", "{}"), ("bad", "[1]")]
    {
        fs::write(folder.path().join(name), data).unwrap();
    }
    folder
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eif-builder"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("SOURCE_DATE_EPOCH")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

const GOOD: [&str; 13] = [
    "assemble",
    "--kernel",
    "k",
    "--cmdline",
    "cmdline",
    "--ramdisk",
    "r1",
    "--ramdisk",
    "r2",
    "--metadata",
    "m",
    "--output",
    "a.eif",
];

#[test]
fn the_example_comes_out_byte_for_byte() {
    let folder = sections();
    let output = run(folder.path(), &GOOD);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let image = fs::read(folder.path().join("a.eif")).unwrap();
    assert_eq!(image, include_bytes!("../testdata/example.eif"));
    assert_eq!(
        text(&output.stdout),
        "{\n  \"Measurements\": {\n    \"HashAlgorithm\": \"Sha384 { ... }\",\n    \
         \"PCR0\": \"b42aad6f7306d31fcdd5acecf765a6db40523d2a7d8150ed99a7983cf395c2b8d0dfb3217ef2fef5f6baec704c1b16d0\",\n    \
         \"PCR1\": \"ffebd63c5a6729958c397a752ac494ce52b7a5d0703121f4e09105c6cbe82bfdee594a2baae6780e8559d5013120844f\",\n    \
         \"PCR2\": \"7c364ca068df83f436472fb4e895df77b50803fd100676adfbf440e2e2389534aa641a512463e302e1c01c9023526e8c\"\n  }\n}\n"
    );
    assert!(output.stderr.is_empty());
}

#[test]
fn failures_are_one_message_and_leave_nothing() {
    let folder = sections();
    let before = fs::read_dir(folder.path()).unwrap().count();
    let with = |at: usize, value| {
        let mut arguments = GOOD;
        arguments[at] = value;
        let output = run(folder.path(), &arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before);
        text(&output.stderr).to_owned()
    };
    assert_eq!(
        with(2, "gone"),
        "eif-builder: cannot open gone: No such file or directory (os error 2)\n"
    );
    assert!(with(10, "bad").starts_with("eif-builder: --metadata `bad`: "));
    assert!(with(4, "two\nlines").contains("must be one line"));
    assert!(with(12, "gone/a.eif").starts_with("eif-builder: cannot create a file in gone: "));
    assert!(with(6, ".").contains("`.`: it is not a regular file"));
}

#[test]
fn wrong_usage_is_2() {
    let folder = sections();
    assert_eq!(run(folder.path(), &[]).status.code(), Some(2));
    assert_eq!(run(folder.path(), &["assemble", "--kernel", "k"]).status.code(), Some(2));
    assert_eq!(run(folder.path(), &["assemble", "--sign-key", "k"]).status.code(), Some(2));
    assert_eq!(run(folder.path(), &["--help"]).status.code(), Some(0));
}
