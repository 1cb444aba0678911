//! What `describe-eif` prints about a file, in nitro-cli's JSON (nitro.md 6.2): fields in this order,
//! absent ones left out. Only things that were computed here are stated as such; names and times come
//! from the metadata, which nothing protects.

use nsm::Pcr;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::Error;
use crate::eif::Eif;
use crate::measure::Measurements;
use crate::metadata::{BuildMetadata, Metadata};
use crate::signature::{CertificateDetails, SignatureSection};

/// The algorithm as nitro-cli has always printed it.
const HASH_ALGORITHM: &str = "Sha384 { ... }";

/// Measurements as nitro-cli prints them, after a build and in a description.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct MeasurementsText {
    #[serde(rename = "HashAlgorithm")]
    hash_algorithm: &'static str,
    #[serde(rename = "PCR0")]
    pcr0: Pcr,
    #[serde(rename = "PCR1")]
    pcr1: Pcr,
    #[serde(rename = "PCR2")]
    pcr2: Pcr,
    #[serde(rename = "PCR8", skip_serializing_if = "Option::is_none")]
    pcr8: Option<Pcr>,
}

impl From<&Measurements> for MeasurementsText {
    fn from(measurements: &Measurements) -> Self {
        let Measurements { pcr0, pcr1, pcr2, pcr8 } = *measurements;
        Self { hash_algorithm: HASH_ALGORITHM, pcr0, pcr1, pcr2, pcr8 }
    }
}

/// What `build-enclave` and `sign-eif` print: `{"Measurements": {…}}`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct BuildInfo {
    measurements: MeasurementsText,
}

impl From<&Measurements> for BuildInfo {
    fn from(measurements: &Measurements) -> Self {
        Self { measurements: measurements.into() }
    }
}

/// What `describe-eif` prints.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EifDescription {
    /// 2 to 4.
    pub eif_version: u16,
    /// Computed from the file.
    pub measurements: MeasurementsText,
    /// Whether there is a signature section.
    pub is_signed: bool,
    /// Of the signature, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_certificate: Option<CertificateDetails>,
    /// Whether the CRC is right.
    #[serde(rename = "CheckCRC")]
    pub check_crc: bool,
    /// Whether the signature verifies and is about this image; the certificate's dates are not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature_check: Option<bool>,
    /// The label's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_name: Option<String>,
    /// The label's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_version: Option<String>,
    /// The label's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<DescribedMetadata>,
}

/// The rest of the label, all on one level.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct DescribedMetadata {
    /// What built the image, from what.
    #[serde(flatten)]
    pub build: BuildMetadata,
    /// As in the label; null where there is none.
    #[serde(rename = "DockerInfo")]
    pub docker_info: Value,
    /// The user's own members, but for those that would hide one of the above.
    #[serde(flatten)]
    pub custom: Map<String, Value>,
}

impl EifDescription {
    /// Describes a file, right or wrong: what is wrong with it is in [`Eif::findings`], and whether its
    /// signature may be believed now is for [`SignatureSection::check`].
    ///
    /// # Errors
    /// [`Error::SignatureEncoding`], [`Error::SignatureSize`] or [`Error::Certificate`] for a signature
    /// section that cannot be read.
    pub fn of(eif: &Eif<'_>) -> Result<Self, Error> {
        let mut measurements = Measurements::of_boot_sections(eif);
        let signature = eif.signature().map(SignatureSection::parse).transpose()?;
        measurements.pcr8 = signature.as_ref().map(SignatureSection::pcr8);
        let (signing_certificate, signature_check) = match &signature {
            Some(section) => (
                Some(section.certificate().details()?),
                Some(section.is_valid_for(measurements.pcr0)?),
            ),
            None => (None, None),
        };
        let label = eif.metadata().and_then(Metadata::from_bytes);
        Ok(Self {
            eif_version: eif.version(),
            measurements: (&measurements).into(),
            is_signed: signature.is_some(),
            signing_certificate,
            check_crc: eif.crc().is_right(),
            signature_check,
            image_name: label.as_ref().map(|label| label.image_name.clone()),
            image_version: label.as_ref().map(|label| label.image_version.clone()),
            metadata: label.map(DescribedMetadata::from),
        })
    }
}

impl From<Metadata> for DescribedMetadata {
    fn from(label: Metadata) -> Self {
        let mut custom = match label.custom_metadata {
            Value::Object(members) => members,
            _ => Map::new(),
        };
        for taken in BuildMetadata::MEMBERS.into_iter().chain(["DockerInfo"]) {
            custom.remove(taken);
        }
        Self { build: label.build_metadata, docker_info: label.docker_info, custom }
    }
}

#[cfg(test)]
mod tests;
