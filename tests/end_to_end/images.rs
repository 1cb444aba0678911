//! The images that the tests run, built once: by the command line, from what ordinary tools make.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::parent::Parent;
use tests::program::run;

/// Debian's statically linked busybox: a shell and `nproc` for test images.
const BUSYBOX: &str = "/bin/busybox";

pub(crate) struct Images {
    folder: PathBuf,
    /// `examples/hello`, through an OCI layout.
    pub(crate) hello: Image,
    /// The unmodified NSM client crate, calling every request.
    pub(crate) nsm_client: Image,
}

/// An EIF and what its build printed.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) path: PathBuf,
    pub(crate) pcr0: String,
}

impl Images {
    pub(crate) fn build(parent: &Parent, programs: &Path) -> Result<Self> {
        let folder = parent.folder().join("images");
        fs::create_dir(&folder)?;
        let layout = folder.join("hello-oci");
        let mut maker =
            Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hello/make-oci-layout"));
        maker.arg(&layout).env("HELLO", programs.join("guest/hello"));
        run(maker, b"", Duration::from_secs(60))?.success()?;
        let start = Instant::now();
        let hello = build(parent, &folder, "hello", &["--oci-layout", &text(&layout)?])?;
        println!("hello.eif built in {:.2} s (goal: under 2 s)", start.elapsed().as_secs_f32());

        let rootfs = folder.join("nsm-client");
        put(&rootfs, "nsm-client", &programs.join("guest/nsm-client"))?;
        let manifest = manifest(&folder, "nsm-client", "cmd = [\"/nsm-client\"]\n")?;
        let nsm_client = build(
            parent,
            &folder,
            "nsm-client",
            &["--rootfs", &text(&rootfs)?, "--manifest", &text(&manifest)?],
        )?;
        Ok(Self { folder, hello, nsm_client })
    }

    /// An image whose application is a shell script.
    pub(crate) fn script(&self, parent: &Parent, name: &str, script: &str) -> Result<Image> {
        self.script_with(parent, name, script, &[])
    }

    /// The same with more arguments for `build-enclave`.
    pub(crate) fn script_with(
        &self,
        parent: &Parent,
        name: &str,
        script: &str,
        more: &[&str],
    ) -> Result<Image> {
        let rootfs = self.folder.join(format!("{name}-rootfs"));
        put(&rootfs, "bin/busybox", Path::new(BUSYBOX))?;
        fs::write(rootfs.join("script"), script)?;
        let manifest = manifest(
            &self.folder,
            name,
            "cmd = [\"/bin/busybox\", \"sh\", \"/script\"]\nenv = [\"PATH=/bin\"]\n",
        )?;
        let (rootfs, manifest) = (text(&rootfs)?, text(&manifest)?);
        build(
            parent,
            &self.folder,
            name,
            &[&["--rootfs", &rootfs, "--manifest", &manifest], more].concat(),
        )
    }
}

fn build(parent: &Parent, folder: &Path, name: &str, more: &[&str]) -> Result<Image> {
    let path = folder.join(format!("{name}.eif"));
    let output = text(&path)?;
    let built = parent
        .cli([&["build-enclave", "--output-file", &output], more].concat())?
        .success()?
        .json()?;
    let pcr0 =
        built["Measurements"]["PCR0"].as_str().context("build-enclave printed no PCR0")?.to_owned();
    ensure!(pcr0.len() == 96, "PCR0 is {pcr0}");
    Ok(Image { path, pcr0 })
}

fn put(rootfs: &Path, name: &str, from: &Path) -> Result<()> {
    let to = rootfs.join(name);
    fs::create_dir_all(to.parent().context("no folder")?)?;
    fs::copy(from, &to)
        .with_context(|| format!("{} is needed for a test image", from.display()))?;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn manifest(folder: &Path, name: &str, content: &str) -> Result<PathBuf> {
    let path = folder.join(format!("{name}.toml"));
    fs::write(&path, content)?;
    Ok(path)
}

pub(crate) fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path that is no text")?.to_owned())
}
