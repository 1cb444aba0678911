//! Switching the parent off.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, sync};

/// How long processes get between being asked to end and being killed.
const GRACE: Duration = Duration::from_millis(1500);

/// Ends every process in order, then the machine. PID 1 and the caller are not among them.
pub(crate) fn end_everything() -> ! {
    let everyone = Pid::from_raw(-1);
    // Errors only mean that nobody is left.
    let _ = kill(everyone, Signal::SIGTERM);
    let step = Duration::from_millis(50);
    let mut waited = Duration::ZERO;
    while waited < GRACE && others_are_running() {
        sleep(step);
        waited += step;
    }
    let _ = kill(everyone, Signal::SIGKILL);
    off();
}

/// Switches off at once.
pub(crate) fn off() -> ! {
    sync();
    let _ = reboot(RebootMode::RB_POWER_OFF);
    // Only without the right to; the host ends QEMU then.
    loop {
        sleep(Duration::from_secs(60));
    }
}

/// Whether a user process other than PID 1 and this one exists. Kernel threads have no command line.
fn others_are_running() -> bool {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else { return false };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).any(|pid| {
        pid > 1
            && pid != own
            && std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
    })
}
