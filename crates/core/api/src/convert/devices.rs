//! resource.k8s.io/v1beta1: what is asked for exactly stands in the request itself, and what a device is in its field `basic`.

use fram_machinery::Value;
use fram_machinery::value::Map;

/// Fields of a request that are those of `exactly` in later versions.
const EXACTLY: [&str; 7] = ["deviceClassName", "selectors", "allocationMode", "count", "adminAccess", "tolerations", "capacity"];
/// Fields of `basic`.
const BASIC: [&str; 12] = [
    "attributes",
    "capacity",
    "consumesCounters",
    "nodeName",
    "nodeSelector",
    "allNodes",
    "taints",
    "bindsToNode",
    "bindingConditions",
    "bindingFailureConditions",
    "allowMultipleAllocations",
    "nodeAllocatableResourceMappings",
];

/// Where requests are, in claims and in their templates, and where devices are, in slices.
const REQUESTS: [&[&str]; 2] = [&["spec", "devices", "requests"], &["spec", "spec", "devices", "requests"]];
const DEVICES: &[&str] = &["spec", "devices"];

pub(super) fn to_v1beta1(object: &mut Value) {
    each(object, |request| unfold(request, "exactly"), |device| fold(device, "basic", &BASIC, true));
}

pub(super) fn from_v1beta1(object: &mut Value) {
    each(object, |request| fold(request, "exactly", &EXACTLY, false), |device| unfold(device, "basic"));
}

fn each(object: &mut Value, request: impl Fn(&mut Value), device: impl Fn(&mut Value)) {
    for path in REQUESTS {
        if !object.list_at(path).is_empty() {
            object.place(path).make_list().make_mut().iter_mut().for_each(&request);
        }
    }
    if !object.list_at(DEVICES).is_empty() {
        object.place(DEVICES).make_list().make_mut().iter_mut().for_each(device);
    }
}

/// Moves the `fields` of an item into its field `name`.
fn fold(item: &mut Value, name: &'static str, fields: &[&'static str], always: bool) {
    let moved: Vec<_> = fields.iter().filter_map(|field| Some((*field, item.remove(&[field])?))).collect();
    if always && moved.is_empty() {
        item.set(&[name], Map::new());
    }
    for (field, value) in moved {
        item.set(&[name, field], value);
    }
}

/// Moves what is in the field `name` of an item into the item.
fn unfold(item: &mut Value, name: &'static str) {
    let Some(inner) = item.remove(&[name]) else { return };
    for (field, value) in inner.as_map().into_iter().flat_map(|map| map.iter()) {
        item.set(&[field.as_str()], value.clone());
    }
}
