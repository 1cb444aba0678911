//! The bytes AWS's documents start with, and envelopes that are nearly right.

use super::*;
use crate::test_authority::BENCH;

fn refusal(bytes: &[u8]) -> Reason {
    Envelope::open(bytes).unwrap_err().reason
}

#[test]
fn starts_like_awss_documents() {
    let bytes = BENCH.key.sign_document(&BENCH.document()).unwrap();
    assert_eq!(bytes[..8], [0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xa0, 0x59]);
    let envelope = Envelope::open(&bytes).unwrap();
    assert!(!envelope.tagged);
    assert_eq!(bytes[bytes.len() - 98..bytes.len() - 96], [0x58, 96]);
    assert_eq!(envelope.payload, BENCH.document().encode().unwrap());
}

#[test]
fn takes_tag_18_and_no_other() {
    let bytes = BENCH.key.sign_document(&BENCH.document()).unwrap();
    let tagged = [&[0xd2][..], &bytes].concat();
    assert!(Envelope::open(&tagged).unwrap().tagged);
    assert_eq!(refusal(&[&[0xd1][..], &bytes].concat()), Reason::MalformedCose);
    assert_eq!(refusal(&[&[0xd2, 0xd2][..], &bytes].concat()), Reason::MalformedCose);
}

#[test]
fn refuses_what_is_nearly_an_envelope() {
    let with = |protected: &[u8], unprotected: &[u8], signature: &[u8]| {
        [&[0x84][..], protected, unprotected, b"\x41x", signature].concat()
    };
    let protected = b"\x44\xa1\x01\x38\x22";
    let signature = [&[0x58, 96][..], &[7; 96]].concat();
    assert!(Envelope::open(&with(protected, b"\xa0", &signature)).is_ok());

    // ES256, ES512, no algorithm, another header beside it, the same in more bytes.
    for other in [
        &b"\x43\xa1\x01\x26"[..],
        b"\x44\xa1\x01\x38\x23",
        b"\x40",
        b"\x46\xa2\x01\x38\x22\x04\x00",
        b"\x45\xa1\x01\x39\x00\x22",
    ] {
        assert_eq!(refusal(&with(other, b"\xa0", &signature)), Reason::UnsupportedAlgorithm);
    }
    for (protected, unprotected, signature) in [
        (&protected[..], &b"\xa1\x04\x41\x00"[..], &signature[..]),
        (protected, b"\xf6", &signature),
        (protected, b"\x80", &signature),
        (protected, b"\xbf\xff", &signature),
        (b"\xa1\x01\x38\x22", b"\xa0", &signature),
        (b"\x58\x04\xa1\x01\x38\x22", b"\xa0", &signature),
        (protected, b"\xa0", b"\xf6"),
        (protected, b"\xa0", b"\x40"),
        (protected, b"\xa0", &[&[0x58, 97][..], &[7; 97]].concat()),
        (protected, b"\xa0", &[&signature[..], b"\x00"].concat()),
    ] {
        assert_eq!(refusal(&with(protected, unprotected, signature)), Reason::MalformedCose);
    }
    for bytes in [&b""[..], b"\x80", b"\x83\x40\xa0\x40", b"\x9f\xff", b"\x40"] {
        assert_eq!(refusal(bytes), Reason::MalformedCose);
    }
    assert_eq!(refusal(&vec![0; MAX_DOCUMENT + 1]), Reason::DocumentLimits);
}

#[test]
fn writes_the_signed_bytes_of_any_length_as_cbor_does() {
    for len in [0, 1, 23, 24, 255, 256, 4000, MAX_PAYLOAD] {
        let payload = vec![7; len];
        let expected = nsm::cbor::to_vec(&(
            "Signature1",
            serde_bytes::Bytes::new(PROTECTED),
            serde_bytes::Bytes::new(b""),
            serde_bytes::Bytes::new(&payload),
        ));
        assert_eq!(signed_bytes(&payload), expected.unwrap(), "{len}");
    }
}
