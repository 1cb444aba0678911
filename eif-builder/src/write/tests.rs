//! The writer against the vectors of nitro.md 12, and what it leaves behind when it fails.

use ring::digest::{SHA256, digest};

use super::*;
use crate::Eif;

/// The four sections of nitro.md 12, in builder order with metadata `{}`.
const EXAMPLE: [(SectionKind, &[u8]); 5] = [
    (SectionKind::Kernel, b"kernel"),
    (SectionKind::Cmdline, b"cmdline"),
    (SectionKind::Metadata, b"{}"),
    (SectionKind::Ramdisk, b"ramdisk1"),
    (SectionKind::Ramdisk, b"ramdisk2"),
];

fn write(sections: &[(SectionKind, &[u8])]) -> (Vec<u8>, Written) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a.eif");
    let mut writer = EifWriter::create(&output, Architecture::X86_64).unwrap();
    for (kind, data) in sections {
        writer.section(*kind, data.len() as u64, &mut &data[..]).unwrap();
    }
    let written = writer.finish().unwrap();
    (std::fs::read(&output).unwrap(), written)
}

fn left_in(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn writes_the_example_byte_for_byte() {
    let (bytes, written) = write(&EXAMPLE);
    assert_eq!(bytes, include_bytes!("../../testdata/example.eif"));
    assert_eq!(bytes.len(), 639);
    assert_eq!(written.size, 639);
    assert_eq!(written.crc, 0x5cfb_e11d);
    assert_eq!(
        hex::encode(digest(&SHA256, &bytes)),
        "d6b003497204604e1b1b49a5fc8206d91f62bd4111873fc286b65af9c79ae554"
    );
    let offsets: Vec<_> =
        Eif::parse(&bytes).unwrap().sections().iter().map(|section| section.offset).collect();
    assert_eq!(offsets, [548, 566, 585, 599, 619]);
}

#[test]
fn measures_while_it_writes() {
    for ramdisks in [0_usize, 1, 2, 5] {
        let mut sections = EXAMPLE[..3].to_vec();
        for index in 0..ramdisks {
            sections.push((SectionKind::Ramdisk, &b"some ramdisk"[index..]));
        }
        let (bytes, written) = write(&sections);
        let read = Measurements::of(&Eif::parse(&bytes).unwrap()).unwrap();
        assert_eq!(read, written.measurements, "{ramdisks} ramdisks");
    }
}

#[test]
fn streams_sections_longer_than_a_chunk() {
    let long: Vec<u8> = (0..=250).cycle().take(3 * CHUNK + 17).collect();
    let mut sections = EXAMPLE;
    sections[4].1 = &long;
    let (bytes, written) = write(&sections);
    let eif = Eif::parse(&bytes).unwrap();
    assert_eq!(eif.ramdisks().nth(1), Some(long.as_slice()));
    assert_eq!(Measurements::of(&eif).unwrap(), written.measurements);
}

#[test]
fn leaves_nothing_when_it_fails() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a.eif");
    std::fs::write(&output, "the old image").unwrap();
    let mut writer = EifWriter::create(&output, Architecture::X86_64).unwrap();
    let error = writer.section(SectionKind::Kernel, 7, &mut &b"kernel"[..]).unwrap_err();
    assert_eq!(error.to_string(), "kernel has 6 bytes, expected 7");
    let again = writer.section(SectionKind::Kernel, 6, &mut &b"kernel"[..]);
    assert!(matches!(again, Err(Error::Unfinished)));
    assert!(matches!(writer.finish(), Err(Error::Unfinished)));
    assert_eq!(std::fs::read(&output).unwrap(), b"the old image");
    assert_eq!(left_in(folder.path()), 1);

    drop(EifWriter::create(&output, Architecture::X86_64).unwrap());
    assert_eq!(left_in(folder.path()), 1);

    let nowhere = folder.path().join("missing/a.eif");
    assert!(matches!(EifWriter::create(&nowhere, Architecture::X86_64), Err(Error::Io { .. })));
}

#[test]
fn an_image_that_is_there_is_replaced_in_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a.eif");
    std::fs::write(&output, "the old image").unwrap();
    let mut old = std::fs::File::open(&output).unwrap();
    let mut writer = EifWriter::create(&output, Architecture::X86_64).unwrap();
    for (kind, data) in EXAMPLE {
        assert_eq!(std::fs::read(&output).unwrap(), b"the old image");
        writer.section(kind, data.len() as u64, &mut &data[..]).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(std::fs::metadata(&output).unwrap().len(), 639);
    assert_eq!(left_in(folder.path()), 1);
    // Whoever had the old one open still has it.
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert_eq!(text, "the old image");
}

#[test]
fn a_name_taken_by_a_folder_is_an_error_that_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a.eif");
    std::fs::create_dir(&output).unwrap();
    let mut writer = EifWriter::create(&output, Architecture::X86_64).unwrap();
    for (kind, data) in EXAMPLE {
        writer.section(kind, data.len() as u64, &mut &data[..]).unwrap();
    }
    assert!(matches!(writer.finish(), Err(Error::Io { .. })));
    assert_eq!(left_in(folder.path()), 1);
}

#[test]
fn keeps_the_order_of_awss_builder() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = EifWriter::create(&folder.path().join("a.eif"), Architecture::X86_64).unwrap();
    let mut add = |kind| writer.section(kind, 2, &mut &b"{}"[..]);
    assert_eq!(
        add(SectionKind::Cmdline).unwrap_err().to_string(),
        "cmdline section after the start: the order is kernel, cmdline, metadata, ramdisks, signature"
    );
    add(SectionKind::Kernel).unwrap();
    assert!(add(SectionKind::Ramdisk).is_err());
    add(SectionKind::Cmdline).unwrap();
    assert!(add(SectionKind::Signature).is_err());
    add(SectionKind::Metadata).unwrap();
    for _ in 3..32 {
        add(SectionKind::Ramdisk).unwrap();
    }
    assert!(matches!(add(SectionKind::Ramdisk), Err(Error::TooManySections)));
    writer.finish().unwrap();
}

#[test]
fn an_image_without_metadata_is_not_finished() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer =
        EifWriter::create(&folder.path().join("a.eif"), Architecture::Aarch64).unwrap();
    writer.section(SectionKind::Kernel, 1, &mut &b"k"[..]).unwrap();
    writer.section(SectionKind::Cmdline, 1, &mut &b"c"[..]).unwrap();
    let error = writer.finish().unwrap_err();
    assert_eq!(error.to_string(), "0 metadata sections, expected exactly one");
    assert_eq!(left_in(folder.path()), 0);
}
