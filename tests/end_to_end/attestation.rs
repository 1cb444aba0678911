//! Documents of running enclaves, as our verifier, foreign verifiers and a foreign client see them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::parent::Enclave;
use tests::program::run;

use crate::images::text;
use crate::{Scene, Test};

pub(crate) const TESTS: &[Test] = &[
    ("documents_say_which_image_runs", documents_say_which_image_runs),
    ("foreign_verifiers_accept_documents_and_refuse_changed_ones", foreign_verifiers),
    ("a_foreign_client_calls_every_nsm_request", a_foreign_client_calls_every_nsm_request),
    ("a_debug_enclave_shows_zeros_and_is_refused", a_debug_enclave_shows_zeros_and_is_refused),
    ("a_rebuilt_image_is_the_one_that_runs", a_rebuilt_image_is_the_one_that_runs),
];

/// Where the NSM client of the tests listens.
const NSM_CLIENT_PORT: u32 = 5001;
const NONCE: &str = "00112233445566778899aabbccddeeff";

/// Fetches a document and has our verifier accept it with this PCR0; the file.
pub(crate) fn verified(scene: &Scene<'_>, enclave: &Enclave, pcr0: &str) -> Result<PathBuf> {
    let file = fetched(scene, enclave)?;
    verify(scene, &text(&file)?, &[&format!("0={pcr0}")], NONCE)?.success()?;
    Ok(file)
}

/// Fetches a document from the enclave's agent; the file.
fn fetched(scene: &Scene<'_>, enclave: &Enclave) -> Result<PathBuf> {
    let file = scene.parent.folder().join(format!("{}.document", enclave.id));
    let get = ["attestation", "get", "--enclave-id", &enclave.id, "--nonce", NONCE, "--output"];
    scene.parent.cli([&get[..], &[&text(&file)?]].concat())?.success()?;
    Ok(file)
}

fn verify(
    scene: &Scene<'_>,
    document: &str,
    pcrs: &[&str],
    nonce: &str,
) -> Result<tests::program::Finished> {
    let mut arguments =
        vec!["attestation", "verify", "--document", document, "--root", "local", "--nonce", nonce];
    for pcr in pcrs {
        arguments.extend(["--pcr", pcr]);
    }
    scene.parent.cli(arguments)
}

fn documents_say_which_image_runs(scene: &Scene<'_>) -> Result<()> {
    let (parent, image) = (scene.parent, &scene.images.hello);
    let enclave = parent.run_enclave(&image.path, &["--cpu-count", "1", "--memory", "128"])?;
    let file = verified(scene, &enclave, &image.pcr0)?;
    let path = text(&file)?;
    let by_image = [
        "attestation",
        "verify",
        "--document",
        &path,
        "--root",
        "local",
        "--eif",
        &text(&image.path)?,
    ];
    parent.cli(by_image)?.success()?;

    let wrong = "11".repeat(48);
    verify(scene, &path, &[&format!("0={wrong}")], NONCE)?
        .refused(1, &["PCR0", &wrong, &image.pcr0])?;
    verify(scene, &path, &[&format!("0={}", image.pcr0)], "ff")?.refused(1, &["nonce"])?;
    let by_aws = ["attestation", "verify", "--document", &path, "--root", "aws", "--any-image"];
    parent.cli(by_aws)?.refused(1, &["root"])?;
    let nothing_asked = ["attestation", "verify", "--document", &path, "--root", "local"];
    ensure!(parent.cli(nothing_asked)?.code != 0, "valid though nothing about the image was asked");

    let mut bytes = fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let changed = parent.folder().join("changed.document");
    fs::write(&changed, &bytes)?;
    verify(scene, &text(&changed)?, &[&format!("0={}", image.pcr0)], NONCE)?.refused(1, &[])?;

    let shown =
        parent.cli(["attestation", "show", "--document", &path, "--json"])?.success()?.json()?;
    ensure!(shown["module_id"] == enclave.id.as_str(), "module_id: {shown}");
    parent.terminate(&enclave)
}

/// What each foreign verifier says of a document.
fn foreign_opinions(scene: &Scene<'_>, document: &str, pcr0: &str) -> Result<Value> {
    let python = std::env::var("FOREIGN_PYTHON")
        .context("FOREIGN_PYTHON is not set: run this by `make test`")?;
    // The authority's root, exported by nothing but a copy of the document's own chain, would prove nothing: take the file.
    let root = scene.parent.folder().join("root.pem");
    fs::write(&root, scene.parent.shell("cat /var/lib/enclave/pki/root.pem")? + "\n")?;
    let mut command = Command::new(python);
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/foreign/verify.py"))
        .arg(document)
        .arg(&root)
        .arg(pcr0);
    run(command, b"", Duration::from_secs(60))?.success()?.json()
}

fn foreign_verifiers(scene: &Scene<'_>) -> Result<()> {
    let (parent, image) = (scene.parent, &scene.images.hello);
    let enclave = parent.run_enclave(&image.path, &["--cpu-count", "1", "--memory", "128"])?;
    let file = verified(scene, &enclave, &image.pcr0)?;
    let good = foreign_opinions(scene, &text(&file)?, &image.pcr0)?;
    let names: Vec<&String> = good.as_object().context("no opinions")?.keys().collect();
    ensure!(names.len() >= 2, "only {names:?} were asked");
    for name in &names {
        ensure!(good[name.as_str()]["accepted"] == true, "{name} refuses our document: {good}");
    }
    let document = fs::read(&file)?;
    // One bit in the signature, in the payload (a PCR), and in the leaf certificate.
    let pcr0 = hex::decode(&image.pcr0)?;
    let in_pcr0 =
        document.windows(48).position(|w| w == pcr0).context("PCR0 is not in the document")?;
    for (place, name) in [
        (document.len() - 1, "signature"),
        (in_pcr0 + 20, "PCR0"),
        (in_pcr0 + 48 * 18, "certificate"),
    ] {
        let mut changed = document.clone();
        changed[place] ^= 1;
        let path = parent.folder().join("changed.document");
        fs::write(&path, changed)?;
        let bad = foreign_opinions(scene, &text(&path)?, &image.pcr0)?;
        for verifier in &names {
            ensure!(
                bad[verifier.as_str()]["accepted"] == false,
                "{verifier} accepts a changed {name}"
            );
        }
    }
    let other = foreign_opinions(scene, &text(&file)?, &"22".repeat(48))?;
    for verifier in &names {
        ensure!(other[verifier.as_str()]["accepted"] == false, "{verifier} accepts another PCR0");
    }
    println!("foreign verifiers: {names:?}");
    parent.terminate(&enclave)
}

fn a_foreign_client_calls_every_nsm_request(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let image = &scene.images.nsm_client;
    let enclave = parent.run_enclave(&image.path, &["--cpu-count", "1", "--memory", "128"])?;
    let report = parent.ask(&enclave, NSM_CLIENT_PORT, "\n")?;
    let report: Value =
        serde_json::from_str(&report).with_context(|| format!("not JSON: {report}"))?;
    ensure!(
        report["failures"].as_array().is_some_and(Vec::is_empty),
        "the client is not content: {report:#}"
    );
    let calls = report["calls"].as_object().context("no calls")?;
    for request in [
        "DescribePCR",
        "ExtendPCR",
        "LockPCR",
        "LockPCRs",
        "DescribeNSM",
        "Attestation",
        "GetRandom",
    ] {
        ensure!(
            calls.get(request).and_then(Value::as_u64) > Some(0),
            "{request} was not called: {report:#}"
        );
    }
    let document = report["document"].as_str().context("no document")?;
    let file = parent.folder().join("client.document");
    fs::write(&file, document)?;
    let pcr0 = format!("0={}", image.pcr0);
    parent
        .cli([
            "attestation",
            "verify",
            "--document",
            &text(&file)?,
            "--root",
            "local",
            "--pcr",
            &pcr0,
        ])?
        .success()?;
    parent.terminate(&enclave)
}

fn a_debug_enclave_shows_zeros_and_is_refused(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let image = &scene.images.hello;
    let enclave = parent
        .run_enclave(&image.path, &["--cpu-count", "1", "--memory", "128", "--debug-mode"])?;
    let file = text(&fetched(scene, &enclave)?)?;
    verify(scene, &file, &[&format!("0={}", image.pcr0)], NONCE)?.refused(1, &["debug"])?;
    let allowed = [
        "attestation",
        "verify",
        "--document",
        &file,
        "--root",
        "local",
        "--any-image",
        "--allow-debug",
    ];
    parent.cli(allowed)?.success()?;
    parent.terminate(&enclave)
}

fn a_rebuilt_image_is_the_one_that_runs(scene: &Scene<'_>) -> Result<()> {
    let parent = scene.parent;
    let small = ["--cpu-count", "1", "--memory", "128"];
    let mut seen = Vec::new();
    for text in ["one", "two"] {
        // The same path both times, while the machine is up.
        let image =
            scene.images.script(parent, "rebuilt", &format!("echo {text}; exec sleep 1000\n"))?;
        let enclave = parent.run_enclave(&image.path, &small)?;
        verified(scene, &enclave, &image.pcr0)?;
        parent.terminate(&enclave)?;
        seen.push(image.pcr0);
    }
    ensure!(seen[0] != seen[1], "the image did not change");
    Ok(())
}
