//! The address of an enclave on vsock. The kernel keeps a few numbers for itself and Nitro gives 3 to
//! the parent, so a plain `u32` would let a reserved one through; [`Cid`] checks once, at its making.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The CID under which an enclave reaches its parent (on AWS and here).
pub const PARENT_CID: u32 = 3;

/// "Any address" (`VMADDR_CID_ANY`), for listening.
pub const ANY_CID: u32 = u32::MAX;

/// The smallest number an enclave can have.
pub const FIRST_CID: u32 = 4;

/// The vsock address of an enclave: 4 to 0xfffffffe. 0 (hypervisor), 1 (loopback), 2 (host), 3 (parent)
/// and 0xffffffff (any) are refused. "Choose one for me" is no `Cid` either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Cid(u32);

impl Cid {
    /// Takes `number` if an enclave may have it.
    ///
    /// # Errors
    /// [`Error::ReservedCid`] for 0 to 3 and 0xffffffff.
    pub const fn new(number: u32) -> Result<Self, Error> {
        if number < FIRST_CID || number == ANY_CID {
            return Err(Error::ReservedCid { number });
        }
        Ok(Self(number))
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Cid {
    type Error = Error;

    fn try_from(number: u32) -> Result<Self, Error> {
        Self::new(number)
    }
}

impl TryFrom<u64> for Cid {
    type Error = Error;

    /// The form devices use: the upper 32 bits of a vsock address are reserved and must be zero.
    fn try_from(number: u64) -> Result<Self, Error> {
        u32::try_from(number).map_err(|_| Error::WideCid { number }).and_then(Self::new)
    }
}

impl From<Cid> for u32 {
    fn from(cid: Cid) -> Self {
        cid.0
    }
}

impl From<Cid> for u64 {
    fn from(cid: Cid) -> Self {
        Self::from(cid.0)
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let number: u64 = text.parse().map_err(|_| Error::NotACid { text: text.to_owned() })?;
        Self::try_from(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_numbers_are_refused() {
        for number in [0, 1, 2, 3, u32::MAX] {
            let error = Cid::new(number).unwrap_err();
            assert!(error.to_string().contains(&number.to_string()), "{error}");
        }
    }

    #[test]
    fn the_ends_of_the_range_are_accepted() {
        assert_eq!(Cid::new(4).unwrap().get(), 4);
        assert_eq!(Cid::new(u32::MAX - 1).unwrap().get(), u32::MAX - 1);
    }

    #[test]
    fn text_and_wide_numbers() {
        assert_eq!("16".parse::<Cid>().unwrap().get(), 16);
        assert!("3".parse::<Cid>().is_err());
        assert!("-1".parse::<Cid>().is_err());
        assert!("".parse::<Cid>().is_err());
        assert!(matches!(
            "4294967312".parse::<Cid>(),
            Err(Error::WideCid { number: 4_294_967_312 })
        ));
    }
}
