//! `run-enclave`: everything that can be known to be wrong is said before anything is taken (image, memory, whether KVM runs guests at all); then
//! the keeper takes CPUs and pages and starts the tree, and this command leaves at the heartbeat. Ctrl-C before that ends the tree.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;

use eif_builder::Eif;
use enclave_vmm::control;
use enclave_vmm::launch::{self, LaunchSpec, Report, Running};
use enclave_vmm::min_memory::{ImageSizes, MemoryRule};
use enclave_vmm::paths::Paths;
use enclave_vmm::resources::cpu_topology::{CpuRequest, CpuSet};
use enclave_vmm::sealed_image::{MAX_IMAGE, SealedImage};

use crate::arguments::nitro::RunEnclave;
use crate::failure::{Failure, Outcome};
use crate::invocation::Invocation;
use crate::progress::{Progress, line};
use crate::route::{self, ParentMachine, Route};
use crate::run_request::RunRequest;
use crate::{diagnosis, enclaves, exit_wait, output, pcr, timing};

/// Starts an enclave, here or in the machine.
pub(crate) fn run(arguments: &RunEnclave, invocation: Invocation, route: &Route) -> Outcome<u8> {
    let began_ns = launch::monotonic_ns();
    let request = RunRequest::from_arguments(arguments)?;
    let image = read_image(arguments, &request)?;
    let rule = if invocation.nitro_cli { MemoryRule::FourTimesFile } else { MemoryRule::Computed };
    check(&image, &request, rule)?;
    if let Some(machine) = route.machine() {
        return send(arguments, &request, &image, machine);
    }
    diagnosis::require_kvm(route.is_inside())?;

    let paths = Paths::current();
    let spec = LaunchSpec {
        name: request.name.clone(),
        memory_rule: rule,
        cid: request.cid.map(u64::from),
        debug: request.debug,
        vsock_path: absolute(arguments.vsock_path.as_ref())?,
        role: arguments.role.clone(),
        began_ns,
        ..LaunchSpec::new(&paths, &request.eif_path, request.memory.mib(), request.cpus.clone())
    };
    let running = start(&spec, image, &paths)?;
    if arguments.timing {
        line(&timing::table(&running.timing));
    }
    finish(arguments, &request, &running, &paths)
}

/// The image's bytes, once: everything from here on is about these.
fn read_image(arguments: &RunEnclave, request: &RunRequest) -> Outcome<SealedImage> {
    if arguments.eif_from_stdin {
        return Ok(SealedImage::from_stream(
            &mut std::io::stdin().lock(),
            &request.eif_path,
            MAX_IMAGE,
        )?);
    }
    pcr::open_image(&request.eif_path)
}

/// Lints the image and compares its needs with the memory asked for.
fn check(image: &SealedImage, request: &RunRequest, rule: MemoryRule) -> Outcome<()> {
    let bytes = image.map()?;
    let eif = Eif::parse(&bytes).map_err(|error| pcr::image_failure(&request.eif_path, error))?;
    let ramdisks = eif.ramdisks().map(|ramdisk| ramdisk.len() as u64).sum();
    ImageSizes::new(eif.kernel(), ramdisks, image.len()).check(request.memory.mib(), rule)?;
    Ok(())
}

/// The keeper works in `/`, so a path has to mean the same there.
fn absolute(path: Option<&PathBuf>) -> Outcome<Option<PathBuf>> {
    path.map(|path| {
        std::path::absolute(path).map_err(|error| Failure::file("find the folder of", path, error))
    })
    .transpose()
}

fn start(spec: &LaunchSpec, image: SealedImage, paths: &Paths) -> Outcome<Running> {
    let program = route::helper("enclave-vmm")?;
    let log = log_file(paths);
    let progress = Progress::spinner("starting the enclave");
    progress.line("Start allocating memory...");
    let mut allocated = None;
    let running = launch::launch(spec, image, &program, log.as_ref(), |report| match report {
        Report::Allocated(description) => allocated = Some(description.clone()),
        Report::Started(_) => {
            if let Some(description) = &allocated {
                progress.line(&format!(
                    "Started enclave with enclave-cid: {}, memory: {} MiB, cpu-ids: {:?}",
                    description.enclave_cid, description.memory_mib, description.cpu_ids
                ));
            }
        }
        Report::Measured(_) | Report::Heartbeat(_) | Report::Failed(_) => {}
    })?;
    Ok(running)
}

/// What a process of the tree says as it dies goes here; nothing else is written to it. It is cut when it has grown.
fn log_file(paths: &Paths) -> Option<File> {
    const MAX_LOG: u64 = 1 << 20;
    std::fs::create_dir_all(&paths.state).ok()?;
    let path = paths.state.join("enclave-vmm.log");
    let file = File::options().create(true).append(true).open(path).ok()?;
    if file.metadata().is_ok_and(|metadata| metadata.len() > MAX_LOG) {
        file.set_len(0).ok()?;
    }
    Some(file)
}

/// The JSON, then console and end where they were asked for.
fn finish(
    arguments: &RunEnclave,
    request: &RunRequest,
    running: &Running,
    paths: &Paths,
) -> Outcome<u8> {
    let description = &running.description;
    let waiting = if arguments.wait {
        Some(exit_wait::ExitWait::begin(&description.enclave_id)?)
    } else {
        None
    };
    output::json(description)?;
    let folder = paths.enclave(&description.enclave_id);
    let console = if request.attach_console {
        line(&format!("Connecting to the console for enclave {}...", description.enclave_cid));
        let stream = control::console(&folder.join("control.sock"))?;
        line("Successfully connected to the console.");
        Some(stream)
    } else {
        None
    };
    match (console, waiting) {
        (console, Some(waiting)) => waiting.finish(console, paths),
        (Some(console), None) => enclaves::show(console, None).map(|()| 0),
        (None, None) => Ok(0),
    }
}

/// Has the machine start it: the image goes there as the command's input.
fn send(
    arguments: &RunEnclave,
    request: &RunRequest,
    image: &SealedImage,
    machine: &ParentMachine,
) -> Outcome<u8> {
    if std::io::stderr().is_terminal() {
        line("Sending the image into the machine...");
    }
    machine.run_from(&words(arguments, request), Some(image.as_fd()))
}

/// The same request as options for the command inside.
fn words(arguments: &RunEnclave, request: &RunRequest) -> Vec<std::ffi::OsString> {
    let mut words: Vec<std::ffi::OsString> = vec!["run-enclave".into(), "--eif-from-stdin".into()];
    let mut option = |name: &str, value: std::ffi::OsString| words.extend([name.into(), value]);
    option("--eif-path", request.eif_path.clone().into());
    option("--memory", request.memory.mib().to_string().into());
    match &request.cpus {
        CpuRequest::Count(count) => option("--cpu-count", count.to_string().into()),
        CpuRequest::Ids(ids) => {
            option("--cpu-ids", CpuSet(ids.iter().copied().collect()).list().into());
        }
    }
    if let Some(cid) = request.cid {
        option("--enclave-cid", cid.to_string().into());
    }
    if let Some(name) = &request.name {
        option("--enclave-name", name.into());
    }
    if let Some(path) = &arguments.vsock_path {
        option("--vsock-path", path.into());
    }
    if let Some(role) = &arguments.role {
        option("--role", role.into());
    }
    for (name, set) in [
        ("--debug-mode", request.debug),
        ("--attach-console", request.attach_console),
        ("--timing", arguments.timing),
        ("--wait", arguments.wait),
    ] {
        if set {
            words.push(name.into());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::{Command, CommandLine};

    #[test]
    fn what_is_sent_into_the_machine_is_the_same_request() {
        let first = [
            "x",
            "run-enclave",
            "--eif-path",
            "/a b/hello.eif",
            "--memory",
            "1G",
            "--cpu-ids",
            "3",
            "2",
            "--enclave-cid",
            "16",
            "--enclave-name",
            "n",
            "--attach-console",
            "--role",
            "arn:x",
            "--timing",
            "--wait",
            "--vsock-path",
            "/run/v",
        ];
        let parse = |words: Vec<std::ffi::OsString>| match CommandLine::try_parse_from(words)
            .unwrap()
            .command
        {
            Command::RunEnclave(arguments) => arguments,
            other => panic!("{other:?}"),
        };
        let arguments = parse(first.iter().map(Into::into).collect());
        let request = RunRequest::from_arguments(&arguments).unwrap();
        let sent: Vec<std::ffi::OsString> =
            std::iter::once("x".into()).chain(words(&arguments, &request)).collect();
        let inside = parse(sent);
        assert!(inside.eif_from_stdin && inside.timing && inside.wait);
        assert_eq!(RunRequest::from_arguments(&inside).unwrap(), request);
        assert_eq!((inside.role, inside.vsock_path), (arguments.role, arguments.vsock_path));
    }
}
