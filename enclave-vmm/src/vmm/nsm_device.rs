//! virtio-nsm (device 33, AWS's own; Linux `drivers/misc/nsm.c`): one queue, on which the driver posts two chains for one
//! exchange, first the request, then the buffer for the response. Both come back, the request with length 0 first, and
//! only then one interrupt, because the driver looks once. Requests go to the nsm process as they are, one at a time, and
//! nobody waits for the answer in the meantime.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use nsm::Response;
use nsm::message::ErrorCode;
use virtio_queue::{DescriptorChain, QueueT, Reader, Writer};

use super::error::Error;
use super::memory::GuestRam;
use super::mmio::{Active, DriverFault, VirtioDevice};
use super::virtqueue;

/// Longest request, bytes.
const REQUEST_MAX: usize = 0x1000;
/// Longest response, bytes.
const RESPONSE_MAX: usize = 0x3000;
/// A signature takes milliseconds; half the time the driver waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// A chain that stays with us while the nsm process works.
type Chain = DescriptorChain<Arc<GuestRam>>;

/// The device.
#[derive(Debug)]
pub struct Nsm {
    link: OwnedFd,
    request: Option<Request>,
    in_flight: Option<InFlight>,
    /// Answers still to come to requests that a reset has cancelled.
    stale: usize,
}

#[derive(Debug)]
struct Request {
    head: u16,
    /// The request; longer than [`REQUEST_MAX`] only by one byte, which says that it was too long.
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct InFlight {
    /// `None` when request and response share a chain.
    request_head: Option<u16>,
    response: Chain,
    since: Instant,
}

impl Nsm {
    /// `link` is the SEQPACKET socket to the nsm process.
    #[must_use]
    pub fn new(link: OwnedFd) -> Nsm {
        Nsm { link, request: None, in_flight: None, stale: 0 }
    }

    /// What to wait on for answers.
    #[must_use]
    pub fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// Until when an answer must have come.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.in_flight.as_ref().map(|exchange| exchange.since + PATIENCE)
    }

    /// Takes the next request from the queue and sends it on, if none is under way.
    ///
    /// # Errors
    /// A [`DriverFault`]; the inner [`Error::Nsm`] ends the enclave.
    pub fn pump(active: &mut Active<'_, Nsm>) -> Result<Result<(), Error>, DriverFault> {
        let ram = Arc::new(active.ram.clone());
        while active.device.in_flight.is_none() {
            let Some((request, response)) = next_exchange(active, &ram)? else { break };
            let shared = request.head == response.head_index();
            let request_head = (!shared).then_some(request.head);
            if request.bytes.len() > REQUEST_MAX {
                let reply = Response::Error(ErrorCode::InputTooLarge).to_vec();
                complete(active, request_head, response, &reply.unwrap_or_default())?;
                continue;
            }
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            if send(active.device.link.as_raw_fd(), &request.bytes, flags).is_err() {
                return Ok(Err(Error::Nsm { what: "takes no request" }));
            }
            active.device.in_flight =
                Some(InFlight { request_head, response, since: Instant::now() });
        }
        Ok(Ok(()))
    }

    /// Reads one answer, if one is there.
    ///
    /// # Errors
    /// [`Error::Nsm`] when the process is gone.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut reply = vec![0; RESPONSE_MAX];
        let length = loop {
            match recv(self.link.as_raw_fd(), &mut reply, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(Error::Nsm { what: "has ended" }),
                Ok(length) => break length,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(_) => return Err(Error::Nsm { what: "has ended" }),
            }
        };
        reply.truncate(length);
        if self.stale > 0 {
            self.stale -= 1;
            return Ok(None);
        }
        Ok(Some(reply))
    }

    /// Hands an answer to the driver.
    ///
    /// # Errors
    /// A [`DriverFault`].
    pub fn answer(active: &mut Active<'_, Nsm>, reply: &[u8]) -> Result<(), DriverFault> {
        match active.device.in_flight.take() {
            Some(exchange) => complete(active, exchange.request_head, exchange.response, reply),
            // The process answered what nobody asked; there is nothing to do with it.
            None => Ok(()),
        }
    }
}

impl VirtioDevice for Nsm {
    const ID: u32 = 33;
    const QUEUES: &'static [u16] = &[16];

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn reset(&mut self) {
        self.request = None;
        if self.in_flight.take().is_some() {
            self.stale += 1;
        }
    }
}

/// The next request and the chain for its response. A request whose buffer has not come yet is kept.
fn next_exchange(
    active: &mut Active<'_, Nsm>,
    ram: &Arc<GuestRam>,
) -> Result<Option<(Request, Chain)>, DriverFault> {
    if active.device.request.is_none() {
        let Some(chain) = pop(active, ram)? else { return Ok(None) };
        let mut reader = Reader::<()>::new(&**ram, chain.clone())
            .map_err(|_| DriverFault("an NSM request outside of memory"))?;
        if reader.available_bytes() == 0 {
            return Err(DriverFault("an NSM response buffer without a request"));
        }
        let mut bytes = vec![0; reader.available_bytes().min(REQUEST_MAX + 1)];
        reader
            .read_exact(&mut bytes)
            .map_err(|_| DriverFault("an NSM request that cannot be read"))?;
        let request = Request { head: chain.head_index(), bytes };
        if writable(ram, &chain)? > 0 {
            return Ok(Some((request, chain)));
        }
        active.device.request = Some(request);
    }
    let Some(chain) = pop(active, ram)? else { return Ok(None) };
    if writable(ram, &chain)? == 0 {
        return Err(DriverFault("two NSM requests without a response buffer"));
    }
    Ok(active.device.request.take().map(|request| (request, chain)))
}

fn writable(ram: &Arc<GuestRam>, chain: &Chain) -> Result<usize, DriverFault> {
    Writer::<()>::new(&**ram, chain.clone())
        .map(|writer| writer.available_bytes())
        .map_err(|_| DriverFault("an NSM response buffer outside of memory"))
}

fn pop(active: &mut Active<'_, Nsm>, ram: &Arc<GuestRam>) -> Result<Option<Chain>, DriverFault> {
    let Some(queue) = active.queues.first_mut().filter(|queue| queue.ready()) else {
        return Ok(None);
    };
    virtqueue::pop(queue, Arc::clone(ram))
}

fn complete(
    active: &mut Active<'_, Nsm>,
    request_head: Option<u16>,
    response: Chain,
    reply: &[u8],
) -> Result<(), DriverFault> {
    const BAD_RING: DriverFault = DriverFault("an NSM used ring that cannot be written");
    let ram = active.ram;
    let head = response.head_index();
    let mut writer = Writer::<()>::new(ram, response)
        .map_err(|_| DriverFault("an NSM response buffer outside of memory"))?;
    let room = writer.available_bytes();
    let too_small = Response::Error(ErrorCode::BufferTooSmall).to_vec().unwrap_or_default();
    let reply = match (reply.len() <= room, too_small.len() <= room) {
        (true, _) => reply,
        (false, true) => &too_small,
        (false, false) => &[],
    };
    writer.write_all(reply).map_err(|_| DriverFault("an NSM response that cannot be written"))?;
    let length = u32::try_from(reply.len()).unwrap_or(0);
    let queue = active.queues.first_mut().ok_or(BAD_RING)?;
    if let Some(request) = request_head {
        queue.add_used(ram, request, 0).map_err(|_| BAD_RING)?;
    }
    queue.add_used(ram, head, length).map_err(|_| BAD_RING)?;
    if queue.needs_notification(ram).map_err(|_| BAD_RING)? {
        active.interrupt.used();
    }
    Ok(())
}

#[cfg(test)]
#[path = "nsm_device_tests.rs"]
mod tests;
