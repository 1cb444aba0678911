//! The reader against the example of nitro.md 12, cut and changed in every place, and against files
//! on which other readers of the format disagree.

use proptest::prelude::*;

use super::*;
use crate::Measurements;

const EXAMPLE: &[u8] = include_bytes!("../../testdata/example.eif");

/// A section as it goes into a made-up file: type, flags, data.
type Part<'a> = (u16, u16, &'a [u8]);

const KERNEL: Part<'_> = (1, 0, b"kernel");
const CMDLINE: Part<'_> = (2, 0, b"cmdline");
const RAMDISK: Part<'_> = (3, 0, b"ramdisk1");
const METADATA: Part<'_> = (5, 0, b"{}");

/// A file of these sections, with a right CRC, after `change` has had its way with it.
fn file(version: u16, parts: &[Part<'_>], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&version.to_be_bytes());
    bytes[0x1a..0x1c].copy_from_slice(&u16::try_from(parts.len()).unwrap().to_be_bytes());
    for (slot, (code, flags, data)) in parts.iter().enumerate() {
        let (offset, size) = (bytes.len() as u64, data.len() as u64);
        for (table, value) in [(SECTION_OFFSETS_AT, offset), (SECTION_SIZES_AT, size)] {
            if let Some(slot) = bytes[..HEADER_LEN].get_mut(table + 8 * slot..table + 8 * slot + 8)
            {
                slot.copy_from_slice(&value.to_be_bytes());
            }
        }
        bytes.extend(code.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend(size.to_be_bytes());
        bytes.extend(*data);
    }
    change(&mut bytes);
    let crc = checksum(&bytes);
    bytes[CRC_AT..HEADER_LEN].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn good(parts: &[Part<'_>]) -> Vec<u8> {
    file(4, parts, |_| {})
}

fn findings(bytes: &[u8]) -> Vec<String> {
    Eif::read(bytes).unwrap().findings().iter().map(ToString::to_string).collect()
}

fn refusal(bytes: &[u8]) -> String {
    Eif::parse(bytes).unwrap_err().to_string()
}

#[test]
fn reads_the_example() {
    let eif = Eif::parse(EXAMPLE).unwrap();
    assert_eq!((eif.version(), eif.architecture()), (4, Architecture::X86_64));
    assert_eq!((eif.kernel(), eif.cmdline()), (&b"kernel"[..], &b"cmdline"[..]));
    assert_eq!(eif.ramdisks().collect::<Vec<_>>(), [b"ramdisk1", b"ramdisk2"]);
    assert_eq!((eif.metadata(), eif.signature()), (Some(&b"{}"[..]), None));
    assert_eq!(eif.crc(), Crc { stored: 0x5cfb_e11d, computed: 0x5cfb_e11d });
    assert_eq!(good(&[KERNEL, CMDLINE, METADATA, RAMDISK, (3, 0, b"ramdisk2")]).len(), 639);
}

#[test]
fn measures_the_example() {
    let measured = Measurements::of(&Eif::parse(EXAMPLE).unwrap()).unwrap();
    let expected = [
        "b42aad6f7306d31fcdd5acecf765a6db40523d2a7d8150ed99a7983cf395c2b8d0dfb3217ef2fef5f6baec704c1b16d0",
        "ffebd63c5a6729958c397a752ac494ce52b7a5d0703121f4e09105c6cbe82bfdee594a2baae6780e8559d5013120844f",
        "7c364ca068df83f436472fb4e895df77b50803fd100676adfbf440e2e2389534aa641a512463e302e1c01c9023526e8c",
    ];
    let found = [measured.pcr0, measured.pcr1, measured.pcr2].map(|pcr| pcr.to_string());
    assert_eq!(found, expected);
    assert_eq!(measured.pcr8, None);
}

#[test]
fn one_ramdisk_leaves_pcr2_of_nothing() {
    let bytes = good(&[KERNEL, CMDLINE, METADATA, RAMDISK]);
    let measured = Measurements::of(&Eif::parse(&bytes).unwrap()).unwrap();
    assert_eq!(
        measured.pcr2.to_string(),
        "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
    );
    assert_eq!(measured.pcr0, measured.pcr1);
}

#[test]
fn measures_in_the_order_of_the_file() {
    // The command line behind the ramdisks: PCR1 is no prefix of PCR0 any more.
    let bytes = good(&[KERNEL, METADATA, RAMDISK, (3, 0, b"ramdisk2"), CMDLINE]);
    let measured = Measurements::of(&Eif::parse(&bytes).unwrap()).unwrap();
    let pcr =
        |data: &[u8]| nsm::Pcr::of(ring::digest::digest(&ring::digest::SHA384, data).as_ref());
    assert_eq!(measured.pcr0, pcr(b"kernelramdisk1ramdisk2cmdline"));
    assert_eq!(measured.pcr1, pcr(b"kernelramdisk1cmdline"));
    assert_eq!(measured.pcr2, pcr(b"ramdisk2"));
}

#[test]
fn every_prefix_is_refused_and_says_what_is_cut() {
    for length in 0..EXAMPLE.len() {
        let error = Eif::read(&EXAMPLE[..length]).unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }), "{length}: {error}");
        assert!(error.hint().is_some());
    }
    assert_eq!(
        refusal(&EXAMPLE[..638]),
        "EIF ends inside the data of section 4 (ramdisk) at offset 0x277: 8 bytes needed, 7 there"
    );
    assert_eq!(
        refusal(b""),
        "EIF ends inside the file header at offset 0x0: 548 bytes needed, 0 there"
    );
}

#[test]
fn every_changed_byte_is_refused() {
    for at in 0..EXAMPLE.len() {
        for bit in 0..8 {
            let mut bytes = EXAMPLE.to_vec();
            bytes[at] ^= 1 << bit;
            let refused = Eif::parse(&bytes).is_err();
            assert!(refused, "bit {bit} of byte {at:#x}");
        }
    }
}

#[test]
fn names_what_is_wrong_with_the_header() {
    let parts = [KERNEL, CMDLINE, METADATA];
    let changed = |at: usize, byte| file(4, &parts, |bytes| bytes[at] = byte);
    let cases = [
        (
            changed(0, b'/'),
            "not an EIF: the first bytes are [2f, 65, 69, 66], expected 2e 65 69 66 (\".eif\")",
        ),
        (changed(5, 5), "EIF version 5 at offset 0x4, expected 2 to 4"),
        (changed(5, 1), "EIF version 1 at offset 0x4, expected 2 to 4"),
        (changed(7, 2), "EIF flags 0x0002 at offset 0x6, expected 0 (x86_64) or 1 (aarch64)"),
        (changed(0x1b, 1), "1 sections at offset 0x1a, expected 2 to 32"),
        (changed(0x1b, 33), "33 sections at offset 0x1a, expected 2 to 32"),
        (changed(0x19, 9), "reserved field at offset 0x18 is 0x9, expected 0"),
        (changed(0x21f, 1), "reserved field at offset 0x21c is 0x1, expected 0"),
        (changed(0x3b, 7), "reserved field at offset 0x34 is 0x7, expected 0"),
    ];
    for (bytes, expected) in cases {
        assert_eq!(refusal(&bytes), expected);
    }
}

#[test]
fn names_what_is_wrong_with_the_layout() {
    let parts = [KERNEL, CMDLINE, METADATA];
    let last_offset = SECTION_OFFSETS_AT + 23;
    // The metadata's header twice, once where it belongs and once three bytes on.
    let gap = file(4, &parts, |bytes| {
        let end = bytes.split_off(585);
        bytes.extend([0; 3]);
        bytes.extend(end);
        bytes[last_offset] += 3;
    });
    assert_eq!(
        findings(&gap),
        ["3 bytes between sections: section 2 (metadata) is at offset 0x24c, expected 0x249"]
    );
    let trailing = file(4, &parts, |bytes| bytes.push(0));
    assert_eq!(findings(&trailing), ["1 bytes after the last section, which ends at offset 0x257"]);
    let twice = [KERNEL, CMDLINE, METADATA, METADATA];
    let overlap = file(4, &twice, |bytes| {
        let slot = SECTION_OFFSETS_AT + 24;
        bytes[slot..slot + 8].copy_from_slice(&585_u64.to_be_bytes());
        bytes.truncate(599);
    });
    assert_eq!(
        findings(&overlap),
        [
            "section 3 (metadata) at offset 0x249 starts before the previous one ends at 0x257",
            "2 metadata sections, expected exactly one since version 4",
        ]
    );
    let stale = file(4, &[KERNEL, CMDLINE, METADATA, (4, 0, b"new")], |bytes| {
        bytes[SECTION_SIZES_AT + 31] = 9;
    });
    let eif = Eif::read(&stale).unwrap();
    let found = eif.findings();
    assert_eq!(
        found[0].to_string(),
        "section 3 (signature) at offset 0x257 says it has 3 bytes, the file header says 9"
    );
    assert!(found[0].hint().unwrap().contains("nitro-cli"));
    assert_eq!(eif.signature(), Some(&b"new"[..]));
}

#[test]
fn names_what_is_wrong_with_the_sections() {
    let cases: [(&[Part<'_>], &str); 11] = [
        (&[KERNEL, METADATA], "0 cmdline sections, expected exactly one"),
        (&[KERNEL, KERNEL, CMDLINE], "2 kernel sections, expected exactly one"),
        (&[KERNEL, CMDLINE], "0 metadata sections, expected exactly one since version 4"),
        (
            &[RAMDISK, KERNEL, CMDLINE, METADATA],
            "section 0 (ramdisk) at offset 0x224 comes before the kernel",
        ),
        (&[KERNEL, CMDLINE, (6, 0, b"")], "section 2 at offset 0x249 has type 6, expected 1 to 5"),
        (&[(0, 0, b""), KERNEL], "section 0 at offset 0x224 has type 0, expected 1 to 5"),
        (
            &[KERNEL, (2, 1, b"c"), METADATA],
            "section 1 (cmdline) at offset 0x236 has flags 0x0001, expected 0",
        ),
        (&[KERNEL, (2, 0, b"a\0b"), METADATA], "cmdline has a NUL byte at offset 0x243"),
        (&[KERNEL, (2, 0, b"ab\xff"), METADATA], "cmdline is not UTF-8 at offset 0x244"),
        (
            &[KERNEL, CMDLINE, (5, 0, b"[]")],
            "metadata at offset 0x255 is not a JSON object: it does not start with `{`",
        ),
        (
            &[KERNEL, CMDLINE, METADATA, (4, 0, b"x"), (4, 0, b"y")],
            "2 signature sections, expected at most one",
        ),
    ];
    for (parts, expected) in cases {
        assert_eq!(refusal(&good(parts)), expected);
    }
    assert!(refusal(&good(&[KERNEL, CMDLINE, (5, 0, b"{} x")])).contains("trailing characters"));
    assert!(refusal(&good(&[KERNEL, CMDLINE, (5, 0, b"{\"a\":\"\xff\"}")])).contains("metadata"));
}

#[test]
fn sizes_that_would_cost_are_refused() {
    let long = vec![b' '; 1 + (1 << 20)];
    assert_eq!(
        refusal(&good(&[KERNEL, CMDLINE, (5, 0, &long)])),
        "metadata of 1048577 bytes is over the limit of 1048576"
    );
    assert_eq!(
        refusal(&good(&[KERNEL, CMDLINE, METADATA, (4, 0, &long[..32769])])),
        "signature section of 32769 bytes is over the limit of 32768"
    );
    let deep = vec![b'['; 100_000];
    assert!(
        Eif::parse(&good(&[KERNEL, CMDLINE, (5, 0, &[b"{\"a\":", &deep[..]].concat())])).is_err()
    );
}

#[test]
fn older_versions_have_fewer_sections() {
    let signature: Part<'_> = (4, 0, b"s");
    assert!(Eif::parse(&file(2, &[KERNEL, CMDLINE, RAMDISK], |_| {})).is_ok());
    assert!(Eif::parse(&file(3, &[KERNEL, CMDLINE, RAMDISK, signature], |_| {})).is_ok());
    assert_eq!(
        refusal(&file(2, &[KERNEL, CMDLINE, signature], |_| {})),
        "signature section at offset 0x249, which EIF version 2 does not have"
    );
    assert_eq!(
        refusal(&file(3, &[KERNEL, CMDLINE, METADATA], |_| {})),
        "metadata section at offset 0x249, which EIF version 3 does not have"
    );
}

#[test]
fn offsets_and_sizes_beyond_everything_do_not_overflow() {
    for value in [u64::MAX, u64::MAX - 11, u64::from(u32::MAX), 1 << 63, 639] {
        let far = file(4, &[KERNEL, CMDLINE, METADATA], |bytes| {
            bytes[SECTION_OFFSETS_AT..SECTION_OFFSETS_AT + 8].copy_from_slice(&value.to_be_bytes());
        });
        assert!(matches!(Eif::read(&far), Err(Error::Truncated { .. })), "{value}");
        let long = file(4, &[KERNEL, CMDLINE, METADATA], |bytes| {
            bytes[552..560].copy_from_slice(&value.to_be_bytes());
        });
        assert!(matches!(Eif::read(&long), Err(Error::Truncated { .. })), "{value}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// With the CRC mended, so that the changes reach the rules behind it.
    #[test]
    fn changed_bytes_never_make_it_panic(
        changes in proptest::collection::vec((0..EXAMPLE.len(), any::<u8>()), 1..6),
        length in 0..=EXAMPLE.len(),
    ) {
        let mut bytes = EXAMPLE.to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(length);
        if bytes.len() >= HEADER_LEN {
            let crc = checksum(&bytes);
            bytes[CRC_AT..HEADER_LEN].copy_from_slice(&crc.to_be_bytes());
        }
        if let Ok(eif) = Eif::read(&bytes) {
            prop_assert!(eif.findings().len() <= 4 * MAX_SECTIONS);
            let _ = Measurements::of(&eif);
            prop_assert_eq!(Eif::parse(&bytes).is_ok(), eif.findings().is_empty());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
        let _ = Eif::read(&bytes);
    }
}
