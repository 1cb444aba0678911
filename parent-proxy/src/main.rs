//! The enclave's way out and in: vsock to TCP and back.

fn main() {}
