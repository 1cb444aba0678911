//! A parent VM without the rest of the project, for work on this crate: `parent start|status|stop`,
//! `parent exec [-t] -- CMD…`, `parent put FILE PATH`. Folders come from the same variables as
//! `enclave-cli`'s (`ENCLAVE_STATE_DIR`, `ENCLAVE_RUN_DIR`, `ENCLAVE_CACHE_DIR`), the agent from `MACHINE_AGENT`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use machine::{Accel, Command, Config, Error, Machine};

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            if let Some(hint) = error.hint() {
                eprintln!("  try: {hint}");
            }
            ExitCode::from(255)
        }
    }
}

fn run() -> Result<u8, Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let run_dir = variable("ENCLAVE_RUN_DIR");
    match words.as_slice() {
        ["start"] => {
            let machine = Machine::start(&config(run_dir), &mut |line| eprintln!("{line}"))?;
            println!("{:?}", machine.status());
        }
        ["status"] => match Machine::open(&run_dir)? {
            Some(machine) => println!("{:?}", machine.status()),
            None => return Ok(1),
        },
        ["stop"] => println!("{:?}", Machine::stop(&run_dir)?),
        ["exec", "-t", "--", command @ ..] => return exec(&run_dir, command, true),
        ["exec", "--", command @ ..] | ["exec", command @ ..] => {
            return exec(&run_dir, command, false);
        }
        ["put", file, path] => open(&run_dir)?.put_file(Path::new(file), Path::new(path), 0o755)?,
        ["program", file] => {
            let name = Path::new(file).file_name().unwrap_or_default().to_string_lossy();
            println!("{}", open(&run_dir)?.ensure_program(&name, Path::new(file))?.display());
        }
        _ => {
            eprintln!(
                "usage: parent start|status|stop|exec [-t] -- CMD…|put FILE PATH|program FILE"
            );
            return Ok(2);
        }
    }
    Ok(0)
}

fn exec(run_dir: &Path, command: &[&str], terminal: bool) -> Result<u8, Error> {
    let Some((program, rest)) = command.split_first() else { return Ok(2) };
    let mut command = Command::new(program).args(rest);
    if let Some(term) = std::env::var_os("TERM") {
        command = command.env("TERM", term);
    }
    Ok(open(run_dir)?.exec(&command, terminal)?.code())
}

fn open(run_dir: &Path) -> Result<Machine, Error> {
    Machine::open(run_dir)?.ok_or(Error::NotRunning)
}

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name).map_or_else(|| PathBuf::from("/tmp/parent-state"), PathBuf::from)
}

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn config(run_dir: PathBuf) -> Config {
    Config {
        cpus: number("PARENT_CPUS", Config::DEFAULT_CPUS),
        memory_mib: number("PARENT_MEMORY", Config::DEFAULT_MEMORY_MIB),
        accel: if std::env::var_os("PARENT_KVM").is_some() { Accel::Kvm } else { Accel::Tcg },
        icount: std::env::var_os("PARENT_ICOUNT").is_some(),
        state_dir: variable("ENCLAVE_STATE_DIR"),
        run_dir,
        cache_dir: variable("ENCLAVE_CACHE_DIR"),
        agent: variable("MACHINE_AGENT"),
    }
}
