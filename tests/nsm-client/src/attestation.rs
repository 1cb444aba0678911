//! Attestation: with everything optional, with nothing, with the longest values, and with too long ones. The
//! documents are read back with AWS's own type for them. Signature and chain are for the verifiers outside.

use std::collections::BTreeMap;

use aws_nitro_enclaves_nsm_api::api::{AttestationDoc, Digest, Request, Response};
use serde_bytes::ByteBuf;

use crate::module::Module;
use crate::registers;

/// How every document from AWS begins: an untagged COSE_Sign1, ES384, no unprotected header, and a payload with
/// two bytes of length (nitro.md 5.1).
const START: [u8; 8] = [0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xa0, 0x59];

/// The registers that are locked when this runs, and so must be in a document.
const LOCKED: u16 = 18;

type Field = Option<&'static [u8]>;

/// Every way to ask. `id` is what DescribeNSM said.
pub(crate) fn check(module: &mut Module<'_>, id: &str) {
    let mut registers = BTreeMap::new();
    for index in 0..LOCKED {
        if let Some((_, value)) = registers::describe(module, index) {
            registers.insert(usize::from(index), ByteBuf::from(value));
        }
    }
    static LONGEST: [u8; 1024] = [0x5a; 1024];
    static TOO_LONG: [u8; 1025] = [0x5a; 1025];
    let all: [Field; 3] = [Some(b"user data"), Some(b"nonce"), Some(b"public key")];
    let longest: [Field; 3] = [Some(&LONGEST); 3];
    for fields in [longest, [Some(b""), None, None], [None, Some(b"nonce"), None], [None; 3], all] {
        if let Some(document) = attest(module, fields) {
            read_back(module, id, &registers, fields, &document);
            module.report.set_document(document);
        }
    }
    module.refused(request([Some(&TOO_LONG), None, None]), "InvalidArgument");
    module.refused(request([Some(&[0; 5000]), None, None]), "InputTooLarge");
}

fn request([user_data, nonce, public_key]: [Field; 3]) -> Request {
    let owned = |field: Field| field.map(ByteBuf::from);
    Request::Attestation {
        user_data: owned(user_data),
        nonce: owned(nonce),
        public_key: owned(public_key),
    }
}

fn attest(module: &mut Module<'_>, fields: [Field; 3]) -> Option<Vec<u8>> {
    match module.call(request(fields)) {
        Response::Attestation { document } => Some(document),
        other => {
            let lengths = fields.map(|field| field.map(<[u8]>::len));
            module.report.fail(format!("Attestation with {lengths:?} bytes: {other:?}"));
            None
        }
    }
}

fn read_back(
    module: &mut Module<'_>,
    id: &str,
    registers: &BTreeMap<usize, ByteBuf>,
    fields: [Field; 3],
    document: &[u8],
) {
    let Some(payload) = payload(document) else {
        module.report.fail(format!("document starts {:02x?}", document.get(..10)));
        return;
    };
    let read = match AttestationDoc::from_binary(payload) {
        Ok(read) => read,
        Err(error) => {
            module.report.fail(format!("AWS's reader refuses the document: {error:?}"));
            return;
        }
    };
    module.expect(read.module_id == id, || format!("module_id {:?}", read.module_id));
    module.expect(read.digest == Digest::SHA384, || format!("digest {:?}", read.digest));
    // The year 2020 in milliseconds: in the right unit, and set at all.
    module.expect(read.timestamp > 1_577_836_800_000, || format!("timestamp {}", read.timestamp));
    module.expect(read.pcrs == *registers, || {
        let indices: Vec<_> = read.pcrs.keys().collect();
        format!("the document's registers {indices:?} are not those that are locked")
    });
    module.expect(!read.certificate.is_empty(), || "no certificate".to_owned());
    module.expect(!read.cabundle.is_empty(), || "no certificates above the leaf".to_owned());
    let given = fields.map(|field| field.map(ByteBuf::from));
    let found = [read.user_data, read.nonce, read.public_key];
    module.expect(found == given, || format!("fields asked for {given:?}, found {found:?}"));
}

/// The payload of a COSE_Sign1 in AWS's exact form.
fn payload(document: &[u8]) -> Option<&[u8]> {
    let rest = document.strip_prefix(&START)?;
    let (length, rest) = rest.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}
