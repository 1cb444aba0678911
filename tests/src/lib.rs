//! What the end-to-end tests drive: programs with a time limit, and the parent in which enclaves run.
//!
//! Everything goes through the command line, as a user's hands would: a test sees exit codes, JSON and messages.

#![forbid(unsafe_code)]

pub mod parent;
pub mod program;
