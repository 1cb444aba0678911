//! The parent's kernel: Debian's generic 6.12 package, fetched and unpacked into the cache without
//! being installed, so the host's boot is never touched. Only the kernel image and the modules the
//! parent loads are kept, decompressed once here (under software emulation the guest would take
//! seconds to do it at every start).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::fcntl::{Flock, FlockArg};

use crate::Error;
use crate::module_file;

/// The kernel series known to work in the parent.
const SERIES: &str = "6.12";
/// Packages that name the current kernel of a Debian release, first match wins (bookworm-security;
/// trixie, whose default is this series).
const META_PACKAGES: [&str; 2] = ["linux-image-6.12-amd64", "linux-image-amd64"];
/// Raised when what is kept per kernel changes, so that older caches are made again.
const LAYOUT: u32 = 1;
/// Modules the parent loads. Those marked optional may fail to load (the other vendor's KVM).
/// Debian builds virtio-pci and virtio-console in; a kernel that has them as modules loads them.
const WANTED: [(&str, Need); 10] = [
    ("virtio_pci", Need::IfPresent),
    ("virtio_console", Need::IfPresent),
    ("9pnet_virtio", Need::Required),
    ("9p", Need::Required),
    ("overlay", Need::Required),
    ("kvm_amd", Need::MayFail),
    ("kvm_intel", Need::MayFail),
    ("vhost_vsock", Need::Required),
    ("vsock_loopback", Need::Required),
    ("tun", Need::MayFail),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// In the package, and must load.
    Required,
    /// In the package, but loading may fail.
    MayFail,
    /// Possibly built into the kernel instead.
    IfPresent,
}

/// A kernel ready to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParentKernel {
    /// Release, as `uname -r` will say.
    pub(crate) version: String,
    /// The bzImage.
    pub(crate) image: PathBuf,
    /// Modules in load order.
    pub(crate) modules: Vec<Module>,
}

/// One decompressed module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) required: bool,
}

/// Takes the newest kernel from `<cache>/parent-kernel`, or fetches one.
///
/// # Errors
/// [`Error::KernelPackageUnknown`], [`Error::Tool`] and [`Error::ToolMissing`] when it must be
/// fetched and cannot be; [`Error::ModuleMissing`], [`Error::Module`] when the package is not usable.
pub(crate) fn find_or_fetch(
    cache: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<ParentKernel, Error> {
    let store = cache.join("parent-kernel");
    fs::create_dir_all(&store).map_err(Error::file("create", &store))?;
    if let Some(kernel) = newest(&store)? {
        return Ok(kernel);
    }
    let lock_path = store.join("lock");
    let lock = fs::File::create(&lock_path).map_err(Error::file("create", &lock_path))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| Error::File {
        action: "lock",
        path: lock_path,
        source: errno.into(),
    })?;
    // Somebody else may have fetched it while this process waited.
    if let Some(kernel) = newest(&store)? {
        return Ok(kernel);
    }
    // Holding the lock, so whatever is here was left by a run that was cut short.
    let work = store.join("unfinished");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir(&work).map_err(Error::file("create", &work))?;
    let result = fetch(&store, &work, progress);
    let _ = fs::remove_dir_all(&work);
    result
}

fn newest(store: &Path) -> Result<Option<ParentKernel>, Error> {
    let mut best: Option<(Vec<u64>, String)> = None;
    for entry in fs::read_dir(store).map_err(Error::file("list", store))? {
        let entry = entry.map_err(Error::file("list", store))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let Some(version) = name.strip_suffix(&format!(".layout{LAYOUT}")) else { continue };
        let order = version_order(version);
        if best.as_ref().is_none_or(|(other, _)| order > *other) {
            best = Some((order, version.to_owned()));
        }
    }
    best.map(|(_, version)| open(store, &version)).transpose()
}

/// The numbers in a version, for comparing: `6.12.9` sorts before `6.12.117`.
fn version_order(version: &str) -> Vec<u64> {
    version
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn folder(store: &Path, version: &str) -> PathBuf {
    store.join(format!("{version}.layout{LAYOUT}"))
}

/// Reads a finished folder: `vmlinuz`, `load-order` (one name a line, `?` before one that may fail)
/// and `modules/<name>.ko`.
fn open(store: &Path, version: &str) -> Result<ParentKernel, Error> {
    let folder = folder(store, version);
    let order_path = folder.join("load-order");
    let order = fs::read_to_string(&order_path).map_err(Error::file("read", &order_path))?;
    let modules = order
        .lines()
        .map(|line| {
            let (name, required) =
                line.strip_prefix('?').map_or((line, true), |optional| (optional, false));
            let path = folder.join("modules").join(format!("{name}.ko"));
            Module { name: name.to_owned(), path, required }
        })
        .collect();
    Ok(ParentKernel { version: version.to_owned(), image: folder.join("vmlinuz"), modules })
}

fn fetch(store: &Path, work: &Path, progress: &mut dyn FnMut(&str)) -> Result<ParentKernel, Error> {
    let package = resolve_package()?;
    // "linux-image-6.12.1-amd64" holds kernel "6.12.1-amd64".
    let version = package.trim_start_matches("linux-image-").to_owned();
    progress(&format!("fetching {package} (about 100 MB, once; unpacked, not installed)"));
    run("apt-get", "apt", Command::new("apt-get").args(["download", &package]).current_dir(work))?;
    let archive = find_archive(work)?;
    progress(&format!("unpacking kernel {version}"));
    let tree = work.join("tree");
    let mut unpack = Command::new("dpkg-deb");
    run("dpkg-deb", "dpkg", unpack.arg("-x").arg(&archive).arg(&tree))?;

    let ready = work.join("ready");
    let modules_out = ready.join("modules");
    fs::create_dir_all(&modules_out).map_err(Error::file("create", &modules_out))?;
    let image = tree.join("boot").join(format!("vmlinuz-{version}"));
    fs::copy(&image, ready.join("vmlinuz")).map_err(Error::file("copy", &image))?;

    let mut packed = BTreeMap::new();
    // Debian 12 has /lib, merged-usr releases /usr/lib.
    for root in ["lib/modules", "usr/lib/modules"] {
        let folder = tree.join(root).join(&version).join("kernel");
        if folder.is_dir() {
            list_modules(&folder, &mut packed)?;
        }
    }
    let order = unpack_modules(&version, &packed, &modules_out)?;
    let order_path = ready.join("load-order");
    fs::write(&order_path, order).map_err(Error::file("write", &order_path))?;
    let finished = folder(store, &version);
    fs::rename(&ready, &finished).map_err(Error::file("create", &finished))?;
    open(store, &version)
}

/// The package that holds the kernel, by way of the packages that only point to it.
fn resolve_package() -> Result<String, Error> {
    let prefix = format!("linux-image-{SERIES}.");
    for meta in META_PACKAGES {
        let mut command = Command::new("apt-cache");
        // An unknown package is an error exit of apt-cache's; the next name may be known.
        let output = match run("apt-cache", "apt", command.args(["depends", meta])) {
            Ok(output) => output,
            Err(Error::Tool { .. }) => continue,
            Err(other) => return Err(other),
        };
        let listing = String::from_utf8_lossy(&output.stdout);
        let found = listing
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(&prefix));
        if let Some(name) = found {
            return Ok(name.to_owned());
        }
    }
    Err(Error::KernelPackageUnknown(SERIES))
}

fn find_archive(work: &Path) -> Result<PathBuf, Error> {
    for entry in fs::read_dir(work).map_err(Error::file("list", work))? {
        let path = entry.map_err(Error::file("list", work))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(path);
        }
    }
    Err(Error::Tool {
        program: "apt-get".to_owned(),
        status: "exit status: 0".to_owned(),
        message: "it downloaded nothing".to_owned(),
    })
}

fn list_modules(folder: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::file("list", folder))? {
        let entry = entry.map_err(Error::file("list", folder))?;
        let path = entry.path();
        if entry.file_type().map_err(Error::file("inspect", &path))?.is_dir() {
            list_modules(&path, found)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Some((stem, "ko" | "ko.xz" | "ko.zst")) = name.split_once('.')
        {
            found.insert(module_file::canonical(stem), path);
        }
    }
    Ok(())
}

/// Decompresses the wanted modules and all they need; returns the text of `load-order`.
fn unpack_modules(
    version: &str,
    packed: &BTreeMap<String, PathBuf>,
    out: &Path,
) -> Result<String, Error> {
    let wanted: Vec<&str> = WANTED
        .iter()
        .filter(|(name, need)| *need != Need::IfPresent || packed.contains_key(*name))
        .map(|(name, _)| *name)
        .collect();
    let mut depends = BTreeMap::new();
    let mut queue: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    while let Some(name) = queue.pop() {
        if depends.contains_key(&name) {
            continue;
        }
        let path = packed.get(&name).ok_or_else(|| Error::ModuleMissing {
            version: version.to_owned(),
            module: name.clone(),
        })?;
        let bytes = decompress(path)?;
        let needs = module_file::dependencies(&bytes)
            .map_err(|source| Error::Module { module: name.clone(), source })?;
        let file = out.join(format!("{name}.ko"));
        fs::write(&file, &bytes).map_err(Error::file("write", &file))?;
        queue.extend(needs.iter().cloned());
        depends.insert(name, needs);
    }
    let order = module_file::load_order(&wanted, &depends)
        .map_err(|source| Error::Module { module: wanted.join(","), source })?;
    // What only a module that may fail needs, may fail too.
    let required: Vec<&str> =
        WANTED.iter().filter(|(_, need)| *need == Need::Required).map(|(name, _)| *name).collect();
    let required = module_file::load_order(&required, &depends)
        .map_err(|source| Error::Module { module: required.join(","), source })?;
    let mut text = String::new();
    for name in order {
        if !required.contains(&name) {
            text.push('?');
        }
        text.push_str(&name);
        text.push('\n');
    }
    Ok(text)
}

fn decompress(path: &Path) -> Result<Vec<u8>, Error> {
    let (program, package) = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => ("xz", "xz-utils"),
        Some("zst") => ("zstd", "zstd"),
        _ => return fs::read(path).map_err(Error::file("read", path)),
    };
    run(program, package, Command::new(program).arg("-dc").arg(path)).map(|output| output.stdout)
}

/// Runs a tool to its end with its output kept.
fn run(program: &str, package: &'static str, command: &mut Command) -> Result<Output, Error> {
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output().map_err(|source| {
        if source.kind() == std::io::ErrorKind::NotFound {
            Error::ToolMissing { program: program.to_owned(), package }
        } else {
            Error::Stream { action: "run a tool that prepares the parent's kernel", source }
        }
    })?;
    if output.status.success() {
        return Ok(output);
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(Error::Tool {
        program: program.to_owned(),
        status: output.status.to_string(),
        message: message.lines().last().unwrap_or("it said nothing").trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(version_order("6.12.117+deb12-amd64") > version_order("6.12.95+deb12-amd64"));
        assert!(version_order("6.12.9-amd64") < version_order("6.12.10-amd64"));
    }

    #[test]
    fn the_newest_finished_kernel_is_taken() {
        let cache = tempfile::tempdir().unwrap();
        for version in ["6.12.95+deb12-amd64", "6.12.117+deb12-amd64"] {
            let folder = folder(cache.path(), version);
            fs::create_dir_all(folder.join("modules")).unwrap();
            fs::write(folder.join("load-order"), "vsock\n?kvm_amd\n").unwrap();
        }
        // Neither an older layout nor an unfinished one counts.
        fs::create_dir(cache.path().join("6.12.200-amd64.layout0")).unwrap();
        fs::create_dir(cache.path().join("unfinished")).unwrap();
        let kernel = newest(cache.path()).unwrap().unwrap();
        assert_eq!(kernel.version, "6.12.117+deb12-amd64");
        assert_eq!(kernel.modules.len(), 2);
        assert!(kernel.modules[0].required && !kernel.modules[1].required);
        assert!(kernel.modules[1].path.ends_with("modules/kvm_amd.ko"));
    }

    #[test]
    fn an_empty_store_has_none() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(newest(cache.path()).unwrap(), None);
    }

    #[test]
    fn a_missing_module_is_named() {
        let out = tempfile::tempdir().unwrap();
        let error = unpack_modules("6.12.1", &BTreeMap::new(), out.path()).unwrap_err();
        assert!(matches!(error, Error::ModuleMissing { .. }), "{error}");
    }
}
