//! The vmm process: `/dev/kvm`, guest memory, one pinned thread for each vCPU and one I/O thread. It never sees a key.

pub mod messages;
