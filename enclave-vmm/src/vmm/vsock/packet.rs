//! The 44 bytes before every vsock payload (virtio 1.2, 5.10.6), little-endian. A header is copied out of guest memory once
//! and only the copy is used, so the guest cannot change it between a check and its use.

/// Header length, bytes.
pub const HEADER: usize = 44;
/// `VIRTIO_VSOCK_TYPE_STREAM`, the only type Nitro has.
pub const STREAM: u16 = 1;
/// The other side will receive no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// The other side will send no more.
pub const SHUTDOWN_SEND: u32 = 2;
/// Both of them.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Opens a connection.
    Request,
    /// Accepts it.
    Response,
    /// Refuses or ends it.
    Reset,
    /// Ends one or both directions.
    Shutdown,
    /// Payload.
    Data,
    /// Tells the credit.
    CreditUpdate,
    /// Asks for the credit.
    CreditRequest,
    /// Anything else, as it came.
    Unknown(u16),
}

impl From<u16> for Op {
    fn from(op: u16) -> Op {
        match op {
            1 => Op::Request,
            2 => Op::Response,
            3 => Op::Reset,
            4 => Op::Shutdown,
            5 => Op::Data,
            6 => Op::CreditUpdate,
            7 => Op::CreditRequest,
            other => Op::Unknown(other),
        }
    }
}

impl From<Op> for u16 {
    fn from(op: Op) -> u16 {
        match op {
            Op::Request => 1,
            Op::Response => 2,
            Op::Reset => 3,
            Op::Shutdown => 4,
            Op::Data => 5,
            Op::CreditUpdate => 6,
            Op::CreditRequest => 7,
            Op::Unknown(other) => other,
        }
    }
}

/// A packet's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Sender.
    pub src_cid: u64,
    /// Receiver.
    pub dst_cid: u64,
    /// Sender's port.
    pub src_port: u32,
    /// Receiver's port.
    pub dst_port: u32,
    /// Payload, bytes.
    pub len: u32,
    /// Socket type, [`STREAM`].
    pub kind: u16,
    /// What it is for.
    pub op: Op,
    /// Of a shutdown: which directions.
    pub flags: u32,
    /// Sender's receive buffer, bytes.
    pub buf_alloc: u32,
    /// Bytes the sender has taken out of that buffer since the beginning, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// From the wire.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; HEADER]) -> Header {
        let u64_at = |at: usize| u64::from_le_bytes(array(bytes, at));
        let u32_at = |at: usize| u32::from_le_bytes(array(bytes, at));
        let u16_at = |at: usize| u16::from_le_bytes(array(bytes, at));
        Header {
            src_cid: u64_at(0),
            dst_cid: u64_at(8),
            src_port: u32_at(16),
            dst_port: u32_at(20),
            len: u32_at(24),
            kind: u16_at(28),
            op: u16_at(30).into(),
            flags: u32_at(32),
            buf_alloc: u32_at(36),
            fwd_cnt: u32_at(40),
        }
    }

    /// To the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            for (to, from) in bytes.iter_mut().skip(at).zip(field) {
                *to = *from;
            }
            at += field.len();
        };
        put(&self.src_cid.to_le_bytes());
        put(&self.dst_cid.to_le_bytes());
        put(&self.src_port.to_le_bytes());
        put(&self.dst_port.to_le_bytes());
        put(&self.len.to_le_bytes());
        put(&self.kind.to_le_bytes());
        put(&u16::from(self.op).to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.buf_alloc.to_le_bytes());
        put(&self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The reset that answers this packet: it comes from whatever address was dialled, or the guest's kernel would not
    /// know which socket it is for.
    #[must_use]
    pub fn refusal(&self) -> Header {
        Header {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            len: 0,
            kind: self.kind,
            op: Op::Reset,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }
}

/// `N` bytes at `at`; the caller's offsets are constants inside of the header.
fn array<const N: usize>(bytes: &[u8; HEADER], at: usize) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    field
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_where_the_standard_puts_them() {
        let mut bytes = [0u8; HEADER];
        for (value, byte) in (0u8..).zip(bytes.iter_mut()) {
            *byte = value;
        }
        let header = Header::from_bytes(&bytes);
        assert_eq!(header.src_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.dst_cid, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(header.src_port, 0x1312_1110);
        assert_eq!(header.dst_port, 0x1716_1514);
        assert_eq!(header.len, 0x1b1a_1918);
        assert_eq!(header.kind, 0x1d1c);
        assert_eq!(header.op, Op::Unknown(0x1f1e));
        assert_eq!(header.flags, 0x2322_2120);
        assert_eq!(header.buf_alloc, 0x2726_2524);
        assert_eq!(header.fwd_cnt, 0x2b2a_2928);
    }

    proptest! {
        #[test]
        fn a_header_survives_the_wire(bytes in prop::array::uniform::<_, HEADER>(any::<u8>())) {
            prop_assert_eq!(Header::from_bytes(&bytes).to_bytes(), bytes);
        }
    }
}
