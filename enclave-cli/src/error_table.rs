//! The error numbers of nitro-cli (1.5), which are the exit codes of its commands: the name behind each number, when it is raised
//! here, and what to do about it. Numbers and names are AWS's, so that scripts written for nitro-cli keep working; the texts
//! are ours, and say what this runtime does where it differs from a Nitro host. `explain` prints them.

use std::fmt;
use std::str::FromStr;

mod rows;

use rows::TABLE;

/// The number of an error: 0 to 60.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ErrorNumber(u8);

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ErrorEntry {
    /// AWS's name for it.
    pub(crate) name: &'static str,
    /// What has happened when it is raised here.
    pub(crate) meaning: &'static str,
    /// What to do next.
    pub(crate) mend: &'static str,
}

macro_rules! numbers {
    ($($constant:ident = $number:literal;)*) => {
        #[allow(dead_code)] // Also the numbers that other crates raise and this one only passes on.
        impl ErrorNumber {
            $(pub(crate) const $constant: ErrorNumber = ErrorNumber($number);)*
        }
    };
}

numbers! {
    UNSPECIFIED = 0;
    MISSING_ARGUMENT = 1;
    CONFLICTING_ARGUMENT = 2;
    INVALID_ARGUMENT = 3;
    PROCESS_SPAWN = 5;
    READ_FROM_DISK = 7;
    SOCKET_CONNECT_TIMEOUT = 10;
    SOCKET = 11;
    INVALID_COMMAND = 14;
    LOCK_ACQUIRE = 15;
    SERDE = 17;
    FILE_PERMISSIONS = 18;
    FILE_OPERATION = 19;
    INVALID_CPU_CONFIGURATION = 20;
    NO_SUCH_CPU = 21;
    INSUFFICIENT_CPUS = 22;
    MALFORMED_CPU_ID = 23;
    INSUFFICIENT_MEMORY_REQUESTED = 26;
    INSUFFICIENT_MEMORY_AVAILABLE = 27;
    INVALID_ENCLAVE_FD = 28;
    IOCTL = 29;
    MEMORY_OVERFLOW = 34;
    EIF_PARSING = 35;
    ENCLAVE_BOOT = 36;
    ENCLAVE_EVENT_WAIT = 37;
    COMMAND_NOT_EXECUTED = 38;
    ENCLAVE_CONNECTION = 39;
    SOCKET_PATH_NOT_FOUND = 40;
    CONSOLE_CONNECTION = 44;
    CONSOLE_READ = 45;
    CONSOLE_WRITE = 46;
    INTEGER_PARSING = 47;
    EIF_BUILDING = 48;
    DOCKER_IMAGE_BUILD = 49;
    DOCKER_IMAGE_PULL = 50;
    ARTIFACTS_PATH_NOT_SET = 51;
    BLOBS_PATH_NOT_SET = 52;
    CLOCK_SKEW = 53;
    HASHER = 57;
    ENCLAVE_NAMING = 58;
    SIGNATURE_CHECKER = 59;
    EIF_SIGNING = 60;
}

impl ErrorNumber {
    /// The number itself, when the table has it.
    pub(crate) fn new(number: u8) -> Option<Self> {
        (usize::from(number) < TABLE.len()).then_some(Self(number))
    }

    /// The row of the table.
    pub(crate) fn entry(self) -> &'static ErrorEntry {
        &TABLE[usize::from(self.0)]
    }

    /// What the process exits with: the number, except that E00 must not look like success.
    pub(crate) fn exit_code(self) -> u8 {
        if self.0 == 0 { 1 } else { self.0 }
    }
}

impl fmt::Display for ErrorNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "E{:02}", self.0)
    }
}

impl FromStr for ErrorNumber {
    type Err = String;

    /// `E36`, `e36` or `36`.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix(['E', 'e']).unwrap_or(text);
        let plausible = digits.len() <= 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        plausible
            .then(|| digits.parse().ok())
            .flatten()
            .and_then(Self::new)
            .ok_or_else(|| format!("there is no error code {text:?}; they run from E00 to E60"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_written_as_nitro_cli_does() {
        assert_eq!("E36".parse::<ErrorNumber>().unwrap(), ErrorNumber::ENCLAVE_BOOT);
        assert_eq!("e05".parse::<ErrorNumber>().unwrap(), ErrorNumber::PROCESS_SPAWN);
        assert_eq!("36".parse::<ErrorNumber>().unwrap().to_string(), "E36");
        for bad in ["E61", "E", "", "E100", "E-1", "EE3", "E+3"] {
            assert!(bad.parse::<ErrorNumber>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn no_number_exits_as_success_and_every_row_says_something() {
        for number in 0..=60 {
            let number = ErrorNumber::new(number).unwrap();
            assert_ne!(number.exit_code(), 0);
            let entry = number.entry();
            assert!(
                entry.name.len() > 4 && entry.meaning.len() > 20 && entry.mend.len() > 8,
                "{number}"
            );
        }
        assert!(ErrorNumber::new(61).is_none());
    }

    #[test]
    fn names_stand_at_their_numbers() {
        for (number, name) in [
            (ErrorNumber::INSUFFICIENT_MEMORY_REQUESTED, "Insufficient memory requested"),
            (ErrorNumber::ENCLAVE_BOOT, "Enclave boot failure"),
            (ErrorNumber::CONSOLE_CONNECTION, "Enclave console connection failure"),
            (ErrorNumber::EIF_PARSING, "EIF file parsing error"),
            (ErrorNumber::BLOBS_PATH_NOT_SET, "Blobs path environment variable not set"),
            (ErrorNumber::SIGNATURE_CHECKER, "EIF signature checker error"),
            (ErrorNumber::EIF_SIGNING, "EIF signing error"),
        ] {
            assert_eq!(number.entry().name, name);
        }
    }
}
