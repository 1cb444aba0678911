//! Enclave image files (EIF v4): read, write, measure, build from OCI images, bit for bit.
