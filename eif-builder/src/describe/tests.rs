//! The JSON of `describe-eif`, field by field.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::format::{Architecture, SectionKind};
use crate::signature::tests::Signer;
use crate::write::EifWriter;

/// An image with this metadata, signed by `signer` if there is one.
fn image(metadata: &[u8], signer: Option<&Signer>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a.eif");
    let write = |output: &Path, signature: Option<&[u8]>| {
        let mut writer = EifWriter::create(output, Architecture::X86_64).unwrap();
        let mut add = |kind, data: &[u8]| {
            writer.section(kind, data.len() as u64, &mut &data[..]).unwrap();
        };
        add(SectionKind::Kernel, b"kernel");
        add(SectionKind::Cmdline, b"cmdline");
        add(SectionKind::Metadata, metadata);
        add(SectionKind::Ramdisk, b"ramdisk1");
        add(SectionKind::Ramdisk, b"ramdisk2");
        if let Some(signature) = signature {
            add(SectionKind::Signature, signature);
        }
        writer.finish().unwrap().measurements
    };
    let measurements = write(&output, None);
    if let Some(signer) = signer {
        write(&output, Some(&signer.section(measurements.pcr0)));
    }
    std::fs::read(&output).unwrap()
}

fn describe(bytes: &[u8]) -> Value {
    serde_json::to_value(EifDescription::of(&Eif::read(bytes).unwrap()).unwrap()).unwrap()
}

#[test]
fn an_image_without_label_or_signature_says_no_more_than_it_knows() {
    let text =
        EifDescription::of(&Eif::parse(include_bytes!("../../testdata/example.eif")).unwrap())
            .unwrap();
    let expected = "{\"EifVersion\":4,\"Measurements\":{\"HashAlgorithm\":\"Sha384 { ... }\",\
        \"PCR0\":\"b42aad6f7306d31fcdd5acecf765a6db40523d2a7d8150ed99a7983cf395c2b8d0dfb3217ef2fef5f6baec704c1b16d0\",\
        \"PCR1\":\"ffebd63c5a6729958c397a752ac494ce52b7a5d0703121f4e09105c6cbe82bfdee594a2baae6780e8559d5013120844f\",\
        \"PCR2\":\"7c364ca068df83f436472fb4e895df77b50803fd100676adfbf440e2e2389534aa641a512463e302e1c01c9023526e8c\"},\
        \"IsSigned\":false,\"CheckCRC\":true}";
    assert_eq!(serde_json::to_string(&text).unwrap(), expected);
}

#[test]
fn the_label_is_flattened_and_cannot_lie_about_the_build() {
    let label = Metadata {
        image_name: "hello".into(),
        image_version: "1.0".into(),
        build_metadata: BuildMetadata::new(),
        docker_info: Value::Null,
        custom_metadata: json!({"team": "blue", "BuildTool": "forged", "DockerInfo": {}}),
    };
    let bytes = image(&label.to_bytes().unwrap(), None);
    let description = EifDescription::of(&Eif::parse(&bytes).unwrap()).unwrap();
    let text = serde_json::to_string(&description.metadata).unwrap();
    let expected = format!(
        "{{\"BuildTime\":\"1970-01-01T00:00:00Z\",\"BuildTool\":\"eif-builder\",\
         \"BuildToolVersion\":\"{}\",\"OperatingSystem\":\"OS\",\"KernelVersion\":\"kernel\",\
         \"DockerInfo\":null,\"team\":\"blue\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(text, expected);
    let value = describe(&bytes);
    assert_eq!((&value["ImageName"], &value["ImageVersion"]), (&json!("hello"), &json!("1.0")));
}

#[test]
fn a_signed_image_shows_certificate_and_pcr8() {
    let signer = Signer::p384();
    let mut bytes = image(b"{}", Some(&signer));
    let value = describe(&bytes);
    assert_eq!(value["IsSigned"], json!(true));
    assert_eq!(value["SignatureCheck"], json!(true));
    assert_eq!(value["SigningCertificate"]["IssuerName"]["commonName"], json!("signer"));
    let measured = Measurements::of(&Eif::parse(&bytes).unwrap()).unwrap();
    assert_eq!(value["Measurements"]["PCR8"], json!(measured.pcr8.unwrap().to_string()));

    // Another kernel under the same signature, as if the section had been copied here.
    let kernel = 548 + 12;
    bytes[kernel] = b'K';
    let value = describe(&bytes);
    assert_eq!((&value["CheckCRC"], &value["SignatureCheck"]), (&json!(false), &json!(false)));
    assert!(Eif::parse(&bytes).is_err());
}
