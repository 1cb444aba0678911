//! `pcr` and `measure`, and reading an image file for any command.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use eif_builder::describe::BuildInfo;
use eif_builder::signature::SigningCertificate;
use eif_builder::{Eif, Measurements};
use enclave_vmm::sealed_image::SealedImage;
use nsm::Pcr;
use ring::digest::{Context, SHA384};
use serde::Serialize;

use crate::arguments::nitro;
use crate::arguments::ours;
use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};
use crate::{input_file, output};

#[derive(Debug, Serialize)]
struct OnePcr {
    #[serde(rename = "PCR", skip_serializing_if = "Option::is_none")]
    pcr: Option<String>,
    #[serde(rename = "PCR8", skip_serializing_if = "Option::is_none")]
    pcr8: Option<String>,
}

/// Certificates are a few KiB of PEM.
const MAX_CERTIFICATE: u64 = 64 << 10;

/// `pcr`: of a file's hash, or PCR8 of a certificate.
pub(crate) fn run(arguments: &nitro::Pcr) -> Outcome<u8> {
    let (mut pcr, mut pcr8) = (None, None);
    match (&arguments.input, &arguments.signing_certificate) {
        (Some(path), _) => pcr = Some(of_file(path)?),
        (None, Some(path)) => {
            let pem = input_file::read(path, MAX_CERTIFICATE)?;
            let certificate = SigningCertificate::from_pem(&pem).map_err(|error| {
                Failure::new(
                    ErrorNumber::INVALID_ARGUMENT,
                    format!("{} is no certificate for signing images", path.display()),
                )
                .because(error)
            })?;
            pcr8 = Some(certificate.pcr8());
        }
        (None, None) => {
            return Err(Failure::new(
                ErrorNumber::MISSING_ARGUMENT,
                "--input or --signing-certificate is needed",
            ));
        }
    }
    let text = |pcr: Pcr| hex::encode(pcr.as_bytes());
    output::json(&OnePcr { pcr: pcr.map(text), pcr8: pcr8.map(text) })?;
    Ok(0)
}

/// SHA-384(zeros ‖ SHA-384(file)), streamed.
fn of_file(path: &Path) -> Outcome<Pcr> {
    let mut file = File::open(path).map_err(|error| Failure::file("open", path, error))?;
    let mut hash = Context::new(&SHA384);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Pcr::of(hash.finish().as_ref())),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::file("read", path, error)),
        }
    }
}

/// `measure`: the registers of an image that is right in every respect.
pub(crate) fn measure(arguments: &ours::Measure) -> Outcome<u8> {
    output::json(&BuildInfo::from(&of_image(&arguments.eif_path)?))?;
    Ok(0)
}

/// Reads, checks and measures an image file.
pub(crate) fn of_image(path: &Path) -> Outcome<Measurements> {
    let image = open_image(path)?.map()?;
    let eif = Eif::parse(&image).map_err(|error| image_failure(path, error))?;
    Measurements::of(&eif).map_err(|error| image_failure(path, error))
}

/// The image's bytes, read once. A missing file is a file operation (E19), as with nitro-cli.
pub(crate) fn open_image(path: &Path) -> Outcome<SealedImage> {
    Ok(SealedImage::open(path)?)
}

/// An image that cannot be used: E35, with the file's name before the cause.
pub(crate) fn image_failure(path: &Path, error: eif_builder::Error) -> Failure {
    let hint = error.hint().unwrap_or("build the image again; `describe-eif` shows what is in it");
    Failure::new(
        ErrorNumber::EIF_PARSING,
        format!("{} is not an image that may be used", path.display()),
    )
    .because(error)
    .hint(hint)
}
