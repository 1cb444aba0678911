//! Nitro Secure Module: messages, PCR bank and the device's state machine.
