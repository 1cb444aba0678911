//! Memory sizes as nitro-cli writes them: a whole number with an optional unit, MiB where none is given.

use std::fmt;
use std::str::FromStr;

use crate::error_table::ErrorNumber;
use crate::failure::Failure;

/// MiB, at least 1; always small enough that its bytes fit in 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MemoryMib(u64);

impl MemoryMib {
    const MAX: u64 = u64::MAX >> 20;

    /// Takes a number of MiB.
    pub(crate) fn new(mib: u64) -> Result<Self, Failure> {
        match mib {
            0 => Err(Failure::new(ErrorNumber::INVALID_ARGUMENT, "memory of 0 MiB")
                .hint("give a size such as 512 or 2G")),
            1..=Self::MAX => Ok(Self(mib)),
            _ => Err(Failure::new(
                ErrorNumber::MEMORY_OVERFLOW,
                format!("memory of {mib} MiB does not fit in 64 bits"),
            )),
        }
    }

    /// The number of MiB.
    pub(crate) fn mib(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MemoryMib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0)
    }
}

impl FromStr for MemoryMib {
    type Err = Failure;

    /// `512`, `512M`, `2g`, `1T`; with or without an `iB` or `B` after the unit.
    fn from_str(text: &str) -> Result<Self, Failure> {
        let digits_end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(digits_end);
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "m" | "mb" | "mib" => 0_u32,
            "g" | "gb" | "gib" => 10,
            "t" | "tb" | "tib" => 20,
            _ => return Err(not_a_size(text)),
        };
        if digits.is_empty() {
            return Err(not_a_size(text));
        }
        let overflow = || {
            Failure::new(
                ErrorNumber::MEMORY_OVERFLOW,
                format!("memory size {text:?} does not fit in 64 bits"),
            )
        };
        let number: u64 = digits.parse().map_err(|_| overflow())?;
        number.checked_mul(1 << shift).ok_or_else(overflow).and_then(Self::new)
    }
}

fn not_a_size(text: &str) -> Failure {
    Failure::new(
        ErrorNumber::INTEGER_PARSING,
        format!("memory size {text:?} is not a whole number with M, G or T after it"),
    )
    .hint("give a size such as 512 (MiB), 512M or 2G")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_in_any_case_and_mib_without_one() {
        for (text, mib) in [
            ("512", 512),
            ("512M", 512),
            ("512m", 512),
            ("2G", 2048),
            ("2g", 2048),
            ("1T", 1 << 20),
            ("3GiB", 3072),
        ] {
            assert_eq!(text.parse::<MemoryMib>().unwrap().mib(), mib, "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_its_value() {
        for (text, number) in [
            ("", ErrorNumber::INTEGER_PARSING),
            ("G", ErrorNumber::INTEGER_PARSING),
            ("-1", ErrorNumber::INTEGER_PARSING),
            ("1.5G", ErrorNumber::INTEGER_PARSING),
            ("12K", ErrorNumber::INTEGER_PARSING),
            ("1 G", ErrorNumber::INTEGER_PARSING),
            ("0", ErrorNumber::INVALID_ARGUMENT),
            ("99999999999999999999", ErrorNumber::MEMORY_OVERFLOW),
            ("18446744073709551615", ErrorNumber::MEMORY_OVERFLOW),
            ("17592186044416T", ErrorNumber::MEMORY_OVERFLOW),
        ] {
            let failure = text.parse::<MemoryMib>().unwrap_err();
            assert_eq!(failure.number(), number, "{text}");
        }
    }
}
