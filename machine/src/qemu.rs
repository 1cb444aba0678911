//! Finding QEMU and its command line. QEMU gets no network, no monitor, no display and no devices
//! but those named here.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::channel::{PORTS, port_name};
use crate::{Accel, Config, Error, HOST_ROOT_TAG, HOST_VIEW_TAG, SHARE_TAG};

const PROGRAM: &str = "qemu-system-x86_64";
/// Debian 12's own 7.2 crashes the parent when a nested guest starts; 10.0 is what was tested, 9.0
/// the first release with the corrections it needs.
const OLDEST: (u32, u32) = (9, 0);
const OLDEST_TEXT: &str = "9.0";

/// An executable QEMU of a known version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Qemu {
    pub(crate) program: PathBuf,
    /// As printed, e.g. `10.0.2`.
    pub(crate) version: String,
}

/// What the command line refers to.
#[derive(Debug)]
pub(crate) struct Paths<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    pub(crate) console_log: &'a Path,
    pub(crate) share: &'a Path,
}

/// Looks for QEMU on `PATH` and asks its version.
///
/// # Errors
/// [`Error::QemuMissing`], [`Error::QemuTooOld`], [`Error::QemuVersionUnreadable`].
pub(crate) fn find() -> Result<Qemu, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path)
        .map(|folder| folder.join(PROGRAM))
        .find(|candidate| candidate.is_file())
        .ok_or(Error::QemuMissing)?;
    let output = Command::new(&program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(Error::file("run", &program))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    let (version, release) = parse_version(line).ok_or_else(|| Error::QemuVersionUnreadable {
        program: program.clone(),
        output: line.chars().take(80).collect(),
    })?;
    if release < OLDEST {
        return Err(Error::QemuTooOld { found: version, needed: OLDEST_TEXT });
    }
    Ok(Qemu { program, version })
}

/// From `QEMU emulator version 10.0.2 (Debian …)`.
fn parse_version(line: &str) -> Option<(String, (u32, u32))> {
    let text = line.split("version ").nth(1)?.split_whitespace().next()?;
    let mut numbers = text.split('.').map(str::parse);
    let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((text.to_owned(), (major, minor)))
}

/// Refuses hardware acceleration without nesting: the parent could run no enclave.
pub(crate) fn check_nesting() -> Result<(), Error> {
    for vendor in ["kvm_intel", "kvm_amd"] {
        let parameter = PathBuf::from(format!("/sys/module/{vendor}/parameters/nested"));
        match fs::read_to_string(&parameter) {
            Ok(value) if matches!(value.trim(), "Y" | "y" | "1") => return Ok(()),
            Ok(value) => {
                return Err(Error::NestingOff { parameter, value: value.trim().to_owned() });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(Error::File { action: "read", path: parameter, source });
            }
        }
    }
    // KVM built into the kernel without the switch's file: nothing to read, so nothing to refuse.
    Ok(())
}

/// The arguments. Socket paths are relative to the run folder, QEMU's working directory: a socket's
/// path is limited to 107 bytes and the folder's is not ours to choose.
pub(crate) fn arguments(config: &Config, paths: &Paths<'_>) -> Vec<OsString> {
    let mut line = Line::default();
    line.add("-name", "enclave-machine");
    line.flag("-nodefaults").flag("-no-user-config").flag("-no-reboot");
    line.add("-display", "none").add("-machine", "q35");
    line.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    match (config.accel, config.icount) {
        (Accel::Kvm, _) => line.add("-accel", "kvm").add("-cpu", "host"),
        (Accel::Tcg, false) => line.add("-accel", "tcg,thread=multi").add("-cpu", "max"),
        // Time counted in instructions. With the fast-string features on, a bulk copy would be
        // charged an instruction a byte.
        (Accel::Tcg, true) => line
            .add("-accel", "tcg,thread=single")
            .add("-icount", "shift=1,sleep=off")
            .add("-cpu", "max,erms=off,fsrm=off"),
    };
    let cpus = config.cpus;
    line.add("-smp", format!("{cpus},sockets=1,cores={cpus},threads=1"));
    line.add("-m", format!("{}M", config.memory_mib));
    line.add("-kernel", paths.kernel).add("-initrd", paths.initramfs);
    line.add("-append", kernel_command_line(config.accel));
    line.add("-chardev", option("file,id=console,append=on,path=", paths.console_log));
    line.add("-serial", "chardev:console");
    let shares = [
        (HOST_ROOT_TAG, Path::new("/"), ",readonly=on"),
        (HOST_VIEW_TAG, Path::new("/"), ",readonly=on"),
        (SHARE_TAG, paths.share, ""),
    ];
    for (tag, path, access) in shares {
        let mut share =
            option(&format!("local,id={tag},security_model=none,multidevs=remap,path="), path);
        share.push(access);
        line.add("-fsdev", share);
        line.add("-device", format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
    }
    line.add("-device", format!("virtio-serial-pci,max_ports={}", PORTS + 1));
    for index in 0..PORTS {
        let socket = socket_name(index);
        let name = port_name(index);
        line.add("-chardev", format!("socket,id=port{index},path={socket},server=on,wait=off"));
        line.add("-device", format!("virtserialport,chardev=port{index},name={name}"));
    }
    line.0
}

/// The name of a port's socket inside the run folder.
pub(crate) fn socket_name(index: usize) -> String {
    format!("port{index}.sock")
}

fn kernel_command_line(accel: Accel) -> &'static str {
    // `panic=-1` with `-no-reboot` turns a panic into QEMU's end, which the host sees at once.
    // Mitigations guard against a processor's flaws; an emulated one pays for them and has none.
    match accel {
        Accel::Kvm => "console=ttyS0 loglevel=4 panic=-1 rdinit=/init",
        Accel::Tcg => "console=ttyS0 loglevel=4 panic=-1 rdinit=/init mitigations=off",
    }
}

/// `prefix` and a path, in which QEMU wants commas doubled.
fn option(prefix: &str, path: &Path) -> OsString {
    let mut bytes = prefix.as_bytes().to_vec();
    for byte in path.as_os_str().as_bytes() {
        bytes.push(*byte);
        if *byte == b',' {
            bytes.push(b',');
        }
    }
    OsString::from_vec(bytes)
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.into());
        self
    }

    fn add(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.0.push(name.into());
        self.0.push(value.as_ref().to_owned());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(config: &Config, share: &str) -> String {
        let paths = Paths {
            kernel: Path::new("/c/vmlinuz"),
            initramfs: Path::new("/s/initramfs"),
            console_log: Path::new("/s/console.log"),
            share: Path::new(share),
        };
        let arguments = arguments(config, &paths);
        arguments.join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn versions_are_read_as_qemu_prints_them() {
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)";
        assert_eq!(parse_version(debian), Some(("10.0.2".to_owned(), (10, 0))));
        let stock = "QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7+deb12u15)";
        assert!(parse_version(stock).unwrap().1 < OLDEST);
        assert_eq!(parse_version("something else"), None);
        assert_eq!(parse_version("QEMU emulator version ten"), None);
    }

    #[test]
    fn the_command_line_says_what_was_configured() {
        let config = Config { cpus: 3, memory_mib: 2048, ..Config::for_tests() };
        let line = text(&config, "/s/share");
        assert!(
            line.contains("-accel tcg,thread=multi -cpu max -smp 3,sockets=1,cores=3,threads=1")
        );
        assert!(line.contains("-m 2048M"));
        assert!(line.contains("mitigations=off"));
        assert!(
            line.contains("id=share,security_model=none,multidevs=remap,path=/s/share -device")
        );
        assert!(
            line.contains("id=host-root,security_model=none,multidevs=remap,path=/,readonly=on")
        );
        assert_eq!(line.matches("virtserialport,").count(), PORTS);
        assert!(!line.contains("-netdev") && !line.contains("-monitor"));
    }

    #[test]
    fn instruction_counting_is_single_threaded() {
        let config = Config { icount: true, ..Config::for_tests() };
        let line = text(&config, "/s/share");
        assert!(
            line.contains("tcg,thread=single -icount shift=1,sleep=off -cpu max,erms=off,fsrm=off")
        );
    }

    #[test]
    fn kvm_keeps_the_mitigations() {
        let config = Config { accel: Accel::Kvm, ..Config::for_tests() };
        let line = text(&config, "/s/share");
        assert!(line.contains("-accel kvm -cpu host") && !line.contains("mitigations"));
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        let line = text(&Config::for_tests(), "/a,b/share");
        assert!(line.contains("path=/a,,b/share"), "{line}");
    }
}
