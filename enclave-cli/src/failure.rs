//! How a command fails: one cause with its value, what to do next, and the exit code its family of commands uses (DESIGN 10).
//! nitro-cli's commands exit with nitro-cli's number and print its frame around the text; the others exit with 1 (no), 2 (wrong
//! usage) or 3 (could not look). Every failure therefore knows both, and the family is chosen where it is printed, once.

use std::error::Error;
use std::fmt::Write as _;

use crate::error_table::ErrorNumber;

/// What a command gives back.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// Exit code of our own commands when the answer is no.
pub(crate) const EXIT_NO: u8 = 1;
/// Exit code of our own commands when they were called wrongly.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Exit code of our own commands when they could not find out.
pub(crate) const EXIT_COULD_NOT_LOOK: u8 = 3;

/// Which exit codes and message frame a command uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// A command that nitro-cli has: exits with the error's number.
    Nitro,
    /// A command of ours: 0 yes, 1 no, 2 wrong usage, 3 could not look.
    Ours,
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    number: ErrorNumber,
    answer: u8,
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
    /// Already on stderr, word for word, because another process of ours printed it.
    printed: bool,
}

impl Failure {
    /// A failure with nitro-cli's number. Numbers that blame the command line count as wrong usage for our own commands, those that
    /// blame the image as "no", all others as "could not look".
    pub(crate) fn new(number: ErrorNumber, message: impl Into<String>) -> Self {
        let answer = match number {
            ErrorNumber::MISSING_ARGUMENT
            | ErrorNumber::CONFLICTING_ARGUMENT
            | ErrorNumber::INVALID_ARGUMENT
            | ErrorNumber::INVALID_COMMAND
            | ErrorNumber::MALFORMED_CPU_ID
            | ErrorNumber::INVALID_CPU_CONFIGURATION
            | ErrorNumber::INTEGER_PARSING => EXIT_USAGE,
            ErrorNumber::EIF_PARSING
            | ErrorNumber::SIGNATURE_CHECKER
            | ErrorNumber::COMMAND_NOT_EXECUTED => EXIT_NO,
            _ => EXIT_COULD_NOT_LOOK,
        };
        Self { number, answer, message: message.into(), hint: None, source: None, printed: false }
    }

    /// The question was answered, and the answer is no.
    pub(crate) fn no(message: impl Into<String>) -> Self {
        Self { answer: EXIT_NO, ..Self::new(ErrorNumber::UNSPECIFIED, message) }
    }

    /// The same, where it kept a command of ours from finding out: a damaged image is a "no" to `measure` but not to `verify`.
    pub(crate) fn could_not_look(self) -> Self {
        Self { answer: EXIT_COULD_NOT_LOOK, ..self }
    }

    /// Ends with `code` and no text of its own: the program run for it has said everything.
    pub(crate) fn passed_on(code: u8) -> Self {
        Self { answer: code, printed: true, ..Self::new(ErrorNumber::UNSPECIFIED, "") }
    }

    /// A file operation that the system refused. A missing file is a file operation (E19), a forbidden one a permission (E18).
    pub(crate) fn file(what: &str, path: &std::path::Path, source: std::io::Error) -> Self {
        let number = match source.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorNumber::FILE_PERMISSIONS,
            _ => ErrorNumber::FILE_OPERATION,
        };
        Self::new(number, format!("cannot {what} {}", path.display())).because(source)
    }

    /// Standard output is closed or full.
    pub(crate) fn output(source: std::io::Error) -> Self {
        Self::new(ErrorNumber::FILE_OPERATION, "cannot write to standard output").because(source)
    }

    /// Puts the file before the message, for rules that do not know where their text came from.
    pub(crate) fn in_file(mut self, path: &std::path::Path) -> Self {
        self.message = format!("{}: {}", path.display(), self.message);
        self
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what to do next where there is something.
    pub(crate) fn maybe_hint(mut self, hint: Option<impl Into<String>>) -> Self {
        if let Some(hint) = hint {
            self.hint = Some(hint.into());
        }
        self
    }

    /// Adds the error this one comes from; its text is printed after ours, never inside it.
    pub(crate) fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The exit code in `family`.
    pub(crate) fn exit_code(&self, family: Family) -> u8 {
        match family {
            _ if self.printed => self.answer,
            Family::Nitro => self.number.exit_code(),
            Family::Ours => self.answer,
        }
    }

    /// Whether another process has already said everything.
    pub(crate) fn is_printed(&self) -> bool {
        self.printed
    }

    /// The number behind it.
    #[cfg(test)]
    pub(crate) fn number(&self) -> ErrorNumber {
        self.number
    }

    /// The message and its causes on one line, each cause once.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut last = self.message.clone();
        let mut next = self.source();
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            // Wrappers that only hand on the inner text would print it twice.
            if !cause_text.is_empty() && !last.ends_with(&cause_text) {
                let _ = write!(text, ": {cause_text}");
                last = cause_text;
            }
            next = cause.source();
        }
        text
    }

    /// The whole text for stderr. `log` is the file the same text was written to, where there is one.
    pub(crate) fn render(&self, family: Family, log: Option<&std::path::Path>) -> String {
        let mut text = String::new();
        match family {
            Family::Nitro => {
                let _ = write!(
                    text,
                    "[ {} ] {}: {}",
                    self.number,
                    self.number.entry().name,
                    self.chain()
                );
            }
            Family::Ours => {
                let _ = write!(text, "error: {}", self.chain());
            }
        }
        // What the number means in general is better than nothing, where there is a number to see.
        let general = (family == Family::Nitro).then(|| self.number.entry().mend);
        if let Some(hint) = self.hint.as_deref().or(general) {
            let _ = write!(text, "\n  next: {hint}");
        }
        text.push('\n');
        if family == Family::Nitro {
            let _ = write!(
                text,
                "\nFor more details, please visit https://docs.aws.amazon.com/enclaves/latest/user/cli-errors.html#{}\n",
                self.number
            );
            if let Some(log) = log {
                let _ = write!(
                    text,
                    "\nIf you report this, add the error log found at {:?}\n",
                    log.display().to_string()
                );
            }
        }
        text
    }
}

/// The parts that run enclaves bring number and hint with them.
impl From<enclave_vmm::Error> for Failure {
    fn from(error: enclave_vmm::Error) -> Self {
        let number = u8::try_from(error.code())
            .ok()
            .and_then(ErrorNumber::new)
            .unwrap_or(ErrorNumber::UNSPECIFIED);
        let hint = error.hint();
        Self { source: error.source().map(text_of), ..Self::new(number, error.to_string()) }
            .maybe_hint(hint)
    }
}

/// The chain below an error as one that can be kept.
fn text_of(error: &(dyn Error + 'static)) -> Box<dyn Error + Send + Sync> {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the middle")]
    struct Middle(#[source] std::io::Error);

    fn example() -> Failure {
        Failure::new(ErrorNumber::EIF_PARSING, "x.eif is cut short")
            .because(Middle(std::io::Error::other("the bottom")))
            .hint("build it again")
    }

    #[test]
    fn the_chain_is_printed_once() {
        assert_eq!(example().chain(), "x.eif is cut short: the middle: the bottom");
    }

    #[test]
    fn nitro_frame() {
        let text = example().render(Family::Nitro, Some(std::path::Path::new("/l/err.log")));
        assert_eq!(
            text,
            "[ E35 ] EIF file parsing error: x.eif is cut short: the middle: the bottom\n  next: build it again\n\n\
             For more details, please visit https://docs.aws.amazon.com/enclaves/latest/user/cli-errors.html#E35\n\n\
             If you report this, add the error log found at \"/l/err.log\"\n"
        );
    }

    #[test]
    fn without_a_hint_the_number_gives_one() {
        let failure = Failure::new(ErrorNumber::EIF_BUILDING, "x");
        let mend = ErrorNumber::EIF_BUILDING.entry().mend;
        assert!(failure.render(Family::Nitro, None).contains(mend));
        assert_eq!(failure.render(Family::Ours, None), "error: x\n");
    }

    #[test]
    fn exit_codes_by_family() {
        assert_eq!(example().exit_code(Family::Nitro), 35);
        assert_eq!(example().exit_code(Family::Ours), EXIT_NO);
        let usage = Failure::new(ErrorNumber::INVALID_ARGUMENT, "x");
        assert_eq!(
            (usage.exit_code(Family::Nitro), usage.exit_code(Family::Ours)),
            (3, EXIT_USAGE)
        );
        assert_eq!(
            Failure::new(ErrorNumber::SOCKET, "x").exit_code(Family::Ours),
            EXIT_COULD_NOT_LOOK
        );
        assert_eq!(Failure::passed_on(44).exit_code(Family::Nitro), 44);
        assert_eq!(Failure::passed_on(0).exit_code(Family::Ours), 0);
    }
}
