//! What the two ramdisks hold, read back the way the kernel reads them.

use std::io::Write as _;

use super::*;
use crate::cpio::tests::{Unpacked, unpack};
use crate::tree::{Attributes, Change, TreeLimits};

const MANIFEST: &str = "cmd = [\"/hello\"]\n";

fn app(tree: &Tree, spool: Option<&File>) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    write_app(MANIFEST, tree, spool, &mut out, &mut |_| {})?;
    Ok(out)
}

#[test]
fn the_boot_ramdisk_is_dev_and_init() {
    let mut out = Vec::new();
    write_boot(&mut &b"\x7fELF"[..], 4, &mut out).unwrap();
    let files = unpack(&out);
    assert_eq!(files.keys().collect::<Vec<_>>(), ["dev", "init"]);
    assert_eq!((files["dev"].mode, files["init"].mode), (0o040_755, 0o100_755));
    assert_eq!(files["init"].data, b"\x7fELF");
}

#[test]
fn the_app_ramdisk_has_manifest_image_and_mount_points() {
    let mut tree = Tree::new(TreeLimits::DEFAULT);
    add_mount_points(&mut tree).unwrap();
    let files = unpack(&app(&tree, None).unwrap());
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    let expected = [
        "enclave.toml",
        "rootfs",
        "rootfs/dev",
        "rootfs/proc",
        "rootfs/run",
        "rootfs/sys",
        "rootfs/tmp",
    ];
    assert_eq!(names, expected);
    assert_eq!(files["enclave.toml"].data, MANIFEST.as_bytes());
    assert_eq!(files["rootfs/tmp"].mode, 0o041_777);
    assert_eq!(files["rootfs/proc"].mode, 0o040_755);
}

#[test]
fn every_kind_of_file_comes_through() {
    let mut spool = tempfile::tempfile().unwrap();
    spool.write_all(b"....hello").unwrap();
    let content = Content::Spooled { offset: 4, size: 5 };
    let mut tree = Tree::new(TreeLimits::DEFAULT);
    let with = |permissions, kind| Change::Put(Attributes { permissions, uid: 10, gid: 20 }, kind);
    let changes = [
        ("a", with(0o4755, Kind::File(content))),
        ("b", Change::Link(b"a".to_vec())),
        ("c/d", Change::Link(b"a".to_vec())),
        ("device", with(0o660, Kind::Device { block: true, major: 8, minor: 1 })),
        ("fifo", with(0o600, Kind::Fifo)),
        ("link", with(0o777, Kind::Symlink(b"a".as_slice().into()))),
        ("other", Change::Link(b"link".to_vec())),
        ("second", Change::Link(b"device".to_vec())),
    ];
    for (path, change) in changes {
        tree.apply(path.as_bytes(), change, 1).unwrap().unwrap();
    }
    let files = unpack(&app(&tree, Some(&spool)).unwrap());
    for name in ["a", "b", "c/d"] {
        let Unpacked { mode, owner, data, first_name, .. } = &files[&format!("rootfs/{name}")];
        assert_eq!((*mode, *owner, data.as_slice()), (0o104_755, (10, 20), &b"hello"[..]));
        assert_eq!(first_name, "rootfs/a");
    }
    let device = &files["rootfs/device"];
    assert_eq!((device.mode, device.device), (0o060_660, (8, 1)));
    assert_eq!(files["rootfs/second"].first_name, "rootfs/device");
    assert_eq!(files["rootfs/fifo"].mode, 0o010_600);
    // Both names of a symlink carry its target.
    for name in ["rootfs/link", "rootfs/other"] {
        assert_eq!((files[name].mode, files[name].data.as_slice()), (0o120_777, &b"a"[..]));
        assert_eq!(files[name].first_name, name);
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    std::fs::write(&path, "four").unwrap();
    let content = Content::Host { path: path.clone(), size: 5 };
    let mut tree = Tree::new(TreeLimits::DEFAULT);
    let put = Change::Put(Attributes::root(0o644), Kind::File(content));
    tree.apply(b"f", put, 1).unwrap().unwrap();
    assert_eq!(app(&tree, None).unwrap_err().to_string(), "`rootfs/f` has 4 bytes, expected 5");
    std::fs::write(&path, "longer").unwrap();
    assert_eq!(unpack(&app(&tree, None).unwrap())["rootfs/f"].data, b"longe");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(matches!(app(&tree, None), Err(Error::Io { action: "open", .. })));
}
