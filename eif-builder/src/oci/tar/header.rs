//! The 512-byte header of a tar member.

use super::TarEntry;
use super::records::Overrides;

/// What a member is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::oci) enum TarKind {
    File,
    HardLink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Folder,
    Fifo,
}

/// The fields of a header, numbers decoded.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) flag: u8,
    pub(super) size: u64,
    path: Vec<u8>,
    target: Vec<u8>,
    mode: u64,
    uid: u64,
    gid: u64,
    major: u64,
    minor: u64,
}

/// The kernel's device numbers: 12 bits major, 20 bits minor.
const MAX_MAJOR: u64 = 0xfff;
const MAX_MINOR: u64 = 0xf_ffff;

impl Header {
    pub(super) fn parse(block: &[u8; 512]) -> Result<Self, String> {
        check_sum(block)?;
        let mut path = text(&block[..100]).to_vec();
        // GNU's own format has times where ustar has the front of long paths.
        if &block[257..263] == b"ustar\0" {
            let prefix = text(&block[345..500]);
            if !prefix.is_empty() {
                path = [prefix, b"/", &path].concat();
            }
        }
        let flag = block[156];
        let device = matches!(flag, b'3' | b'4');
        Ok(Self {
            flag,
            size: number("size", &block[124..136])?,
            path,
            target: text(&block[157..257]).to_vec(),
            mode: number("mode", &block[100..108])?,
            uid: number("uid", &block[108..116])?,
            gid: number("gid", &block[116..124])?,
            // Some writers leave junk here for everything else.
            major: if device { number("major", &block[329..337])? } else { 0 },
            minor: if device { number("minor", &block[337..345])? } else { 0 },
        })
    }

    pub(super) fn into_entry(self, overrides: Overrides) -> Result<TarEntry, String> {
        let path = overrides.path.unwrap_or(self.path);
        let kind = match self.flag {
            // Before there was a flag for folders, they were files with a slash at the end.
            0 | b'0' | b'7' if path.ends_with(b"/") => TarKind::Folder,
            0 | b'0' | b'7' => TarKind::File,
            b'1' => TarKind::HardLink,
            b'2' => TarKind::Symlink,
            b'3' => TarKind::CharacterDevice,
            b'4' => TarKind::BlockDevice,
            b'5' => TarKind::Folder,
            b'6' => TarKind::Fifo,
            b'S' => return Err("a sparse file; pack the layer without sparse files".to_owned()),
            flag => return Err(format!("member type {:?} is not known", char::from(flag))),
        };
        let size = if kind == TarKind::File { overrides.size.unwrap_or(self.size) } else { 0 };
        if self.major > MAX_MAJOR || self.minor > MAX_MINOR {
            return Err(format!("device {}:{} does not exist", self.major, self.minor));
        }
        let id = |what: &str, id: u64| {
            // The last number means "no change" to the kernel.
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| format!("{what} {id} is over the limit of {}", u32::MAX - 1))
        };
        let device = |number: u64| u32::try_from(number).unwrap_or_default();
        Ok(TarEntry {
            path,
            kind,
            target: overrides.target.unwrap_or(self.target),
            // Masked to 12 bits, so it fits.
            permissions: u16::try_from(self.mode & 0o7777).unwrap_or_default(),
            uid: id("uid", overrides.uid.unwrap_or(self.uid))?,
            gid: id("gid", overrides.gid.unwrap_or(self.gid))?,
            size,
            device: (device(self.major), device(self.minor)),
            xattrs: overrides.xattrs,
        })
    }
}

/// The sum of all bytes, its own field counted as blanks. Old writers summed signed bytes.
fn check_sum(block: &[u8; 512]) -> Result<(), String> {
    let stored = number("checksum", &block[148..156])?;
    let counted = |index: usize, byte: u8| if (148..156).contains(&index) { b' ' } else { byte };
    let (mut unsigned, mut signed) = (0_u64, 0_i64);
    for (index, byte) in block.iter().enumerate() {
        let byte = counted(index, *byte);
        unsigned += u64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if stored == unsigned || i64::try_from(stored) == Ok(signed) {
        return Ok(());
    }
    Err(format!(
        "header checksum is {stored:#o}, expected {unsigned:#o}; this is not a tar archive"
    ))
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits between blanks or NULs; with the top bit set, a big-endian binary number (GNU).
fn number(what: &str, field: &[u8]) -> Result<u64, String> {
    let refuse = || format!("{what} field {field:02x?} is not a number");
    let (first, rest) = field.split_first().ok_or_else(refuse)?;
    if first & 0x80 != 0 {
        // 0xff starts a negative number, and there is nothing negative here.
        let first = first & 0x7f;
        return rest.iter().try_fold(u64::from(first), |value, byte| {
            value.checked_mul(256).map(|value| value | u64::from(*byte)).ok_or_else(refuse)
        });
    }
    let text = std::str::from_utf8(field).map_err(|_| refuse())?;
    let digits = text.trim_matches([' ', '\0']);
    if digits.is_empty() {
        return Ok(0);
    }
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refuse());
    }
    u64::from_str_radix(digits, 8).map_err(|_| refuse())
}
