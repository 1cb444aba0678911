//! An attestation document from a file: binary, or base64 as APIs and logs carry it.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use crate::failure::{Failure, Outcome};
use crate::input_file;

/// Far above any document (16 KiB of payload) in base64 with line breaks.
const MAX_FILE: u64 = 64 << 10;

/// The bytes of the COSE_Sign1.
pub(crate) fn read(path: &Path) -> Outcome<Vec<u8>> {
    decode(input_file::read(path, MAX_FILE)?).map_err(|failure| failure.in_file(path))
}

/// A COSE_Sign1 begins with a byte that is no base64 letter (0x84, or 0xd2 with its tag), so the two cannot be mistaken.
fn decode(bytes: Vec<u8>) -> Outcome<Vec<u8>> {
    let text = bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    if bytes.is_empty() || !text {
        return Ok(bytes);
    }
    let dense: Vec<u8> = bytes.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
    [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
        .iter()
        .find_map(|engine| engine.decode(&dense).ok())
        .ok_or_else(|| Failure::no("neither a binary document nor base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_give_the_same_bytes() {
        let document = [0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xa0, 0xfb, 0xff];
        assert_eq!(decode(document.to_vec()).unwrap(), document);
        for text in ["hEShATgioPv/", "hEShATgi\noPv/\n", "hEShATgioPv_"] {
            assert_eq!(decode(text.into()).unwrap(), document, "{text}");
        }
        assert!(decode(b"{\"a\": 1}".to_vec()).is_err());
        assert_eq!(decode(Vec::new()).unwrap(), b"");
    }
}
