//! The reader against archives made with the crate `tar`, and against archives nobody should make.

use proptest::prelude::*;

use super::*;

/// A header made with the crate `tar`.
fn header(kind: ::tar::EntryType, size: u64) -> ::tar::Header {
    let mut header = ::tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o100_755);
    header.set_uid(1000);
    header.set_gid(100);
    header.set_size(size);
    header
}

fn read_all(bytes: &[u8]) -> Result<Vec<(TarEntry, Vec<u8>)>, TarError> {
    let mut reader = TarReader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).unwrap();
        entries.push((entry, data));
    }
    reader.finish()?;
    Ok(entries)
}

fn problem(bytes: &[u8]) -> String {
    read_all(bytes).unwrap_err().problem
}

/// A whole member with a header of our own, its checksum right.
fn member(path: &str, flag: u8, data: &[u8], change: impl FnOnce(&mut [u8; 512])) -> Vec<u8> {
    let mut block = [0; 512];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut bytes = block.to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn reads_what_another_writer_writes() {
    let long = "long/".repeat(60) + "name";
    let far = "target/".repeat(40);
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut file = header(::tar::EntryType::Regular, 5);
    builder.append_data(&mut file, "a/b", &b"hello"[..]).unwrap();
    let mut folder = header(::tar::EntryType::Directory, 0);
    builder.append_data(&mut folder, "d/", &[][..]).unwrap();
    let mut link = header(::tar::EntryType::Symlink, 0);
    builder.append_link(&mut link, "s", &far).unwrap();
    let mut link = header(::tar::EntryType::Link, 0);
    builder.append_link(&mut link, "h", "a/b").unwrap();
    let mut gnu = ::tar::Header::new_gnu();
    gnu.set_entry_type(::tar::EntryType::Regular);
    gnu.set_size(3);
    gnu.set_mode(0o4711);
    gnu.set_uid(3_000_000_000);
    builder.append_data(&mut gnu, &long, &b"abc"[..]).unwrap();
    let mut device = header(::tar::EntryType::Char, 0);
    device.set_device_major(5).unwrap();
    device.set_device_minor(1).unwrap();
    builder.append_data(&mut device, "console", &[][..]).unwrap();
    let mut fifo = header(::tar::EntryType::Fifo, 0);
    builder.append_data(&mut fifo, "p", &[][..]).unwrap();
    let entries = read_all(&builder.into_inner().unwrap()).unwrap();

    let shown: Vec<_> = entries
        .iter()
        .map(|(entry, data)| (String::from_utf8_lossy(&entry.path), entry.kind, data.as_slice()))
        .collect();
    let expected: [(&str, TarKind, &[u8]); 7] = [
        ("a/b", TarKind::File, b"hello"),
        ("d/", TarKind::Folder, b""),
        ("s", TarKind::Symlink, b""),
        ("h", TarKind::HardLink, b""),
        (&long, TarKind::File, b"abc"),
        ("console", TarKind::CharacterDevice, b""),
        ("p", TarKind::Fifo, b""),
    ];
    for ((path, kind, data), expected) in shown.iter().zip(expected) {
        assert_eq!((&**path, *kind, *data), expected);
    }
    assert_eq!(shown.len(), 7);
    let (first, long, console) = (&entries[0].0, &entries[4].0, &entries[5].0);
    assert_eq!((first.permissions, first.uid, first.gid), (0o755, 1000, 100));
    assert_eq!(entries[2].0.target, far.as_bytes());
    assert_eq!((long.permissions, long.uid), (0o4711, 3_000_000_000));
    assert_eq!(console.device, (5, 1));
}

#[test]
fn pax_records_come_before_the_header() {
    let mut builder = ::tar::Builder::new(Vec::new());
    builder
        .append_pax_extensions([
            ("path", &b"p\xc3\xa4th"[..]),
            ("linkpath", b"target"),
            ("uid", b"70000"),
            ("mtime", b"1.5"),
            ("SCHILY.xattr.security.capability", b"\x01\n\0=binary"),
        ])
        .unwrap();
    let mut link = header(::tar::EntryType::Symlink, 0);
    builder.append_link(&mut link, "short", "other").unwrap();
    let entries = read_all(&builder.into_inner().unwrap()).unwrap();
    let entry = &entries[0].0;
    assert_eq!(entry.path, "päth".as_bytes());
    assert_eq!((entry.target.as_slice(), entry.uid, entry.xattrs), (&b"target"[..], 70000, 1));
}

#[test]
fn a_pax_size_replaces_the_headers() {
    let records = b"10 size=3\n";
    let mut bytes = member("x", b'x', records, |_| {});
    bytes.extend(member("f", b'0', b"abc", |block| block[124..135].fill(b'0')));
    let entries = read_all(&bytes).unwrap();
    assert_eq!(entries[0].1, b"abc");
}

#[test]
fn old_and_foreign_forms_are_read() {
    // A folder from before there was a flag for it; a prefix; no end marker.
    let old = member("d/", 0, b"", |_| {});
    let prefixed = member("name", b'0', b"x", |block| block[345..348].copy_from_slice(b"a/b"));
    let entries = read_all(&[old, prefixed].concat()).unwrap();
    assert_eq!(entries[0].0.kind, TarKind::Folder);
    assert_eq!(entries[1].0.path, b"a/b/name");
    // In GNU's own format there is something else in that place.
    let gnu = member("name", b'0', b"x", |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[345..348].copy_from_slice(b"123");
    });
    assert_eq!(read_all(&gnu).unwrap()[0].0.path, b"name");
    // Behind the end there may be anything.
    let rest = [member("f", b'0', b"x", |_| {}), vec![0; 1024], vec![7; 100]].concat();
    assert_eq!(read_all(&rest).unwrap().len(), 1);
    assert!(read_all(b"").unwrap().is_empty());
}

#[test]
fn names_what_is_wrong() {
    let cases: [(Vec<u8>, &str); 9] = [
        (member("s", b'S', b"", |_| {}), "sparse"),
        (member("m", b'M', b"", |_| {}), "member type 'M' is not known"),
        (member("n", b'0', b"", |block| block[100] = b'9'), "mode field"),
        (member("n", b'0', b"", |block| block[124..136].fill(0xff)), "size field"),
        (
            member("n", b'0', b"", |block| {
                block[108..116].copy_from_slice(b"\x80\0\0\0\xff\xff\xff\xff");
            }),
            "uid 4294967295 is over the limit of 4294967294",
        ),
        (
            member("n", b'3', b"", |block| block[329..336].copy_from_slice(b"7777777")),
            "device 2097151:0 does not exist",
        ),
        (member("g", b'g', b"10 path=x\n", |_| {}), "global extended header that sets path"),
        (member("x", b'x', b"9 path=x\n\n", |_| {}), "malformed extended header"),
        (member("x", b'x', b"22 GNU.sparse.major=1\n", |_| {}), "sparse"),
    ];
    for (bytes, expected) in cases {
        let found = problem(&[bytes, member("f", b'0', b"", |_| {})].concat());
        assert!(found.contains(expected), "{found} / {expected}");
    }
    let mut junk = member("f", b'0', b"", |_| {});
    junk[0] = b'g';
    assert!(problem(&junk).contains("this is not a tar archive"));
    assert!(problem(&member("x", b'x', b"9 path=x\n", |_| {})).contains("ends after an extended"));
}

#[test]
fn lengths_are_not_believed() {
    // A long name of 8 GiB must not be held in memory.
    let huge = member("l", b'L', b"", |block| block[124..135].copy_from_slice(b"77777777777"));
    assert!(problem(&huge).contains("the limit is 1048576"));
    let file = member("f", b'0', b"", |block| block[124..135].copy_from_slice(b"77777777777"));
    assert_eq!(problem(&file), "the archive ends 8589934592 bytes too soon");
    for record in ["99999999999999999999 a=b\n", "5 a=b\n\n", "0 a=b\n", " a=b\n", "6 ab\n\n"] {
        let bytes = member("x", b'x', record.as_bytes(), |_| {});
        assert_eq!(problem(&bytes), "a malformed extended header", "{record:?}");
    }
}

#[test]
fn every_cut_is_noticed_or_ends_between_members() {
    let bytes = [member("a", b'0', b"data", |_| {}), member("b", b'0', b"", |_| {})].concat();
    for length in 0..bytes.len() {
        let whole = length == 0 || length == 1024;
        assert_eq!(read_all(&bytes[..length]).is_ok(), whole, "{length}");
    }
}

proptest! {
    #[test]
    fn changed_bytes_never_make_it_panic(
        changes in proptest::collection::vec((0..2048_usize, any::<u8>()), 0..8),
        mend in any::<bool>(),
    ) {
        let records = b"10 path=x\n11 size=12\n12 uid=1000\n";
        let mut bytes = member("x", b'x', records, |_| {});
        bytes.extend(member("f", b'0', b"hello", |_| {}));
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if mend {
            for start in [0, 1024] {
                let block = &mut bytes[start..start + 512];
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            }
        }
        let _ = read_all(&bytes);
    }
}
