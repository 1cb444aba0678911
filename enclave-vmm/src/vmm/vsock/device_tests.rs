use std::collections::VecDeque;

use vm_memory::{Bytes, GuestAddress};

use super::super::test_driver::Driver;
use super::packet::{Op, STREAM};
use super::*;

const HEADER_AT: u64 = 0x20_0000;
const DATA_AT: u64 = 0x21_0000;

/// Keeps what the guest sends and sends what it is told to.
#[derive(Default)]
struct Script {
    heard: Vec<(Header, Vec<u8>)>,
    to_say: VecDeque<Vec<u8>>,
    resets: u32,
}

impl Backend for Script {
    fn receive(&mut self, header: &Header, payload: &[u8]) {
        self.heard.push((*header, payload.to_vec()));
    }

    fn next(&mut self, room: &mut [u8]) -> Option<Header> {
        let payload = self.to_say.pop_front()?;
        let length = payload.len().min(room.len());
        room[..length].copy_from_slice(&payload[..length]);
        Some(header(u32::try_from(length).unwrap()))
    }

    fn has_packets(&self) -> bool {
        !self.to_say.is_empty()
    }

    fn reset(&mut self) {
        self.resets += 1;
    }
}

fn header(len: u32) -> Header {
    Header {
        src_cid: 16,
        dst_cid: 3,
        src_port: 1,
        dst_port: 2,
        len,
        kind: STREAM,
        op: Op::Data,
        flags: 0,
        buf_alloc: 0,
        fwd_cnt: 0,
    }
}

fn driver() -> Driver<Vsock<Script>> {
    Driver::ready(Vsock::new(16, Script::default()))
}

fn process(driver: &Driver<Vsock<Script>>) -> Option<bool> {
    driver.transport.with_active(|mut active| Vsock::process(&mut active))
}

#[test]
fn the_guest_reads_its_address() {
    assert_eq!(driver().read(0x100), 16);
    assert_eq!(driver().read(0x104), 0);
}

#[test]
fn a_packet_scattered_over_descriptors_arrives_whole() {
    let mut driver = driver();
    let payload: Vec<u8> =
        (0..65_536u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    driver.ram.write_slice(&header(65_536).to_bytes(), GuestAddress(HEADER_AT)).unwrap();
    driver.ram.write_slice(&payload, GuestAddress(DATA_AT)).unwrap();
    // As kernels since 6.17 do it, and with a header in two pieces for good measure.
    let head = driver.post(
        TRANSMIT,
        &[
            (HEADER_AT, 20, false),
            (HEADER_AT + 20, 24, false),
            (DATA_AT, 32_768, false),
            (DATA_AT + 32_768, 32_768, false),
        ],
    );
    assert_eq!(process(&driver), Some(false));
    assert_eq!(driver.used(TRANSMIT), Some((head, 0)));
    let heard = driver.transport.with_device(|device| device.backend().heard.pop()).unwrap();
    assert_eq!(heard.0, header(65_536));
    assert!(heard.1 == payload);
}

#[test]
fn a_payload_fills_the_buffer_the_guest_has_posted() {
    let mut driver = driver();
    driver.transport.with_device(|device| {
        device.backend().to_say = [b"hello".to_vec(), vec![7; 5000]].into();
    });
    assert_eq!(process(&driver), Some(false));
    assert_eq!(driver.interrupts(), 0, "there is no buffer yet");
    driver.post(RECEIVE, &[(DATA_AT, 4096, true)]);
    driver.post(RECEIVE, &[(DATA_AT + 4096, 44, true), (DATA_AT + 8192, 100, true)]);
    assert_eq!(process(&driver), Some(false));
    assert_eq!(driver.used(RECEIVE).unwrap().1, 49);
    assert_eq!(driver.used(RECEIVE).unwrap().1, 144);
    assert_eq!(driver.interrupts(), 1);
    let mut bytes = [0; 49];
    driver.ram.read_slice(&mut bytes, GuestAddress(DATA_AT)).unwrap();
    assert_eq!(bytes[..44], header(5).to_bytes());
    assert_eq!(&bytes[44..], b"hello");
}

#[test]
fn packets_that_lie_about_their_length_cost_the_driver_its_device() {
    type Buffers<'a> = &'a [(u64, u32, bool)];
    let cases: [(u32, Buffers<'_>); 5] = [
        (5, &[(HEADER_AT, 44, false)]),
        (65_537, &[(HEADER_AT, 44, false), (DATA_AT, 65_537, false)]),
        (u32::MAX, &[(HEADER_AT, 44, false)]),
        (0, &[(HEADER_AT, 43, false)]),
        (0, &[(0x7000_0000, 44, false)]),
    ];
    for (len, buffers) in cases {
        let mut driver = driver();
        driver.ram.write_slice(&header(len).to_bytes(), GuestAddress(HEADER_AT)).unwrap();
        driver.post(TRANSMIT, buffers);
        assert_eq!(process(&driver), None, "{len} {buffers:?}");
        assert_eq!(driver.transport.with_device(|device| device.backend().heard.len()), 0);
    }
    let mut driver = driver();
    driver.transport.with_device(|device| device.backend().to_say.push_back(vec![1]));
    driver.post(RECEIVE, &[(DATA_AT, 43, true)]);
    assert_eq!(process(&driver), None);
}
