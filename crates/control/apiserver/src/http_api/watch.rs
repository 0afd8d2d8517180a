//! Watches over HTTP: one frame per change until the client goes, the time is up or the server stops.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fram_machinery::{Reason, Status, Value, cbor, json, object};
use http::Response;
use tokio_util::sync::CancellationToken;

use super::objects::{list_options, resource_of};
use crate::accept::{Accept, Encoding, Shape};
use crate::authorize::Attributes;
use crate::path::{Query, ResourcePath};
use crate::registry::{Change, ChangeKind, Place, Record, Registry, Selection, WatchRequest, Watching};
use crate::respond::{self, Body};
use crate::server::Server;
use crate::table::{self, IncludeObject};
use crate::user::User;

/// Bookmarks come about this often where nothing else does.
const BOOKMARK: Duration = Duration::from_secs(60);

pub(super) async fn handle(
    server: Arc<Server>,
    user: User,
    path: ResourcePath,
    query: Query,
    accept: Accept,
    include: IncludeObject,
) -> Result<Response<Body>, Status> {
    let resource = resource_of(&path);
    let options = list_options(&query)?;
    let attributes = Attributes {
        name: crate::server::selected_name(&options.field_selector).unwrap_or_else(|| path.name.clone()),
        fields: options.field_selector.clone(),
        labels: options.label_selector.clone(),
        ..path.attributes("watch")
    };
    let Place { served, .. } = server.place_of(&resource, &path.namespace, &path.name, true)?;
    server.authorizer.check(&user, &attributes)?;
    if !served.kind.has_verb("watch") {
        return Err(Status::method_not_allowed(&served.kind.group, &served.kind.plural, "watch"));
    }
    let mut selection = Selection::parse(&served.kind, &options.label_selector, &options.field_selector)?;
    if !path.name.is_empty() {
        let requirement = fram_machinery::labels::FieldRequirement { path: "metadata.name".into(), value: path.name.clone(), equal: true };
        selection.fields.requirements.push(requirement);
    }
    let request = WatchRequest {
        selection,
        resource_version: options.resource_version,
        resource_version_match: options.resource_version_match,
        send_initial_events: query.has("sendInitialEvents").then_some(options.send_initial_events),
        bookmarks: options.allow_bookmarks,
    };
    let bookmarks = request.bookmarks;
    let deprecation = server.deprecation(&served.kind, &attributes);
    let place = Place { served, namespace: path.namespace, name: String::new() };
    let watching = server.registry.watch(&place, request).await;
    server.requests.count(&attributes, true, false, &watching, None);
    let content_type = accept.encoding.stream_type().unwrap_or("application/json");
    let frames = Frames { registry: server.registry.clone(), place, accept, include, first: true };
    let watching = match watching {
        Ok(watching) => watching,
        // Once it is clear what is watched, failures are events; see Cacher.Watch.
        Err(status) if status.is(Reason::Expired) || status.is(Reason::Timeout) => {
            let mut out = BytesMut::new();
            frames.encode_error(&status, &mut out);
            return Ok(respond::bytes(200, content_type, out.freeze()));
        }
        Err(status) => return Err(status),
    };
    let seconds = options.timeout_seconds.map(u64::from).filter(|s| *s > 0);
    // Without a given end it lives between once and twice the least time, so that not all end together.
    let least = server.limits.watch.as_secs().max(1);
    let seconds = seconds.unwrap_or_else(|| least + server.registry.environment.random.u64() % least);
    let counted = server.flow.watch(&attributes);
    let mut response =
        respond::stream(content_type, stream(watching, frames, bookmarks, Duration::from_secs(seconds), server.ending.clone()));
    respond::warn(&mut response, deprecation.iter().map(|text| text.to_string()).collect());
    Ok(match counted {
        Some(counted) => response.map(|body| respond::holding(body, counted)),
        None => response,
    })
}

/// Encodes changes as the client wants them.
struct Frames {
    registry: Arc<Registry>,
    place: Place,
    accept: Accept,
    include: IncludeObject,
    /// The first table carries the column definitions.
    first: bool,
}

impl Frames {
    fn encode(&mut self, change: &Change, out: &mut BytesMut) -> Result<(), Status> {
        let ty = match change.kind {
            ChangeKind::Added => "ADDED",
            ChangeKind::Modified => "MODIFIED",
            ChangeKind::Deleted => "DELETED",
            ChangeKind::Bookmark | ChangeKind::InitialEventsEnd => "BOOKMARK",
        };
        if matches!(self.accept.encoding, Encoding::Protobuf | Encoding::Cbor) {
            return self.encode_decoded(ty, change, out);
        }
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(ty.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        match &change.entry {
            None => out.extend_from_slice(&json::to_vec(&self.bookmark(change))),
            Some(entry) => {
                if self.place.served.verbatim() && self.accept.shape == Shape::Plain {
                    let record = Record::parse(&entry.value).map_err(Status::internal)?;
                    record.write_json(change.revision, None, out);
                } else {
                    let object = change.object(&self.place.served, entry)?;
                    out.extend_from_slice(&json::to_vec(&self.shaped(object)));
                }
            }
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    /// In an encoding that the stored bytes are not in.
    fn encode_decoded(&mut self, ty: &str, change: &Change, out: &mut BytesMut) -> Result<(), Status> {
        if let (Encoding::Protobuf, Shape::Plain, Some(entry)) = (self.accept.encoding, self.accept.shape, &change.entry) {
            let sealed = self.registry.sealed(change, &self.place.served, entry)?;
            put_event(ty, &sealed, out);
            return Ok(());
        }
        let object = match &change.entry {
            None => self.bookmark(change),
            Some(entry) => {
                let object = change.object(&self.place.served, entry)?;
                self.shaped(object)
            }
        };
        if self.accept.encoding == Encoding::Cbor {
            put_cbor(ty, object, out);
            return Ok(());
        }
        put_protobuf(&self.registry, ty, &object, out)
    }

    /// The error that ends a watch.
    fn encode_error(&self, status: &Status, out: &mut BytesMut) {
        let object = status.to_object();
        if self.accept.encoding == Encoding::Cbor {
            return put_cbor("ERROR", object, out);
        }
        if self.accept.encoding == Encoding::Protobuf && put_protobuf(&self.registry, "ERROR", &object, out).is_ok() {
            return;
        }
        out.extend_from_slice(&json::to_vec(&object!({ "type": "ERROR", "object": object })));
        out.extend_from_slice(b"\n");
    }

    fn shaped(&mut self, object: Value) -> Value {
        let mut shaped = self.formed(object);
        if self.accept.beta {
            table::to_beta(&mut shaped);
        }
        shaped
    }

    fn formed(&mut self, object: Value) -> Value {
        match self.accept.shape {
            Shape::Table => {
                let mut table =
                    table::table(&self.place.served.kind, std::slice::from_ref(&object), self.include, self.registry.environment.now());
                table.set(&["metadata", "resourceVersion"], fram_machinery::meta::resource_version(&object));
                if !std::mem::take(&mut self.first) {
                    table.set(&["columnDefinitions"], Value::Null);
                }
                table
            }
            Shape::Partial => table::partial(&object),
            _ => object,
        }
    }

    fn bookmark(&mut self, change: &Change) -> Value {
        let kind = &self.place.served.kind;
        let mut object = object!({ "kind": (&kind.kind), "apiVersion": (kind.api_version()), "metadata": { "resourceVersion": (change.revision.to_string()) } });
        if change.kind == ChangeKind::InitialEventsEnd {
            object.set(&["metadata", "annotations", "k8s.io/initial-events-end"], "true");
        }
        let mut bookmark = match self.accept.shape {
            Shape::Table => {
                let row = object!({ "cells": [], "object": (table::partial(&object)) });
                object!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": (object.get("metadata").cloned()), "columnDefinitions": [], "rows": [row] })
            }
            Shape::Partial => table::partial(&object),
            _ => object,
        };
        if self.accept.beta {
            table::to_beta(&mut bookmark);
        }
        bookmark
    }
}

/// A sequence needs no frames: each document says where it ends; RFC 8742.
fn put_cbor(ty: &str, object: Value, out: &mut BytesMut) {
    out.extend_from_slice(&cbor::to_vec(&object!({ "type": ty, "object": object })));
}

/// A frame is its length, four bytes big endian, and a WatchEvent around the sealed object.
fn put_protobuf(registry: &Registry, ty: &str, object: &Value, out: &mut BytesMut) -> Result<(), Status> {
    put_event(ty, &respond::sealed(&registry.api(), object)?, out);
    Ok(())
}

fn put_event(ty: &str, sealed: &[u8], out: &mut BytesMut) {
    let event = fram_machinery::protobuf::encode_watch_event(ty, sealed);
    out.extend_from_slice(&(event.len() as u32).to_be_bytes());
    out.extend_from_slice(&event);
}

type Frame = Result<http_body::Frame<Bytes>, std::io::Error>;

fn stream(
    watching: Watching,
    frames: Frames,
    bookmarks: bool,
    lifetime: Duration,
    ending: CancellationToken,
) -> impl futures_util::Stream<Item = Frame> + Send + 'static {
    let end = tokio::time::Instant::now() + lifetime;
    let interval = tokio::time::interval_at(tokio::time::Instant::now() + BOOKMARK, BOOKMARK);
    let state = Some((watching, frames, interval, Box::pin(ending.cancelled_owned())));
    futures_util::stream::unfold(state, move |state| async move {
        let (mut watching, mut frames, mut interval, mut ended) = state?;
        let mut out = BytesMut::new();
        loop {
            let change = tokio::select! {
                biased;
                change = watching.next() => change,
                () = tokio::time::sleep_until(end) => return None,
                // The client goes on elsewhere from where it was.
                () = ended.as_mut() => return None,
                _ = interval.tick(), if bookmarks => {
                    watching.request_bookmark();
                    continue;
                }
            };
            let encoded = change.and_then(|change| frames.encode(&change, &mut out));
            if let Err(status) = encoded {
                // The error is the last frame.
                frames.encode_error(&status, &mut out);
                return Some((Ok(http_body::Frame::data(out.freeze())), None));
            }
            // What is there already goes out in one piece.
            if !watching.has_pending() || out.len() > 64 * 1024 {
                return Some((Ok(http_body::Frame::data(out.freeze())), Some((watching, frames, interval, ended))));
            }
        }
    })
}
