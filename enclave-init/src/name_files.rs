//! `/etc/hosts` and `/etc/resolv.conf`. Images come with neither (engines bring their own at run time): often as
//! an empty file, sometimes as a link to a daemon's file that does not run here. Those are repaired, because
//! without them `localhost` does not resolve; a file with anything in it is the image's own and stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Error;

/// The names stock Nitro gives, and the host's own.
const HOSTS: &str = "127.0.0.1\tlocalhost enclave\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    ff00::0\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// There is no network: look-ups fail at once (nothing listens on port 53) unless the image brings a resolver.
const RESOLV_CONF: &str = "nameserver 127.0.0.1\n";

/// Repairs both files below `root`; each failure is one for the console only, since the application may
/// never look up a name.
pub(crate) fn repair(root: &Path) -> Vec<Error> {
    [("hosts", HOSTS), ("resolv.conf", RESOLV_CONF)]
        .into_iter()
        .filter_map(|(name, text)| repair_one(&root.join("etc"), name, text).err())
        .collect()
}

fn repair_one(folder: &Path, name: &str, text: &str) -> Result<(), Error> {
    let path = folder.join(name);
    match fs::metadata(&path) {
        Ok(found) if found.is_file() && found.len() == 0 => {}
        Ok(_) => return Ok(()),
        // A dangling link, or one that leads in a circle: take its place.
        Err(_) if is_link(&path) => fs::remove_file(&path).map_err(Error::file("remove", &path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        }
        Err(error) => return Err(Error::file("look at", &path)(error)),
    }
    fs::write(&path, text).map_err(Error::file("write", PathBuf::from(&path)))
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn image() -> tempfile::TempDir {
        let image = tempfile::tempdir().unwrap();
        fs::create_dir(image.path().join("etc")).unwrap();
        image
    }

    fn text(image: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(image.path().join("etc").join(name)).unwrap()
    }

    #[test]
    fn missing_files_and_a_missing_folder_are_made() {
        let bare = tempfile::tempdir().unwrap();
        assert!(repair(bare.path()).is_empty());
        assert_eq!(text(&bare, "hosts"), HOSTS);
        assert_eq!(text(&bare, "resolv.conf"), RESOLV_CONF);
    }

    #[test]
    fn empty_files_are_filled() {
        let image = image();
        fs::write(image.path().join("etc/hosts"), "").unwrap();
        assert!(repair(image.path()).is_empty());
        assert_eq!(text(&image, "hosts"), HOSTS);
    }

    #[test]
    fn dangling_links_are_replaced_and_good_ones_kept() {
        let image = image();
        let etc = image.path().join("etc");
        symlink("../run/resolvconf/resolv.conf", etc.join("resolv.conf")).unwrap();
        fs::write(etc.join("my-hosts"), "10.0.0.1 mine\n").unwrap();
        symlink("my-hosts", etc.join("hosts")).unwrap();
        assert!(repair(image.path()).is_empty());
        assert_eq!(text(&image, "resolv.conf"), RESOLV_CONF);
        assert!(!is_link(&etc.join("resolv.conf")));
        assert!(is_link(&etc.join("hosts")));
        assert_eq!(text(&image, "hosts"), "10.0.0.1 mine\n");
    }

    #[test]
    fn a_link_to_itself_is_replaced() {
        let image = image();
        symlink("hosts", image.path().join("etc/hosts")).unwrap();
        assert!(repair(image.path()).is_empty());
        assert_eq!(text(&image, "hosts"), HOSTS);
    }

    #[test]
    fn the_images_own_text_stays() {
        let image = image();
        fs::write(image.path().join("etc/hosts"), "# mine\n").unwrap();
        fs::create_dir(image.path().join("etc/resolv.conf")).unwrap();
        assert!(repair(image.path()).is_empty());
        assert_eq!(text(&image, "hosts"), "# mine\n");
        assert!(image.path().join("etc/resolv.conf").is_dir());
    }

    #[test]
    fn what_cannot_be_repaired_is_told_by_name() {
        let image = tempfile::tempdir().unwrap();
        fs::write(image.path().join("etc"), "no folder").unwrap();
        let errors = repair(image.path());
        assert_eq!(errors.len(), 2);
        assert!(errors[0].to_string().contains("etc/hosts"), "{}", errors[0]);
    }
}
