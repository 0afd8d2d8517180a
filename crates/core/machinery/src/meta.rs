//! Reading and changing the metadata of objects.

use crate::value::{Map, Value};

/// All annotations of an object may have this many bytes, keys and values; see TotalAnnotationSizeLimitB.
pub const MAX_ANNOTATIONS: usize = 256 << 10;

pub fn name(object: &Value) -> &str {
    object.str_at(&["metadata", "name"])
}

/// Empty for objects of cluster scope.
pub fn namespace(object: &Value) -> &str {
    object.str_at(&["metadata", "namespace"])
}

pub fn uid(object: &Value) -> &str {
    object.str_at(&["metadata", "uid"])
}

pub fn resource_version(object: &Value) -> &str {
    object.str_at(&["metadata", "resourceVersion"])
}

pub fn generation(object: &Value) -> i64 {
    object.int_at(&["metadata", "generation"]).unwrap_or(0)
}

/// The labels, or null where there are none.
pub fn labels(object: &Value) -> &Value {
    object.at(&["metadata", "labels"]).unwrap_or(&Value::Null)
}

pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.at(&["metadata", "labels"])?.get(key)?.as_str()
}

pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.at(&["metadata", "annotations"])?.get(key)?.as_str()
}

/// Whether a deletion timestamp is set: the object waits for its finalizers or its grace period.
pub fn is_terminating(object: &Value) -> bool {
    object.at(&["metadata", "deletionTimestamp"]).is_some_and(|t| !t.is_null())
}

pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object.list_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str)
}

pub fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    finalizers(object).any(|f| f == finalizer)
}

pub fn add_finalizer(object: &mut Value, finalizer: &str) {
    if !has_finalizer(object, finalizer) {
        object.place(&["metadata", "finalizers"]).make_list().push(finalizer.into());
    }
}

pub fn remove_finalizer(object: &mut Value, finalizer: &str) {
    if has_finalizer(object, finalizer) {
        let list = object.place(&["metadata", "finalizers"]).make_list();
        list.retain(|f| f.as_str() != Some(finalizer));
        if list.is_empty() {
            object.remove(&["metadata", "finalizers"]);
        }
    }
}

pub fn owner_references(object: &Value) -> &[Value] {
    object.list_at(&["metadata", "ownerReferences"])
}

/// The owner reference that says `controller: true`; see metav1.GetControllerOf.
pub fn controller_of(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|o| o.bool_at(&["controller"]) == Some(true))
}

/// An owner reference from a dependent to its controller; see metav1.NewControllerRef.
pub fn controller_reference(owner: &Value) -> Value {
    crate::object!({
        "apiVersion": (owner.str_at(&["apiVersion"])), "kind": (owner.str_at(&["kind"])),
        "name": (name(owner)), "uid": (uid(owner)), "controller": true, "blockOwnerDeletion": true
    })
}

/// `namespace/name`, or the name alone at cluster scope.
pub fn key(object: &Value) -> String {
    match namespace(object) {
        "" => name(object).to_string(),
        ns => format!("{ns}/{}", name(object)),
    }
}

pub fn set_label(object: &mut Value, key: &str, value: &str) {
    object.place(&["metadata", "labels"]).make_map().insert(key, value);
}

pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    object.place(&["metadata", "annotations"]).make_map().insert(key, value);
}

/// A condition of `status.conditions` by its type.
pub fn condition<'a>(object: &'a Value, ty: &str) -> Option<&'a Value> {
    object.list_at(&["status", "conditions"]).iter().find(|c| c.str_at(&["type"]) == ty)
}

pub fn condition_is_true(object: &Value, ty: &str) -> bool {
    condition(object, ty).is_some_and(|c| c.str_at(&["status"]) == "True")
}

/// A copy of the metadata's map, empty where there is none.
pub fn metadata(object: &Value) -> Map {
    object.get("metadata").and_then(Value::as_map).cloned().unwrap_or_default()
}
