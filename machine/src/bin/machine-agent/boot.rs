//! From the kernel's initial root to a usable parent: modules, the host's root read-only under a
//! memory overlay, the file systems every program expects, cgroup controllers, loopback.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, sethostname};

use machine::{HOST_ROOT_TAG, HOST_VIEW, HOST_VIEW_TAG, MODULE_LIST, SHARE_TAG, SHARED_STATE};

use crate::spawn;

/// Largest request 9p over virtio takes: 128 pages less headers, as the kernel rounds it.
const MSIZE: u32 = 512_000;

/// A step that failed, and on what.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub(crate) struct BootError {
    step: String,
    source: io::Error,
}

fn step<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> BootError {
    let step = step.into();
    move |error| BootError { step, source: error.into() }
}

/// Everything, in order.
pub(crate) fn boot() -> Result<(), BootError> {
    mount_kernel_file_systems("")?;
    load_modules()?;
    mount_root("/new")?;
    mount_kernel_file_systems("/new")?;
    mount_scratch_and_shares("/new")?;
    enable_controllers("/new/sys/fs/cgroup")?;
    discard_initramfs();
    enter("/new")?;
    spawn::raise_loopback().map_err(step("bring the loopback interface up"))?;
    sethostname("enclave-parent").map_err(step("set the host name"))?;
    // Their users need not be root; there is no udev here to say so.
    for device in ["/dev/kvm", "/dev/vsock", "/dev/vhost-vsock", "/dev/net/tun"] {
        if Path::new(device).exists() {
            fs::set_permissions(device, fs::Permissions::from_mode(0o666))
                .map_err(step(format!("open {device} to all users")))?;
        }
    }
    Ok(())
}

fn attach(
    source: &str,
    target: &str,
    kind: &str,
    flags: MsFlags,
    options: &str,
) -> Result<(), BootError> {
    fs::create_dir_all(target).map_err(step(format!("make {target}")))?;
    mount(Some(source), target, Some(kind), flags, Some(options))
        .map_err(step(format!("mount {kind} on {target}")))
}

fn mount_kernel_file_systems(root: &str) -> Result<(), BootError> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    attach("proc", &format!("{root}/proc"), "proc", plain, "")?;
    attach("sysfs", &format!("{root}/sys"), "sysfs", plain, "")?;
    attach("dev", &format!("{root}/dev"), "devtmpfs", MsFlags::MS_NOSUID, "mode=0755")
}

fn load_modules() -> Result<(), BootError> {
    let list = fs::read_to_string(MODULE_LIST).map_err(step(format!("read {MODULE_LIST}")))?;
    let processor = fs::read_to_string("/proc/cpuinfo").map_err(step("read /proc/cpuinfo"))?;
    for line in list.lines() {
        let (path, required) = line.strip_prefix('?').map_or((line, true), |path| (path, false));
        if is_for_another_processor(path, &processor) {
            continue;
        }
        let file = fs::File::open(path).map_err(step(format!("open {path}")))?;
        let loaded = finit_module(&file, c"", ModuleInitFlags::empty());
        match loaded {
            // Built in, or pulled in before.
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(errno) if required => return Err(step(format!("load {path}"))(errno)),
            // The console says why, where it matters.
            Err(_) => {}
        }
    }
    Ok(())
}

/// Whether this is the KVM of the vendor whose virtualisation this processor does not have. Loading it would only
/// fail, after most of a second under emulation.
fn is_for_another_processor(path: &str, processor: &str) -> bool {
    let flag = match path {
        "/modules/kvm_amd.ko" => "svm",
        "/modules/kvm_intel.ko" => "vmx",
        _ => return false,
    };
    !processor.split_whitespace().any(|word| word == flag)
}

/// The host's root, cached for the life of the machine (what changes on the host afterwards may or
/// may not be seen: programs and images are streamed in instead), under an overlay in memory.
fn mount_root(root: &str) -> Result<(), BootError> {
    let nine = format!("trans=virtio,version=9p2000.L,msize={MSIZE},cache=loose");
    attach(HOST_ROOT_TAG, "/lower", "9p", MsFlags::MS_RDONLY, &nine)?;
    attach("overlay", "/memory", "tmpfs", MsFlags::empty(), "mode=0755")?;
    for folder in ["/memory/upper", "/memory/work"] {
        fs::create_dir(folder).map_err(step(format!("make {folder}")))?;
    }
    let layers = "lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work";
    attach("overlay", root, "overlay", MsFlags::empty(), layers)
}

fn mount_scratch_and_shares(root: &str) -> Result<(), BootError> {
    let none = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    attach("devpts", &format!("{root}/dev/pts"), "devpts", none, "mode=0620,gid=5,ptmxmode=0666")?;
    attach("shm", &format!("{root}/dev/shm"), "tmpfs", none, "mode=1777")?;
    attach("run", &format!("{root}/run"), "tmpfs", none, "mode=0755")?;
    attach("tmp", &format!("{root}/tmp"), "tmpfs", none, "mode=1777")?;
    attach("cgroup", &format!("{root}/sys/fs/cgroup"), "cgroup2", none, "")?;
    let uncached = format!("trans=virtio,version=9p2000.L,msize={MSIZE},cache=none,access=any");
    attach(SHARE_TAG, &format!("{root}{SHARED_STATE}"), "9p", none, &uncached)?;
    attach(
        HOST_VIEW_TAG,
        &format!("{root}{HOST_VIEW}"),
        "9p",
        none | MsFlags::MS_RDONLY,
        &uncached,
    )?;
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let link = format!("{root}/dev/{name}");
        // devtmpfs is one instance for the whole system, so it may be there already.
        match symlink(target, &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(step(format!("make {link}"))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// CPU pools need `cpuset` in every child of the root; the rest is for limits per enclave.
fn enable_controllers(root: &str) -> Result<(), BootError> {
    let file = format!("{root}/cgroup.subtree_control");
    fs::write(&file, "+cpuset +cpu +memory +pids").map_err(step(format!("write {file}")))
}

/// Gives the memory of the modules and of this program's file name back; failure costs only memory.
fn discard_initramfs() {
    let _ = fs::remove_dir_all("/modules");
    let _ = fs::remove_file("/init");
}

fn enter(root: &str) -> Result<(), BootError> {
    chdir(root).map_err(step(format!("enter {root}")))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(step("move the new root into place"))?;
    chroot(".").map_err(step("make it the root"))?;
    chdir("/").map_err(step("enter it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fitting_kvm_is_loaded() {
        let amd = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu svm npt\n";
        assert!(!is_for_another_processor("/modules/kvm_amd.ko", amd));
        assert!(is_for_another_processor("/modules/kvm_intel.ko", amd));
        assert!(!is_for_another_processor("/modules/kvm.ko", amd));
    }
}
