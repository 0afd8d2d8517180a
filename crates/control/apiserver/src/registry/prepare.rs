//! What happens to every object before it is written: metadata is filled in and checked, the generation counted, the
//! enumerations of the description enforced.

use fram_api::{Generation, Kind, strategy};
use fram_machinery::schema::{Schema, Type, TypeId};
use fram_machinery::status::FieldError;
use fram_machinery::{Status, Value, meta, names};

use super::{Place, Registry};
use crate::environment::Environment;

/// Annotations may have this many bytes in all; see TotalAnnotationSizeLimitB.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Fills in the metadata of a new object; a name is made of `generateName` where none is given.
pub(super) fn fill_metadata(environment: &Environment, place: &Place, object: &mut Value) -> Result<(), Status> {
    if !meta::resource_version(object).is_empty() {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let namespace = meta::namespace(object);
    if !namespace.is_empty() && namespace != place.namespace {
        return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    let base = object.str_at(&["metadata", "generateName"]);
    if meta::name(object).is_empty() && !base.is_empty() {
        let name = environment.generate_name(base);
        object.set(&["metadata", "name"], name);
    }
    for field in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"] {
        object.remove(&["metadata", field]);
    }
    if place.kind().is_namespaced() {
        object.set(&["metadata", "namespace"], place.namespace.as_str());
    } else {
        object.remove(&["metadata", "namespace"]);
    }
    object.set(&["metadata", "uid"], environment.uid());
    object.set(&["metadata", "creationTimestamp"], environment.now_text());
    object.remove(&["metadata", "generation"]);
    if place.kind().generation != Generation::None {
        object.set(&["metadata", "generation"], 1);
    }
    Ok(())
}

/// Puts back what no update may change.
pub(super) fn keep_metadata(object: &mut Value, old: &Value) {
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"] {
        match old.at(&["metadata", field]) {
            Some(kept) => object.set(&["metadata", field], kept.clone()),
            None => drop(object.remove(&["metadata", field])),
        }
    }
    if meta::uid(object).is_empty() {
        object.set(&["metadata", "uid"], meta::uid(old));
    }
    object.set(&["metadata", "resourceVersion"], meta::resource_version(old));
    for field in ["name", "namespace"] {
        if object.str_at(&["metadata", field]).is_empty() && !old.str_at(&["metadata", field]).is_empty() {
            object.set(&["metadata", field], old.str_at(&["metadata", field]));
        }
    }
}

/// What admission may have done to a new object beyond what it may: the server's own fields are as they were before. A name that
/// it changed is the object's name.
pub(super) fn keep_own_metadata(place: &mut Place, object: &mut Value, before: &Value) -> Result<(), Status> {
    for field in ["uid", "creationTimestamp", "generation"] {
        match before.at(&["metadata", field]) {
            Some(kept) => object.set(&["metadata", field], kept.clone()),
            None => drop(object.remove(&["metadata", field])),
        }
    }
    for field in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"] {
        object.remove(&["metadata", field]);
    }
    if meta::namespace(object) != meta::namespace(before) {
        return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    place.name = meta::name(object).to_string();
    Ok(())
}

/// The fields of an object but these.
fn without(object: &Value, apart: &[&str]) -> fram_machinery::Map {
    let mut map = object.as_map().cloned().unwrap_or_default();
    apart.iter().for_each(|field| drop(map.remove(field)));
    map
}

/// Raises the generation where the part of the object that it counts has changed.
pub(super) fn bump_generation(kind: &Kind, object: &mut Value, old: &Value) {
    let changed = match &kind.generation {
        Generation::None | Generation::Once => false,
        Generation::Fields(fields) => fields.iter().any(|f| match *f {
            "annotations" => object.at(&["metadata", "annotations"]) != old.at(&["metadata", "annotations"]),
            field => object.get(field) != old.get(field),
        }),
        Generation::Any => without(object, &["metadata"]) != without(old, &["metadata"]) || meta::labels(object) != meta::labels(old),
        Generation::Content => {
            let status = kind.subresource("status").map(|s| s.name);
            let apart: Vec<&str> = std::iter::once("metadata").chain(status).collect();
            without(object, &apart) != without(old, &apart)
        }
    };
    if changed {
        object.set(&["metadata", "generation"], meta::generation(old) + 1);
    }
}

/// The rules that hold for the metadata of every kind.
fn metadata_errors(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = meta::name(object);
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if let Err(why) = strategy(kind).name_rule()(name).and_then(|()| names::path_segment(name)) {
        errors.push(FieldError::invalid("metadata.name", name, why));
    }
    for (key, value) in meta::labels(object).as_map().into_iter().flat_map(|m| m.iter()) {
        if let Err(why) = names::qualified_name(key) {
            errors.push(FieldError::invalid("metadata.labels", key.as_str(), why));
        }
        if let Err(why) = names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid("metadata.labels", value.clone(), why));
        }
    }
    let mut size = 0;
    for (key, value) in object.at(&["metadata", "annotations"]).and_then(Value::as_map).into_iter().flat_map(|m| m.iter()) {
        size += key.len() + value.as_str().map_or(0, str::len);
        if let Err(why) = names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", key.as_str(), why));
        }
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long("metadata.annotations", MAX_ANNOTATIONS));
    }
    for (i, finalizer) in meta::finalizers(object).enumerate() {
        if let Err(why) = names::qualified_name(finalizer) {
            errors.push(FieldError::invalid(format!("metadata.finalizers[{i}]"), finalizer, why));
        }
    }
    errors.extend(owner_errors(object));
    errors
}

fn owner_errors(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, owner) in meta::owner_references(object).iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.str_at(&[field]).is_empty() {
                errors.push(FieldError::invalid(
                    format!("metadata.ownerReferences[{i}].{field}"),
                    "",
                    format!("{field} must not be empty"),
                ));
            }
        }
    }
    let controllers = meta::owner_references(object).iter().filter(|o| o.bool_at(&["controller"]) == Some(true)).count();
    if controllers > 1 {
        let why = "Only one reference can have Controller set to true";
        errors.push(FieldError::invalid("metadata.ownerReferences", Value::from(meta::owner_references(object).to_vec()), why));
    }
    errors
}

/// Values outside the enumerations of the description, everywhere but in the status.
fn enumeration_errors(schema: &Schema, ty: TypeId, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(map) = value.as_map() else { return };
    for (key, item) in map.iter() {
        if path.is_empty() && matches!(key.as_str(), "status" | "metadata") {
            continue;
        }
        let Some(field) = schema.get(ty).field(key) else { continue };
        let at = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
        if !field.allowed.is_empty() {
            for text in item.as_str().into_iter().chain(item.as_list().into_iter().flat_map(|l| l.iter().filter_map(Value::as_str))) {
                let known = field.allowed.iter().any(|a| *a == text || a.replace('_', " ") == text);
                if !text.is_empty() && !known {
                    errors.push(FieldError::not_supported(&at, text, &field.allowed));
                }
            }
        }
        enumerations_below(schema, &field.ty, item, &at, errors);
    }
}

fn enumerations_below(schema: &Schema, ty: &Type, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match (ty, value) {
        (Type::Struct(id), value) => enumeration_errors(schema, *id, value, path, errors),
        (Type::List(item), Value::List(list)) => {
            for (i, value) in list.iter().enumerate() {
                enumerations_below(schema, item, value, &format!("{path}[{i}]"), errors);
            }
        }
        (Type::Map(item), Value::Map(map)) => {
            for (key, value) in map.iter() {
                enumerations_below(schema, item, value, &format!("{path}[{key}]"), errors);
            }
        }
        _ => {}
    }
}

/// What an object is known by never changes.
fn identity_errors(object: &Value, old: &Value) -> Vec<FieldError> {
    let fields = [("name", "metadata.name"), ("namespace", "metadata.namespace"), ("uid", "metadata.uid")];
    let changed = fields.into_iter().filter(|(field, _)| object.at(&["metadata", field]) != old.at(&["metadata", field]));
    changed.map(|(field, path)| FieldError::invalid(path, object.at(&["metadata", field]).cloned(), "field is immutable")).collect()
}

impl Registry {
    /// Checks the metadata of an object of which only a part may change.
    pub(super) fn validate_metadata(&self, place: &Place, object: &Value, old: &Value) -> Result<(), Status> {
        let mut errors = metadata_errors(&place.served.stored, object);
        errors.extend(identity_errors(object, old));
        match errors.is_empty() {
            true => Ok(()),
            false => Err(Status::invalid(&place.kind().group, &place.kind().kind, meta::name(old), errors)),
        }
    }

    /// Checks a stored-kind object, and against the one it replaces.
    pub(super) fn validate(&self, place: &Place, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        let stored = &place.served.stored;
        let mut errors = metadata_errors(stored, object);
        errors.extend(old.into_iter().flat_map(|old| identity_errors(object, old)));
        enumeration_errors(&stored.schema, stored.ty, object, "", &mut errors);
        if let Some(structural) = stored.structural() {
            let found = structural.validate(object, old);
            // Rules may rely on the types of what they ask about.
            if let Some(rules) = stored.custom.as_ref().and_then(|c| c.rules.as_ref()).filter(|_| found.is_empty()) {
                errors.extend(rules.validate(structural, object, old));
            }
            errors.extend(found);
        }
        let strategy = strategy(stored);
        for error in strategy.validate(object) {
            if errors.iter().all(|e| e.field != error.field) {
                errors.push(error);
            }
        }
        if let Some(old) = old {
            errors.extend(strategy.validate_update(object, old));
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&place.kind().group, &place.kind().kind, meta::name(object), errors))
    }
}
