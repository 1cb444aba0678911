//! A parent virtual machine for hosts whose own KVM cannot run guests.
