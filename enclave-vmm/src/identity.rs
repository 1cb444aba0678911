//! Who the parent is, and ids for enclaves. The parent's id takes the place of an EC2 instance id (it is measured into PCR4 and starts every
//! `module_id`): 17 hex digits of a hash of the machine id, because that file itself should not leave the machine.

use std::fs;
use std::path::Path;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::{Error, Result};
use crate::json_file;

const LABEL: &[u8] = b"nitro-enclaves parent id\0";

/// `i-<17 hex>`, the same for one machine for ever. Where there is no machine id, a random one is kept in `<state>/parent-id`.
///
/// # Errors
/// [`Error::File`], [`Error::System`].
pub fn parent_id(machine_id: &Path, state: &Path) -> Result<String> {
    let seed = match fs::read_to_string(machine_id) {
        Ok(text) if is_machine_id(text.trim()) => text.trim().to_owned(),
        _ => kept_seed(state)?,
    };
    let mut message = LABEL.to_vec();
    message.extend_from_slice(seed.as_bytes());
    let hex = hex::encode(digest(&SHA256, &message));
    Ok(format!("i-{}", hex.get(..17).unwrap_or_default()))
}

/// A fresh enclave id below `parent`.
///
/// # Errors
/// [`Error::System`].
pub fn fresh_enclave_id(parent: &str) -> Result<String> {
    Ok(format!("{parent}-enc{}", hex::encode(random::<8>()?)))
}

/// Whether `text` has the shape of an enclave id. Folder names and ids from users are checked with it before they become paths.
#[must_use]
pub fn is_enclave_id(text: &str) -> bool {
    let hex = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    text.strip_prefix("i-").and_then(|rest| rest.split_once("-enc")).is_some_and(
        |(parent, slot)| parent.len() == 17 && slot.len() == 16 && hex(parent) && hex(slot),
    )
}

fn is_machine_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn kept_seed(state: &Path) -> Result<String> {
    let path = state.join("parent-id");
    if let Ok(text) = fs::read_to_string(&path)
        && is_machine_id(text.trim())
    {
        return Ok(text.trim().to_owned());
    }
    let seed = hex::encode(random::<16>()?);
    json_file::make_folder(state, 0o755)?;
    json_file::write_bytes(&path, format!("{seed}\n").as_bytes(), 0o644)?;
    Ok(seed)
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0_u8; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::System {
        action: "get random bytes",
        source: std::io::ErrorKind::Other.into(),
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_id_is_stable_and_hides_the_machine_id() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("machine-id");
        fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
        let id = parent_id(&file, folder.path()).unwrap();
        assert_eq!(id, parent_id(&file, folder.path()).unwrap());
        assert_eq!(id.len(), 19);
        assert!(!id.contains("0123456789"));
        assert!(is_enclave_id(&fresh_enclave_id(&id).unwrap()));
    }

    #[test]
    fn without_a_machine_id_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none");
        let id = parent_id(&missing, folder.path()).unwrap();
        assert_eq!(id, parent_id(&missing, folder.path()).unwrap());
        let other = tempfile::tempdir().unwrap();
        assert_ne!(id, parent_id(&missing, other.path()).unwrap());
    }

    #[test]
    fn what_is_no_enclave_id_is_no_path() {
        assert!(is_enclave_id("i-0123456789abcdef0-enc0123456789abcdef"));
        for bad in ["", "..", "lock", "i-0123456789abcdef0-enc../../etc/passw", "i-0-enc1"] {
            assert!(!is_enclave_id(bad), "{bad}");
        }
    }
}
