//! Bytes nobody would write, and documents properly signed over certificates that are damaged:
//! always an answer, never a panic, never a yes.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::show::DocumentView;

/// Replaces a few bytes of `bytes`, then cuts or repeats a part.
fn damage(bytes: &mut Vec<u8>, edits: &[(Index, u8)], part: (Index, Index), repeat: bool) {
    for (at, to) in edits {
        let at = at.index(bytes.len());
        bytes[at] = *to;
    }
    let (a, b) = (part.0.index(bytes.len()), part.1.index(bytes.len()));
    let range = a.min(b)..a.max(b).min(a.min(b) + 20);
    if repeat {
        let piece = bytes[range.clone()].to_vec();
        bytes.splice(range.start..range.start, piece);
    } else {
        bytes.drain(range);
    }
}

fn edits() -> impl Strategy<Value = Vec<(Index, u8)>> {
    prop::collection::vec((any::<Index>(), any::<u8>()), 0..4)
}

proptest! {
    #[test]
    fn answers_to_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(verify(&bytes, &local(At::DocumentTime)).is_err());
        let _ = DocumentView::read(&bytes);
        let _ = AttestationDocument::decode(&bytes);
        prop_assert!(Root::from_der("x", &bytes).is_err());
        prop_assert!(Root::from_pem("x", &bytes).is_err());
    }

    #[test]
    fn answers_to_damaged_documents(edits in edits(), part: (Index, Index), repeat: bool) {
        let original = ours();
        let mut bytes = original.clone();
        damage(&mut bytes, &edits, part, repeat);
        let _ = DocumentView::read(&bytes);
        prop_assert_eq!(verify(&bytes, &local(At::DocumentTime)).is_ok(), bytes == original);
    }

    #[test]
    fn answers_to_signed_documents_with_damaged_certificates(
        which in 0usize..5, edits in edits(), part: (Index, Index), repeat: bool,
    ) {
        let mut document = BENCH.document();
        let certificate = match which {
            4 => &mut document.certificate,
            _ => &mut document.cabundle[which],
        };
        damage(certificate, &edits, part, repeat);
        let bytes = BENCH.key.sign_document(&document).unwrap();
        let _ = DocumentView::read(&bytes);
        let accepted = verify(&bytes, &local(At::DocumentTime)).is_ok();
        prop_assert_eq!(accepted, document == BENCH.document());
    }
}
