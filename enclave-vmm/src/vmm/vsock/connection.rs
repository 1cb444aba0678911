//! One stream between a guest port and the parent's end. Both directions are independent: each has its own credit (the
//! receiver's buffer minus what is on its way, counted for this connection alone), its own end, and its own back-pressure. A
//! connection never acts by itself; the muxer hands it packets and socket events and asks it for packets.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::endpoint::{Endpoint, Progress};
use super::packet::{Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM};
use super::service::News;

/// What the guest may send before it must hear from us, bytes; also the most that is ever kept for the parent's end.
pub const BUFFER: u32 = 64 * 1024;
/// Credit is told anew after this many bytes, so that a sender that has a full window to itself never waits.
const CREDIT_STEP: u32 = BUFFER / 4;
/// How long the guest may take to answer a request.
pub const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// Which connection: one per pair of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// In the parent.
    pub host_port: u32,
    /// In the enclave.
    pub guest_port: u32,
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The guest asked; the parent's end is not connected yet.
    Connecting,
    /// The parent asked; the guest has not answered yet.
    Requested { told: bool },
    /// Both ends are there.
    Established,
}

/// What the muxer must do with a connection after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It lives on.
    Stays,
    /// It is over; tell the guest with a reset.
    Reset,
    /// It is over, and the guest knows.
    Over,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    key: Key,
    host_cid: u64,
    guest_cid: u64,
    endpoint: Endpoint,
    state: State,
    /// From the guest, not yet taken by the parent's end.
    inbound: VecDeque<u8>,
    received: u32,
    forwarded: u32,
    told_forwarded: u32,
    sent: u32,
    peer_buffer: u32,
    peer_forwarded: u32,
    /// The parent's end may have bytes (its events are edge-triggered).
    readable: bool,
    response_due: bool,
    credit_due: bool,
    credit_asked: bool,
    /// Directions the guest has ended, as in a shutdown packet.
    guest_ended: u32,
    /// Directions the parent's end has ended, in the same terms.
    host_ended: u32,
    /// What the guest knows of `host_ended`.
    host_ended_told: u32,
    hung_up: bool,
    write_finished: bool,
    /// Kept by the muxer: whether it is in its queue of connections with work.
    pub(super) queued: bool,
}

impl Connection {
    /// The answer to `request`, whose parent's end is `endpoint`.
    #[must_use]
    pub fn accepted(request: &Header, endpoint: Endpoint, progress: Progress) -> Connection {
        let key = Key { host_port: request.dst_port, guest_port: request.src_port };
        let mut connection =
            Connection::new(key, request.dst_cid, request.src_cid, endpoint, State::Connecting);
        connection.note_credit(request);
        if progress == Progress::Done {
            connection.establish();
        }
        connection
    }

    /// A request of a client in the parent.
    #[must_use]
    pub fn requested(key: Key, host_cid: u64, guest_cid: u64, endpoint: Endpoint) -> Connection {
        Connection::new(key, host_cid, guest_cid, endpoint, State::Requested { told: false })
    }

    fn new(
        key: Key,
        host_cid: u64,
        guest_cid: u64,
        endpoint: Endpoint,
        state: State,
    ) -> Connection {
        Connection {
            key,
            host_cid,
            guest_cid,
            endpoint,
            state,
            inbound: VecDeque::new(),
            received: 0,
            forwarded: 0,
            told_forwarded: 0,
            sent: 0,
            peer_buffer: 0,
            peer_forwarded: 0,
            readable: true,
            response_due: false,
            credit_due: false,
            credit_asked: false,
            guest_ended: 0,
            host_ended: 0,
            host_ended_told: 0,
            hung_up: false,
            write_finished: false,
            queued: false,
        }
    }

    /// Its ports.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key
    }

    /// The parent's end.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// When an unanswered request is given up.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        matches!(self.state, State::Requested { .. })
    }

    /// Whether bytes the guest has sent in good order still wait for the parent's end.
    #[must_use]
    pub fn has_undelivered(&self) -> bool {
        !self.inbound.is_empty() && self.guest_ended & SHUTDOWN_SEND != 0
    }

    /// Whether any bytes wait for the parent's end.
    #[cfg(test)]
    pub(super) fn has_undelivered_bytes(&self) -> bool {
        !self.inbound.is_empty()
    }

    /// What the guest may still send, bytes.
    #[must_use]
    pub fn free_window(&self) -> u32 {
        BUFFER.saturating_sub(self.received.wrapping_sub(self.forwarded))
    }

    /// Whether [`Connection::next_packet`] may have something.
    #[must_use]
    pub fn has_work(&self) -> bool {
        match self.state {
            State::Connecting => false,
            State::Requested { told } => !told,
            State::Established => {
                self.response_due
                    || self.credit_due
                    || self.host_ended & !self.host_ended_told != 0
                    || (self.wants_read() && (self.peer_free() > 0 || !self.credit_asked))
            }
        }
    }

    /// A packet of this connection from the guest.
    pub fn receive(&mut self, header: &Header, payload: &[u8], news: &mut Vec<News>) -> Fate {
        self.note_credit(header);
        match (header.op, self.state) {
            (Op::Reset, _) => Fate::Over,
            (Op::Response, State::Requested { told: true }) => {
                self.state = State::Established;
                let text = format!("OK {}\n", self.key.host_port);
                match self.endpoint.write(text.as_bytes(), news) {
                    Ok(n) if n == text.len() => Fate::Stays,
                    // The client has gone, or fills its own buffer before it has heard anything.
                    _ => Fate::Reset,
                }
            }
            (Op::CreditUpdate, State::Established) => Fate::Stays,
            (Op::CreditRequest, State::Established) => {
                self.credit_due = true;
                Fate::Stays
            }
            (Op::Data, State::Established) => self.receive_data(payload, news),
            (Op::Shutdown, State::Established) => {
                self.guest_ended |= header.flags & SHUTDOWN_BOTH;
                self.after_delivery()
            }
            // A connection that is still being opened may be given up.
            (Op::Shutdown, _) => Fate::Reset,
            _ => Fate::Reset,
        }
    }

    fn receive_data(&mut self, payload: &[u8], news: &mut Vec<News>) -> Fate {
        let Ok(length) = u32::try_from(payload.len()) else { return Fate::Reset };
        if length > self.free_window() || self.guest_ended & SHUTDOWN_SEND != 0 {
            return Fate::Reset;
        }
        self.received = self.received.wrapping_add(length);
        if self.host_ended & SHUTDOWN_RECEIVE != 0 {
            self.count_forwarded(payload.len());
            return Fate::Stays;
        }
        let taken = if self.inbound.is_empty() {
            match self.write(payload, news) {
                Ok(taken) => taken,
                Err(fate) => return fate,
            }
        } else {
            0
        };
        if self.host_ended & SHUTDOWN_RECEIVE == 0 {
            self.inbound.extend(payload.get(taken..).unwrap_or_default());
        }
        Fate::Stays
    }

    /// Writes to the parent's end as far as it takes it. Bytes it will never take count as forwarded.
    fn write(&mut self, bytes: &[u8], news: &mut Vec<News>) -> Result<usize, Fate> {
        match self.endpoint.write(bytes, news) {
            Ok(taken) => {
                self.count_forwarded(taken);
                // A service may have an answer now.
                self.readable |= matches!(self.endpoint, Endpoint::Service(_));
                Ok(taken)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(_) if matches!(self.endpoint, Endpoint::Service(_)) => Err(Fate::Reset),
            Err(_) => {
                // It reads no more, but what it has written before may still be on its way to the guest.
                self.host_ended |= SHUTDOWN_RECEIVE;
                self.count_forwarded(bytes.len());
                Ok(bytes.len())
            }
        }
    }

    fn count_forwarded(&mut self, bytes: usize) {
        // At most BUFFER.
        self.forwarded = self.forwarded.wrapping_add(u32::try_from(bytes).unwrap_or(0));
        if self.forwarded.wrapping_sub(self.told_forwarded) >= CREDIT_STEP {
            self.credit_due = true;
        }
    }

    /// The parent's end can take bytes, or its connect has an outcome.
    pub fn writable(&mut self, news: &mut Vec<News>) -> Fate {
        match self.state {
            State::Connecting => match self.endpoint.connected() {
                Ok(()) => {
                    self.establish();
                    Fate::Stays
                }
                Err(_) => Fate::Reset,
            },
            State::Requested { .. } => Fate::Stays,
            State::Established => self.deliver(news),
        }
    }

    fn deliver(&mut self, news: &mut Vec<News>) -> Fate {
        while !self.inbound.is_empty() {
            let inbound = std::mem::take(&mut self.inbound);
            let outcome = self.write(inbound.as_slices().0, news);
            self.inbound = inbound;
            match outcome {
                Ok(0) => break,
                Ok(taken) => drop(self.inbound.drain(..taken)),
                Err(fate) => return fate,
            }
            if self.host_ended & SHUTDOWN_RECEIVE != 0 {
                let rest = self.inbound.len();
                self.count_forwarded(rest);
                self.inbound.clear();
            }
        }
        if self.inbound.is_empty() {
            // Most connections are quiet most of the time.
            self.inbound = VecDeque::new();
        }
        self.after_delivery()
    }

    /// Passes on what the guest has ended once everything before it has been delivered.
    fn after_delivery(&mut self) -> Fate {
        if !self.inbound.is_empty() {
            return Fate::Stays;
        }
        if self.guest_ended & SHUTDOWN_SEND != 0 && !self.write_finished {
            self.write_finished = true;
            self.endpoint.finish_writing();
        }
        if self.guest_ended == SHUTDOWN_BOTH { Fate::Reset } else { Fate::Stays }
    }

    /// The parent's end has bytes, or its end of stream.
    pub fn note_readable(&mut self) {
        self.readable = true;
    }

    /// The parent's end is closed in both directions.
    pub fn note_hang_up(&mut self) {
        self.hung_up = true;
        self.readable = true;
        if self.host_ended & SHUTDOWN_SEND != 0 {
            self.host_ended |= SHUTDOWN_RECEIVE;
        }
    }

    /// The next packet for the guest; its payload, if it has one, is in `room`.
    pub fn next_packet(&mut self, room: &mut [u8]) -> Option<Header> {
        match &mut self.state {
            State::Connecting => return None,
            State::Requested { told: true } => return None,
            State::Requested { told } => {
                *told = true;
                return Some(self.packet(Op::Request, 0, 0));
            }
            State::Established => {}
        }
        if std::mem::take(&mut self.response_due) {
            return Some(self.packet(Op::Response, 0, 0));
        }
        if self.wants_read() {
            let credit = self.peer_free();
            if credit == 0 {
                if !std::mem::replace(&mut self.credit_asked, true) {
                    return Some(self.packet(Op::CreditRequest, 0, 0));
                }
            } else if let Some(length) = self.read(credit, room) {
                self.sent = self.sent.wrapping_add(length);
                return Some(self.packet(Op::Data, length, 0));
            }
        }
        let news = self.host_ended & !self.host_ended_told;
        if news != 0 {
            self.host_ended_told |= news;
            return Some(self.packet(Op::Shutdown, 0, self.host_ended));
        }
        if self.credit_due {
            return Some(self.packet(Op::CreditUpdate, 0, 0));
        }
        None
    }

    fn wants_read(&self) -> bool {
        self.readable
            && self.host_ended & SHUTDOWN_SEND == 0
            && self.guest_ended & SHUTDOWN_RECEIVE == 0
    }

    /// Bytes from the parent's end, at most `credit`; `None` when there are none now or ever again.
    fn read(&mut self, credit: u32, room: &mut [u8]) -> Option<u32> {
        let length = room.len().min(usize::try_from(credit).unwrap_or(usize::MAX));
        match self.endpoint.read(room.get_mut(..length)?) {
            Ok(0) if length > 0 => {
                self.host_ended |= SHUTDOWN_SEND;
                if self.hung_up {
                    self.host_ended |= SHUTDOWN_RECEIVE;
                }
                self.readable = false;
                None
            }
            Ok(n) => u32::try_from(n).ok().filter(|n| *n > 0),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                None
            }
            Err(_) => {
                // The parent's end was closed with bytes unread. For the guest that is an ordinary end: a reset would
                // take away what it has not read yet.
                self.host_ended |= SHUTDOWN_BOTH;
                self.readable = false;
                None
            }
        }
    }

    fn establish(&mut self) {
        self.state = State::Established;
        self.response_due = true;
    }

    fn note_credit(&mut self, header: &Header) {
        self.peer_buffer = header.buf_alloc;
        self.peer_forwarded = header.fwd_cnt;
        if self.peer_free() > 0 {
            self.credit_asked = false;
        }
    }

    /// What the guest can still take. A guest that counts wrongly gets nothing more.
    fn peer_free(&self) -> u32 {
        self.peer_buffer.saturating_sub(self.sent.wrapping_sub(self.peer_forwarded))
    }

    fn packet(&mut self, op: Op, len: u32, flags: u32) -> Header {
        self.told_forwarded = self.forwarded;
        self.credit_due = false;
        Header {
            src_cid: self.host_cid,
            dst_cid: self.guest_cid,
            src_port: self.key.host_port,
            dst_port: self.key.guest_port,
            len,
            kind: STREAM,
            op,
            flags,
            buf_alloc: BUFFER,
            fwd_cnt: self.forwarded,
        }
    }

    /// The reset of this connection.
    #[must_use]
    pub fn reset_packet(&mut self) -> Header {
        self.packet(Op::Reset, 0, 0)
    }
}

/// When a request made now is given up.
#[must_use]
pub fn request_deadline(now: Instant) -> Instant {
    now + REQUEST_PATIENCE
}
