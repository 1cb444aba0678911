//! One image from two clones of this repository, built in different surroundings from source: the same bytes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::program::run;

use crate::{Scene, Test};

pub(crate) const TESTS: &[Test] = &[(
    "two_clones_in_different_surroundings_give_one_image",
    two_clones_in_different_surroundings_give_one_image,
)];

/// Compiling init and hello from an empty target folder, on a slow machine.
const BUILD: Duration = Duration::from_secs(900);

fn two_clones_in_different_surroundings_give_one_image(scene: &Scene<'_>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let programs = tests::parent::programs()?;
    let mut images = Vec::new();
    for (place, umask, zone, clock) in [
        ("a", "022", "UTC", "2026-01-02 03:04:05"),
        ("b/deeper and deeper", "077", "Asia/Kathmandu", "2031-12-30 23:59:00"),
    ] {
        let home = folder.path().join(place);
        std::fs::create_dir_all(&home)?;
        let clone = home.join("clone");
        let script = format!(
            r#"set -e
umask {umask}
git clone -q {repository} "$HOME/clone"
cd "$HOME/clone"
# Each clone fetches crates into a folder of its own; what is already downloaded is not downloaded again.
mkdir -p "$CARGO_HOME/registry"
if [ -d "$DOWNLOADED/registry/cache" ]; then cp -r "$DOWNLOADED/registry/cache" "$DOWNLOADED/registry/index" "$CARGO_HOME/registry/"; fi
if [ -f "$DOWNLOADED/config.toml" ]; then cp "$DOWNLOADED/config.toml" "$CARGO_HOME/"; fi
./guest-build "$HOME/out"
export HELLO="$HOME/out/hello"
examples/hello/make-oci-layout "$HOME/hello-oci"
faketime '{clock}' "$CLI" build-enclave --oci-layout "$HOME/hello-oci" --init "$HOME/out/enclave-init" --output-file "$HOME/hello.eif" >&2
"#
        );
        let mut shell = Command::new("bash");
        let downloaded = std::env::var_os("CARGO_HOME").map_or_else(
            || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
            Into::into,
        );
        let rustup = std::env::var_os("RUSTUP_HOME").map_or_else(
            || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".rustup"),
            Into::into,
        );
        shell
            .args(["-c", &script])
            .env("DOWNLOADED", downloaded)
            .env("RUSTUP_HOME", rustup)
            .env("HOME", &home)
            .env("CARGO_HOME", home.join("cargo"))
            .env("TZ", zone)
            .env("CLI", programs.join("enclave-cli"))
            .env("ENCLAVE_BLOBS", programs.join("blobs"))
            .env("ENCLAVE_STATE_DIR", home.join("state"))
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS");
        run(shell, b"", BUILD)?.success().with_context(|| format!("in {}", clone.display()))?;
        images.push(std::fs::read(home.join("hello.eif"))?);
    }
    ensure!(images[0] == images[1], "the two images differ");
    let ours = std::fs::read(&scene.images.hello.path)?;
    ensure!(images[0] == ours, "the clones' image differs from the one built here");
    Ok(())
}
