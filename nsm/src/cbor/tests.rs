//! The strict reader against hand-made inputs, and against `serde_cbor` on generated ones.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LENIENT: Limits = Limits::new(1 << 16).indefinite().non_minimal().tags(&[18]);
const STRICT: Limits = Limits::new(1 << 16);

fn check(hex: &str, limits: &Limits) -> Result<(), Error> {
    validate(&hex::decode(hex).unwrap(), limits)
}

#[test]
fn accepts_the_forms_in_use() {
    for hex in [
        "00", "1818", "3903e7", "43010203", "63616263", "80", "8101", "a0", "a10102", "f4", "f5",
        "f6",
    ] {
        assert_eq!(check(hex, &STRICT), Ok(()), "{hex}");
    }
    for hex in ["bf019f03ffff", "d28101", "1800", "590001ff", "9fff", "bfff"] {
        assert_eq!(check(hex, &LENIENT), Ok(()), "{hex}");
        assert!(check(hex, &STRICT).is_err(), "{hex}");
    }
}

#[test]
fn refuses_what_is_not_one_item() {
    assert_eq!(check("", &STRICT), Err(Error::CborTruncated { offset: 0 }));
    assert_eq!(check("0000", &STRICT), Err(Error::CborTrailing { offset: 1, extra: 1 }));
    assert_eq!(check("8201", &STRICT), Err(Error::CborTruncated { offset: 0 }));
    assert_eq!(check("4201", &STRICT), Err(Error::CborTruncated { offset: 0 }));
    assert_eq!(check("bf01", &LENIENT), Err(Error::CborTruncated { offset: 2 }));
    let long = Limits::new(3);
    assert_eq!(check("4401020304", &long), Err(Error::CborTooLong { len: 5, max: 3 }));
}

#[test]
fn refuses_lengths_that_only_the_head_claims() {
    for head in ["5b", "7b", "9b", "bb"] {
        for length in ["ffffffffffffffff", "7fffffffffffffff", "0000000100000000"] {
            let hex = format!("{head}{length}00");
            assert_eq!(check(&hex, &STRICT), Err(Error::CborTruncated { offset: 0 }), "{hex}");
        }
    }
}

#[test]
fn refuses_duplicate_keys_in_whatever_width() {
    let duplicate = |hex: &str, key: &str, offset| {
        let error = Error::CborDuplicateKey { key: key.to_owned(), offset };
        assert_eq!(check(hex, &LENIENT), Err(error), "{hex}");
    };
    duplicate("a201020103", "1", 3);
    duplicate("a20102180103", "1", 3);
    duplicate("bf20022003ff", "-1", 3);
    duplicate("a2616101616102", "\"a\"", 4);
    duplicate("a261610178016102", "\"a\"", 4);
    // The same key in another map is another key.
    assert_eq!(check("a201a1010102a10101", &LENIENT), Ok(()));
    assert_eq!(check("a201022003", &LENIENT), Ok(()));
}

#[test]
fn refuses_ill_formed_and_unwanted_items() {
    // Reserved codes, stray breaks, chunked strings, floats, undefined, odd maps, other tags and
    // keys, text that is not UTF-8, two-byte forms of simple values.
    for hex in [
        "1c",
        "3d",
        "5e",
        "7c",
        "9d",
        "bc",
        "dc",
        "fc",
        "1f",
        "3f",
        "df",
        "ff",
        "81ff",
        "bf01ff",
        "5f4101ff",
        "7f6161ff",
        "f90000",
        "fa00000000",
        "fb0000000000000000",
        "f7",
        "e0",
        "f800",
        "f818",
        "f8ff",
        "f816",
        "d1 00",
        "c0 00",
        "a1 40 00",
        "a1 80 00",
        "a1 a0 00",
        "a1 f6 00",
        "a1 d200 00",
        "61ff",
        "62c328",
        "d2ff",
        "9fd2ffff",
        "bf5f4101ff00ff",
    ] {
        assert!(check(&hex.replace(' ', ""), &LENIENT).is_err(), "{hex}");
    }
}

#[test]
fn refuses_nesting_beyond_its_limit() {
    let nested = |levels: usize| [vec![0x81; levels], vec![0]].concat();
    let limits = Limits::new(1 << 16).depth(4);
    assert_eq!(validate(&nested(4), &limits), Ok(()));
    assert_eq!(validate(&nested(5), &limits), Err(Error::CborDepth { offset: 4, max: 4 }));
    assert!(validate(&nested(60_000), &limits.depth(usize::MAX)).is_err());
    let tags = [vec![0xd2; 60_000], vec![0]].concat();
    assert_eq!(validate(&tags, &LENIENT), Err(Error::CborDepth { offset: 8, max: 8 }));
}

#[test]
fn does_not_take_numbers_for_field_names() {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Two {
        a: u8,
        b: u8,
    }
    let read = |hex: &str| from_slice::<Two>(&hex::decode(hex).unwrap(), &LENIENT);
    assert_eq!(read("a2616101616202"), Ok(Two { a: 1, b: 2 }));
    assert_eq!(read("bf616101616202ff"), Ok(Two { a: 1, b: 2 }));
    assert!(matches!(read("a200010102"), Err(Error::CborShape { .. })));
}

#[test]
fn keeps_order_and_tags_in_a_value() {
    let bytes = hex::decode("d2a30243aabbcc016162209ff5f6ff").unwrap();
    let expected = Value::Tag(
        18,
        Box::new(Value::Map(vec![
            (Value::Unsigned(2), Value::Bytes(&[0xaa, 0xbb, 0xcc])),
            (Value::Unsigned(1), Value::Text("b")),
            (Value::Negative(0), Value::Array(vec![Value::Bool(true), Value::Null])),
        ])),
    );
    assert_eq!(Value::from_slice(&bytes, &LENIENT), Ok(expected));
}

/// Values of the kinds this project reads.
fn values() -> impl Strategy<Value = serde_cbor::Value> {
    use serde_cbor::Value as V;
    let integer = prop_oneof![any::<i64>().prop_map(i128::from), any::<u64>().prop_map(i128::from)];
    let leaf = prop_oneof![
        Just(V::Null),
        any::<bool>().prop_map(V::Bool),
        integer.clone().prop_map(V::Integer),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(V::Bytes),
        ".{0,40}".prop_map(V::Text),
    ];
    let key = prop_oneof![integer.prop_map(V::Integer), ".{0,10}".prop_map(V::Text)];
    leaf.prop_recursive(6, 60, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(V::Array),
            prop::collection::btree_map(key.clone(), inner, 0..8).prop_map(V::Map),
        ]
    })
}

fn same(ours: &Value<'_>, theirs: &serde_cbor::Value) -> bool {
    use serde_cbor::Value as V;
    match (ours, theirs) {
        (Value::Unsigned(a), V::Integer(b)) => i128::from(*a) == *b,
        (Value::Negative(a), V::Integer(b)) => -1 - i128::from(*a) == *b,
        (Value::Bytes(a), V::Bytes(b)) => a == b,
        (Value::Text(a), V::Text(b)) => a == b,
        (Value::Array(a), V::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Map(a), V::Map(b)) => {
            a.len() == b.len()
                && a.iter().all(|(k, v)| b.iter().any(|(bk, bv)| same(k, bk) && same(v, bv)))
        }
        (Value::Tag(_, inner), theirs) => same(inner, theirs),
        (Value::Bool(a), V::Bool(b)) => a == b,
        (Value::Null, V::Null) => true,
        _ => false,
    }
}

proptest! {
    #[test]
    fn accepts_and_reads_whatever_serde_cbor_writes(value in values()) {
        let bytes = to_vec(&value).unwrap();
        let ours = Value::from_slice(&bytes, &STRICT).unwrap();
        prop_assert!(same(&ours, &value));
    }

    #[test]
    fn never_accepts_what_serde_cbor_refuses(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(ours) = Value::from_slice(&bytes, &LENIENT) {
            let theirs: serde_cbor::Value = serde_cbor::from_slice(&bytes).unwrap();
            prop_assert!(same(&ours, &theirs));
        }
    }

    #[test]
    fn agrees_with_serde_cbor_on_damaged_input(value in values(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = to_vec(&value).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(ours) = Value::from_slice(&bytes, &LENIENT) {
            let theirs: serde_cbor::Value = serde_cbor::from_slice(&bytes).unwrap();
            prop_assert!(same(&ours, &theirs));
        }
    }

    #[test]
    fn refuses_every_proper_prefix(value in values()) {
        let bytes = to_vec(&value).unwrap();
        for len in 0..bytes.len() {
            prop_assert!(validate(&bytes[..len], &LENIENT).is_err());
        }
    }

    #[test]
    fn round_trips_typed_values(value in any::<BTreeMap<String, Vec<Option<u32>>>>()) {
        let bytes = to_vec(&value).unwrap();
        prop_assert_eq!(from_slice::<BTreeMap<String, Vec<Option<u32>>>>(&bytes, &LENIENT).unwrap(), value);
    }
}
