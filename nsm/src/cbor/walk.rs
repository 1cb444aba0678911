//! The validator: walks one CBOR item with an explicit stack. Nothing is allocated for a length
//! that the input only claims: a string must lie within the input, and an array or map of n items
//! must be followed by at least that many bytes.

use std::collections::BTreeSet;

use super::Limits;
use crate::Error;

/// The first byte of an item and its argument (RFC 8949 section 3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Head {
    /// 0 to 7.
    pub(super) major: u8,
    /// The integer, length, tag or simple value; `None` for an indefinite length or a break.
    pub(super) argument: Option<u64>,
    /// Whether the argument was in its shortest form.
    minimal: bool,
}

pub(super) const UNSIGNED: u8 = 0;
pub(super) const NEGATIVE: u8 = 1;
pub(super) const BYTES: u8 = 2;
pub(super) const TEXT: u8 = 3;
pub(super) const ARRAY: u8 = 4;
pub(super) const MAP: u8 = 5;
pub(super) const TAG: u8 = 6;
pub(super) const SIMPLE: u8 = 7;

pub(super) const FALSE: u64 = 20;
pub(super) const TRUE: u64 = 21;
pub(super) const NULL: u64 = 22;

/// A position in the input.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(super) offset: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// The next `len` bytes; `item` is where the item that claims them starts.
    pub(super) fn take(&mut self, len: u64, item: usize) -> Result<&'a [u8], Error> {
        let truncated = Error::CborTruncated { offset: item };
        let Ok(len) = usize::try_from(len) else { return Err(truncated) };
        let Some(taken) = self.bytes[self.offset..].get(..len) else { return Err(truncated) };
        self.offset += len;
        Ok(taken)
    }

    /// Like [`Cursor::take`], as text.
    pub(super) fn take_text(&mut self, len: u64, item: usize) -> Result<&'a str, Error> {
        std::str::from_utf8(self.take(len, item)?)
            .map_err(|_| refused(item, "text is not valid UTF-8"))
    }

    /// Reads the head of the next item.
    pub(super) fn head(&mut self) -> Result<Head, Error> {
        let item = self.offset;
        let first = self.take(1, item)?[0];
        let (major, information) = (first >> 5, first & 0x1f);
        let width = match information {
            0..24 => {
                let argument = Some(u64::from(information));
                return Ok(Head { major, argument, minimal: true });
            }
            24..28 => 1u64 << (information - 24),
            31 => return Ok(Head { major, argument: None, minimal: true }),
            _ => return Err(refused(item, "reserved length code (28 to 30)")),
        };
        let argument =
            self.take(width, item)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let minimal = match width {
            1 => argument >= 24,
            2 => argument > 0xff,
            4 => argument > 0xffff,
            _ => argument > 0xffff_ffff,
        };
        Ok(Head { major, argument: Some(argument), minimal })
    }
}

pub(super) fn refused(offset: usize, what: &'static str) -> Error {
    Error::CborRefused { offset, what }
}

/// An open array, map or tag.
struct Level<'a> {
    /// Items still to come (for a map: keys and values); `None` until a break.
    left: Option<u64>,
    /// For a map, the keys so far and whether a key comes next.
    map: Option<Keys<'a>>,
    /// A tag's content is no place for a break.
    tag: bool,
}

struct Keys<'a> {
    seen: BTreeSet<Key<'a>>,
    key_next: bool,
}

#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Key<'a> {
    Unsigned(u64),
    Negative(u64),
    Text(&'a str),
}

impl Key<'_> {
    fn readable(&self) -> String {
        match self {
            Self::Unsigned(value) => value.to_string(),
            Self::Negative(value) => (-1 - i128::from(*value)).to_string(),
            // A hostile key may be as long as the input: enough to recognise it.
            Self::Text(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        }
    }
}

pub(super) fn walk(bytes: &[u8], limits: &Limits) -> Result<(), Error> {
    if bytes.len() > limits.max_len {
        return Err(Error::CborTooLong { len: bytes.len(), max: limits.max_len });
    }
    let mut cursor = Cursor::new(bytes);
    let mut open: Vec<Level<'_>> = Vec::new();
    loop {
        let item = cursor.offset;
        let head = cursor.head()?;
        if !head.minimal && !limits.non_minimal {
            return Err(refused(item, "integer or length is not in its shortest form"));
        }
        let pushed = if head.major == SIMPLE && head.argument.is_none() {
            close(&mut open, item)?;
            None
        } else {
            step(&mut cursor, &mut open, head, item, limits)?
        };
        if let Some(level) = pushed {
            if open.len() == limits.max_depth {
                return Err(Error::CborDepth { offset: item, max: limits.max_depth });
            }
            open.push(level);
        }
        // Containers that are complete are items of their own container.
        while open.last().is_some_and(|level| level.left == Some(0)) {
            open.pop();
        }
        if open.is_empty() {
            break;
        }
    }
    match cursor.remaining() {
        0 => Ok(()),
        extra => Err(Error::CborTrailing { offset: cursor.offset, extra }),
    }
}

/// A break: ends the innermost array or map if that may be ended here.
fn close(open: &mut Vec<Level<'_>>, item: usize) -> Result<(), Error> {
    match open.last() {
        Some(Level { left: None, map, tag: false })
            if map.as_ref().is_none_or(|keys| keys.key_next) =>
        {
            open.pop();
            Ok(())
        }
        _ => Err(refused(item, "a break that ends nothing")),
    }
}

/// Takes one item as an element of the innermost container, and returns the container it opens.
fn step<'a>(
    cursor: &mut Cursor<'a>,
    open: &mut [Level<'a>],
    head: Head,
    item: usize,
    limits: &Limits,
) -> Result<Option<Level<'a>>, Error> {
    let is_key = match open.last_mut() {
        None => false,
        Some(level) => {
            if let Some(left) = &mut level.left {
                *left -= 1;
            }
            match &mut level.map {
                None => false,
                Some(keys) => {
                    keys.key_next = !keys.key_next;
                    !keys.key_next
                }
            }
        }
    };
    let Some(argument) = head.argument else {
        if is_key {
            return Err(refused(item, "a map key must be an integer or a text"));
        }
        return match head.major {
            ARRAY | MAP if limits.indefinite => {
                Ok(Some(Level { left: None, map: (head.major == MAP).then(Keys::new), tag: false }))
            }
            ARRAY | MAP => Err(refused(item, "indefinite length is not allowed here")),
            BYTES | TEXT => Err(refused(item, "strings in chunks are not allowed")),
            _ => Err(refused(item, "reserved length code 31")),
        };
    };
    let mut opened = None;
    let key = match head.major {
        UNSIGNED => Some(Key::Unsigned(argument)),
        NEGATIVE => Some(Key::Negative(argument)),
        TEXT => Some(Key::Text(cursor.take_text(argument, item)?)),
        BYTES => {
            cursor.take(argument, item)?;
            None
        }
        ARRAY | MAP => {
            let per_entry = if head.major == MAP { 2 } else { 1 };
            let items = argument.checked_mul(per_entry);
            // Every item takes at least one byte.
            let left = items.filter(|items| {
                usize::try_from(*items).is_ok_and(|items| items <= cursor.remaining())
            });
            if left.is_none() {
                return Err(Error::CborTruncated { offset: item });
            }
            opened = Some(Level { left, map: (head.major == MAP).then(Keys::new), tag: false });
            None
        }
        TAG if limits.tags.contains(&argument) => {
            opened = Some(Level { left: Some(1), map: None, tag: true });
            None
        }
        TAG => return Err(refused(item, "this tag is not allowed here")),
        _ if matches!(argument, FALSE | TRUE | NULL) && head.minimal => None,
        _ => return Err(refused(item, "floats and simple values are not allowed")),
    };
    if is_key {
        let Some(key) = key else {
            return Err(refused(item, "a map key must be an integer or a text"));
        };
        let keys = open.last_mut().and_then(|level| level.map.as_mut());
        if keys.is_some_and(|keys| !keys.seen.insert(key)) {
            return Err(Error::CborDuplicateKey { key: key.readable(), offset: item });
        }
    }
    Ok(opened)
}

impl Keys<'_> {
    fn new() -> Self {
        Self { seen: BTreeSet::new(), key_next: true }
    }
}
