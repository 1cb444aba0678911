//! The program's entry. Not Rust's own `main`: the runtime behind that one opens `/dev/null` for standard
//! descriptors that are closed and aborts where it cannot, and in a fresh initramfs both are so.

#![allow(unsafe_code)]

/// Called by the C runtime; the arguments are not looked at.
#[cfg(not(test))]
// SAFETY: this program defines no other symbol of that name, and the signature is the C runtime's.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: libc::c_int, _argv: *const *const libc::c_char) -> libc::c_int {
    crate::run()
}
