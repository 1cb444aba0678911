//! Runs the built program in an environment of its own.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A folder with state of its own, and a way to run the program in it.
#[derive(Debug)]
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file; its path as text.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Ran {
        self.run_program(env!("CARGO_BIN_EXE_enclave-cli"), words)
    }

    /// Through a link with this name, as `nitro-cli` is.
    pub(crate) fn run_as<S: AsRef<OsStr>>(&self, name: &str, words: &[S]) -> Ran {
        let link = self.path().join(name);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_enclave-cli"), &link).unwrap();
        self.run_program(&link, words)
    }

    fn run_program<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, words: &[S]) -> Ran {
        let mut command = Command::new(program);
        for name in [
            "ENCLAVE_BLOBS",
            "NITRO_CLI_BLOBS",
            "ENCLAVE_IN_MACHINE",
            "NITRO_CLI_LOGS_PATH",
            "BACKTRACE",
        ] {
            command.env_remove(name);
        }
        let output = command
            .args(words)
            .env("ENCLAVE_RUN_DIR", self.path().join("run"))
            .env("ENCLAVE_STATE_DIR", self.path().join("state"))
            .env("ENCLAVE_CACHE_DIR", self.path().join("cache"))
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// It failed with this code and one message that holds each of these words; nothing on stdout, and no panic.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:?}");
    }
}
