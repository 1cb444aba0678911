//! Signatures made here with OpenSSL, in the form of nitro.md 1.6, and every way in which one must
//! be refused.

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509, X509NameBuilder};

use super::certificate::Curve;
use super::*;

/// A time within the life of the certificates made here.
pub(crate) const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

/// One element of the section's array, as AWS's tools write it.
#[derive(Serialize)]
struct Element {
    signing_certificate: Vec<u8>,
    signature: Vec<u8>,
}

pub(crate) struct Signer {
    curve: Curve,
    key: EcKey<Private>,
    pem: Vec<u8>,
}

impl Signer {
    fn new(nid: Nid) -> Self {
        let curve = match nid {
            Nid::X9_62_PRIME256V1 => Curve::P256,
            Nid::SECP384R1 => Curve::P384,
            _ => Curve::P521,
        };
        let key = EcKey::generate(&EcGroup::from_curve_name(nid).unwrap()).unwrap();
        let pkey = PKey::from_ec_key(key.clone()).unwrap();
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_nid(Nid::COMMONNAME, "signer").unwrap();
        name.append_entry_by_nid(Nid::COUNTRYNAME, "AT").unwrap();
        let name = name.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let serial = Asn1Integer::from_bn(&BigNum::from_u32(7).unwrap()).unwrap();
        builder.set_serial_number(&serial).unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        builder.set_pubkey(&pkey).unwrap();
        let at = |time| Asn1Time::from_unix(time).unwrap();
        builder.set_not_before(&at(NOW - DAY)).unwrap();
        builder.set_not_after(&at(NOW + DAY)).unwrap();
        builder.sign(&pkey, curve.digest()).unwrap();
        Self { curve, key, pem: builder.build().to_pem().unwrap() }
    }

    pub(crate) fn p384() -> Self {
        Self::new(Nid::SECP384R1)
    }

    fn cose(&self, payload: &[u8]) -> Vec<u8> {
        let protected = self.curve.protected_header();
        let message = to_be_signed(protected, payload).unwrap();
        let digest = hash(self.curve.digest(), &message).unwrap();
        let signature = EcdsaSig::sign(&digest, &self.key).unwrap();
        let width = i32::try_from(self.curve.scalar_len()).unwrap();
        let mut raw = signature.r().to_vec_padded(width).unwrap();
        raw.extend(signature.s().to_vec_padded(width).unwrap());
        // The empty map has no other spelling.
        let mut cose = vec![0x84];
        cose.extend(cbor::to_vec(&Bytes::new(protected)).unwrap());
        cose.push(0xa0);
        cose.extend(cbor::to_vec(&Bytes::new(payload)).unwrap());
        cose.extend(cbor::to_vec(&Bytes::new(&raw)).unwrap());
        cose
    }

    fn section_of(&self, cose: Vec<u8>) -> Vec<u8> {
        let element = Element { signing_certificate: self.pem.clone(), signature: cose };
        cbor::to_vec(&[element]).unwrap()
    }

    /// The section for an image with this PCR0.
    pub(crate) fn section(&self, pcr0: Pcr) -> Vec<u8> {
        self.section_of(self.cose(&payload(pcr0).unwrap()))
    }
}

fn refusals(section: &[u8], pcr0: Pcr, now: i64) -> Vec<Error> {
    SignatureSection::parse(section).unwrap().check(pcr0, now).unwrap().refusals
}

fn why_unreadable(section: &[u8]) -> String {
    SignatureSection::parse(section).unwrap_err().to_string()
}

#[test]
fn accepts_all_three_curves() {
    let pcr0 = Pcr::of(b"image");
    for nid in [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1] {
        let section = SignatureSection::parse(&Signer::new(nid).section(pcr0)).unwrap();
        let report = section.check(pcr0, NOW).unwrap();
        assert!(report.refusals.is_empty(), "{:?}", report.refusals);
        assert!(section.is_valid_for(pcr0).unwrap());
        assert_eq!(section.signed_pcr0(), pcr0);
        assert_eq!(report.pcr8, section.certificate().pcr8());
    }
}

#[test]
fn the_payload_is_spelt_as_on_nitro() {
    let bytes = payload(Pcr::ZERO).unwrap();
    assert_eq!(
        hex::encode(&bytes[..36]),
        "a26e72656769737465725f696e646578006e72656769737465725f76616c75659830".to_owned() + "0000"
    );
    let bytes = payload(Pcr::from_bytes([24; 48])).unwrap();
    assert_eq!(bytes.len(), 34 + 96);
    assert!(bytes.ends_with(&[0x18, 24]));
}

#[test]
fn pcr8_is_the_hash_of_the_certificate() {
    let signer = Signer::p384();
    let der = X509::from_pem(&signer.pem).unwrap().to_der().unwrap();
    let section = SignatureSection::parse(&signer.section(Pcr::ZERO)).unwrap();
    assert_eq!(section.certificate().der(), der);
    let hash = ring::digest::digest(&ring::digest::SHA384, &der);
    assert_eq!(section.pcr8(), Pcr::of(hash.as_ref()));
}

#[test]
fn a_section_copied_from_another_image_is_refused() {
    let (ours, other) = (Pcr::of(b"ours"), Pcr::of(b"other"));
    let section = SignatureSection::parse(&Signer::p384().section(other)).unwrap();
    let report = section.check(ours, NOW).unwrap();
    assert!(!section.is_valid_for(ours).unwrap());
    let [Error::SignatureOfOtherImage { signed, computed }] = report.refusals[..] else {
        panic!("{:?}", report.refusals)
    };
    assert_eq!((signed, computed), (other, ours));
}

#[test]
fn both_ends_of_the_certificates_life_are_part_of_it() {
    let pcr0 = Pcr::of(b"image");
    let section = Signer::p384().section(pcr0);
    for now in [NOW - DAY, NOW + DAY] {
        assert!(refusals(&section, pcr0, now).is_empty());
    }
    let early = refusals(&section, pcr0, NOW - DAY - 1);
    assert!(matches!(early[..], [Error::CertificateNotYetValid { .. }]), "{early:?}");
    let late = refusals(&section, pcr0, NOW + DAY + 1);
    assert_eq!(
        late[0].to_string(),
        "signing certificate was valid until Jan 16 08:00:00 2027 GMT, the time is Jan 16 08:00:01 2027 GMT"
    );
}

#[test]
fn a_signature_by_another_key_is_refused() {
    let pcr0 = Pcr::of(b"image");
    let (one, two) = (Signer::p384(), Signer::p384());
    let section = one.section_of(two.cose(&payload(pcr0).unwrap()));
    assert!(matches!(refusals(&section, pcr0, NOW)[..], [Error::SignatureInvalid]));
    let section = one.section_of(Signer::new(Nid::SECP521R1).cose(&payload(pcr0).unwrap()));
    assert!(matches!(refusals(&section, pcr0, NOW)[..], [Error::SignatureInvalid]));
}

#[test]
fn tag_18_is_seen_through_and_no_other() {
    let pcr0 = Pcr::of(b"image");
    let signer = Signer::p384();
    let tagged =
        |tag: u8| signer.section_of([&[tag], &signer.cose(&payload(pcr0).unwrap())[..]].concat());
    assert!(refusals(&tagged(0xd2), pcr0, NOW).is_empty());
    assert!(why_unreadable(&tagged(0xd1)).contains("COSE_Sign1"));
}

#[test]
fn names_what_is_malformed() {
    let signer = Signer::p384();
    let cose = signer.cose(&payload(Pcr::ZERO).unwrap());
    assert_eq!(why_unreadable(&[0x80]), "malformed signature section: it has no element");
    assert!(why_unreadable(b"").contains("malformed signature section"));
    let pem = Element { signing_certificate: b"no PEM".to_vec(), signature: cose };
    assert!(why_unreadable(&cbor::to_vec(&[pem]).unwrap()).contains("not PEM"));
    let short = Payload { register_index: 0, register_value: vec![0; 47] };
    let short = signer.section_of(signer.cose(&cbor::to_vec(&short).unwrap()));
    assert_eq!(
        why_unreadable(&short),
        "malformed signed payload: register 0 with 47 bytes, expected register 0 with 48"
    );
    let other = Payload { register_index: 1, register_value: vec![0; 48] };
    let other = signer.section_of(signer.cose(&cbor::to_vec(&other).unwrap()));
    assert!(why_unreadable(&other).contains("register 1"));
    let long = vec![0; 32769];
    assert!(matches!(SignatureSection::parse(&long), Err(Error::SignatureSize { size: 32769 })));
}

#[test]
fn no_changed_bit_of_the_signature_is_accepted() {
    let pcr0 = Pcr::of(b"image");
    let signer = Signer::p384();
    let cose = signer.cose(&payload(pcr0).unwrap());
    for at in 0..cose.len() {
        for bit in 0..8 {
            let mut bytes = cose.clone();
            bytes[at] ^= 1 << bit;
            if let Ok(section) = SignatureSection::parse(&signer.section_of(bytes)) {
                let report = section.check(pcr0, NOW).unwrap();
                assert!(!report.refusals.is_empty(), "bit {bit} of byte {at:#x}");
            }
        }
    }
}

/// The signature does not cover the certificate, whose own signature nobody checks: another
/// certificate for the same key is another identity, and PCR8 says so.
#[test]
fn a_changed_certificate_is_another_pcr8() {
    let pcr0 = Pcr::of(b"image");
    let section = Signer::p384().section(pcr0);
    let original = SignatureSection::parse(&section).unwrap();
    for at in 0..section.len() {
        let mut bytes = section.clone();
        bytes[at] ^= 1;
        if let Ok(changed) = SignatureSection::parse(&bytes)
            && changed.check(pcr0, NOW).is_ok_and(|report| report.refusals.is_empty())
        {
            let same_der = changed.certificate().der() == original.certificate().der();
            assert_eq!(changed.pcr8() == original.pcr8(), same_der, "byte {at:#x}");
        }
        let _ = SignatureSection::parse(&section[..at]);
    }
}

#[test]
fn shows_the_certificate_as_describe_eif_does() {
    let details = SigningCertificate::from_pem(&Signer::p384().pem).unwrap().details().unwrap();
    assert_eq!(details.issuer_name["commonName"], "signer");
    assert_eq!(details.issuer_name["countryName"], "AT");
    assert_eq!(details.algorithm, "ecdsa-with-SHA384");
    assert_eq!(details.not_before, "Jan 14 08:00:00 2027 GMT");
    assert!(details.signature.starts_with("30:"), "{}", details.signature);
}
