//! What an image measures to: PCR0 (everything), PCR1 (kernel, command line, first ramdisk), PCR2
//! (the other ramdisks) and PCR8 (the signing certificate), as in nitro.md 2. Only the data of
//! sections counts, in the order of the file; headers, metadata and signature do not. The same code
//! measures a file in memory and one that is being written, each byte passing by once.

use nsm::Pcr;
use ring::digest::{Context, SHA384};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::eif::Eif;
use crate::format::SectionKind;
use crate::signature::SignatureSection;

/// The registers an image determines.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Measurements {
    /// The whole image.
    pub pcr0: Pcr,
    /// Kernel, command line and first ramdisk.
    pub pcr1: Pcr,
    /// All other ramdisks: the application.
    pub pcr2: Pcr,
    /// The certificate of the signature, where there is one. It says who claims to have signed;
    /// whether that is so is for [`SignatureSection::check`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcr8: Option<Pcr>,
}

impl Measurements {
    /// Measures an image.
    ///
    /// # Errors
    /// [`Error::SignatureEncoding`] or [`Error::Certificate`] where there is a signature section
    /// from which no certificate can be read.
    pub fn of(eif: &Eif<'_>) -> Result<Self, Error> {
        let pcr8 = match eif.signature() {
            Some(bytes) => Some(SignatureSection::parse(bytes)?.pcr8()),
            None => None,
        };
        Ok(Self { pcr8, ..Self::of_boot_sections(eif) })
    }

    /// PCR0, 1 and 2 only; these exist for every image.
    #[must_use]
    pub fn of_boot_sections(eif: &Eif<'_>) -> Self {
        let mut measurer = Measurer::new();
        for section in eif.sections() {
            measurer.begin(section.kind);
            measurer.update(section.data);
        }
        measurer.finish()
    }
}

/// Measures sections as they pass by.
#[derive(Clone)]
pub(crate) struct Measurer {
    /// Everything, for PCR0.
    image: Context,
    /// PCR1's hash once it goes its own way: up to the second ramdisk it is the same as `image`.
    boot: Option<Context>,
    /// The ramdisks after the first, for PCR2.
    app: Context,
    ramdisks: usize,
    into: Into,
}

#[derive(Clone, Copy)]
enum Into {
    Boot,
    App,
    Nothing,
}

impl Measurer {
    pub(crate) fn new() -> Self {
        let fresh = || Context::new(&SHA384);
        Self { image: fresh(), boot: None, app: fresh(), ramdisks: 0, into: Into::Nothing }
    }

    /// The bytes that follow are of this section.
    pub(crate) fn begin(&mut self, kind: SectionKind) {
        self.into = match kind {
            SectionKind::Kernel | SectionKind::Cmdline => Into::Boot,
            SectionKind::Ramdisk => {
                self.ramdisks += 1;
                if self.ramdisks == 1 { Into::Boot } else { Into::App }
            }
            SectionKind::Metadata | SectionKind::Signature => Into::Nothing,
        };
        if matches!(self.into, Into::App) && self.boot.is_none() {
            self.boot = Some(self.image.clone());
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self.into {
            Into::Boot => {
                self.image.update(bytes);
                if let Some(boot) = &mut self.boot {
                    boot.update(bytes);
                }
            }
            Into::App => {
                self.image.update(bytes);
                self.app.update(bytes);
            }
            Into::Nothing => {}
        }
    }

    /// Without PCR8, which is not a hash of the sections.
    pub(crate) fn finish(self) -> Measurements {
        let boot = self.boot.unwrap_or_else(|| self.image.clone());
        let pcr = |context: Context| Pcr::of(context.finish().as_ref());
        Measurements { pcr0: pcr(self.image), pcr1: pcr(boot), pcr2: pcr(self.app), pcr8: None }
    }
}
