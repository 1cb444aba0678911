//! A real parent, from start to stop, and everything its channel promises. Needs QEMU, the static agent named
//! by `MACHINE_AGENT`, and the parent's kernel in `ENCLAVE_CACHE_DIR` (or the network, to fetch it), so it is
//! built only with the feature `parent`:
//! `MACHINE_AGENT=… ENCLAVE_CACHE_DIR=… cargo test -p machine --features parent --test parent`

// Helpers of a test are test code too; the lints' own exception covers only the test functions.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use machine::{Accel, Captured, Command, Config, Error, Exit, Limits, Machine, Stopped};

fn from_environment(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set")))
}

fn config(folder: &Path) -> Config {
    Config {
        cpus: 2,
        memory_mib: 1024,
        accel: Accel::Tcg,
        icount: false,
        state_dir: folder.join("state, with a comma"),
        // Longer than a socket's path may be.
        run_dir: folder.join("run").join("r".repeat(100)),
        cache_dir: from_environment("ENCLAVE_CACHE_DIR"),
        agent: from_environment("MACHINE_AGENT"),
    }
}

fn sh(machine: &Machine, script: &str) -> Captured {
    sh_with(machine, script, &[])
}

fn sh_with(machine: &Machine, script: &str, input: &[u8]) -> Captured {
    let limits = Limits {
        time: Some(Duration::from_secs(120)),
        silence: Some(Duration::from_secs(60)),
        ..Limits::default()
    };
    let command = Command::new("sh").args(["-c", script]);
    machine.exec_captured(&command, input, &limits).unwrap()
}

fn text(machine: &Machine, script: &str) -> String {
    let captured = sh(machine, script);
    assert!(captured.exit.success(), "{script}: {captured:?}");
    String::from_utf8(captured.stdout).unwrap().trim_end().to_owned()
}

/// Bytes that repeat nowhere near a frame's length.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect()
}

#[test]
fn a_parent_from_start_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let _guard = StopAtEnd(&config);
    let machine = start(&config);

    starting_again_finds_it(&machine, &config);
    it_is_a_usable_parent(&machine, &config);
    exit_codes_come_through(&machine);
    bytes_come_through(&machine);
    limits_end_the_group_and_nothing_else(&machine);
    abandoned_sessions_leave_ports_usable(&machine);
    files_arrive_whole(&machine, folder.path());
    many_commands_at_once(&machine);
    a_failed_server_is_replaced(&machine);
    a_stopped_parent_is_told_from_a_silent_command(&machine);

    assert_eq!(Machine::stop(&config.run_dir).unwrap(), Stopped::Orderly);
    assert!(Machine::open(&config.run_dir).unwrap().is_none());
    assert_eq!(Machine::stop(&config.run_dir).unwrap(), Stopped::NotRunning);

    a_killed_machine_is_said_to_be_dead(&config);
}

/// A failed test leaves no machine behind.
struct StopAtEnd<'a>(&'a Config);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        let _ = Machine::stop(&self.0.run_dir);
    }
}

fn start(config: &Config) -> Machine {
    let machine = Machine::start(config, &mut |line| eprintln!("{line}")).unwrap();
    eprintln!("up after {} ms", machine.status().boot_ms);
    machine
}

fn starting_again_finds_it(machine: &Machine, config: &Config) {
    let again =
        Machine::start(config, &mut |line| panic!("started a second time: {line}")).unwrap();
    assert_eq!(again.status(), machine.status());
}

fn it_is_a_usable_parent(machine: &Machine, config: &Config) {
    assert_eq!(text(machine, "nproc"), "2");
    for device in ["/dev/kvm", "/dev/vsock", "/dev/vhost-vsock", "/dev/net/tun", "/dev/ptmx"] {
        assert_eq!(text(machine, &format!("test -c {device} && echo yes")), "yes", "{device}");
    }
    let controllers = text(machine, "cat /sys/fs/cgroup/cgroup.subtree_control");
    for controller in ["cpuset", "memory", "pids"] {
        assert!(controllers.split(' ').any(|found| found == controller), "{controllers}");
    }
    assert_eq!(
        text(machine, "echo 16 > /proc/sys/vm/nr_hugepages; cat /proc/sys/vm/nr_hugepages"),
        "16"
    );
    assert_eq!(text(machine, "cat /sys/class/net/lo/carrier"), "1");

    let share = config.state_dir.join("machine/share");
    text(machine, "echo from the parent > /var/lib/enclave/file");
    assert_eq!(fs::read_to_string(share.join("file")).unwrap(), "from the parent\n");
    for round in ["one", "two"] {
        fs::write(share.join("host"), round).unwrap();
        assert_eq!(text(machine, "cat /var/lib/enclave/host"), round);
        // The same through the host's whole tree: never stale, never writable.
        let seen = format!("/run/host{}", share.join("host").display());
        assert_eq!(text(machine, &format!("cat '{seen}'")), round);
        assert!(!sh(machine, &format!("echo x > '{seen}'")).exit.success());
    }
}

fn exit_codes_come_through(machine: &Machine) {
    assert_eq!(sh(machine, "exit 7").exit, Exit::Code(7));
    assert_eq!(sh(machine, "kill -9 $$").exit, Exit::Signal(9));
    let run = |command: Command| machine.exec_captured(&command, &[], &Limits::default());
    let missing = run(Command::new("/no/such/program")).unwrap();
    assert_eq!(missing.exit, Exit::Code(127));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such/program"));
    assert_eq!(run(Command::new("/etc/passwd")).unwrap().exit, Exit::Code(126));
    let nowhere = run(Command::new("true").current_dir("/no/such/folder")).unwrap_err();
    assert!(
        matches!(&nowhere, Error::Refused(reason) if reason.contains("/no/such/folder")),
        "{nowhere}"
    );
    let there = run(Command::new("pwd").current_dir("/var/lib").env("X", "y")).unwrap();
    assert_eq!(there.stdout, b"/var/lib\n");
}

fn bytes_come_through(machine: &Machine) {
    let bytes = pattern(3_000_001);
    let captured = sh_with(machine, "cat; echo on error >&2", &bytes);
    assert!(captured.stdout == bytes, "{} bytes came back", captured.stdout.len());
    assert_eq!(captured.stderr, b"on error\n");
    // A command that reads nothing, and one that stops reading.
    assert!(sh_with(machine, "true", &bytes).exit.success());
    assert_eq!(sh_with(machine, "head -c 5", &bytes).stdout, &bytes[..5]);
    let begun = Instant::now();
    let captured = sh(machine, "head -c 20000000 /dev/zero");
    assert_eq!(captured.stdout.len(), 20_000_000);
    eprintln!("20 MB out in {:?}", begun.elapsed());
    let limits = Limits { output: 1000, ..Limits::default() };
    let command = Command::new("sh").args(["-c", "yes"]);
    let error = machine.exec_captured(&command, &[], &limits).unwrap_err();
    assert!(matches!(error, Error::TooMuchOutput { limit: 1000, .. }), "{error}");
    // What a daemon left behind holds open does not keep the command from ending.
    let begun = Instant::now();
    assert_eq!(sh(machine, "sleep 60 & echo done").stdout, b"done\n");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

fn limits_end_the_group_and_nothing_else(machine: &Machine) {
    let script = "setsid sleep 4321 & sleep 4322 & sleep 4323";
    let command = Command::new("sh").args(["-c", script]);
    let limits = Limits { time: Some(Duration::from_secs(2)), ..Limits::default() };
    let error = machine.exec_captured(&command, &[], &limits).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    let count = |argument: u32| {
        text(
            machine,
            &format!(
                "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[s]leep {argument}' || true"
            ),
        )
    };
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20)
        && (count(4322), count(4323)) != ("0".into(), "0".into())
    {
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!((count(4322), count(4323)), ("0".to_owned(), "0".to_owned()));
    assert_eq!(count(4321), "1", "what left the session lives on");

    let limits = Limits { silence: Some(Duration::from_secs(2)), ..Limits::default() };
    let command = Command::new("sleep").arg("4324");
    let error = machine.exec_captured(&command, &[], &limits).unwrap_err();
    assert!(matches!(error, Error::Stalled { .. }), "{error}");
}

fn abandoned_sessions_leave_ports_usable(machine: &Machine) {
    let bytes = pattern(1_000_000);
    for round in 0..20u64 {
        let command = Command::new("sh").args(["-c", "head -c 1000 >/dev/null; yes; sleep 60"]);
        let limits = Limits {
            time: Some(Duration::from_millis(1 + round * 37)),
            output: usize::MAX,
            ..Limits::default()
        };
        let error = machine.exec_captured(&command, &bytes, &limits).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert_eq!(text(machine, &format!("echo {round}")), round.to_string());
    }
}

fn files_arrive_whole(machine: &Machine, folder: &Path) {
    let script = folder.join("script");
    fs::write(&script, "#!/bin/sh\necho first\n").unwrap();
    let first = machine.ensure_program("script", &script).unwrap();
    assert!(first.starts_with("/run/enclave-programs"));
    let inode = text(machine, &format!("stat -c %i {}", first.display()));
    assert_eq!(machine.ensure_program("script", &script).unwrap(), first);
    assert_eq!(text(machine, &format!("stat -c %i {}", first.display())), inode, "sent again");
    fs::write(&script, "#!/bin/sh\necho second\n").unwrap();
    let second = machine.ensure_program("script", &script).unwrap();
    assert_eq!(text(machine, &first.display().to_string()), "first");
    assert_eq!(text(machine, &second.display().to_string()), "second");

    let bytes = pattern(5_000_003);
    let file = folder.join("bytes");
    fs::write(&file, &bytes).unwrap();
    let begun = Instant::now();
    machine.put_file(&file, Path::new("/tmp/a/b/bytes"), 0o640).unwrap();
    eprintln!("5 MB in, in {:?}", begun.elapsed());
    assert_eq!(text(machine, "stat -c '%s %a' /tmp/a/b/bytes"), "5000003 640");
    assert!(sh(machine, "cat /tmp/a/b/bytes").stdout == bytes);
    assert_eq!(text(machine, "ls -A /tmp/a/b"), "bytes");
    let error = machine.put_file(&file, Path::new("/proc/no/file"), 0o600).unwrap_err();
    assert!(
        matches!(&error, Error::Refused(reason) if reason.contains("/proc/no/file")),
        "{error}"
    );
    assert!(machine.put_file(&folder.join("missing"), Path::new("/tmp/x"), 0o600).is_err());
}

fn many_commands_at_once(machine: &Machine) {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..20 {
            scope.spawn(move || {
                for round in 0..10 {
                    let word = format!("{thread}-{round}");
                    assert_eq!(text(machine, &format!("echo {word}")), word);
                }
            });
        }
    });
    eprintln!("200 commands by 20 threads in {:?}", begun.elapsed());
    // Nothing of them is left.
    assert_eq!(text(machine, "cat /proc/[0-9]*/stat | cut -d' ' -f3 | grep -c Z || true"), "0");
}

fn a_failed_server_is_replaced(machine: &Machine) {
    // A command's parent process is the server of the channel.
    let command = Command::new("sh").args(["-c", "kill -9 $PPID; sleep 60"]);
    let begun = Instant::now();
    let error = machine.exec_captured(&command, &[], &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::Channel(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(text(machine, "echo again"), "again");
}

fn a_stopped_parent_is_told_from_a_silent_command(machine: &Machine) {
    let signal = |name: &str| {
        let pid = machine.status().pid.to_string();
        let sent = std::process::Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(sent.success());
    };
    let error = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let limits = Limits { silence: Some(Duration::from_secs(4)), ..Limits::default() };
            machine.exec_captured(&Command::new("sleep").arg("4325"), &[], &limits).unwrap_err()
        });
        std::thread::sleep(Duration::from_secs(2));
        signal("-STOP");
        waiting.join().unwrap()
    });
    signal("-CONT");
    assert!(matches!(error, Error::Wedged { .. }), "{error}");
    assert_eq!(text(machine, "echo awake"), "awake");
}

fn a_killed_machine_is_said_to_be_dead(config: &Config) {
    let machine = start(config);
    let killed = std::process::Command::new("kill")
        .args(["-9", &machine.status().pid.to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let error = machine.exec_captured(&Command::new("true"), &[], &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::QemuEnded { .. }), "{error}");
    assert!(Machine::open(&config.run_dir).unwrap().is_none());
    assert_eq!(Machine::stop(&config.run_dir).unwrap(), Stopped::NotRunning);
    let left: Vec<_> = fs::read_dir(config.run_dir.join("machine"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with("lock"))
        .collect();
    assert_eq!(left, [""; 0]);
}
