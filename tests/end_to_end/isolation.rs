//! What other processes of the parent, and the enclave itself, cannot do.

use anyhow::{Result, ensure};

use crate::lifecycle::HELLO_PORT;
use crate::{Scene, Test};

pub(crate) const TESTS: &[Test] = &[
    ("other_users_may_only_describe", other_users_may_only_describe),
    (
        "the_guest_faces_a_process_without_capabilities",
        the_guest_faces_a_process_without_capabilities,
    ),
    ("the_console_is_for_debug_mode_only", the_console_is_for_debug_mode_only),
];

fn other_users_may_only_describe(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let enclave =
        parent.run_enclave(&scene.images.hello.path, &["--cpu-count", "1", "--memory", "128"])?;
    let socket = format!("/run/enclave/{}/control.sock", enclave.id);
    let ask = |operation: &str| {
        parent.shell(&format!(
            "setpriv --reuid 65534 --regid 65534 --clear-groups python3 -c '
import socket
s = socket.socket(socket.AF_UNIX); s.connect(\"{socket}\"); s.settimeout(20)
s.sendall(b\"{{\\\"op\\\":\\\"{operation}\\\"}}\\n\"); print(s.recv(65536).decode())'"
        ))
    };
    let described = ask("describe")?;
    ensure!(
        described.contains("\"ok\"") && described.contains(&enclave.id),
        "describe: {described}"
    );
    let refused = ask("terminate")?;
    ensure!(refused.contains("\"error\""), "another user may terminate: {refused}");
    let dialled = parent.shell(&format!(
        "setpriv --reuid 65534 --regid 65534 --clear-groups python3 -c '
import socket
s = socket.socket(socket.AF_UNIX); s.connect(\"/run/enclave/{}/vsock.sock\")' 2>&1 || true",
        enclave.id
    ))?;
    ensure!(dialled.contains("Permission"), "another user may dial the enclave: {dialled}");
    ensure!(parent.ask(&enclave, HELLO_PORT, "alive?\n")?.contains("cpus"), "the enclave is gone");
    parent.terminate(&enclave)
}

fn the_guest_faces_a_process_without_capabilities(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let enclave =
        parent.run_enclave(&scene.images.hello.path, &["--cpu-count", "1", "--memory", "128"])?;
    for role in ["vmm", "nsm"] {
        let status =
            parent.shell(&format!("cat /proc/$(pgrep -f '[e]nclave-vmm {role}')/status"))?;
        for line in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
            ensure!(status.contains(line), "{role} lacks `{line}`:\n{status}");
        }
    }
    parent.terminate(&enclave)
}

fn the_console_is_for_debug_mode_only(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let small = ["--cpu-count", "1", "--memory", "128"];
    let enclave = parent.run_enclave(&scene.images.hello.path, &small)?;
    parent.cli(["console", "--enclave-id", &enclave.id])?.refused(44, &["E44", "--debug-mode"])?;
    parent.terminate(&enclave)?;

    // Without `quiet`, the kernel's first line is the first thing on the console.
    let cmdline = parent.folder().join("cmdline-loud");
    std::fs::write(&cmdline, "reboot=k panic=-1 console=ttyS0\n")?;
    let cmdline = crate::images::text(&cmdline)?;
    let script = "echo the application speaks; exec sleep 1000\n";
    let image = scene.images.script_with(parent, "talks", script, &["--cmdline", &cmdline])?;
    let enclave = parent.run_enclave(&image.path, &[&small[..], &["--debug-mode"]].concat())?;
    ensure!(parent.enclaves()?[0]["Flags"] == "DEBUG_MODE", "not marked as debug");
    let console =
        parent.cli(["console", "--enclave-id", &enclave.id, "--disconnect-timeout", "5"])?;
    ensure!(
        console.text().contains("the application speaks"),
        "console: {} {}",
        console.text(),
        console.stderr
    );
    ensure!(
        console.text().contains("Linux version"),
        "the console does not begin at the first byte"
    );
    parent.terminate(&enclave)
}
