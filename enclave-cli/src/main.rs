//! Build, launch, describe, attest and terminate enclaves.

fn main() {}
