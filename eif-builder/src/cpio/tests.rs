//! The archive against a reader that does what the kernel's `init/initramfs.c` does: fields are
//! hexadecimal, files are named before they are filled, and a second name is a link to the first.

use std::collections::{BTreeMap, HashMap};

use super::*;

/// What the kernel would have made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Unpacked {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) device: (u32, u32),
    /// Contents of a file, target of a symlink; shared by all names of a file.
    pub(crate) data: Vec<u8>,
    /// The first name of this file.
    pub(crate) first_name: String,
}

/// Unpacks one archive, checking that it is one and that parents come first.
pub(crate) fn unpack(archive: &[u8]) -> BTreeMap<String, Unpacked> {
    let mut files: BTreeMap<String, Unpacked> = BTreeMap::new();
    let mut links: HashMap<u32, String> = HashMap::new();
    let mut at = 0;
    loop {
        let header = &archive[at..at + 110];
        assert_eq!(&header[..6], b"070701");
        let field = |index: usize| {
            let text = std::str::from_utf8(&header[6 + 8 * index..14 + 8 * index]).unwrap();
            u32::from_str_radix(text, 16).unwrap()
        };
        let (inode, mode, links_to, size, name_size) =
            (field(0), field(1), field(4), field(6) as usize, field(11) as usize);
        assert_eq!((field(5), field(7), field(8), field(12)), (0, 0, 0, 0), "time, device, sum");
        let name = &archive[at + 110..at + 110 + name_size];
        let name = std::str::from_utf8(name).unwrap().strip_suffix('\0').unwrap().to_owned();
        at = (at + 110 + name_size).next_multiple_of(4);
        let data = archive[at..at + size].to_vec();
        at = (at + size).next_multiple_of(4);
        if name == "TRAILER!!!" {
            assert_eq!(archive.len(), at.next_multiple_of(512));
            assert!(archive[at..].iter().all(|byte| *byte == 0));
            return files;
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            let parent = files.get(parent).unwrap_or_else(|| panic!("{name} before its folder"));
            assert_eq!(parent.mode & 0o170_000, file_type::FOLDER);
        }
        let kind = mode & 0o170_000;
        let linkable = kind != file_type::FOLDER && kind != file_type::SYMLINK;
        let first = match links.get(&inode) {
            Some(first) if linkable && links_to >= 2 => first.clone(),
            _ => name.clone(),
        };
        links.insert(inode, first.clone());
        let file = Unpacked {
            mode,
            owner: (field(2), field(3)),
            device: (field(9), field(10)),
            data: data.clone(),
            first_name: first.clone(),
        };
        assert!(files.insert(name, file).is_none(), "a name twice");
        // Writing into one name of a file is writing into all.
        for other in files.values_mut().filter(|other| other.first_name == first) {
            other.data.clone_from(&data);
        }
    }
}

fn archive(fill: impl FnOnce(&mut CpioWriter<'_>) -> Result<(), Error>) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    let mut writer = CpioWriter::new(&mut out);
    fill(&mut writer)?;
    writer.finish()?;
    Ok(out)
}

fn file(size: u64) -> Entry {
    Entry { mode: file_type::FILE | 0o644, links: 1, size, ..Entry::default() }
}

#[test]
fn writes_a_small_archive_byte_for_byte() {
    let written = archive(|cpio| {
        let folder = Entry { mode: file_type::FOLDER | 0o755, links: 2, ..Entry::default() };
        cpio.add(b"dev", folder, &mut &[][..])?;
        cpio.add(b"hello", file(5), &mut &b"world"[..])
    })
    .unwrap();
    assert_eq!(written, include_bytes!("../../testdata/small.cpio"));
}

#[test]
fn owners_modes_and_devices_come_through() {
    let written = archive(|cpio| {
        let mode = file_type::CHARACTER_DEVICE | 0o4620;
        let entry = Entry {
            mode,
            uid: 1000,
            gid: u32::MAX - 1,
            links: 1,
            size: 0,
            device: (136, 0xf_ffff),
        };
        cpio.add(b"tty", entry, &mut &[][..])
    })
    .unwrap();
    let files = unpack(&written);
    assert_eq!(files["tty"].mode, 0o024_620);
    assert_eq!(files["tty"].owner, (1000, u32::MAX - 1));
    assert_eq!(files["tty"].device, (136, 0xf_ffff));
}

#[test]
fn refuses_what_the_kernel_would_pass_over_in_silence() {
    let refusal = |name: &[u8], entry: Entry| {
        archive(|cpio| cpio.add(name, entry, &mut std::io::repeat(b'x').take(entry.size)))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refusal(&[b'a'; 4096], file(0)).split_once("archive").unwrap().1,
        ": its path has 4096 bytes, the limit is 4095"
    );
    assert_eq!(
        refusal(b"big", file(1 << 32)),
        "`big` cannot be in a cpio archive: it has 4294967296 bytes, the limit is 4294967295"
    );
    let link = Entry { mode: file_type::SYMLINK | 0o777, links: 1, size: 4096, ..Entry::default() };
    assert!(refusal(b"link", link).contains("its target has 4096 bytes"));
    for name in [&b""[..], b"TRAILER!!!", b"a\0b"] {
        assert!(refusal(name, file(0)).contains("not possible"), "{name:?}");
    }
}

#[test]
fn data_must_be_as_long_as_it_was_said_to_be() {
    for (size, data) in [(3, &b"four"[..]), (5, b"four")] {
        let error = archive(|cpio| cpio.add(b"f", file(size), &mut &data[..])).unwrap_err();
        assert_eq!(error.to_string(), format!("`f` has 4 bytes, expected {size}"));
    }
}
