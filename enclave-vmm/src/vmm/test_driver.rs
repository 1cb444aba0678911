//! A virtio driver as small as tests need: it negotiates over the registers, posts chains and looks at used rings.

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::memory::{GuestRam, Memory, Pages};
use super::mmio::{Transport, VirtioDevice};

/// `FEATURES_OK` with everything before it.
pub(crate) const FEATURES_OK: u32 = 0xb;
/// `DRIVER_OK` with everything before it.
pub(crate) const DRIVER_OK: u32 = 0xf;

/// Ring size of every queue here.
const SIZE: u16 = 16;
const RINGS: u64 = 0x10_0000;
const RING_STRIDE: u64 = 0x1_0000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

pub(crate) struct Driver<D> {
    pub(crate) transport: Transport<D>,
    pub(crate) ram: GuestRam,
    pub(crate) line: EventFd,
    pub(crate) activated: EventFd,
    _memory: Memory,
    queues: Vec<Ring>,
}

struct Ring {
    base: u64,
    next_descriptor: u16,
    available: u16,
    seen: u16,
}

impl<D: VirtioDevice> Driver<D> {
    /// The device, untouched by any driver.
    pub(crate) fn new(device: D) -> Driver<D> {
        let memory = Memory::new(4, Pages::Ordinary).unwrap();
        let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let for_device = line.try_clone().unwrap();
        let activated = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let wake = activated.try_clone().unwrap();
        let transport = Transport::new(device, memory.ram().clone(), for_device, wake).unwrap();
        let queues = (0..D::QUEUES.len() as u64)
            .map(|index| Ring {
                base: RINGS + index * RING_STRIDE,
                next_descriptor: 0,
                available: 0,
                seen: 0,
            })
            .collect();
        Driver { transport, ram: memory.ram().clone(), line, activated, _memory: memory, queues }
    }

    /// The device with a driver that is ready.
    pub(crate) fn ready(device: D) -> Driver<D> {
        let driver = Driver::new(device);
        driver.negotiate();
        for queue in 0..D::QUEUES.len() {
            driver.set_up(u32::try_from(queue).unwrap());
        }
        driver.write(0x70, DRIVER_OK);
        assert_eq!(driver.read(0x70), DRIVER_OK);
        driver
    }

    pub(crate) fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn write(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Up to `FEATURES_OK`, with VERSION_1 alone.
    pub(crate) fn negotiate(&self) {
        self.write(0x70, 0);
        self.write(0x70, 1);
        self.write(0x70, 3);
        self.write(0x24, 1);
        self.write(0x20, 1);
        self.write(0x70, FEATURES_OK);
        assert_eq!(self.read(0x70), FEATURES_OK);
    }

    pub(crate) fn set_up(&self, queue: u32) {
        let base = u32::try_from(RINGS + u64::from(queue) * RING_STRIDE).unwrap();
        self.write(0x30, queue);
        self.write(0x38, u32::from(SIZE));
        self.write(0x80, base);
        self.write(0x90, base + 0x1000);
        self.write(0xa0, base + 0x2000);
        self.write(0x44, 1);
    }

    /// Posts a chain of `(address, length, device writes)` and gives its head.
    pub(crate) fn post(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) -> u16 {
        let ring = &mut self.queues[queue];
        let head = ring.next_descriptor;
        for (index, (address, length, write)) in buffers.iter().enumerate() {
            let slot = ring.next_descriptor % SIZE;
            ring.next_descriptor = (slot + 1) % SIZE;
            let last = index + 1 == buffers.len();
            let flags = if *write { WRITE } else { 0 } | if last { 0 } else { NEXT };
            let at = ring.base + u64::from(slot) * 16;
            self.ram.write_obj(*address, GuestAddress(at)).unwrap();
            self.ram.write_obj(*length, GuestAddress(at + 8)).unwrap();
            self.ram.write_obj(flags, GuestAddress(at + 12)).unwrap();
            self.ram.write_obj(ring.next_descriptor, GuestAddress(at + 14)).unwrap();
        }
        let slot = ring.base + 0x1000 + 4 + u64::from(ring.available % SIZE) * 2;
        self.ram.write_obj(head, GuestAddress(slot)).unwrap();
        ring.available = ring.available.wrapping_add(1);
        self.ram.write_obj(ring.available, GuestAddress(ring.base + 0x1002)).unwrap();
        head
    }

    /// Makes the available ring claim more than it can hold.
    pub(crate) fn corrupt(&self, queue: usize) {
        self.ram.write_obj(0x7fffu16, GuestAddress(self.queues[queue].base + 0x1002)).unwrap();
    }

    /// The next used entry: head and length.
    pub(crate) fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let ring = &mut self.queues[queue];
        let index: u16 = self.ram.read_obj(GuestAddress(ring.base + 0x2002)).unwrap();
        if index == ring.seen {
            return None;
        }
        let at = ring.base + 0x2000 + 4 + u64::from(ring.seen % SIZE) * 8;
        ring.seen = ring.seen.wrapping_add(1);
        let head: u32 = self.ram.read_obj(GuestAddress(at)).unwrap();
        let length: u32 = self.ram.read_obj(GuestAddress(at + 4)).unwrap();
        Some((u16::try_from(head).unwrap(), length))
    }

    /// Interrupts since the last call.
    pub(crate) fn interrupts(&self) -> u64 {
        self.line.read().unwrap_or(0)
    }
}
