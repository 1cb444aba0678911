use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::epoll::{EpollCreateFlags, EpollTimeout};
use proptest::prelude::*;

use super::super::connection::BUFFER;
use super::super::packet::{SHUTDOWN_BOTH, SHUTDOWN_SEND};
use super::*;

const CID: u32 = 16;
const GUEST_PORT: u32 = 1000;

/// A guest's driver that says exactly what a test tells it to, and the parent around the muxer.
struct Guest {
    muxer: Muxer,
    epoll: Arc<Epoll>,
    folder: tempfile::TempDir,
    /// What the guest has taken out of its buffer, for tests with one connection.
    forwarded: u32,
    buffer: u32,
}

impl Guest {
    fn new() -> Guest {
        let folder = tempfile::tempdir().unwrap();
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap());
        let path = folder.path().join("vsock.sock");
        let muxer =
            Muxer::new(CID, &path, Parameters::default(), Arc::clone(&epoll), 4096).unwrap();
        Guest { muxer, epoll, folder, forwarded: 0, buffer: 1 << 18 }
    }

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.folder.path().join(format!("vsock.sock_{port}"))).unwrap()
    }

    fn client(&mut self, port: u32) -> UnixStream {
        let mut client = UnixStream::connect(self.folder.path().join("vsock.sock")).unwrap();
        client.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        client
    }

    fn header(&self, op: Op, host_port: u32) -> Header {
        Header {
            src_cid: u64::from(CID),
            dst_cid: PARENT_CID,
            src_port: GUEST_PORT,
            dst_port: host_port,
            len: 0,
            kind: STREAM,
            op,
            flags: 0,
            buf_alloc: self.buffer,
            fwd_cnt: self.forwarded,
        }
    }

    fn say(&mut self, op: Op, host_port: u32) {
        let header = self.header(op, host_port);
        self.muxer.receive(&header, &[]);
    }

    fn shut(&mut self, host_port: u32, flags: u32) {
        let header = Header { flags, ..self.header(Op::Shutdown, host_port) };
        self.muxer.receive(&header, &[]);
    }

    fn data(&mut self, host_port: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap();
        let header = Header { len, ..self.header(Op::Data, host_port) };
        self.muxer.receive(&header, payload);
    }

    /// Lets the muxer see what its sockets have.
    fn events(&mut self) {
        let mut events = [EpollEvent::empty(); 32];
        // Socket events are there at once; a few rounds for those that cause others.
        for _ in 0..3 {
            let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap();
            for event in &events[..count] {
                self.muxer.event(event.data(), event.events());
            }
        }
    }

    /// The next packet for the guest and its payload.
    fn hear(&mut self) -> Option<(Header, Vec<u8>)> {
        self.events();
        let mut room = vec![0; 4000];
        let header = self.muxer.next(&mut room)?;
        room.truncate(usize::try_from(header.len).unwrap());
        Some((header, room))
    }

    fn hear_op(&mut self) -> Option<Op> {
        self.hear().map(|(header, _)| header.op)
    }

    /// A connection to `port` of the parent, and the parent's end.
    fn dial(&mut self, port: u32) -> UnixStream {
        let listener = self.listen(port);
        self.say(Op::Request, port);
        assert_eq!(self.hear_op(), Some(Op::Response));
        listener.accept().unwrap().0
    }
}

#[test]
fn the_heartbeat_is_answered_by_the_vmm() {
    let mut guest = Guest::new();
    guest.say(Op::Request, 9000);
    let (response, _) = guest.hear().unwrap();
    assert_eq!((response.op, response.src_cid, response.dst_cid), (Op::Response, 3, 16));
    assert_eq!((response.src_port, response.dst_port), (9000, GUEST_PORT));
    guest.data(9000, &[0xb7]);
    let (_, payload) = guest.hear().unwrap();
    assert_eq!(payload, [0xb7]);
    assert_eq!(guest.muxer.take_news(), [News::Heartbeat]);
    guest.shut(9000, SHUTDOWN_BOTH);
    assert_eq!(guest.hear_op(), Some(Op::Reset));
    assert!(guest.muxer.connections.is_empty());
}

#[test]
fn control_is_for_the_first_who_dials_it() {
    let mut guest = Guest::new();
    guest.say(Op::Request, 9002);
    assert_eq!(guest.hear_op(), Some(Op::Response));
    guest.say(Op::Reset, 9002);
    guest.say(Op::Request, 9002);
    assert_eq!(guest.hear_op(), Some(Op::Reset));
}

#[test]
fn what_cannot_be_reached_is_reset_at_once_from_the_address_dialled() {
    let mut guest = Guest::new();
    for cid in [0, 1, 2, 4, 16, u64::from(u32::MAX), u64::MAX] {
        let header = Header { dst_cid: cid, ..guest.header(Op::Request, 9000) };
        guest.muxer.receive(&header, &[]);
        let (reset, _) = guest.hear().unwrap();
        assert_eq!((reset.op, reset.src_cid, reset.dst_port), (Op::Reset, cid, GUEST_PORT));
    }
    let seqpacket = Header { kind: 2, ..guest.header(Op::Request, 9000) };
    guest.muxer.receive(&seqpacket, &[]);
    let (reset, _) = guest.hear().unwrap();
    assert_eq!((reset.op, reset.kind), (Op::Reset, 2));
    // Ports nobody listens on: a stale socket, and none at all.
    drop(guest.listen(70));
    guest.say(Op::Request, 70);
    assert_eq!(guest.hear_op(), Some(Op::Reset));
}

#[test]
fn a_packet_that_belongs_to_nothing_is_reset_but_a_reset_never() {
    let mut guest = Guest::new();
    for op in [Op::Response, Op::Data, Op::Shutdown, Op::CreditUpdate, Op::Unknown(77)] {
        guest.say(op, 50);
        assert_eq!(guest.hear_op(), Some(Op::Reset), "{op:?}");
    }
    guest.say(Op::Reset, 50);
    assert_eq!(guest.hear_op(), None);
    let stranger = Header { src_cid: 99, ..guest.header(Op::Request, 9000) };
    guest.muxer.receive(&stranger, &[]);
    assert_eq!(guest.hear_op(), None);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut guest = Guest::new();
    let mut parent = guest.dial(5000);
    guest.data(5000, b"question");
    guest.shut(5000, SHUTDOWN_SEND);
    let mut question = String::new();
    parent.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    assert_eq!(guest.hear_op(), None, "the other direction is open");
    parent.write_all(b"answer").unwrap();
    assert_eq!(guest.hear().unwrap().1, b"answer");
    parent.shutdown(std::net::Shutdown::Write).unwrap();
    let (end, _) = guest.hear().unwrap();
    assert_eq!((end.op, end.flags & SHUTDOWN_SEND), (Op::Shutdown, SHUTDOWN_SEND));
    guest.shut(5000, SHUTDOWN_BOTH);
    assert_eq!(guest.hear_op(), Some(Op::Reset));
    assert_eq!(guest.hear_op(), None);
}

#[test]
fn a_parent_that_closes_quickly_loses_nothing() {
    let mut guest = Guest::new();
    let mut parent = guest.dial(5000);
    guest.data(5000, b"never read");
    parent.write_all(&[7; 10_000]).unwrap();
    drop(parent);
    let mut received = 0;
    loop {
        let (header, payload) = guest.hear().unwrap();
        match header.op {
            Op::Data => received += payload.len(),
            Op::Shutdown => {
                assert_eq!(header.flags, SHUTDOWN_BOTH);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(received, 10_000);
    // What the guest still sends goes nowhere, but costs it no credit.
    guest.data(5000, &[1; 60_000]);
    let (credit, _) = guest.hear().unwrap();
    assert_eq!((credit.op, credit.fwd_cnt), (Op::CreditUpdate, 60_010));
    guest.say(Op::Reset, 5000);
    assert!(guest.muxer.connections.is_empty());
}

#[test]
fn the_parent_may_not_overrun_the_guest() {
    let mut guest = Guest::new();
    guest.buffer = 5000;
    let mut parent = guest.dial(5000);
    parent.write_all(&[1; 9000]).unwrap();
    assert_eq!(guest.hear().unwrap().1.len(), 4000);
    assert_eq!(guest.hear().unwrap().1.len(), 1000);
    assert_eq!(guest.hear_op(), Some(Op::CreditRequest));
    assert_eq!(guest.hear_op(), None, "asked once");
    guest.forwarded = 5000;
    guest.say(Op::CreditUpdate, 5000);
    assert_eq!(guest.hear().unwrap().1.len(), 4000);
    // A guest that claims to have taken more than it was sent gets nothing.
    guest.forwarded = 1_000_000;
    parent.write_all(b"x").unwrap();
    guest.say(Op::CreditUpdate, 5000);
    assert_eq!(guest.hear_op(), Some(Op::CreditRequest));
    assert_eq!(guest.hear_op(), None);
}

#[test]
fn the_guest_may_not_overrun_the_parent() {
    let mut guest = Guest::new();
    let mut parent = guest.dial(5000);
    let piece = vec![9; 16 * 1024];
    let mut sent = 0u32;
    // As long as there is credit, everything is taken although the parent reads nothing.
    let told = loop {
        let told = std::iter::from_fn(|| guest.hear()).map(|(h, _)| h.fwd_cnt).last();
        match told {
            Some(fwd_cnt) if sent.wrapping_sub(fwd_cnt) + 16384 > BUFFER => break fwd_cnt,
            _ if sent > 1 << 22 => panic!("no end"),
            _ => {}
        }
        if !parent_has_room(&guest) {
            break sent;
        }
        guest.data(5000, &piece);
        sent += 16384;
    };
    assert!(told <= sent);
    // One window more than what was delivered is too much.
    for _ in 0..=BUFFER / 16384 {
        guest.data(5000, &piece);
    }
    let ops: Vec<Op> = std::iter::from_fn(|| guest.hear_op()).collect();
    assert!(ops.contains(&Op::Reset), "{ops:?}");
    drop(guest);
    let mut all = Vec::new();
    parent.read_to_end(&mut all).unwrap();
    assert!(all.iter().all(|byte| *byte == 9));
}

/// Whether the window of the only connection still has a piece free.
fn parent_has_room(guest: &Guest) -> bool {
    guest.muxer.connections.values().all(|c| c.free_window() >= 16 * 1024)
}

#[test]
fn bytes_that_wait_are_delivered_in_order_even_after_the_guest_has_gone() {
    let mut guest = Guest::new();
    let mut parent = guest.dial(5000);
    let mut sent = Vec::new();
    let mut counter = 0u8;
    while parent_has_room(&guest) && sent.len() < 1 << 22 {
        let piece: Vec<u8> = (0..16 * 1024)
            .map(|_| {
                counter = counter.wrapping_add(1);
                counter
            })
            .collect();
        guest.data(5000, &piece);
        sent.extend(piece);
    }
    assert!(guest.muxer.connections.values().all(Connection::has_undelivered_bytes));
    guest.shut(5000, SHUTDOWN_BOTH);
    guest.say(Op::Reset, 5000);
    assert_eq!(guest.muxer.tokens.len(), 0, "the ports are free again");
    assert_eq!(guest.muxer.connections.len(), 1, "it lingers");
    parent.set_nonblocking(true).unwrap();
    let mut received = Vec::new();
    let mut buffer = vec![0; 50_000];
    loop {
        match parent.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => received.extend_from_slice(&buffer[..n]),
            Err(_) => guest.events(),
        }
    }
    assert!(received == sent);
    assert!(guest.muxer.connections.is_empty());
    assert_eq!(guest.hear_op(), None);
}

#[test]
fn a_client_of_the_parent_is_connected_or_closed() {
    let mut guest = Guest::new();
    let mut client = guest.client(7000);
    client.write_all(b"early").unwrap();
    let (request, _) = guest.hear().unwrap();
    assert_eq!((request.op, request.dst_port, request.src_cid), (Op::Request, 7000, 3));
    assert_eq!(guest.hear_op(), None, "nothing before the guest's answer");
    let answer =
        |guest: &Guest, op| Header { src_port: 7000, ..guest.header(op, request.src_port) };
    let response = answer(&guest, Op::Response);
    guest.muxer.receive(&response, &[]);
    let mut line = vec![0; format!("OK {}\n", request.src_port).len()];
    client.read_exact(&mut line).unwrap();
    assert_eq!(line, format!("OK {}\n", request.src_port).into_bytes());
    assert_eq!(guest.hear().unwrap().1, b"early");

    let mut refused = guest.client(7001);
    let (request, _) = guest.hear().unwrap();
    let reset = Header { src_port: 7001, ..guest.header(Op::Reset, request.src_port) };
    guest.muxer.receive(&reset, &[]);
    assert_eq!(refused.read(&mut [0]).unwrap(), 0);
    assert_eq!(guest.hear_op(), None);
}

#[test]
fn who_takes_too_long_is_given_up() {
    let mut guest = Guest::new();
    let mut silent = UnixStream::connect(guest.folder.path().join("vsock.sock")).unwrap();
    let mut unanswered = guest.client(7000);
    assert_eq!(guest.hear_op(), Some(Op::Request));
    let deadline = guest.muxer.deadline().unwrap();
    guest.muxer.expire(deadline - Duration::from_millis(1));
    assert_eq!((guest.muxer.greetings.len(), guest.muxer.connections.len()), (1, 1));
    guest.muxer.expire(Instant::now() + Duration::from_secs(60));
    assert_eq!((guest.muxer.greetings.len(), guest.muxer.connections.len()), (0, 0));
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    assert_eq!(unanswered.read(&mut [0]).unwrap(), 0);
    assert_eq!(guest.hear_op(), Some(Op::Reset));
}

#[test]
fn connections_and_resets_are_counted() {
    let mut guest = Guest::new();
    guest.muxer.limit = 3;
    for port in 0..5 {
        let header = Header { src_port: port, ..guest.header(Op::Request, 9000) };
        guest.muxer.receive(&header, &[]);
    }
    let ops: Vec<Op> = std::iter::from_fn(|| guest.hear_op()).collect();
    assert_eq!(ops.iter().filter(|op| **op == Op::Response).count(), 3);
    assert_eq!(ops.iter().filter(|op| **op == Op::Reset).count(), 2);
    for _ in 0..RESETS + 100 {
        guest.say(Op::Data, 50);
    }
    assert_eq!(guest.muxer.resets.len(), RESETS);
    guest.muxer.reset();
    assert!(guest.muxer.connections.is_empty() && !guest.muxer.has_packets());
}

#[test]
fn a_second_request_on_the_same_ports_ends_both() {
    let mut guest = Guest::new();
    let mut parent = guest.dial(5000);
    guest.say(Op::Request, 5000);
    assert_eq!(guest.hear_op(), Some(Op::Reset));
    assert_eq!(parent.read(&mut [0]).unwrap(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_guest_can_break_the_muxer(
        packets in prop::collection::vec(
            (0u16..9, 0u32..4, prop::sample::select(vec![9000u32, 9002, 5000, 60]), 0u32..5,
             prop_oneof![Just(0u32), Just(u32::MAX), any::<u32>()], 0usize..3000),
            0..80,
        )
    ) {
        let mut guest = Guest::new();
        let listener = guest.listen(5000);
        listener.set_nonblocking(true).unwrap();
        let mut parents = Vec::new();
        for (op, flags, port, src_port, credit, length) in packets {
            let payload = vec![0xb7; if op == 5 { length } else { 0 }];
            let header = Header {
                len: u32::try_from(payload.len()).unwrap(),
                flags,
                src_port,
                fwd_cnt: credit,
                ..guest.header(Op::from(op), port)
            };
            guest.muxer.receive(&header, &payload);
            if let Ok((mut parent, _)) = listener.accept() {
                parent.write_all(b"hello").unwrap();
                parents.push(parent);
            }
            while let Some((header, payload)) = guest.hear() {
                prop_assert_eq!(usize::try_from(header.len).unwrap(), payload.len());
                prop_assert_eq!(header.dst_cid, u64::from(CID));
                prop_assert_eq!(header.len > 0, header.op == Op::Data);
            }
            prop_assert!(guest.muxer.tokens.len() <= guest.muxer.connections.len());
        }
    }
}
