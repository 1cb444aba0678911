//! nitro-cli's error logs: `<logs>/err<time>.log`, one for each failed command, and the same details on stderr under `BACKTRACE=1`.
//! Written where somebody asked for nitro-cli's ways: under its name, or with `NITRO_CLI_LOGS_PATH` set.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::failure::{Failure, Family};
use crate::invocation::Invocation;

/// Writes the log where it is wanted. `None` where it is not, or where it cannot be written: an error about the log would only
/// hide the one that matters.
pub(crate) fn write(
    failure: &Failure,
    words: &[String],
    invocation: Invocation,
) -> Option<PathBuf> {
    let asked = std::env::var_os("NITRO_CLI_LOGS_PATH").filter(|value| !value.is_empty());
    let folder = match asked {
        Some(folder) => PathBuf::from(folder),
        None if invocation.nitro_cli && !invocation.in_machine => {
            enclave_vmm::paths::Paths::current().state.join("logs")
        }
        None => return None,
    };
    fs::create_dir_all(&folder).ok()?;
    let now = OffsetDateTime::now_utc().format(&Rfc3339).ok()?;
    let path = folder.join(format!("err{now}.log"));
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).ok()?;
    let text = failure.render(Family::Nitro, None) + &details(failure, words);
    file.write_all(text.as_bytes()).ok()?;
    Some(path)
}

/// What was done and what went wrong below it.
pub(crate) fn details(failure: &Failure, words: &[String]) -> String {
    let action = words.get(1).map_or("", String::as_str);
    format!(
        "\nAction: {action}\nCommand line: {}\nCauses: {}\nVersion: {}\n",
        words.join(" "),
        failure.chain(),
        env!("CARGO_PKG_VERSION")
    )
}
