//! Server-side apply: a configuration is merged into the object, or makes it.

use fram_client::WriteOptions;
use fram_machinery::managed::{self, ApplyError, Manager, Operation};
use fram_machinery::status::FieldError;
use fram_machinery::{Reason, Status, StatusCause, Value, meta, normalize};

use crate::registry::{Body, FieldValidation, Place, Write, Written};
use crate::server::{Server, field_validation, write_of};
use crate::user::User;

/// Applies a configuration; the answer says whether the object is new.
pub(super) async fn apply(
    server: &Server,
    user: &User,
    place: &Place,
    subresource: &str,
    config: &Value,
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<Written, Status> {
    let registry = &server.registry;
    let kind = place.kind();
    if options.field_manager.is_empty() {
        let error = FieldError::required("fieldManager", "is required for apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", vec![error]));
    }
    let validation = field_validation("PatchOptions", &options.field_validation)?;
    check_config(place, config)?;
    let stated = config;
    // Decoding it whole finds unknown fields and wrong types; what is applied is only what was stated.
    let (_, problems) = registry.decode_body(kind, Body::new(config.clone()), lenient(kind, validation))?;
    let sparse = normalize::decode_sparse(&kind.schema, kind.ty, config.clone()).map_err(|e| Status::bad_request(e.to_string()))?;
    if kind.custom.is_some() && !sparse.unknown.is_empty() {
        return Err(undeclared(place, &sparse.unknown));
    }
    warnings.extend(problems);
    let config = sparse.value;
    let write = Write { apply: true, ..write_of(user, options) };
    let manager = Manager {
        name: options.field_manager.clone(),
        operation: Operation::Apply,
        api_version: kind.api_version(),
        subresource: subresource.into(),
    };
    let now = registry.environment().now_text();
    // A built-in status that is no subresource does not exist; a custom one is a field like any other.
    let has_status = kind.custom.is_none() && kind.schema.get(kind.ty).field("status").is_some() || kind.subresource("status").is_some();
    let merge = |live: &Value| {
        let live = &registry.owned_before_apply(kind, live)?;
        let merged = managed::apply(&kind.schema, kind.ty, live, &config, &manager, options.force, has_status, &now);
        let mut merged = merged.map_err(|e| failed(place, e))?;
        managed::note(&mut merged, stated, &manager);
        if !meta::resource_version(live).is_empty() {
            let pinned = meta::resource_version(&config).to_string();
            let version = if pinned.is_empty() { meta::resource_version(live).to_string() } else { pinned };
            merged.set(&["metadata", "resourceVersion"], version);
        }
        registry.decode_body(kind, Body::new(merged), FieldValidation::Ignore).map(|(object, _)| object)
    };
    loop {
        match registry.update(place, subresource, &write, merge).await {
            Err(status) if status.is(Reason::NotFound) && subresource.is_empty() && meta::uid(&config).is_empty() => {}
            other => return other,
        }
        super::may_create(server, user, place).await?;
        let mut object = merge(&registry.empty_object(kind)?)?;
        object.set(&["metadata", "name"], place.name.as_str());
        match registry.create(place, object, &write).await {
            // Someone else made it meanwhile: then it is merged.
            Err(status) if status.is(Reason::AlreadyExists) => continue,
            other => return other,
        }
    }
}

/// What a custom resource does not declare is refused below, in other words.
fn lenient(kind: &fram_api::Kind, validation: FieldValidation) -> FieldValidation {
    if kind.custom.is_some() { FieldValidation::Ignore } else { validation }
}

/// Upstream's answer where a configuration has fields that the type lacks, however strict the client asked to be.
fn undeclared(place: &Place, paths: &[String]) -> Status {
    let lines: Vec<String> = paths.iter().map(|path| format!(".{path}: field not declared in schema")).collect();
    let what = if lines.len() == 1 { lines[0].clone() } else { format!("errors:\n  {}", lines.join("\n  ")) };
    untyped(place, &what)
}

fn untyped(place: &Place, what: &str) -> Status {
    let (kind, namespace, name) = (place.kind(), &place.namespace, &place.name);
    let of = format!("{namespace}/{name}; {}, Kind={}", kind.api_version(), kind.kind);
    Status::new(Reason::Unknown, format!("failed to create typed patch object ({of}): {what}"))
}

fn check_config(place: &Place, config: &Value) -> Result<(), Status> {
    let name = meta::name(config);
    if config.str_at(&["apiVersion"]).is_empty() || config.str_at(&["kind"]).is_empty() {
        return Err(Status::bad_request("an applied configuration must have apiVersion and kind"));
    }
    if config.at(&["metadata", "managedFields"]).is_some_and(|m| !m.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    if !name.is_empty() && name != place.name {
        return Err(Status::bad_request(format!(
            "metadata.name: Invalid value: {name:?}: must match the name on the URL ({})",
            place.name
        )));
    }
    Ok(())
}

fn failed(place: &Place, error: ApplyError) -> Status {
    let conflicts = match &error {
        ApplyError::Conflicts(conflicts) => conflicts,
        ApplyError::Duplicate(what) => return untyped(place, what),
        ApplyError::ManagedFields => return Status::bad_request(error.to_string()),
    };
    let by = |c: &managed::Conflict| {
        let sub = if c.manager.subresource.is_empty() { String::new() } else { format!(" with subresource {:?}", c.manager.subresource) };
        let using = if c.manager.operation == Operation::Update { format!(" using {}", c.manager.api_version) } else { String::new() };
        format!("conflict with {:?}{sub}{using}", c.manager.name)
    };
    let lines: Vec<String> = conflicts.iter().map(|c| format!("{}: {}", by(c), c.field)).collect();
    let mut status = Status::new(Reason::Conflict, format!("{error}: {}", lines.join("\n")));
    status.causes =
        conflicts.iter().map(|c| StatusCause { reason: "FieldManagerConflict".into(), message: by(c), field: c.field.clone() }).collect();
    status.name = place.name.clone();
    status.group = place.kind().group.to_string();
    status.kind = place.kind().plural.to_string();
    status
}
