//! Pods: conditional defaults, QoS class, what may change, and the cells of the table.

mod containers;
pub(crate) mod placement;
mod printer;
mod resize;
mod security;
mod validation;
pub(crate) mod volumes;

use fram_machinery::quantity::Quantity;
use fram_machinery::status::FieldError;
use fram_machinery::{Map, Value, object};

pub(crate) use containers::port_or_name;
pub(crate) use validation::validate_spec;

use super::{NameRule, Strategy, warnings};

/// Where in an object something stands. It becomes a text only where something is wrong.
pub(crate) type At<'a> = std::fmt::Arguments<'a>;

pub(super) struct Pod;

impl Strategy for Pod {
    fn name_rule(&self) -> NameRule {
        fram_machinery::names::dns_subdomain
    }

    fn default(&self, object: &mut Value) {
        let host_network = object.bool_at(&["spec", "hostNetwork"]) == Some(true);
        if object.get("spec").is_none() {
            return;
        }
        let spec = object.place(&["spec"]);
        default_pod_spec(spec);
        if spec.int_at(&["terminationGracePeriodSeconds"]).is_some_and(|n| n < 0) {
            // KEP-2238: what was negative once meant at once.
            spec.set(&["terminationGracePeriodSeconds"], 1);
        }
        if spec.get("enableServiceLinks").is_none() {
            spec.set(&["enableServiceLinks"], true);
        }
        for list in ["containers", "initContainers"] {
            if spec.list_at(&[list]).is_empty() {
                continue;
            }
            for container in spec.place(&[list]).make_list().make_mut() {
                request_what_is_limited(container);
                if host_network && !container.list_at(&["ports"]).is_empty() {
                    container.place(&["ports"]).make_list().make_mut().iter_mut().for_each(host_port_from_container_port);
                }
            }
        }
        mirror_service_account(spec);
        mirror_ips(object);
    }

    fn stamp(&self, object: &mut Value, _: Option<&Value>, now: &str) {
        if object.list_at(&["status", "conditions"]).is_empty() {
            return;
        }
        for condition in object.place(&["status", "conditions"]).make_list().make_mut() {
            if condition.str_at(&["reason"]) == "SchedulingGated" && condition.str_at(&["lastTransitionTime"]).is_empty() {
                condition.set(&["lastTransitionTime"], now);
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        let qos = qos_class(object.get("spec").unwrap_or(&Value::Null));
        let mut status = object!({ "phase": "Pending", "qosClass": qos });
        if !object.list_at(&["spec", "schedulingGates"]).is_empty() {
            status.set(
                &["conditions"],
                object!([{ "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates" }]),
            );
        }
        object.set(&["status"], status);
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_none() { warnings::of_pod(object) } else { Vec::new() }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        validation::validate(object)
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        validation::validate_new(object)
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        validation::validate_update(object, old)
    }

    fn prepare_subresource(&self, subresource: &str, object: &mut Value, old: &Value) {
        match subresource {
            "resize" => resize::keep_the_rest(object, old),
            "ephemeralcontainers" => {
                let added = object.at(&["spec", "ephemeralContainers"]).cloned();
                object.set(&["spec"], old.get("spec").cloned());
                object.set(&["spec", "ephemeralContainers"], added);
                object.set(&["metadata", "labels"], old.at(&["metadata", "labels"]).cloned());
                object.set(&["metadata", "annotations"], old.at(&["metadata", "annotations"]).cloned());
            }
            // The class follows from the spec.
            "status" if object.str_at(&["status", "qosClass"]).is_empty() => {
                object.set(&["status", "qosClass"], old.str_at(&["status", "qosClass"]));
            }
            _ => {}
        }
    }

    fn validate_subresource(&self, subresource: &str, object: &Value, old: &Value) -> Vec<FieldError> {
        match subresource {
            "resize" => resize::validate(object, old),
            "ephemeralcontainers" => ephemeral_errors(object, old),
            "status" => validation::validate_status(object, old),
            _ => Vec::new(),
        }
    }

    fn field(&self, object: &Value, path: &str) -> Option<String> {
        match path {
            "spec.hostNetwork" => Some(object.bool_at(&["spec", "hostNetwork"]).unwrap_or(false).to_string()),
            "status.podIPs" => Some(String::new()),
            _ => None,
        }
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        printer::cell(object, column)
    }
}

/// Ephemeral containers are added, and neither changed nor taken away; see ValidatePodEphemeralContainersUpdate.
fn ephemeral_errors(object: &Value, old: &Value) -> Vec<FieldError> {
    let list = |pod: &'_ Value| pod.list_at(&["spec", "ephemeralContainers"]).to_vec();
    let (now, before) = (list(object), list(old));
    let mut errors = Vec::new();
    for container in &before {
        let name = container.str_at(&["name"]);
        match now.iter().find(|c| c.str_at(&["name"]) == name) {
            Some(same) if same == container => {}
            Some(_) => {
                let why = format!("existing ephemeral containers {name:?} may not be changed");
                errors.push(FieldError::forbidden("spec.ephemeralContainers", &why));
            }
            None => {
                let why = format!("existing ephemeral containers {name:?} may not be removed");
                errors.push(FieldError::forbidden("spec.ephemeralContainers", &why));
            }
        }
    }
    errors
}

/// Conditional defaults of a pod spec, wherever it stands.
pub(crate) fn default_pod_spec(spec: &mut Value) {
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        if spec.list_at(&[list]).is_empty() {
            continue;
        }
        for container in spec.place(&[list]).make_list().make_mut() {
            if container.str_at(&["imagePullPolicy"]).is_empty() {
                let policy = default_pull_policy(container.str_at(&["image"]));
                container.set(&["imagePullPolicy"], policy);
            }
            // Belongs to a feature that is off (ContainerStopSignals).
            container.remove(&["lifecycle", "stopSignal"]);
        }
    }
    if !spec.list_at(&["volumes"]).is_empty() {
        for volume in spec.place(&["volumes"]).make_list().make_mut() {
            if volume.as_map().is_some_and(|m| m.keys().all(|k| k.as_str() == "name")) {
                volume.set(&["emptyDir"], Map::new());
            }
            if let Some(image) = volume.get("image").filter(|i| i.str_at(&["pullPolicy"]).is_empty()) {
                let policy = default_pull_policy(image.str_at(&["reference"]));
                volume.set(&["image", "pullPolicy"], policy);
            }
        }
    }
}

/// `Always` for the tag `latest` and for references without tag and digest; what is no reference has no tag either way.
fn default_pull_policy(image: &str) -> &'static str {
    let segment = |s: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        edge(s.chars().next()) && edge(s.chars().last()) && s.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
    };
    let last = image.rsplit('/').next().unwrap_or_default();
    let (name, tag) = last.split_once(':').map_or((last, ""), |(name, tag)| (name, tag));
    let path = image.split('/').all(|s| s.split(':').all(segment));
    if image.contains('@') || image.len() > 255 || !path || !segment(name) {
        return "IfNotPresent";
    }
    if tag.is_empty() || tag == "latest" { "Always" } else { "IfNotPresent" }
}

fn request_what_is_limited(container: &mut Value) {
    let Some(limits) = container.at(&["resources", "limits"]).and_then(Value::as_map).cloned() else { return };
    for (name, limit) in limits.iter() {
        let requests = container.place(&["resources", "requests"]).make_map();
        if !requests.contains(name) {
            requests.insert(name.clone(), limit.clone());
        }
    }
}

fn host_port_from_container_port(port: &mut Value) {
    if port.int_at(&["hostPort"]).unwrap_or(0) == 0
        && let Some(number) = port.int_at(&["containerPort"])
    {
        port.set(&["hostPort"], number);
    }
}

fn mirror_service_account(spec: &mut Value) {
    let name = match (spec.str_at(&["serviceAccountName"]), spec.str_at(&["serviceAccount"])) {
        ("", old) => old.to_string(),
        (new, _) => new.to_string(),
    };
    if !name.is_empty() {
        spec.set(&["serviceAccountName"], name.as_str());
        spec.set(&["serviceAccount"], name);
    }
}

fn mirror_ips(object: &mut Value) {
    let first = object.list_at(&["status", "podIPs"]).first().map(|p| p.str_at(&["ip"]).to_string());
    let ip = object.str_at(&["status", "podIP"]).to_string();
    match first {
        Some(first) if ip.is_empty() => object.set(&["status", "podIP"], first),
        Some(first) if first == ip => {}
        _ if ip.is_empty() => {}
        _ => object.set(&["status", "podIPs"], object!([{ "ip": ip }])),
    }
}

/// The quality of service of a pod; see upstream's qos.ComputePodQOS.
pub fn qos_class(spec: &Value) -> &'static str {
    let containers = spec.list_at(&["initContainers"]).iter().chain(spec.list_at(&["containers"]));
    let pod_level = spec.get("resources").filter(|r| !r.is_empty());
    let all: Vec<&Value> = match pod_level {
        Some(resources) => vec![resources],
        None => containers.filter_map(|c| c.get("resources")).collect(),
    };
    let amount = |r: &Value, kind: &str, name: &str| {
        r.at(&[kind, name]).and_then(Value::as_str).and_then(|q| q.parse::<Quantity>().ok()).filter(|q| !q.is_zero())
    };
    let (mut any, mut guaranteed) = (false, !all.is_empty());
    for resources in &all {
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount(resources, "requests", name), amount(resources, "limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (image, expect) in
            [("a", "Always"), ("a:latest", "Always"), ("a:1", "IfNotPresent"), ("h:5000/a", "Always"), ("a@sha256:x", "IfNotPresent")]
        {
            assert_eq!(default_pull_policy(image), expect, "{image}");
        }
    }

    #[test]
    fn qos_follows_requests_and_limits() {
        let spec = |resources: Value| object!({ "containers": [{ "name": "a", "resources": resources }] });
        assert_eq!(qos_class(&spec(object!({}))), "BestEffort");
        assert_eq!(qos_class(&spec(object!({ "requests": { "cpu": "1" } }))), "Burstable");
        let both = object!({ "limits": { "cpu": "1", "memory": "1Gi" } });
        assert_eq!(qos_class(&spec(both)), "Guaranteed");
    }
}
