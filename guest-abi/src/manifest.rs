//! The manifest: what the enclave runs. It is the file `/enclave.toml` of the app ramdisk, so it is
//! measured into PCR0 and PCR2 (DESIGN 7); the builder writes it and PID 1 reads it. A field that is
//! not known here is refused on both sides, because an instruction that one side silently ignored
//! would be a lie about what was measured. The reader is bounded and cannot panic: it runs as PID 1.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Where the manifest lies in the root of the app ramdisk.
pub const FILE_NAME: &str = "enclave.toml";

/// The longest manifest that is written or read, in bytes.
pub const MAX_LEN: usize = 256 * 1024;

/// The most entries in `cmd`, and in `env`.
pub const MAX_ENTRIES: usize = 4096;

/// The longest `workdir`, in bytes; the kernel's PATH_MAX without the NUL.
pub const MAX_WORKDIR: usize = 4095;

/// The longest `user`, in bytes.
pub const MAX_USER: usize = 256;

/// Where a `cmd` without a slash is looked for when `env` sets no PATH; the list container engines
/// use. Builder and init must agree on it.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the enclave runs, and as whom. Fields are written in this order.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The program and its arguments; at least the program, which is looked up in PATH when it
    /// has no slash.
    pub cmd: Vec<String>,
    /// The environment, `NAME=VALUE` each, in this order; a name at most once.
    #[serde(default)]
    pub env: Vec<String>,
    /// Where the program starts; absolute.
    #[serde(default = "root_folder")]
    pub workdir: String,
    /// As in OCI: `name` or `uid`, then `:group` or `:gid` if wanted. See [`Manifest::account`].
    #[serde(default = "root_user")]
    pub user: String,
}

fn root_folder() -> String {
    "/".to_owned()
}

fn root_user() -> String {
    "0".to_owned()
}

/// A user or group as it is written: looked up in the image's own files, or taken as it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Principal<'a> {
    /// A numeric id. 4294967295 is not one: to the kernel it means "leave as it is".
    Id(u32),
    /// A name from the image's `/etc/passwd` or `/etc/group`.
    Name(&'a str),
}

/// The `user` field, taken apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Account<'a> {
    /// The user.
    pub user: Principal<'a>,
    /// The group, where one is given; else the user's own in `/etc/passwd`, else 0.
    pub group: Option<Principal<'a>>,
}

/// Why a manifest is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// More than [`MAX_LEN`] bytes.
    #[error("manifest of {length} bytes is over the limit of {MAX_LEN}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Not UTF-8.
    #[error("manifest is not UTF-8 after byte {valid}")]
    NotText {
        /// Bytes before the first wrong one.
        valid: usize,
    },
    /// Not TOML, a field of another type, a field missing, or one that is not known.
    #[error("manifest line {line}: {detail}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What the TOML reader says.
        detail: String,
    },
    /// `cmd` has no program.
    #[error("cmd is empty")]
    NoCommand,
    /// More than [`MAX_ENTRIES`] arguments or variables.
    #[error("{field} has {count} entries, the limit is {MAX_ENTRIES}")]
    TooMany {
        /// `cmd` or `env`.
        field: &'static str,
        /// How many there are.
        count: usize,
    },
    /// A NUL byte cannot be handed to a program.
    #[error("{field} {text:?} has a NUL byte in it")]
    Nul {
        /// Which field.
        field: &'static str,
        /// The value.
        text: String,
    },
    /// An environment entry without a name or without `=`.
    #[error("env entry {entry:?} is not NAME=VALUE")]
    Variable {
        /// The entry.
        entry: String,
    },
    /// A name set twice: programs disagree about which one counts.
    #[error("env sets {name:?} twice")]
    VariableTwice {
        /// The name.
        name: String,
    },
    /// `workdir` does not start with a slash, or is longer than [`MAX_WORKDIR`].
    #[error("workdir {workdir:?} is not an absolute path of at most {MAX_WORKDIR} bytes")]
    Workdir {
        /// The value.
        workdir: String,
    },
    /// `user` is not `name|uid[:group|gid]`.
    #[error("user {user:?} is not NAME or UID, with :GROUP or :GID after it if wanted")]
    User {
        /// The value.
        user: String,
    },
}

impl ManifestError {
    /// What to do next, where there is something to do.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Syntax { .. } => Some("known fields are cmd, env, workdir and user"),
            Self::NoCommand => Some("name a program, for example cmd = [\"/hello\"]"),
            Self::Workdir { .. } => Some("start it with a slash"),
            _ => None,
        }
    }
}

impl Manifest {
    /// A manifest that runs `cmd` as root in `/` with an empty environment. Not yet checked: see
    /// [`Manifest::validate`].
    #[must_use]
    pub fn new(cmd: Vec<String>) -> Self {
        Self { cmd, env: Vec::new(), workdir: root_folder(), user: root_user() }
    }

    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// Every variant of [`ManifestError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = parse_toml(bytes)?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// Checks every rule of the fields above.
    ///
    /// # Errors
    /// Every variant of [`ManifestError`] but `TooLong`, `NotText` and `Syntax`.
    pub fn validate(&self) -> Result<(), ManifestError> {
        if self.cmd.first().is_none_or(String::is_empty) {
            return Err(ManifestError::NoCommand);
        }
        for (field, list) in [("cmd", &self.cmd), ("env", &self.env)] {
            if list.len() > MAX_ENTRIES {
                return Err(ManifestError::TooMany { field, count: list.len() });
            }
            for text in list {
                refuse_nul(field, text)?;
            }
        }
        let mut names = HashSet::new();
        for entry in &self.env {
            let Some((name, _)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                return Err(ManifestError::Variable { entry: entry.clone() });
            };
            if !names.insert(name) {
                return Err(ManifestError::VariableTwice { name: name.to_owned() });
            }
        }
        refuse_nul("workdir", &self.workdir)?;
        if !self.workdir.starts_with('/') || self.workdir.len() > MAX_WORKDIR {
            return Err(ManifestError::Workdir { workdir: self.workdir.clone() });
        }
        self.account().map(|_| ())
    }

    /// The `user` field, taken apart. Never fails on a manifest that [`Manifest::parse`] returned.
    ///
    /// # Errors
    /// [`ManifestError::User`].
    pub fn account(&self) -> Result<Account<'_>, ManifestError> {
        let refuse = || ManifestError::User { user: self.user.clone() };
        if self.user.len() > MAX_USER {
            return Err(refuse());
        }
        let (user, group) = match self.user.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (self.user.as_str(), None),
        };
        let user = principal(user).ok_or_else(refuse)?;
        let group = group.map(|group| principal(group).ok_or_else(refuse)).transpose()?;
        Ok(Account { user, group })
    }

    /// The value of an environment variable.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.env.iter().find_map(|entry| match entry.split_once('=') {
            Some((key, value)) if key == name => Some(value),
            _ => None,
        })
    }

    /// The file's text: the same for equal manifests, fields in the order of the struct.
    ///
    /// # Errors
    /// As [`Manifest::validate`], and [`ManifestError::TooLong`]: nothing is written that would not
    /// be read again.
    pub fn to_toml(&self) -> Result<String, ManifestError> {
        self.validate()?;
        let text = toml::to_string(self)
            .map_err(|error| ManifestError::Syntax { line: 1, detail: error.to_string() })?;
        if text.len() > MAX_LEN {
            return Err(ManifestError::TooLong { length: text.len() });
        }
        Ok(text)
    }
}

/// A manifest file as a user writes it for the builder: what it leaves out comes from the image.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct PartialManifest {
    /// Replaces the image's command as a whole.
    pub cmd: Option<Vec<String>>,
    /// Each replaces the variable of that name or is added after the others.
    #[serde(default)]
    pub env: Vec<String>,
    /// Replaces the image's.
    pub workdir: Option<String>,
    /// Replaces the image's.
    pub user: Option<String>,
}

impl PartialManifest {
    /// Reads a file; the values are checked when they are part of a whole [`Manifest`].
    ///
    /// # Errors
    /// [`ManifestError::TooLong`], [`ManifestError::NotText`], [`ManifestError::Syntax`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        parse_toml(bytes)
    }
}

fn parse_toml<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, ManifestError> {
    if bytes.len() > MAX_LEN {
        return Err(ManifestError::TooLong { length: bytes.len() });
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ManifestError::NotText { valid: error.valid_up_to() })?;
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + bytes.iter().take(start).filter(|byte| **byte == b'\n').count();
        ManifestError::Syntax { line, detail: error.message().to_owned() }
    })
}

fn refuse_nul(field: &'static str, text: &str) -> Result<(), ManifestError> {
    if text.contains('\0') {
        return Err(ManifestError::Nul { field, text: text.to_owned() });
    }
    Ok(())
}

/// Digits are an id, anything else a name; a name cannot hold what separates fields in passwd.
fn principal(text: &str) -> Option<Principal<'_>> {
    if text.is_empty() {
        return None;
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().filter(|id| *id != u32::MAX).map(Principal::Id);
    }
    let foreign = |c: char| c == ':' || c == '/' || c.is_whitespace() || c.is_control();
    (!text.contains(foreign)).then_some(Principal::Name(text))
}

impl fmt::Display for Principal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FULL: &str = "cmd = [\"/hello\", \"--port\", \"5000\"]\n\
                        env = [\"PATH=/bin\", \"EMPTY=\"]\n\
                        workdir = \"/srv\"\n\
                        user = \"app:100\"\n";

    fn parse(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(text.as_bytes())
    }

    #[test]
    fn writes_what_it_reads_byte_for_byte() {
        let manifest = parse(FULL).unwrap();
        assert_eq!(manifest.cmd, ["/hello", "--port", "5000"]);
        assert_eq!(manifest.variable("PATH"), Some("/bin"));
        assert_eq!(manifest.variable("EMPTY"), Some(""));
        assert_eq!(manifest.variable("HOME"), None);
        assert_eq!(
            manifest.account().unwrap(),
            Account { user: Principal::Name("app"), group: Some(Principal::Id(100)) }
        );
        assert_eq!(manifest.to_toml().unwrap(), FULL);
    }

    #[test]
    fn only_cmd_is_needed() {
        let manifest = parse("cmd = [\"hello\"]").unwrap();
        assert_eq!(manifest, Manifest::new(vec!["hello".into()]));
        assert_eq!(manifest.workdir, "/");
        assert_eq!(manifest.account().unwrap(), Account { user: Principal::Id(0), group: None });
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let error = parse("cmd = [\"/a\"]\nparams = []\n").unwrap_err();
        let ManifestError::Syntax { line, detail } = &error else { panic!("{error:?}") };
        assert_eq!(*line, 2);
        assert!(detail.contains("params"), "{detail}");
        assert!(error.hint().is_some());
        assert!(parse("env = []").is_err());
        assert!(parse("cmd = \"/a\"").is_err());
        assert!(parse("cmd = [\"/a\"]\ncmd = [\"/b\"]").is_err());
    }

    #[test]
    fn each_rule_names_the_value_it_refuses() {
        let nul = ManifestError::Nul { field: "cmd", text: "a\0".into() };
        let cases: [(&str, ManifestError); 9] = [
            ("cmd = []", ManifestError::NoCommand),
            ("cmd = [\"\"]", ManifestError::NoCommand),
            ("cmd = [\"a\\u0000\"]", nul),
            ("cmd = [\"a\"]\nenv = [\"X\"]", ManifestError::Variable { entry: "X".into() }),
            ("cmd = [\"a\"]\nenv = [\"=1\"]", ManifestError::Variable { entry: "=1".into() }),
            (
                "cmd = [\"a\"]\nenv = [\"X=1\", \"X=2\"]",
                ManifestError::VariableTwice { name: "X".into() },
            ),
            ("cmd = [\"a\"]\nworkdir = \"srv\"", ManifestError::Workdir { workdir: "srv".into() }),
            ("cmd = [\"a\"]\nuser = \"\"", ManifestError::User { user: String::new() }),
            ("cmd = [\"a\"]\nuser = \"a:b:c\"", ManifestError::User { user: "a:b:c".into() }),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn ids_that_mean_something_else_to_the_kernel_are_refused() {
        for user in ["4294967295", "4294967296", "0:4294967295", ":", "a:", ":0", "a b", "a/b"] {
            let manifest = Manifest { user: user.into(), ..Manifest::new(vec!["a".into()]) };
            assert!(manifest.validate().is_err(), "{user}");
        }
        for user in ["0", "4294967294", "www-data", "_apt:nogroup", "1000:www-data"] {
            let manifest = Manifest { user: user.into(), ..Manifest::new(vec!["a".into()]) };
            assert_eq!(manifest.validate(), Ok(()), "{user}");
        }
    }

    #[test]
    fn is_bounded() {
        let long = vec![b'#'; MAX_LEN + 1];
        assert_eq!(Manifest::parse(&long), Err(ManifestError::TooLong { length: MAX_LEN + 1 }));
        assert_eq!(Manifest::parse(b"cmd=[\xff]"), Err(ManifestError::NotText { valid: 5 }));
        let many = Manifest::new(vec!["a".into(); MAX_ENTRIES + 1]);
        assert!(matches!(many.validate(), Err(ManifestError::TooMany { field: "cmd", .. })));
        let deep = format!("cmd = {}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(parse(&deep), Err(ManifestError::Syntax { .. })));
        let big = Manifest::new(vec!["x".repeat(MAX_LEN)]);
        assert!(matches!(big.to_toml(), Err(ManifestError::TooLong { .. })));
    }

    #[test]
    fn a_partial_file_may_leave_everything_out() {
        assert_eq!(PartialManifest::parse(b"").unwrap(), PartialManifest::default());
        let partial = PartialManifest::parse(b"user = \"app\"").unwrap();
        assert_eq!(partial.user.as_deref(), Some("app"));
        assert!(PartialManifest::parse(b"agent = true").is_err());
    }

    proptest! {
        #[test]
        fn any_text_survives_the_round_trip(
            cmd in proptest::collection::vec("[^\0]{1,40}", 1..4),
            values in proptest::collection::vec("[^\0]{0,40}", 0..4),
        ) {
            let env = values.iter().enumerate().map(|(i, v)| format!("V{i}={v}")).collect();
            let manifest = Manifest { env, ..Manifest::new(cmd) };
            let text = manifest.to_toml().unwrap();
            prop_assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), manifest);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Manifest::parse(&bytes);
        }

        #[test]
        fn no_changed_byte_makes_it_panic(at in 0..FULL.len(), byte in any::<u8>()) {
            let mut bytes = FULL.as_bytes().to_vec();
            bytes[at] = byte;
            let _ = Manifest::parse(&bytes);
        }
    }
}
