//! The nsm process as the keeper and the vmm see it: on its sockets, with a real (small) image and a real authority.

use std::path::Path;
use std::thread::{self, JoinHandle};

use attestation::{At, Authority, Identity, Lifetimes, Root, Verified, VerifyOptions};
use eif_builder::format::{Architecture, SectionKind};
use eif_builder::write::EifWriter;
use nsm::message::{AttestationFields, Request, Response};

use super::messages::Certificates;
use super::*;
use crate::channel::pair;

const ID: &str = "i-0123456789abcdef0-enc000000000000000a";

/// The image of nitro.md 12; its PCR0.
const PCR0: &str = "b42aad6f7306d31fcdd5acecf765a6db40523d2a7d8150ed99a7983cf395c2b8d0dfb3217ef2fef5f6baec704c1b16d0";

fn image(signature: Option<&[u8]>) -> OwnedFd {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.eif");
    let mut writer = EifWriter::create(&path, Architecture::X86_64).unwrap();
    let mut add = |kind, data: &[u8]| {
        writer.section(kind, data.len() as u64, &mut &data[..]).unwrap();
    };
    add(SectionKind::Kernel, b"kernel");
    add(SectionKind::Cmdline, b"cmdline");
    add(SectionKind::Metadata, b"{}");
    add(SectionKind::Ramdisk, b"ramdisk1");
    add(SectionKind::Ramdisk, b"ramdisk2");
    if let Some(signature) = signature {
        add(SectionKind::Signature, signature);
    }
    writer.finish().unwrap();
    sealed(&path)
}

fn sealed(path: &Path) -> OwnedFd {
    use std::os::fd::AsFd;
    SealedImage::open(path).unwrap().as_fd().try_clone_to_owned().unwrap()
}

struct Rig {
    keeper: Channel,
    vmm: OwnedFd,
    process: JoinHandle<Result<()>>,
    authority: Authority,
}

fn random(out: &mut [u8]) {
    SystemRandom::new().fill(out).unwrap();
}

impl Rig {
    fn start(image: OwnedFd, debug: bool) -> Self {
        let (keeper, theirs) = pair().unwrap();
        let (vmm, nsm_end) = pair().unwrap();
        let process = thread::spawn(move || {
            let channel = Channel::new(theirs, "The keeper");
            serve(&channel, image, &nsm_end).inspect_err(|error| {
                channel.send(&FromNsm::Failed(Failure::from(error))).unwrap();
            })
        });
        let keeper = Channel::new(keeper, "nsm");
        let setup = Setup {
            module_id: ID.to_owned(),
            debug,
            pcr3: Pcr::ZERO,
            pcr4: Pcr::of(b"i-0123456789abcdef0"),
        };
        keeper.send(&ToNsm::Setup(setup)).unwrap();
        let identity =
            Identity { host: "test".to_owned(), parent_id: "i-0123456789abcdef0".to_owned() };
        let authority =
            Authority::create(&identity, &Lifetimes::default(), now_seconds(), &mut random)
                .unwrap();
        Self { keeper, vmm, process, authority }
    }

    fn measured(&self) -> Measured {
        match self.keeper.expect_value(None).unwrap() {
            FromNsm::Measured(measured) => measured,
            other => panic!("{other:?}"),
        }
    }

    fn certify(&self, public_key: &str, now: i64) -> Certificates {
        let key = hex::decode(public_key).unwrap();
        let chain = self.authority.issue_leaf(&key, ID, 10, now).unwrap();
        let certificates = Certificates::from(&chain);
        self.keeper.send(&ToNsm::Certificates(certificates.clone())).unwrap();
        assert_eq!(self.keeper.expect_value::<FromNsm>(None).unwrap(), FromNsm::Serving);
        certificates
    }

    fn ask_raw(&self, request: &[u8]) -> Vec<u8> {
        send(self.vmm.as_raw_fd(), request, MsgFlags::MSG_NOSIGNAL).unwrap();
        let mut response = vec![0; MAX_RESPONSE];
        let length = recv(self.vmm.as_raw_fd(), &mut response, MsgFlags::empty()).unwrap();
        response.truncate(length);
        response
    }

    fn document(&self) -> Vec<u8> {
        let fields = AttestationFields { nonce: Some(vec![1, 2, 3]), ..Default::default() };
        let request = Request::Attestation(fields).to_vec().unwrap();
        match Response::from_slice(&self.ask_raw(&request)).unwrap() {
            Response::Attestation { document } => document,
            other => panic!("{other:?}"),
        }
    }

    fn verify(&self, document: &[u8], allow_debug: bool) -> Verified {
        let root = Root::new("test", self.authority.root().clone());
        let options = VerifyOptions {
            allow_debug,
            any_image: true,
            nonce: Some(vec![1, 2, 3]),
            ..VerifyOptions::new(root, At::DocumentTime)
        };
        attestation::verify(document, &options).unwrap()
    }

    fn end(self) -> Result<()> {
        drop((self.keeper, self.vmm));
        self.process.join().unwrap()
    }
}

#[test]
fn a_guest_gets_a_document_that_verifies_and_names_its_image() {
    let rig = Rig::start(image(None), false);
    let measured = rig.measured();
    assert_eq!(measured.pcr0.to_string(), PCR0);
    assert_eq!(measured.pcr8, None);
    rig.certify(&measured.leaf_public_key, now_seconds());
    let verified = rig.verify(&rig.document(), false);
    assert_eq!(verified.document.module_id, ID);
    assert_eq!(verified.document.pcrs[&0], measured.pcr0);
    assert_eq!(verified.document.pcrs[&4], Pcr::of(b"i-0123456789abcdef0"));
    assert!(verified.document.pcrs[&8].is_zero());
    rig.end().unwrap();
}

#[test]
fn debug_mode_measures_but_does_not_vouch() {
    let rig = Rig::start(image(None), true);
    let measured = rig.measured();
    assert_eq!(measured.pcr0.to_string(), PCR0);
    rig.certify(&measured.leaf_public_key, now_seconds());
    let verified = rig.verify(&rig.document(), true);
    assert!(verified.debug && verified.document.pcrs[&0].is_zero());
    assert!(!verified.document.pcrs[&4].is_zero());
    rig.end().unwrap();
}

#[test]
fn renewed_certificates_are_used_from_then_on() {
    let rig = Rig::start(image(None), false);
    let measured = rig.measured();
    rig.certify(&measured.leaf_public_key, now_seconds() - 60);
    let before = rig.verify(&rig.document(), false);
    let renewed = rig.certify(&measured.leaf_public_key, now_seconds());
    let after = rig.verify(&rig.document(), false);
    assert_ne!(before.document.certificate, after.document.certificate);
    assert_eq!(hex::encode(&after.document.certificate), renewed.leaf);
    rig.end().unwrap();
}

#[test]
fn hostile_requests_are_answered_and_the_next_one_too() {
    let rig = Rig::start(image(None), false);
    let measured = rig.measured();
    rig.certify(&measured.leaf_public_key, now_seconds());
    for (request, code) in [
        (&b""[..], "InvalidOperation"),
        (&[0xff; 10], "InvalidOperation"),
        (&[0; MAX_REQUEST + 1], "InputTooLarge"),
        (&[0; MAX_REQUEST * 3], "InputTooLarge"),
    ] {
        let answer = rig.ask_raw(request);
        assert!(String::from_utf8_lossy(&answer).contains(code), "{answer:?}");
    }
    rig.verify(&rig.document(), false);
    rig.end().unwrap();
}

#[test]
fn a_bad_signature_section_is_e59_and_nothing_is_served() {
    let rig = Rig::start(image(Some(b"\x80")), false);
    match rig.keeper.expect_value(None).unwrap() {
        FromNsm::Failed(failure) => assert_eq!(failure.code, crate::error::code::EIF_SIGNATURE),
        other => panic!("{other:?}"),
    }
    assert!(rig.end().is_err());
}

#[test]
fn a_damaged_image_is_e35() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.eif");
    std::fs::write(&path, b"\x2eeif not quite").unwrap();
    let rig = Rig::start(sealed(&path), false);
    match rig.keeper.expect_value(None).unwrap() {
        FromNsm::Failed(failure) => assert_eq!(failure.code, crate::error::code::EIF_PARSING),
        other => panic!("{other:?}"),
    }
    assert!(rig.end().is_err());
}

#[test]
fn the_end_of_the_vmm_is_an_orderly_end() {
    let rig = Rig::start(image(None), false);
    let measured = rig.measured();
    rig.certify(&measured.leaf_public_key, now_seconds());
    drop(rig.vmm);
    rig.process.join().unwrap().unwrap();
}
