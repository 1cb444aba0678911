//! Starting, finding and stopping the machine. QEMU belongs to nobody once it runs: a record in the
//! run folder names its process (id and start time, so that a reused id is not mistaken for it), and a lock
//! keeps two commands from starting or stopping at once.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::channel::PORTS;
use crate::channel::request::Request;
use crate::held_signals::HeldSignals;
use crate::qemu::{self, Paths};
use crate::record::{self, Status};
use crate::session::{Session, Which};
use crate::{Accel, Config, Error, console_log, initramfs, parent_kernel};

/// From QEMU's start to the agent's first answer. About 5 s on an idle machine; emulation on a busy one takes
/// many times that.
const START_PATIENCE: Duration = Duration::from_secs(180);
/// How long a machine that is said to run gets to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// How long the lock may be held by another command (a first start downloads a kernel).
const LOCK_PATIENCE: Duration = Duration::from_secs(600);
/// How long each way of ending QEMU gets: asked, SIGTERM, SIGKILL.
const STOP_PATIENCE: [Duration; 3] =
    [Duration::from_secs(15), Duration::from_secs(5), Duration::from_secs(5)];
/// Between two looks at something that should change.
const TICK: Duration = Duration::from_millis(30);

/// What [`Machine::stop`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It switched itself off.
    Orderly,
    /// QEMU had to be ended.
    Forced,
    /// There was none.
    NotRunning,
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    folder: PathBuf,
    status: Status,
}

impl Machine {
    /// Starts the machine, or finds it running (then `config` says nothing about it; its [`Status`] does).
    /// `progress` gets a line at each long step. Takes 5 s or so, and a download of 100 MB the first time.
    /// SIGINT and SIGTERM end the attempt and leave nothing behind.
    ///
    /// # Errors
    /// Those of finding QEMU, preparing the kernel and the agent; [`Error::QemuEnded`] and [`Error::NoAnswer`]
    /// with the last lines of the console.
    pub fn start(config: &Config, progress: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        let places = Places::of(config);
        places.make()?;
        let _lock = lock(&places.run)?;
        if let Some(status) = record::running(&places.run)? {
            let machine = Self { folder: places.run, status };
            machine.explain("it was looked for", || machine.ping(ANSWER_PATIENCE).map(|_| ()))?;
            return Ok(machine);
        }
        let qemu = qemu::find()?;
        if config.accel == Accel::Kvm {
            qemu::check_nesting()?;
        }
        let kernel = parent_kernel::find_or_fetch(&config.cache_dir, progress)?;
        let archive = initramfs::build(&config.agent, &kernel.modules)?;
        fs::write(&places.initramfs, archive).map_err(Error::file("write", &places.initramfs))?;
        sweep(&places.run);
        progress(&format!(
            "starting the parent: {} CPUs, {} MiB, kernel {}, QEMU {} with {}",
            config.cpus,
            config.memory_mib,
            kernel.version,
            qemu.version,
            config.accel.describe()
        ));
        // From here on an interruption must take QEMU with it.
        let interruption = HeldSignals::hold([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])?;
        let begun = Instant::now();
        let mut child = places.launch(config, &qemu, &kernel.image)?;
        let result = places.await_agent(&mut child, &interruption, begun).and_then(|()| {
            let pid = child.id().cast_signed();
            let status = Status {
                pid,
                start_time: record::process_state(pid).ok_or(Error::NotRunning)?.1,
                accel: config.accel,
                icount: config.icount,
                cpus: config.cpus,
                memory_mib: config.memory_mib,
                qemu: qemu.version,
                kernel: kernel.version,
                state_dir: places.state.clone(),
                boot_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            };
            record::write(&places.run, &status)?;
            Ok(status)
        });
        // QEMU has read it.
        let _ = fs::remove_file(&places.initramfs);
        match result {
            Ok(status) => Ok(Self { folder: places.run, status }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                sweep(&places.run);
                Err(error)
            }
        }
    }

    /// The machine that runs for this run folder, if one does.
    ///
    /// # Errors
    /// [`Error::File`] when the record cannot be read.
    pub fn open(run_dir: &Path) -> Result<Option<Self>, Error> {
        let folder = run_dir.join("machine");
        let status = record::running(&folder)?;
        Ok(status.map(|status| {
            let machine = Self { folder, status };
            let [console, qemu] = machine.logs();
            // A log that cannot be cut only stays long.
            let _ = console_log::trim(&console);
            let _ = console_log::trim(&qemu);
            machine
        }))
    }

    /// What is known about it.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Stops the machine of this run folder: its processes are asked to end, it switches itself off; a machine that
    /// does not is ended.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Busy`]; [`Error::Refused`] when even SIGKILL did not end QEMU.
    pub fn stop(run_dir: &Path) -> Result<Stopped, Error> {
        let folder = run_dir.join("machine");
        if !folder.is_dir() {
            return Ok(Stopped::NotRunning);
        }
        let _lock = lock(&folder)?;
        let Some(status) = record::running(&folder)? else {
            sweep(&folder);
            return Ok(Stopped::NotRunning);
        };
        let asked = ask_to_power_off(&folder).is_ok();
        let mut stopped = Stopped::Orderly;
        if !(asked && record::ends_within(&status, STOP_PATIENCE[0])) {
            stopped = Stopped::Forced;
            for (signal, patience) in
                [(Signal::SIGTERM, STOP_PATIENCE[1]), (Signal::SIGKILL, STOP_PATIENCE[2])]
            {
                let _ = kill(Pid::from_raw(status.pid), signal);
                if record::ends_within(&status, patience) {
                    break;
                }
            }
            if record::is_alive(&status) {
                return Err(Error::Refused(format!("process {} cannot be ended", status.pid)));
            }
        }
        sweep(&folder);
        Ok(stopped)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs `action`; when the channel fails because QEMU has ended, says that instead, with its last words.
    pub(crate) fn explain<T>(
        &self,
        during: &'static str,
        action: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let error = match action() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let [console, qemu] = self.logs();
        let log = || console_log::tail(&[&qemu, &console]);
        match error {
            Error::Channel(_) | Error::ChannelIo(_)
                if record::ends_within(&self.status, Duration::from_millis(500)) =>
            {
                Err(Error::QemuEnded {
                    status: "exit status not known".to_owned(),
                    during,
                    log: log(),
                })
            }
            Error::NoAnswer { waited, .. } => Err(Error::NoAnswer { waited, log: log() }),
            other => Err(other),
        }
    }

    fn logs(&self) -> [PathBuf; 2] {
        [self.status.state_dir.join("console.log"), self.status.state_dir.join("qemu.log")]
    }
}

/// The machine's folders and files.
struct Places {
    /// `<run>/machine`: sockets, locks, record.
    run: PathBuf,
    /// `<state>/machine`.
    state: PathBuf,
    share: PathBuf,
    initramfs: PathBuf,
    console_log: PathBuf,
    qemu_log: PathBuf,
}

impl Places {
    fn of(config: &Config) -> Self {
        let state = config.state_dir.join("machine");
        Self {
            run: config.run_dir.join("machine"),
            share: state.join("share"),
            initramfs: state.join("initramfs"),
            console_log: state.join("console.log"),
            qemu_log: state.join("qemu.log"),
            state,
        }
    }

    fn make(&self) -> Result<(), Error> {
        for folder in [&self.run, &self.state, &self.share] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(Error::file("create", folder))?;
        }
        Ok(())
    }

    fn launch(&self, config: &Config, qemu: &qemu::Qemu, kernel: &Path) -> Result<Child, Error> {
        console_log::create(&self.console_log).map_err(Error::file("create", &self.console_log))?;
        let errors =
            console_log::create(&self.qemu_log).map_err(Error::file("create", &self.qemu_log))?;
        let output = errors.try_clone().map_err(Error::file("open", &self.qemu_log))?;
        let absolute = |path: &Path| std::path::absolute(path).map_err(Error::file("find", path));
        let arguments = qemu::arguments(
            config,
            &Paths {
                kernel: &absolute(kernel)?,
                initramfs: &absolute(&self.initramfs)?,
                console_log: &absolute(&self.console_log)?,
                share: &absolute(&self.share)?,
            },
        );
        Command::new(&qemu.program)
            .args(arguments)
            .current_dir(&self.run)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Away from the terminal's Ctrl-C.
            .process_group(0)
            .spawn()
            .map_err(Error::file("run", &qemu.program))
    }

    fn await_agent(
        &self,
        child: &mut Child,
        interruption: &HeldSignals,
        begun: Instant,
    ) -> Result<(), Error> {
        loop {
            if interruption.take()?.is_some() {
                return Err(Error::Interrupted);
            }
            if let Some(status) = child.try_wait().map_err(Error::ChannelIo)? {
                return Err(Error::QemuEnded {
                    status: status.to_string(),
                    during: "the parent started",
                    log: console_log::tail(&[&self.qemu_log, &self.console_log]),
                });
            }
            if begun.elapsed() > START_PATIENCE {
                return Err(Error::NoAnswer {
                    waited: begun.elapsed(),
                    log: console_log::tail(&[&self.qemu_log, &self.console_log]),
                });
            }
            // Short, so that an interruption or QEMU's end is noticed; the agent answers the last opening.
            let deadline = Instant::now() + Duration::from_secs(1);
            match Session::open(&self.run, Which::Control, deadline) {
                Ok(session) => {
                    session.finish();
                    return Ok(());
                }
                // QEMU has not made its sockets yet, or the agent is not up.
                Err(Error::ChannelIo(_) | Error::Channel(_) | Error::NoAnswer { .. }) => {
                    sleep(TICK);
                }
                Err(other) => return Err(other),
            }
        }
    }
}

fn lock(folder: &Path) -> Result<Flock<File>, Error> {
    let path = folder.join("lock");
    let begun = Instant::now();
    loop {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::file("open", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) if begun.elapsed() < LOCK_PATIENCE => {
                sleep(TICK);
            }
            Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => {
                return Err(Error::Busy { lock: path, waited: begun.elapsed() });
            }
            Err((_, errno)) => {
                return Err(Error::File { action: "lock", path, source: errno.into() });
            }
        }
    }
}

/// Removes what a machine that is gone left in its run folder. The locks stay: others may hold them.
fn sweep(folder: &Path) {
    let _ = fs::remove_file(record::path(folder));
    for index in 0..PORTS {
        let _ = fs::remove_file(folder.join(qemu::socket_name(index)));
        if let Ok(lock) =
            OpenOptions::new().write(true).open(folder.join(format!("port{index}.lock")))
        {
            // A new machine's ports are at rest.
            let _ = lock.set_len(0);
        }
    }
}

fn ask_to_power_off(folder: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut session = Session::open(folder, Which::Control, deadline)?;
    session.request(&Request::PowerOff)?;
    session.await_kind(Some(deadline))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_to_stop_is_no_error() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(Machine::stop(run.path()).unwrap(), Stopped::NotRunning);
        fs::create_dir(run.path().join("machine")).unwrap();
        assert_eq!(Machine::stop(run.path()).unwrap(), Stopped::NotRunning);
        assert!(Machine::open(run.path()).unwrap().is_none());
    }
}
