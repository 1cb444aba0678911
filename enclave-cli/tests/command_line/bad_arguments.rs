//! Command lines that cannot work: nitro-cli's numbers for its commands, 2 for ours.

use crate::program::Bench;

#[test]
fn run_enclave_has_nitro_clis_numbers() {
    let bench = Bench::new();
    let run = |words: &[&str]| bench.run(&[&["run-enclave"], words].concat());
    run(&[]).refused(1, &["[ E01 ]", "--memory", "cli-errors.html#E01"]);
    run(&["--eif-path", "x", "--memory", "64"]).refused(1, &["[ E01 ]", "--cpu-count"]);
    run(&["--eif-path", "x", "--memory", "64", "--cpu-count", "1", "--cpu-ids", "2"])
        .refused(2, &["[ E02 ]"]);
    run(&["--config", "x", "--memory", "64"]).refused(2, &["[ E02 ]", "--config"]);
    run(&["--no-such-option"]).refused(3, &["[ E03 ]", "--no-such-option"]);
    let with = |words: &[&str]| run(&[&["--eif-path", "x", "--memory", "64"], words].concat());
    with(&["--cpu-count", "1", "--enclave-cid", "3"]).refused(3, &["[ E03 ]", "CID 3", "next:"]);
    with(&["--cpu-count", "1", "--enclave-cid", "4294967295"])
        .refused(3, &["[ E03 ]", "4294967295"]);
    with(&["--cpu-ids", "1", "1"]).refused(20, &["[ E20 ]", "CPU 1"]);
    with(&["--cpu-ids", "1", "b"]).refused(23, &["[ E23 ]", "b"]);
    with(&["--cpu-count", "0"]).refused(3, &["[ E03 ]"]);
    with(&["--cpu-count", "-1"]).refused(3, &["[ E03 ]"]);
    with(&["--cpu-count", "many"]).refused(47, &["[ E47 ]", "many"]);
    run(&["--eif-path", "x", "--memory", "1.5G", "--cpu-count", "1"])
        .refused(47, &["[ E47 ]", "1.5G"]);
    with(&["--cpu-count", "1"]).refused(19, &["[ E19 ]", "x"]);
}

#[test]
fn a_configuration_file_that_is_none() {
    let bench = Bench::new();
    let run = |text: &str| {
        let path = bench.file("config.json", text);
        bench.run(&["run-enclave", "--config", &path])
    };
    run("not json").refused(17, &["[ E17 ]", "config.json"]);
    run(r#"{"memory_mib": 64, "cpu_count": 1}"#).refused(17, &["eif_path"]);
    run(r#"{"memory_mib": 64, "eif_path": "x"}"#).refused(1, &["[ E01 ]", "cpu_count"]);
    run(r#"{"memory_mib": 64, "eif_path": "x", "cpu_count": 1, "cpu_ids": [2]}"#)
        .refused(2, &["[ E02 ]"]);
    bench
        .run(&["run-enclave", "--config", "/nonexistent.json"])
        .refused(19, &["/nonexistent.json"]);
}

#[test]
fn the_other_commands_of_nitro_cli() {
    let bench = Bench::new();
    bench.run(&["describe-eif"]).refused(1, &["[ E01 ]", "--eif-path"]);
    bench.run(&["pcr"]).refused(1, &["[ E01 ]"]);
    bench.run(&["pcr", "--input", "a", "--signing-certificate", "b"]).refused(2, &["[ E02 ]"]);
    bench.run(&["console"]).refused(1, &["[ E01 ]"]);
    bench.run(&["terminate-enclave"]).refused(1, &["[ E01 ]"]);
    bench.run(&["terminate-enclave", "--all", "--enclave-id", "x"]).refused(2, &["[ E02 ]"]);
    bench.run(&["explain"]).refused(1, &["[ E01 ]"]);
    bench.run(&["explain", "--error-code", "E99"]).refused(3, &["[ E03 ]", "E99"]);
    bench.run(&["build-enclave", "--output-file", "x"]).refused(1, &["[ E01 ]", "--oci-layout"]);
    bench.run(&["build-enclave", "--oci-layout", "d"]).refused(1, &["[ E01 ]", "--output-file"]);
    bench
        .run(&["build-enclave", "--rootfs", "d", "--output-file", "x"])
        .refused(1, &["[ E01 ]", "--cmd"]);
}

#[test]
fn docker_is_refused_with_the_way_round() {
    let bench = Bench::new();
    let ran =
        bench.run(&["build-enclave", "--docker-uri", "hello:latest", "--output-file", "x.eif"]);
    ran.refused(
        50,
        &["[ E50 ]", "hello:latest", "--oci-layout", "skopeo copy docker-daemon:hello:latest oci:"],
    );
    let ran = bench.run(&[
        "build-enclave",
        "--docker-uri",
        "hello",
        "--docker-dir",
        "d",
        "--output-file",
        "x.eif",
    ]);
    ran.refused(49, &["[ E49 ]", "--oci-layout"]);
}

#[test]
fn our_own_commands_use_two() {
    let bench = Bench::new();
    for words in [
        &["measure"][..],
        &["attestation"],
        &["attestation", "verify", "--document", "d", "--root", "aws"],
        &["connect", "--enclave-id", "x"],
        &["connect", "--enclave-id", "x", "port"],
        &["allocator", "apply", "--memory-mib", "64"],
        &["allocator", "apply", "--cpu-count", "1"],
        &["allocator", "apply", "--cpu-count", "1", "--cpu-pool", "2"],
        &["allocator", "apply", "--memory-mib", "much", "--cpu-count", "1"],
        &["machine", "start", "--cpus", "0"],
        &["machine", "start", "--memory", "x"],
        &["machine", "exec"],
        &["completions", "tcsh9"],
        &["doctor", "--fast"],
        &["no-such-command"],
    ] {
        let ran = bench.run(words);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{words:?}: {ran:?}");
        assert!(!ran.stderr.contains("panicked") && !ran.stderr.is_empty(), "{ran:?}");
    }
}

#[test]
fn help_is_no_error_and_has_examples() {
    let bench = Bench::new();
    let ran = bench.run(&["--help"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(ran.stdout.contains("A first tour"), "{ran:?}");
    let ran = bench.run(&["run-enclave", "--help"]);
    assert!(
        ran.code == 0
            && ran.stdout.contains("--attach-console")
            && ran.stdout.contains("Examples:"),
        "{ran:?}"
    );
    let ran = bench.run_as("nitro-cli", &["--version"]);
    assert_eq!(ran.code, 0);
}

#[test]
fn explain_completions_and_manual_pages() {
    let bench = Bench::new();
    let ran = bench.run(&["explain", "--error-code", "E27"]);
    assert!(ran.code == 0 && ran.stdout.contains("E27: Insufficient memory available"), "{ran:?}");
    assert!(ran.stdout.contains("allocator apply"), "{ran:?}");
    let ran = bench.run(&["completions", "bash"]);
    assert!(ran.code == 0 && ran.stdout.contains("run-enclave"), "{ran:?}");
    let folder = bench.path().join("man");
    let ran = bench.run(&["man", folder.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let page = std::fs::read_to_string(folder.join("enclave-cli-run-enclave.1")).unwrap();
    assert!(page.contains("attach\\-console"), "{page}");
}

#[test]
fn error_logs_are_written_for_nitro_cli_and_name_the_cause() {
    let bench = Bench::new();
    let ran = bench.run_as("nitro-cli", &["describe-eif", "--eif-path", "/nonexistent.eif"]);
    ran.refused(19, &["[ E19 ]", "/nonexistent.eif", "error log found at"]);
    let logs: Vec<_> = std::fs::read_dir(bench.path().join("state/logs")).unwrap().collect();
    assert_eq!(logs.len(), 1);
    let text = std::fs::read_to_string(logs[0].as_ref().unwrap().path()).unwrap();
    assert!(text.contains("[ E19 ]") && text.contains("Action: describe-eif"), "{text}");
    let quiet = bench.run(&["describe-eif", "--eif-path", "/nonexistent.eif"]);
    assert!(!quiet.stderr.contains("error log"), "{quiet:?}");
}

#[test]
fn without_enclaves_the_lists_are_empty_and_nothing_is_found() {
    let bench = Bench::new();
    let ran = bench.run(&["describe-enclaves"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "[]\n"), "{ran:?}");
    let ran = bench.run(&["terminate-enclave", "--all"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "[]\n"), "{ran:?}");
    let id = "i-0123456789abcdef0-enc0123456789abcdef";
    bench.run(&["terminate-enclave", "--enclave-id", id]).refused(58, &["[ E58 ]", id]);
    bench.run(&["console", "--enclave-name", "hello"]).refused(58, &["hello"]);
    bench.run(&["connect", "--enclave-id", id, "5000"]).refused(3, &[id]);
    bench.run(&["attestation", "get", "--enclave-id", id]).refused(3, &[id]);
}

#[test]
fn without_a_machine() {
    let bench = Bench::new();
    let ran = bench.run(&["machine", "status"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let status: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(status["Running"], false, "{ran:?}");
    bench.run(&["machine", "exec", "--", "true"]).refused(3, &["machine start"]);
    assert_eq!(bench.run(&["machine", "stop"]).code, 0, "stopping what does not run is no error");
}

#[test]
fn doctor_answers_in_both_forms() {
    let bench = Bench::new();
    let ran = bench.run(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let can = report["direct"] == true || report["machine"] == true;
    assert_eq!(ran.code, i32::from(!can), "{ran:?}");
    let checks = report["checks"].as_array().unwrap();
    for check in checks {
        assert!(
            check["verdict"] == "good" || check["mend"].as_str().is_some_and(|mend| mend.len() > 5),
            "{check}"
        );
    }
    for name in
        ["/dev/kvm", "cgroup v2 with cpuset", "huge pages (2 MiB)", "enclave-vmm", "authority"]
    {
        assert!(checks.iter().any(|check| check["name"] == name), "no {name}: {ran:?}");
    }
    assert!(bench.run(&["doctor"]).stdout.contains("/dev/kvm"));
}
