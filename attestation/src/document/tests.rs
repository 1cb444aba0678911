//! The payload's exact bytes, and payloads with one thing wrong.

use nsm::cbor::to_vec;
use serde_bytes::ByteBuf;

use super::*;
use crate::test_authority::BENCH;

/// A payload as a list of entries that a test may bend.
fn entries() -> Vec<(&'static str, Vec<u8>)> {
    let bytes = |bytes: &[u8]| to_vec(&Bytes::new(bytes)).unwrap();
    let pcrs: BTreeMap<u8, Pcr> = BTreeMap::from([(0, Pcr::of(b"0")), (31, Pcr::of(b"31"))]);
    vec![
        ("module_id", to_vec(&"i-1-enc1").unwrap()),
        ("digest", to_vec(&"SHA384").unwrap()),
        ("timestamp", to_vec(&1_700_000_000_000_u64).unwrap()),
        ("pcrs", to_vec(&pcrs).unwrap()),
        ("certificate", bytes(b"leaf")),
        ("cabundle", to_vec(&vec![ByteBuf::from(b"root".to_vec())]).unwrap()),
        ("public_key", vec![0xf6]),
        ("user_data", bytes(b"")),
        ("nonce", bytes(b"n")),
    ]
}

fn payload(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0xa0 | u8::try_from(entries.len()).unwrap()];
    for (key, value) in entries {
        bytes.extend(to_vec(key).unwrap());
        bytes.extend(value);
    }
    bytes
}

/// Decodes the payload with one value replaced.
fn with(key: &str, value: Vec<u8>) -> Result<AttestationDocument, Reason> {
    let mut entries = entries();
    entries.iter_mut().find(|(name, _)| *name == key).unwrap().1 = value;
    AttestationDocument::decode(&payload(&entries)).map_err(|refusal| refusal.reason)
}

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

#[test]
fn writes_the_keys_in_awss_order_and_nulls() {
    let document = BENCH.document();
    let bytes = document.encode().unwrap();
    let Value::Map(entries) = Value::from_slice(&bytes, &LIMITS).unwrap() else { panic!() };
    let keys: Vec<_> = entries.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys, KEYS.map(Value::Text));
    assert_eq!(bytes[..11], *b"\xa9\x69module_id");
    assert_eq!(entries[1].1, Value::Text("SHA384"));
    assert_eq!(entries[6].1, Value::Null);
    assert_eq!(entries[7].1, Value::Bytes(b""));
    // A timestamp takes its 8-byte form, and pcrs is a map of 16 with a definite length.
    let at = bytes.windows(10).position(|window| window == b"\x69timestamp").unwrap();
    assert_eq!(bytes[at + 10], 0x1b);
    let at = bytes.windows(5).position(|window| window == b"\x64pcrs").unwrap();
    assert_eq!(bytes[at + 5..at + 9], [0xb0, 0x00, 0x58, 0x30]);
    assert_eq!(AttestationDocument::decode(&bytes), Ok(document));
}

#[test]
fn reads_any_order_and_an_indefinite_map() {
    let expected = AttestationDocument::decode(&payload(&entries())).unwrap();
    assert_eq!(expected.user_data, Some(Vec::new()));
    let mut reversed = entries();
    reversed.reverse();
    assert_eq!(AttestationDocument::decode(&payload(&reversed)), Ok(expected.clone()));
    let mut indefinite = payload(&entries());
    indefinite[0] = 0xbf;
    indefinite.push(0xff);
    assert_eq!(AttestationDocument::decode(&indefinite), Ok(expected.clone()));
    let without_null: Vec<_> =
        entries().into_iter().filter(|(key, _)| *key != "public_key").collect();
    assert_eq!(AttestationDocument::decode(&payload(&without_null)), Ok(expected));
}

#[test]
fn refuses_a_payload_with_one_thing_wrong() {
    let malformed = Err(Reason::MalformedDocument);
    for (name, _) in entries() {
        let all = entries();
        let twice: Vec<_> =
            all.iter().chain(all.iter().filter(|(key, _)| *key == name)).cloned().collect();
        assert_eq!(
            AttestationDocument::decode(&payload(&twice)).unwrap_err().reason,
            Reason::MalformedDocument,
            "{name} twice"
        );
        // Every field has a type, and none is a number, a text and a map at once.
        assert_eq!(with(name, hex("20")), malformed, "{name}");
        assert_eq!(with(name, hex("f5")), malformed, "{name}");
        if !["public_key", "user_data", "nonce"].contains(&name) {
            assert_eq!(with(name, hex("f6")), malformed, "{name}");
            let missing: Vec<_> = all.into_iter().filter(|(key, _)| *key != name).collect();
            assert!(AttestationDocument::decode(&payload(&missing)).is_err(), "{name}");
        }
    }
    assert_eq!(with("module_id", hex("43010203")), malformed);
    assert_eq!(with("user_data", hex("6161")), malformed);
    assert_eq!(with("certificate", hex("6161")), malformed);
    assert_eq!(with("pcrs", hex("a1 6130 40")), malformed);
    assert_eq!(with("cabundle", hex("81 6161")), malformed);
    let mut unknown = entries();
    unknown.push(("more", vec![0]));
    assert!(AttestationDocument::decode(&payload(&unknown)).is_err());
    let trailing = [payload(&entries()), vec![0]].concat();
    assert!(AttestationDocument::decode(&trailing).is_err());
    assert!(AttestationDocument::decode(&[]).is_err());
}

#[test]
fn holds_the_limits_of_the_specification() {
    let limits = Err(Reason::DocumentLimits);
    let bytes = |len: usize| to_vec(&ByteBuf::from(vec![1; len])).unwrap();
    assert_eq!(with("module_id", hex("60")), limits);
    assert_eq!(with("digest", to_vec(&"SHA256").unwrap()), limits);
    assert_eq!(with("timestamp", hex("00")), limits);
    assert_eq!(with("certificate", bytes(0)), limits);
    assert_eq!(with("certificate", bytes(1025)), limits);
    assert!(with("certificate", bytes(1024)).is_ok());
    assert_eq!(with("cabundle", hex("80")), limits);
    assert_eq!(with("cabundle", hex("81 40")), limits);
    assert_eq!(with("pcrs", hex("a0")), limits);
    assert_eq!(with("pcrs", [hex("a1 1820 5830"), vec![0; 48]].concat()), limits);
    assert_eq!(with("pcrs", [hex("a1 00 5820"), vec![0; 32]].concat()), limits);
    // Longer fields than the specification allows are flagged, not refused.
    assert!(with("nonce", bytes(1025)).is_ok());
    assert_eq!(with("nonce", bytes(MAX_PAYLOAD)), limits);
}
