//! Protobuf in and out of the object tree, by description. The bytes are those that Kubernetes' generated code writes:
//! fields in the order of their numbers, plain scalars and structs always, pointers when they are set.

mod decode;
mod encode;
pub mod wire;

pub use decode::decode;
pub use encode::{encode, encode_list, encode_watch_event};
pub use wire::WireError;

use wire::{Reader, put_bytes};

/// What every stored or sent object begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// The outer message of an encoded object: `runtime.Unknown`.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope<'a> {
    pub api_version: String,
    pub kind: String,
    pub raw: &'a [u8],
}

/// Wraps an encoded object, with the magic number in front.
pub fn seal(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut meta = Vec::with_capacity(api_version.len() + kind.len() + 4);
    put_bytes(&mut meta, 1, api_version.as_bytes());
    put_bytes(&mut meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(raw.len() + meta.len() + 24);
    out.extend_from_slice(MAGIC);
    put_bytes(&mut out, 1, &meta);
    put_bytes(&mut out, 2, raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out
}

/// Opens an envelope.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, WireError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(WireError::Magic)?;
    let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    let mut reader = Reader::new(rest);
    while let Some((number, item)) = reader.next()? {
        match number {
            1 => {
                let mut meta = Reader::new(item.bytes()?);
                while let Some((number, item)) = meta.next()? {
                    match number {
                        1 => envelope.api_version = item.text()?.to_string(),
                        2 => envelope.kind = item.text()?.to_string(),
                        _ => {}
                    }
                }
            }
            2 => envelope.raw = item.bytes()?,
            _ => {}
        }
    }
    Ok(envelope)
}
