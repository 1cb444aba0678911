//! The device against vectors, against a model of its own making, and exhaustively for the one
//! promise that matters most: a locked register never changes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// A clock that ticks, random bytes that count, and documents that list their claims.
struct Bench {
    now_ms: u64,
    next: u8,
    works: bool,
    document_len: usize,
    claims: Vec<Claims>,
}

impl Bench {
    fn new() -> Self {
        Self { now_ms: 1_700_000_000_000, next: 0, works: true, document_len: 4500, claims: vec![] }
    }
}

impl Environment for Bench {
    fn now_ms(&mut self) -> u64 {
        self.now_ms += 1;
        self.now_ms
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), Unavailable> {
        for byte in out {
            *byte = self.next;
            self.next = self.next.wrapping_add(1);
        }
        if self.works { Ok(()) } else { Err(Unavailable) }
    }

    fn attest(&mut self, claims: &Claims) -> Result<Vec<u8>, Unavailable> {
        self.claims.push(claims.clone());
        if self.works { Ok(vec![0xd0; self.document_len]) } else { Err(Unavailable) }
    }
}

fn bank() -> PcrBank {
    let [a, b, c, d, e, f] = [b"0", b"1", b"2", b"3", b"4", b"8"].map(|data| Pcr::of(data));
    PcrBank::for_enclave(a, b, c, d, e, f)
}

fn device(debug: bool) -> Device {
    Device::new("i-0123456789abcdef0-enc0123456789abcdef".parse().unwrap(), bank(), debug)
}

fn ask(device: &mut Device, request: &Request) -> Response {
    let bytes = device.handle(&request.to_vec().unwrap(), MAX_RESPONSE, &mut Bench::new());
    Response::from_slice(&bytes).unwrap()
}

fn ask_raw(device: &mut Device, request: &[u8], capacity: usize, bench: &mut Bench) -> Response {
    Response::from_slice(&device.handle(request, capacity, bench)).unwrap()
}

#[test]
fn answers_each_request() {
    let mut device = device(false);
    assert_eq!(
        ask(&mut device, &Request::DescribePcr { index: 0 }),
        Response::DescribePcr { lock: true, data: Pcr::of(b"0") }
    );
    let hello = Request::ExtendPcr { index: 16, data: b"hello".to_vec() };
    assert_eq!(ask(&mut device, &hello), Response::ExtendPcr { data: Pcr::of(b"hello") });
    assert_eq!(ask(&mut device, &Request::LockPcr { index: 16 }), Response::LockPcr);
    assert_eq!(ask(&mut device, &hello), Response::Error(ErrorCode::ReadOnlyIndex));
    assert_eq!(ask(&mut device, &Request::LockPcrs { range: 18 }), Response::LockPcrs);
    assert_eq!(
        ask(&mut device, &Request::DescribeNsm),
        Response::DescribeNsm {
            version_major: 1,
            version_minor: 0,
            version_patch: 0,
            module_id: "i-0123456789abcdef0-enc0123456789abcdef".to_owned(),
            max_pcrs: 32,
            locked_pcrs: (0..18).collect(),
            digest: Digest::Sha384,
        }
    );
}

#[test]
fn attests_locked_registers_only() {
    let mut device = device(false);
    let mut bench = Bench::new();
    ask(&mut device, &Request::ExtendPcr { index: 20, data: b"a".to_vec() });
    ask(&mut device, &Request::ExtendPcr { index: 21, data: b"b".to_vec() });
    ask(&mut device, &Request::LockPcr { index: 21 });
    let fields = AttestationFields { nonce: Some(vec![1; 1024]), ..Default::default() };
    let request = Request::Attestation(fields.clone()).to_vec().unwrap();
    let response = ask_raw(&mut device, &request, MAX_RESPONSE, &mut bench);
    assert_eq!(response, Response::Attestation { document: vec![0xd0; 4500] });
    let [claims] = bench.claims.as_slice() else { panic!("one document") };
    assert_eq!(claims.fields, fields);
    assert_eq!(claims.timestamp_ms, 1_700_000_000_001);
    let indices: Vec<u8> = claims.pcrs.keys().copied().collect();
    assert_eq!(indices, (0..16).chain([21]).collect::<Vec<u8>>());
    assert_eq!(claims.pcrs[&21], Pcr::of(b"b"));
}

#[test]
fn conceals_the_image_in_debug_mode() {
    let mut device = device(true);
    for (index, expected) in [
        (0, Pcr::ZERO),
        (1, Pcr::ZERO),
        (2, Pcr::ZERO),
        (3, Pcr::of(b"3")),
        (4, Pcr::of(b"4")),
        (8, Pcr::ZERO),
    ] {
        let response = ask(&mut device, &Request::DescribePcr { index });
        assert_eq!(response, Response::DescribePcr { lock: true, data: expected }, "PCR{index}");
    }
}

#[test]
fn locks_the_launch_registers_of_any_bank() {
    let device = Device::new("x".parse().unwrap(), PcrBank::new(), false);
    assert_eq!(
        device.bank().locked().map(|(index, _)| index).collect::<Vec<_>>(),
        Vec::from_iter(0..16)
    );
}

#[test]
fn refuses_with_the_right_code() {
    let mut device = device(false);
    let mut bench = Bench::new();
    let mut code = |request: &[u8]| match ask_raw(&mut device, request, MAX_RESPONSE, &mut bench) {
        Response::Error(code) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(&[0; MAX_REQUEST + 1]), ErrorCode::InputTooLarge);
    assert_eq!(code(&[0; MAX_REQUEST]), ErrorCode::InvalidOperation);
    assert_eq!(code(b""), ErrorCode::InvalidOperation);
    assert_eq!(code(&[0x81; 4000]), ErrorCode::InvalidOperation);
    for request in [
        Request::DescribePcr { index: 32 },
        Request::ExtendPcr { index: 32, data: vec![] },
        Request::LockPcr { index: u16::MAX },
        Request::LockPcrs { range: 33 },
    ] {
        assert_eq!(code(&request.to_vec().unwrap()), ErrorCode::InvalidIndex, "{request:?}");
    }
    let long = Some(vec![0; 1025]);
    for fields in [
        AttestationFields { user_data: long.clone(), ..Default::default() },
        AttestationFields { nonce: long.clone(), ..Default::default() },
        AttestationFields { public_key: long.clone(), ..Default::default() },
    ] {
        let request = Request::Attestation(fields).to_vec().unwrap();
        assert_eq!(code(&request), ErrorCode::InvalidArgument);
    }
}

#[test]
fn says_internal_error_when_the_outside_fails() {
    let mut device = device(false);
    let mut bench = Bench { works: false, ..Bench::new() };
    for request in [Request::GetRandom, Request::Attestation(AttestationFields::default())] {
        let request = request.to_vec().unwrap();
        assert_eq!(
            ask_raw(&mut device, &request, MAX_RESPONSE, &mut bench),
            Response::Error(ErrorCode::InternalError)
        );
    }
}

#[test]
fn gives_256_random_bytes_in_the_form_the_driver_expects() {
    let bytes = device(false).handle(b"\x69GetRandom", MAX_RESPONSE, &mut Bench::new());
    assert_eq!(bytes[..22], *b"\xa1\x69GetRandom\xa1\x66random\x59\x01\x00");
    assert_eq!(bytes[22..], Vec::from_iter(0..=255u8));
}

#[test]
fn fits_any_buffer_or_says_so() {
    for capacity in 0..400 {
        let mut device = device(false);
        let mut bench = Bench::new();
        let random = device.handle(b"\x69GetRandom", capacity, &mut bench);
        assert!(random.len() <= capacity);
        match Response::from_slice(&random) {
            Ok(Response::GetRandom { random }) => assert!(random.len() >= RANDOM_MIN),
            Ok(response) => assert_eq!(response, Response::Error(ErrorCode::BufferTooSmall)),
            Err(_) => assert!(random.is_empty() && capacity < 22, "{capacity}"),
        }
        // A change the guest could not be told about must not happen.
        let extend = Request::ExtendPcr { index: 16, data: b"x".to_vec() }.to_vec().unwrap();
        let answer = device.handle(&extend, capacity, &mut bench);
        assert!(answer.len() <= capacity);
        let extended = matches!(Response::from_slice(&answer), Ok(Response::ExtendPcr { .. }));
        assert_eq!(device.bank().describe(16).unwrap().0 == Pcr::of(b"x"), extended, "{capacity}");
    }
    let mut bench = Bench { document_len: MAX_RESPONSE, ..Bench::new() };
    let request = Request::Attestation(AttestationFields::default()).to_vec().unwrap();
    assert_eq!(
        ask_raw(&mut device(false), &request, usize::MAX, &mut bench),
        Response::Error(ErrorCode::BufferTooSmall)
    );
}

#[test]
fn module_ids_are_visible_and_fit_the_c_library() {
    assert!("i-1".parse::<ModuleId>().is_ok() && "x".repeat(99).parse::<ModuleId>().is_ok());
    for bad in ["", "a b", "é", "a\n", &"x".repeat(100)] {
        assert_eq!(bad.parse::<ModuleId>(), Err(Error::ModuleId { given: bad.to_owned() }));
    }
}

/// Every sequence of five requests from an alphabet that touches a launch register, the first free
/// one and the last one: no register changes once locked, and none is unlocked.
#[test]
fn no_short_sequence_changes_a_locked_register() {
    let alphabet: Vec<Vec<u8>> = [
        Request::ExtendPcr { index: 15, data: b"x".to_vec() },
        Request::ExtendPcr { index: 16, data: b"x".to_vec() },
        Request::ExtendPcr { index: 31, data: Vec::new() },
        Request::LockPcr { index: 15 },
        Request::LockPcr { index: 16 },
        Request::LockPcr { index: 31 },
        Request::LockPcrs { range: 17 },
        Request::LockPcrs { range: 32 },
    ]
    .iter()
    .map(|request| request.to_vec().unwrap())
    .collect();

    fn explore(device: &Device, alphabet: &[Vec<u8>], left: usize, visited: &mut usize) {
        let locked: Vec<_> = device.bank().locked().collect();
        for request in alphabet {
            let mut next = device.clone();
            next.handle(request, MAX_RESPONSE, &mut Bench::new());
            *visited += 1;
            let after: BTreeMap<_, _> = next.bank().locked().collect();
            assert!(locked.iter().all(|(index, value)| after.get(index) == Some(value)));
            if left > 1 {
                explore(&next, alphabet, left - 1, visited);
            }
        }
    }
    let mut visited = 0;
    explore(&device(false), &alphabet, 5, &mut visited);
    assert_eq!(visited, 8 + 64 + 512 + 4096 + 32768);
}

/// What the device should do, written the plain way: a list of registers and a set of locked ones.
struct Model {
    values: Vec<Vec<u8>>,
    locked: BTreeSet<usize>,
}

impl Model {
    fn new() -> Self {
        let mut values = vec![vec![0; 48]; 32];
        for (index, data) in [(0, b"0"), (1, b"1"), (2, b"2"), (3, b"3"), (4, b"4"), (8, b"8")] {
            values[index] = sha384(&[&[0; 48], data]);
        }
        Self { values, locked: (0..16).collect() }
    }

    fn expect(&mut self, request: &Request) -> Result<Option<Vec<u8>>, ErrorCode> {
        let writable = |index: usize, locked: &BTreeSet<usize>| match index {
            32.. => Err(ErrorCode::InvalidIndex),
            _ if locked.contains(&index) => Err(ErrorCode::ReadOnlyIndex),
            _ => Ok(()),
        };
        match request {
            Request::DescribePcr { index } => match self.values.get(usize::from(*index)) {
                Some(value) => Ok(Some(value.clone())),
                None => Err(ErrorCode::InvalidIndex),
            },
            Request::ExtendPcr { index, data } => {
                let index = usize::from(*index);
                writable(index, &self.locked)?;
                self.values[index] = sha384(&[&self.values[index], data]);
                Ok(Some(self.values[index].clone()))
            }
            Request::LockPcr { index } => {
                writable(usize::from(*index), &self.locked)?;
                self.locked.insert(usize::from(*index));
                Ok(None)
            }
            Request::LockPcrs { range } if *range > 32 => Err(ErrorCode::InvalidIndex),
            Request::LockPcrs { range } => {
                self.locked.extend(0..usize::from(*range));
                Ok(None)
            }
            Request::Attestation(fields) => {
                let long = |field: &Option<Vec<u8>>| field.as_ref().is_some_and(|f| f.len() > 1024);
                if [&fields.user_data, &fields.nonce, &fields.public_key].into_iter().any(long) {
                    return Err(ErrorCode::InvalidArgument);
                }
                Ok(None)
            }
            Request::DescribeNsm | Request::GetRandom => Ok(None),
        }
    }
}

fn sha384(parts: &[&[u8]]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA384, &parts.concat()).as_ref().to_vec()
}

fn requests() -> impl Strategy<Value = Request> {
    let index = || prop_oneof![4 => 14u16..20, 2 => 0u16..33, 1 => any::<u16>()];
    let field = || {
        let length = prop_oneof![0..4usize, 1023..1026usize];
        prop::option::of(length.prop_map(|length| vec![0xab; length]))
    };
    prop_oneof![
        index().prop_map(|index| Request::DescribePcr { index }),
        (index(), prop::collection::vec(any::<u8>(), 0..80))
            .prop_map(|(index, data)| Request::ExtendPcr { index, data }),
        index().prop_map(|index| Request::LockPcr { index }),
        prop_oneof![0u16..20, 30u16..35, any::<u16>()]
            .prop_map(|range| Request::LockPcrs { range }),
        Just(Request::DescribeNsm),
        Just(Request::GetRandom),
        (field(), field(), field()).prop_map(|(user_data, nonce, public_key)| {
            Request::Attestation(AttestationFields { user_data, nonce, public_key })
        }),
    ]
}

proptest! {
    #[test]
    fn behaves_like_the_model(sequence in prop::collection::vec(requests(), 1..40)) {
        let mut device = device(false);
        let mut model = Model::new();
        for request in sequence {
            let mut bench = Bench::new();
            let response = ask_raw(&mut device, &request.to_vec().unwrap(), MAX_RESPONSE, &mut bench);
            match (model.expect(&request), &request, response) {
                (Err(code), _, response) => prop_assert_eq!(response, Response::Error(code)),
                (Ok(Some(value)), Request::DescribePcr { index }, Response::DescribePcr { lock, data }) => {
                    prop_assert_eq!(&data.as_bytes()[..], &value[..]);
                    prop_assert_eq!(lock, model.locked.contains(&usize::from(*index)));
                }
                (Ok(Some(value)), Request::ExtendPcr { .. }, Response::ExtendPcr { data }) => {
                    prop_assert_eq!(&data.as_bytes()[..], &value[..]);
                }
                (Ok(None), Request::LockPcr { .. }, Response::LockPcr)
                | (Ok(None), Request::LockPcrs { .. }, Response::LockPcrs) => {}
                (Ok(None), Request::DescribeNsm, Response::DescribeNsm { locked_pcrs, .. }) => {
                    prop_assert!(locked_pcrs.iter().map(|i| usize::from(*i)).eq(model.locked.iter().copied()));
                }
                (Ok(None), Request::GetRandom, Response::GetRandom { random }) => {
                    prop_assert_eq!(random.len(), 256);
                }
                (Ok(None), Request::Attestation(fields), Response::Attestation { .. }) => {
                    let claims = &bench.claims[0];
                    prop_assert_eq!(&claims.fields, fields);
                    prop_assert!(claims.pcrs.keys().map(|i| usize::from(*i)).eq(model.locked.iter().copied()));
                    for (index, pcr) in &claims.pcrs {
                        prop_assert_eq!(&pcr.as_bytes()[..], &model.values[usize::from(*index)][..]);
                    }
                }
                (expected, request, response) => {
                    prop_assert!(false, "{request:?}: {expected:?}, but {response:?}");
                }
            }
        }
    }

    #[test]
    fn survives_any_bytes(request in prop::collection::vec(any::<u8>(), 0..300), capacity in 0usize..13_000) {
        let mut device = device(false);
        let before: Vec<_> = device.bank().locked().collect();
        let response = device.handle(&request, capacity, &mut Bench::new());
        prop_assert!(response.len() <= capacity);
        let after: BTreeMap<_, _> = device.bank().locked().collect();
        prop_assert!(before.iter().all(|(index, value)| after.get(index) == Some(value)));
    }
}
