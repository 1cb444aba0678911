//! What extended headers say about the member that follows: PAX records and GNU's long names.

/// Fields that replace those of the header.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    pub(super) path: Option<Vec<u8>>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) xattrs: usize,
}

impl Overrides {
    pub(super) const fn is_empty(&self) -> bool {
        self.path.is_none()
            && self.target.is_none()
            && self.size.is_none()
            && self.uid.is_none()
            && self.gid.is_none()
            && self.xattrs == 0
    }

    /// Reads the records of a header of type `x`. Times, names of users and comments change nothing.
    pub(super) fn read_pax(&mut self, bytes: &[u8]) -> Result<(), String> {
        for record in Records(bytes) {
            let (key, value) = record?;
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                b"size" => self.size = Some(decimal("size", value)?),
                b"uid" => self.uid = Some(decimal("uid", value)?),
                b"gid" => self.gid = Some(decimal("gid", value)?),
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err("a sparse file; pack the layer without sparse files".to_owned());
                }
                _ if key.starts_with(b"SCHILY.xattr.") || key.starts_with(b"LIBARCHIVE.xattr.") => {
                    self.xattrs += 1;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Global records apply to every member that follows: harmless ones are passed over, the others are
/// something no builder of images writes.
pub(super) fn check_global(bytes: &[u8]) -> Result<(), String> {
    for record in Records(bytes) {
        let (key, _) = record?;
        if matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid") {
            let key = String::from_utf8_lossy(key);
            return Err(format!("a global extended header that sets {key}"));
        }
    }
    Ok(())
}

/// A long name without the NUL it ends with.
pub(super) fn gnu_name(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts all of it, itself included.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.take();
        if record.is_none() {
            // There is no telling where the next one would start.
            self.0 = &[];
        }
        Some(record.ok_or_else(|| "a malformed extended header".to_owned()))
    }
}

impl<'a> Records<'a> {
    fn take(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let blank = self.0.iter().take(20).position(|byte| *byte == b' ')?;
        let length = usize::try_from(decimal("length", &self.0[..blank]).ok()?).ok()?;
        let record = self.0.get(blank + 1..length)?;
        let (key, value) = split(record.strip_suffix(b"\n")?)?;
        self.0 = self.0.get(length..)?;
        Some((key, value))
    }
}

fn split(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..]))
}

fn decimal(what: &str, digits: &[u8]) -> Result<u64, String> {
    let number = || {
        let text = std::str::from_utf8(digits).ok()?;
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
    };
    number().ok_or_else(|| {
        let shown = crate::error::shown(digits);
        format!("{what} `{shown}` of an extended header is not a number")
    })
}
