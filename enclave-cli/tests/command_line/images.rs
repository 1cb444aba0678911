//! Enclave images, good and damaged, given to the commands that read them.

use crate::program::Bench;

/// The image of the specification's test vector (nitro.md 12): kernel, command line, metadata and two ramdisks of a few bytes.
fn vector() -> Vec<u8> {
    let sections: [(u16, &[u8]); 5] =
        [(1, b"kernel"), (2, b"cmdline"), (5, b"{}"), (3, b"ramdisk1"), (3, b"ramdisk2")];
    let mut header = Vec::from(*b".eif\0\x04\0\0\0\0\0\0\x40\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\x05");
    let (mut offsets, mut sizes, mut data) = ([0_u64; 32], [0_u64; 32], Vec::new());
    for (index, (kind, bytes)) in sections.iter().enumerate() {
        offsets[index] = 548 + data.len() as u64;
        sizes[index] = bytes.len() as u64;
        data.extend(kind.to_be_bytes());
        data.extend([0, 0]);
        data.extend((bytes.len() as u64).to_be_bytes());
        data.extend(*bytes);
    }
    for number in offsets.into_iter().chain(sizes) {
        header.extend(number.to_be_bytes());
    }
    header.extend([0; 4]);
    let crc = crc32(header.iter().chain(&data));
    header.extend(crc.to_be_bytes());
    header.extend(data);
    header
}

/// CRC-32/ISO-HDLC, bit by bit.
fn crc32<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

const PCR0: &str = "b42aad6f7306d31fcdd5acecf765a6db40523d2a7d8150ed99a7983cf395c2b8d0dfb3217ef2fef5f6baec704c1b16d0";
const PCR1: &str = "ffebd63c5a6729958c397a752ac494ce52b7a5d0703121f4e09105c6cbe82bfdee594a2baae6780e8559d5013120844f";
const PCR2: &str = "7c364ca068df83f436472fb4e895df77b50803fd100676adfbf440e2e2389534aa641a512463e302e1c01c9023526e8c";

#[test]
fn measure_prints_the_vectors() {
    let bench = Bench::new();
    let image = vector();
    assert_eq!(image.len(), 639);
    let path = bench.file("vector.eif", image);
    let ran = bench.run(&["measure", "--eif-path", &path]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let expected = format!(
        "{{\n  \"Measurements\": {{\n    \"HashAlgorithm\": \"Sha384 {{ ... }}\",\n    \"PCR0\": \"{PCR0}\",\n    \
         \"PCR1\": \"{PCR1}\",\n    \"PCR2\": \"{PCR2}\"\n  }}\n}}\n"
    );
    assert_eq!(ran.stdout, expected);
}

#[test]
fn describe_eif_has_nitro_clis_fields() {
    let bench = Bench::new();
    let path = bench.file("vector.eif", vector());
    let ran = bench.run(&["describe-eif", "--eif-path", &path]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let described: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(described["EifVersion"], 4);
    assert_eq!(described["Measurements"]["PCR0"], PCR0);
    assert_eq!(described["IsSigned"], false);
    assert_eq!(described["CheckCRC"], true);
    assert!(described.get("SigningCertificate").is_none(), "{described}");
}

#[test]
fn describe_eif_shows_a_wrong_checksum_and_measure_refuses_it() {
    let bench = Bench::new();
    let mut image = vector();
    image[0x220] ^= 1;
    let path = bench.file("crc.eif", image);
    let ran = bench.run(&["describe-eif", "--eif-path", &path]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let described: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(described["CheckCRC"], false);
    bench.run(&["measure", "--eif-path", &path]).refused(1, &["crc.eif", "5cfbe11d"]);
    bench
        .run(&["run-enclave", "--eif-path", &path, "--cpu-count", "1", "--memory", "64"])
        .refused(35, &["[ E35 ]", "5cfbe11d"]);
}

#[test]
fn an_image_cut_anywhere_is_refused_by_every_command() {
    let bench = Bench::new();
    let image = vector();
    for length in [0, 1, 4, 5, 26, 100, 547, 548, 559, 565, 566, 600, 638] {
        let path = bench.file("cut.eif", &image[..length]);
        bench
            .run(&["describe-eif", "--eif-path", &path])
            .refused(35, &["[ E35 ]", "cut.eif", "next:"]);
        bench.run(&["measure", "--eif-path", &path]).refused(1, &["cut.eif"]);
        bench
            .run(&["run-enclave", "--eif-path", &path, "--cpu-count", "1", "--memory", "64"])
            .refused(35, &["[ E35 ]", "cut.eif"]);
    }
}

#[test]
fn sizes_that_lie_are_refused_whatever_the_checksum_says() {
    let bench = Bench::new();
    for (at, value) in [
        (0x11c + 7, 9_u8),
        (548 + 11, 9),
        (548 + 4, 0xff),
        (0x1c, 0x7f),
        (0x1b, 33),
        (0x1b, 4),
        (549, 6),
        (5, 9),
        (7, 4),
    ] {
        let mut image = vector();
        image[at] = value;
        let crc = crc32(image[..0x220].iter().chain(&image[548..]));
        image[0x220..0x224].copy_from_slice(&crc.to_be_bytes());
        let path = bench.file("lies.eif", image);
        bench
            .run(&["run-enclave", "--eif-path", &path, "--cpu-count", "1", "--memory", "64"])
            .refused(35, &["[ E35 ]", "lies.eif"]);
    }
}

#[test]
fn pcr_of_a_file() {
    let bench = Bench::new();
    let path = bench.file("ramdisk2", "ramdisk2");
    let ran = bench.run(&["pcr", "--input", &path]);
    // One ramdisk alone is what PCR2 of the vector is made of.
    assert_eq!((ran.code, ran.stdout), (0, format!("{{\n  \"PCR\": \"{PCR2}\"\n}}\n")));
    bench.run(&["pcr", "--input", "/nonexistent"]).refused(19, &["/nonexistent"]);
    bench.run(&["pcr", "--signing-certificate", &path]).refused(3, &["ramdisk2"]);
}

#[test]
fn blobs_that_are_not_there_are_named() {
    let bench = Bench::new();
    let rootfs = bench.path().join("rootfs");
    std::fs::create_dir(&rootfs).unwrap();
    std::fs::write(rootfs.join("app"), "x").unwrap();
    let output = bench.path().join("x.eif");
    let ran = bench.run(&[
        "build-enclave",
        "--rootfs",
        rootfs.to_str().unwrap(),
        "--cmd",
        "/app",
        "--output-file",
        output.to_str().unwrap(),
    ]);
    ran.refused(52, &["[ E52 ]", "bzImage", "ENCLAVE_BLOBS"]);
    assert!(!output.exists());
}

/// A folder with an application, and stand-ins for kernel and init: building looks at neither.
fn build_words(bench: &Bench, output: &str, more: &[&str]) -> Vec<String> {
    let rootfs = bench.path().join("rootfs");
    let _ = std::fs::create_dir(&rootfs);
    std::fs::write(rootfs.join("app"), "#!/bin/true\n").unwrap();
    std::fs::set_permissions(
        rootfs.join("app"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let kernel = bench.file("bzImage", "kernel");
    bench.file("bzImage.config", "#\n# x\n# Linux/x86 6.12.57 Kernel Configuration\n");
    let cmdline = bench.file("cmdline", "console=ttyS0\n");
    let init = bench.file("init", "init");
    let output = bench.path().join(output);
    let words = [
        "build-enclave",
        "--rootfs",
        rootfs.to_str().unwrap(),
        "--output-file",
        output.to_str().unwrap(),
        "--kernel",
        &kernel,
        "--cmdline",
        &cmdline,
        "--init",
        &init,
    ];
    words.iter().chain(more).map(|word| (*word).to_owned()).collect()
}

#[test]
fn an_image_that_is_built_is_described_and_measured_alike() {
    let bench = Bench::new();
    let ran = bench.run(&build_words(
        &bench,
        "a.eif",
        &["--cmd", "/app", "--env", "A=b", "--name", "hello", "--version", "7"],
    ));
    assert_eq!(ran.code, 0, "{ran:?}");
    for line in ["Start building the Enclave Image...", "Enclave Image successfully created."] {
        assert!(ran.stderr.lines().any(|said| said == line), "no {line:?} in {ran:?}");
    }
    let built: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let path = bench.path().join("a.eif");
    let path = path.to_str().unwrap();
    assert_eq!(bench.run(&["measure", "--eif-path", path]).stdout, ran.stdout);
    let described = bench.run(&["describe-eif", "--eif-path", path]);
    let described: serde_json::Value = serde_json::from_str(&described.stdout).unwrap();
    assert_eq!(described["Measurements"], built["Measurements"]);
    assert_eq!(
        (&described["ImageName"], &described["ImageVersion"]),
        (&"hello".into(), &"7".into())
    );
    assert_eq!(described["Metadata"]["KernelVersion"], "6.12.57");
    assert_eq!(described["CheckCRC"], true);

    let again = bench.run(&build_words(
        &bench,
        "b.eif",
        &["--cmd", "/app", "--env", "A=b", "--name", "hello", "--version", "7"],
    ));
    assert_eq!(again.stdout, ran.stdout);
    assert_eq!(std::fs::read(path).unwrap(), std::fs::read(bench.path().join("b.eif")).unwrap());
}

#[test]
fn builds_that_cannot_work_leave_what_was_there() {
    let bench = Bench::new();
    bench.file("a.eif", "precious");
    let build = |more: &[&str]| bench.run(&build_words(&bench, "a.eif", more));
    build(&["--cmd", "/not-there"]).refused(48, &["[ E48 ]", "/not-there", "next:"]);
    build(&["--cmd", "/app", "--env", "novalue"]).refused(3, &["[ E03 ]", "novalue"]);
    build(&["--cmd", "/app", "--max-unpacked", "much"]).refused(47, &["[ E47 ]", "much"]);
    build(&["--manifest", "/nonexistent.toml"]).refused(19, &["[ E19 ]", "/nonexistent.toml"]);
    let manifest = bench.file("m.toml", "cmd = 7\n");
    build(&["--manifest", &manifest]).refused(48, &["[ E48 ]", "m.toml"]);
    let layout = bench.path().join("no-layout");
    std::fs::create_dir(&layout).unwrap();
    let words = build_words(&bench, "a.eif", &[]);
    let words = words.iter().map(|word| if word == "--rootfs" { "--oci-layout" } else { word });
    let words: Vec<&str> = words
        .map(|word| if word.ends_with("/rootfs") { layout.to_str().unwrap() } else { word })
        .collect();
    let ran = bench.run(&words);
    assert!(matches!(ran.code, 19 | 48), "{ran:?}");
    ran.refused(ran.code, &["no-layout", "next:"]);
    assert_eq!(std::fs::read(bench.path().join("a.eif")).unwrap(), b"precious");
    let partial = std::fs::read_dir(bench.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("partial"));
    assert_eq!(partial.count(), 0);
}
