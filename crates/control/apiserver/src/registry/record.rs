//! A stored object: its JSON without resource version and managedFields, which are joined on output, behind a header
//! with what selectors ask for, so that lists and watches choose objects without decoding them.
//!
//! Layout, little endian: version u8, then five u32: the place in the JSON right behind `"metadata":{`, and the lengths of
//! labels, fields, managedFields and JSON; then these four. Labels are pairs, fields single texts in the order of the
//! kind's selectable fields, each with a u16 length in front. managedFields are as `owners` has them; in records of the first version
//! they were JSON.

mod owners;

use bytes::{BufMut, Bytes};
use fram_api::{Kind, names, strategy};
use fram_machinery::labels::{FieldSelector, Selector};
use fram_machinery::{Key, Value, json, meta};

const VERSION: u8 = 2;
const FIRST_VERSION: u8 = 1;
const HEADER: usize = 1 + 5 * 4;

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("the stored object cannot be decrypted: its key is not among those of this server, or the service that has it does not answer")]
    Sealed,
    #[error("stored object has the unknown format {0}")]
    Version(u8),
    #[error("what is stored of the managers of the object has an unknown format")]
    Owners,
    #[error("stored object is cut short")]
    Short,
    #[error("stored object is not JSON: {0}")]
    Json(#[from] json::ParseError),
}

/// A view of a stored object's bytes.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    bytes: &'a [u8],
    /// Where labels, fields and managedFields end; the JSON is the rest.
    ends: [usize; 3],
    splice: usize,
}

/// The entries by which objects of a kind say of which version and kind they are.
pub struct TypeMeta {
    version: Vec<u8>,
    kind: Vec<u8>,
}

impl TypeMeta {
    pub fn of(kind: &Kind) -> Self {
        let entry = |key: &str, value: &str| {
            let mut out = format!("\"{key}\":").into_bytes();
            json::write_string(&mut out, value);
            out
        };
        Self { version: entry("apiVersion", &kind.api_version()), kind: entry("kind", &kind.kind) }
    }

    /// Appends what stands before the metadata, up to right behind `"metadata":{`, without these entries. Nearly all objects begin
    /// with the version, and have the kind right before the metadata; only of others all that is before is read.
    fn write_without(&self, head: &[u8], out: &mut impl BufMut) {
        const METADATA: &[u8] = b",\"metadata\":{";
        let first = head.strip_prefix(b"{").and_then(|h| h.strip_prefix(self.version.as_slice()));
        let between = first.and_then(|h| h.strip_suffix(METADATA)).and_then(|h| h.strip_suffix(self.kind.as_slice()));
        out.put_u8(b'{');
        if let Some(between) = between.and_then(|b| b.strip_prefix(b",")) {
            out.put_slice(between);
            out.put_slice(&METADATA[1..]);
            return;
        }
        let mut first = true;
        for entry in entries(head).filter(|e| *e != self.version && *e != self.kind) {
            if !std::mem::take(&mut first) {
                out.put_u8(b',');
            }
            out.put_slice(entry);
        }
    }
}

/// The entries of an object whose last one is cut short.
fn entries(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut depth, mut in_text, mut escaped) = (0, false, false);
    head.strip_prefix(b"{").unwrap_or(head).split(move |c| {
        let was = in_text;
        match c {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => depth -= 1,
            b',' => return !was && depth == 0,
            _ => {}
        }
        false
    })
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    let text = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text);
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

impl Record<'_> {
    /// Encodes an object of a kind for the store.
    pub fn encode(kind: &Kind, mut object: Value) -> Bytes {
        let managed = object.remove(&["metadata", "managedFields"]).filter(|m| !m.is_empty());
        object.remove(&["metadata", "resourceVersion"]);
        let (mut labels, mut fields) = (Vec::new(), Vec::new());
        if let Some(map) = meta::labels(&object).as_map() {
            for (key, value) in map.iter() {
                push_text(&mut labels, key);
                push_text(&mut labels, value.as_str().unwrap_or_default());
            }
        }
        for path in &kind.selectable {
            push_text(&mut fields, &field_text(kind, &object, path));
        }
        let managed = managed.map(|m| owners::encode(&m)).unwrap_or_default();
        let (body, splice) = encode_json(&object);
        let mut out = Vec::with_capacity(HEADER + labels.len() + fields.len() + managed.len() + body.len());
        out.push(VERSION);
        for n in [splice, labels.len(), fields.len(), managed.len(), body.len()] {
            out.extend_from_slice(&(n as u32).to_le_bytes());
        }
        for part in [&labels, &fields, &managed, &body] {
            out.extend_from_slice(part);
        }
        out.into()
    }
}

impl<'a> Record<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        match bytes.first() {
            Some(&(FIRST_VERSION..=VERSION)) => {}
            // As the store leaves a value that its cipher cannot open.
            Some(_) if bytes.starts_with(b"k8s:enc:") => return Err(RecordError::Sealed),
            Some(&other) => return Err(RecordError::Version(other)),
            None => return Err(RecordError::Short),
        }
        if bytes.len() < HEADER {
            return Err(RecordError::Short);
        }
        let number = |i: usize| {
            let mut raw = [0; 4];
            raw.copy_from_slice(&bytes[1 + 4 * i..5 + 4 * i]);
            u32::from_le_bytes(raw) as usize
        };
        let labels = HEADER + number(1);
        let fields = labels + number(2);
        let managed = fields + number(3);
        let json = number(4);
        if managed + json > bytes.len() || number(0) > json {
            return Err(RecordError::Short);
        }
        let record = Self { bytes: &bytes[..managed + json], ends: [labels, fields, managed], splice: number(0) };
        if !owners::is_known(record.managed()) {
            return Err(RecordError::Owners);
        }
        Ok(record)
    }

    fn labels(&self) -> &[u8] {
        &self.bytes[HEADER..self.ends[0]]
    }

    fn fields(&self) -> &'a [u8] {
        &self.bytes[self.ends[0]..self.ends[1]]
    }

    fn managed(&self) -> &[u8] {
        &self.bytes[self.ends[1]..self.ends[2]]
    }

    fn document(&self) -> &[u8] {
        &self.bytes[self.ends[2]..]
    }

    /// Appends the JSON of the object at a revision. Where it is the element of a list, which does not repeat what the list says of
    /// all, `own` is left out.
    pub fn write_json(&self, revision: u64, own: Option<&TypeMeta>, out: &mut impl BufMut) {
        let (head, rest) = self.document().split_at(self.splice);
        match own {
            Some(own) => own.write_without(head, out),
            None => out.put_slice(head),
        }
        out.put_slice(b"\"resourceVersion\":\"");
        out.put_slice(revision.to_string().as_bytes());
        out.put_u8(b'"');
        if !self.managed().is_empty() {
            out.put_slice(b",\"managedFields\":");
            owners::write_json(self.managed(), out);
        }
        if rest.first() != Some(&b'}') {
            out.put_u8(b',');
        }
        out.put_slice(rest);
    }

    /// How long the JSON is, without the revision.
    pub fn json_len(&self) -> usize {
        self.document().len() + owners::json_len(self.managed())
    }

    /// The JSON of the object at a revision.
    pub fn json(&self, revision: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.json_len() + 64);
        self.write_json(revision, None, &mut out);
        out
    }

    /// The object at a revision.
    pub fn to_object(&self, revision: u64) -> Result<Value, RecordError> {
        let mut object = self.to_unmanaged(revision)?;
        if !self.managed().is_empty() {
            object.set(&["metadata", "managedFields"], owners::to_value(self.managed())?);
        }
        Ok(object)
    }

    /// The same without who manages which of its fields.
    pub fn to_unmanaged(&self, revision: u64) -> Result<Value, RecordError> {
        let mut object = json::from_slice_named(self.document(), names())?;
        object.set(&["metadata", "resourceVersion"], revision.to_string());
        Ok(object)
    }

    pub fn matches_labels(&self, selector: &Selector) -> bool {
        selector.is_everything() || selector.matches_with(|key| self.label(key))
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        let mut rest = self.labels();
        loop {
            let (k, v) = (take_text(&mut rest)?, take_text(&mut rest)?);
            if k == key {
                return Some(v);
            }
        }
    }

    /// Whether the fields match; the selector's paths are among `selectable`.
    pub fn matches_fields(&self, selectable: &[Key], selector: &FieldSelector) -> bool {
        selector.is_everything() || selector.matches_with(|path| self.field(selectable, path).unwrap_or_default().to_string())
    }

    /// The text of a selectable field.
    pub fn field(&self, selectable: &[Key], path: &str) -> Option<&'a str> {
        self.nth_field(selectable.iter().position(|name| *name == path)?)
    }

    /// The text of the selectable field at a place among them.
    pub fn nth_field(&self, place: usize) -> Option<&'a str> {
        let mut rest = self.fields();
        for _ in 0..place {
            take_text(&mut rest)?;
        }
        take_text(&mut rest)
    }
}

/// The text of a selectable field of an object.
pub(super) fn field_text(kind: &Kind, object: &Value, path: &str) -> String {
    if let Some(text) = strategy(kind).field(object, path) {
        return text;
    }
    let steps: Vec<&str> = path.split('.').collect();
    match object.at(&steps) {
        None | Some(Value::Null) => String::new(),
        Some(value) => json::text(value).to_string(),
    }
}

/// The object's JSON, and the place right behind `"metadata":{`.
fn encode_json(object: &Value) -> (Vec<u8>, usize) {
    let mut out = Vec::with_capacity(1024);
    let mut splice = 0;
    out.push(b'{');
    for (i, (key, value)) in object.as_map().into_iter().flat_map(|m| m.iter()).enumerate() {
        if i > 0 {
            out.push(b',');
        }
        json::write_string(&mut out, key);
        out.push(b':');
        if key.as_str() == "metadata" {
            splice = out.len() + 1;
        }
        json::write(&mut out, value);
    }
    out.push(b'}');
    (out, splice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_api::Api;
    use fram_machinery::object;

    #[test]
    fn a_record_gives_back_its_object_with_its_revision() {
        let api = Api::builtin().unwrap();
        let kind = api.kind("", "v1", "Pod").unwrap();
        let pod = object!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "x", "namespace": "ns", "labels": { "a": "b" }, "managedFields": [{ "manager": "m" }] },
            "spec": { "nodeName": "n1" }, "status": {} });
        let bytes = Record::encode(kind, pod.clone());
        let record = Record::parse(&bytes).unwrap();
        let mut expect = pod;
        expect.set(&["metadata", "resourceVersion"], "7");
        assert_eq!(record.to_object(7).unwrap(), expect);
        assert!(record.matches_labels(&Selector::parse("a=b,!c").unwrap()));
        assert_eq!(record.field(&kind.selectable, "spec.nodeName"), Some("n1"));
        assert!(record.matches_fields(&kind.selectable, &FieldSelector::parse("metadata.name=x,spec.nodeName!=n2").unwrap()));
    }

    #[test]
    fn an_element_of_a_list_does_not_repeat_its_kind() {
        let api = Api::builtin().unwrap();
        let element = |kind: &str, mut object: Value| {
            let kind = api.kind("", "v1", kind).unwrap();
            object.set(&["apiVersion"], "v1");
            object.set(&["kind"], &kind.kind);
            let bytes = Record::encode(kind, object);
            let record = Record::parse(&bytes).unwrap();
            let mut out = Vec::new();
            record.write_json(7, Some(&TypeMeta::of(kind)), &mut out);
            String::from_utf8(out).unwrap()
        };
        let meta = r#""metadata":{"resourceVersion":"7","name":"x"}"#;
        assert_eq!(element("Pod", object!({ "metadata": { "name": "x" }, "spec": {} })), format!(r#"{{{meta},"spec":{{}}}}"#));
        let data = object!({ "metadata": { "name": "x" }, "data": { "a": "},\"kind\":\"ConfigMap\",\\" } });
        assert_eq!(element("ConfigMap", data), format!(r#"{{"data":{{"a":"}},\"kind\":\"ConfigMap\",\\"}},{meta}}}"#));
        let about = object!({ "metadata": { "name": "x" }, "action": "a,{", "involvedObject": { "apiVersion": "v1", "kind": "Event" }, "message": "m" });
        let expect = format!(r#"{{"action":"a,{{","involvedObject":{{"apiVersion":"v1","kind":"Event"}},"message":"m",{meta}}}"#);
        assert_eq!(element("Event", about), expect);
    }

    #[test]
    fn a_record_of_the_first_version_is_read() {
        let managed = object!([{ "fieldsV1": { "f:data": {} }, "manager": "m" }]);
        let (managers, (body, splice)) = (json::to_vec(&managed), encode_json(&object!({ "metadata": { "name": "x" } })));
        let mut bytes = vec![FIRST_VERSION];
        [splice, 0, 0, managers.len(), body.len()].into_iter().for_each(|n| bytes.extend_from_slice(&(n as u32).to_le_bytes()));
        bytes.extend([managers, body].concat());
        let record = Record::parse(&bytes).unwrap();
        let expect = object!({ "metadata": { "managedFields": managed, "name": "x", "resourceVersion": "7" } });
        assert_eq!(record.to_object(7).unwrap(), expect);
        assert_eq!(json::from_slice(&record.json(7)).unwrap(), expect);
    }

    #[test]
    fn damaged_records_are_refused() {
        for bytes in [&b""[..], b"\x02", b"\x01\x00", &[1; 21]] {
            assert!(Record::parse(&Bytes::copy_from_slice(bytes)).is_err());
        }
    }
}
