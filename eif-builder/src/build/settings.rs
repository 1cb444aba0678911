//! The manifest of an image: what the image says, under what the manifest file says, under what the
//! command line says. The command is replaced as a whole, variables one by one.

use std::path::Path;

use guest_abi::manifest::{MAX_LEN, Manifest, ManifestError, PartialManifest};

use crate::Error;
use crate::input::read_bounded;

/// Reads a manifest file.
pub(super) fn read_file(path: &Path) -> Result<PartialManifest, Error> {
    let bytes = read_bounded(path, MAX_LEN as u64)?;
    PartialManifest::parse(&bytes)
        .map_err(|source| Error::ManifestFile { path: path.to_owned(), source })
}

/// Puts the three together.
pub(super) fn manifest(
    image: PartialManifest,
    file: PartialManifest,
    cmd: Option<&[String]>,
    env: &[String],
) -> Result<Manifest, Error> {
    let cmd = cmd.map(<[String]>::to_vec).or(file.cmd).or(image.cmd).unwrap_or_default();
    if cmd.is_empty() {
        return Err(Error::NoCommand);
    }
    let mut manifest = Manifest::new(cmd);
    for entry in image.env.iter().chain(&file.env).chain(env) {
        set(&mut manifest.env, entry)?;
    }
    if let Some(workdir) = file.workdir.or(image.workdir) {
        manifest.workdir = workdir;
    }
    if let Some(user) = file.user.or(image.user) {
        manifest.user = user;
    }
    manifest.validate().map_err(Error::Manifest)?;
    Ok(manifest)
}

/// Sets a variable in its old place, or behind the others.
fn set(env: &mut Vec<String>, entry: &str) -> Result<(), Error> {
    let Some((name, _)) = entry.split_once('=') else {
        return Err(Error::Manifest(ManifestError::Variable { entry: entry.to_owned() }));
    };
    let same = |old: &&mut String| old.split_once('=').is_some_and(|(key, _)| key == name);
    match env.iter_mut().find(same) {
        Some(old) => entry.clone_into(old),
        None => env.push(entry.to_owned()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn image() -> PartialManifest {
        PartialManifest {
            cmd: Some(texts(&["/app", "serve"])),
            env: texts(&["PATH=/bin", "A=1", "A=2"]),
            workdir: Some("/srv".into()),
            user: Some("app".into()),
        }
    }

    #[test]
    fn takes_what_the_image_says() {
        let manifest = manifest(image(), PartialManifest::default(), None, &[]).unwrap();
        assert_eq!(manifest.cmd, ["/app", "serve"]);
        assert_eq!(manifest.env, ["PATH=/bin", "A=2"]);
        assert_eq!((&*manifest.workdir, &*manifest.user), ("/srv", "app"));
    }

    #[test]
    fn file_and_options_come_after_the_image() {
        let file = PartialManifest {
            cmd: Some(texts(&["/other"])),
            env: texts(&["B=file", "PATH=/usr/bin"]),
            workdir: None,
            user: Some("0".into()),
        };
        let merged = manifest(image(), file.clone(), None, &texts(&["B=option", "C="])).unwrap();
        assert_eq!(merged.cmd, ["/other"]);
        assert_eq!(merged.env, ["PATH=/usr/bin", "A=2", "B=option", "C="]);
        assert_eq!((&*merged.workdir, &*merged.user), ("/srv", "0"));
        let merged = manifest(image(), file, Some(&texts(&["/third", "x"])), &[]).unwrap();
        assert_eq!(merged.cmd, ["/third", "x"]);
    }

    #[test]
    fn something_must_say_what_to_run() {
        let empty = PartialManifest::default();
        let error = manifest(empty.clone(), empty.clone(), None, &[]).unwrap_err();
        assert!(matches!(error, Error::NoCommand));
        assert!(error.hint().is_some());
        let bad = manifest(image(), empty, None, &texts(&["NOVALUE"])).unwrap_err();
        assert!(matches!(bad, Error::Manifest(ManifestError::Variable { .. })));
    }
}
