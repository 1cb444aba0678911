//! `describe-eif`: what is in an image, in nitro-cli's fields. A damaged image whose sections can still be told apart is described, with `CheckCRC`
//! and a warning for each thing that is wrong; one that cannot be read is E35.

use std::time::{SystemTime, UNIX_EPOCH};

use eif_builder::describe::EifDescription;
use eif_builder::signature::SignatureSection;
use eif_builder::{Eif, Error, Measurements};

use crate::arguments::nitro::DescribeEif;
use crate::failure::Outcome;
use crate::progress::line;
use crate::{output, pcr};

/// Prints it.
pub(crate) fn run(arguments: &DescribeEif) -> Outcome<u8> {
    let path = &arguments.eif_path;
    let image = pcr::open_image(path)?.map()?;
    let eif = Eif::read(&image).map_err(|error| pcr::image_failure(path, error))?;
    let description = EifDescription::of(&eif).map_err(|error| pcr::image_failure(path, error))?;
    output::json(&description)?;
    for finding in eif.findings().into_iter().chain(signature_refusals(&eif)) {
        line(&format!("warning: {}: {finding}", path.display()));
    }
    Ok(0)
}

/// Why `run-enclave` would refuse the image's signature now; empty without one.
fn signature_refusals(eif: &Eif<'_>) -> Vec<Error> {
    let Some(section) = eif.signature() else { return Vec::new() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let pcr0 = Measurements::of_boot_sections(eif).pcr0;
    SignatureSection::parse(section)
        .and_then(|section| section.check(pcr0, i64::try_from(now).unwrap_or(i64::MAX)))
        .map_or_else(|error| vec![error], |report| report.refusals)
}
