//! virtio-vsock (device 19): the queues on one side, a backend on the other. A packet crosses as a header that has been
//! copied and checked and a payload of exactly its length, so no backend ever sees guest memory. Payloads come through
//! `virtio-queue`'s `Reader` and `Writer`, because kernels since 6.17 scatter one packet over several descriptors.

pub mod connection;
pub mod endpoint;
pub mod greeting;
pub mod muxer;
pub mod packet;
pub mod service;

use std::io::{Read, Write};

use virtio_queue::{QueueOwnedT, QueueT, Reader, Writer};

use super::mmio::{Active, DriverFault, VirtioDevice};
use super::virtqueue;
use muxer::Muxer;
use packet::{HEADER, Header};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Largest payload of one packet, bytes; what Linux sends at most.
const PAYLOAD: usize = 64 * 1024;
/// Packets of one direction in one go, after which others have their turn.
const BATCH: usize = 256;

/// Where packets go and come from.
pub trait Backend {
    /// A packet of the guest; `payload` is as long as the header says.
    fn receive(&mut self, header: &Header, payload: &[u8]);

    /// The next packet for the guest, its payload (at most as much as fits) at the start of `room`.
    fn next(&mut self, room: &mut [u8]) -> Option<Header>;

    /// Whether [`Backend::next`] may have something.
    fn has_packets(&self) -> bool;

    /// The guest's driver has been reset: every connection is gone.
    fn reset(&mut self);
}

/// The device.
#[derive(Debug)]
pub struct Vsock<B = Muxer> {
    guest_cid: u32,
    backend: B,
    scratch: Vec<u8>,
}

impl<B: Backend> Vsock<B> {
    /// A device whose guest has the address `guest_cid`.
    #[must_use]
    pub fn new(guest_cid: u32, backend: B) -> Vsock<B> {
        Vsock { guest_cid, backend, scratch: vec![0; PAYLOAD] }
    }

    /// The other side.
    pub fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Moves packets both ways; true when there are more than fit in one go.
    ///
    /// # Errors
    /// A [`DriverFault`].
    pub fn process(active: &mut Active<'_, Vsock<B>>) -> Result<bool, DriverFault> {
        // What comes from the guest first: it may make room in connections, or cause an answer.
        let more_out = Self::transmit(active)?;
        let more_in = Self::fill(active)?;
        Ok(more_out || more_in)
    }

    fn transmit(active: &mut Active<'_, Vsock<B>>) -> Result<bool, DriverFault> {
        let Active { device, queues, ram, interrupt } = active;
        let ram = *ram;
        let Some(queue) = queues.get_mut(TRANSMIT).filter(|queue| queue.ready()) else {
            return Ok(false);
        };
        let mut taken = 0;
        while taken < BATCH {
            let Some(chain) = virtqueue::pop(queue, ram)? else { break };
            taken += 1;
            let head = chain.head_index();
            let mut reader = Reader::<()>::new(ram, chain)
                .map_err(|_| DriverFault("a vsock packet outside of memory"))?;
            let mut bytes = [0; HEADER];
            reader
                .read_exact(&mut bytes)
                .map_err(|_| DriverFault("a vsock packet shorter than its header"))?;
            let header = Header::from_bytes(&bytes);
            let payload = usize::try_from(header.len)
                .ok()
                .and_then(|length| device.scratch.get_mut(..length))
                .ok_or(DriverFault("a vsock packet longer than 64 KiB"))?;
            reader
                .read_exact(payload)
                .map_err(|_| DriverFault("a vsock packet shorter than it says"))?;
            device.backend.receive(&header, payload);
            queue.add_used(ram, head, 0).map_err(|_| BAD_RING)?;
        }
        if taken > 0 && queue.needs_notification(ram).map_err(|_| BAD_RING)? {
            interrupt.used();
        }
        Ok(taken == BATCH)
    }

    fn fill(active: &mut Active<'_, Vsock<B>>) -> Result<bool, DriverFault> {
        let Active { device, queues, ram, interrupt } = active;
        let ram = *ram;
        let Some(queue) = queues.get_mut(RECEIVE).filter(|queue| queue.ready()) else {
            return Ok(false);
        };
        let mut filled = 0;
        while filled < BATCH && device.backend.has_packets() {
            let Some(chain) = virtqueue::pop(queue, ram)? else { break };
            let head = chain.head_index();
            let mut writer = Writer::<()>::new(ram, chain)
                .map_err(|_| DriverFault("a vsock buffer outside of memory"))?;
            let room = writer
                .available_bytes()
                .checked_sub(HEADER)
                .ok_or(DriverFault("a vsock buffer shorter than a header"))?
                .min(PAYLOAD);
            let scratch = device.scratch.get_mut(..room).unwrap_or_default();
            let Some(header) = device.backend.next(scratch) else {
                queue.go_to_previous_position();
                break;
            };
            let length = usize::try_from(header.len).unwrap_or(usize::MAX).min(room);
            let payload = scratch.get(..length).unwrap_or_default();
            writer
                .write_all(&header.to_bytes())
                .and_then(|()| writer.write_all(payload))
                .map_err(|_| DriverFault("a vsock buffer that cannot be written"))?;
            // HEADER + PAYLOAD at most.
            let used = u32::try_from(HEADER + length).unwrap_or(0);
            queue.add_used(ram, head, used).map_err(|_| BAD_RING)?;
            filled += 1;
        }
        if filled > 0 && queue.needs_notification(ram).map_err(|_| BAD_RING)? {
            interrupt.used();
        }
        Ok(filled == BATCH)
    }
}

const BAD_RING: DriverFault = DriverFault("a vsock used ring that cannot be written");

impl<B: Backend> VirtioDevice for Vsock<B> {
    const ID: u32 = 19;
    const QUEUES: &'static [u16] = &[256, 256, 16];

    /// `guest_cid`, 64 bits little-endian.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = u64::from(self.guest_cid).to_le_bytes();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, from) in data.iter_mut().zip(config.iter().skip(offset)) {
            *to = *from;
        }
    }

    fn reset(&mut self) {
        self.backend.reset();
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
