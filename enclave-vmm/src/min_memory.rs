//! The least memory an image can boot in: what the kernel needs while it unpacks and runs, the ramdisks twice (packed, and unpacked beside that), and
//! room for the first processes. nitro-cli asks for four times the file instead, which is too much for large images and too little for small ones.

use crate::error::{Error, Result};

/// Beside kernel and ramdisks, MiB.
const ROOM_MIB: u64 = 32;

/// AWS's driver takes no less, MiB.
pub const LEAST_MIB: u64 = 64;

/// No machine has more, MiB; keeps sums far from overflow.
const MOST_MIB: u64 = 1 << 30;

/// Which rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryRule {
    /// What the image needs.
    #[default]
    Computed,
    /// Four times the image file, as nitro-cli has it.
    FourTimesFile,
}

/// Sizes that decide, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSizes {
    /// Kernel as packed.
    pub kernel: u64,
    /// What the kernel's header says it needs while it unpacks itself (0 where it says nothing).
    pub kernel_run: u64,
    /// All ramdisks as packed.
    pub ramdisks: u64,
    /// The whole file.
    pub file: u64,
}

impl ImageSizes {
    /// Reads the kernel's header (Linux x86 boot protocol 2.10 and later: `init_size` at 0x260).
    #[must_use]
    pub fn new(kernel: &[u8], ramdisks: u64, file: u64) -> Self {
        Self { kernel: kernel.len() as u64, kernel_run: init_size(kernel), ramdisks, file }
    }

    /// The least memory, MiB.
    #[must_use]
    pub fn needed_mib(&self, rule: MemoryRule) -> u64 {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let needed = match rule {
            // A kernel that does not say is believed to unpack to four times itself.
            MemoryRule::Computed => {
                let kernel = match self.kernel_run {
                    0 => self.kernel.saturating_mul(4),
                    run => run.max(self.kernel),
                };
                mib(kernel.saturating_add(self.ramdisks.saturating_mul(2))) + ROOM_MIB
            }
            MemoryRule::FourTimesFile => mib(self.file.saturating_mul(4)),
        };
        // Memory comes in pages of 2 MiB.
        needed.max(LEAST_MIB).next_multiple_of(2)
    }

    /// Refuses too little memory, and sizes no machine has.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`] (E26), [`Error::MemorySize`].
    pub fn check(&self, asked_mib: u64, rule: MemoryRule) -> Result<()> {
        if asked_mib > MOST_MIB {
            return Err(Error::MemorySize { mib: asked_mib });
        }
        let needed = self.needed_mib(rule);
        if asked_mib < needed {
            return Err(Error::MemoryTooSmall { asked: asked_mib, needed });
        }
        Ok(())
    }
}

fn init_size(kernel: &[u8]) -> u64 {
    let u16_at = |at: usize| {
        kernel.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes)
    };
    let u32_at = |at: usize| {
        kernel.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    };
    let is_bzimage = kernel.get(0x202..0x206) == Some(b"HdrS");
    if is_bzimage && u16_at(0x206) >= 0x020a { u64::from(u32_at(0x260)) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn bzimage(init_size: u32) -> Vec<u8> {
        let mut kernel = vec![0_u8; 0x400];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        kernel[0x260..0x264].copy_from_slice(&init_size.to_le_bytes());
        kernel
    }

    #[test]
    fn kernel_run_size_ramdisks_twice_and_room() {
        let sizes = ImageSizes::new(&bzimage(20 << 20), 30 * MIB, 40 * MIB);
        assert_eq!(sizes.needed_mib(MemoryRule::Computed), 20 + 60 + 32);
        assert_eq!(sizes.needed_mib(MemoryRule::FourTimesFile), 160);
        assert!(sizes.check(112, MemoryRule::Computed).is_ok());
        let error = sizes.check(111, MemoryRule::Computed).unwrap_err();
        assert!(matches!(error, Error::MemoryTooSmall { asked: 111, needed: 112 }));
        assert_eq!(error.code(), 26);
        assert_eq!(error.hint().unwrap(), "Ask for more: --memory 112");
    }

    #[test]
    fn small_images_need_the_least_and_absurd_sizes_are_refused() {
        let sizes = ImageSizes::new(b"short", 0, 1000);
        assert_eq!(sizes.needed_mib(MemoryRule::Computed), LEAST_MIB);
        assert_eq!(sizes.needed_mib(MemoryRule::FourTimesFile), LEAST_MIB);
        assert_eq!(sizes.check(0, MemoryRule::Computed).unwrap_err().code(), 26);
        assert_eq!(sizes.check(u64::MAX, MemoryRule::Computed).unwrap_err().code(), 3);
    }

    #[test]
    fn lying_headers_do_not_overflow() {
        let sizes = ImageSizes::new(&bzimage(u32::MAX), u64::MAX, u64::MAX);
        assert!(sizes.needed_mib(MemoryRule::Computed) > 1 << 40);
        assert!(sizes.needed_mib(MemoryRule::FourTimesFile) > 1 << 40);
    }
}
