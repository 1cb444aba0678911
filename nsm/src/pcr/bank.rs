//! The 32 registers of one enclave. Locking is one-way: nothing here clears a lock bit or writes
//! a locked register, which is what makes the PCRs of a running enclave worth signing.

use super::Pcr;

/// Registers in a bank, `max_pcrs` of DescribeNSM.
pub const PCR_COUNT: u16 = 32;

/// Registers 0..16 belong to the launch and are locked before the guest's first instruction.
const LAUNCH_PCRS: u16 = 16;

/// Image, kernel and boot ramdisk, application, signer: zero in debug mode (nitro.md 2).
const IMAGE_PCRS: [usize; 4] = [0, 1, 2, 8];

/// Why a bank refused (nitro.md 4.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BankError {
    /// No register has this index.
    #[error("There is no PCR{0}, the last one is PCR31")]
    InvalidIndex(u16),
    /// The register is locked.
    #[error("PCR{0} is locked")]
    ReadOnlyIndex(u16),
}

/// 32 registers, each with a lock bit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PcrBank {
    registers: [Register; PCR_COUNT as usize],
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Register {
    value: Pcr,
    locked: bool,
}

impl Default for PcrBank {
    fn default() -> Self {
        Self::new()
    }
}

impl PcrBank {
    /// All registers zero and unlocked.
    #[must_use]
    pub fn new() -> Self {
        let fresh = Register { value: Pcr::ZERO, locked: false };
        Self { registers: [fresh; PCR_COUNT as usize] }
    }

    /// The bank of an enclave at its first instruction: image (0), kernel and boot ramdisk (1),
    /// application (2), role (3), parent (4), signer (8); the rest zero, 0 to 15 locked.
    #[must_use]
    pub fn for_enclave(pcr0: Pcr, pcr1: Pcr, pcr2: Pcr, pcr3: Pcr, pcr4: Pcr, pcr8: Pcr) -> Self {
        let mut bank = Self::new();
        for (index, value) in [(0, pcr0), (1, pcr1), (2, pcr2), (3, pcr3), (4, pcr4), (8, pcr8)] {
            bank.registers[index].value = value;
        }
        bank.lock_launch_registers();
        bank
    }

    pub(crate) fn lock_launch_registers(&mut self) {
        for register in &mut self.registers[..usize::from(LAUNCH_PCRS)] {
            register.locked = true;
        }
    }

    /// Zeroes the registers that name the image, locked as they are: done once, before the guest
    /// runs, for a debug enclave.
    pub(crate) fn conceal_image(&mut self) {
        for index in IMAGE_PCRS {
            self.registers[index].value = Pcr::ZERO;
        }
    }

    /// Value and lock bit of one register.
    ///
    /// # Errors
    /// `InvalidIndex` from 32 up.
    pub fn describe(&self, index: u16) -> Result<(Pcr, bool), BankError> {
        let register =
            self.registers.get(usize::from(index)).ok_or(BankError::InvalidIndex(index))?;
        Ok((register.value, register.locked))
    }

    /// Extends a register and returns its new value.
    ///
    /// # Errors
    /// `InvalidIndex` from 32 up, `ReadOnlyIndex` for a locked one.
    pub fn extend(&mut self, index: u16, data: &[u8]) -> Result<Pcr, BankError> {
        let register = self.unlocked(index)?;
        register.value = register.value.extend(data);
        Ok(register.value)
    }

    /// Locks a register for good.
    ///
    /// # Errors
    /// `InvalidIndex` from 32 up, `ReadOnlyIndex` when it is locked already.
    pub fn lock(&mut self, index: u16) -> Result<(), BankError> {
        self.unlocked(index)?.locked = true;
        Ok(())
    }

    /// Locks registers 0 to `range - 1`; those locked already stay so, and 0 locks none.
    ///
    /// # Errors
    /// `InvalidIndex` when `range` is over 32; then nothing is locked.
    pub fn lock_range(&mut self, range: u16) -> Result<(), BankError> {
        let registers =
            self.registers.get_mut(..usize::from(range)).ok_or(BankError::InvalidIndex(range))?;
        for register in registers {
            register.locked = true;
        }
        Ok(())
    }

    /// The locked registers with their values, in ascending order.
    pub fn locked(&self) -> impl Iterator<Item = (u8, Pcr)> + '_ {
        (0u8..).zip(&self.registers).filter(|(_, r)| r.locked).map(|(index, r)| (index, r.value))
    }

    fn unlocked(&mut self, index: u16) -> Result<&mut Register, BankError> {
        match self.registers.get_mut(usize::from(index)) {
            None => Err(BankError::InvalidIndex(index)),
            Some(register) if register.locked => Err(BankError::ReadOnlyIndex(index)),
            Some(register) => Ok(register),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enclave() -> PcrBank {
        let [a, b, c, d, e, f] = [b"0", b"1", b"2", b"3", b"4", b"8"].map(|data| Pcr::of(data));
        PcrBank::for_enclave(a, b, c, d, e, f)
    }

    #[test]
    fn starts_with_the_launch_registers_locked() {
        let bank = enclave();
        for index in 0..PCR_COUNT {
            assert_eq!(bank.describe(index).unwrap().1, index < 16, "PCR{index}");
        }
        for (index, data) in [(0, b"0"), (1, b"1"), (2, b"2"), (3, b"3"), (4, b"4"), (8, b"8")] {
            assert_eq!(bank.describe(index).unwrap().0, Pcr::of(data), "PCR{index}");
        }
        assert_eq!(
            bank.locked().map(|(index, _)| index).collect::<Vec<_>>(),
            Vec::from_iter(0..16)
        );
    }

    #[test]
    fn refuses_locked_and_missing_registers() {
        let mut bank = enclave();
        let before = bank.clone();
        assert_eq!(bank.extend(0, b"x"), Err(BankError::ReadOnlyIndex(0)));
        assert_eq!(bank.lock(15), Err(BankError::ReadOnlyIndex(15)));
        assert_eq!(bank.extend(32, b"x"), Err(BankError::InvalidIndex(32)));
        assert_eq!(bank.lock(u16::MAX), Err(BankError::InvalidIndex(u16::MAX)));
        assert_eq!(bank.describe(32), Err(BankError::InvalidIndex(32)));
        assert_eq!(bank.lock_range(33), Err(BankError::InvalidIndex(33)));
        assert_eq!(bank.lock_range(0), Ok(()));
        assert_eq!(bank, before);
    }

    #[test]
    fn locks_a_range_over_registers_already_locked() {
        let mut bank = enclave();
        assert_eq!(bank.extend(16, b"hello"), Ok(Pcr::of(b"hello")));
        assert_eq!(bank.lock_range(18), Ok(()));
        assert_eq!(bank.extend(16, b"x"), Err(BankError::ReadOnlyIndex(16)));
        assert_eq!(bank.lock(17), Err(BankError::ReadOnlyIndex(17)));
        assert_eq!(bank.lock(18), Ok(()));
        assert_eq!(bank.lock_range(32), Ok(()));
        assert_eq!(bank.locked().count(), 32);
    }
}
