//! The wire format: varints, fixed widths and length-delimited fields. Writers are open to all, for messages that no
//! description is about.

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WireError {
    #[error("provided data does not appear to be a protobuf message: the magic number is missing")]
    Magic,
    #[error("protobuf message ends in the middle of a field")]
    Short,
    #[error("protobuf field has the unknown wire type {0}")]
    WireType(u8),
    #[error("protobuf field has another wire type than its description says")]
    Mismatch,
    #[error("protobuf text is not UTF-8")]
    Utf8,
    #[error("protobuf message is nested too deeply")]
    Depth,
    #[error("raw JSON in a protobuf message: {0}")]
    Json(#[from] crate::json::ParseError),
}

/// One field as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Item<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Item<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Item::Bytes(b) => Ok(b),
            _ => Err(WireError::Mismatch),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Utf8)
    }

    pub(super) fn varint(self) -> Result<u64, WireError> {
        match self {
            Item::Varint(n) => Ok(n),
            _ => Err(WireError::Mismatch),
        }
    }
}

/// Reads the fields of one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(super) fn next(&mut self) -> Result<Option<(u32, Item<'a>)>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| WireError::Short)?;
        let item = match (tag & 7) as u8 {
            0 => Item::Varint(self.varint()?),
            1 => Item::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| WireError::Short)?;
                Item::Bytes(self.take(len)?)
            }
            5 => Item::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(WireError::WireType(other)),
        };
        Ok(Some((number, item)))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Short)
    }
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Number and wire type in front of a field.
pub fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire_type));
}

/// A text, bytes, or a message that is written already.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A number or, as 0 or 1, a boolean.
pub fn put_int(out: &mut Vec<u8>, number: u32, value: i64) {
    put_tag(out, number, 0);
    // Negative numbers are written as their 64-bit two's complement.
    put_varint(out, value as u64);
}
