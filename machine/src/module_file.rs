//! Reads what a kernel module says about itself. Debian's kernel package carries no `modules.dep`
//! (its post-install script makes one, and that script is never run here), so load order comes from
//! the `depends=` line in each module's own `.modinfo` section (ELF-64, little-endian).

use std::collections::{BTreeMap, BTreeSet};

/// Why a module file could not be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ModuleError {
    /// Not an ELF-64 little-endian object, or cut short.
    #[error("not a kernel module: {0}")]
    Malformed(&'static str),
    /// Modules that need each other cannot be loaded.
    #[error("kernel module {0} depends on itself")]
    Cycle(String),
}

/// The modules `module` (its ELF bytes) names in `depends=`, with `-` folded to `_` as the kernel does.
pub(crate) fn dependencies(module: &[u8]) -> Result<Vec<String>, ModuleError> {
    let info =
        section(module, b".modinfo")?.ok_or(ModuleError::Malformed("no .modinfo section"))?;
    let depends = info
        .split(|byte| *byte == 0)
        .find_map(|line| line.strip_prefix(b"depends="))
        .unwrap_or_default();
    let text =
        std::str::from_utf8(depends).map_err(|_| ModuleError::Malformed("depends= is not text"))?;
    Ok(text.split(',').filter(|name| !name.is_empty()).map(canonical).collect())
}

/// Whether `program` (ELF bytes) asks for a dynamic loader, which an initramfs does not have.
pub(crate) fn is_dynamic(program: &[u8]) -> Result<bool, ModuleError> {
    const PT_INTERP: u32 = 3;
    check_ident(program)?;
    let offset = to_usize(u64_at(program, 0x20)?)?;
    let (size, count) = (u16_at(program, 0x36)?, u16_at(program, 0x38)?);
    for index in 0..usize::from(count) {
        let header = offset
            .checked_add(index * usize::from(size))
            .ok_or(ModuleError::Malformed("program header out of range"))?;
        if u32_at(program, header)? == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Module names are compared with `-` and `_` alike.
pub(crate) fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Orders `wanted` and everything they need so that each comes after its dependencies.
/// `depends` maps every module involved to its direct dependencies.
pub(crate) fn load_order(
    wanted: &[&str],
    depends: &BTreeMap<String, Vec<String>>,
) -> Result<Vec<String>, ModuleError> {
    let mut order = Vec::new();
    let mut done = BTreeSet::new();
    for name in wanted {
        visit(&canonical(name), depends, &mut Vec::new(), &mut done, &mut order)?;
    }
    Ok(order)
}

fn visit(
    name: &str,
    depends: &BTreeMap<String, Vec<String>>,
    path: &mut Vec<String>,
    done: &mut BTreeSet<String>,
    order: &mut Vec<String>,
) -> Result<(), ModuleError> {
    if done.contains(name) {
        return Ok(());
    }
    if path.iter().any(|above| above == name) {
        return Err(ModuleError::Cycle(name.to_owned()));
    }
    path.push(name.to_owned());
    for needed in depends.get(name).into_iter().flatten() {
        visit(needed, depends, path, done, order)?;
    }
    path.pop();
    done.insert(name.to_owned());
    order.push(name.to_owned());
    Ok(())
}

fn section<'a>(file: &'a [u8], wanted: &[u8]) -> Result<Option<&'a [u8]>, ModuleError> {
    check_ident(file)?;
    let table = to_usize(u64_at(file, 0x28)?)?;
    let entry_size = usize::from(u16_at(file, 0x3a)?);
    let count = usize::from(u16_at(file, 0x3c)?);
    let names_index = usize::from(u16_at(file, 0x3e)?);
    let header = |index: usize| {
        table.checked_add(index * entry_size).ok_or(ModuleError::Malformed("section out of range"))
    };
    let body = |header: usize| -> Result<&'a [u8], ModuleError> {
        let start = to_usize(u64_at(file, header.saturating_add(0x18))?)?;
        let size = to_usize(u64_at(file, header.saturating_add(0x20))?)?;
        start
            .checked_add(size)
            .and_then(|end| file.get(start..end))
            .ok_or(ModuleError::Malformed("section out of range"))
    };
    let names = body(header(names_index)?)?;
    for index in 0..count {
        let at = header(index)?;
        let name = names
            .get(to_usize(u64::from(u32_at(file, at)?))?..)
            .ok_or(ModuleError::Malformed("section name out of range"))?;
        if name.split(|byte| *byte == 0).next() == Some(wanted) {
            return body(at).map(Some);
        }
    }
    Ok(None)
}

fn check_ident(file: &[u8]) -> Result<(), ModuleError> {
    // Magic, 64-bit class, little-endian.
    if file.get(..6) == Some(&[0x7f, b'E', b'L', b'F', 2, 1]) {
        Ok(())
    } else {
        Err(ModuleError::Malformed("not a 64-bit little-endian ELF file"))
    }
}

fn array_at<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N], ModuleError> {
    at.checked_add(N)
        .and_then(|end| file.get(at..end))
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(ModuleError::Malformed("cut short"))
}

fn u16_at(file: &[u8], at: usize) -> Result<u16, ModuleError> {
    array_at(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Result<u32, ModuleError> {
    array_at(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: usize) -> Result<u64, ModuleError> {
    array_at(file, at).map(u64::from_le_bytes)
}

fn to_usize(value: u64) -> Result<usize, ModuleError> {
    usize::try_from(value).map_err(|_| ModuleError::Malformed("offset too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest ELF object with a `.modinfo` section: header, two sections, their table.
    fn module(info: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut file = vec![0u8; 64];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        let info_at = file.len();
        file.extend_from_slice(info);
        let names_at = file.len();
        file.extend_from_slice(names);
        let table = file.len();
        file[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        file[0x3a..0x3c].copy_from_slice(&64u16.to_le_bytes());
        file[0x3c..0x3e].copy_from_slice(&2u16.to_le_bytes());
        file[0x3e..0x40].copy_from_slice(&1u16.to_le_bytes());
        for (name, at, size) in [(1u32, info_at, info.len()), (10, names_at, names.len())] {
            let mut header = vec![0u8; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            file.extend_from_slice(&header);
        }
        file
    }

    #[test]
    fn dependencies_come_from_modinfo() {
        let file = module(b"license=GPL\0depends=kvm,ccp\0name=kvm_amd\0");
        assert_eq!(dependencies(&file).unwrap(), ["kvm", "ccp"]);
        assert_eq!(dependencies(&module(b"depends=\0")).unwrap(), [""; 0]);
        assert_eq!(dependencies(&module(b"depends=snd-pcm\0")).unwrap(), ["snd_pcm"]);
    }

    #[test]
    fn a_module_cut_anywhere_is_refused_not_a_panic() {
        let file = module(b"depends=kvm,ccp\0");
        for length in 0..file.len() {
            // Cut inside the last section header's unused tail, a module still reads the same.
            if let Ok(found) = dependencies(&file[..length]) {
                assert_eq!(found, ["kvm", "ccp"]);
            }
        }
        assert!(dependencies(b"").is_err());
        assert!(dependencies(&file[..70]).is_err());
    }

    #[test]
    fn order_puts_dependencies_first_and_each_once() {
        let depends = BTreeMap::from([
            ("vhost_vsock".to_owned(), vec!["vhost".to_owned(), "vsock".to_owned()]),
            ("vhost".to_owned(), vec!["vhost_iotlb".to_owned()]),
            ("vsock_loopback".to_owned(), vec!["vsock".to_owned()]),
        ]);
        let order = load_order(&["vhost_vsock", "vsock_loopback", "kvm-amd"], &depends).unwrap();
        assert_eq!(
            order,
            ["vhost_iotlb", "vhost", "vsock", "vhost_vsock", "vsock_loopback", "kvm_amd"]
        );
    }

    #[test]
    fn a_cycle_is_an_error() {
        let depends = BTreeMap::from([
            ("a".to_owned(), vec!["b".to_owned()]),
            ("b".to_owned(), vec!["a".to_owned()]),
        ]);
        assert_eq!(load_order(&["a"], &depends), Err(ModuleError::Cycle("a".to_owned())));
    }

    #[test]
    fn this_test_is_recognised_as_dynamic_or_not() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(is_dynamic(&own).unwrap(), !cfg!(target_feature = "crt-static"));
    }
}
