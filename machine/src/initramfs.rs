//! The parent's initial root file system: the agent as `/init`, the kernel modules it loads, and the
//! order to load them in. Made afresh at every start; it is a few megabytes.

use std::fs;
use std::path::Path;

use crate::Error;
use crate::cpio::Archive;
use crate::module_file;
use crate::parent_kernel::Module;

/// Where the agent finds the list of modules: one path a line, `?` before one that may fail.
pub const MODULE_LIST: &str = "/modules/list";

/// Builds the archive.
///
/// # Errors
/// [`Error::AgentMissing`] and [`Error::AgentNotStatic`] for a wrong agent; [`Error::File`] when a
/// module cannot be read.
pub(crate) fn build(agent: &Path, modules: &[Module]) -> Result<Vec<u8>, Error> {
    let program = fs::read(agent).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::AgentMissing(agent.to_owned()),
        _ => Error::File { action: "read", path: agent.to_owned(), source },
    })?;
    if !matches!(module_file::is_dynamic(&program), Ok(false)) {
        return Err(Error::AgentNotStatic(agent.to_owned()));
    }
    let mut archive = Archive::default();
    archive.directory("dev");
    // The kernel opens this for init's standard streams, before anything is mounted.
    archive.character_device("dev/console", 5, 1);
    archive.directory("modules");
    let mut list = String::new();
    for module in modules {
        let bytes = fs::read(&module.path).map_err(Error::file("read", &module.path))?;
        archive.file(&format!("modules/{}.ko", module.name), 0o644, &bytes);
        let mark = if module.required { "" } else { "?" };
        list.push_str(&format!("{mark}/modules/{}.ko\n", module.name));
    }
    archive.file(MODULE_LIST.trim_start_matches('/'), 0o644, list.as_bytes());
    archive.file("init", 0o755, &program);
    Ok(archive.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_dynamic_agent_is_refused() {
        let error = build(Path::new("/nonexistent/agent"), &[]).unwrap_err();
        assert!(matches!(error, Error::AgentMissing(_)));
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("agent");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(matches!(build(&script, &[]).unwrap_err(), Error::AgentNotStatic(_)));
    }

    #[test]
    fn modules_are_listed_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let agent = folder.path().join("agent");
        // The least of a static ELF program: a header that announces no program headers.
        let mut elf = vec![0u8; 64];
        elf[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        fs::write(&agent, elf).unwrap();
        let modules: Vec<Module> = [("vsock", true), ("kvm_amd", false)]
            .map(|(name, required)| {
                let path = folder.path().join(name);
                fs::write(&path, name).unwrap();
                Module { name: name.to_owned(), path, required }
            })
            .into();
        let bytes = build(&agent, &modules).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("/modules/vsock.ko\n?/modules/kvm_amd.ko\n"));
    }
}
