//! The virtual machine: KVM's VM with its interrupt controllers and timer, guest memory in it, the devices on its bus and
//! one vCPU for each CPU.

use std::os::fd::OwnedFd;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use virtio_bindings::bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::console::Console;
use super::cpuid::Template;
use super::error::Error;
use super::layout::{self, Slot};
use super::load::Entry;
use super::memory::{GuestRam, Memory};
use super::mmio::{Transport, VirtioDevice};
use super::nsm_device::Nsm;
use super::ports::{Ports, SerialInterrupt};
use super::registers;
use super::vcpu::Bus;
use super::vsock::Vsock;
use super::vsock::muxer::Muxer;

/// KVM's side of the machine.
#[derive(Debug)]
pub struct Machine {
    kvm: Kvm,
    vm: VmFd,
    /// What the VM's slots point to; below `vm`, so that it goes after it.
    ram: Option<GuestRam>,
}

/// Queue notifications, one eventfd a queue in the order of the device's queues.
#[derive(Debug)]
pub struct Kicks {
    /// virtio-vsock: receive, transmit, event.
    pub vsock: Vec<EventFd>,
    /// virtio-nsm.
    pub nsm: Vec<EventFd>,
    /// Bytes wait in the console.
    pub console: EventFd,
}

impl Machine {
    /// A VM without memory and vCPUs.
    ///
    /// # Errors
    /// [`Error::Ioctl`].
    pub fn new(kvm: Kvm) -> Result<Machine, Error> {
        let vm = kvm.create_vm().map_err(Error::ioctl("KVM_CREATE_VM"))?;
        vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(Error::ioctl("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(layout::KVM_TSS).map_err(Error::ioctl("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip().map_err(Error::ioctl("KVM_CREATE_IRQCHIP"))?;
        // Kernels without the TSC deadline timer calibrate their clocks against it; port 0x61 is part of that.
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        vm.create_pit2(pit).map_err(Error::ioctl("KVM_CREATE_PIT2"))?;
        Ok(Machine { kvm, vm, ram: None })
    }

    /// vCPUs at most.
    #[must_use]
    pub fn vcpu_limit(&self) -> usize {
        // APIC id 255 is broadcast, and the IO-APIC takes the one after the last CPU.
        self.kvm.get_max_vcpus().min(254)
    }

    /// Makes `memory` the guest's RAM.
    ///
    /// # Errors
    /// [`Error::Ioctl`].
    pub fn set_memory(&mut self, memory: &Memory) -> Result<(), Error> {
        let ram = self.ram.insert(memory.ram().clone());
        for (slot, region) in (0u32..).zip(ram.iter()) {
            let kvm_region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the range is one whole mapping, which `self.ram` keeps until the VM is gone, and the slots do not
            // overlap because the regions do not.
            unsafe { self.vm.set_user_memory_region(kvm_region) }
                .map_err(Error::ioctl("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }

    /// The devices, wired to their interrupts and notifications. `console` is a pipe that does not block.
    ///
    /// # Errors
    /// [`Error::Ioctl`], [`Error::System`].
    pub fn devices(
        &self,
        ram: &GuestRam,
        vsock: Vsock,
        nsm_link: OwnedFd,
        console: Option<OwnedFd>,
    ) -> Result<(Bus, Kicks), Error> {
        let pending = eventfd()?;
        let for_console = pending.try_clone().map_err(Error::io("dup of an eventfd"))?;
        let console = Console::new(console, for_console);
        let serial = SerialInterrupt(self.interrupt(layout::SERIAL_IRQ)?);
        let kicks = Kicks {
            vsock: self.notifications(Slot::Vsock, Vsock::<Muxer>::QUEUES.len())?,
            nsm: self.notifications(Slot::Nsm, Nsm::QUEUES.len())?,
            console: pending,
        };
        let nsm = Nsm::new(nsm_link);
        let bus = Bus {
            ports: Ports::new(serial, console),
            vsock: self.transport(vsock, ram, Slot::Vsock, &kicks.vsock)?,
            nsm: self.transport(nsm, ram, Slot::Nsm, &kicks.nsm)?,
        };
        Ok((bus, kicks))
    }

    /// vCPUs 0 to `count - 1`; the first starts at `entry`.
    ///
    /// # Errors
    /// [`Error::Ioctl`].
    pub fn vcpus(&self, count: u8, entry: Entry) -> Result<Vec<VcpuFd>, Error> {
        let template = Template::new(&self.kvm, count)?;
        (0..count)
            .map(|index| {
                let vcpu = self
                    .vm
                    .create_vcpu(u64::from(index))
                    .map_err(Error::ioctl("KVM_CREATE_VCPU"))?;
                vcpu.set_cpuid2(&template.for_vcpu(index)?)
                    .map_err(Error::ioctl("KVM_SET_CPUID2"))?;
                registers::set_common(&vcpu)?;
                if index == 0 {
                    registers::set_boot(&vcpu, entry.ip)?;
                }
                Ok(vcpu)
            })
            .collect()
    }

    fn transport<D: VirtioDevice>(
        &self,
        device: D,
        ram: &GuestRam,
        slot: Slot,
        kicks: &[EventFd],
    ) -> Result<Transport<D>, Error> {
        let activated = match kicks.first() {
            Some(kick) => kick.try_clone().map_err(Error::io("dup of an eventfd"))?,
            None => eventfd()?,
        };
        Transport::new(device, ram.clone(), self.interrupt(slot.irq())?, activated)
    }

    fn interrupt(&self, gsi: u32) -> Result<EventFd, Error> {
        let line = eventfd()?;
        self.vm.register_irqfd(&line, gsi).map_err(Error::ioctl("KVM_IRQFD"))?;
        Ok(line)
    }

    fn notifications(&self, slot: Slot, queues: usize) -> Result<Vec<EventFd>, Error> {
        let address = slot.address() + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY);
        (0u32..)
            .take(queues)
            .map(|queue| {
                let kick = eventfd()?;
                self.vm
                    .register_ioevent(&kick, &IoEventAddress::Mmio(address), queue)
                    .map_err(Error::ioctl("KVM_IOEVENTFD"))?;
                Ok(kick)
            })
            .collect()
    }
}

/// A non-blocking eventfd.
///
/// # Errors
/// [`Error::System`].
pub fn eventfd() -> Result<EventFd, Error> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::io("eventfd"))
}
