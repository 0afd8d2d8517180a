//! The encoding of answers, and their compression.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use fram_api::{Api, Kind};
use fram_machinery::{Status, TypeId, Value, cbor, json, meta, object, protobuf};
use fram_store::Entry;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};

use crate::accept::{Accept, Encoding, Shape};
use crate::http_api::Whole;
use crate::registry::{Listing, Place, Record, Registry, Served, TypeMeta};
use crate::server::{Answer, Performed};
use crate::table::{self, IncludeObject};

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A body without bytes.
pub(crate) fn nothing() -> Body {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

impl Accept {
    /// The bytes of an object; `api` knows the types that protobuf needs.
    fn encode(&self, api: &Api, value: &Value) -> Result<Vec<u8>, Status> {
        match self.encoding {
            Encoding::Protobuf => sealed(api, value),
            Encoding::Cbor => Ok(cbor::to_vec(value)),
            Encoding::Json => {
                let mut out = json::to_vec(value);
                out.push(b'\n');
                Ok(out)
            }
            Encoding::Yaml => fram_machinery::yaml::to_string(value).map(String::into_bytes).map_err(Status::internal),
        }
    }
}

fn respond(code: u16, content_type: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = content_type.parse() {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache, private"));
    response
}

/// Notes how large a body is of which nothing is still to come.
fn whole(mut response: Response<Body>, size: usize) -> Response<Body> {
    response.extensions_mut().insert(Whole(size as u64));
    response
}

/// A response of one piece.
pub(crate) fn bytes(code: u16, content_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    let body = body.into();
    let size = body.len();
    whole(respond(code, content_type, Full::new(body).map_err(|e| match e {}).boxed_unsync()), size)
}

/// A response that goes on until its stream ends.
pub(crate) fn stream<S>(content_type: &str, stream: S) -> Response<Body>
where
    S: futures_util::Stream<Item = Result<http_body::Frame<Bytes>, std::io::Error>> + Send + 'static,
{
    respond(200, content_type, BodyExt::boxed_unsync(StreamBody::new(stream)))
}

/// A body that holds something until it has been sent or given up.
pub(crate) fn holding<T: Send + Unpin + 'static>(body: Body, held: T) -> Body {
    BodyExt::boxed_unsync(Holding { body, _held: held })
}

struct Holding<T> {
    body: Body,
    _held: T,
}

impl<T: Unpin> http_body::Body for Holding<T> {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// The type of an object as it says of itself; lists are not among them.
fn type_of(api: &Api, value: &Value) -> Option<TypeId> {
    let (group, version) = value.str_at(&["apiVersion"]).split_once('/').unwrap_or(("", value.str_at(&["apiVersion"])));
    let name = value.str_at(&["kind"]);
    // Custom resources have no protobuf form.
    let found = api.kind(group, version, name).filter(|k| k.custom.is_none()).map(|k| k.ty);
    found.or_else(|| api.type_id(&format!("meta.v1.{name}")))
}

fn formless(version: &str, kind: &str) -> Status {
    Status::new(fram_machinery::Reason::NotAcceptable, format!("{version} {kind} has no protobuf form: accept application/json"))
}

/// An object as protobuf in its envelope.
pub(crate) fn sealed(api: &Api, value: &Value) -> Result<Vec<u8>, Status> {
    let (version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    if let Some(ty) = type_of(api, value) {
        return Ok(protobuf::seal(version, kind, &protobuf::encode(&api.schema, ty, value)));
    }
    if !kind.ends_with("List") {
        return Err(formless(version, kind));
    }
    let items = value.list_at(&["items"]);
    let raw: Vec<Vec<u8>> = items
        .iter()
        .map(|item| {
            let (group, number) = version.split_once('/').unwrap_or(("", version));
            let by_list = kind.strip_suffix("List").and_then(|k| api.kind(group, number, k)).filter(|k| k.custom.is_none()).map(|k| k.ty);
            let ty = type_of(api, item).or(by_list).ok_or_else(|| formless(version, kind))?;
            Ok(protobuf::encode(&api.schema, ty, item))
        })
        .collect::<Result<_, Status>>()?;
    let list_meta = api.type_id("meta.v1.ListMeta").ok_or_else(|| Status::internal("ListMeta is not described"))?;
    let metadata = value.get("metadata").cloned().unwrap_or_default();
    let body = protobuf::encode_list(&api.schema, list_meta, &metadata, raw.iter().map(Vec::as_slice));
    Ok(protobuf::seal(version, kind, &body))
}

/// An object that stands for itself.
pub(crate) fn object(api: &Api, code: u16, accept: Accept, value: &Value) -> Response<Body> {
    let encoded = if accept.beta {
        let mut value = value.clone();
        table::to_beta(&mut value);
        accept.encode(api, &value)
    } else {
        accept.encode(api, value)
    };
    match encoded {
        Ok(body) => bytes(code, accept.encoding.media_type(), body),
        Err(e) => status(api, &e, Accept::JSON),
    }
}

/// A document that has no protobuf form; in JSON these keys come first.
pub(crate) fn document(api: &Api, accept: Accept, order: &[&str], value: &Value) -> Response<Body> {
    if accept.encoding == Encoding::Json {
        return bytes(200, accept.encoding.media_type(), json::to_vec_in_order(value, order));
    }
    let encoding = if accept.encoding == Encoding::Protobuf { Encoding::Json } else { accept.encoding };
    object(api, 200, Accept { encoding, ..accept.plain() }, value)
}

/// A failed request.
pub(crate) fn status(api: &Api, status: &Status, accept: Accept) -> Response<Body> {
    let accept = accept.plain();
    let (accept, body) = match accept.encode(api, &status.to_object()) {
        Ok(body) => (accept, body),
        Err(_) => (Accept::JSON, json::to_vec(&status.to_object())),
    };
    let mut response = bytes(status.code, accept.encoding.media_type(), body);
    if status.retry_after_seconds > 0
        && let Ok(value) = status.retry_after_seconds.to_string().parse()
    {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    if status.code == 401 {
        let value = header::HeaderValue::from_static("Bearer realm=\"fram\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

/// Encodes what a call led to.
pub(crate) fn performed(
    registry: &Registry,
    performed: Performed,
    accept: Accept,
    include: IncludeObject,
) -> Result<Response<Body>, Status> {
    let mut response = answer(registry, performed.answer, accept, include)?;
    warn(&mut response, performed.warnings);
    Ok(response)
}

/// Says what the client should know beside the answer.
pub(crate) fn warn(response: &mut Response<Body>, warnings: Vec<String>) {
    for text in shortened(warnings) {
        let text = text.replace('\n', " ").replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = format!("299 - \"{text}\"").parse() {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// Bytes of all warnings together, and of each where they are more; see upstream's WithWarningRecorder.
const MOST_WARNINGS: (usize, usize) = (4096, 256);

/// What clients take of so many warnings: whole as long as they are few.
fn shortened(mut warnings: Vec<String>) -> Vec<String> {
    if warnings.iter().map(String::len).sum::<usize>() > MOST_WARNINGS.0 {
        let cut = |text: &mut String| text.truncate(text.floor_char_boundary(MOST_WARNINGS.1));
        warnings.iter_mut().for_each(cut);
        let mut left = MOST_WARNINGS.0;
        warnings.retain(|text| {
            left = left.saturating_sub(text.len());
            left > 0
        });
    }
    warnings
}

fn answer(registry: &Registry, answer: Answer, accept: Accept, include: IncludeObject) -> Result<Response<Body>, Status> {
    match answer {
        Answer::Stored { served, entry } => {
            if accept == Accept::JSON && served.verbatim() {
                return as_stored(200, &entry.value, entry.modified.0);
            }
            let value = registry.decode(&served, &entry)?;
            Ok(one(registry, &served, &value, 200, accept, include))
        }
        Answer::Object { served, object, entry, created } => {
            let code = if created { 201 } else { 200 };
            match entry.filter(|_| accept == Accept::JSON) {
                Some(entry) => as_stored(code, &entry.value, entry.revision),
                None => Ok(one(registry, &served, &object, code, accept, include)),
            }
        }
        Answer::Other { object: value, created } if accept.shape == Shape::Table => {
            let api = registry.api();
            let (group, version) = value.str_at(&["apiVersion"]).split_once('/').unwrap_or(("", value.str_at(&["apiVersion"])));
            if let Some(kind) = api.kind(group, version, value.str_at(&["kind"])).filter(|kind| !kind.columns.is_empty()) {
                let table = table::table(kind, std::slice::from_ref(&value), include, registry.environment.now());
                return Ok(object(&api, if created { 201 } else { 200 }, accept, &table));
            }
            let text = "the server was unable to respond with a content type that the client supports: this object has no table";
            Err(Status::new(fram_machinery::Reason::NotAcceptable, text))
        }
        Answer::Other { object: value, created } => Ok(object(&registry.api(), if created { 201 } else { 200 }, accept.plain(), &value)),
        Answer::Deleted { served, object: value } if served.kind.returns_deleted => {
            Ok(one(registry, &served, &value, 200, accept, include))
        }
        Answer::Deleted { served, object: value } => {
            let details = object!({ "name": (meta::name(&value)), "group": (&served.kind.group), "kind": (&served.kind.plural), "uid": (meta::uid(&value)) });
            let mut success = object!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details });
            if served.kind.group.is_empty() {
                success.remove(&["details", "group"]);
            }
            Ok(object(&registry.api(), 200, accept.plain(), &success))
        }
        Answer::List { place, listing } => list(registry, &place, listing, accept, include),
        Answer::Objects { place, objects } => {
            let kind = place.kind();
            if accept.shape == Shape::Table {
                let out = table::table(kind, &objects, include, registry.environment.now());
                return Ok(object(&registry.api(), 200, accept, &out));
            }
            let objects = elements(kind, objects);
            let value = object!({ "kind": (&kind.list_kind), "apiVersion": (kind.api_version()), "metadata": {}, "items": objects });
            Ok(object(&registry.api(), 200, accept.plain(), &value))
        }
    }
}

/// The JSON of an object, of the bytes that it was stored as.
fn as_stored(code: u16, value: &[u8], revision: u64) -> Result<Response<Body>, Status> {
    let record = Record::parse(value).map_err(Status::internal)?;
    Ok(bytes(code, Accept::JSON.encoding.media_type(), record.json(revision)))
}

fn one(registry: &Registry, served: &Served, value: &Value, code: u16, accept: Accept, include: IncludeObject) -> Response<Body> {
    match accept.shape {
        Shape::Table => {
            let mut out = table::table(&served.kind, std::slice::from_ref(value), include, registry.environment.now());
            out.set(&["metadata", "resourceVersion"], meta::resource_version(value));
            object(&registry.api(), code, accept, &out)
        }
        Shape::Partial => object(&registry.api(), code, accept, &table::partial(value)),
        _ => object(&registry.api(), code, accept, value),
    }
}

/// Objects as they stand in a list: those of built-in kinds do not repeat what the list says of all of them.
fn elements(kind: &Kind, mut objects: Vec<Value>) -> Vec<Value> {
    if kind.custom.is_none() {
        for object in &mut objects {
            object.remove(&["apiVersion"]);
            object.remove(&["kind"]);
        }
    }
    objects
}

fn list_metadata(listing: &Listing) -> Value {
    let mut metadata = object!({ "resourceVersion": (listing.revision.to_string()) });
    if !listing.continue_token.is_empty() {
        metadata.set(&["continue"], listing.continue_token.as_str());
    }
    if let Some(n) = listing.remaining {
        metadata.set(&["remainingItemCount"], n as i64);
    }
    metadata
}

/// Pieces of lists are at least so large, but the last one: connections send them one by one.
const PIECE: usize = 64 * 1024;

/// The JSON of a list that begins with `head`, made piece by piece as it is sent.
fn pieces(head: Vec<u8>, items: Vec<Arc<Entry>>, own: Option<TypeMeta>) -> impl Iterator<Item = Result<Bytes, std::io::Error>> {
    let (mut items, mut first, mut buffer) = (items.into_iter(), true, Some(head));
    std::iter::from_fn(move || {
        let mut out = buffer.take()?;
        while out.len() < PIECE {
            let Some(entry) = items.next() else {
                out.extend_from_slice(b"]}\n");
                return Some(Ok(out.into()));
            };
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            match Record::parse(&entry.value) {
                Ok(record) => record.write_json(entry.modified.0, own.as_ref(), &mut out),
                Err(error) => return Some(Err(std::io::Error::other(error))),
            }
        }
        buffer = Some(Vec::with_capacity(PIECE + PIECE / 4));
        Some(Ok(out.into()))
    })
}

fn list(registry: &Registry, place: &Place, listing: Listing, accept: Accept, include: IncludeObject) -> Result<Response<Body>, Status> {
    let kind = &place.served.kind;
    let metadata = list_metadata(&listing);
    if accept == Accept::JSON && place.served.verbatim() {
        // The bytes of the objects are those of the store; only the joints between them are new.
        let head = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
            kind.list_kind,
            kind.api_version(),
            json::to_string(&metadata)
        );
        // Custom resources keep what they say of themselves.
        let own = kind.custom.is_none().then(|| TypeMeta::of(kind));
        // Nearly: the joints are not counted.
        let size = listing.items.iter().filter_map(|entry| Some(Record::parse(&entry.value).ok()?.json_len())).sum();
        let pieces = pieces(head.into_bytes(), listing.items, own).map(|piece| piece.map(http_body::Frame::data));
        let body = BodyExt::boxed_unsync(StreamBody::new(futures_util::stream::iter(pieces)));
        return Ok(whole(respond(200, accept.encoding.media_type(), body), size));
    }
    let items = match listing.objects {
        Some(objects) => objects,
        None => listing.items.iter().map(|entry| registry.decode(&place.served, entry)).collect::<Result<Vec<_>, _>>()?,
    };
    let whole = !matches!(accept.shape, Shape::Table | Shape::Partial);
    let items = if whole { elements(kind, items) } else { items };
    let value = match accept.shape {
        Shape::Table => {
            let mut out = table::table(kind, &items, include, registry.environment.now());
            out.set(&["metadata"], metadata);
            out
        }
        Shape::Partial => {
            let items: Vec<Value> = items.iter().map(table::partial).collect();
            object!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items })
        }
        _ => object!({ "kind": (&kind.list_kind), "apiVersion": (kind.api_version()), "metadata": metadata, "items": items }),
    };
    Ok(object(&registry.api(), 200, accept, &value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_whole_while_they_are_few_and_never_too_many() {
        let few = vec!["x".repeat(4000)];
        assert_eq!(shortened(few.clone()), few);
        let many = shortened((0..500).map(|i| format!("{i:03}{}", "y".repeat(400))).collect());
        assert!(many.len() == 15 && many.iter().all(|w| w.len() == 256), "{}", many.len());
    }
}
