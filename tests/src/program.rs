//! Runs a program to its end under a time limit, so that a wedged parent becomes a named failure and not a hung run.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How a program ended and what it said.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The exit code; 128 + n when signal n ended it.
    pub code: i32,
    /// All of stdout.
    pub stdout: Vec<u8>,
    /// All of stderr.
    pub stderr: String,
    /// What was run, for messages.
    pub line: String,
}

/// The program did not end in time; it was killed.
#[derive(Debug, thiserror::Error)]
#[error("no end within {limit:?}: {line}\n{stderr}")]
pub struct TimedOut {
    /// What was run.
    pub line: String,
    /// The limit it had.
    pub limit: Duration,
    /// What it had said by then.
    pub stderr: String,
}

impl Finished {
    /// Stdout as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Stdout as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.stdout)
            .with_context(|| format!("not JSON from {}: {}", self.line, self.text()))
    }

    /// This, or an error with all it said where the exit code is another than 0.
    pub fn success(self) -> Result<Self> {
        if self.code == 0 {
            Ok(self)
        } else {
            Err(anyhow!("exit code {}: {}\n{}{}", self.code, self.line, self.text(), self.stderr))
        }
    }

    /// Checks that it failed with `code` and that stderr names everything in `words`, in one message that is not a panic.
    pub fn refused(self, code: i32, words: &[&str]) -> Result<Self> {
        let stderr = &self.stderr;
        if self.code != code {
            bail!(
                "exit code {} in place of {code}: {}\n{}{stderr}",
                self.code,
                self.line,
                self.text()
            );
        }
        for word in words {
            if !stderr.contains(word) {
                bail!("the message does not name `{word}`: {}\n{stderr}", self.line);
            }
        }
        if stderr.contains("panicked") {
            bail!("a panic: {}\n{stderr}", self.line);
        }
        Ok(self)
    }
}

/// Runs `command` with `input` on its stdin, for at most `limit`.
pub fn run(mut command: Command, input: &[u8], limit: Duration) -> Result<Finished> {
    let line = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {line}"))?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let input = input.to_vec();
    // A program that ends without reading its input closes the pipe: that is its right.
    let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = drain(child.stdout.take().context("no stdout")?);
    let stderr = drain(child.stderr.take().context("no stderr")?);
    let in_time = wait(&mut child, limit)?;
    if in_time.is_none() {
        child.kill()?;
        child.wait()?;
        // Grandchildren may still hold the pipes: take what has come, do not wait for more.
        let said = if stderr.is_finished() { text(stderr)? } else { String::new() };
        return Err(TimedOut { line, limit, stderr: said }.into());
    }
    let code = in_time.unwrap_or(-1);
    drop(feeder);
    let stdout = stdout.join().map_err(|_| anyhow!("stdout reader died"))??;
    Ok(Finished { code, stdout, stderr: text(stderr)?, line })
}

/// Waits for `child` for at most `limit`; `None` when it is still running then.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<i32>> {
    use std::os::unix::process::ExitStatusExt;
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))));
        }
        if Instant::now() > end {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Sends `signal` to a child.
pub fn signal(child: &Child, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(child.id())?), signal).context("kill")
}

type Drained = thread::JoinHandle<std::io::Result<Vec<u8>>>;

fn drain(mut from: impl Read + Send + 'static) -> Drained {
    thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all)?;
        Ok(all)
    })
}

fn text(reader: Drained) -> Result<String> {
    let bytes = reader.join().map_err(|_| anyhow!("stderr reader died"))??;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
