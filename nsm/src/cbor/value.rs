//! A borrowed view of one validated CBOR item, for readers that must be stricter than serde is:
//! serde takes text for bytes, numbers for field names and lets tags pass unseen.

use super::walk::{self, Cursor};
use super::{Limits, validate};
use crate::Error;

/// One CBOR item; strings point into the input.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value<'a> {
    /// A non-negative integer.
    Unsigned(u64),
    /// -1 - n.
    Negative(u64),
    /// A byte string.
    Bytes(&'a [u8]),
    /// A text.
    Text(&'a str),
    /// An array.
    Array(Vec<Value<'a>>),
    /// A map in the order of the input; keys are integers or texts, each once.
    Map(Vec<(Value<'a>, Value<'a>)>),
    /// A tag and its content.
    Tag(u64, Box<Value<'a>>),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
}

impl<'a> Value<'a> {
    /// Reads exactly one item.
    ///
    /// # Errors
    /// As [`validate`].
    pub fn from_slice(bytes: &'a [u8], limits: &Limits) -> Result<Self, Error> {
        validate(bytes, limits)?;
        // Recursion below is bounded by the nesting that was just validated.
        read(&mut Cursor::new(bytes)).map(|item| item.unwrap_or(Self::Null))
    }

    /// What kind of item this is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) | Self::Negative(_) => "an integer",
            Self::Bytes(_) => "a byte string",
            Self::Text(_) => "a text",
            Self::Array(_) => "an array",
            Self::Map(_) => "a map",
            Self::Tag(..) => "a tag",
            Self::Bool(_) => "a boolean",
            Self::Null => "null",
        }
    }
}

/// The next item, or `None` at a break.
fn read<'a>(cursor: &mut Cursor<'a>) -> Result<Option<Value<'a>>, Error> {
    let item = cursor.offset;
    let head = cursor.head()?;
    let value = match (head.major, head.argument) {
        (walk::UNSIGNED, Some(value)) => Value::Unsigned(value),
        (walk::NEGATIVE, Some(value)) => Value::Negative(value),
        (walk::BYTES, Some(len)) => Value::Bytes(cursor.take(len, item)?),
        (walk::TEXT, Some(len)) => Value::Text(cursor.take_text(len, item)?),
        (walk::ARRAY, len) => {
            let mut items = Vec::new();
            while len.is_none_or(|len| (items.len() as u64) < len) {
                let Some(value) = read(cursor)? else { break };
                items.push(value);
            }
            Value::Array(items)
        }
        (walk::MAP, len) => {
            let mut entries = Vec::new();
            while len.is_none_or(|len| (entries.len() as u64) < len) {
                let Some(key) = read(cursor)? else { break };
                let Some(value) = read(cursor)? else { break };
                entries.push((key, value));
            }
            Value::Map(entries)
        }
        (walk::TAG, Some(tag)) => Value::Tag(tag, Box::new(read(cursor)?.unwrap_or(Value::Null))),
        (walk::SIMPLE, Some(walk::FALSE)) => Value::Bool(false),
        (walk::SIMPLE, Some(walk::TRUE)) => Value::Bool(true),
        (walk::SIMPLE, Some(walk::NULL)) => Value::Null,
        (walk::SIMPLE, None) => return Ok(None),
        _ => return Err(walk::refused(item, "not an item this reader knows")),
    };
    Ok(Some(value))
}
