//! What kubectl notes of its client-side apply in an annotation, and how an object goes from that to server-side apply
//! and back. See upstream's lastAppliedManager and lastAppliedUpdater.

use super::compare::{compare, stated};
use super::managers::Manager;
use super::set::FieldSet;
use crate::schema::{Schema, TypeId};
use crate::value::Value;
use crate::{json, meta};

/// The annotation that holds the configuration that was applied last.
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager whose configurations are in the annotation; others never look at it.
const KUBECTL: &str = "kubectl";

fn noted(object: &Value) -> &str {
    object.str_at(&["metadata", "annotations", ANNOTATION])
}

/// The fields that the manager may take from their owners because the object still has them as its client-side apply left them.
pub(super) fn left_by_client(schema: &Schema, ty: TypeId, live: &Value, manager: &Manager) -> FieldSet {
    if manager.name != KUBECTL {
        return FieldSet::default();
    }
    let Ok(last) = json::from_slice(noted(live).as_bytes()) else { return FieldSet::default() };
    if last.str_at(&["apiVersion"]) != manager.api_version {
        return FieldSet::default();
    }
    let changed = compare(schema, ty, &last, live);
    stated(schema, ty, &last).difference(&changed.modified).difference(&changed.added).difference(&changed.removed)
}

/// Keeps the annotation of an object that has one up to date with what was applied, so that a client-side apply can follow.
pub fn note(object: &mut Value, config: &Value, manager: &Manager) {
    if manager.name != KUBECTL || noted(object).is_empty() {
        return;
    }
    let mut config = config.clone();
    config.remove(&["metadata", "annotations", ANNOTATION]);
    let text = json::to_string(&config) + "\n";
    let others = object.at(&["metadata", "annotations"]).and_then(Value::as_map).into_iter().flat_map(|m| m.iter());
    let others = others.filter(|(key, _)| key.as_str() != ANNOTATION);
    let size: usize = others.map(|(key, value)| key.as_str().len() + value.as_str().map_or(0, str::len)).sum();
    if size + ANNOTATION.len() + text.len() > meta::MAX_ANNOTATIONS {
        object.remove(&["metadata", "annotations", ANNOTATION]);
    } else {
        object.set(&["metadata", "annotations", ANNOTATION], text);
    }
}
