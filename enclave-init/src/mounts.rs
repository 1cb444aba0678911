//! The file systems of the enclave. First `/dev` for init itself; then the image's `/rootfs` becomes the
//! root, for good, and gets what programs expect of a Linux system. Options are as tight as the use of
//! each allows; sysfs is read-only, there is no hardware to set up.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use guest_abi::manifest;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

use crate::Error;
use crate::console;

/// Where the kernel unpacked the image.
const IMAGE: &str = "/rootfs";

struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    data: &'static str,
    /// A kernel without it still makes a usable enclave.
    optional: bool,
}

const NOSUID: MsFlags = MsFlags::MS_NOSUID;
const NODEV: MsFlags = MsFlags::MS_NODEV;
const NOEXEC: MsFlags = MsFlags::MS_NOEXEC;

const DEV: Mount = Mount {
    kind: "devtmpfs",
    target: "/dev",
    flags: NOSUID.union(NOEXEC),
    data: "mode=0755",
    optional: false,
};

/// In order: later ones lie inside earlier ones.
const MOUNTS: [Mount; 8] = [
    DEV,
    Mount {
        kind: "devpts",
        target: "/dev/pts",
        flags: NOSUID.union(NOEXEC),
        data: "gid=5,mode=0620,ptmxmode=0666",
        optional: true,
    },
    Mount {
        kind: "tmpfs",
        target: "/dev/shm",
        flags: NOSUID.union(NODEV).union(NOEXEC),
        data: "mode=1777",
        optional: false,
    },
    Mount {
        kind: "proc",
        target: "/proc",
        flags: NOSUID.union(NODEV).union(NOEXEC),
        data: "",
        optional: false,
    },
    Mount {
        kind: "tmpfs",
        target: "/run",
        flags: NOSUID.union(NODEV),
        data: "mode=0755",
        optional: false,
    },
    Mount {
        kind: "tmpfs",
        target: "/tmp",
        flags: NOSUID.union(NODEV),
        data: "mode=1777",
        optional: false,
    },
    Mount {
        kind: "sysfs",
        target: "/sys",
        flags: NOSUID.union(NODEV).union(NOEXEC).union(MsFlags::MS_RDONLY),
        data: "",
        optional: false,
    },
    Mount {
        kind: "cgroup2",
        target: "/sys/fs/cgroup",
        flags: NOSUID.union(NODEV).union(NOEXEC),
        data: "",
        optional: true,
    },
];

/// What programs open by these names; devtmpfs has none of them.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts `/dev` for init itself, before anything else is there.
pub(crate) fn early() -> Result<(), Error> {
    DEV.make()
}

/// Makes the image the root and removes the manifest from view. There is no way back.
pub(crate) fn enter_image() -> Result<(), Error> {
    let manifest = Path::new("/").join(manifest::FILE_NAME);
    fs::remove_file(&manifest).map_err(Error::file("remove", &manifest))?;
    let none = None::<&str>;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(IMAGE), IMAGE, none, bind, none).map_err(Error::file("bind", IMAGE))?;
    chdir(IMAGE).map_err(Error::file("enter", IMAGE))?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none)
        .map_err(Error::call("move the image over /"))?;
    chroot(".").map_err(Error::call("change the root to the image"))?;
    chdir("/").map_err(Error::file("enter", "/"))
}

/// Mounts everything inside the new root.
pub(crate) fn populate() -> Result<(), Error> {
    for mount in &MOUNTS {
        match mount.make() {
            Err(error) if mount.optional => console::say(&error.chain()),
            result => result?,
        }
    }
    for (target, link) in LINKS {
        match symlink(target, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::file("create", link)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Mount {
    fn make(&self) -> Result<(), Error> {
        // The builder puts the mount points there; an image assembled by hand may lack one.
        if !Path::new(self.target).exists() {
            fs::create_dir_all(self.target).map_err(Error::file("create", self.target))?;
        }
        let data = Some(self.data).filter(|data| !data.is_empty());
        match mount(Some(self.kind), self.target, Some(self.kind), self.flags, data) {
            // The kernel has mounted it before us.
            Ok(()) | Err(Errno::EBUSY) => Ok(()),
            Err(errno) => {
                Err(Error::Mount { kind: self.kind, target: self.target, source: errno.into() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_there_when_its_turn_comes() {
        for (at, inner) in MOUNTS.iter().enumerate() {
            let outer = MOUNTS.iter().rposition(|outer| {
                inner.target.starts_with(outer.target) && inner.target != outer.target
            });
            assert!(outer.is_none_or(|outer| outer < at), "{} is mounted too early", inner.target);
        }
    }

    #[test]
    fn nothing_gives_rights_by_file_mode() {
        for mount in &MOUNTS {
            assert!(mount.flags.contains(NOSUID), "{}", mount.target);
            let has_devices = mount.kind.starts_with("dev");
            assert!(mount.flags.contains(NODEV) != has_devices, "{}", mount.target);
        }
    }
}
