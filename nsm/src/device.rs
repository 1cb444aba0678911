//! The device behind `/dev/nsm` as a state machine: one request in, one response out. Clock,
//! randomness and the signing key belong to whoever drives it and come in through
//! [`Environment`]; so the same machine runs in the nsm process, under property tests and under a
//! fuzzer. A request whose response does not fit its buffer changes nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::message::{
    AttestationFields, Digest, ErrorCode, MAX_ATTESTATION_FIELD, MAX_REQUEST, MAX_RESPONSE,
    Request, Response,
};
use crate::pcr::{BankError, PCR_COUNT};
use crate::{Error, Pcr, PcrBank};

/// Bytes GetRandom returns where the buffer allows, as on AWS.
const RANDOM_LEN: usize = 256;
/// Fewest bytes GetRandom returns: the Linux driver misreads shorter answers.
const RANDOM_MIN: usize = 24;
/// Bytes of a GetRandom response around the random ones, at most.
const RANDOM_OVERHEAD: usize = 22;

/// What the device needs from outside.
pub trait Environment {
    /// Wall clock, milliseconds since 1970.
    fn now_ms(&mut self) -> u64;

    /// Fills `out` with random bytes fit for keys.
    ///
    /// # Errors
    /// [`Unavailable`] when there are none; the guest is told InternalError.
    fn random(&mut self, out: &mut [u8]) -> Result<(), Unavailable>;

    /// Signs a document with these claims and returns it, COSE_Sign1.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot be signed; the guest is told InternalError.
    fn attest(&mut self, claims: &Claims) -> Result<Vec<u8>, Unavailable>;
}

/// The outside could not do its part. Whoever drives the device logs why; the guest need not know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unavailable;

/// What one document states.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claims {
    /// The enclave's id.
    pub module_id: ModuleId,
    /// When the request was handled, milliseconds since 1970.
    pub timestamp_ms: u64,
    /// The locked registers; 0 to 15 are always among them.
    pub pcrs: BTreeMap<u8, Pcr>,
    /// What the guest put in.
    pub fields: AttestationFields,
}

/// An enclave's id in documents and DescribeNSM: 1 to 99 visible ASCII characters (the C library
/// has room for 100 with the NUL).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ModuleId(String);

impl ModuleId {
    /// Longest id, bytes.
    pub const MAX: usize = 99;

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModuleId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > Self::MAX || !visible {
            return Err(Error::ModuleId { given: text.chars().take(120).collect() });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One enclave's NSM.
#[derive(Clone, Debug)]
pub struct Device {
    module_id: ModuleId,
    bank: PcrBank,
}

impl Device {
    /// A device at the enclave's first instruction. Registers 0 to 15 are locked here if they are
    /// not yet. With `debug`, the registers that name the image (0, 1, 2, 8) are zero for the
    /// guest and in documents, because a debug enclave's console can be read from outside.
    #[must_use]
    pub fn new(module_id: ModuleId, mut bank: PcrBank, debug: bool) -> Self {
        bank.lock_launch_registers();
        if debug {
            bank.conceal_image();
        }
        Self { module_id, bank }
    }

    /// The registers as the guest sees them.
    #[must_use]
    pub fn bank(&self) -> &PcrBank {
        &self.bank
    }

    /// Handles one request. The response is at most `response_capacity` and [`MAX_RESPONSE`]
    /// bytes; it is empty only when not even an error fits.
    pub fn handle(
        &mut self,
        request: &[u8],
        response_capacity: usize,
        environment: &mut impl Environment,
    ) -> Vec<u8> {
        let capacity = response_capacity.min(MAX_RESPONSE);
        let before = self.bank.clone();
        let response = self.respond(request, capacity, environment);
        match response.to_vec() {
            Ok(bytes) if bytes.len() <= capacity => return bytes,
            _ => self.bank = before,
        }
        match Response::Error(ErrorCode::BufferTooSmall).to_vec() {
            Ok(bytes) if bytes.len() <= capacity => bytes,
            _ => Vec::new(),
        }
    }

    fn respond(
        &mut self,
        request: &[u8],
        capacity: usize,
        environment: &mut impl Environment,
    ) -> Response {
        if request.len() > MAX_REQUEST {
            return Response::Error(ErrorCode::InputTooLarge);
        }
        let Ok(request) = Request::from_slice(request) else {
            return Response::Error(ErrorCode::InvalidOperation);
        };
        let outcome = match request {
            Request::DescribePcr { index } => self
                .bank
                .describe(index)
                .map(|(data, lock)| Response::DescribePcr { lock, data })
                .map_err(ErrorCode::from),
            Request::ExtendPcr { index, data } => self
                .bank
                .extend(index, &data)
                .map(|data| Response::ExtendPcr { data })
                .map_err(ErrorCode::from),
            Request::LockPcr { index } => {
                self.bank.lock(index).map(|()| Response::LockPcr).map_err(ErrorCode::from)
            }
            Request::LockPcrs { range } => {
                self.bank.lock_range(range).map(|()| Response::LockPcrs).map_err(ErrorCode::from)
            }
            Request::DescribeNsm => Ok(self.describe()),
            Request::Attestation(fields) => self.attest(fields, environment),
            Request::GetRandom => random(capacity, environment),
        };
        outcome.unwrap_or_else(Response::Error)
    }

    fn describe(&self) -> Response {
        Response::DescribeNsm {
            version_major: 1,
            version_minor: 0,
            version_patch: 0,
            module_id: self.module_id.0.clone(),
            max_pcrs: PCR_COUNT,
            locked_pcrs: self.bank.locked().map(|(index, _)| u16::from(index)).collect(),
            digest: Digest::Sha384,
        }
    }

    fn attest(
        &self,
        fields: AttestationFields,
        environment: &mut impl Environment,
    ) -> Result<Response, ErrorCode> {
        let given = [&fields.user_data, &fields.nonce, &fields.public_key];
        if given.into_iter().flatten().any(|bytes| bytes.len() > MAX_ATTESTATION_FIELD) {
            return Err(ErrorCode::InvalidArgument);
        }
        let claims = Claims {
            module_id: self.module_id.clone(),
            timestamp_ms: environment.now_ms(),
            pcrs: self.bank.locked().collect(),
            fields,
        };
        let document =
            environment.attest(&claims).map_err(|Unavailable| ErrorCode::InternalError)?;
        Ok(Response::Attestation { document })
    }
}

fn random(capacity: usize, environment: &mut impl Environment) -> Result<Response, ErrorCode> {
    let len = capacity.saturating_sub(RANDOM_OVERHEAD).min(RANDOM_LEN);
    if len < RANDOM_MIN {
        return Err(ErrorCode::BufferTooSmall);
    }
    let mut random = vec![0; len];
    environment.random(&mut random).map_err(|Unavailable| ErrorCode::InternalError)?;
    Ok(Response::GetRandom { random })
}

impl From<BankError> for ErrorCode {
    fn from(error: BankError) -> Self {
        match error {
            BankError::InvalidIndex(_) => Self::InvalidIndex,
            BankError::ReadOnlyIndex(_) => Self::ReadOnlyIndex,
        }
    }
}

#[cfg(test)]
mod tests;
