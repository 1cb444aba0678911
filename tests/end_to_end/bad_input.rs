//! Bad input: each gets one clear message and the right exit code, and leaves nothing behind.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::parent::programs;
use tests::program::run;

use crate::images::text;
use crate::{Scene, Test};

pub(crate) const TESTS: &[Test] = &[
    ("damaged_images_do_not_start", damaged_images_do_not_start),
    (
        "an_image_rewritten_while_it_starts_runs_as_measured",
        an_image_rewritten_while_it_starts_runs_as_measured,
    ),
    ("impossible_requests_name_what_is_missing", impossible_requests_name_what_is_missing),
    ("cids_and_names_are_given_once", cids_and_names_are_given_once),
    ("a_kernel_that_panics_is_a_failed_start", a_kernel_that_panics_is_a_failed_start),
    ("a_host_without_usable_kvm_says_so_at_once", a_host_without_usable_kvm_says_so_at_once),
];

const SMALL: [&str; 4] = ["--cpu-count", "1", "--memory", "128"];

/// Writes a changed copy of hello's EIF.
fn changed(scene: &Scene<'_>, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<PathBuf> {
    let mut bytes = fs::read(&scene.images.hello.path)?;
    change(&mut bytes);
    let path = scene.parent.folder().join(format!("{name}.eif"));
    fs::write(&path, bytes)?;
    Ok(path)
}

fn damaged_images_do_not_start(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let length = usize::try_from(fs::metadata(&scene.images.hello.path)?.len())?;
    for cut in [0, 3, 547, 548, 600, length / 2, length - 1] {
        let path = changed(scene, "cut", |bytes| bytes.truncate(cut))?;
        parent.try_run_enclave(&path, &SMALL)?.refused(35, &["E35"])?;
        ensure!(
            parent.cli(["describe-eif", "--eif-path", &text(&path)?])?.code == 35,
            "described, cut at {cut}"
        );
    }
    let flipped = changed(scene, "crc", |bytes| bytes[length / 2] ^= 0x10)?;
    parent.try_run_enclave(&flipped, &SMALL)?.refused(35, &["E35", "CRC"])?;
    // The file header's size of section 0, at 0x11c, no longer agrees with the section's own header.
    let lying = changed(scene, "size", |bytes| bytes[0x11c + 7] ^= 1)?;
    parent.try_run_enclave(&lying, &SMALL)?.refused(35, &["E35", "size"])?;
    let missing = parent.folder().join("nowhere.eif");
    let refused = parent.try_run_enclave(&missing, &SMALL)?;
    ensure!(
        refused.code != 0 && refused.stderr.contains("nowhere.eif"),
        "a missing file: {}",
        refused.stderr
    );
    Ok(())
}

fn an_image_rewritten_while_it_starts_runs_as_measured(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let one = scene.images.script(parent, "rewritten-1", "echo 1; exec sleep 1000\n")?;
    let two = scene.images.script(parent, "rewritten-2", "echo 2; exec sleep 1000\n")?;
    let contents = [fs::read(&one.path)?, fs::read(&two.path)?];
    ensure!(contents[0].len() == contents[1].len(), "the two images differ in length");
    let path = parent.folder().join("rewritten.eif");
    fs::write(&path, &contents[0])?;
    for _ in 0..3 {
        let over = AtomicBool::new(false);
        let outcome = thread::scope(|scope| {
            scope.spawn(|| {
                let file = fs::OpenOptions::new().write(true).open(&path)?;
                for content in contents.iter().cycle() {
                    file.write_all_at(content, 0)?;
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
                std::io::Result::Ok(())
            });
            let outcome = parent.try_run_enclave(&path, &SMALL);
            over.store(true, Ordering::Relaxed);
            outcome
        })?;
        if outcome.code == 35 {
            // What was read was half one image and half the other: refused by its CRC, which is right.
            outcome.refused(35, &["CRC"])?;
            continue;
        }
        let json = outcome.success()?.json()?;
        let described = parent.enclaves()?;
        let pcr0 = described[0]["Measurements"]["PCR0"].as_str().unwrap_or_default().to_owned();
        ensure!([&one.pcr0, &two.pcr0].contains(&&pcr0), "PCR0 {pcr0} is neither image's");
        let id = json["EnclaveID"].as_str().unwrap_or_default().to_owned();
        let enclave = tests::parent::Enclave { id, json };
        crate::attestation::verified(scene, &enclave, &pcr0)?;
        parent.terminate(&enclave)?;
    }
    Ok(())
}

fn impossible_requests_name_what_is_missing(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let image = &scene.images.hello.path;
    parent
        .try_run_enclave(image, &["--cpu-count", "64", "--memory", "128"])?
        .refused(22, &["E22", "64"])?;
    parent
        .try_run_enclave(image, &["--cpu-count", "1", "--memory", "900000"])?
        .refused(27, &["E27", "900000"])?;
    parent
        .try_run_enclave(image, &["--cpu-count", "1", "--memory", "16"])?
        .refused(26, &["E26", "16"])?;
    parent
        .try_run_enclave(image, &["--cpu-ids", "0", "--memory", "128"])?
        .refused(21, &["E21", "0"])?;
    parent
        .try_run_enclave(image, &["--cpu-ids", "1", "1", "--memory", "128"])?
        .refused(20, &["E20", "1"])?;
    parent.try_run_enclave(image, &["--memory", "128"])?.refused(1, &["--cpu"])?;
    parent.cli(["terminate-enclave", "--enclave-id", "i-0-enc0"])?.refused(58, &["i-0-enc0"])?;
    Ok(())
}

fn cids_and_names_are_given_once(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let image = &scene.images.hello.path;
    for reserved in ["1", "2", "3", "4294967295", "4294967296"] {
        parent
            .try_run_enclave(image, &[&SMALL[..], &["--enclave-cid", reserved]].concat())?
            .refused(3, &["E03", reserved])?;
    }
    let named = [&SMALL[..], &["--enclave-cid", "77", "--enclave-name", "twin"]].concat();
    let first = parent.run_enclave(image, &named)?;
    ensure!(first.json["EnclaveCID"] == 77, "{:?}", first.json);
    let taken = parent.try_run_enclave(image, &named)?;
    ensure!(
        taken.code != 0 && taken.stderr.contains("77"),
        "a taken CID: {} {}",
        taken.code,
        taken.stderr
    );
    let second = parent.run_enclave(image, &[&SMALL[..], &["--enclave-name", "twin"]].concat())?;
    ensure!(second.json["EnclaveName"] == "twin_1", "{:?}", second.json);
    parent.terminate(&first)?;
    parent.terminate(&second)
}

fn a_kernel_that_panics_is_a_failed_start(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let init = parent.folder().join("no-init");
    fs::write(&init, "this is no program\n")?;
    // An init that the kernel cannot run: it panics, and `panic=` makes it reset at once.
    let cmdline = parent.folder().join("cmdline-panic");
    fs::write(&cmdline, "reboot=k panic=-1 console=ttyS0 random.trust_cpu=on\n")?;
    let (init, cmdline) = (text(&init)?, text(&cmdline)?);
    let image = scene.images.script_with(
        parent,
        "panics",
        "exit 0\n",
        &["--init", &init, "--cmdline", &cmdline],
    )?;
    let start = Instant::now();
    parent.try_run_enclave(&image.path, &SMALL)?.refused(36, &["E36"])?;
    ensure!(
        start.elapsed() < Duration::from_secs(60),
        "a reset was not noticed before the boot time-out"
    );
    Ok(())
}

fn a_host_without_usable_kvm_says_so_at_once(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    parent.shell("mv /dev/kvm /dev/kvm.away")?;
    let refused = parent.try_run_enclave(&scene.images.hello.path, &SMALL);
    parent.shell("mv /dev/kvm.away /dev/kvm")?;
    let refused = refused?;
    ensure!(
        refused.code != 0 && refused.stderr.contains("/dev/kvm"),
        "no /dev/kvm: {}",
        refused.stderr
    );

    // The machine under the tests, where no parent is up for these folders. Where its KVM works there is nothing to refuse.
    let empty = tempfile::tempdir()?;
    let mut command = Command::new(programs()?.join("enclave-cli"));
    command
        .args(["run-enclave", "--eif-path", &text(&scene.images.hello.path)?])
        .args(SMALL)
        .env("ENCLAVE_STATE_DIR", empty.path().join("state"))
        .env("ENCLAVE_RUN_DIR", empty.path().join("run"));
    let doctor =
        Command::new(programs()?.join("enclave-cli")).args(["doctor", "--json"]).output()?;
    let start = Instant::now();
    let here = run(command, b"", Duration::from_secs(60))?;
    let report: serde_json::Value = serde_json::from_slice(&doctor.stdout)?;
    if report["kvm_runs_guests"] == true {
        println!(
            "this host's own KVM runs guests: the refusal of a KVM that cannot is not seen here"
        );
        return Ok(());
    }
    ensure!(
        here.code != 0 && here.stderr.contains("machine start"),
        "no way out is named: {}",
        here.stderr
    );
    ensure!(start.elapsed() < Duration::from_secs(5), "it took {:?} to find out", start.elapsed());
    Ok(())
}
