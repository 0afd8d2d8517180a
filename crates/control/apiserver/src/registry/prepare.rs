//! What happens to every object before it is written: metadata is filled in and checked, the generation counted, the
//! enumerations of the description enforced.

use fram_api::rules::{self, Part};
use fram_api::{Generation, Kind, strategy};
use fram_machinery::status::FieldError;
use fram_machinery::{Key, Reason, Status, Value, meta, names};

use super::{Place, Registry};
use crate::environment::Environment;

/// Refuses what says that it is there already. That is the store's to say, behind all admission.
pub(super) fn check_new(object: &Value) -> Result<(), Status> {
    match meta::resource_version(object) {
        "" | "0" => Ok(()),
        _ => Err(Status::new(Reason::Unknown, "resourceVersion should not be set on objects to be created")),
    }
}

/// What a client says in the metadata of a new object is cleared of what is not for it to say.
pub(super) fn fill_metadata(place: &Place, object: &mut Value) -> Result<(), Status> {
    check_namespace(place, object)?;
    for field in ["managedFields", "uid", "creationTimestamp"] {
        object.remove(&["metadata", field]);
    }
    settle(place, object);
    Ok(())
}

/// A new object is of its place, has each owner once, and does not end.
fn settle(place: &Place, object: &mut Value) {
    for field in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        object.remove(&["metadata", field]);
    }
    if place.kind().is_namespaced() {
        object.set(&["metadata", "namespace"], place.namespace.as_str());
    } else {
        object.remove(&["metadata", "namespace"]);
    }
    drop_repeated_owners(object);
}

/// An object is of the namespace in which it is made.
pub(super) fn check_namespace(place: &Place, object: &Value) -> Result<(), Status> {
    let namespace = meta::namespace(object);
    if place.kind().is_namespaced() && !namespace.is_empty() && namespace != place.namespace {
        return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    Ok(())
}

/// Gives a new object what is the server's to say, whatever admission said.
pub(super) fn identify(environment: &Environment, place: &Place, object: &mut Value) {
    settle(place, object);
    if meta::name(object).is_empty() && place.kind().is("", "LimitRange") {
        object.set(&["metadata", "name"], environment.uid());
    }
    object.set(&["metadata", "uid"], environment.uid());
    object.set(&["metadata", "creationTimestamp"], environment.now_text());
    if place.kind().generation != Generation::None && !place.kind().late_generation {
        object.set(&["metadata", "generation"], 1);
    }
}

/// Owners that stand twice are one; see upstream's dedupOwnerReferences.
fn drop_repeated_owners(object: &mut Value) {
    let owners = meta::owner_references(object);
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    owners.iter().for_each(|o| {
        if !kept.contains(o) {
            kept.push(o.clone())
        }
    });
    if kept.len() < owners.len() {
        object.set(&["metadata", "ownerReferences"], kept);
    }
}

/// Puts back what no update may change.
pub(super) fn keep_metadata(object: &mut Value, old: &Value) {
    drop_repeated_owners(object);
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

/// The name, and what it was made of, held against the rule of a kind.
fn name_errors(strategy: &dyn fram_api::Strategy, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (rule, name) = (strategy.name_rule(), meta::name(object));
    if !name.is_empty()
        && let Err(why) = rule(name).and_then(|()| names::path_segment(name))
    {
        errors.push(FieldError::invalid("metadata.name", name, why));
    }
    let base = object.at(&["metadata", "generateName"]).and_then(Value::as_str);
    if let Some(base) = base.filter(|_| strategy.checks_base_names()) {
        // What follows the base makes a dash at its end right.
        let shown = base.strip_suffix('-').map(|b| format!("{b}a"));
        if let Err(why) = rule(shown.as_deref().unwrap_or(base)) {
            errors.push(FieldError::invalid("metadata.generateName", base, why));
        }
    }
    errors
}

/// The rules that hold for the metadata of every kind.
fn metadata_errors(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = meta::name(object);
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    }
    errors.extend(name_errors(strategy(kind), object));
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
    if size > meta::MAX_ANNOTATIONS {
        errors.push(FieldError::too_long("metadata.annotations", meta::MAX_ANNOTATIONS));
    }
    errors.extend(finalizer_errors(kind, object));
    errors.extend(owner_errors(object));
    errors
}

/// The finalizers that need no group before them; see upstream's standardFinalizers.
const PLAIN_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

fn finalizer_errors(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, finalizer) in meta::finalizers(object).enumerate() {
        let at = format!("metadata.finalizers[{i}]");
        if let Err(why) = names::qualified_name(finalizer) {
            errors.push(FieldError::invalid(&at, finalizer, why));
        }
        // What extends the API has plain names, such as that of the cleanup of custom resources.
        let strict = kind.custom.is_none() && !matches!(&*kind.group, "apiextensions.k8s.io" | "apiregistration.k8s.io");
        if strict && !finalizer.contains('/') && !PLAIN_FINALIZERS.contains(&finalizer) {
            errors.push(FieldError::invalid(&at, finalizer, "name is neither a standard finalizer name nor is it fully qualified"));
        }
    }
    let has = |name: &str| meta::finalizers(object).any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        let all = object.at(&["metadata", "finalizers"]).cloned();
        errors.push(FieldError::invalid("metadata.finalizers", all, "finalizer orphan and foregroundDeletion cannot be both set"));
    }
    errors
}

fn owner_errors(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for owner in meta::owner_references(object) {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.str_at(&[field]).is_empty() {
                errors.push(FieldError::invalid(format!("metadata.ownerReferences.{field}"), "", format!("{field} must not be empty")));
            }
        }
        let version = owner.str_at(&["apiVersion"]);
        if version.matches('/').count() > 1 {
            errors.push(FieldError::invalid("metadata.ownerReferences.apiVersion", version, "unexpected GroupVersion string"));
        }
        if (version, owner.str_at(&["kind"])) == ("v1", "Event") {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid("metadata.ownerReferences", owner.clone(), why));
        }
    }
    let controllers = meta::owner_references(object).iter().filter(|o| o.bool_at(&["controller"]) == Some(true)).count();
    if controllers > 1 {
        let why = "Only one reference can have Controller set to true";
        errors.push(FieldError::invalid("metadata.ownerReferences", Value::from(meta::owner_references(object).to_vec()), why));
    }
    errors
}

/// What an object that is checked is about to become.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change<'a> {
    Create,
    Update(&'a Value),
    /// A subresource that has its own rules of what may change.
    Part(&'a Value),
}

/// What an object is known by never changes.
fn identity_errors(object: &Value, old: &Value) -> Vec<FieldError> {
    let fields = [("name", "metadata.name"), ("namespace", "metadata.namespace"), ("uid", "metadata.uid")];
    let changed = fields.into_iter().filter(|(field, _)| object.at(&["metadata", field]) != old.at(&["metadata", field]));
    changed.map(|(field, path)| FieldError::invalid(path, object.at(&["metadata", field]).cloned(), "field is immutable")).collect()
}

/// What of an object breaks rules, whatever it was before; what it was counts where a schema says that it may stay so.
fn content_errors(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata_errors(kind, object);
    // Of what is as it was nothing is told, whatever is wrong with it.
    if old.is_none_or(|old| !same_content(object, old)) {
        errors.extend(rules::errors(kind, object, old, Part::Content));
    }
    let same = |a: &FieldError, b: &FieldError| a.field == b.field && a.reason() == b.reason();
    let described = errors.clone();
    errors.extend(strategy(kind).validate(object).into_iter().filter(|e| !described.iter().any(|d| same(d, e))));
    errors
}

/// Whether two objects differ in nothing but metadata and status.
fn same_content(object: &Value, old: &Value) -> bool {
    fn content(object: &Value) -> impl Iterator<Item = (&Key, &Value)> {
        let entries = object.as_map().into_iter().flat_map(|map| map.iter());
        entries.filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status"))
    }
    content(object).eq(content(old))
}

/// What of a custom resource breaks its schema. What an update leaves as it was is left out here, by the schema's own knowledge of
/// which parts of the two belong together.
fn schema_errors(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let Some(structural) = kind.structural() else { return Vec::new() };
    let mut errors = structural.validate(object, old);
    // Rules may rely on the types of what they ask about.
    if let Some(rules) = kind.custom.as_ref().and_then(|c| c.rules.as_ref()).filter(|_| errors.is_empty()) {
        errors.extend(rules.validate(structural, object, old));
    }
    errors
}

/// Leaves out what was wrong before and is as it was: an object that was stored under milder rules can still be labelled,
/// scaled and let go. Upstream does this kind by kind; see KEP-4008.
fn ratcheted(mut errors: Vec<FieldError>, before: impl FnOnce() -> Vec<FieldError>) -> Vec<FieldError> {
    if !errors.is_empty() {
        let before = before();
        errors.retain(|e| !before.contains(e));
    }
    errors
}

impl Registry {
    /// Checks a stored-kind object, and against the one it replaces.
    pub(super) fn validate(&self, place: &Place, object: &Value, change: Change<'_>) -> Result<(), Status> {
        refuse(place, object, self.errors(place, object, change))
    }

    /// What is wrong with a stored-kind object, and with the change that it is.
    pub(super) fn errors(&self, place: &Place, object: &Value, change: Change<'_>) -> Vec<FieldError> {
        let stored = &place.served.stored;
        let old = if let Change::Update(old) = change { Some(old) } else { None };
        let mut errors = content_errors(stored, object, old);
        if let Change::Update(old) | Change::Part(old) = change {
            errors = ratcheted(errors, || content_errors(stored, old, None));
        }
        errors.extend(schema_errors(stored, object, old));
        match change {
            Change::Create => errors.extend(strategy(stored).validate_create(object)),
            Change::Update(old) => {
                errors.extend(metadata_changes(object, old));
                errors.extend(strategy(stored).validate_update(object, old));
            }
            Change::Part(old) => errors.extend(metadata_changes(object, old)),
        }
        if place.kind().group != stored.group {
            let asked = fram_api::strategy(place.kind());
            if let Change::Create = change {
                errors.extend(name_errors(asked, object));
            }
            asked.validate_asked(object, old, &mut errors);
        }
        errors
    }

    /// Checks what a subresource that is not about the content has changed.
    pub(super) fn validate_part(&self, place: &Place, subresource: &str, object: &Value, old: &Value) -> Result<(), Status> {
        let stored = &place.served.stored;
        let status = matches!(subresource, "status" | "approval");
        let part_errors = |object: &Value, old: Option<&Value>| {
            let mut errors = metadata_errors(stored, object);
            if status {
                errors.extend(rules::errors(stored, object, old, Part::Status));
            }
            errors
        };
        let mut errors = ratcheted(part_errors(object, Some(old)), || part_errors(old, None));
        errors.extend(metadata_changes(object, old));
        errors.extend(strategy(stored).validate_subresource(subresource, object, old));
        refuse(place, object, errors)
    }
}

/// The answer to an object with errors; none is no error.
pub(super) fn refuse(place: &Place, object: &Value, errors: Vec<FieldError>) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&place.kind().group, &place.kind().kind, meta::name(object), errors))
}

/// What no update may change of the metadata.
fn metadata_changes(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = identity_errors(object, old);
    let added = |f: &&str| meta::finalizers(old).all(|o| o != *f);
    if meta::is_terminating(old) && meta::finalizers(object).any(|f| added(&f)) {
        let why = "no new finalizers can be added if the object is being deleted";
        errors.push(FieldError::forbidden("metadata.finalizers", why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use fram_api::Api;
    use fram_machinery::object;

    use super::*;

    #[test]
    fn what_was_wrong_and_stays_as_it_is_keeps_no_change_back() {
        let api = Api::builtin().unwrap();
        let kind = api.kind("", "v1", "ConfigMap").unwrap();
        let old = object!({ "metadata": { "name": "Old_Name", "finalizers": ["plain"] }, "data": { "not a key": "x" } });
        let found = |object: &Value| ratcheted(content_errors(kind, object, Some(&old)), || content_errors(kind, &old, None));
        assert!(content_errors(kind, &old, None).len() >= 3);
        let mut let_go = old.clone();
        let_go.remove(&["metadata", "finalizers"]);
        assert_eq!(found(&let_go), []);
        let mut worse = old.clone();
        worse.set(&["data", "nor this"], "y");
        assert_eq!(found(&worse).iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), ["data[nor this]"]);
    }
}
