//! Carries out the verbs on objects and their subresources.

mod apply;
mod reviews;
mod subresources;

pub(crate) use subresources::to_scale;

use fram_client::{Patch, PatchKind, Verb, WriteOptions};
use fram_machinery::normalize::TypeError;
use fram_machinery::status::FieldError;
use fram_machinery::{Status, Value, meta};

use crate::authorize::Attributes;
use crate::registry::{Body, FieldValidation, ListRequest, Place, Registry, Selection, Served, Written};
use crate::server::{Answer, Performed, Server, field_validation, write_of};
use crate::user::User;

pub(crate) async fn execute(
    server: &Server,
    user: &User,
    place: Place,
    subresource: String,
    verb: Verb,
    duplicates: Vec<String>,
) -> Result<Performed, Status> {
    let registry = &server.registry;
    if place.kind().group == crate::metrics::GROUP {
        return crate::metrics::execute(server, place, verb).await;
    }
    if place.kind().is("", "ComponentStatus") {
        return crate::components::execute(server, place, verb).await;
    }
    if !subresource.is_empty() || place.kind().verbs == ["create"] {
        return subresources::execute(server, user, place, &subresource, verb, duplicates).await;
    }
    let plain = |answer| Ok(Performed { answer, warnings: Vec::new() });
    match verb {
        Verb::Get => plain(stored(registry, place).await?),
        Verb::List(options) => {
            let request = list_request(&place, &options)?;
            let listing = registry.list(&place, &request).await?;
            plain(Answer::List { place, listing })
        }
        Verb::Create { object, options } => {
            let (object, warnings) = decode(registry, &place, object, duplicates, &options)?;
            let written = registry.create(&place, object, &write_of(user, &options)).await?;
            Ok(changed(place.served, written, warnings))
        }
        Verb::Update { object, options } => {
            let (object, warnings) = decode(registry, &place, object, duplicates, &options)?;
            let written = update(server, user, &place, object, &options).await?;
            Ok(changed(place.served, written, warnings))
        }
        Verb::Patch { patch, options } => {
            let mut warnings = Vec::new();
            let written = patch_object(server, user, &place, "", patch, duplicates, &options, &mut warnings).await?;
            Ok(changed(place.served, written, warnings))
        }
        Verb::Delete(options) => {
            let write = crate::registry::Write { user: user.clone(), dry_run: options.dry_run, ..Default::default() };
            let deleted = registry.delete(&place, &options, &write).await?;
            let served = place.served;
            let answer = if deleted.gone && !served.kind.graceful {
                Answer::Deleted { served, object: deleted.object }
            } else {
                Answer::Object { served, object: deleted.object, entry: None, created: false }
            };
            Ok(Performed { answer, warnings: deleted.warnings })
        }
        Verb::DeleteCollection { delete, list } => {
            let request = list_request(&place, &list)?;
            let write = crate::registry::Write { user: user.clone(), dry_run: delete.dry_run, ..Default::default() };
            let objects = registry.delete_collection(&place, &delete, &request, &write).await?;
            plain(Answer::Objects { place, objects })
        }
    }
}

/// What a write led to, after the warnings that there were before.
fn changed(served: Served, written: Written, mut warnings: Vec<String>) -> Performed {
    let Written { object, entry, created, warnings: more } = written;
    warnings.extend(more);
    Performed { answer: Answer::Object { served, object, entry, created }, warnings }
}

/// An object as it is stored, or as the webhook of its definition converts it.
async fn stored(registry: &Registry, place: Place) -> Result<Answer, Status> {
    if place.served.needs_webhook() {
        let object = registry.get_object(&place).await?;
        return Ok(Answer::Object { served: place.served, object, entry: None, created: false });
    }
    let entry = registry.get(&place).await?;
    Ok(Answer::Stored { served: place.served, entry })
}

pub(crate) fn list_request(place: &Place, options: &fram_client::ListOptions) -> Result<ListRequest, Status> {
    Ok(ListRequest {
        selection: Selection::parse(&place.served.kind, &options.label_selector, &options.field_selector)?,
        limit: options.limit as usize,
        continue_token: options.continue_token.clone(),
        resource_version: options.resource_version.clone(),
        resource_version_match: options.resource_version_match.clone(),
    })
}

/// Decodes a body as the place's own kind.
fn decode(
    registry: &Registry,
    place: &Place,
    object: Value,
    duplicates: Vec<String>,
    options: &WriteOptions,
) -> Result<(Value, Vec<String>), Status> {
    let body = Body { value: object, duplicates };
    let (object, warnings) = registry.decode_body(place.kind(), body, field_validation("CreateOptions", &options.field_validation)?)?;
    let name = meta::name(&object);
    if !place.name.is_empty() && name != place.name {
        return Err(Status::bad_request(format!("the name of the object ({name}) does not match the name on the URL ({})", place.name)));
    }
    let namespace = meta::namespace(&object);
    if !namespace.is_empty() && namespace != place.namespace && place.kind().is_namespaced() {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the URL ({})",
            place.namespace
        )));
    }
    Ok((object, warnings))
}

/// Who updates or applies what is not there creates it, and needs that right too.
async fn may_create(server: &Server, user: &User, place: &Place) -> Result<(), Status> {
    let kind = place.kind();
    let attributes = Attributes {
        verb: "create".into(),
        group: kind.group.to_string(),
        version: kind.version.to_string(),
        resource: kind.plural.to_string(),
        namespace: if kind.is("", "Namespace") { place.name.clone() } else { place.namespace.clone() },
        name: place.name.clone(),
        ..Default::default()
    };
    server.authorizer.check(user, &attributes)
}

async fn update(server: &Server, user: &User, place: &Place, object: Value, options: &WriteOptions) -> Result<Written, Status> {
    let write = write_of(user, options);
    let kind = place.kind();
    if matches!(meta::resource_version(&object), "" | "0") && !kind.unconditional_update {
        match server.registry.get(place).await {
            Err(status) if status.is(fram_machinery::Reason::NotFound) && kind.create_on_update => {}
            found => {
                found?;
                let error = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
                return Err(Status::invalid(&kind.group, &kind.kind, &place.name, vec![error]));
            }
        }
    }
    let result = server.registry.update(place, "", &write, |_| Ok(object.clone())).await;
    match result {
        Err(status) if status.is(fram_machinery::Reason::NotFound) && kind.create_on_update && meta::uid(&object).is_empty() => {
            may_create(server, user, place).await?;
            let mut object = object;
            object.remove(&["metadata", "resourceVersion"]);
            server.registry.create(place, object, &write).await
        }
        other => other,
    }
}

/// Patches an object, or the part of it that a subresource shows.
pub(super) async fn patch_object(
    server: &Server,
    user: &User,
    place: &Place,
    subresource: &str,
    patch: Patch,
    duplicates: Vec<String>,
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<Written, Status> {
    match field_validation("PatchOptions", &options.field_validation)? {
        FieldValidation::Strict if !duplicates.is_empty() => {
            return Err(Status::bad_request(format!("error strict decoding the patch: {}", duplicates.join(", "))));
        }
        FieldValidation::Warn => warnings.extend(duplicates),
        _ => {}
    }
    if patch.kind == PatchKind::Apply {
        return apply::apply(server, user, place, subresource, &patch.body, options, warnings).await;
    }
    let registry = &server.registry;
    let write = write_of(user, options);
    let validation = field_validation("PatchOptions", &options.field_validation)?;
    let mut found = Vec::new();
    let transform = |current: &Value| {
        let patched = apply_patch(place.kind(), current, &patch)?;
        let words = |e: &TypeError| if patch.kind == PatchKind::Strategic { e.converting() } else { e.to_string() };
        let decoded = registry.decode_saying(place.kind(), Body::new(patched), validation, words);
        let (object, problems) = decoded.map_err(|status| unfit(&patch.body, &status))?;
        found = problems;
        let pinned = patch.body.str_at(&["metadata", "resourceVersion"]);
        let mut object = object;
        if pinned.is_empty() && patch.kind != PatchKind::Json {
            object.set(&["metadata", "resourceVersion"], meta::resource_version(current));
        }
        if meta::name(&object) != meta::name(current) {
            return Err(Status::bad_request("the name of the object does not match the name on the URL"));
        }
        Ok(object)
    };
    let written = registry.update(place, subresource, &write, transform).await?;
    warnings.append(&mut found);
    Ok(written)
}

/// A patch after which the object is none of its kind. The refusal names no object, as upstream's.
fn unfit(patch: &Value, status: &Status) -> Status {
    let error = FieldError::invalid("patch", fram_machinery::json::to_string(patch), status.message.as_str());
    Status::invalid("", "", "", vec![error])
}

fn apply_patch(kind: &fram_api::Kind, current: &Value, patch: &Patch) -> Result<Value, Status> {
    use fram_machinery::patch::{self, PatchError};
    let patched = match patch.kind {
        PatchKind::Merge => Ok(patch::merge(current, &patch.body)),
        PatchKind::Json => patch::json(current, &patch.body),
        PatchKind::Strategic if kind.custom.is_some() => {
            let text = "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
            return Err(Status::new(fram_machinery::Reason::UnsupportedMediaType, text));
        }
        PatchKind::Strategic => patch::strategic(&kind.schema, kind.ty, current, &patch.body),
        PatchKind::Apply => {
            let text = "server-side apply is not served for this subresource";
            return Err(Status::new(fram_machinery::Reason::UnsupportedMediaType, text));
        }
    };
    patched.map_err(|error| match error {
        PatchError::Malformed(text) if patch.kind == PatchKind::Json && patch.body.as_list().is_some() => {
            Status::new(fram_machinery::Reason::Invalid, text)
        }
        PatchError::Malformed(text) => Status::bad_request(text),
        PatchError::TooLarge(text) => Status::new(fram_machinery::Reason::RequestEntityTooLarge, text),
        PatchError::DoesNotApply(_) | PatchError::Test(_) => Status::new(fram_machinery::Reason::Invalid, error.to_string()),
    })
}
