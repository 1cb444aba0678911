//! The vsock ports with a fixed meaning, on both sides of the enclave's border. They have their one
//! home here because the VMM, init, the commands and the applications all name them.

/// Init dials the parent here once, sends [`HEARTBEAT_BYTE`] and reads it back. Answered inside the
/// VMM and never forwarded, so enclaves that start together do not collide.
pub const HEARTBEAT: u32 = 9000;

/// The attestation agent: init listens inside the enclave, see [`crate::agent`].
pub const AGENT: u32 = 9001;

/// Init's control connection to the VMM, see [`crate::control`]. Answered inside the VMM.
pub const CONTROL: u32 = 9002;

/// The parent's forward to KMS; what AWS's in-enclave client dials. TLS passes through it.
pub const KMS: u32 = 8000;

/// The parent's named egress (HTTP CONNECT, SOCKS5).
pub const EGRESS: u32 = 8001;

/// The console of the enclave with CID n is port n + this.
pub const CONSOLE_OFFSET: u32 = 10_000;

/// The byte both ends of the heartbeat send.
pub const HEARTBEAT_BYTE: u8 = 0xb7;
