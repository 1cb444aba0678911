//! AWS's documents and ours, each accepted under its root at its time, and everything else
//! refused with the reason that a script would look for.

use base64::Engine;
use openssl::bn::BigNum;

use super::*;
use crate::authority::{Authority, Lifetimes};
use crate::leaf_key::LeafKey;
use crate::test_authority::{BENCH, NOW, counting, identity, pcrs};

mod forged;
mod hostile;

const AWS_DOCUMENT: &[u8] = include_bytes!("../../testdata/01-prod-userdata-nonce.cbor");
const AWS_TIME: i64 = 1_668_034_320;
const AWS_LEAF: std::ops::RangeInclusive<i64> = 1_668_034_317..=1_668_045_120;
const AWS_DEBUG_TIME: i64 = 1_695_049_410;
const AWS_DEBUG_LEAF: std::ops::RangeInclusive<i64> = 1_695_047_829..=1_695_058_632;

fn aws_debug_document() -> Vec<u8> {
    let text = include_str!("../../testdata/04-debug-mode.b64");
    base64::engine::general_purpose::STANDARD.decode(text.trim()).unwrap()
}

fn any_image(root: Root, at: At) -> VerifyOptions {
    VerifyOptions { any_image: true, ..VerifyOptions::new(root, at) }
}

fn aws(at: At) -> VerifyOptions {
    any_image(Root::aws().unwrap(), at)
}

fn local(at: At) -> VerifyOptions {
    any_image(BENCH.root(), at)
}

fn reason(bytes: &[u8], options: &VerifyOptions) -> Reason {
    verify(bytes, options).unwrap_err().reason
}

fn ours() -> Vec<u8> {
    BENCH.key.sign_document(&BENCH.document()).unwrap()
}

#[test]
fn accepts_an_aws_document_at_its_time() {
    let verified = verify(AWS_DOCUMENT, &aws(At::DocumentTime)).unwrap();
    assert_eq!((verified.root.as_str(), verified.at, verified.debug), ("aws", AWS_TIME, false));
    let document = &verified.document;
    assert_eq!(document.timestamp_ms, 1_668_034_320_696);
    assert_eq!(document.module_id, "i-04fd167167daacf3b-enc01845e97d0b3eb4e");
    assert_eq!(document.user_data.as_ref().map(Vec::len), Some(32));
    assert_eq!(document.nonce.as_ref().map(Vec::len), Some(32));
    assert_eq!(document.public_key, None);
    let set: Vec<u8> =
        document.pcrs.iter().filter(|(_, pcr)| !pcr.is_zero()).map(|(index, _)| *index).collect();
    assert_eq!(set, [0, 1, 2, 4]);
    assert_eq!(verified.unchecked, BTreeSet::from([Check::Nonce, Check::Age, Check::Image]));
}

#[test]
fn refuses_aws_documents_at_any_other_time() {
    for (bytes, leaf, allow_debug) in
        [(AWS_DOCUMENT.to_vec(), AWS_LEAF, false), (aws_debug_document(), AWS_DEBUG_LEAF, true)]
    {
        let at = |at| VerifyOptions { allow_debug, ..aws(At::Unix(at)) };
        let late = verify(&bytes, &at(*leaf.end()));
        assert!(late.is_ok(), "{late:?}");
        assert_eq!(reason(&bytes, &at(leaf.end() + 1)), Reason::Expired);
        assert_eq!(reason(&bytes, &at(leaf.start() - 1)), Reason::NotYetValid);
        assert_eq!(reason(&bytes, &at(NOW)), Reason::Expired);
        assert_eq!(reason(&bytes, &at(0)), Reason::NotYetValid);
        for extreme in [i64::MIN, i64::MAX] {
            assert!(verify(&bytes, &at(extreme)).is_err());
        }
    }
}

#[test]
fn refuses_a_debug_enclave_unless_it_is_allowed() {
    let bytes = aws_debug_document();
    assert_eq!(reason(&bytes, &aws(At::DocumentTime)), Reason::DebugEnclave);
    let allowed = VerifyOptions { allow_debug: true, ..aws(At::DocumentTime) };
    let verified = verify(&bytes, &allowed).unwrap();
    assert_eq!((verified.debug, verified.at), (true, AWS_DEBUG_TIME));
    for index in [0, 1, 2, 8] {
        assert!(verified.document.pcrs[&index].is_zero(), "PCR{index}");
    }
}

#[test]
fn accepts_our_documents_and_says_what_was_asked() {
    let plain = verify(&ours(), &local(At::Unix(NOW + 60))).unwrap();
    assert_eq!((plain.root.as_str(), plain.checked.len(), plain.notes.len()), ("local", 0, 0));

    let mut options = VerifyOptions::new(BENCH.root(), At::Unix(NOW + 60));
    options.pcrs = pcrs();
    options.nonce = Some(b"nonce".to_vec());
    options.max_age = Some(Duration::from_secs(60));
    let verified = verify(&ours(), &options).unwrap();
    assert!(verified.unchecked.is_empty());
    assert_eq!(verified.document, BENCH.document());

    let tagged = [&[0xd2][..], &ours()].concat();
    assert!(verify(&tagged, &options).is_ok());
}

#[test]
fn neither_root_accepts_the_others_documents() {
    assert_eq!(reason(AWS_DOCUMENT, &local(At::DocumentTime)), Reason::UnknownRoot);
    assert_eq!(reason(&ours(), &aws(At::DocumentTime)), Reason::UnknownRoot);
    let other =
        Authority::create(&identity(), &Lifetimes::default(), NOW, &mut counting()).unwrap();
    let other = Root::new("local", other.root().clone());
    assert_eq!(reason(&ours(), &any_image(other.clone(), At::DocumentTime)), Reason::UnknownRoot);
    let none = VerifyOptions { roots: Vec::new(), ..local(At::DocumentTime) };
    assert_eq!(reason(&ours(), &none), Reason::UnknownRoot);
    let several = VerifyOptions {
        roots: vec![other, Root::aws().unwrap(), BENCH.root()],
        ..local(At::DocumentTime)
    };
    assert!(verify(&ours(), &several).is_ok() && verify(AWS_DOCUMENT, &several).is_ok());
}

#[test]
fn a_root_of_ones_own_over_an_aws_chain_is_no_aws_document() {
    // AWS's root in front of our chain: the pin holds, the next certificate does not.
    let mut document = BENCH.document();
    document.cabundle[0] = Root::aws().unwrap().certificate().der().to_vec();
    let bytes = BENCH.key.sign_document(&document).unwrap();
    assert_eq!(reason(&bytes, &aws(At::DocumentTime)), Reason::IssuerMismatch);
}

#[test]
fn no_flipped_bit_is_ever_accepted() {
    let documents =
        [(AWS_DOCUMENT.to_vec(), aws(At::DocumentTime)), (ours(), local(At::DocumentTime))];
    for (bytes, options) in documents {
        let document = verify(&bytes, &options).unwrap().document;
        let at = i64::try_from(document.timestamp_ms / 1000).unwrap();
        let public_key = chain::verify(&document, at).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            // The signature covers all that opens, so under the right key it must fail everywhere;
            // the whole way, five times as slow, is gone where it differs: around and between the
            // fields, and in samples of them.
            let opened = Envelope::open(&flipped);
            assert!(
                opened.is_err()
                    || opened.is_ok_and(|envelope| envelope.verify(&public_key).is_err()),
                "bit {} of byte {at}",
                at % 8
            );
            if at < 200 || at % 9 == 0 || at + 120 > bytes.len() {
                assert!(verify(&flipped, &options).is_err(), "bit {} of byte {at}", at % 8);
            }
        }
    }
}

#[test]
fn no_cut_document_is_ever_accepted() {
    let bytes = ours();
    for len in 0..bytes.len() {
        assert!(verify(&bytes[..len], &local(At::DocumentTime)).is_err(), "{len}");
    }
    assert_eq!(
        reason(&[&bytes[..], &[0]].concat(), &local(At::DocumentTime)),
        Reason::MalformedCose
    );
}

#[test]
fn asks_for_registers() {
    let mut options = VerifyOptions::new(BENCH.root(), At::DocumentTime);
    assert_eq!(reason(&ours(), &options), Reason::ImageNotAsked);
    // The operator's registers and zeroes say nothing about the image.
    options.pcrs = BTreeMap::from([(3, pcrs()[&3]), (4, pcrs()[&4]), (5, Pcr::ZERO)]);
    assert_eq!(reason(&ours(), &options), Reason::ImageNotAsked);
    for index in IMAGE_PCRS {
        options.pcrs = BTreeMap::from([(index, pcrs()[&index])]);
        assert_eq!(verify(&ours(), &options).unwrap().checked, BTreeSet::from([Check::Image]));
        options.pcrs = BTreeMap::from([(index, Pcr::of(b"other"))]);
        let refusal = verify(&ours(), &options).unwrap_err();
        assert_eq!(refusal.reason, Reason::PcrMismatch);
        assert!(refusal.detail.contains(&pcrs()[&index].to_string()), "{refusal}");
        assert!(refusal.detail.contains(&Pcr::of(b"other").to_string()), "{refusal}");
    }
    options.pcrs = BTreeMap::from([(0, pcrs()[&0]), (16, Pcr::ZERO)]);
    assert_eq!(reason(&ours(), &options), Reason::PcrMissing);
    // Zero for a register of an unsigned image does not count as asking.
    let mut document = BENCH.document();
    document.pcrs.insert(8, Pcr::ZERO);
    options.pcrs = BTreeMap::from([(8, Pcr::ZERO)]);
    let bytes = BENCH.key.sign_document(&document).unwrap();
    assert_eq!(reason(&bytes, &options), Reason::ImageNotAsked);
}

#[test]
fn a_document_without_pcr0_counts_as_debug() {
    let mut document = BENCH.document();
    document.pcrs.remove(&0);
    let bytes = BENCH.key.sign_document(&document).unwrap();
    assert_eq!(reason(&bytes, &local(At::DocumentTime)), Reason::DebugEnclave);
}

#[test]
fn asks_for_a_nonce() {
    let ask =
        |nonce: &[u8]| VerifyOptions { nonce: Some(nonce.to_vec()), ..local(At::DocumentTime) };
    assert_eq!(verify(&ours(), &ask(b"nonce")).unwrap().checked, BTreeSet::from([Check::Nonce]));
    assert_eq!(reason(&ours(), &ask(b"other")), Reason::NonceMismatch);
    assert_eq!(reason(&ours(), &ask(b"")), Reason::NonceMismatch);
    let mut document = BENCH.document();
    document.nonce = None;
    let bytes = BENCH.key.sign_document(&document).unwrap();
    assert_eq!(reason(&bytes, &ask(b"")), Reason::NonceMissing);
}

#[test]
fn asks_for_an_age() {
    let young = |at, secs| VerifyOptions {
        max_age: Some(Duration::from_secs(secs)),
        ..local(At::Unix(at))
    };
    assert_eq!(
        verify(&ours(), &young(NOW + 10, 10)).unwrap().checked,
        BTreeSet::from([Check::Age])
    );
    assert_eq!(reason(&ours(), &young(NOW + 12, 11)), Reason::TooOld);
    assert!(verify(&ours(), &young(NOW + 12, u64::MAX)).is_ok());

    // At its own time a document has no age: it is not checked, and not said to be.
    let archived = VerifyOptions { max_age: Some(Duration::ZERO), ..local(At::DocumentTime) };
    assert!(verify(&ours(), &archived).unwrap().unchecked.contains(&Check::Age));

    let ahead = |ms: i64| {
        let mut document = BENCH.document();
        document.timestamp_ms = u64::try_from(NOW * 1000 + ms).unwrap();
        BENCH.key.sign_document(&document).unwrap()
    };
    assert!(verify(&ahead(60_000), &local(At::Unix(NOW))).is_ok());
    assert_eq!(reason(&ahead(60_001), &local(At::Unix(NOW))), Reason::TimestampInFuture);
}

#[test]
fn flags_fields_over_the_specification() {
    let mut document = BENCH.document();
    document.nonce = Some(vec![1; 1025]);
    let bytes = BENCH.key.sign_document(&document).unwrap();
    let notes = verify(&bytes, &local(At::DocumentTime)).unwrap().notes;
    assert_eq!(notes, ["nonce is 1025 bytes, the specification allows 1024"]);
}

#[test]
fn takes_low_and_high_s() {
    // The order of P-384.
    let order = BigNum::from_hex_str("ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973").unwrap();
    let bytes = ours();
    let split = bytes.len() - 48;
    let s = BigNum::from_slice(&bytes[split..]).unwrap();
    let mut other = BigNum::new().unwrap();
    other.checked_sub(&order, &s).unwrap();
    let twin = [&bytes[..split], &other.to_vec_padded(48).unwrap()].concat();
    assert!(verify(&bytes, &local(At::DocumentTime)).is_ok());
    assert!(verify(&twin, &local(At::DocumentTime)).is_ok());
    // But not zero, and not the order itself.
    for bad in [vec![0; 48], order.to_vec()] {
        let bad = [&bytes[..split], &bad].concat();
        assert_eq!(reason(&bad, &local(At::DocumentTime)), Reason::DocumentSignature);
    }
}

#[test]
fn refuses_a_document_signed_by_another_key() {
    let other = LeafKey::generate().unwrap();
    let bytes = other.sign_document(&BENCH.document()).unwrap();
    assert_eq!(reason(&bytes, &local(At::DocumentTime)), Reason::DocumentSignature);
    // Another payload under the same signature.
    let bytes = ours();
    let envelope = Envelope::open(&bytes).unwrap();
    let mut document = BENCH.document();
    document.nonce = Some(b"nonc3".to_vec());
    let payload = document.encode().unwrap();
    let at = bytes.len() - 98 - envelope.payload.len();
    let forged = [&bytes[..at], &payload, &bytes[bytes.len() - 98..]].concat();
    assert_eq!(reason(&forged, &local(At::DocumentTime)), Reason::DocumentSignature);
}

#[test]
fn refuses_bundles_out_of_order_or_incomplete() {
    let resign = |bend: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut document = BENCH.document();
        bend(&mut document.cabundle);
        reason(&BENCH.key.sign_document(&document).unwrap(), &local(At::DocumentTime))
    };
    assert_eq!(resign(&|bundle| bundle.swap(1, 2)), Reason::IssuerMismatch);
    assert_eq!(resign(&|bundle| bundle.swap(0, 3)), Reason::UnknownRoot);
    assert_eq!(resign(&|bundle| drop(bundle.remove(2))), Reason::IssuerMismatch);
    assert_eq!(resign(&|bundle| drop(bundle.remove(0))), Reason::UnknownRoot);
    assert_eq!(resign(&|bundle| bundle.truncate(1)), Reason::IssuerMismatch);
    assert_eq!(resign(&|bundle| bundle.push(bundle[3].clone())), Reason::PathLength);
    assert_eq!(resign(&|bundle| bundle.insert(1, bundle[0].clone())), Reason::IssuerMismatch);
    assert_eq!(resign(&|bundle| bundle[2].push(0)), Reason::MalformedCertificate);
    assert_eq!(resign(&|bundle| bundle[2].truncate(100)), Reason::MalformedCertificate);
}
