//! Whole builds from folders and layouts: what is in the image, that it is the same everywhere, and
//! that a refused one leaves nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::Eif;
use crate::cpio::tests::unpack;
use crate::oci::tests::layout::{Layer, archive, one_image, plain};

/// Kernel, init and a place for the output.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("bzImage"), "the kernel").unwrap();
        fs::write(
            folder.path().join("bzImage.config"),
            "#\n#\n# Linux/x86_64 6.12.57 Kernel Configuration\n",
        )
        .unwrap();
        fs::write(folder.path().join("init"), "the init").unwrap();
        fs::create_dir(folder.path().join("out")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn inputs(&self, source: Source) -> BuildInputs {
        BuildInputs {
            kernel: self.path("bzImage"),
            kernel_config: Some(self.path("bzImage.config")),
            cmdline: "console=ttyS0 \n".into(),
            init: self.path("init"),
            source,
            manifest: None,
            cmd: None,
            env: Vec::new(),
            name: None,
            version: None,
            custom_metadata: None,
            source_date_epoch: None,
            output: self.path("out/app.eif"),
            limits: Limits::DEFAULT,
        }
    }

    fn left_behind(&self) -> usize {
        fs::read_dir(self.path("out")).unwrap().count()
    }

    fn refusal(&self, inputs: &BuildInputs) -> Error {
        let error = build(inputs, &mut |_| {}).unwrap_err();
        assert_eq!(self.left_behind(), 0, "{error}");
        error
    }
}

/// A folder with one program and one link in it.
fn rootfs() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(folder.path().join("bin")).unwrap();
    let program = folder.path().join("bin/app");
    fs::write(&program, "#!program").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::hard_link(&program, folder.path().join("bin/same")).unwrap();
    std::os::unix::fs::symlink("bin/app", folder.path().join("run-me")).unwrap();
    folder
}

fn from_folder(bench: &Bench, folder: &TempDir) -> BuildInputs {
    let source = Source::Folder(folder.path().to_owned());
    BuildInputs { cmd: Some(vec!["/bin/app".into()]), ..bench.inputs(source) }
}

fn from_layout(bench: &Bench, layout: &Path) -> BuildInputs {
    let reference = OciReference { layout: layout.to_owned(), tag: None };
    bench.inputs(Source::OciLayout(reference))
}

#[test]
fn a_folder_becomes_an_image() {
    let (bench, folder) = (Bench::new(), rootfs());
    let mut told = Vec::new();
    let inputs = from_folder(&bench, &folder);
    let built = build(&inputs, &mut |progress| told.push(progress)).unwrap();
    let bytes = fs::read(&inputs.output).unwrap();
    let eif = Eif::parse(&bytes).unwrap();
    assert_eq!(Measurements::of(&eif).unwrap(), built.measurements);
    assert_eq!(built.size, bytes.len() as u64);
    assert_eq!((eif.kernel(), eif.cmdline()), (&b"the kernel"[..], &b"console=ttyS0"[..]));
    let ramdisks: Vec<_> = eif.ramdisks().map(unpack).collect();
    assert_eq!(ramdisks[0]["init"].data, b"the init");
    let app = &ramdisks[1];
    assert_eq!(
        String::from_utf8_lossy(&app["enclave.toml"].data),
        "cmd = [\"/bin/app\"]\nenv = []\nworkdir = \"/\"\nuser = \"0\"\n"
    );
    assert_eq!(app["rootfs/bin/same"].data, b"#!program");
    assert_eq!(app["rootfs/bin/same"].first_name, "rootfs/bin/app");
    assert_eq!(app["rootfs/bin/app"].owner, (0, 0));
    assert_eq!(app["rootfs/run-me"].data, b"bin/app");
    let whole = Progress::Writing { done: 9, total: 9 };
    assert_eq!(told.last(), Some(&whole));
    assert_eq!(bench.left_behind(), 1);
}

#[test]
fn the_label_names_what_went_in() {
    let (bench, folder) = (Bench::new(), rootfs());
    let custom = bench.path("custom.json");
    fs::write(&custom, r#"{"team":"blue"}"#).unwrap();
    let inputs = BuildInputs {
        custom_metadata: Some(custom),
        name: Some("hello".into()),
        source_date_epoch: Some("1700000000".into()),
        ..from_folder(&bench, &folder)
    };
    build(&inputs, &mut |_| {}).unwrap();
    let bytes = fs::read(&inputs.output).unwrap();
    let label: Value =
        serde_json::from_slice(Eif::parse(&bytes).unwrap().metadata().unwrap()).unwrap();
    let sha256 = |text: &str| hex::encode(digest(&SHA256, text.as_bytes()));
    let expected = json!({
        "ImageName": "hello",
        "ImageVersion": "1.0",
        "BuildMetadata": {
            "BuildTime": "2023-11-14T22:13:20Z",
            "BuildTool": "eif-builder",
            "BuildToolVersion": env!("CARGO_PKG_VERSION"),
            "OperatingSystem": "Linux",
            "KernelVersion": "6.12.57",
            "KernelSHA256": sha256("the kernel"),
            "InitSHA256": sha256("the init"),
        },
        "DockerInfo": null,
        "CustomMetadata": {"team": "blue"},
    });
    assert_eq!(label, expected);
}

#[test]
fn an_image_of_layers_runs_what_its_configuration_says() {
    let layers = [
        plain(&[("etc/passwd", "root:x:0:0::/:\napp:x:7:8::/:\n"), ("etc/group", "app:x:8:\n")]),
        Layer { archive: archive(&[("usr/bin/tool", "program")]), packing: "+gzip" },
    ];
    let config = json!({
        "Entrypoint": ["tool"], "Cmd": ["--all"], "Env": ["PATH=/usr/bin", "MODE=x"],
        "WorkingDir": "/var/lib/tool", "User": "app:app",
    });
    let layout = one_image(&layers, &config);
    let bench = Bench::new();
    let inputs = BuildInputs {
        env: vec!["MODE=y".into(), "NEW=1".into()],
        ..from_layout(&bench, layout.path())
    };
    let built = build(&inputs, &mut |_| {}).unwrap();
    assert_eq!(built.manifest.cmd, ["tool", "--all"]);
    assert_eq!(built.manifest.env, ["PATH=/usr/bin", "MODE=y", "NEW=1"]);
    assert_eq!(built.manifest.user, "app:app");
    assert_eq!(built.metadata.build_metadata.build_time, "2026-01-02T03:04:05Z");
    assert_eq!(built.metadata.image_version.len(), 64);
    let bytes = fs::read(&inputs.output).unwrap();
    let app = unpack(Eif::parse(&bytes).unwrap().ramdisks().nth(1).unwrap());
    // The working directory the image does not have is made.
    assert_eq!(app["rootfs/var/lib/tool"].mode, 0o040_755);
    assert_eq!(app["rootfs/usr/bin/tool"].owner, (7, 8));
    let manifest = Manifest::parse(&app["enclave.toml"].data).unwrap();
    assert_eq!(manifest, built.manifest);
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let first = {
        let (bench, folder) = (Bench::new(), rootfs());
        let inputs = BuildInputs { name: Some("n".into()), ..from_folder(&bench, &folder) };
        build(&inputs, &mut |_| {}).unwrap();
        fs::read(&inputs.output).unwrap()
    };
    // In another place, made in another order, touched later.
    let (bench, folder) = (Bench::new(), tempfile::tempdir().unwrap());
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("bin/app", folder.path().join("run-me")).unwrap();
    fs::create_dir(folder.path().join("bin")).unwrap();
    let same = folder.path().join("bin/same");
    fs::write(&same, "#!program").unwrap();
    fs::set_permissions(&same, fs::Permissions::from_mode(0o755)).unwrap();
    fs::hard_link(&same, folder.path().join("bin/app")).unwrap();
    let inputs = BuildInputs { name: Some("n".into()), ..from_folder(&bench, &folder) };
    build(&inputs, &mut |_| {}).unwrap();
    assert_eq!(fs::read(&inputs.output).unwrap(), first);
}

#[test]
fn a_manifest_file_overrides_the_image() {
    let (bench, folder) = (Bench::new(), rootfs());
    let manifest = bench.path("manifest.toml");
    fs::write(&manifest, "cmd = [\"/bin/same\", \"x\"]\nuser = \"5:6\"\n").unwrap();
    let inputs =
        BuildInputs { manifest: Some(manifest.clone()), cmd: None, ..from_folder(&bench, &folder) };
    let built = build(&inputs, &mut |_| {}).unwrap();
    assert_eq!(built.manifest.cmd, ["/bin/same", "x"]);
    assert_eq!(built.manifest.user, "5:6");
    fs::remove_file(&inputs.output).unwrap();

    fs::write(&manifest, "cmd = [\"/a\"]\n\nagnet = true\n").unwrap();
    let error = bench.refusal(&inputs);
    assert!(error.to_string().ends_with("manifest.toml"));
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.starts_with("manifest line 3: unknown field `agnet`"), "{cause}");
}

#[test]
fn refused_builds_leave_nothing() {
    let (bench, folder) = (Bench::new(), rootfs());
    let good = from_folder(&bench, &folder);
    let missing = |path: &str| BuildInputs { kernel: path.into(), ..good.clone() };
    assert!(matches!(bench.refusal(&missing("/nowhere/bzImage")), Error::Io { .. }));
    assert!(matches!(bench.refusal(&missing("/dev/null")), Error::NotRegular { .. }));
    let no_init = BuildInputs { init: folder.path().into(), ..good.clone() };
    assert!(matches!(bench.refusal(&no_init), Error::NotRegular { .. }));
    let two_lines = BuildInputs { cmdline: "a\nb".into(), ..good.clone() };
    assert!(bench.refusal(&two_lines).to_string().contains("one line"));
    let no_command = BuildInputs { cmd: None, ..good.clone() };
    assert!(matches!(bench.refusal(&no_command), Error::NoCommand));
    let no_source = BuildInputs { source: Source::Folder("/nowhere".into()), ..good.clone() };
    assert!(matches!(bench.refusal(&no_source), Error::Io { .. }));
    let file = BuildInputs { source: Source::Folder(bench.path("init")), ..good.clone() };
    assert!(matches!(bench.refusal(&file), Error::Unsupported { .. }));
    let when = BuildInputs { source_date_epoch: Some("soon".into()), ..good.clone() };
    assert!(bench.refusal(&when).to_string().starts_with("SOURCE_DATE_EPOCH `soon`"));
    let env = BuildInputs { env: vec!["X".into()], ..good.clone() };
    assert!(matches!(bench.refusal(&env), Error::Manifest(_)));

    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    assert!(bench.refusal(&good).to_string().ends_with("only a running program can make one"));
}

#[test]
fn what_would_fail_at_the_start_fails_here() {
    let (bench, folder) = (Bench::new(), rootfs());
    fs::write(folder.path().join("data"), "").unwrap();
    fs::set_permissions(folder.path().join("data"), fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::symlink("/gone", folder.path().join("dangling")).unwrap();
    let good = from_folder(&bench, &folder);
    let refusal = |cmd: &str, env: &[&str]| {
        let inputs = BuildInputs {
            cmd: Some(vec![cmd.into()]),
            env: env.iter().map(|text| (*text).to_owned()).collect(),
            ..good.clone()
        };
        bench.refusal(&inputs).to_string()
    };
    assert_eq!(
        refusal("/bin/nope", &[]),
        "command `/bin/nope` is not in the image; looked for `/bin/nope`, which is not there"
    );
    assert_eq!(
        refusal("nope", &["PATH=/bin:/x"]),
        "command `nope` is not in the image; looked for it in PATH /bin:/x"
    );
    assert!(
        refusal("nope", &[])
            .ends_with("in PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    );
    assert_eq!(
        refusal("/data", &[]),
        "command `/data` cannot be run: `/data` has mode 0644, no execute bit"
    );
    assert_eq!(
        refusal("data", &["PATH=/"]),
        "command `data` cannot be run: `/data` has mode 0644, no execute bit"
    );
    assert_eq!(refusal("/bin", &[]), "command `/bin` cannot be run: `/bin` is a folder");
    assert!(refusal("/dangling", &[]).ends_with("which is not there"));
    assert!(refusal("/data/x", &[]).ends_with("which goes through something that is not a folder"));

    let manifest = bench.path("manifest.toml");
    let with_manifest = |text: &str| {
        fs::write(&manifest, text).unwrap();
        bench.refusal(&BuildInputs { manifest: Some(manifest.clone()), ..good.clone() }).to_string()
    };
    assert_eq!(
        with_manifest("user = \"app\""),
        "`app` of user `app` is not in the image's /etc/passwd"
    );
    assert_eq!(
        with_manifest("user = \"0:staff\""),
        "`staff` of user `0:staff` is not in the image's /etc/group"
    );
    assert_eq!(
        with_manifest("workdir = \"/data\""),
        "working directory `/data`: it is a file in the image"
    );
    assert_eq!(
        with_manifest("workdir = \"/data/x\""),
        "working directory `/data/x`: it goes through something that is not a folder"
    );

    fs::write(folder.path().join("proc"), "").unwrap();
    assert_eq!(
        bench.refusal(&good).to_string(),
        "`/proc` in the image is a file; the enclave needs a folder there"
    );
}

#[test]
fn commands_are_found_as_init_finds_them() {
    let (bench, folder) = (Bench::new(), rootfs());
    let manifest = bench.path("manifest.toml");
    fs::write(&manifest, "workdir = \"/bin\"").unwrap();
    for (cmd, path) in
        [("app", "PATH=/x:"), ("./app", "PATH="), ("app", "PATH=../bin"), ("/run-me", "A=")]
    {
        let inputs = BuildInputs {
            manifest: Some(manifest.clone()),
            cmd: Some(vec![cmd.into()]),
            env: vec![path.into()],
            ..from_folder(&bench, &folder)
        };
        build(&inputs, &mut |_| {}).unwrap_or_else(|error| panic!("{cmd} {path}: {error}"));
    }
}
