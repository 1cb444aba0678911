//! `explain`: what an error number means here.

use crate::arguments::nitro::Explain;
use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};
use crate::output;

/// Prints the table's row for the code.
pub(crate) fn run(arguments: &Explain) -> Outcome<u8> {
    let number: ErrorNumber = arguments
        .error_code
        .parse()
        .map_err(|text: String| Failure::new(ErrorNumber::INVALID_ARGUMENT, text))?;
    let entry = number.entry();
    let text = format!(
        "{number}: {}\n\n{}\n\nWhat to do: {}\n\nAWS's page on it: \
         https://docs.aws.amazon.com/enclaves/latest/user/cli-errors.html#{number}\n",
        entry.name, entry.meaning, entry.mend
    );
    output::write(text.as_bytes())?;
    Ok(0)
}
