//! Writes the "new ASCII" cpio archive the kernel unpacks as its initial root file system
//! (Documentation/driver-api/early-userspace/buffer-format.rst, magic 070701). Ours holds a program
//! and a few modules, so it is built in memory and left uncompressed: under software emulation the
//! guest would spend longer inflating it than QEMU spends copying it.

/// `S_IFDIR` in the mode field.
const DIRECTORY: u32 = 0o040_000;
/// `S_IFREG` in the mode field.
const REGULAR: u32 = 0o100_000;
/// `S_IFCHR` in the mode field.
const CHARACTER_DEVICE: u32 = 0o020_000;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive under construction. Parents must be added before what is in them.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds a folder, mode 0755.
    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, &[], (0, 0));
    }

    /// Adds a regular file with the permission bits `mode`. Contents of 4 GiB and more do not fit
    /// the format; nothing here comes near that.
    pub(crate) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entry(path, REGULAR | (mode & 0o7777), contents, (0, 0));
    }

    /// Adds a character device, mode 0600.
    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE | 0o600, &[], (major, minor));
    }

    /// Ends the archive and returns its bytes, a multiple of 4 long.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.write_header(TRAILER, 0, 0, (0, 0));
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8], device: (u32, u32)) {
        self.inode += 1;
        // The size field is 32 bits: see `file`.
        let size = u32::try_from(contents.len()).unwrap_or(u32::MAX);
        self.write_header(path, mode, size, device);
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    /// Magic, thirteen 8-digit hexadecimal fields, the name with its NUL, padding to 4.
    fn write_header(&mut self, path: &str, mode: u32, size: u32, device: (u32, u32)) {
        let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        let fields = [
            self.inode, mode, 0, // user
            0, // group
            links, 0, // time
            size, 0, 0, // the device it was on
            device.0, device.1, name_size, 0, // checksum, unused in this variant
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
    }

    fn align(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_documented_bytes() {
        let mut archive = Archive::default();
        archive.file("init", 0o755, b"hello");
        let bytes = archive.finish();
        let expected = [
            "070701", "00000001", "000081ed", "00000000", "00000000", "00000001", "00000000",
            "00000005", "00000000", "00000000", "00000000", "00000000", "00000005", "00000000",
        ]
        .concat();
        assert_eq!(&bytes[..110], expected.as_bytes());
        // 110 + "init\0" = 115, padded to 116; "hello" padded to 8.
        assert_eq!(&bytes[110..124], b"init\0\0hello\0\0\0");
        assert!(bytes.len().is_multiple_of(4));
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
    }

    #[test]
    fn the_reference_unpacker_lists_every_entry() {
        use std::io::Write as _;
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.character_device("dev/console", 5, 1);
        archive.file("init", 0o755, &[7; 4099]);
        let bytes = archive.finish();
        let mut child = std::process::Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("cpio is a build dependency of the project");
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = listing.lines().collect();
        assert_eq!(lines.len(), 3, "{listing}");
        assert!(lines[0].starts_with("drwxr-xr-x"), "{listing}");
        assert!(lines[1].starts_with("crw-------") && lines[1].contains("5,   1"), "{listing}");
        assert!(lines[2].starts_with("-rwxr-xr-x") && lines[2].contains(" 4099 "), "{listing}");
    }
}
