//! The keeper's side of the control socket. One thread serves all: nothing here waits for a client. A client has a few seconds to say what it wants, a bounded line
//! to say it in, and its replies leave as fast as it reads them; there are limits on how many may be connected, and on how many of these may be strangers.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::Serialize;

use super::console_ring::ConsoleRing;
use crate::control::{ConsoleOpen, MAX_REQUEST, Op, Reply, Request};
use crate::error::{Error, Failure, Result, code};

/// Clients at once.
const MAX_CLIENTS: usize = 32;
/// Of these, other users than owner and root.
const MAX_STRANGERS: usize = 8;
/// How long a client may take to say what it wants, and to read a reply.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the keeper can say about itself when asked.
pub(super) trait Subject {
    /// The JSON of `describe`.
    fn describe(&self) -> std::result::Result<serde_json::Value, Failure>;
    /// The console, in debug mode.
    fn console(&self) -> Option<&ConsoleRing>;
}

/// The socket and its clients.
#[derive(Debug)]
pub(super) struct ControlServer {
    listener: UnixListener,
    owner: u32,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    trusted: bool,
    state: State,
    /// Bytes of a reply that are still to go.
    out: Vec<u8>,
    /// When it is dropped; none while it waits for us.
    deadline: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Its line so far.
    Asking(Vec<u8>),
    /// Gone when `out` is empty.
    Leaving,
    /// Waits for the enclave's end.
    AwaitsEnd,
    /// Reads the console, next from this position.
    Console(u64),
}

impl ControlServer {
    /// Listens at `path` for everybody; who is who is told by the kernel.
    pub(super) fn bind(path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path).map_err(Error::file("listen at", path))?;
        listener.set_nonblocking(true).map_err(Error::file("listen at", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))
            .map_err(Error::file("set the mode of", path))?;
        Ok(Self { listener, owner: nix::unistd::geteuid().as_raw(), clients: Vec::new() })
    }

    /// What to wait for, in the order that [`ControlServer::serve`] expects the answers in.
    pub(super) fn interests(
        &self,
        console: Option<&ConsoleRing>,
    ) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut interests = vec![(self.listener.as_fd(), PollFlags::POLLIN)];
        for client in &self.clients {
            // A hang-up is always told.
            let mut flags = PollFlags::empty();
            if matches!(client.state, State::Asking(_)) {
                flags |= PollFlags::POLLIN;
            }
            let behind = match (&client.state, console) {
                (State::Console(position), Some(ring)) => *position < ring.end(),
                _ => false,
            };
            if behind || !client.out.is_empty() {
                flags |= PollFlags::POLLOUT;
            }
            interests.push((client.stream.as_fd(), flags));
        }
        interests
    }

    /// The next moment at which a client has had its time.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.clients.iter().filter_map(|client| client.deadline).min()
    }

    /// Goes on with every client as far as it goes. Returns true if somebody who may has asked for the enclave's end.
    pub(super) fn serve(&mut self, subject: &impl Subject) -> bool {
        let mut end = false;
        let now = Instant::now();
        for client in &mut self.clients {
            end |= client.step(subject);
        }
        self.clients.retain(|client| {
            client.deadline.is_none_or(|deadline| now < deadline)
                && !(client.state == State::Leaving && client.out.is_empty())
        });
        self.accept();
        end
    }

    fn accept(&mut self) {
        // Bounded, so that a flood of connections cannot hold the loop.
        for _ in 0..MAX_CLIENTS {
            let Ok((stream, _)) = self.listener.accept() else { return };
            let Ok(peer) = getsockopt(&stream, PeerCredentials) else { continue };
            let trusted = peer.uid() == self.owner || peer.uid() == 0;
            let strangers = self.clients.iter().filter(|client| !client.trusted).count();
            if self.clients.len() >= MAX_CLIENTS || (!trusted && strangers >= MAX_STRANGERS) {
                continue;
            }
            if stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client {
                    stream,
                    trusted,
                    state: State::Asking(Vec::new()),
                    out: Vec::new(),
                    deadline: Some(Instant::now() + PATIENCE),
                });
            }
        }
    }

    /// Tells those who wait for the end, gives console readers the rest, and hangs up. Takes at most `limit`.
    pub(super) fn close<T: Serialize>(
        &mut self,
        ended: &Reply<T>,
        console: Option<&ConsoleRing>,
        limit: Duration,
    ) {
        for client in &mut self.clients {
            if client.state == State::AwaitsEnd {
                client.reply(ended);
            }
        }
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            for client in &mut self.clients {
                client.write_out(console);
            }
            self.clients.retain(|client| match client.state {
                State::Console(position) => console.is_some_and(|ring| position < ring.end()),
                State::Leaving => !client.out.is_empty(),
                _ => false,
            });
            if self.clients.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.clients.clear();
    }
}

impl Client {
    fn step(&mut self, subject: &impl Subject) -> bool {
        let mut end = false;
        if let State::Asking(_) = self.state {
            end = self.read(subject);
        } else if self.hung_up() {
            self.leave();
        }
        self.write_out(subject.console());
        end
    }

    /// Whether it is gone altogether; one that only sends no more still reads.
    fn hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(count) if count > 0)
    }

    fn leave(&mut self) {
        self.state = State::Leaving;
        self.out.clear();
    }

    fn read(&mut self, subject: &impl Subject) -> bool {
        let State::Asking(line) = &mut self.state else { return false };
        let mut buffer = [0_u8; 1024];
        let count = match self.stream.read(&mut buffer) {
            Ok(count) => count,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return false;
            }
            Err(_) => 0,
        };
        if count == 0 {
            self.leave();
            return false;
        }
        line.extend_from_slice(buffer.get(..count).unwrap_or(&[]));
        let Some(length) = line.iter().position(|byte| *byte == b'\n') else {
            if line.len() > MAX_REQUEST {
                self.refuse(code::SERDE, format!("A request has at most {MAX_REQUEST} bytes"));
            }
            return false;
        };
        let request = serde_json::from_slice::<Request>(line.get(..length).unwrap_or(&[]));
        match request {
            Ok(Request { op }) => self.answer(op, subject),
            Err(error) => {
                self.refuse(code::SERDE, format!("That is no request: {error}"));
                false
            }
        }
    }

    fn answer(&mut self, op: Op, subject: &impl Subject) -> bool {
        if !self.trusted && op != Op::Describe {
            let message = "Only the enclave's owner and root may do that";
            self.refuse(code::FILE_PERMISSIONS, message.to_owned());
            return false;
        }
        match op {
            Op::Describe => {
                match subject.describe() {
                    Ok(description) => self.reply(&Reply::Ok(description)),
                    Err(failure) => self.reply(&Reply::<()>::Error(failure)),
                }
                false
            }
            Op::Terminate => {
                self.state = State::AwaitsEnd;
                self.deadline = None;
                true
            }
            Op::Console => {
                match subject.console() {
                    None => {
                        let failure = Failure::new(
                            code::CONSOLE_CONNECTION,
                            "The enclave has no console, because it does not run in debug mode",
                        );
                        let hint = "Start it with --debug-mode; its PCRs are zero then.";
                        self.reply(&Reply::<()>::Error(failure.with_hint(hint)));
                    }
                    Some(ring) => {
                        let position = ring.start();
                        self.reply(&Reply::Ok(ConsoleOpen { history: ring.end() - position }));
                        self.state = State::Console(position);
                        self.deadline = None;
                    }
                }
                false
            }
        }
    }

    fn refuse(&mut self, code: u16, message: String) {
        self.reply(&Reply::<()>::Error(Failure::new(code, message)));
    }

    fn reply<T: Serialize>(&mut self, reply: &Reply<T>) {
        // Maps with string keys and plain structs always become JSON.
        self.out = serde_json::to_vec(reply).unwrap_or_default();
        self.out.push(b'\n');
        self.state = State::Leaving;
        self.deadline = Some(Instant::now() + PATIENCE);
    }

    /// Writes what the client takes now.
    fn write_out(&mut self, console: Option<&ConsoleRing>) {
        loop {
            let outcome = match (&self.state, console) {
                _ if !self.out.is_empty() => self.stream.write(&self.out),
                (State::Console(position), Some(ring)) => match ring.from(*position) {
                    Some([]) => return,
                    Some(piece) => self.stream.write(piece),
                    // Too far behind.
                    None => Err(ErrorKind::TimedOut.into()),
                },
                _ => return,
            };
            match outcome {
                Ok(0) => return self.leave(),
                Ok(count) if !self.out.is_empty() => {
                    self.out.drain(..count.min(self.out.len()));
                }
                Ok(count) => {
                    if let State::Console(position) = &mut self.state {
                        *position += count as u64;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.leave(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::thread;

    use super::*;
    use crate::control;
    use crate::description::example;

    struct Fake {
        ring: Option<ConsoleRing>,
    }

    impl Subject for Fake {
        fn describe(&self) -> std::result::Result<serde_json::Value, Failure> {
            Ok(serde_json::to_value(example("i-0-enc1", "x", 16)).unwrap())
        }

        fn console(&self) -> Option<&ConsoleRing> {
            self.ring.as_ref()
        }
    }

    fn server() -> (tempfile::TempDir, PathBuf, ControlServer) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let server = ControlServer::bind(&path).unwrap();
        (folder, path, server)
    }

    /// Serves until `client` is done; returns what it returned and whether an end was asked for.
    fn serve<T: Send>(
        server: &mut ControlServer,
        fake: &Fake,
        client: impl FnOnce() -> T + Send,
    ) -> (T, bool) {
        thread::scope(|scope| {
            let client = scope.spawn(client);
            let mut end = false;
            while !client.is_finished() {
                end |= server.serve(fake);
                thread::sleep(Duration::from_millis(1));
            }
            (client.join().unwrap(), end)
        })
    }

    #[test]
    fn describe_and_rubbish() {
        let (_folder, path, mut server) = server();
        let fake = Fake { ring: None };
        let (described, end) = serve(&mut server, &fake, || control::describe(&path));
        assert_eq!(described.unwrap(), example("i-0-enc1", "x", 16));
        assert!(!end);
        for bad in [&b"hello\n"[..], &[b'x'; 6000]] {
            let (answer, _) = serve(&mut server, &fake, || {
                let mut stream = UnixStream::connect(&path).unwrap();
                // The server may hang up before it has taken all of an overlong line.
                let _ = stream.write_all(bad);
                let mut answer = String::new();
                let _ = stream.read_to_string(&mut answer);
                answer
            });
            assert!(answer.starts_with("{\"error\":{\"code\":17"), "{answer}");
        }
    }

    #[test]
    fn a_console_without_debug_mode_is_e44() {
        let (_folder, path, mut server) = server();
        let (console, _) = serve(&mut server, &Fake { ring: None }, || control::console(&path));
        assert_eq!(console.unwrap_err().code(), 44);
    }

    #[test]
    fn console_history_then_live_then_the_end() {
        let (_folder, path, mut server) = server();
        let mut fake = Fake { ring: Some(ConsoleRing::default()) };
        fake.ring.as_mut().unwrap().push(b"old ");
        let (console, _) = serve(&mut server, &fake, || control::console(&path));
        let mut console = console.unwrap();
        fake.ring.as_mut().unwrap().push(b"new");
        server.serve(&fake);
        fake.ring.as_mut().unwrap().push(b" last");
        server.close(&Reply::Ok(()), fake.console(), Duration::from_secs(1));
        let mut text = String::new();
        console.read_to_string(&mut text).unwrap();
        assert_eq!(text, "old new last");
    }

    #[test]
    fn a_reader_that_does_not_read_is_dropped_and_holds_nobody() {
        let (_folder, path, mut server) = server();
        let mut fake = Fake { ring: Some(ConsoleRing::default()) };
        let (console, _) = serve(&mut server, &fake, || control::console(&path));
        let began = Instant::now();
        for _ in 0..2000 {
            fake.ring.as_mut().unwrap().push(&[b'x'; 4096]);
            server.serve(&fake);
        }
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(server.clients.is_empty());
        drop(console);
    }

    #[test]
    fn terminate_is_answered_at_the_end() {
        let (_folder, path, mut server) = server();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"{\"op\":\"terminate\"}\n").unwrap();
        let fake = Fake { ring: None };
        assert!(!server.serve(&fake), "accepted only");
        assert!(server.serve(&fake));
        server.close(&Reply::Ok("done"), None, Duration::from_secs(1));
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "{\"ok\":\"done\"}\n");
    }

    #[test]
    fn strangers_only_describe() {
        let (_folder, path, mut server) = server();
        // With another owner, and root left out of it, this process is a stranger unless it is root.
        server.owner = u32::MAX;
        let fake = Fake { ring: Some(ConsoleRing::default()) };
        let mut stream = UnixStream::connect(&path).unwrap();
        server.serve(&fake);
        server.clients[0].trusted = false;
        stream.write_all(b"{\"op\":\"terminate\"}\n").unwrap();
        assert!(!server.serve(&fake));
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("{\"error\":{\"code\":18"), "{answer}");
    }

    #[test]
    fn silent_clients_go_and_there_is_a_limit() {
        let (_folder, path, mut server) = server();
        let fake = Fake { ring: None };
        let clients: Vec<UnixStream> = (0..MAX_CLIENTS + 5)
            .map(|_| {
                let stream = UnixStream::connect(&path).unwrap();
                server.serve(&fake);
                stream
            })
            .collect();
        assert_eq!(server.clients.len(), MAX_CLIENTS);
        assert!(server.deadline().is_some());
        for client in &mut server.clients {
            client.deadline = Some(Instant::now());
        }
        server.serve(&fake);
        assert_eq!(server.clients.len(), 0);
        drop(clients);
    }
}
