//! Running commands in the parent from the host: with the caller's own standard streams (what
//! `enclave-cli machine exec` and the routed commands do), or with the output kept, a time limit and a
//! progress watchdog (what tests do).

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::channel::frame::Kind;
use crate::channel::request::{Request, Run};
use crate::channel::{INPUT_WINDOW, MAX_PAYLOAD};
use crate::session::{Session, Which, wait_for};
use crate::terminal::RawTerminal;
use crate::{Error, Machine};

/// How long the agent gets to answer the opening of a session.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);
/// How long a ping may take before the parent counts as wedged.
const PING_PATIENCE: Duration = Duration::from_secs(15);
/// After this many signals that ask it to end, a command that does not is left to the agent to kill.
const SIGNALS_TO_GIVE_UP: u32 = 3;

/// A command to run in the parent: as root, with a small environment of the parent's own plus what is
/// added here, in `/` unless a folder is given.
#[derive(Debug, Clone)]
pub struct Command {
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: Option<OsString>,
}

impl Command {
    /// A command without arguments; the program is looked for on the parent's `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { argv: vec![program.as_ref().to_owned()], env: Vec::new(), cwd: None }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.argv.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.argv.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory, a path in the parent.
    #[must_use]
    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cwd = Some(folder.into().into_os_string());
        self
    }

    fn name(&self) -> String {
        self.argv.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn request(
        &self,
        input: bool,
        terminal: Option<crate::channel::request::TerminalSize>,
    ) -> Request {
        Request::Run(Run {
            argv: self.argv.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            input,
            terminal,
        })
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this exit code. 127: not found; 126: not executable.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
}

impl Exit {
    /// The code a shell would report: a signal counts as 128 plus its number.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }

    /// Exit code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// Limits on a command whose output is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the whole command.
    pub time: Option<Duration>,
    /// Between two bytes of output. Beyond it the result is [`Error::Wedged`] when the parent does not answer
    /// a ping either, else [`Error::Stalled`].
    pub silence: Option<Duration>,
    /// Bytes kept of each of the two streams.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: None, silence: None, output: 64 * 1024 * 1024 }
    }
}

/// A command's end and its output.
#[derive(Debug, Clone)]
pub struct Captured {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// Where a command's input comes from.
enum Source<'a> {
    Nothing,
    Bytes(&'a [u8]),
    Descriptor(BorrowedFd<'a>),
}

/// One of a command's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Output,
    Error,
}

/// Takes a command's output as it comes.
type Sink<'a> = dyn FnMut(Stream, &[u8]) -> Result<(), Error> + 'a;

impl Machine {
    /// Runs a command with this process's standard streams. SIGINT, SIGTERM, SIGHUP and SIGQUIT go to the
    /// command; after the third, this gives up on it. With `terminal` (and a terminal on standard input) the command
    /// gets a terminal of its own and this one is raw until it ends.
    ///
    /// The signals are blocked in the calling thread meanwhile; other threads of the process must not take them.
    ///
    /// # Errors
    /// [`Error::Refused`] for a missing working directory; [`Error::Interrupted`]; the channel's errors.
    pub fn exec(&self, command: &Command, terminal: bool) -> Result<Exit, Error> {
        self.exec_from(command, Some(std::io::stdin().as_fd()), terminal)
    }

    /// The same with another file, pipe or terminal as the command's input, or with none.
    ///
    /// # Errors
    /// As [`Self::exec`].
    pub fn exec_from(
        &self,
        command: &Command,
        input: Option<BorrowedFd<'_>>,
        terminal: bool,
    ) -> Result<Exit, Error> {
        let raw = if terminal { RawTerminal::enter()? } else { None };
        let size = raw.as_ref().and_then(|_| crate::terminal::size());
        let signals = ForwardedSignals::block()?;
        let result = self.run(
            &command.request(input.is_some(), size),
            &command.name(),
            input.map_or(Source::Nothing, Source::Descriptor),
            Some(&signals),
            &Limits { output: usize::MAX, ..Limits::default() },
            &mut |stream, bytes| {
                let failed = match stream {
                    Stream::Output => {
                        let mut out = std::io::stdout().lock();
                        out.write_all(bytes).and_then(|()| out.flush()).err()
                    }
                    Stream::Error => std::io::stderr().write_all(bytes).err(),
                };
                failed.map_or(Ok(()), |source| {
                    Err(Error::Stream { action: "write the command's output", source })
                })
            },
        );
        drop(raw);
        result
    }

    /// Runs a command with `input` as its standard input, keeping its output.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Stalled`], [`Error::Wedged`], [`Error::TooMuchOutput`] as `limits` say (the
    /// command is ended then); [`Error::Refused`]; the channel's errors.
    pub fn exec_captured(
        &self,
        command: &Command,
        input: &[u8],
        limits: &Limits,
    ) -> Result<Captured, Error> {
        let mut stdout = Vec::new();
        let mut stderr = Vec::new();
        let name = command.name();
        let source = if input.is_empty() { Source::Nothing } else { Source::Bytes(input) };
        let exit = self.run(
            &command.request(!input.is_empty(), None),
            &name,
            source,
            None,
            limits,
            &mut |stream, bytes| {
                let kept = match stream {
                    Stream::Output => &mut stdout,
                    Stream::Error => &mut stderr,
                };
                if kept.len() + bytes.len() > limits.output {
                    return Err(Error::TooMuchOutput {
                        command: name.clone(),
                        limit: limits.output,
                    });
                }
                kept.extend_from_slice(bytes);
                Ok(())
            },
        )?;
        Ok(Captured { exit, stdout, stderr })
    }

    /// Asks the agent for a sign of life and returns how long it took.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] after `patience`; the channel's errors.
    pub fn ping(&self, patience: Duration) -> Result<Duration, Error> {
        let begun = Instant::now();
        Session::open(self.folder(), Which::Control, begun + patience)?.finish();
        Ok(begun.elapsed())
    }

    fn run(
        &self,
        request: &Request,
        name: &str,
        source: Source<'_>,
        signals: Option<&ForwardedSignals>,
        limits: &Limits,
        sink: &mut Sink<'_>,
    ) -> Result<Exit, Error> {
        self.explain("a command ran", || {
            let deadline = Instant::now() + OPEN_PATIENCE;
            let mut session = Session::open(self.folder(), Which::Ordinary, deadline)?;
            session.request(request)?;
            let conversation = Conversation {
                machine: self,
                session: &mut session,
                name,
                source,
                signals,
                limits,
                credit: INPUT_WINDOW,
                asked_to_end: 0,
                begun: Instant::now(),
                last_byte: Instant::now(),
            };
            let exit = conversation.hold(sink)?;
            session.finish();
            Ok(exit)
        })
    }
}

/// A running command, seen from here.
struct Conversation<'a> {
    machine: &'a Machine,
    session: &'a mut Session,
    name: &'a str,
    source: Source<'a>,
    signals: Option<&'a ForwardedSignals>,
    limits: &'a Limits,
    /// Input bytes that may still be sent.
    credit: usize,
    asked_to_end: u32,
    begun: Instant,
    last_byte: Instant,
}

impl Conversation<'_> {
    fn hold(mut self, sink: &mut Sink<'_>) -> Result<Exit, Error> {
        let mut buffer = vec![0; MAX_PAYLOAD];
        loop {
            if let Some(exit) = self.take_frames(sink)? {
                return Ok(exit);
            }
            self.send_bytes();
            self.session.write_pending()?;
            let ready = self.wait()?;
            if ready.socket && self.session.fill()? {
                self.last_byte = Instant::now();
            }
            if ready.source {
                self.send_from_descriptor(&mut buffer)?;
            }
            if ready.signals {
                self.forward_signals()?;
            }
            self.check_limits()?;
        }
    }

    fn take_frames(&mut self, sink: &mut Sink<'_>) -> Result<Option<Exit>, Error> {
        while let Some((kind, payload)) = self.session.next()? {
            match (kind, payload) {
                (Kind::Output, bytes) => sink(Stream::Output, bytes)?,
                (Kind::ErrorOutput, bytes) => sink(Stream::Error, bytes)?,
                (Kind::Credit, &[b0, b1, b2, b3]) => {
                    let given = u32::from_le_bytes([b0, b1, b2, b3]);
                    let given = usize::try_from(given).unwrap_or(usize::MAX);
                    self.credit = self.credit.saturating_add(given).min(INPUT_WINDOW);
                }
                (Kind::Exit, &[0, code]) => return Ok(Some(Exit::Code(code))),
                (Kind::Exit, &[1, signal]) => return Ok(Some(Exit::Signal(signal))),
                (other, _) => return Err(Error::Channel(format!("unexpected {other:?} frame"))),
            }
        }
        Ok(None)
    }

    /// Queues what the credit allows of input held in memory.
    fn send_bytes(&mut self) {
        if let Source::Bytes(bytes) = self.source {
            let (now, later) = bytes.split_at(bytes.len().min(self.credit));
            if !now.is_empty() {
                self.session.queue(Kind::Input, now);
                self.credit -= now.len();
            }
            self.source = Source::Bytes(later);
            if later.is_empty() {
                self.session.queue(Kind::InputEnd, &[]);
                self.source = Source::Nothing;
            }
        }
    }

    fn send_from_descriptor(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let Source::Descriptor(descriptor) = self.source else { return Ok(()) };
        let room = buffer.len().min(self.credit);
        match nix::unistd::read(descriptor, &mut buffer[..room]) {
            Ok(0) => {
                self.session.queue(Kind::InputEnd, &[]);
                self.source = Source::Nothing;
            }
            Ok(count) => {
                self.session.queue(Kind::Input, &buffer[..count]);
                self.credit -= count;
            }
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => {}
            Err(errno) => {
                let source = errno.into();
                return Err(Error::Stream { action: "read the command's input", source });
            }
        }
        Ok(())
    }

    fn forward_signals(&mut self) -> Result<(), Error> {
        let Some(signals) = self.signals else { return Ok(()) };
        while let Some(signal) = signals.take()? {
            if signal == Signal::SIGWINCH {
                if let Some(size) = crate::terminal::size() {
                    let [r0, r1] = size.rows.to_le_bytes();
                    let [c0, c1] = size.columns.to_le_bytes();
                    self.session.queue(Kind::Resize, &[r0, r1, c0, c1]);
                }
                continue;
            }
            self.asked_to_end += 1;
            if self.asked_to_end >= SIGNALS_TO_GIVE_UP {
                return Err(Error::Interrupted);
            }
            // Signal numbers are below 65.
            let number = u8::try_from(signal as i32).unwrap_or(0);
            self.session.queue(Kind::Signal, &[number]);
        }
        Ok(())
    }

    fn wait(&self) -> Result<Ready, Error> {
        let mut descriptors = vec![PollFd::new(self.session.as_fd(), self.session.interest())];
        let mut watch = |descriptor| {
            descriptors.push(PollFd::new(descriptor, PollFlags::POLLIN));
            descriptors.len() - 1
        };
        let signals = self.signals.map(|signals| watch(signals.descriptor.as_fd()));
        let source = match self.source {
            Source::Descriptor(descriptor)
                if self.credit > 0 && self.session.pending() < MAX_PAYLOAD =>
            {
                Some(watch(descriptor))
            }
            _ => None,
        };
        wait_for(&mut descriptors, self.next_limit())?;
        let is_ready =
            |index: usize| descriptors[index].revents().is_some_and(|events| !events.is_empty());
        Ok(Ready {
            socket: descriptors[0]
                .revents()
                .is_some_and(|events| events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP)),
            signals: signals.is_some_and(is_ready),
            source: source.is_some_and(is_ready),
        })
    }

    /// Time until the nearest limit.
    fn next_limit(&self) -> Option<Duration> {
        let whole = self.limits.time.map(|time| time.saturating_sub(self.begun.elapsed()));
        let silence = self.limits.silence.map(|time| time.saturating_sub(self.last_byte.elapsed()));
        whole.into_iter().chain(silence).min()
    }

    fn check_limits(&mut self) -> Result<(), Error> {
        if let Some(limit) = self.limits.time
            && self.begun.elapsed() >= limit
        {
            return Err(Error::TimedOut { command: self.name.to_owned(), limit });
        }
        let Some(limit) = self.limits.silence else { return Ok(()) };
        if self.last_byte.elapsed() < limit {
            return Ok(());
        }
        let answer = self.machine.ping(PING_PATIENCE);
        // It may have spoken while the ping was under way.
        if self.session.fill()? {
            self.last_byte = Instant::now();
            return Ok(());
        }
        let silent = self.last_byte.elapsed();
        match answer {
            Ok(_) => Err(Error::Stalled { command: self.name.to_owned(), silent }),
            Err(Error::NoAnswer { .. }) => Err(Error::Wedged { silent }),
            Err(other) => Err(other),
        }
    }
}

struct Ready {
    socket: bool,
    signals: bool,
    source: bool,
}

/// Signals meant for the command in the parent, blocked here and read from a descriptor.
struct ForwardedSignals {
    descriptor: SignalFd,
    before: SigSet,
}

impl ForwardedSignals {
    fn block() -> Result<Self, Error> {
        let failed = |errno: nix::errno::Errno| Error::Stream {
            action: "take charge of signals",
            source: errno.into(),
        };
        let set = SigSet::from_iter([
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGWINCH,
        ]);
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(failed)?;
        let before = SigSet::thread_get_mask().map_err(failed)?;
        set.thread_block().map_err(failed)?;
        Ok(Self { descriptor, before })
    }

    fn take(&self) -> Result<Option<Signal>, Error> {
        match self.descriptor.read_signal() {
            Ok(Some(info)) => {
                let number = i32::try_from(info.ssi_signo).unwrap_or(0);
                Ok(Signal::try_from(number).ok())
            }
            Ok(None) => Ok(None),
            Err(errno) => Err(Error::Stream { action: "read a signal", source: errno.into() }),
        }
    }
}

impl Drop for ForwardedSignals {
    fn drop(&mut self) {
        // Fails only for a wrong argument.
        let _ = self.before.thread_set_mask();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_shell() {
        assert_eq!(Exit::Code(3).code(), 3);
        assert_eq!(Exit::Signal(9).code(), 137);
        assert!(Exit::Code(0).success() && !Exit::Signal(0).success());
    }

    #[test]
    fn a_command_becomes_its_request() {
        let command = Command::new("sh").args(["-c", "true"]).env("A", "b").current_dir("/tmp");
        let Request::Run(run) = command.request(false, None) else { panic!("not a run request") };
        assert_eq!(run.argv, ["sh", "-c", "true"]);
        assert_eq!(run.env, [("A".into(), "b".into())]);
        assert_eq!(run.cwd.as_deref(), Some(OsStr::new("/tmp")));
        assert!(!run.input && run.terminal.is_none());
    }
}
