//! Start, describe, talk to, terminate: one enclave, two at once, and what is left after each kind of end.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::parent::TREE;
use tests::program::{signal, wait};

use crate::{Scene, Test};

pub(crate) const TESTS: &[Test] = &[
    ("an_enclave_runs_on_cpus_and_pages_of_its_own", an_enclave_runs_on_cpus_and_pages_of_its_own),
    ("two_enclaves_of_different_images_at_once", two_enclaves_of_different_images_at_once),
    ("the_pool_lends_and_takes_back", the_pool_lends_and_takes_back),
    (
        "killing_any_process_of_the_tree_leaves_nothing",
        killing_any_process_of_the_tree_leaves_nothing,
    ),
    ("ctrl_c_while_starting_leaves_nothing", ctrl_c_while_starting_leaves_nothing),
    ("the_applications_exit_code_is_recorded", the_applications_exit_code_is_recorded),
    ("the_tree_is_small_beyond_guest_memory", the_tree_is_small_beyond_guest_memory),
];

/// Where `examples/hello` listens.
pub(crate) const HELLO_PORT: u32 = 5000;

fn an_enclave_runs_on_cpus_and_pages_of_its_own(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let before = parent.online_cpus()?;
    let enclave = parent.run_enclave(
        &scene.images.hello.path,
        &["--cpu-count", "2", "--memory", "256", "--enclave-name", "first"],
    )?;
    let json = &enclave.json;
    ensure!(
        json["EnclaveName"] == "first" && json["NumberOfCPUs"] == 2 && json["MemoryMiB"] == 256,
        "{json}"
    );
    ensure!(
        json["EnclaveCID"].as_u64() >= Some(4) && json["ProcessID"].as_u64() > Some(1),
        "{json}"
    );
    let cpus = json["CPUIDs"].as_array().context("CPUIDs")?;
    ensure!(cpus.len() == 2 && !cpus.contains(&0.into()), "CPUIDs {cpus:?}");

    ensure!(parent.online_cpus()? == before - 2, "the enclave's CPUs are still there for others");
    let used = parent.shell(
        "awk '/HugePages_Total/{t=$2} /HugePages_Free/{f=$2} END{print t-f}' /proc/meminfo",
    )?;
    ensure!(used == "128", "{used} huge pages are in use, 128 make 256 MiB");

    let described = parent.enclaves()?;
    ensure!(described.len() == 1, "{described:?}");
    let one = &described[0];
    ensure!(
        one["State"] == "RUNNING"
            && one["Flags"] == "NONE"
            && one["EnclaveID"] == json["EnclaveID"],
        "{one}"
    );
    ensure!(one["Measurements"]["PCR0"] == scene.images.hello.pcr0.as_str(), "{one}");

    let answer: serde_json::Value =
        serde_json::from_str(&parent.ask(&enclave, HELLO_PORT, "good morning\n")?)?;
    ensure!(answer["cpus"] == 2, "nproc inside: {answer}");
    parent.terminate(&enclave)
}

fn two_enclaves_of_different_images_at_once(scene: &Scene<'_>) -> Result<()> {
    let (parent, images) = (scene.parent, scene.images);
    let script = "echo up; while true; do sleep 1; done\n";
    let other = images.script(parent, "other", script)?;
    let hello = parent.run_enclave(&images.hello.path, &["--cpu-count", "2", "--memory", "128"])?;
    let second = parent.run_enclave(&other.path, &["--cpu-count", "1", "--memory", "128"])?;
    ensure!(
        hello.id != second.id && hello.json["EnclaveCID"] != second.json["EnclaveCID"],
        "{hello:?} {second:?}"
    );
    for (enclave, image, mate) in
        [(&hello, &images.hello, &other), (&second, &other, &images.hello)]
    {
        crate::attestation::verified(scene, enclave, &image.pcr0)?;
        ensure!(image.pcr0 != mate.pcr0, "two images with one PCR0");
    }
    parent.terminate(&second)?;
    ensure!(
        parent.ask(&hello, HELLO_PORT, "still there?\n")?.contains("cpus"),
        "hello does not answer any more"
    );
    crate::attestation::verified(scene, &hello, &images.hello.pcr0)?;
    parent.terminate(&hello)
}

fn the_pool_lends_and_takes_back(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    parent.cli(["allocator", "apply", "--cpu-count", "2", "--memory-mib", "256"])?.success()?;
    ensure!(parent.online_cpus()? == 2, "the pool's CPUs are still there for others");
    ensure!(parent.total_pages()? >= 128, "the pool's pages are not reserved");
    let enclave =
        parent.run_enclave(&scene.images.hello.path, &["--cpu-count", "2", "--memory", "128"])?;
    ensure!(parent.online_cpus()? == 2, "the enclave took CPUs beside the pool");
    parent.cli(["allocator", "release"])?.refused(1, &["enclave"])?;
    parent.terminate(&enclave)?;
    ensure!(parent.online_cpus()? == 2, "the pool gave its CPUs away at the enclave's end");
    parent.cli(["allocator", "status"])?.success()?;
    parent.cli(["allocator", "release"])?.success()?;
    Ok(())
}

fn killing_any_process_of_the_tree_leaves_nothing(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    for role in ["vmm", "nsm", "keeper"] {
        parent.run_enclave(&scene.images.hello.path, &["--cpu-count", "1", "--memory", "128"])?;
        let killed =
            parent.shell(&format!("pkill -KILL -f '[e]nclave-vmm {role}' && echo killed"))?;
        ensure!(killed == "killed", "no process `enclave-vmm {role}`");
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match parent.check_clean() {
                Ok(()) => break,
                Err(error) if Instant::now() > end => {
                    return Err(error.context(format!("after kill -9 of {role}")));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }
    Ok(())
}

fn ctrl_c_while_starting_leaves_nothing(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let image = scene.images.hello.path.to_str().context("path")?;
    for after in [50, 300, 900, 1600] {
        let mut starting = parent
            .command(["run-enclave", "--eif-path", image, "--cpu-count", "1", "--memory", "128"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(after));
        signal(&starting, Signal::SIGINT)?;
        let code =
            wait(&mut starting, Duration::from_secs(60))?.context("run-enclave ignores Ctrl-C")?;
        if code == 0 {
            // It was already up: then it is an enclave like any other.
            parent.clean()?;
        }
        let end = Instant::now() + Duration::from_secs(20);
        while let Err(error) = parent.check_clean() {
            ensure!(Instant::now() < end, "Ctrl-C after {after} ms: {error:#}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}

fn the_applications_exit_code_is_recorded(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let image = scene.images.script(parent, "exits-seven", "exit 7\n")?;
    let waited =
        parent.try_run_enclave(&image.path, &["--cpu-count", "1", "--memory", "128", "--wait"])?;
    ensure!(
        waited.code == 7,
        "--wait: exit code {} in place of the application's 7: {}",
        waited.code,
        waited.stderr
    );
    let records = parent.shell("cat /var/lib/enclave/history/*.json")?;
    ensure!(records.contains('7'), "no record of the exit code: {records}");
    Ok(())
}

fn the_tree_is_small_beyond_guest_memory(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let enclave =
        parent.run_enclave(&scene.images.hello.path, &["--cpu-count", "1", "--memory", "128"])?;
    parent.ask(&enclave, HELLO_PORT, "warm up\n")?;
    // Pss counts shared pages by share; huge pages are not in it, so guest memory is not either.
    let counted = parent.shell(&format!(
        "for p in $(pgrep -f '{TREE}'); do cat /proc/$p/smaps_rollup; done | awk '/^Pss:/{{s+=$2; n++}} END{{print n, s}}'"
    ))?;
    let (processes, kib) = counted.split_once(' ').context("no processes")?;
    ensure!(processes == "3", "{processes} processes in place of keeper, nsm and vmm");
    let kib: u64 = kib.parse()?;
    println!("memory of the tree beyond guest memory: {kib} KiB (limit 12288)");
    ensure!(kib < 12 * 1024, "the tree takes {kib} KiB");
    parent.terminate(&enclave)
}
