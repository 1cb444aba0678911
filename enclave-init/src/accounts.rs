//! Who the application runs as: the manifest's `user` looked up in the image's own `/etc/passwd` and
//! `/etc/group`, with the rules of OCI engines (digits are always an id; an unknown id has group 0 and home
//! `/`; extra groups only where no group is asked for). Read by hand, because glibc's own look-up wants
//! to load plug-ins, which a static PID 1 cannot. The files come from the image: any bytes may be in them.

use std::path::Path;

use guest_abi::manifest::{Account, Principal};

use crate::Error;
use crate::small_file;

/// Bytes of passwd or group that are read; more is an error rather than a look-up in half a file.
const MAX_FILE: u64 = 1 << 20;

/// Groups a process can be in besides its own (NGROUPS_MAX).
const MAX_GROUPS: usize = 65_536;

/// The ids and home folder of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, ascending, without doubles.
    pub(crate) groups: Vec<u32>,
    /// For `HOME` where the manifest sets none.
    pub(crate) home: String,
}

/// Looks `account` up below `root`.
pub(crate) fn resolve(account: &Account<'_>, root: &Path) -> Result<Identity, Error> {
    let passwd = small_file::read(&root.join("etc/passwd"), MAX_FILE)?.unwrap_or_default();
    let group = small_file::read(&root.join("etc/group"), MAX_FILE)?.unwrap_or_default();
    resolve_in(account, &passwd, &group)
}

fn resolve_in(account: &Account<'_>, passwd: &[u8], group: &[u8]) -> Result<Identity, Error> {
    let user = match account.user {
        Principal::Id(uid) => users(passwd).find(|user| user.uid == uid).unwrap_or(User {
            name: b"",
            uid,
            gid: 0,
            home: b"/",
        }),
        Principal::Name(name) => users(passwd)
            .find(|user| user.name == name.as_bytes())
            .ok_or_else(|| Error::UnknownUser { name: name.to_owned() })?,
    };
    let (gid, groups) = match account.group {
        Some(Principal::Id(gid)) => (gid, Vec::new()),
        Some(Principal::Name(name)) => {
            let found = entries(group)
                .find(|entry| entry.name == name.as_bytes())
                .ok_or_else(|| Error::UnknownGroup { name: name.to_owned() })?;
            (found.gid, Vec::new())
        }
        None => (user.gid, memberships(user.name, group)),
    };
    let home = match String::from_utf8(user.home.to_vec()) {
        Ok(home) if home.starts_with('/') && !home.contains('\0') => home,
        _ => "/".to_owned(),
    };
    Ok(Identity { uid: user.uid, gid, groups, home })
}

struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// The well-formed lines of a passwd file; others are passed over, as every reader of it does.
fn users(passwd: &[u8]) -> impl Iterator<Item = User<'_>> {
    passwd.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let uid = id(fields.next()?)?;
        let gid = id(fields.next()?)?;
        let _comment = fields.next();
        Some(User { name, uid, gid, home: fields.next().unwrap_or(b"/") })
    })
}

/// The well-formed lines of a group file.
fn entries(group: &[u8]) -> impl Iterator<Item = Group<'_>> {
    group.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let gid = id(fields.next()?)?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default() })
    })
}

fn memberships(user: &[u8], group: &[u8]) -> Vec<u32> {
    if user.is_empty() {
        return Vec::new();
    }
    let mut groups: Vec<u32> = entries(group)
        .filter(|entry| entry.members.split(|byte| *byte == b',').any(|member| member == user))
        .map(|entry| entry.gid)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups.truncate(MAX_GROUPS);
    groups
}

/// Digits only, and not 4294967295, which tells the kernel to leave an id as it is: a process meant to
/// be somebody else would stay root.
fn id(field: &[u8]) -> Option<u32> {
    if field.is_empty() || !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(field).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # a comment\n\
        +nis::::::\n\
        broken\n\
        negative:x:-1:-1::/:\n\
        minus-one:x:4294967295:0::/:\n\
        huge:x:4294967296:0::/:\n\
        app:x:1000:1001:App:/srv/app:/bin/false\n\
        app:x:0:0:second line of that name:/root:\n\
        nohome:x:1002:1002\n\
        relative:x:1003:1003::home:\n\
        last:x:1004:1004::/last:/bin/sh";
    const GROUP: &[u8] = b"root:x:0:root\n\
        audio:x:29:app,other\n\
        video:x:44:xapp,app\n\
        video2:x:44:app\n\
        app:x:1001:\n\
        docker:x:4294967295:app\n\
        adm:x:4:\n";

    fn account(text: &str) -> Account<'_> {
        let principal = |text| match str::parse(text) {
            Ok(id) => Principal::Id(id),
            Err(_) => Principal::Name(text),
        };
        match text.split_once(':') {
            Some((user, group)) => Account { user: principal(user), group: Some(principal(group)) },
            None => Account { user: principal(text), group: None },
        }
    }

    fn resolved(text: &str) -> (u32, u32, Vec<u32>, String) {
        let identity = resolve_in(&account(text), PASSWD, GROUP).unwrap();
        (identity.uid, identity.gid, identity.groups, identity.home)
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(resolved("app"), (1000, 1001, vec![29, 44], "/srv/app".into()));
        assert_eq!(resolved("1000"), resolved("app"));
        assert_eq!(resolved("0"), (0, 0, vec![0], "/root".into()));
        assert_eq!(resolved("last"), (1004, 1004, vec![], "/last".into()));
    }

    #[test]
    fn an_id_without_a_line_has_group_0() {
        assert_eq!(resolved("4242"), (4242, 0, vec![], "/".into()));
        let none = resolve_in(&account("1000"), b"", b"").unwrap();
        assert_eq!((none.uid, none.gid, none.home.as_str()), (1000, 0, "/"));
    }

    #[test]
    fn a_group_asked_for_replaces_all_others() {
        assert_eq!(resolved("app:adm"), (1000, 4, vec![], "/srv/app".into()));
        assert_eq!(resolved("app:7"), (1000, 7, vec![], "/srv/app".into()));
        assert_eq!(resolved("4242:audio"), (4242, 29, vec![], "/".into()));
    }

    #[test]
    fn unknown_names_are_named() {
        let user = resolve_in(&account("nobody"), PASSWD, GROUP).unwrap_err();
        assert!(user.to_string().contains("\"nobody\""), "{user}");
        let group = resolve_in(&account("app:wheel"), PASSWD, GROUP).unwrap_err();
        assert!(group.to_string().contains("\"wheel\""), "{group}");
    }

    #[test]
    fn malformed_lines_never_give_an_identity() {
        for name in ["broken", "negative", "minus-one", "huge", "+nis", "# a comment"] {
            let account = Account { user: Principal::Name(name), group: None };
            assert!(resolve_in(&account, PASSWD, GROUP).is_err(), "{name}");
        }
        assert!(resolve_in(&account("app:docker"), PASSWD, GROUP).is_err());
    }

    #[test]
    fn homes_that_are_no_path_become_the_root() {
        assert_eq!(resolved("nohome").3, "/");
        assert_eq!(resolved("relative").3, "/");
    }

    #[test]
    fn files_are_taken_from_the_image_and_are_bounded() {
        let image = tempfile::tempdir().unwrap();
        assert_eq!(resolve(&account("7"), image.path()).unwrap().gid, 0);
        std::fs::create_dir(image.path().join("etc")).unwrap();
        std::fs::write(image.path().join("etc/passwd"), PASSWD).unwrap();
        std::fs::write(image.path().join("etc/group"), GROUP).unwrap();
        assert_eq!(resolve(&account("app"), image.path()).unwrap().uid, 1000);
        let limit = usize::try_from(MAX_FILE).unwrap();
        std::fs::write(image.path().join("etc/group"), vec![b'\n'; limit + 1]).unwrap();
        let error = resolve(&account("app"), image.path()).unwrap_err();
        assert!(matches!(error, Error::FileTooLong { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_identity_or_an_error(
            passwd in "[a:0-9\n,/\u{0}ä]{0,80}", group in "[a:0-9\n,]{0,80}",
        ) {
            if let Ok(identity) = resolve_in(&account("a"), passwd.as_bytes(), group.as_bytes()) {
                prop_assert!(identity.uid != u32::MAX && identity.gid != u32::MAX);
                prop_assert!(identity.home.starts_with('/'));
            }
        }
    }
}
