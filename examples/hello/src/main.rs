//! Example enclave application: answers over vsock with its own attestation document.

fn main() {}
