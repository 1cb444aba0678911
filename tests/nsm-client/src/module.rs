//! The open module, with every call counted, and the two requests that need nothing else.

use aws_nitro_enclaves_nsm_api::api::{Digest, Request, Response};
use aws_nitro_enclaves_nsm_api::driver::nsm_process_request;

use crate::report::Report;

/// Bytes of a register.
pub(crate) const PCR: usize = 48;
/// Registers of a module.
pub(crate) const PCRS: u16 = 32;
/// The registers below this are locked from the start.
pub(crate) const LAUNCH_PCRS: u16 = 16;

/// `/dev/nsm` through AWS's library.
pub(crate) struct Module<'a> {
    descriptor: i32,
    pub(crate) report: &'a mut Report,
}

impl<'a> Module<'a> {
    pub(crate) fn new(descriptor: i32, report: &'a mut Report) -> Self {
        Self { descriptor, report }
    }

    /// Makes one request.
    pub(crate) fn call(&mut self, request: Request) -> Response {
        self.report.called(match request {
            Request::DescribePCR { .. } => "DescribePCR",
            Request::ExtendPCR { .. } => "ExtendPCR",
            Request::LockPCR { .. } => "LockPCR",
            Request::LockPCRs { .. } => "LockPCRs",
            Request::DescribeNSM => "DescribeNSM",
            Request::Attestation { .. } => "Attestation",
            Request::GetRandom => "GetRandom",
            _ => "unknown",
        });
        nsm_process_request(self.descriptor, request)
    }

    /// Notes a failure unless `holds`.
    pub(crate) fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.report.fail(what());
        }
    }

    /// Makes a request that must be refused with the error of this name.
    pub(crate) fn refused(&mut self, request: Request, code: &str) {
        let asked = format!("{request:.80?}");
        let answer = self.call(request);
        let right = matches!(&answer, Response::Error(error) if format!("{error:?}") == code);
        self.expect(right, || format!("{asked}: {code} was due, came {answer:?}"));
    }
}

/// DescribeNSM on a fresh module; gives the module's id.
pub(crate) fn describe(module: &mut Module<'_>) -> String {
    let answer = module.call(Request::DescribeNSM);
    let Response::DescribeNSM {
        version_major,
        version_minor,
        version_patch,
        module_id,
        max_pcrs,
        locked_pcrs,
        digest,
    } = answer
    else {
        module.report.fail(format!("DescribeNSM: {answer:?}"));
        return String::new();
    };
    let version = (version_major, version_minor, version_patch);
    module.expect(version == (1, 0, 0), || format!("version {version:?}"));
    module.expect(max_pcrs == PCRS, || format!("max_pcrs {max_pcrs}"));
    module.expect(digest == Digest::SHA384, || format!("digest {digest:?}"));
    module.expect(locked_pcrs.iter().copied().eq(0..LAUNCH_PCRS), || {
        format!("locked at the start: {locked_pcrs:?}")
    });
    let shape = module_id
        .rsplit_once("-enc")
        .is_some_and(|(parent, own)| parent.starts_with("i-") && own.len() == 16);
    module.expect(shape, || format!("module_id {module_id:?} is not i-<id>-enc<16 hex>"));
    module.report.set_module_id(&module_id);
    module_id
}

/// GetRandom: enough bytes, and never the same.
pub(crate) fn random(module: &mut Module<'_>) {
    let mut seen = Vec::new();
    for _ in 0..8 {
        match module.call(Request::GetRandom) {
            Response::GetRandom { random } => {
                module.expect(random.len() == 256, || {
                    format!("GetRandom gave {} bytes", random.len())
                });
                module.expect(!seen.contains(&random), || "GetRandom repeats itself".to_owned());
                seen.push(random);
            }
            other => module.report.fail(format!("GetRandom: {other:?}")),
        }
    }
}
