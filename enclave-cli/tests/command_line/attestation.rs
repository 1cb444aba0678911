//! Verifying and showing documents that AWS made (the attestation crate's test data), at their own time and at others.

use crate::program::Bench;

const PRODUCTION: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../attestation/testdata/01-prod-userdata-nonce.cbor");
const DEBUG: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../attestation/testdata/04-debug-mode.b64");
const ROOT: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../attestation/testdata/aws-nitro-root-g1.pem");

fn verify(bench: &Bench, document: &str, more: &[&str]) -> crate::program::Ran {
    bench.run(&[&["attestation", "verify", "--document", document], more].concat())
}

#[test]
fn awss_document_at_its_own_time() {
    let bench = Bench::new();
    for root in ["aws", ROOT] {
        let ran =
            verify(&bench, PRODUCTION, &["--root", root, "--any-image", "--time", "document"]);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
        for word in ["valid: i-", "not checked: nonce", "not checked: age", "not checked: identity"]
        {
            assert!(ran.stdout.contains(word), "no {word:?} in {ran:?}");
        }
    }
    let ran = verify(
        &bench,
        PRODUCTION,
        &["--root", "aws", "--any-image", "--time", "2022-11-09T22:52:00Z", "--json"],
    );
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (ran.code, &answer["valid"], &answer["root"]),
        (0, &true.into(), &"aws".into()),
        "{ran:?}"
    );
    assert_eq!(answer["unchecked"], serde_json::json!(["nonce", "age", "image"]));
}

#[test]
fn its_registers_and_nonce_are_compared() {
    let bench = Bench::new();
    let shown = bench.run(&["attestation", "show", "--document", PRODUCTION, "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    let pcr0 = format!("0={}", shown["pcrs"]["0"].as_str().unwrap());
    let nonce = shown["nonce"]["hex"].as_str().unwrap().to_owned();
    let at_its_time = ["--root", "aws", "--time", "document"];
    let with = |more: &[&str]| verify(&bench, PRODUCTION, &[&at_its_time[..], more].concat());
    assert_eq!(with(&["--pcr", &pcr0, "--nonce", &nonce]).code, 0);
    let other = format!("0={}", "11".repeat(48));
    with(&["--pcr", &other]).refused(1, &["pcr-mismatch", "PCR0", &"11".repeat(48)]);
    with(&["--pcr", &pcr0, "--nonce", "00"]).refused(1, &["nonce-mismatch"]);
    with(&["--pcr", "16=zz"]).refused(2, &["16=zz"]);
    with(&["--pcr", &pcr0, "--pcr", &pcr0]).refused(2, &["PCR0"]);
    with(&["--pcr", &pcr0, "--nonce", "0"]).refused(2, &["nonce"]);
}

#[test]
fn at_any_other_time_it_is_refused() {
    let bench = Bench::new();
    verify(&bench, PRODUCTION, &["--root", "aws", "--any-image"])
        .refused(1, &["refused (expired)", "--time document"]);
    verify(&bench, PRODUCTION, &["--root", "aws", "--any-image", "--time", "2022-11-08T00:00:00Z"])
        .refused(1, &["refused (not-yet-valid)"]);
    let ran = verify(&bench, PRODUCTION, &["--root", "aws", "--any-image", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (ran.code, ran.stderr.as_str(), &answer["reason"]),
        (1, "", &"expired".into()),
        "{ran:?}"
    );
    verify(&bench, PRODUCTION, &["--root", "aws", "--any-image", "--time", "soon"])
        .refused(2, &["soon"]);
}

#[test]
fn a_debug_enclave_only_where_allowed() {
    let bench = Bench::new();
    let base = ["--root", "aws", "--any-image", "--time", "document"];
    verify(&bench, DEBUG, &base).refused(1, &["debug-enclave", "--allow-debug"]);
    let ran = verify(&bench, DEBUG, &[&base[..], &["--allow-debug"]].concat());
    assert!(ran.code == 0 && ran.stdout.contains("debug mode"), "{ran:?}");
}

#[test]
fn one_changed_bit_or_another_root_is_a_no() {
    let bench = Bench::new();
    let mut document = std::fs::read(PRODUCTION).unwrap();
    let last = document.len() - 1;
    document[last] ^= 1;
    let changed = bench.file("changed", &document);
    verify(&bench, &changed, &["--root", "aws", "--any-image", "--time", "document"])
        .refused(1, &["document-signature"]);
    let cut = bench.file("cut", &document[..last]);
    verify(&bench, &cut, &["--root", "aws", "--any-image", "--time", "document"])
        .refused(1, &["refused ("]);
}

#[test]
fn what_cannot_be_read_is_neither_yes_nor_no() {
    let bench = Bench::new();
    verify(&bench, "/nonexistent", &["--root", "aws", "--any-image"]).refused(3, &["/nonexistent"]);
    verify(&bench, PRODUCTION, &["--root", "/nonexistent.pem", "--any-image"])
        .refused(3, &["/nonexistent.pem"]);
    verify(&bench, PRODUCTION, &["--root", PRODUCTION, "--any-image"])
        .refused(3, &["no root certificate"]);
    verify(&bench, PRODUCTION, &["--root", "local", "--any-image"])
        .refused(3, &["no authority", "run-enclave"]);
    verify(&bench, PRODUCTION, &["--root", "aws", "--eif", PRODUCTION])
        .refused(3, &["no", "image"]);
}

#[test]
fn show_tells_every_field() {
    let bench = Bench::new();
    let ran = bench.run(&["attestation", "show", "--document", PRODUCTION, "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(ran.code, 0);
    assert!(shown["module_id"].as_str().is_some_and(|id| id.starts_with("i-")), "{shown}");
    for key in [
        "digest",
        "timestamp",
        "pcrs",
        "certificate",
        "cabundle",
        "public_key",
        "user_data",
        "nonce",
    ] {
        assert!(shown.get(key).is_some(), "no {key}: {shown}");
    }
    let ran = bench.run(&["attestation", "show", "--document", DEBUG]);
    assert!(ran.code == 0 && ran.stdout.contains("PCR0"), "{ran:?}");
    let nonsense = bench.file("nonsense", [0x84, 0, 1]);
    bench.run(&["attestation", "show", "--document", &nonsense]).refused(1, &["nonsense"]);
}
