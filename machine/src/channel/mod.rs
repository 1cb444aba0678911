//! What host and agent say to each other over one virtio-serial port.
//!
//! A port has no connections of its own: whatever one host process left unread or half written is
//! there for the next. So a session opens with an [`opening`] (magic and a random nonce, echoed by
//! the agent; both sides drop everything before it), and each [`frame`] carries three bytes of that
//! nonce. A host that finds its port was not left clean first sends a run of zeros as long as the
//! longest frame, which ends whatever frame the agent may be in the middle of.
//!
//! A session, `>` from the host, `<` from the agent:
//!
//! ```text
//! > opening                       < opening (echo)          the echo alone is the answer to a ping
//! > Request… RequestEnd           one request in as many frames as it takes
//! run:       > Input… InputEnd, Signal, Resize    < Credit, Output, ErrorOutput, Exit
//! put:       < Ready | Stored     > Input… InputEnd         < Stored
//! power off: < Stored
//! any:       < Failed(text) ends the session
//! ```
//! Input is bounded by credit: the host may send [`INPUT_WINDOW`] bytes beyond what `Credit` frames
//! gave back, so a signal is never stuck behind input nobody reads. Output is bounded by the port.

pub mod frame;
pub mod opening;
pub mod request;

/// Number of ports; each carries one session at a time.
pub const PORTS: usize = 16;
/// The last port is for pings, transfers of control and power-off, so that they work when every other is busy.
pub const CONTROL_PORT: usize = PORTS - 1;
/// Largest frame payload in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Input bytes the host may have under way in a `run` session.
pub const INPUT_WINDOW: usize = 256 * 1024;
/// The virtio-serial name of a port, as the agent finds it in sysfs.
pub fn port_name(index: usize) -> String {
    format!("enclave.machine.{index}")
}
