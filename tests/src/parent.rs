//! The parent in which the enclaves of a test run, and what a user would type at it.
//!
//! One machine is booted for all tests. QEMU 10.0's emulation of SVM can wedge a nested guest or the whole parent; such a
//! parent is recognised because it answers nothing at all any more, is named by a loud line, and is replaced.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::program::{Finished, TimedOut, run};

/// The longest that one command may take.
const LIMIT: Duration = Duration::from_secs(240);
/// An application may take this long from the heartbeat to listening.
const LISTENING: Duration = Duration::from_secs(60);
/// A parent that does not run `true` within this time is wedged.
const PULSE: Duration = Duration::from_secs(30);

/// `pgrep -f` pattern of keeper, nsm and vmm; the brackets keep it from matching the shell that holds it.
pub const TREE: &str = "[e]nclave-vmm (keeper|nsm|vmm)";

/// A running machine with state folders of its own.
#[derive(Debug)]
pub struct Parent {
    programs: PathBuf,
    folder: tempfile::TempDir,
    free_pages: u64,
    cpus: u32,
}

/// An enclave that `run-enclave` has started.
#[derive(Debug, Clone)]
pub struct Enclave {
    /// `EnclaveID`.
    pub id: String,
    /// All of run-enclave's JSON.
    pub json: Value,
}

impl Parent {
    /// Boots a parent with `programs` (the folder of `enclave-cli`), in folders of its own.
    pub fn start(programs: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("enclave-e2e-").tempdir()?;
        let mut parent = Self { programs: programs.into(), folder, free_pages: 0, cpus: 0 };
        parent.cli(["machine", "start", "--cpus", "4", "--memory", "4096"])?.success()?;
        parent.free_pages = parent.total_pages()?;
        parent.cpus = parent.online_cpus()?;
        Ok(parent)
    }

    /// A folder that is removed with the parent.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `enclave-cli` with this parent's folders.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(self.programs.join("enclave-cli"));
        command
            .args(arguments)
            .env("ENCLAVE_STATE_DIR", self.folder().join("state"))
            .env("ENCLAVE_RUN_DIR", self.folder().join("run"));
        command
    }

    /// Runs `enclave-cli` to its end.
    pub fn cli<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Finished> {
        self.cli_with(arguments, b"")
    }

    /// Runs `enclave-cli` to its end with `input` on its stdin.
    pub fn cli_with<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Result<Finished> {
        run(self.command(arguments), input, LIMIT)
    }

    /// Runs a shell script in the parent, as root, outside of any enclave; its stdout without the last newline.
    pub fn shell(&self, script: &str) -> Result<String> {
        let finished = self.cli(["machine", "exec", "--", "/bin/sh", "-c", script])?.success()?;
        Ok(finished.text().trim_end().into())
    }

    /// Starts an enclave.
    pub fn run_enclave(&self, image: &Path, more: &[&str]) -> Result<Enclave> {
        let json = self.try_run_enclave(image, more)?.success()?.json()?;
        let id = json["EnclaveID"].as_str().context("no EnclaveID")?.to_owned();
        Ok(Enclave { id, json })
    }

    /// Starts an enclave that may not start.
    pub fn try_run_enclave(&self, image: &Path, more: &[&str]) -> Result<Finished> {
        let image = image.to_str().context("image path")?;
        self.cli(["run-enclave", "--eif-path", image].iter().chain(more))
    }

    /// Sends `line` to a guest port and reads all it answers; waits for an application that does not listen yet.
    pub fn ask(&self, enclave: &Enclave, port: u32, line: &str) -> Result<String> {
        let port = port.to_string();
        let end = Instant::now() + LISTENING;
        loop {
            let asked =
                self.cli_with(["connect", "--enclave-id", &enclave.id, &port], line.as_bytes())?;
            if asked.code == 0
                || Instant::now() > end
                || !asked.stderr.contains("nobody in the enclave")
            {
                return Ok(asked.success()?.text());
            }
        }
    }

    /// Ends an enclave.
    pub fn terminate(&self, enclave: &Enclave) -> Result<()> {
        let ended =
            self.cli(["terminate-enclave", "--enclave-id", &enclave.id])?.success()?.json()?;
        ensure!(ended["Terminated"] == true, "not terminated: {ended}");
        Ok(())
    }

    /// What `describe-enclaves` lists.
    pub fn enclaves(&self) -> Result<Vec<Value>> {
        let listed = self.cli(["describe-enclaves"])?.success()?.json()?;
        listed.as_array().cloned().context("describe-enclaves printed no array")
    }

    /// Huge pages in the parent's pool.
    pub fn total_pages(&self) -> Result<u64> {
        self.shell("cat /proc/sys/vm/nr_hugepages")?.parse().context("nr_hugepages")
    }

    /// CPUs that an ordinary process of the parent may run on.
    pub fn online_cpus(&self) -> Result<u32> {
        self.shell("nproc")?.parse().context("nproc")
    }

    /// Checks that nothing is left of any enclave: no process, no cgroup, no socket, every CPU and page back.
    pub fn check_clean(&self) -> Result<()> {
        let enclaves = self.enclaves()?;
        ensure!(enclaves.is_empty(), "enclaves are left: {enclaves:?}");
        let processes = self.shell(&format!("pgrep -af '{TREE}' || true"))?;
        ensure!(processes.is_empty(), "processes are left: {processes}");
        let groups = self.shell("find /sys/fs/cgroup -mindepth 1 -maxdepth 1 -name 'enclave*'")?;
        ensure!(groups.is_empty(), "cgroups are left: {groups}");
        let folders =
            self.shell("find /run/enclave -mindepth 1 -maxdepth 1 -type d 2>/dev/null || true")?;
        ensure!(folders.is_empty(), "run folders are left: {folders}");
        let (pages, cpus) = (self.total_pages()?, self.online_cpus()?);
        ensure!(
            pages == self.free_pages,
            "{pages} huge pages in the pool, {} before",
            self.free_pages
        );
        ensure!(cpus == self.cpus, "{cpus} CPUs for ordinary processes, {} before", self.cpus);
        Ok(())
    }

    /// Ends every enclave, whatever state a failed test has left behind.
    pub fn clean(&self) -> Result<()> {
        self.cli(["terminate-enclave", "--all"])?.success()?;
        Ok(())
    }

    /// Whether the parent still answers at all.
    #[must_use]
    pub fn has_pulse(&self) -> bool {
        let finished = run(self.command(["machine", "exec", "--", "true"]), b"", PULSE);
        finished.is_ok_and(|finished| finished.code == 0)
    }

    /// Stops the parent.
    pub fn stop(&self) -> Result<()> {
        self.cli(["machine", "stop"])?.success()?;
        Ok(())
    }

    /// Whether `error` is the emulator's fault and not ours: a command that never ended, in a parent without a pulse.
    #[must_use]
    pub fn is_wedged(&self, error: &anyhow::Error) -> bool {
        error.downcast_ref::<TimedOut>().is_some() && !self.has_pulse()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("cannot stop the parent: {error:#}");
        }
    }
}

/// The folder of the programs under test: `ENCLAVE_BIN`, else the release folder of this workspace.
pub fn programs() -> Result<PathBuf> {
    let folder = std::env::var_os("ENCLAVE_BIN").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release")),
        PathBuf::from,
    );
    let folder = folder
        .canonicalize()
        .with_context(|| format!("no programs in {}: run `make build`", folder.display()))?;
    if !folder.join("enclave-cli").exists() {
        bail!("no enclave-cli in {}: run `make build`", folder.display());
    }
    Ok(folder)
}
