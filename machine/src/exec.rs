//! Running commands in the parent from the host: with the caller's own standard streams (what
//! `enclave-cli machine exec` and the routed commands do), or with the output kept, a time limit and a
//! progress watchdog (what tests do).

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;

use crate::channel::frame::Kind;
use crate::channel::request::Request;
use crate::channel::{INPUT_WINDOW, MAX_PAYLOAD};
use crate::command::{Captured, Command, Exit, Limits};
use crate::held_signals::HeldSignals;
use crate::session::{Session, Which, wait_for};
use crate::terminal::RawTerminal;
use crate::{Error, Machine};

/// How long the agent gets to answer the opening of a session.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);
/// How long a ping may take before the parent counts as wedged.
const PING_PATIENCE: Duration = Duration::from_secs(15);
/// After this many signals that ask it to end, a command that does not is left to the agent to kill.
const SIGNALS_TO_GIVE_UP: u32 = 3;

/// Signals that mean the command in the parent, not the program that waits for it.
const FORWARDED: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGWINCH];

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
        let signals = HeldSignals::hold(FORWARDED)?;
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
        signals: Option<&HeldSignals>,
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
    signals: Option<&'a HeldSignals>,
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
        let signals = self.signals.map(|signals| watch(signals.as_fd()));
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
