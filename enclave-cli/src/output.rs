//! Results on stdout: JSON, pretty-printed with two spaces as nitro-cli does, and a newline.

use std::io::Write;

use serde::Serialize;

use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};

/// Prints a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Outcome<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| {
        Failure::new(ErrorNumber::SERDE, "the result cannot be written as JSON").because(error)
    })?;
    text.push('\n');
    write(text.as_bytes())
}

/// Prints bytes as they are.
pub(crate) fn write(bytes: &[u8]) -> Outcome<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::output)
}
