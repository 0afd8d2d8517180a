//! The little of protobuf that calls need whose messages are written by hand: numbers, bytes, text, messages within messages,
//! and maps from text to bytes. Pure.

use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message is malformed")]
pub struct Malformed;

/// A message that is being written. What is empty is left out, as proto3 has it.
#[derive(Debug, Clone, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub(crate) fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    #[must_use]
    pub fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        if !value.is_empty() {
            self.put_piece(field, value);
        }
        self
    }

    #[must_use]
    pub fn number(mut self, field: u64, value: u64) -> Self {
        self.put_number(field, value);
        self
    }

    /// A number where it is not 0.
    pub fn put_number(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.put_varint(field << 3);
            self.put_varint(value);
        }
    }

    pub(crate) fn put_fixed64(&mut self, field: u64, value: [u8; 8]) {
        self.put_varint(field << 3 | 1);
        self.0.extend_from_slice(&value);
    }

    /// A message within the message; it is written also when it is empty, since its presence says something.
    #[must_use]
    pub fn message(mut self, field: u64, value: &Self) -> Self {
        self.put_piece(field, &value.0);
        self
    }

    #[must_use]
    pub fn map(mut self, field: u64, entries: &BTreeMap<String, Vec<u8>>) -> Self {
        for (key, value) in entries {
            let entry = Writer::default().bytes(1, key.as_bytes()).bytes(2, value).0;
            self.put_piece(field, &entry);
        }
        self
    }

    /// Text, bytes or a message, also where it is empty.
    pub fn put_piece(&mut self, field: u64, value: &[u8]) {
        self.put_varint(field << 3 | 2);
        self.put_varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }
}

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) => Err(Malformed),
        }
    }

    pub fn number(self) -> Result<u64, Malformed> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Bytes(_) => Err(Malformed),
        }
    }

    pub fn text(self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed)
    }

    /// The numbers of a repeated field, of which one or many come at a time.
    pub(crate) fn packed(self) -> impl Iterator<Item = Result<u64, Malformed>> {
        let (mut alone, mut rest) = match self {
            Self::Number(number) => (Some(number), &[][..]),
            Self::Bytes(bytes) => (None, bytes),
        };
        std::iter::from_fn(move || {
            if let Some(number) = alone.take() {
                return Some(Ok(number));
            }
            if rest.is_empty() {
                return None;
            }
            let number = varint(&mut rest);
            if number.is_err() {
                rest = &[];
            }
            Some(number)
        })
    }

    /// One entry of a map.
    pub fn entry(self) -> Result<(String, Vec<u8>), Malformed> {
        let (mut key, mut value) = (String::new(), Vec::new());
        for field in fields(self.bytes()?) {
            match field? {
                (1, found) => key = found.text()?,
                (2, found) => value = found.bytes()?.to_vec(),
                _ => {}
            }
        }
        Ok((key, value))
    }
}

/// The fields of a message, by their numbers.
pub fn fields(bytes: &[u8]) -> impl Iterator<Item = Result<(u64, Field<'_>), Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Field<'a>), Malformed> {
    let tag = varint(rest)?;
    let value = match tag & 7 {
        0 => Field::Number(varint(rest)?),
        1 => Field::Bytes(take(rest, 8)?),
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|_| Malformed)?;
            Field::Bytes(take(rest, length)?)
        }
        5 => Field::Bytes(take(rest, 4)?),
        _ => return Err(Malformed),
    };
    Ok((tag >> 3, value))
}

fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, more) = rest.split_first().ok_or(Malformed)?;
        *rest = more;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (bytes, more) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = more;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_were_written() {
        let map = BTreeMap::from([("a.b".to_string(), vec![1, 2]), ("c".to_string(), Vec::new())]);
        let bytes = Writer::default().bytes(1, b"x").bytes(2, b"").number(3, 300).map(4, &map).0;
        let read: Vec<_> = fields(&bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(read[..2], [(1, Field::Bytes(b"x")), (3, Field::Number(300))]);
        let entries: BTreeMap<_, _> = read[2..].iter().map(|(_, f)| f.entry().unwrap()).collect();
        assert_eq!(entries, map);
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        for bytes in [&[0x0a, 5, 1][..], &[0xff; 12], &[0x0b], &[0x08]] {
            assert!(fields(bytes).any(|f| f.is_err()), "{bytes:?}");
        }
    }
}
