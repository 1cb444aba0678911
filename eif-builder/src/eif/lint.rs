//! What can be wrong with a file whose sections can be told apart. Each rule is one on which two
//! readers of the format differ, or that a later stage relies on.

use serde::Deserialize;

use super::{Eif, u16_at, u32_at, u64_at};
use crate::Error;
use crate::format::{
    HEADER_LEN, MAX_METADATA, MAX_SECTIONS, MAX_SIGNATURE, RESERVED_2_AT, RESERVED_AT,
    SECTION_OFFSETS_AT, SECTION_SIZES_AT, SectionKind,
};

pub(super) fn findings(eif: &Eif<'_>) -> Vec<Error> {
    let mut found = Vec::new();
    layout(eif, &mut found);
    sections(eif, &mut found);
    contents(eif, &mut found);
    reserved(eif, &mut found);
    if !eif.crc.is_right() {
        found.push(Error::Crc { stored: eif.crc.stored, computed: eif.crc.computed });
    }
    found
}

/// Sections follow each other without a byte between, before or after them.
fn layout(eif: &Eif<'_>, found: &mut Vec<Error>) {
    let mut expected = HEADER_LEN as u64;
    for (section, part) in eif.sections.iter().enumerate() {
        let (kind, offset, own) = (part.kind, part.offset, part.data.len() as u64);
        if offset > expected {
            found.push(Error::Gap { section, kind, found: offset, expected });
        } else if offset < expected {
            found.push(Error::Overlap { section, kind, found: offset, expected });
        }
        if part.table_size != own {
            let table = part.table_size;
            found.push(Error::SectionSize { section, kind, offset, own, table });
        }
        expected = expected.max(part.end());
    }
    let length = eif.bytes.len() as u64;
    if length > expected {
        found.push(Error::Trailing { end: expected, length });
    }
}

/// Which sections there are, in what order.
fn sections(eif: &Eif<'_>, found: &mut Vec<Error>) {
    let mut kernel_seen = false;
    for (section, part) in eif.sections.iter().enumerate() {
        let (kind, offset, flags) = (part.kind, part.offset, part.flags);
        if flags != 0 {
            found.push(Error::SectionFlags { section, kind, offset, flags });
        }
        kernel_seen |= kind == SectionKind::Kernel;
        if kind == SectionKind::Ramdisk && !kernel_seen {
            found.push(Error::RamdiskBeforeKernel { section, offset });
        }
        let since = match kind {
            SectionKind::Signature => 3,
            SectionKind::Metadata => 4,
            _ => 0,
        };
        if eif.version < since {
            found.push(Error::NotInVersion { kind, version: eif.version, offset });
        }
    }
    let count = |kind| eif.sections.iter().filter(|section| section.kind == kind).count();
    let signatures = count(SectionKind::Signature);
    if signatures > 1 {
        let expected = "at most one";
        found.push(Error::SectionTally {
            kind: SectionKind::Signature,
            count: signatures,
            expected,
        });
    }
    let metadata = count(SectionKind::Metadata);
    if metadata != 1 && eif.version >= 4 {
        let (kind, expected) = (SectionKind::Metadata, "exactly one since version 4");
        found.push(Error::SectionTally { kind, count: metadata, expected });
    }
}

fn contents(eif: &Eif<'_>, found: &mut Vec<Error>) {
    for part in &eif.sections {
        let size = part.data.len() as u64;
        match part.kind {
            SectionKind::Cmdline => found.extend(cmdline(part.data, part.data_offset())),
            SectionKind::Metadata if size > MAX_METADATA => {
                found.push(Error::MetadataSize { size });
            }
            SectionKind::Metadata => found.extend(metadata(part.data, part.data_offset())),
            SectionKind::Signature if size > MAX_SIGNATURE => {
                found.push(Error::SignatureSize { size });
            }
            _ => {}
        }
    }
}

fn cmdline(data: &[u8], offset: u64) -> Option<Error> {
    if let Some(at) = data.iter().position(|byte| *byte == 0) {
        return Some(Error::CmdlineNul { offset: offset + at as u64 });
    }
    let error = std::str::from_utf8(data).err()?;
    Some(Error::CmdlineText { offset: offset + error.valid_up_to() as u64 })
}

/// Reads past every member without keeping any.
#[derive(Deserialize)]
struct Object {}

fn metadata(data: &[u8], offset: u64) -> Option<Error> {
    // Checked here, because serde does not look into strings it reads past; and a struct without
    // fields could also be an empty array.
    let detail = match std::str::from_utf8(data) {
        Err(error) => error.to_string(),
        Ok(text) if text.trim_ascii_start().starts_with('{') => {
            serde_json::from_str::<Object>(text).err()?.to_string()
        }
        Ok(_) => "it does not start with `{`".to_owned(),
    };
    Some(Error::MetadataJson { offset, detail })
}

/// Fields and table slots that mean nothing must be zero.
fn reserved(eif: &Eif<'_>, found: &mut Vec<Error>) {
    let fields = [
        (RESERVED_AT, u64::from(u16_at(eif.bytes, RESERVED_AT))),
        (RESERVED_2_AT, u64::from(u32_at(eif.bytes, RESERVED_2_AT))),
    ];
    let slots = (eif.sections.len()..MAX_SECTIONS)
        .flat_map(|slot| [SECTION_OFFSETS_AT + 8 * slot, SECTION_SIZES_AT + 8 * slot])
        .map(|at| (at, u64_at(eif.bytes, at)));
    let wrong = fields.into_iter().chain(slots).find(|(_, value)| *value != 0);
    if let Some((at, value)) = wrong {
        found.push(Error::Reserved { offset: at as u64, value });
    }
}
