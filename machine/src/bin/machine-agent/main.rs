//! PID 1 of the parent VM, and its only connection to the host. As PID 1 it brings the system up,
//! starts itself a second time as the server of the channel, and from then on only collects dead
//! processes: a server that fails is started again, and no thread of it can lose a child to the
//! collector.

mod boot;
mod port;
mod power;
mod put;
mod run;
mod server;
mod spawn;

use std::process::{Command, ExitCode};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

/// Tells the second start of the program what it is.
const SERVE: &str = "serve";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(SERVE) {
        return match server::serve() {
            Ok(never) => match never {},
            Err(error) => {
                eprintln!("machine-agent: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if getpid() != Pid::from_raw(1) {
        eprintln!("machine-agent is the first process of the parent VM and nothing else");
        return ExitCode::from(2);
    }
    if let Err(error) = boot::boot() {
        // The host shows the console's last lines when the parent does not come up.
        eprintln!("machine-agent: cannot bring the parent up: {error}");
        power::off();
    }
    supervise()
}

/// Keeps a server running and collects every process whose own parent is gone.
fn supervise() -> ExitCode {
    let mut server = start_server();
    loop {
        let ended = match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => pid,
            Ok(_) => continue,
            // No children at all: the server could not be started.
            Err(_) => server,
        };
        if ended == server {
            eprintln!("machine-agent: the channel's server ended; starting it again");
            std::thread::sleep(std::time::Duration::from_millis(200));
            server = start_server();
        }
    }
}

fn start_server() -> Pid {
    // `/init` is gone from the name space by now; the running program is not.
    match Command::new("/proc/self/exe").arg(SERVE).spawn() {
        Ok(child) => Pid::from_raw(child.id().cast_signed()),
        Err(error) => {
            eprintln!("machine-agent: cannot start the channel's server: {error}");
            Pid::from_raw(0)
        }
    }
}
