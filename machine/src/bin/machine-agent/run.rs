//! Running a command for the host: one loop over the port, the command's standard streams and its
//! end. Buffers are bounded both ways: input by the credit the host was given, output by not reading
//! from the command while the port is full.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use machine::channel::frame::{Decoder, Kind};
use machine::channel::request::{Run, TerminalSize};
use machine::channel::{INPUT_WINDOW, MAX_PAYLOAD};

use crate::port::{Port, SessionEnd, is_transient};
use crate::spawn;

/// The command's output is not read while this much waits for the port.
const OUTPUT_LIMIT: usize = 2 * MAX_PAYLOAD;
/// Pipes are made this large: fewer switches between the command and this loop.
const PIPE_SIZE: i32 = 256 * 1024;
/// How long a command whose host has gone gets after SIGHUP before SIGKILL.
const HANGUP_GRACE: Duration = Duration::from_secs(2);
/// What a command finds in its environment besides what the host gives.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LANG", "C.UTF-8"),
];

/// The shell's exit codes for a command that cannot be started.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// A started command and this side of its streams.
struct Running {
    child: Child,
    group: Pid,
    ended: OwnedFd,
    /// The terminal, when it has one: then `stdin` and `stdout` are copies of it.
    terminal: Option<OwnedFd>,
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
    input: Vec<u8>,
    written: usize,
    input_ended: bool,
}

/// Serves one `run` session to its end.
pub(crate) fn run(port: &mut Port, decoder: &mut Decoder, run: &Run) -> Result<(), SessionEnd> {
    let mut running = match start(run) {
        Ok(running) => running,
        Err(Refusal::Text(reason)) => return port.fail(&reason),
        Err(Refusal::Start(error)) => return report_start(port, run, &error),
    };
    let result = running.serve(port, decoder);
    match result {
        Ok(status) => report_end(port, status),
        Err(end) => {
            running.end();
            Err(end)
        }
    }
}

enum Refusal {
    /// The request cannot be met.
    Text(String),
    /// The program cannot be started.
    Start(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Text(format!("cannot prepare the command's streams: {error}"))
    }
}

fn start(run: &Run) -> Result<Running, Refusal> {
    let Some((program, arguments)) = run.argv.split_first() else {
        return Err(Refusal::Text("no command given".to_owned()));
    };
    let folder = run.cwd.as_deref().map_or(Path::new("/"), Path::new);
    if !folder.is_dir() {
        return Err(Refusal::Text(format!("{} is not a folder in the parent", folder.display())));
    }
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env_clear();
    command.envs(ENVIRONMENT).envs(run.env.iter().map(|(name, value)| (name, value)));
    let mut terminal = None;
    if let Some(TerminalSize { rows, columns }) = run.terminal {
        let pair = nix::pty::openpty(None, None).map_err(io::Error::from)?;
        spawn::resize(&pair.master, rows, columns)?;
        command.stdin(pair.slave.try_clone()?).stdout(pair.slave.try_clone()?).stderr(pair.slave);
        close_on_exec(&pair.master)?;
        terminal = Some(pair.master);
    } else {
        command.stdin(if run.input { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    let mut child = start_when_free(&mut command, terminal.is_some()).map_err(Refusal::Start)?;
    // Gives this process's copies of the terminal's other side back.
    drop(command);
    let ended = spawn::watch(&child)?;
    let group = Pid::from_raw(child.id().cast_signed());
    let [stdin, stdout, stderr] = match &terminal {
        Some(terminal) => {
            let copy = || terminal.try_clone().map(|side| Some(File::from(side)));
            [copy()?, copy()?, None]
        }
        None => [
            child.stdin.take().map(|side| File::from(OwnedFd::from(side))),
            child.stdout.take().map(|side| File::from(OwnedFd::from(side))),
            child.stderr.take().map(|side| File::from(OwnedFd::from(side))),
        ],
    };
    for side in [&stdin, &stdout, &stderr].into_iter().flatten() {
        // Terminals have no pipe size; the default serves as well.
        let _ = fcntl(side, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
        fcntl(side, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
    }
    Ok(Running {
        child,
        group,
        ended,
        terminal,
        stdin,
        stdout,
        stderr,
        input: Vec::new(),
        written: 0,
        input_ended: false,
    })
}

fn close_on_exec(descriptor: &OwnedFd) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// A program just put here can be "busy" for the moment another port's fork holds a copy of the
/// descriptor it was written through.
fn start_when_free(command: &mut Command, terminal: bool) -> io::Result<Child> {
    let mut attempts = 0;
    loop {
        match spawn::spawn_in_session(command, terminal) {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && attempts < 50 => {
                attempts += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

fn report_start(port: &mut Port, run: &Run, error: &io::Error) -> Result<(), SessionEnd> {
    let code = match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    };
    let mut text = run.argv.first().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
    text.extend_from_slice(format!(": {error}\n").as_bytes());
    port.queue(Kind::ErrorOutput, &text);
    port.send(Kind::Exit, &[0, code])
}

fn report_end(port: &mut Port, status: ExitStatus) -> Result<(), SessionEnd> {
    // Both are 8-bit values in a wait status.
    let payload = match (status.code(), status.signal()) {
        (Some(code), _) => [0, u8::try_from(code).unwrap_or(u8::MAX)],
        (None, signal) => [1, u8::try_from(signal.unwrap_or(0)).unwrap_or(u8::MAX)],
    };
    port.send(Kind::Exit, &payload)
}

impl Running {
    fn serve(&mut self, port: &mut Port, decoder: &mut Decoder) -> Result<ExitStatus, SessionEnd> {
        let mut buffer = vec![0; MAX_PAYLOAD];
        self.take_frames(port, decoder)?;
        loop {
            let ready = self.wait(port)?;
            if ready.host.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) {
                port.fill(decoder)?;
                self.take_frames(port, decoder)?;
            }
            port.write_pending()?;
            self.write_input(port);
            let room = port.pending() < OUTPUT_LIMIT;
            if room && ready.stdout {
                pass_output(port, &mut self.stdout, Kind::Output, &mut buffer)?;
            }
            if room && ready.stderr {
                pass_output(port, &mut self.stderr, Kind::ErrorOutput, &mut buffer)?;
            }
            if ready.ended {
                return self.drain(port, decoder, &mut buffer);
            }
        }
    }

    fn wait(&self, port: &Port) -> Result<Ready, SessionEnd> {
        let room = port.pending() < OUTPUT_LIMIT;
        let mut host = PollFlags::POLLIN;
        host.set(PollFlags::POLLOUT, port.pending() > 0);
        let mut descriptors = vec![
            PollFd::new(port.as_fd(), host),
            PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
        ];
        let output = |side| Option::filter(Option::as_ref(side), |_| room);
        let stdout = watch(&mut descriptors, output(&self.stdout), PollFlags::POLLIN);
        let stderr = watch(&mut descriptors, output(&self.stderr), PollFlags::POLLIN);
        let stdin = self.stdin.as_ref().filter(|_| self.written < self.input.len());
        watch(&mut descriptors, stdin, PollFlags::POLLOUT);
        match poll(&mut descriptors, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let events = |index: usize| descriptors[index].revents().unwrap_or(PollFlags::empty());
        Ok(Ready {
            host: events(0),
            ended: !events(1).is_empty(),
            stdout: stdout.is_some_and(|index| !events(index).is_empty()),
            stderr: stderr.is_some_and(|index| !events(index).is_empty()),
        })
    }

    /// Acts on every whole frame the host has sent.
    fn take_frames(&mut self, port: &mut Port, decoder: &mut Decoder) -> Result<(), SessionEnd> {
        while let Some((kind, payload)) = decoder.next()? {
            match (kind, payload) {
                (Kind::Input, bytes) => {
                    if self.input.len() + bytes.len() > 2 * INPUT_WINDOW {
                        return Err(SessionEnd::Broken);
                    }
                    if self.stdin.is_some() {
                        self.input.extend_from_slice(bytes);
                    } else {
                        // Nobody reads any more; the host may go on sending.
                        give_credit(port, bytes.len());
                    }
                }
                (Kind::InputEnd, _) => self.input_ended = true,
                (Kind::Signal, &[number]) => {
                    if let Ok(signal) = Signal::try_from(i32::from(number)) {
                        // Fails only when the group is gone.
                        let _ = killpg(self.group, signal);
                    }
                }
                (Kind::Resize, &[rows0, rows1, columns0, columns1]) => {
                    if let Some(terminal) = &self.terminal {
                        let rows = u16::from_le_bytes([rows0, rows1]);
                        let columns = u16::from_le_bytes([columns0, columns1]);
                        let _ = spawn::resize(terminal, rows, columns);
                    }
                }
                _ => return Err(SessionEnd::Broken),
            }
        }
        self.write_input(port);
        Ok(())
    }

    /// Hands the command what input it takes now, and the host the credit for it.
    fn write_input(&mut self, port: &mut Port) {
        while let Some(stdin) = &mut self.stdin
            && self.written < self.input.len()
        {
            match stdin.write(&self.input[self.written..]) {
                Ok(count) => {
                    self.written += count;
                    give_credit(port, count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_transient(&error) => {}
                Err(_) => {
                    // The command has closed its input.
                    give_credit(port, self.input.len() - self.written);
                    self.written = self.input.len();
                    self.stdin = None;
                }
            }
        }
        if self.written == self.input.len() {
            self.input.clear();
            self.written = 0;
            // A terminal's input ends with its user's ^D, not with a closed descriptor.
            if self.input_ended && self.terminal.is_none() {
                self.stdin = None;
            }
        } else if self.written > INPUT_WINDOW {
            self.input.drain(..self.written);
            self.written = 0;
        }
    }

    /// After the command's end: what it wrote is still in the pipes. Other holders of the pipes (a daemon
    /// it left behind) may go on writing, so only what a pipe can hold is taken, and nobody waits for them.
    fn drain(
        &mut self,
        port: &mut Port,
        decoder: &mut Decoder,
        buffer: &mut [u8],
    ) -> Result<ExitStatus, SessionEnd> {
        let mut left = 4 * PIPE_SIZE.cast_unsigned() as usize;
        for (side, kind) in
            [(&mut self.stdout, Kind::Output), (&mut self.stderr, Kind::ErrorOutput)]
        {
            while left > 0 {
                let Some(file) = side else { break };
                match file.read(buffer) {
                    Ok(0) => break,
                    Ok(count) => {
                        left = left.saturating_sub(count);
                        port.send(kind, &buffer[..count])?;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // Empty, or (a terminal) closed on the other side.
                    Err(_) => break,
                }
            }
        }
        // Input still on its way is of no use to anybody; it must not look like the next session's.
        while decoder.next()?.is_some() {}
        self.child.wait().map_err(SessionEnd::from)
    }

    /// The host has gone: ends the command's process group. Processes that left it stay.
    fn end(&mut self) {
        let _ = killpg(self.group, Signal::SIGHUP);
        let started = Instant::now();
        while started.elapsed() < HANGUP_GRACE {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // Also when the command itself ended: the rest of its group had the same time.
        let _ = killpg(self.group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

struct Ready {
    host: PollFlags,
    ended: bool,
    stdout: bool,
    stderr: bool,
}

/// Adds a descriptor where there is one, and says at which place.
fn watch<'a>(
    descriptors: &mut Vec<PollFd<'a>>,
    side: Option<&'a File>,
    events: PollFlags,
) -> Option<usize> {
    descriptors.push(PollFd::new(side?.as_fd(), events));
    Some(descriptors.len() - 1)
}

fn give_credit(port: &mut Port, count: usize) {
    // Bounded by the window.
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    port.queue(Kind::Credit, &count.to_le_bytes());
}

/// Reads once from one of the command's streams and sends it on; drops the stream at its end.
fn pass_output(
    port: &mut Port,
    side: &mut Option<File>,
    kind: Kind,
    buffer: &mut [u8],
) -> Result<(), SessionEnd> {
    let Some(file) = side else { return Ok(()) };
    match file.read(buffer) {
        Ok(0) => *side = None,
        Ok(count) => {
            port.queue(kind, &buffer[..count]);
            port.write_pending()?;
        }
        Err(error) if is_transient(&error) => {}
        // A terminal whose other side is closed.
        Err(_) => *side = None,
    }
    Ok(())
}
