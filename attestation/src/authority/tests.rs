//! The shape of the chain against nitro.md 5.2 and against `openssl verify`, renewal, and files
//! that do not belong together.

use std::process::Command;

use x509_parser::certificate::X509Certificate;

use super::*;
use crate::test_authority::{BENCH, MODULE_ID, NOW, counting, identity};

fn parse(der: &[u8]) -> X509Certificate<'_> {
    x509_parser::parse_x509_certificate(der).unwrap().1
}

/// `(oid, critical, value in hexadecimal)` of each extension, key identifiers shortened.
fn extensions(der: &[u8]) -> Vec<(String, bool, String)> {
    parse(der)
        .extensions()
        .iter()
        .map(|extension| {
            let value = hex::encode(extension.value);
            let value = if value.len() > 20 { value[..8].to_owned() } else { value };
            (extension.oid.to_string(), extension.critical, value)
        })
        .collect()
}

#[test]
fn has_the_shape_of_awss_chain() {
    let [root, regional, zonal, instance] = BENCH.chain.cabundle.as_slice() else { panic!() };
    let extension = |oid: &str, critical, value: &str| (oid.to_owned(), critical, value.to_owned());
    let ca = |path_len: &str| extension("2.5.29.19", true, path_len);
    let authority_id = || extension("2.5.29.35", false, "30168014");
    let own_id = || extension("2.5.29.14", false, "0414");
    let shortened = |der: &[u8]| {
        let mut list = extensions(der);
        for (oid, _, value) in &mut list {
            if oid == "2.5.29.14" {
                value.truncate(4);
            }
        }
        list
    };
    // digitalSignature, keyCertSign, cRLSign; the instance has keyCertSign alone.
    let usage = |bits: &str| extension("2.5.29.15", true, bits);
    assert_eq!(shortened(root), [ca("30030101ff"), own_id(), usage("03020186")]);
    assert_eq!(
        shortened(regional),
        [ca("30060101ff020102"), authority_id(), own_id(), usage("03020186")]
    );
    assert_eq!(
        shortened(zonal),
        [ca("30060101ff020101"), authority_id(), own_id(), usage("03020186")]
    );
    assert_eq!(
        shortened(instance),
        [ca("30060101ff020100"), authority_id(), own_id(), usage("03020204")]
    );
    assert_eq!(
        extensions(&BENCH.chain.leaf),
        [ca("3000"), extension("2.5.29.15", false, "030206c0")]
    );

    let subjects: Vec<String> = BENCH
        .chain
        .cabundle
        .iter()
        .chain([&BENCH.chain.leaf])
        .map(|der| parse(der).subject().to_string())
        .collect();
    assert_eq!(subjects[0], "O=bench, CN=local.nitro-enclaves");
    assert!(subjects[1].ends_with(".local.nitro-enclaves"), "{}", subjects[1]);
    assert!(subjects[2].ends_with(".zonal.local.nitro-enclaves"), "{}", subjects[2]);
    assert_eq!(subjects[3], "O=bench, CN=i-0123456789abcdef0.local.nitro-enclaves");
    assert_eq!(subjects[4], format!("O=bench, CN={MODULE_ID}.local"));

    for der in BENCH.chain.cabundle.iter().chain([&BENCH.chain.leaf]) {
        assert!(der.len() <= 1024, "{}", der.len());
    }
}

#[test]
fn lives_as_long_as_awss_chain() {
    let life = |der: &[u8]| {
        let certificate = Certificate::from_der("x", der).unwrap();
        (certificate.not_before() - NOW, certificate.not_after() - NOW)
    };
    let [root, regional, zonal, instance] = BENCH.chain.cabundle.as_slice() else { panic!() };
    assert_eq!(life(root), (-DAY, 10_957 * DAY));
    assert_eq!(life(regional), (-3, 20 * DAY));
    assert_eq!(life(zonal), (-3, 6 * DAY));
    assert_eq!(life(instance), (-3, DAY));
    assert_eq!(life(&BENCH.chain.leaf), (-3, 3 * HOUR));
}

#[test]
fn numbers_leaves_by_slot_and_time() {
    let serial = parse(&BENCH.chain.leaf).raw_serial().to_vec();
    let expected = [0x0123_4567_89ab_cdef_u64.to_be_bytes(), NOW.to_be_bytes()].concat();
    assert_eq!(serial, expected);
}

#[test]
fn openssl_accepts_the_chain_under_its_root_only() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, ders: &[&[u8]]| {
        let pems =
            ders.iter().map(|der| Certificate::from_der(name, der).unwrap().to_pem().unwrap());
        let path = folder.path().join(name);
        std::fs::write(&path, pems.collect::<Vec<_>>().concat()).unwrap();
        path
    };
    let [root, between @ ..] = BENCH.chain.cabundle.as_slice() else { panic!() };
    let between: Vec<&[u8]> = between.iter().map(Vec::as_slice).collect();
    let other =
        Authority::create(&identity(), &Lifetimes::default(), NOW, &mut counting()).unwrap();
    let (root, other) = (write("root", &[root]), write("other", &[other.root().der()]));
    let (between, leaf) = (write("between", &between), write("leaf", &[&BENCH.chain.leaf]));
    // Without -x509_strict: it wants key identifiers on the leaf, which AWS's leaves lack too.
    let verify = |root: &std::path::Path, at: i64| {
        Command::new("openssl")
            .args(["verify", "-attime", &at.to_string(), "-CAfile"])
            .args([root, "-untrusted".as_ref(), &between, &leaf])
            .output()
            .expect("the openssl command must be installed for this test (Debian: package openssl)")
    };
    let output = verify(&root, NOW);
    assert!(output.status.success(), "{output:?}");
    assert!(!verify(&root, NOW + 3 * HOUR + 1).status.success());
    assert!(!verify(&root, NOW - 4).status.success());
    assert!(!verify(&other, NOW).status.success());
}

#[test]
fn renews_what_is_due_and_all_below_it() {
    let mut authority = BENCH.authority.clone();
    let mut random = counting();
    let mut renew = |now| authority.renew(&identity(), now, &mut random).unwrap();
    let mut now = NOW;
    assert_eq!(renew(now), []);
    assert_eq!(renew(now + 16 * HOUR - 3), []);
    now += 16 * HOUR + 1;
    assert_eq!(renew(now), [Level::Instance]);
    assert_eq!(renew(now), []);
    now = NOW + 4 * DAY + 1;
    assert_eq!(renew(now), [Level::Zonal, Level::Instance]);
    now = NOW + 14 * DAY;
    assert_eq!(renew(now), [Level::Regional, Level::Zonal, Level::Instance]);
    // The clock goes back to where none of these was valid.
    assert_eq!(renew(NOW), [Level::Regional, Level::Zonal, Level::Instance]);
    let root = BENCH.authority.root();
    assert_eq!(authority.root(), root);

    let leaf = authority.issue_leaf(BENCH.key.public_key_der(), MODULE_ID, 1, NOW).unwrap();
    let leaf = leaf.leaf_certificate().unwrap();
    assert!(!leaf.needs_renewal(NOW) && !leaf.needs_renewal(leaf.renew_at() - 1));
    assert!(leaf.needs_renewal(leaf.renew_at()) && leaf.needs_renewal(NOW - 4));
    assert_eq!(leaf.renew_at(), NOW + 2 * HOUR - 1);

    for now in [root.not_before() - 1, root.not_after() + 1] {
        let refused = authority.renew(&identity(), now, &mut counting());
        assert!(matches!(refused, Err(Error::RootOutOfDate { .. })), "{refused:?}");
    }
    let moved = Identity { parent_id: "i-00000000000000001".to_owned(), ..identity() };
    assert_eq!(authority.renew(&moved, NOW, &mut counting()).unwrap(), [Level::Instance]);
    assert_eq!(authority.renew(&moved, NOW, &mut counting()).unwrap(), []);
}

#[test]
fn no_certificate_outlives_its_issuer() {
    let short = Lifetimes { instance: 60, ..Lifetimes::default() };
    let authority = Authority::create(&identity(), &short, NOW, &mut counting()).unwrap();
    let chain = authority.issue_leaf(BENCH.key.public_key_der(), MODULE_ID, 1, NOW).unwrap();
    assert_eq!(chain.leaf_certificate().unwrap().not_after(), NOW + 60);
}

fn files(authority: &Authority) -> BTreeMap<String, Vec<u8>> {
    let files = authority.to_files().unwrap();
    let names: Vec<_> = files.iter().map(|file| (file.name, file.secret)).collect();
    assert_eq!(names, Authority::FILES);
    files.into_iter().map(|file| (file.name.to_owned(), file.contents.to_vec())).collect()
}

#[test]
fn comes_back_from_its_files() {
    let files = files(&BENCH.authority);
    let back = Authority::from_files(&files, &Lifetimes::default()).unwrap();
    for level in Level::ALL {
        assert_eq!(back.certificate(level), BENCH.authority.certificate(level));
    }
    assert!(files["root-key.pem"].starts_with(b"-----BEGIN PRIVATE KEY-----"));
    let chain = back.issue_leaf(BENCH.key.public_key_der(), MODULE_ID, 1, NOW).unwrap();
    assert_eq!(chain.cabundle, BENCH.chain.cabundle);
}

#[test]
fn refuses_files_that_do_not_belong_together() {
    let good = files(&BENCH.authority);
    let other =
        Authority::create(&identity(), &Lifetimes::default(), NOW, &mut counting()).unwrap();
    let other = files(&other);
    for (name, _) in Authority::FILES {
        let mut files = good.clone();
        files.remove(name);
        let error = Authority::from_files(&files, &Lifetimes::default()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");

        files.insert(name.to_owned(), other[name].clone());
        let error = Authority::from_files(&files, &Lifetimes::default()).unwrap_err();
        assert!(matches!(error, Error::Inconsistent { .. }), "{name}: {error}");

        files.insert(name.to_owned(), good[name][..100].to_vec());
        let error = Authority::from_files(&files, &Lifetimes::default()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    // A key and a certificate that fit each other, but not the level above.
    let mut files = good.clone();
    for name in ["zonal.pem", "zonal-key.pem"] {
        files.insert(name.to_owned(), other[name].clone());
    }
    let error = Authority::from_files(&files, &Lifetimes::default()).unwrap_err();
    assert!(
        error.to_string().contains("zonal.pem is not signed by the key of regional.pem"),
        "{error}"
    );
}

#[test]
fn refuses_names_and_keys_x509_cannot_carry() {
    let create = |host: &str| {
        let identity = Identity { host: host.to_owned(), ..identity() };
        Authority::create(&identity, &Lifetimes::default(), NOW, &mut counting())
    };
    assert!(matches!(create(""), Err(Error::Name { .. })));
    assert!(matches!(create("a\nb"), Err(Error::Name { .. })));
    assert!(matches!(create(&"x".repeat(65)), Err(Error::Name { .. })));
    assert!(create(&"ü".repeat(64)).is_ok());
    let long = "x".repeat(70);
    let leaf = |key: &[u8], id: &str| BENCH.authority.issue_leaf(key, id, 1, NOW);
    assert!(matches!(leaf(BENCH.key.public_key_der(), &long), Err(Error::Name { .. })));
    assert!(matches!(leaf(b"nonsense", MODULE_ID), Err(Error::Key { .. })));
    let p256 = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
    let p256 = openssl::ec::EcKey::generate(&p256).unwrap().public_key_to_der().unwrap();
    let error = leaf(&p256, MODULE_ID).unwrap_err();
    assert!(error.to_string().contains("prime256v1"), "{error}");
}
