//! The subresource `resize` of pods (KEP-1287): what of a pod it may change, and to what. Pure; see upstream's
//! podResizeStrategy and ValidatePodResize.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta};

use super::qos_class;

const LISTS: [&str; 2] = ["containers", "initContainers"];
const SIDES: [&str; 2] = ["requests", "limits"];
const MUTABLE: [&str; 2] = ["cpu", "memory"];

/// Keeps everything but resources and resize policies as it was. Containers that do not match those there are stay as they were
/// sent, and are refused by the validation.
pub(super) fn keep_the_rest(pod: &mut Value, old: &Value) {
    let sent = LISTS.map(|list| pod.list_at(&["spec", list]).to_vec());
    if LISTS.iter().zip(&sent).any(|(list, sent)| sent.len() != old.list_at(&["spec", list]).len()) {
        return;
    }
    let level = pod.at(&["spec", "resources"]).cloned();
    let mut spec = old.get("spec").cloned().unwrap_or_default();
    match level {
        Some(level) => spec.set(&["resources"], level),
        None => drop(spec.remove(&["resources"])),
    }
    for (list, sent) in LISTS.iter().zip(sent).filter(|(_, sent)| !sent.is_empty()) {
        let before = old.list_at(&["spec", list]);
        if before.iter().zip(&sent).any(|(b, s)| b.str_at(&["name"]) != s.str_at(&["name"])) {
            spec.set(&[list], sent);
            continue;
        }
        for (container, sent) in spec.place(&[list]).make_list().make_mut().iter_mut().zip(&sent) {
            for field in ["resources", "resizePolicy"] {
                match sent.get(field) {
                    Some(value) => container.set(&[field], value.clone()),
                    None => drop(container.remove(&[field])),
                }
            }
        }
    }
    pod.set(&["spec"], spec);
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        match old.at(&["metadata", field]) {
            Some(kept) => pod.set(&["metadata", field], kept.clone()),
            None => drop(pod.remove(&["metadata", field])),
        }
    }
}

pub(super) fn validate(pod: &Value, old: &Value) -> Vec<FieldError> {
    if meta::annotation(old, "kubernetes.io/config.mirror").is_some() {
        return vec![FieldError::forbidden("", "static pods cannot be resized")];
    }
    if old.str_at(&["spec", "os", "name"]) == "windows" {
        return vec![FieldError::forbidden("", "windows pods cannot be resized")];
    }
    let mut errors = Vec::new();
    let none = Value::Null;
    let class = qos_class(pod.get("spec").unwrap_or(&none));
    if old.str_at(&["status", "qosClass"]) != class {
        errors.push(FieldError::invalid("spec", class, "Pod QOS Class may not change as a result of resizing"));
    }
    level(pod, old, &mut errors);
    if !in_order(pod, old, &mut errors) {
        return errors;
    }
    for list in LISTS {
        for (i, (container, before)) in pod.list_at(&["spec", list]).iter().zip(old.list_at(&["spec", list])).enumerate() {
            check_container(list, i, container, before, &mut errors);
        }
    }
    errors
}

fn check_container(list: &str, i: usize, container: &Value, before: &Value, errors: &mut Vec<FieldError>) {
    let at = format!("spec.{list}[{i}]");
    for side in SIDES.into_iter().filter(|side| removed(container, before, &["resources", side])) {
        errors.push(FieldError::forbidden(format!("{at}.resources.{side}"), &format!("resource {side} cannot be removed")));
    }
    if without_mutable(container, "resources") != without_mutable(before, "resources") {
        errors.push(match list {
            "containers" => FieldError::forbidden("spec", "only cpu and memory resources are mutable"),
            _ => FieldError::forbidden(&at, "only cpu and memory resources for init or sidecar containers are mutable"),
        });
    }
    // Pods of before this was refused at their creation may have such a policy.
    if list == "initContainers" && container != before && restarts_on_resize(container) {
        errors.push(FieldError::forbidden(at, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"));
    }
}

/// Whether an init container that is no sidecar asks to be restarted to be resized, which would do its work twice.
fn restarts_on_resize(container: &Value) -> bool {
    container.str_at(&["restartPolicy"]) != "Always" && restarting(container).next().is_some()
}

fn restarting(container: &Value) -> impl Iterator<Item = usize> {
    let policies = container.list_at(&["resizePolicy"]).iter().enumerate();
    policies.filter(|(_, policy)| policy.str_at(&["restartPolicy"]) == "RestartContainer").map(|(i, _)| i)
}

/// What a pod may not be created with.
pub(super) fn validate_new(pod: &Value) -> Vec<FieldError> {
    let list = pod.list_at(&["spec", "initContainers"]).iter().enumerate();
    let refused = list.filter(|(_, c)| restarts_on_resize(c)).flat_map(|(i, c)| restarting(c).map(move |j| (i, j)));
    let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
    let error = |(i, j)| FieldError::invalid(format!("spec.initContainers[{i}].resizePolicy[{j}].restartPolicy"), "RestartContainer", why);
    refused.map(error).collect()
}

/// Resources of the pod as a whole (KEP-5419).
fn level(pod: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let Some(before) = old.at(&["spec", "resources"]).filter(|r| !r.is_empty()) else { return };
    let none = Value::Null;
    let spec = pod.get("spec").unwrap_or(&none);
    if spec.get("resources").is_none_or(Value::is_empty) {
        errors.push(FieldError::forbidden("spec.resources", "pod-level resources cannot be removed"));
        return;
    }
    for side in SIDES {
        let gone = before.get(side).and_then(Value::as_map).is_some_and(|m| m.keys().any(|k| spec.at(&["resources", side, k]).is_none()));
        if gone {
            let why = format!("pod-level resource {side} cannot be removed");
            errors.push(FieldError::forbidden(format!("spec.resources.{side}"), &why));
        }
    }
    let rest = |s: &Value| without_mutable(s, "resources").get("resources").cloned();
    if rest(spec) != rest(old.get("spec").unwrap_or(&none)) {
        errors.push(FieldError::forbidden("spec", "only cpu and memory resources are mutable at pod-level"));
    }
}

fn in_order(pod: &Value, old: &Value, errors: &mut Vec<FieldError>) -> bool {
    let before = errors.len();
    for list in LISTS {
        let (new, old) = (pod.list_at(&["spec", list]), old.list_at(&["spec", list]));
        if new.len() != old.len() {
            errors.push(FieldError::forbidden(format!("spec.{list}"), &format!("{list} may not be added or removed on resize")));
            continue;
        }
        for i in (0..new.len()).filter(|i| new[*i].str_at(&["name"]) != old[*i].str_at(&["name"])) {
            let why = format!("{list} may not be renamed or reordered on resize");
            errors.push(FieldError::forbidden(format!("spec.{list}[{i}].name"), &why));
        }
    }
    errors.len() == before
}

fn removed(new: &Value, old: &Value, path: &[&str]) -> bool {
    let old = old.at(path).and_then(Value::as_map);
    old.is_some_and(|m| m.keys().any(|name| new.at(path).and_then(|map| map.get(name)).is_none()))
}

/// An object without the amounts below `field` that a resize may change.
fn without_mutable(object: &Value, field: &str) -> Value {
    let mut rest = object.clone();
    for side in SIDES {
        for name in MUTABLE {
            rest.remove(&[field, side, name]);
        }
        if rest.at(&[field, side]).is_some_and(Value::is_empty) {
            rest.remove(&[field, side]);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn pod(class: &str, containers: Value) -> Value {
        object!({ "metadata": { "name": "p", "labels": { "a": "b" } }, "spec": { "containers": containers }, "status": { "qosClass": class } })
    }

    fn one(requests: Value) -> Value {
        pod("Burstable", object!([{ "name": "c", "image": "i", "resources": { "requests": requests } }]))
    }

    fn check(new: &Value, old: &Value) -> Vec<String> {
        validate(new, old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_amounts_of_cpu_and_memory_may_change_and_none_may_go() {
        let old = one(object!({ "cpu": "1" }));
        assert_eq!(check(&one(object!({ "cpu": "2", "memory": "1Gi" })), &old), [""; 0]);
        let told = check(&one(object!({ "memory": "1" })), &old);
        assert_eq!(told, ["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"]);
        let told = check(&one(object!({ "cpu": "1", "ephemeral-storage": "1" })), &old);
        assert_eq!(told, ["spec: Forbidden: only cpu and memory resources are mutable"]);
    }

    #[test]
    fn init_containers_are_resized_unless_they_would_be_restarted_for_it() {
        let pod = |init: Value| {
            let mut pod = one(object!({ "cpu": "1" }));
            pod.set(&["spec", "initContainers"], object!([init]));
            pod
        };
        let init = |cpu: &str, policy: &str| {
            let policies = object!([{ "resourceName": "cpu", "restartPolicy": policy }]);
            pod(object!({ "name": "i", "image": "i", "resources": { "requests": { "cpu": cpu } }, "resizePolicy": policies }))
        };
        assert_eq!(check(&init("2", "NotRequired"), &init("1", "NotRequired")), [""; 0]);
        let told = check(&init("2", "RestartContainer"), &init("1", "RestartContainer"));
        let why = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
        assert_eq!(told, [format!("spec.initContainers[0]: Forbidden: {why}")]);
        assert_eq!(check(&init("1", "RestartContainer"), &init("1", "RestartContainer")), [""; 0]);

        let created = |pod: &Value| validate_new(pod).iter().map(ToString::to_string).collect::<Vec<_>>();
        let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
        let field = "spec.initContainers[0].resizePolicy[0].restartPolicy";
        assert_eq!(created(&init("1", "RestartContainer")), [format!("{field}: Invalid value: \"RestartContainer\": {why}")]);
        assert_eq!(created(&init("1", "NotRequired")), [""; 0]);
        let mut sidecar = init("1", "RestartContainer");
        sidecar.place(&["spec", "initContainers"]).make_list().make_mut()[0].set(&["restartPolicy"], "Always");
        assert_eq!(created(&sidecar), [""; 0]);
    }

    #[test]
    fn the_class_and_the_order_of_containers_stay() {
        let old = one(object!({ "cpu": "1" }));
        let mut renamed = old.clone();
        renamed.place(&["spec", "containers"]).make_list().make_mut()[0].set(&["name"], "d");
        let told = check(&renamed, &old);
        assert_eq!(told, ["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"]);
        let best = pod("BestEffort", object!([{ "name": "c", "image": "i", "resources": {} }]));
        assert!(check(&old, &best)[0].ends_with("Pod QOS Class may not change as a result of resizing"));
    }

    #[test]
    fn everything_but_resources_is_kept() {
        let old = one(object!({ "cpu": "1" }));
        let mut sent = one(object!({ "cpu": "2" }));
        sent.set(&["metadata", "labels"], object!({ "x": "y" }));
        sent.set(&["spec", "priority"], 7);
        sent.place(&["spec", "containers"]).make_list().make_mut()[0].set(&["image"], "other");
        keep_the_rest(&mut sent, &old);
        assert_eq!(sent, one(object!({ "cpu": "2" })));
    }
}
