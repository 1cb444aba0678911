use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use vm_memory::{Bytes, GuestAddress};

use super::super::test_driver::Driver;
use super::*;

const REQUEST: u64 = 0x20_0000;
const RESPONSE: u64 = 0x21_0000;

struct Bench {
    driver: Driver<Nsm>,
    process: OwnedFd,
}

impl Bench {
    fn new() -> Bench {
        let (link, process) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .unwrap();
        Bench { driver: Driver::ready(Nsm::new(link)), process }
    }

    fn pump(&self) -> Option<Result<(), Error>> {
        self.driver.transport.with_active(|mut active| Nsm::pump(&mut active))
    }

    /// What the NSM process was sent.
    fn sent(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 0x2000];
        let length = recv(self.process.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).ok()?;
        buffer.truncate(length);
        Some(buffer)
    }

    fn reply(&self, bytes: &[u8]) {
        send(self.process.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
        if let Some(reply) = self.driver.transport.with_device(Nsm::receive).unwrap() {
            self.driver.transport.with_active(|mut active| Nsm::answer(&mut active, &reply));
        }
    }

    fn put(&self, bytes: &[u8]) {
        self.driver.ram.write_slice(bytes, GuestAddress(REQUEST)).unwrap();
    }

    fn response(&self, length: u32) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        self.driver.ram.read_slice(&mut bytes, GuestAddress(RESPONSE)).unwrap();
        bytes
    }
}

#[test]
fn both_chains_come_back_before_the_one_interrupt() {
    let mut bench = Bench::new();
    bench.put(b"request");
    let request = bench.driver.post(0, &[(REQUEST, 7, false)]);
    // The request alone, as a kick between the two would show it.
    bench.pump().unwrap().unwrap();
    assert_eq!(bench.sent(), None);
    let response = bench.driver.post(0, &[(RESPONSE, 0x3000, true)]);
    bench.pump().unwrap().unwrap();
    assert_eq!(bench.sent().unwrap(), b"request");
    assert_eq!(bench.driver.used(0), None);
    assert_eq!(bench.driver.interrupts(), 0);
    bench.reply(b"the answer");
    assert_eq!(bench.driver.used(0), Some((request, 0)));
    assert_eq!(bench.driver.used(0), Some((response, 10)));
    assert_eq!(bench.driver.interrupts(), 1);
    assert_eq!(bench.response(10), b"the answer");
}

#[test]
fn requests_wait_their_turn() {
    let mut bench = Bench::new();
    bench.put(b"abc");
    for _ in 0..3 {
        bench.driver.post(0, &[(REQUEST, 3, false)]);
        bench.driver.post(0, &[(RESPONSE, 0x100, true)]);
    }
    for _ in 0..3 {
        bench.pump().unwrap().unwrap();
        assert_eq!(bench.sent().unwrap(), b"abc");
        assert_eq!(bench.sent(), None);
        bench.reply(b"x");
    }
    assert_eq!((0..6).filter_map(|_| bench.driver.used(0)).count(), 6);
}

#[test]
fn a_small_buffer_gets_an_error_that_fits_and_a_tiny_one_nothing() {
    for (room, expected) in [(0x3000, 100), (99, 22), (22, 22), (21, 0)] {
        let mut bench = Bench::new();
        bench.driver.post(0, &[(REQUEST, 3, false)]);
        bench.driver.post(0, &[(RESPONSE, room, true)]);
        bench.pump().unwrap().unwrap();
        bench.reply(&[7; 100]);
        bench.driver.used(0).unwrap();
        let (_, length) = bench.driver.used(0).unwrap();
        assert_eq!(length, expected);
        if expected == 22 {
            assert_eq!(bench.response(22), b"\xa1\x65Error\x6eBufferTooSmall");
        }
    }
}

#[test]
fn a_long_request_is_answered_here() {
    let mut bench = Bench::new();
    bench.driver.post(0, &[(REQUEST, 0x1001, false)]);
    bench.driver.post(0, &[(RESPONSE, 0x3000, true)]);
    bench.pump().unwrap().unwrap();
    assert_eq!(bench.sent(), None);
    bench.driver.used(0).unwrap();
    let (_, length) = bench.driver.used(0).unwrap();
    assert_eq!(bench.response(length), b"\xa1\x65Error\x6dInputTooLarge");
}

#[test]
fn one_chain_for_both_is_understood() {
    let mut bench = Bench::new();
    bench.put(b"q");
    let head = bench.driver.post(0, &[(REQUEST, 1, false), (RESPONSE, 64, true)]);
    bench.pump().unwrap().unwrap();
    bench.reply(b"reply");
    assert_eq!(bench.driver.used(0), Some((head, 5)));
    assert_eq!(bench.driver.used(0), None);
}

#[test]
fn misuse_costs_the_driver_its_device() {
    type Chains<'a> = &'a [&'a [(u64, u32, bool)]];
    let cases: [Chains<'_>; 4] = [
        &[&[(RESPONSE, 64, true)]],
        &[&[(REQUEST, 1, false)], &[(REQUEST, 1, false)]],
        &[&[(u64::MAX - 5, 16, false)]],
        &[&[(REQUEST, 1, false)], &[(0x4000_0000, 64, true)]],
    ];
    for chains in cases {
        let mut bench = Bench::new();
        for chain in chains {
            bench.driver.post(0, chain);
        }
        assert!(bench.pump().is_none(), "{chains:?}");
        assert_eq!(bench.driver.read(0x70) & 0x40, 0x40);
    }
    let bench = Bench::new();
    bench.driver.corrupt(0);
    assert!(bench.pump().is_none());
}

#[test]
fn an_answer_to_a_request_before_a_reset_goes_to_nobody() {
    let mut bench = Bench::new();
    bench.driver.post(0, &[(REQUEST, 1, false)]);
    bench.driver.post(0, &[(RESPONSE, 64, true)]);
    bench.pump().unwrap().unwrap();
    bench.driver.write(0x70, 0);
    bench.reply(b"late");
    assert_eq!(bench.driver.used(0), None);
    assert_eq!(bench.driver.transport.with_device(|nsm| nsm.stale), 0);
}

#[test]
fn a_process_that_is_gone_is_an_error() {
    let mut bench = Bench::new();
    bench.driver.post(0, &[(REQUEST, 1, false)]);
    bench.driver.post(0, &[(RESPONSE, 64, true)]);
    drop(std::mem::replace(&mut bench.process, std::fs::File::open("/dev/null").unwrap().into()));
    assert!(matches!(bench.pump(), Some(Err(Error::Nsm { .. }))));
    assert!(bench.driver.transport.with_device(Nsm::receive).is_err());
}
