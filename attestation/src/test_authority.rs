//! One authority, key and document for the tests of this crate: made once, because keys cost time.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use nsm::message::AttestationFields;
use nsm::{Claims, Pcr, PcrBank};

use crate::{AttestationDocument, Authority, Identity, LeafChain, LeafKey, Lifetimes, Root};

/// 2026-11-22T12:00:00Z.
pub(crate) const NOW: i64 = 1_795_348_800;
pub(crate) const MODULE_ID: &str = "i-0123456789abcdef0-enc0123456789abcdef";

pub(crate) static BENCH: LazyLock<Bench> = LazyLock::new(Bench::new);

pub(crate) struct Bench {
    pub(crate) authority: Authority,
    pub(crate) key: LeafKey,
    pub(crate) chain: LeafChain,
}

pub(crate) fn identity() -> Identity {
    Identity { host: "bench".to_owned(), parent_id: "i-0123456789abcdef0".to_owned() }
}

/// "Random" bytes that are different each time and the same each run.
pub(crate) fn counting() -> impl FnMut(&mut [u8]) {
    let mut next = 0u8;
    move |out: &mut [u8]| {
        for byte in out {
            *byte = next;
            next = next.wrapping_add(7);
        }
    }
}

impl Bench {
    fn new() -> Self {
        let authority =
            Authority::create(&identity(), &Lifetimes::default(), NOW, &mut counting()).unwrap();
        let key = LeafKey::generate().unwrap();
        let chain = authority
            .issue_leaf(key.public_key_der(), MODULE_ID, 0x0123_4567_89ab_cdef, NOW)
            .unwrap();
        Self { authority, key, chain }
    }

    pub(crate) fn root(&self) -> Root {
        Root::new("local", self.authority.root().clone())
    }

    pub(crate) fn document(&self) -> AttestationDocument {
        let claims = Claims {
            module_id: MODULE_ID.parse().unwrap(),
            timestamp_ms: u64::try_from(NOW * 1000).unwrap() + 123,
            pcrs: pcrs(),
            fields: AttestationFields {
                nonce: Some(b"nonce".to_vec()),
                user_data: Some(Vec::new()),
                public_key: None,
            },
        };
        AttestationDocument::new(&claims, &self.chain)
    }
}

pub(crate) fn pcrs() -> BTreeMap<u8, Pcr> {
    let [a, b, c, d, e, f] = [b"0", b"1", b"2", b"3", b"4", b"8"].map(|data| Pcr::of(data));
    PcrBank::for_enclave(a, b, c, d, e, f).locked().collect()
}
