//! Taking chains off a virtqueue so that no notification is lost and no ring, whatever the guest writes into it, holds the
//! I/O thread.

use std::ops::Deref;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemory;

use super::mmio::DriverFault;

/// The next chain; when there is none, the driver is asked to notify the device of the next.
///
/// # Errors
/// A [`DriverFault`] when the ring is out of bounds.
pub fn pop<M>(queue: &mut Queue, ram: M) -> Result<Option<DescriptorChain<M>>, DriverFault>
where
    M: Clone + Deref,
    M::Target: GuestMemory + Sized,
{
    const BAD_INDEX: DriverFault = DriverFault("a queue with an impossible index");
    if let Some(chain) = queue.iter(ram.clone()).map_err(|_| BAD_INDEX)?.next() {
        return Ok(Some(chain));
    }
    // A chain added between the look and the request would never be notified of: look again.
    let more = queue
        .enable_notification(&*ram)
        .map_err(|_| DriverFault("a used ring that cannot be written"))?;
    if !more {
        return Ok(None);
    }
    match queue.iter(ram).map_err(|_| BAD_INDEX)?.next() {
        Some(chain) => Ok(Some(chain)),
        None => Err(DriverFault("an available ring that cannot be read")),
    }
}
