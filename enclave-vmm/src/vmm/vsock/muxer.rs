//! The userspace backend: sockets of the parent behind the guest's ports. The guest dials CID 3 and reaches the VMM's own
//! services, the socket `<path>_<port>`, or AF_VSOCK of the parent; clients in the parent say `CONNECT <port>\n` on `<path>` and
//! read `OK <port>\n` when the guest has accepted. Whatever cannot be connected is reset at once. Descriptors, memory and
//! time are bounded, whoever misbehaves.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_abi::ports;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::Backend;
use super::connection::{self, Connection, Fate, Key};
use super::endpoint::{Endpoint, Progress};
use super::greeting::{self, Greeting};
use super::packet::{Header, Op, STREAM};
use super::service::{News, Service};
use crate::vmm::error::Error;
use crate::vmm::messages::Parameters;

/// The parent's CID as enclaves know it. No other is reachable.
pub const PARENT_CID: u64 = 3;
/// Epoll tokens from here on are the muxer's; the first is its listener.
pub const FIRST_TOKEN: u64 = 1024;

/// Connections and greetings at most; each has a descriptor.
const CONNECTIONS: usize = 1024;
/// Resets that wait for a receive buffer of the guest at most. A guest that provokes more loses some.
const RESETS: usize = 1024;
/// How long a client in the parent may take to say which port it wants.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);
/// How long bytes of a connection that the guest has finished may wait for the parent's end.
const LINGER_PATIENCE: Duration = Duration::from_secs(30);
/// Ports given to clients in the parent; above those that people choose.
const FIRST_PORT: u32 = 1 << 30;

/// The backend.
#[derive(Debug)]
pub struct Muxer {
    guest_cid: u64,
    path: PathBuf,
    epoll: Arc<Epoll>,
    listener: UnixListener,
    next_token: u64,
    next_port: u32,
    tokens: HashMap<Key, u64>,
    connections: HashMap<u64, Connection>,
    greetings: HashMap<u64, Greeting>,
    /// Connections that may have a packet for the guest, each at most once, served in turn.
    ready: VecDeque<u64>,
    resets: VecDeque<Header>,
    deadlines: BinaryHeap<Reverse<(Instant, u64)>>,
    news: Vec<News>,
    /// For init; taken by its first control connection.
    parameters: Option<Parameters>,
    limit: usize,
}

impl Muxer {
    /// Listens on `path` (mode 0600), with its events in `epoll` under tokens from [`FIRST_TOKEN`] on. `descriptors` is how
    /// many the process may have open.
    ///
    /// # Errors
    /// [`Error::VsockPath`], [`Error::System`].
    pub fn new(
        guest_cid: u32,
        path: &Path,
        parameters: Parameters,
        epoll: Arc<Epoll>,
        descriptors: usize,
    ) -> Result<Muxer, Error> {
        let listener =
            listen(path).map_err(|source| Error::VsockPath { path: path.to_owned(), source })?;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll
            .add(&listener, EpollEvent::new(interest, FIRST_TOKEN))
            .map_err(Error::nix("epoll_ctl for the vsock listener"))?;
        Ok(Muxer {
            guest_cid: u64::from(guest_cid),
            path: path.to_owned(),
            epoll,
            listener,
            next_token: FIRST_TOKEN + 1,
            next_port: FIRST_PORT,
            tokens: HashMap::new(),
            connections: HashMap::new(),
            greetings: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            deadlines: BinaryHeap::new(),
            news: Vec::new(),
            parameters: Some(parameters),
            limit: CONNECTIONS.min(descriptors.saturating_sub(64)),
        })
    }

    /// An event of the descriptor under `token`.
    pub fn event(&mut self, token: u64, flags: EpollFlags) {
        if token == FIRST_TOKEN {
            self.accept();
        } else if self.greetings.contains_key(&token) {
            self.greet(token);
        } else if let Some(connection) = self.connections.get_mut(&token) {
            if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLERR)
            {
                connection.note_readable();
            }
            if flags.contains(EpollFlags::EPOLLHUP) {
                connection.note_hang_up();
            }
            let mut fate = Fate::Stays;
            let outcome = EpollFlags::EPOLLOUT | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
            if flags.intersects(outcome) {
                fate = connection.writable(&mut self.news);
            }
            self.settle(token, fate);
        }
    }

    /// When [`Muxer::expire`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.peek().map(|Reverse((at, _))| *at)
    }

    /// Gives up what has taken too long.
    pub fn expire(&mut self, now: Instant) {
        while let Some(Reverse((at, token))) = self.deadlines.peek().copied()
            && at <= now
        {
            self.deadlines.pop();
            if self.greetings.remove(&token).is_some() {
                continue;
            }
            match self.connections.get(&token) {
                Some(connection) if connection.is_unanswered() => self.settle(token, Fate::Reset),
                // Lingering: the guest has forgotten it.
                Some(connection) if self.tokens.get(&connection.key()) != Some(&token) => {
                    self.connections.remove(&token);
                }
                _ => {}
            }
        }
    }

    /// What the services have learnt since the last call.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    fn accept(&mut self) {
        // Edge-triggered: until there is no more. An error (out of descriptors, say) waits for the next client.
        while let Ok((stream, _)) = self.listener.accept() {
            if self.is_full() || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let token = self.token();
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, token);
            if self.epoll.add(&stream, event).is_ok() {
                self.greetings.insert(token, Greeting::new(stream));
                self.deadlines.push(Reverse((Instant::now() + GREETING_PATIENCE, token)));
            }
        }
    }

    fn greet(&mut self, token: u64) {
        let Some(greeting) = self.greetings.get_mut(&token) else { return };
        match greeting.read() {
            greeting::Progress::Waiting => {}
            greeting::Progress::Refused => drop(self.greetings.remove(&token)),
            greeting::Progress::Port(guest_port) => {
                if let Some(greeting) = self.greetings.remove(&token) {
                    self.request(token, guest_port, greeting.into_stream());
                }
            }
        }
    }

    /// Opens a connection to the guest for a client in the parent.
    fn request(&mut self, token: u64, guest_port: u32, stream: UnixStream) {
        let mut event = EpollEvent::new(stream_interest(), token);
        if self.epoll.modify(&stream, &mut event).is_err() {
            return;
        }
        let key = self.free_key(guest_port);
        let endpoint = Endpoint::Socket(OwnedFd::from(stream));
        let connection = Connection::requested(key, PARENT_CID, self.guest_cid, endpoint);
        self.connections.insert(token, connection);
        self.tokens.insert(key, token);
        self.deadlines.push(Reverse((connection::request_deadline(Instant::now()), token)));
        self.settle(token, Fate::Stays);
    }

    fn free_key(&mut self, guest_port: u32) -> Key {
        loop {
            let key = Key { host_port: self.next_port, guest_port };
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.tokens.contains_key(&key) {
                return key;
            }
        }
    }

    /// The guest dials.
    fn dialled(&mut self, header: &Header) {
        let Some((endpoint, progress)) = self.answer(header.dst_port) else {
            self.push_reset(header.refusal());
            return;
        };
        let token = self.token();
        if let Some(fd) = endpoint.fd()
            && self.epoll.add(fd, EpollEvent::new(stream_interest(), token)).is_err()
        {
            self.push_reset(header.refusal());
            return;
        }
        let connection = Connection::accepted(header, endpoint, progress);
        self.tokens.insert(connection.key(), token);
        self.connections.insert(token, connection);
        self.settle(token, Fate::Stays);
    }

    fn answer(&mut self, port: u32) -> Option<(Endpoint, Progress)> {
        if self.is_full() {
            return None;
        }
        let service = match port {
            ports::HEARTBEAT => Service::heartbeat(),
            // Init's is the first; whoever comes later is somebody else.
            ports::CONTROL => Service::control(self.parameters.take()?),
            _ => return Endpoint::dial(&self.path, port).ok(),
        };
        Some((Endpoint::Service(service), Progress::Done))
    }

    /// Puts a connection where its state says after something has happened to it.
    fn settle(&mut self, token: u64, fate: Fate) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let known = self.tokens.get(&connection.key()) == Some(&token);
        match fate {
            Fate::Stays if known => {
                if connection.has_work() && !std::mem::replace(&mut connection.queued, true) {
                    self.ready.push_back(token);
                }
            }
            // Lingering: it goes once its last byte is delivered.
            Fate::Stays if connection.has_undelivered() => {}
            Fate::Over if known && connection.has_undelivered() => {
                self.tokens.remove(&connection.key());
                self.deadlines.push(Reverse((Instant::now() + LINGER_PATIENCE, token)));
            }
            Fate::Stays | Fate::Over | Fate::Reset => {
                if known {
                    self.tokens.remove(&connection.key());
                    if fate == Fate::Reset {
                        let reset = connection.reset_packet();
                        self.push_reset(reset);
                    }
                }
                self.connections.remove(&token);
            }
        }
    }

    fn push_reset(&mut self, reset: Header) {
        if self.resets.len() < RESETS {
            self.resets.push_back(reset);
        }
    }

    fn is_full(&self) -> bool {
        self.connections.len() + self.greetings.len() >= self.limit
    }

    fn token(&mut self) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        token
    }
}

impl Backend for Muxer {
    fn receive(&mut self, header: &Header, payload: &[u8]) {
        if header.src_cid != self.guest_cid {
            // Not an address of this guest; there is nobody to answer.
            return;
        }
        let key = Key { host_port: header.dst_port, guest_port: header.src_port };
        let token = self.tokens.get(&key).copied();
        if header.dst_cid != PARENT_CID || header.kind != STREAM {
            if header.op != Op::Reset {
                self.push_reset(header.refusal());
            }
            return;
        }
        match (token, header.op) {
            (Some(token), Op::Request) => self.settle(token, Fate::Reset),
            (Some(token), _) => {
                if let Some(connection) = self.connections.get_mut(&token) {
                    let fate = connection.receive(header, payload, &mut self.news);
                    self.settle(token, fate);
                }
            }
            (None, Op::Request) => self.dialled(header),
            // A reset is never answered, or two sides that know nothing of each other would talk for ever.
            (None, Op::Reset) => {}
            (None, _) => self.push_reset(header.refusal()),
        }
    }

    fn next(&mut self, room: &mut [u8]) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        while let Some(token) = self.ready.pop_front() {
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            let packet = connection.next_packet(room);
            connection.queued = connection.has_work();
            if connection.queued {
                self.ready.push_back(token);
            }
            if packet.is_some() {
                return packet;
            }
        }
        None
    }

    fn has_packets(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    fn reset(&mut self) {
        self.tokens.clear();
        self.connections.clear();
        self.ready.clear();
        self.resets.clear();
    }
}

impl Drop for Muxer {
    fn drop(&mut self) {
        // Nobody can be served on it any more; the keeper removes what a kill leaves.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn stream_interest() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET
}

fn listen(path: &Path) -> std::io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    // The folder it is made in belongs to the enclave's owner, so nobody else gets in between the two calls.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
#[path = "muxer_tests.rs"]
mod tests;
