//! The vectors of nitro.md 12, and the freedom that clients in use take.

use proptest::prelude::*;

use super::*;

fn read(hex: &str) -> Result<Request, Error> {
    Request::from_slice(&hex::decode(hex.replace(' ', "")).unwrap())
}

#[test]
fn writes_and_reads_the_vectors() {
    let vectors = [
        ("a16b4465736372696265504352a165696e64657800", Request::DescribePcr { index: 0 }),
        (
            "a169457874656e64504352a265696e6465781064646174614568656c6c6f",
            Request::ExtendPcr { index: 16, data: b"hello".to_vec() },
        ),
        ("6b44657363726962654e534d", Request::DescribeNsm),
        ("6947657452616e646f6d", Request::GetRandom),
        (
            "a16b4174746573746174696f6ea369757365725f64617461f6656e6f6e6365f66a7075626c69635f6b6579f6",
            Request::Attestation(AttestationFields::default()),
        ),
    ];
    for (hex, request) in vectors {
        assert_eq!(hex::encode(request.to_vec().unwrap()), hex);
        assert_eq!(read(hex), Ok(request));
    }
    let replies = [
        ("a1654572726f726c496e76616c6964496e646578", Response::Error(ErrorCode::InvalidIndex)),
        ("674c6f636b504352", Response::LockPcr),
    ];
    for (hex, response) in replies {
        assert_eq!(hex::encode(response.to_vec().unwrap()), hex);
        assert_eq!(Response::from_slice(&hex::decode(hex).unwrap()), Ok(response));
    }
}

#[test]
fn takes_what_clients_send() {
    let extend = Ok(Request::ExtendPcr { index: 16, data: b"hi".to_vec() });
    // ExtendPCR with: data first, text for bytes, wide integers, indefinite maps, wide lengths,
    // an argument nobody knows.
    for hex in [
        "a1 69457874656e64504352 a2 6464617461 426869 65696e646578 10",
        "a1 69457874656e64504352 a2 65696e646578 10 6464617461 626869",
        "a1 69457874656e64504352 a2 65696e646578 1810 6464617461 426869",
        "a1 69457874656e64504352 a2 65696e646578 1b0000000000000010 6464617461 426869",
        "bf 69457874656e64504352 bf 65696e646578 10 6464617461 426869 ff ff",
        "b801 7809457874656e64504352 b90002 65696e646578 10 6464617461 590002 6869",
        "a1 69457874656e64504352 a3 65696e646578 10 6464617461 426869 6178 81f6",
    ] {
        assert_eq!(read(hex), extend, "{hex}");
    }
    let bare = Ok(Request::Attestation(AttestationFields::default()));
    assert_eq!(read("a1 6b4174746573746174696f6e a0"), bare);
    assert_eq!(read("6b4174746573746174696f6e"), bare);
    assert_eq!(read("a1 6947657452616e646f6d f6"), Ok(Request::GetRandom));
    let empty = AttestationFields { nonce: Some(Vec::new()), ..Default::default() };
    assert_eq!(
        read("a1 6b4174746573746174696f6e a1 656e6f6e6365 40"),
        Ok(Request::Attestation(empty))
    );
    assert_eq!(
        read("a1 674c6f636b504352 a1 65696e646578 1bffffffffffffffff"),
        Ok(Request::LockPcr { index: u16::MAX })
    );
}

#[test]
fn refuses_what_is_no_request() {
    for hex in [
        "",
        "00",
        "f6",
        "80",
        "a0",
        // No such name; a name that needs arguments without them.
        "6178",
        "674c6f636b504352",
        // Two requests in one; a request followed by a byte.
        "a2 6947657452616e646f6d f6 6b44657363726962654e534d f6",
        "6947657452616e646f6d 00",
        // An index that is negative, text, missing, there twice.
        "a1 674c6f636b504352 a1 65696e646578 20",
        "a1 674c6f636b504352 a1 65696e646578 6130",
        "a1 674c6f636b504352 a0",
        "a1 674c6f636b504352 a2 65696e646578 10 65696e646578 10",
        // Data that is a number, null or missing.
        "a1 69457874656e64504352 a2 65696e646578 10 6464617461 01",
        "a1 69457874656e64504352 a2 65696e646578 10 6464617461 f6",
        "a1 69457874656e64504352 a1 65696e646578 10",
        // A tag.
        "d2 6947657452616e646f6d",
    ] {
        assert!(read(hex).is_err(), "{hex}");
    }
    assert!(Request::ExtendPcr { index: 0, data: vec![0; MAX_REQUEST] }.to_vec().is_err());
}

#[test]
fn writes_the_keys_of_describe_nsm_in_their_order() {
    let response = Response::DescribeNsm {
        version_major: 1,
        version_minor: 0,
        version_patch: 0,
        module_id: "i-1".to_owned(),
        max_pcrs: 32,
        locked_pcrs: BTreeSet::from([0, 1]),
        digest: Digest::Sha384,
    };
    let expected = "a16b44657363726962654e534da76d76657273696f6e5f6d616a6f72016d76657273696f6e5f6d696e6f72006d76657273696f6e5f7061746368006 96d6f64756c655f696463692d31686d61785f7063727318206b6c6f636b65645f70637273820001666469676573746653484133 3834";
    assert_eq!(hex::encode(response.to_vec().unwrap()), expected.replace(' ', ""));
}

proptest! {
    #[test]
    fn never_panics_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::from_slice(&bytes);
        let _ = Response::from_slice(&bytes);
    }

    #[test]
    fn reads_back_what_it_writes(
        index in any::<u16>(),
        data in prop::collection::vec(any::<u8>(), 0..100),
        fields in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..1024)), 3),
    ) {
        for request in [
            Request::ExtendPcr { index, data },
            Request::LockPcrs { range: index },
            Request::Attestation(AttestationFields {
                user_data: fields[0].clone(),
                nonce: fields[1].clone(),
                public_key: fields[2].clone(),
            }),
        ] {
            let bytes = request.to_vec().unwrap();
            prop_assert_eq!(Request::from_slice(&bytes).unwrap(), request);
        }
    }
}
