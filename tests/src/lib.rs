//! End-to-end and conformance tests, run inside a parent.
