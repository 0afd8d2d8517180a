//! CBOR in and out of the object tree, as KEP-4222 profiles RFC 8949: strings are byte strings, bytes to be shown as base64 carry a tag,
//! and what JSON could not say is refused. Limits of depth and length hold before anything is allocated.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ciborium_ll::simple::{FALSE, NULL, TRUE};
use ciborium_ll::{Decoder, Encoder, Header};

use crate::json::MAX_DEPTH;
use crate::value::{Entries, Key, Map, Value};

/// How every document begins: the tag of self-described CBOR, which says nothing else.
const SELF_DESCRIBED: u64 = 55_799;
/// Tags of byte strings that JSON shows as base64url, base64 or hexadecimal digits; RFC 8949 3.4.5.2.
const LATER_BASE64URL: u64 = 21;
const LATER_BASE64: u64 = 22;
const LATER_BASE16: u64 = 23;
/// Numbers of any size, which an object tree has no place for.
const BIGNUM: [u64; 2] = [2, 3];
const EPOCH: u64 = 1;
/// Text is read in pieces of this size, whatever length it claims to have.
const PIECE: usize = 4096;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("cbor: {message} at byte {offset}")]
pub struct DecodeError {
    pub message: String,
    pub offset: usize,
}

/// Reads one document; anything behind it is an error. Of a key that stands twice nothing is kept: such a map is no map.
pub fn from_slice(input: &[u8]) -> Result<Value, DecodeError> {
    let mut reader = Reader { decoder: Decoder::from(input), length: input.len() };
    let value = reader.value(0)?;
    match reader.decoder.offset() {
        end if end == input.len() => Ok(value),
        end => reader.fail(format!("{} bytes of extraneous data", input.len() - end)),
    }
}

struct Reader<'a> {
    decoder: Decoder<&'a [u8]>,
    length: usize,
}

impl Reader<'_> {
    fn fail<T>(&mut self, message: impl Into<String>) -> Result<T, DecodeError> {
        Err(DecodeError { message: message.into(), offset: self.decoder.offset() })
    }

    fn pull(&mut self) -> Result<Header, DecodeError> {
        match self.decoder.pull() {
            Ok(header) => Ok(header),
            Err(ciborium_ll::Error::Io(_)) => self.fail("unexpected EOF"),
            Err(ciborium_ll::Error::Syntax(offset)) => Err(DecodeError { message: "not well-formed".into(), offset }),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let header = self.pull()?;
        self.item(header, depth)
    }

    fn item(&mut self, header: Header, depth: usize) -> Result<Value, DecodeError> {
        if depth > MAX_DEPTH {
            return self.fail(format!("exceeded max nested level {MAX_DEPTH}"));
        }
        match header {
            Header::Positive(n) => i64::try_from(n).map(Value::Int).or_else(|_| self.fail(format!("{n} overflows an int64"))),
            // The number on the wire is n for -1 - n.
            Header::Negative(n) => i64::try_from(n).map(|n| Value::Int(!n)).or_else(|_| self.fail(format!("-1-{n} overflows an int64"))),
            Header::Float(number) if number.is_finite() => Ok(Value::Float(number)),
            Header::Float(_) => self.fail("floating-point NaN and infinity are not allowed"),
            Header::Simple(FALSE) => Ok(Value::Bool(false)),
            Header::Simple(TRUE) => Ok(Value::Bool(true)),
            Header::Simple(NULL) => Ok(Value::Null),
            Header::Simple(other) => self.fail(format!("simple value {other} is not allowed")),
            Header::Bytes(length) => self.bytes(length).and_then(|bytes| self.text(bytes)).map(Value::from),
            Header::Text(length) => self.characters(length).map(Value::from),
            Header::Tag(tag) => self.tagged(tag, depth),
            Header::Array(length) => self.list(length, depth),
            Header::Map(length) => self.map(length, depth),
            Header::Break => self.fail("unexpected \"break\" code"),
        }
    }

    /// What a tag means for a tree: how bytes become text; others are left out.
    fn tagged(&mut self, tag: u64, depth: usize) -> Result<Value, DecodeError> {
        if BIGNUM.contains(&tag) {
            return self.fail("bignums are not allowed");
        }
        let header = self.pull()?;
        let later: Option<fn(&[u8]) -> String> = match tag {
            LATER_BASE64URL => Some(|bytes| URL_SAFE_NO_PAD.encode(bytes)),
            LATER_BASE64 => Some(|bytes| STANDARD.encode(bytes)),
            LATER_BASE16 => Some(|bytes| bytes.iter().map(|b| format!("{b:02x}")).collect()),
            _ => None,
        };
        if let (Some(encode), Header::Bytes(length)) = (later, header) {
            return Ok(encode(&self.bytes(length)?).into());
        }
        let value = self.item(header, depth + 1)?;
        match (tag, &value) {
            (EPOCH, Value::Int(seconds)) => self.time(*seconds, 0),
            (EPOCH, Value::Float(seconds)) => self.time(seconds.floor() as i64, ((seconds - seconds.floor()) * 1e9) as i32),
            (EPOCH, _) => self.fail("a time in seconds is a number"),
            _ => Ok(value),
        }
    }

    fn time(&mut self, seconds: i64, nanoseconds: i32) -> Result<Value, DecodeError> {
        match jiff::Timestamp::new(seconds, nanoseconds) {
            Ok(time) => Ok(time.to_string().into()),
            Err(_) => self.fail("a time is out of range"),
        }
    }

    /// No more is allocated than was read, and no more is read than a length that fits into the input.
    fn fits(&mut self, length: Option<usize>, least: usize) -> Result<(), DecodeError> {
        let left = self.length - self.decoder.offset();
        match length {
            Some(length) if length.checked_mul(least).is_none_or(|n| n > left) => self.fail("unexpected EOF"),
            _ => Ok(()),
        }
    }

    fn bytes(&mut self, length: Option<usize>) -> Result<Vec<u8>, DecodeError> {
        self.fits(length, 1)?;
        let mut out = Vec::new();
        let read: Result<(), ciborium_ll::Error<std::io::Error>> = (|| {
            let (mut buffer, mut segments) = ([0; PIECE], self.decoder.bytes(length));
            while let Some(mut segment) = segments.pull()? {
                while let Some(piece) = segment.pull(&mut buffer)? {
                    out.extend_from_slice(piece);
                }
            }
            Ok(())
        })();
        match read {
            Ok(()) => Ok(out),
            Err(_) => self.fail("a byte string is cut off or not well-formed"),
        }
    }

    fn characters(&mut self, length: Option<usize>) -> Result<String, DecodeError> {
        self.fits(length, 1)?;
        let mut out = String::new();
        let read: Result<(), ciborium_ll::Error<std::io::Error>> = (|| {
            let (mut buffer, mut segments) = ([0; PIECE], self.decoder.text(length));
            while let Some(mut segment) = segments.pull()? {
                while let Some(piece) = segment.pull(&mut buffer)? {
                    out.push_str(piece);
                }
            }
            Ok(())
        })();
        match read {
            Ok(()) => Ok(out),
            Err(_) => self.fail("a text string is cut off or not UTF-8"),
        }
    }

    fn text(&mut self, bytes: Vec<u8>) -> Result<String, DecodeError> {
        String::from_utf8(bytes).or_else(|_| self.fail("a string is not UTF-8"))
    }

    /// The next item of a container of so many; None at its end.
    fn next(&mut self, left: &mut Option<usize>) -> Result<Option<Header>, DecodeError> {
        match left {
            Some(0) => Ok(None),
            Some(n) => {
                *n -= 1;
                self.pull().map(Some)
            }
            None => match self.pull()? {
                Header::Break => Ok(None),
                header => Ok(Some(header)),
            },
        }
    }

    fn list(&mut self, length: Option<usize>, depth: usize) -> Result<Value, DecodeError> {
        self.fits(length, 1)?;
        let (mut left, mut items) = (length, Vec::new());
        while let Some(header) = self.next(&mut left)? {
            items.push(self.item(header, depth + 1)?);
        }
        Ok(items.into())
    }

    fn map(&mut self, length: Option<usize>, depth: usize) -> Result<Value, DecodeError> {
        self.fits(length, 2)?;
        let (mut left, mut entries) = (length, Entries::new());
        while let Some(header) = self.next(&mut left)? {
            let key = match header {
                Header::Bytes(length) => self.bytes(length).and_then(|bytes| self.text(bytes))?,
                Header::Text(length) => self.characters(length)?,
                _ => return self.fail("a map's key is no string"),
            };
            entries.push((Key::from(key), self.value(depth + 1)?));
        }
        let said = entries.len();
        let map = Map::from_entries(entries);
        if map.len() != said {
            return self.fail("found duplicate map key");
        }
        Ok(Value::Map(map))
    }
}

/// Writes a document with its head.
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let mut encoder = Encoder::from(&mut out);
    // Writing into memory does not fail.
    let _written = encoder.push(Header::Tag(SELF_DESCRIBED)).and_then(|()| write(&mut encoder, value));
    out
}

fn write(encoder: &mut Encoder<&mut Vec<u8>>, value: &Value) -> std::io::Result<()> {
    match value {
        Value::Null => encoder.push(Header::Simple(NULL)),
        Value::Bool(true) => encoder.push(Header::Simple(TRUE)),
        Value::Bool(false) => encoder.push(Header::Simple(FALSE)),
        Value::Int(n) if *n < 0 => encoder.push(Header::Negative(!n as u64)),
        Value::Int(n) => encoder.push(Header::Positive(*n as u64)),
        // The shortest form that keeps the value is chosen by the encoder.
        Value::Float(number) => encoder.push(Header::Float(*number)),
        Value::String(text) => encoder.bytes(text.as_bytes(), None),
        Value::List(items) => {
            encoder.push(Header::Array(Some(items.len())))?;
            items.iter().try_for_each(|item| write(encoder, item))
        }
        Value::Map(map) => {
            encoder.push(Header::Map(Some(map.len())))?;
            map.iter().try_for_each(|(key, member)| {
                encoder.bytes(key.as_bytes(), None)?;
                write(encoder, member)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object;

    #[test]
    fn a_tree_survives_the_way_there_and_back() {
        let tree = object!({ "a": 1, "b": (-500), "c": 1.5, "d": true, "e": null, "f": ["x", {}, []], "g": { "ü": "\u{1F600}" }, "h": (i64::MIN), "i": (i64::MAX) });
        assert_eq!(from_slice(&to_vec(&tree)), Ok(tree));
    }

    #[test]
    fn strings_are_byte_strings_behind_the_magic_number() {
        assert_eq!(to_vec(&object!({ "a": "b" })), [0xd9, 0xd9, 0xf7, 0xa1, 0x41, b'a', 0x41, b'b']);
        assert_eq!(to_vec(&Value::Float(1.5)), [0xd9, 0xd9, 0xf7, 0xf9, 0x3e, 0x00]);
        assert_eq!(to_vec(&Value::Int(-1)), [0xd9, 0xd9, 0xf7, 0x20]);
    }

    #[test]
    fn what_others_write_is_read() {
        let cases: [(&[u8], Value); 12] = [
            (&[0x61, b'x'], "x".into()),
            (&[0xa1, 0x61, b'k', 0x01], object!({ "k": 1 })),
            (&[0xd6, 0x42, 1, 2], "AQI=".into()),
            (&[0xd5, 0x42, 0xfb, 0xff], "-_8".into()),
            (&[0xd7, 0x42, 1, 0xab], "01ab".into()),
            (
                &[
                    0xc0, 0x74, b'2', b'0', b'2', b'6', b'-', b'0', b'1', b'-', b'0', b'1', b'T', b'0', b'0', b':', b'0', b'0', b':', b'0',
                    b'0', b'Z',
                ],
                "2026-01-01T00:00:00Z".into(),
            ),
            (&[0xc1, 0x00], "1970-01-01T00:00:00Z".into()),
            (&[0x9f, 0x01, 0x02, 0xff], object!([1, 2])),
            (&[0xbf, 0x41, b'a', 0xf6, 0xff], object!({ "a": null })),
            (&[0x5f, 0x41, b'a', 0x41, b'b', 0xff], "ab".into()),
            (&[0xd9, 0xd9, 0xf7, 0xd9, 0xd9, 0xf7, 0x01], 1.into()),
            (&[0xfb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0], 1.5.into()),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(from_slice(bytes), Ok(wanted), "{bytes:x?}");
        }
    }

    #[test]
    fn what_no_object_can_hold_is_refused() {
        let deep = [vec![0x81; MAX_DEPTH + 2], vec![0x01]].concat();
        let tags = [vec![0xc6; MAX_DEPTH + 2], vec![0x01]].concat();
        let cases: [(&[u8], &str); 16] = [
            (&[0xa2, 0x41, b'a', 0x01, 0x41, b'a', 0x02], "found duplicate map key"),
            (&[0xa1, 0x01, 0x01], "no string"),
            (&[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "overflows"),
            (&[0x3b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "overflows"),
            (&[0xf9, 0x7e, 0x00], "NaN"),
            (&[0xf9, 0x7c, 0x00], "infinity"),
            (&[0xf7], "simple value"),
            (&[0xc2, 0x41, 0x01], "bignum"),
            (&[0x41, 0xff], "UTF-8"),
            (&[0x61, 0xff], "UTF-8"),
            // Lengths that nothing stands behind.
            (&[0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "EOF"),
            (&[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "EOF"),
            (&[0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "EOF"),
            (&deep, "nested"),
            (&tags, "nested"),
            (&[0x01, 0x02], "extraneous"),
        ];
        for (bytes, wanted) in cases {
            let error = from_slice(bytes).unwrap_err().to_string();
            assert!(error.contains(wanted), "{:x?}: {error}", &bytes[..bytes.len().min(12)]);
        }
    }
}
