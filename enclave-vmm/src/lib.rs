//! One enclave: keeper, NSM process and a minimal KVM virtual machine monitor.

pub mod vmm;
