//! Chains that OpenSSL would sign for anybody, each with one thing wrong.

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{HasPublic, PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage};
use openssl::x509::{X509, X509Name};

use super::*;

/// A certificate with everything adjustable, to make wrong ones.
struct Forge {
    version: i32,
    path_len: Option<u32>,
    ca: Option<bool>,
    critical: bool,
    usage: Option<fn(&mut KeyUsage) -> &mut KeyUsage>,
    extended: bool,
    digest: MessageDigest,
    life: (i64, i64),
}

impl Forge {
    fn authority() -> Self {
        Self {
            version: 2,
            path_len: None,
            ca: Some(true),
            critical: true,
            usage: Some(KeyUsage::key_cert_sign),
            extended: false,
            digest: MessageDigest::sha384(),
            life: (NOW - 100, NOW + 100),
        }
    }

    fn leaf() -> Self {
        Self { ca: Some(false), usage: Some(KeyUsage::digital_signature), ..Self::authority() }
    }

    fn issue<T: HasPublic>(
        &self,
        name: &str,
        key: &PKey<T>,
        issuer: &str,
        signer: &PKey<Private>,
    ) -> Vec<u8> {
        let named = |name: &str| {
            let mut builder = X509Name::builder().unwrap();
            builder.append_entry_by_text("CN", name).unwrap();
            builder.build()
        };
        let mut builder = X509::builder().unwrap();
        builder.set_version(self.version).unwrap();
        let serial = Asn1Integer::from_bn(&BigNum::from_u32(7).unwrap()).unwrap();
        builder.set_serial_number(&serial).unwrap();
        builder.set_subject_name(&named(name)).unwrap();
        builder.set_issuer_name(&named(issuer)).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(self.life.0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(self.life.1).unwrap()).unwrap();
        builder.set_pubkey(key).unwrap();
        if let Some(ca) = self.ca {
            let mut basic = BasicConstraints::new();
            if self.critical {
                basic.critical();
            }
            if ca {
                basic.ca();
            }
            if let Some(path_len) = self.path_len {
                basic.pathlen(path_len);
            }
            builder.append_extension(basic.build().unwrap()).unwrap();
        }
        if let Some(usage) = self.usage {
            builder.append_extension(usage(&mut KeyUsage::new()).build().unwrap()).unwrap();
        }
        if self.extended {
            let extended = ExtendedKeyUsage::new().critical().client_auth().build().unwrap();
            builder.append_extension(extended).unwrap();
        }
        builder.sign(signer, self.digest).unwrap();
        builder.build().to_der().unwrap()
    }
}

fn key(curve: Nid) -> PKey<Private> {
    let group = openssl::ec::EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap()
}

/// Verifies a document under a chain root, middle, leaf made as told.
fn forged(root: &Forge, middle: &Forge, leaf: &Forge) -> Result<Verified, Reason> {
    let (root_key, middle_key) = (key(Nid::SECP384R1), key(Nid::SECP384R1));
    let leaf_key = LeafKey::generate().unwrap();
    let leaf_public = PKey::public_key_from_der(leaf_key.public_key_der()).unwrap();
    let root = root.issue("root", &root_key, "root", &root_key);
    let middle = middle.issue("middle", &middle_key, "root", &root_key);
    let leaf = leaf.issue("leaf", &leaf_public, "middle", &middle_key);
    let document = AttestationDocument {
        certificate: leaf,
        cabundle: vec![root.clone(), middle],
        ..BENCH.document()
    };
    let bytes = leaf_key.sign_document(&document).unwrap();
    let root = Root::from_der("forged", &root).unwrap();
    verify(&bytes, &any_image(root, At::Unix(NOW))).map_err(|refusal| refusal.reason)
}

fn good() -> [Forge; 3] {
    [Forge::authority(), Forge::authority(), Forge::leaf()]
}

#[test]
fn accepts_a_chain_that_is_made_right() {
    let [root, middle, leaf] = good();
    assert!(forged(&root, &middle, &leaf).is_ok());
    let exact = Forge { path_len: Some(1), ..Forge::authority() };
    let last = Forge { path_len: Some(0), ..Forge::authority() };
    assert!(forged(&exact, &last, &leaf).is_ok());
}

#[test]
fn holds_authorities_to_their_rules() {
    let [root, middle, leaf] = good();
    let short = Forge { path_len: Some(0), ..Forge::authority() };
    assert_eq!(forged(&short, &middle, &leaf).unwrap_err(), Reason::PathLength);
    for wrong in [
        Forge { ca: None, ..Forge::authority() },
        Forge { ca: Some(false), ..Forge::authority() },
        Forge { critical: false, ..Forge::authority() },
        Forge { usage: None, ..Forge::authority() },
        Forge { usage: Some(KeyUsage::digital_signature), ..Forge::authority() },
    ] {
        assert_eq!(forged(&root, &wrong, &leaf).unwrap_err(), Reason::NotACa);
        assert_eq!(forged(&wrong, &middle, &leaf).unwrap_err(), Reason::NotACa);
    }
}

#[test]
fn holds_leaves_to_their_rules() {
    let [root, middle, _] = good();
    for wrong in [
        Forge { ca: None, ..Forge::leaf() },
        Forge { ca: Some(true), ..Forge::leaf() },
        Forge { usage: None, ..Forge::leaf() },
        Forge { usage: Some(KeyUsage::non_repudiation), ..Forge::leaf() },
        Forge { usage: Some(|usage| usage.digital_signature().key_cert_sign()), ..Forge::leaf() },
    ] {
        assert_eq!(forged(&root, &middle, &wrong).unwrap_err(), Reason::NotALeaf);
    }
}

#[test]
fn refuses_what_nitro_never_uses() {
    let [root, middle, leaf] = good();
    for bend in [
        |forge: Forge| Forge { version: 0, ca: None, usage: None, ..forge },
        |forge: Forge| Forge { extended: true, ..forge },
        |forge: Forge| Forge { digest: MessageDigest::sha256(), ..forge },
    ] {
        let unsupported = Reason::UnsupportedCertificate;
        assert_eq!(forged(&bend(Forge::authority()), &middle, &leaf).unwrap_err(), unsupported);
        assert_eq!(forged(&root, &bend(Forge::authority()), &leaf).unwrap_err(), unsupported);
        assert_eq!(forged(&root, &middle, &bend(Forge::leaf())).unwrap_err(), unsupported);
    }
}

#[test]
fn each_certificate_must_be_in_date() {
    let [root, middle, leaf] = good();
    for (life, reason) in
        [((NOW - 100, NOW - 1), Reason::Expired), ((NOW + 1, NOW + 100), Reason::NotYetValid)]
    {
        let old = Forge { life, ..Forge::authority() };
        assert_eq!(forged(&old, &middle, &leaf).unwrap_err(), reason);
        assert_eq!(forged(&root, &old, &leaf).unwrap_err(), reason);
        assert_eq!(forged(&root, &middle, &Forge { life, ..Forge::leaf() }).unwrap_err(), reason);
    }
    let today = Forge { life: (NOW, NOW), ..Forge::leaf() };
    assert!(forged(&root, &middle, &today).is_ok());
}

#[test]
fn a_certificate_by_another_key_of_the_same_name_is_refused() {
    let (root_key, other_key) = (key(Nid::SECP384R1), key(Nid::SECP384R1));
    let root = Forge::authority().issue("root", &root_key, "root", &root_key);
    let leaf_key = LeafKey::generate().unwrap();
    let leaf_public = PKey::public_key_from_der(leaf_key.public_key_der()).unwrap();
    let document = AttestationDocument {
        certificate: Forge::leaf().issue("leaf", &leaf_public, "root", &other_key),
        cabundle: vec![root.clone()],
        ..BENCH.document()
    };
    let bytes = leaf_key.sign_document(&document).unwrap();
    let options = any_image(Root::from_der("forged", &root).unwrap(), At::Unix(NOW));
    assert_eq!(reason(&bytes, &options), Reason::CertificateSignature);

    // A key on another curve, though properly issued.
    let p521 = key(Nid::SECP521R1);
    let document = AttestationDocument {
        certificate: Forge::leaf().issue("leaf", &p521, "root", &root_key),
        ..document
    };
    let bytes = leaf_key.sign_document(&document).unwrap();
    assert_eq!(reason(&bytes, &options), Reason::UnsupportedCertificate);
}
