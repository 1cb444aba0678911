//! The registers: read all, extend and lock what may be, be refused where not.

use aws_nitro_enclaves_nsm_api::api::{Request, Response};

use crate::module::{LAUNCH_PCRS, Module, PCR, PCRS};

/// ExtendPCR(16, `hello`) on a fresh register (nitro.md 12).
const EXTENDED: &str = "30e84b2d7eeffe6d90a475797b35e59a11b0da473eee4b3b8edfe73daf0279801bb18730c39db7f27f2f77b7b458cb9e";

/// All of it, in an order that leaves 0 to 17 locked.
pub(crate) fn check(module: &mut Module<'_>) {
    fresh(module);
    extend(module);
    lock(module);
    lock_range(module);
}

fn fresh(module: &mut Module<'_>) {
    for index in 0..PCRS {
        let Some((locked, value)) = describe(module, index) else { continue };
        module.expect(locked == (index < LAUNCH_PCRS), || format!("PCR{index} locked: {locked}"));
        let zero = value.iter().all(|byte| *byte == 0);
        match index {
            0..=2 => module.expect(!zero, || format!("PCR{index} is zero")),
            5..=7 | 9.. => module.expect(zero, || format!("PCR{index} is not zero at the start")),
            _ => {}
        }
    }
    for index in [PCRS, u16::MAX] {
        module.refused(Request::DescribePCR { index }, "InvalidIndex");
    }
}

fn extend(module: &mut Module<'_>) {
    match module.call(Request::ExtendPCR { index: 16, data: b"hello".to_vec() }) {
        Response::ExtendPCR { data } => {
            let told: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
            module.expect(told == EXTENDED, || format!("PCR16 after hello: {told}"));
            let now = describe(module, 16);
            module.expect(now.as_ref() == Some(&(false, data)), || {
                format!("PCR16 reads {now:?} after it was extended")
            });
        }
        other => module.report.fail(format!("ExtendPCR: {other:?}")),
    }
    let extend = |index, data: &[u8]| Request::ExtendPCR { index, data: data.to_vec() };
    let Some((_, before)) = describe(module, 17) else { return };
    // Data of any length, none at all included, as long as the request fits.
    for data in [&b""[..], &[7; 4000]] {
        let answer = module.call(extend(17, data));
        let changed = matches!(&answer, Response::ExtendPCR { data } if *data != before);
        module.expect(changed, || format!("ExtendPCR with {} bytes: {answer:.80?}", data.len()));
    }
    module.refused(extend(0, b"x"), "ReadOnlyIndex");
    module.refused(extend(15, b"x"), "ReadOnlyIndex");
    module.refused(extend(PCRS, b"x"), "InvalidIndex");
    module.refused(extend(17, &[0; 5000]), "InputTooLarge");
}

fn lock(module: &mut Module<'_>) {
    let answer = module.call(Request::LockPCR { index: 16 });
    module.expect(matches!(answer, Response::LockPCR), || format!("LockPCR: {answer:?}"));
    let locked = describe(module, 16).map(|(locked, _)| locked);
    module.expect(locked == Some(true), || "PCR16 is not locked by LockPCR".to_owned());
    module.refused(Request::ExtendPCR { index: 16, data: vec![1] }, "ReadOnlyIndex");
    module.refused(Request::LockPCR { index: 16 }, "ReadOnlyIndex");
    module.refused(Request::LockPCR { index: PCRS }, "InvalidIndex");
}

fn lock_range(module: &mut Module<'_>) {
    // 0 locks nothing; the second locks 0 to 17, most of which are locked already.
    for range in [0, 18] {
        let answer = module.call(Request::LockPCRs { range });
        module.expect(matches!(answer, Response::LockPCRs), || {
            format!("LockPCRs({range}): {answer:?}")
        });
    }
    for (index, due) in [(17, true), (18, false)] {
        let locked = describe(module, index).map(|(locked, _)| locked);
        module.expect(locked == Some(due), || format!("PCR{index} locked: {locked:?}"));
    }
    module.refused(Request::LockPCRs { range: PCRS + 1 }, "InvalidIndex");
    let locked = describe(module, 18).map(|(locked, _)| locked);
    module.expect(locked == Some(false), || "a refused LockPCRs has locked PCR18".to_owned());
}

/// Lock bit and value of a register.
pub(crate) fn describe(module: &mut Module<'_>, index: u16) -> Option<(bool, Vec<u8>)> {
    match module.call(Request::DescribePCR { index }) {
        Response::DescribePCR { lock, data } => {
            module.expect(data.len() == PCR, || format!("PCR{index} has {} bytes", data.len()));
            Some((lock, data))
        }
        other => {
            module.report.fail(format!("DescribePCR({index}): {other:?}"));
            None
        }
    }
}
