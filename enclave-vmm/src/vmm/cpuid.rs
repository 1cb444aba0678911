//! What a vCPU says about itself: KVM's supported set, with a topology of our own (one package, one thread a core, as
//! many cores as vCPUs, APIC ids from 0) in the leaves of both vendors, the hypervisor bit and the TSC deadline timer on,
//! and nested virtualisation and performance counters off.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::{Cap, Kvm};

use super::error::Error;

/// The part that is the same for all vCPUs.
#[derive(Debug, Clone)]
pub struct Template {
    supported: CpuId,
    tsc_deadline: bool,
    vcpus: u8,
}

impl Template {
    /// Asks KVM what it can do.
    ///
    /// # Errors
    /// [`Error::Ioctl`].
    pub fn new(kvm: &Kvm, vcpus: u8) -> Result<Template, Error> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::ioctl("KVM_GET_SUPPORTED_CPUID"))?;
        let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        Ok(Template { supported, tsc_deadline, vcpus })
    }

    /// The leaves of the vCPU whose APIC id is `id`.
    ///
    /// # Errors
    /// [`Error::Ioctl`] when there are more leaves than KVM takes.
    pub fn for_vcpu(&self, id: u8) -> Result<CpuId, Error> {
        let leaves = filter(self.supported.as_slice(), id, self.vcpus, self.tsc_deadline);
        CpuId::from_entries(&leaves).map_err(|_| Error::Ioctl {
            request: "KVM_SET_CPUID2",
            source: std::io::Error::from_raw_os_error(libc::E2BIG),
        })
    }
}

const LEAF1_ECX_VMX: u32 = 1 << 5;
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF1_EDX_HTT: u32 = 1 << 28;
const EXT1_ECX_CMP_LEGACY: u32 = 1 << 1;
const EXT1_ECX_SVM: u32 = 1 << 2;
/// CLFLUSH line of 64 bytes, in units of 8, at its place in leaf 1 EBX.
const LEAF1_EBX_CLFLUSH: u32 = 8 << 8;
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

fn filter(
    supported: &[kvm_cpuid_entry2],
    id: u8,
    vcpus: u8,
    tsc_deadline: bool,
) -> Vec<kvm_cpuid_entry2> {
    let (apic, cores) = (u32::from(id), u32::from(vcpus));
    let many = cores > 1;
    let id_bits = cores.next_power_of_two().trailing_zeros();
    let max_leaf = supported.iter().find(|e| e.function == 0).map_or(0, |e| e.eax);
    // Extended topology is written anew; 0x1F is left out, which tells Linux to use 0xB.
    let mut leaves: Vec<_> =
        supported.iter().filter(|e| !matches!(e.function, 0xb | 0x1f)).copied().collect();
    for leaf in &mut leaves {
        match leaf.function {
            0x1 => {
                leaf.ebx = (leaf.ebx & 0xff) | LEAF1_EBX_CLFLUSH | (cores << 16) | (apic << 24);
                leaf.ecx = (leaf.ecx & !LEAF1_ECX_VMX) | LEAF1_ECX_HYPERVISOR;
                set(&mut leaf.ecx, LEAF1_ECX_TSC_DEADLINE, tsc_deadline);
                set(&mut leaf.edx, LEAF1_EDX_HTT, many);
            }
            // Cache: type in 4:0, level in 7:5; who shares it in 25:14, cores of the package in 31:26.
            0x4 if leaf.eax & 0x1f != 0 => {
                let sharing = if (leaf.eax >> 5) & 7 >= 3 { (1 << id_bits) - 1 } else { 0 };
                let package = ((1u32 << id_bits) - 1).min(0x3f);
                leaf.eax = (leaf.eax & 0x3fff) | (sharing << 14) | (package << 26);
            }
            0xa => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
            0x8000_0001 => {
                leaf.ecx &= !EXT1_ECX_SVM;
                // Only AMD defines it, and only AMD's KVM reports 0x8000001D.
                let amd = supported.iter().any(|e| e.function == 0x8000_001d);
                set(&mut leaf.ecx, EXT1_ECX_CMP_LEGACY, many && amd);
            }
            0x8000_0008 => leaf.ecx = (cores - 1) | (id_bits << 12),
            0x8000_000a | 0x8000_0022 => {
                (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
            }
            0x8000_001d if leaf.eax & 0x1f != 0 => {
                let sharing = if (leaf.eax >> 5) & 7 >= 3 { cores - 1 } else { 0 };
                leaf.eax = (leaf.eax & 0x3fff) | (sharing << 14);
            }
            0x8000_001e => (leaf.eax, leaf.ebx, leaf.ecx) = (apic, apic & 0xff, 0),
            _ => {}
        }
    }
    if max_leaf >= 0xb {
        let level = |index, eax, ebx, kind| kvm_cpuid_entry2 {
            function: 0xb,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax,
            ebx,
            ecx: index | kind,
            edx: apic,
            ..Default::default()
        };
        leaves.push(level(0, 0, 1, LEVEL_SMT));
        leaves.push(level(1, id_bits, cores, LEVEL_CORE));
        leaves.push(level(2, 0, 0, 0));
    }
    leaves
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on { *register | bit } else { *register & !bit };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        }
    }

    fn get(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *leaves.iter().find(|l| l.function == function && l.index == index).unwrap()
    }

    #[test]
    fn each_vcpu_sees_itself_in_one_package() {
        let supported: Vec<_> = [
            0,
            1,
            4,
            0xa,
            0xb,
            0x1f,
            0x8000_0001,
            0x8000_0008,
            0x8000_000a,
            0x8000_001d,
            0x8000_001e,
        ]
        .map(|f| leaf(f, 0))
        .to_vec();
        let leaves = filter(&supported, 2, 3, false);
        let one = get(&leaves, 1, 0);
        assert_eq!((one.ebx >> 24, (one.ebx >> 16) & 0xff), (2, 3));
        assert_eq!(one.ecx & (LEAF1_ECX_VMX | LEAF1_ECX_TSC_DEADLINE), 0);
        assert_ne!(one.ecx & LEAF1_ECX_HYPERVISOR, 0);
        assert_eq!(get(&leaves, 0xb, 0).edx, 2);
        assert_eq!((get(&leaves, 0xb, 1).eax, get(&leaves, 0xb, 1).ebx), (2, 3));
        assert_eq!(get(&leaves, 0xb, 2).ebx, 0);
        assert!(leaves.iter().all(|l| l.function != 0x1f));
        assert_eq!(get(&leaves, 0x8000_0001, 0).ecx & EXT1_ECX_SVM, 0);
        assert_eq!(get(&leaves, 0x8000_0008, 0).ecx, 2 | (2 << 12));
        assert_eq!(get(&leaves, 0x8000_001e, 0).eax, 2);
        assert_eq!(get(&leaves, 0xa, 0).eax, 0);
    }

    #[test]
    fn a_single_vcpu_is_no_multiprocessor() {
        let leaves = filter(&[leaf(0, 0), leaf(1, 0)], 0, 1, true);
        let one = get(&leaves, 1, 0);
        assert_eq!(one.edx & LEAF1_EDX_HTT, 0);
        assert_ne!(one.ecx & LEAF1_ECX_TSC_DEADLINE, 0);
        assert_eq!(get(&leaves, 0xb, 1).eax, 0);
    }
}
