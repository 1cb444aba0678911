//! Progress on stderr: the lines that scripts written for nitro-cli look for, always; a bar or a spinner under them only when
//! stderr is a terminal and the work is long enough to wonder about.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A spinner or bar that is nothing at all where stderr is no terminal. Gone from the screen when dropped.
#[derive(Debug)]
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// For work of unknown length.
    pub(crate) fn spinner(text: &'static str) -> Self {
        Self(std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_message(text);
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        }))
    }

    /// For bytes, of a total that [`Progress::at`] says.
    pub(crate) fn bar() -> Self {
        Self(std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) =
                ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes}")
            {
                bar.set_style(style);
            }
            bar
        }))
    }

    /// So many bytes of so many of this step are done.
    pub(crate) fn at(&self, step: &'static str, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_message(step);
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// A line on stderr, above the bar.
    pub(crate) fn line(&self, text: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| line(text)),
            None => line(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A line on stderr. A closed stderr is no reason to stop.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
