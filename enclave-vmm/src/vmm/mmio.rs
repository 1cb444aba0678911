//! The virtio-mmio register file, version 2 (virtio 1.2, 4.2.2), strict about order: features may be chosen only before
//! `FEATURES_OK`, queues be set up only between that and `DRIVER_OK`, and a driver that breaks the order or hands over
//! queues outside of guest memory gets `NEEDS_RESET` and no service until it resets. vCPUs work on the registers, the I/O
//! thread on the queues, under one lock; only the interrupt status, which is read at every interrupt, is outside of it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_mmio as reg;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::error::Error;
use super::memory::GuestRam;

/// `ACKNOWLEDGE`.
const ACKNOWLEDGE: u32 = 1;
/// `DRIVER`.
const DRIVER: u32 = 2;
/// `DRIVER_OK`.
const DRIVER_OK: u32 = 4;
/// `FEATURES_OK`.
const FEATURES_OK: u32 = 8;
/// `DEVICE_NEEDS_RESET`, set by the device only.
const NEEDS_RESET: u32 = 0x40;
/// `FAILED`.
const FAILED: u32 = 0x80;

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// Not an assigned number; drivers do not look.
const VENDOR: u32 = 0x4c43_4e45;
const CONFIG_SPACE: u64 = 0x100;

const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

/// Interrupt bit: a used ring has news.
const INT_USED: u32 = 1;
/// Interrupt bit: the configuration (here: the status) has changed.
const INT_CONFIG: u32 = 2;

/// What a register file needs to know about the device behind it.
pub trait VirtioDevice {
    /// Virtio device id.
    const ID: u32;
    /// Largest size of each queue, entries; powers of two.
    const QUEUES: &'static [u16];

    /// Configuration space at `offset`; bytes beyond it stay zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Forget everything about the driver.
    fn reset(&mut self);
}

/// The device misread or misused its queues beyond repair; its text is for whoever debugs a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("virtio driver fault: {0}")]
pub struct DriverFault(pub &'static str);

/// The way to the guest's attention.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    line: EventFd,
}

impl Interrupt {
    /// Says that used buffers are there.
    pub fn used(&self) {
        self.raise(INT_USED);
    }

    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::SeqCst);
        // An eventfd that is full is one that will be read.
        let _ = self.line.write(1);
    }
}

/// One virtio-mmio device.
#[derive(Debug)]
pub struct Transport<D> {
    interrupt: Interrupt,
    ram: GuestRam,
    /// Signalled when the driver becomes ready: what it has posted before that (Linux' nsm driver does) is served then.
    activated: EventFd,
    state: Mutex<State<D>>,
}

#[derive(Debug)]
struct State<D> {
    status: u32,
    device_features_page: u32,
    driver_features_page: u32,
    driver_features: u64,
    queue: u32,
    queues: Vec<Queue>,
    device: D,
}

/// A device whose driver is ready, locked for the I/O thread.
#[derive(Debug)]
pub struct Active<'a, D> {
    /// The device itself.
    pub device: &'a mut D,
    /// Its queues; check each for `ready()`.
    pub queues: &'a mut [Queue],
    /// Guest memory.
    pub ram: &'a GuestRam,
    /// The interrupt.
    pub interrupt: &'a Interrupt,
}

impl<D: VirtioDevice> Transport<D> {
    /// `line` is the irqfd of the device's interrupt; `activated` wakes the I/O thread as a notification does.
    ///
    /// # Errors
    /// [`Error::Kernel`] when a queue size is no power of two, which no guest can cause.
    pub fn new(
        device: D,
        ram: GuestRam,
        line: EventFd,
        activated: EventFd,
    ) -> Result<Transport<D>, Error> {
        let queues = D::QUEUES
            .iter()
            .map(|size| Queue::new(*size))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Error::Kernel { what: format!("virtio queue: {e}") })?;
        let state = State {
            status: 0,
            device_features_page: 0,
            driver_features_page: 0,
            driver_features: 0,
            queue: 0,
            queues,
            device,
        };
        let interrupt = Interrupt { status: AtomicU32::new(0), line };
        Ok(Transport { interrupt, ram, activated, state: Mutex::new(state) })
    }

    /// A read of `data.len()` bytes by a vCPU.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            self.lock().device.read_config(offset, data);
        } else if let Ok(bytes) = <&mut [u8; 4]>::try_from(data)
            && let Ok(offset) = u32::try_from(offset)
        {
            *bytes = self.read_register(offset).to_le_bytes();
        }
    }

    /// A write by a vCPU.
    pub fn write(&self, offset: u64, data: &[u8]) {
        // The configuration spaces of our devices are read-only.
        if let Ok(bytes) = <[u8; 4]>::try_from(data)
            && let Ok(offset) = u32::try_from(offset)
        {
            self.write_register(offset, u32::from_le_bytes(bytes));
        }
    }

    /// Runs `work` if the driver is ready. A fault costs the driver its device until it resets it.
    pub fn with_active<R>(
        &self,
        work: impl FnOnce(Active<'_, D>) -> Result<R, DriverFault>,
    ) -> Option<R> {
        let mut state = self.lock();
        if state.status & (DRIVER_OK | NEEDS_RESET | FAILED) != DRIVER_OK {
            return None;
        }
        let State { device, queues, .. } = &mut *state;
        let active = Active { device, queues, ram: &self.ram, interrupt: &self.interrupt };
        match work(active) {
            Ok(done) => Some(done),
            Err(_) => {
                state.status |= NEEDS_RESET;
                drop(state);
                self.interrupt.raise(INT_CONFIG);
                None
            }
        }
    }

    /// The device, whether its driver is ready or not.
    pub fn with_device<R>(&self, work: impl FnOnce(&mut D) -> R) -> R {
        work(&mut self.lock().device)
    }

    fn lock(&self) -> MutexGuard<'_, State<D>> {
        // A thread that panicked under the lock ends the process soon; until then the registers are as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn features() -> u64 {
        VERSION_1 | EVENT_IDX
    }

    fn read_register(&self, offset: u32) -> u32 {
        if offset == reg::VIRTIO_MMIO_INTERRUPT_STATUS {
            return self.interrupt.status.load(Ordering::SeqCst);
        }
        let state = self.lock();
        match offset {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => D::ID,
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => page(Self::features(), state.device_features_page),
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => {
                state.selected().map_or(0, |queue| u32::from(queue.max_size()))
            }
            reg::VIRTIO_MMIO_QUEUE_READY => {
                state.selected().map_or(0, |queue| u32::from(queue.ready()))
            }
            reg::VIRTIO_MMIO_STATUS => state.status,
            // Shared memory regions do not exist: length and base read as ones.
            reg::VIRTIO_MMIO_SHM_LEN_LOW..=reg::VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            // The configuration generation, for one, never changes.
            _ => 0,
        }
    }

    fn write_register(&self, offset: u32, value: u32) {
        if offset == reg::VIRTIO_MMIO_INTERRUPT_ACK {
            self.interrupt.status.fetch_and(!value, Ordering::SeqCst);
            return;
        }
        let mut state = self.lock();
        let choosing_features =
            state.status & (DRIVER | FEATURES_OK | FAILED | NEEDS_RESET) == DRIVER;
        match offset {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => state.device_features_page = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => state.driver_features_page = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES if choosing_features => {
                let (shift, mask) = match state.driver_features_page {
                    0 => (0, u64::from(u32::MAX)),
                    1 => (32, u64::from(u32::MAX) << 32),
                    // There are no features beyond 64; a driver that takes some is refused at FEATURES_OK.
                    _ => (63, u64::from(value != 0) << 63),
                };
                let bits = (u64::from(value) << shift) & mask;
                state.driver_features = (state.driver_features & !mask) | bits;
            }
            reg::VIRTIO_MMIO_QUEUE_SEL => state.queue = value,
            reg::VIRTIO_MMIO_STATUS => self.write_status(&mut state, value),
            reg::VIRTIO_MMIO_QUEUE_READY if value == 0 => {
                if let Some(queue) = state.selected_mut() {
                    queue.set_ready(false);
                }
            }
            _ => state.write_queue_register(offset, value),
        }
    }

    fn write_status(&self, state: &mut State<D>, value: u32) {
        if value == 0 {
            state.reset();
            self.interrupt.status.store(0, Ordering::SeqCst);
            return;
        }
        let old = state.status;
        if value & FAILED != 0 {
            state.status |= FAILED;
            return;
        }
        // Linux writes back what it read, so bits that stand are repeated; exactly the next one may be new.
        let standing = old & !NEEDS_RESET;
        match (standing, value & !NEEDS_RESET & !standing) {
            (_, 0) => {}
            (0, ACKNOWLEDGE) => state.status |= ACKNOWLEDGE,
            (ACKNOWLEDGE, DRIVER) => state.status |= DRIVER,
            (s, FEATURES_OK) if s == ACKNOWLEDGE | DRIVER => {
                let chosen = state.driver_features;
                if chosen & !Self::features() == 0 && chosen & VERSION_1 != 0 {
                    state.status |= FEATURES_OK;
                    for queue in &mut state.queues {
                        queue.set_event_idx(chosen & EVENT_IDX != 0);
                    }
                }
            }
            (s, DRIVER_OK) if s == ACKNOWLEDGE | DRIVER | FEATURES_OK => {
                let ram = &self.ram;
                if state.queues.iter().all(|queue| !queue.ready() || queue.is_valid(ram)) {
                    state.status |= DRIVER_OK;
                    // An eventfd that is full wakes as well.
                    let _ = self.activated.write(1);
                } else {
                    self.break_down(state);
                }
            }
            _ => self.break_down(state),
        }
    }

    fn break_down(&self, state: &mut State<D>) {
        let was_running = state.status & DRIVER_OK != 0;
        state.status |= NEEDS_RESET;
        if was_running {
            self.interrupt.raise(INT_CONFIG);
        }
    }
}

impl<D: VirtioDevice> State<D> {
    fn reset(&mut self) {
        self.status = 0;
        self.device_features_page = 0;
        self.driver_features_page = 0;
        self.driver_features = 0;
        self.queue = 0;
        self.queues.iter_mut().for_each(QueueT::reset);
        self.device.reset();
    }

    fn selected(&self) -> Option<&Queue> {
        self.queues.get(usize::try_from(self.queue).ok()?)
    }

    fn selected_mut(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(usize::try_from(self.queue).ok()?)
    }

    /// Registers that may be written only while queues are set up.
    fn write_queue_register(&mut self, offset: u32, value: u32) {
        let state = self.status & (FEATURES_OK | DRIVER_OK | FAILED | NEEDS_RESET);
        if state != FEATURES_OK {
            return;
        }
        let Some(queue) = self.selected_mut().filter(|queue| !queue.ready()) else { return };
        match offset {
            reg::VIRTIO_MMIO_QUEUE_NUM => {
                // A size that does not fit is refused by the queue, which keeps the old one.
                if let Ok(size) = u16::try_from(value) {
                    queue.set_size(size);
                }
            }
            reg::VIRTIO_MMIO_QUEUE_READY => queue.set_ready(value == 1),
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "takes the 32 bits that are asked for")]
fn page(features: u64, page: u32) -> u32 {
    match page {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
#[path = "mmio_tests.rs"]
mod tests;
