//! What a pod must look like, and what of it may change.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

pub(super) fn validate(pod: &Value) -> Vec<FieldError> {
    validate_spec(pod.get("spec").unwrap_or(&Value::Null), "spec")
}

/// The rules of a pod spec below `path`; templates obey the same ones.
pub(crate) fn validate_spec(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let volumes = validate_volumes(spec, path, &mut errors);
    let mut seen = Vec::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in spec.list_at(&[list]).iter().enumerate() {
            let at = format!("{path}.{list}[{i}]");
            validate_container(container, &at, &volumes, &mut errors);
            let name = container.str_at(&["name"]);
            if seen.contains(&name) && !name.is_empty() {
                errors.push(FieldError::duplicate(format!("{at}.name"), name));
            }
            seen.push(name);
        }
    }
    if spec.list_at(&["containers"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    enumerated(spec, path, "restartPolicy", &["Always", "OnFailure", "Never"], &mut errors);
    enumerated(spec, path, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], &mut errors);
    if let Some(grace) = spec.int_at(&["terminationGracePeriodSeconds"])
        && grace < 0
    {
        errors.push(FieldError::invalid(format!("{path}.terminationGracePeriodSeconds"), grace, "must be greater than or equal to 0"));
    }
    if let Some(deadline) = spec.int_at(&["activeDeadlineSeconds"])
        && !(1..=i64::from(u32::MAX)).contains(&deadline)
    {
        errors.push(FieldError::invalid(format!("{path}.activeDeadlineSeconds"), deadline, "must be between 1 and 4294967295, inclusive"));
    }
    for (field, rule) in [
        ("hostname", names::dns_label as super::NameRule),
        ("subdomain", names::dns_label),
        ("nodeName", names::dns_subdomain),
        ("serviceAccountName", names::dns_subdomain),
    ] {
        let text = spec.str_at(&[field]);
        if !text.is_empty()
            && let Err(why) = rule(text)
        {
            errors.push(FieldError::invalid(format!("{path}.{field}"), text, why));
        }
    }
    validate_sysctls(spec, path, &mut errors);
    errors
}

/// Names of kernel parameters: segments of letters, digits, `-`, `_`, joined by dots or slashes.
fn validate_sysctls(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const WHY: &str =
        "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    let mut seen = Vec::new();
    for (i, sysctl) in spec.list_at(&["securityContext", "sysctls"]).iter().enumerate() {
        let name = sysctl.str_at(&["name"]);
        let at = format!("{path}.securityContext.sysctls[{i}].name");
        let word = |s: &str| {
            let b = s.as_bytes();
            let edge = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
            b.first().is_some_and(edge) && b.last().is_some_and(edge) && b.iter().all(|c| edge(c) || matches!(c, b'-' | b'_'))
        };
        if name.is_empty() {
            errors.push(FieldError::required(at, ""));
        } else if name.len() > 253 || !name.split(['.', '/']).all(word) {
            errors.push(FieldError::invalid(at, name, WHY));
        } else if seen.contains(&name) {
            errors.push(FieldError::duplicate(at, name));
        }
        seen.push(name);
    }
}

fn enumerated(value: &Value, path: &str, field: &str, allowed: &[&str], errors: &mut Vec<FieldError>) {
    match value.str_at(&[field]) {
        "" => errors.push(FieldError::required(format!("{path}.{field}"), "")),
        text if allowed.contains(&text) => {}
        text => errors.push(FieldError::not_supported(format!("{path}.{field}"), text, allowed)),
    }
}

fn validate_volumes<'a>(spec: &'a Value, path: &str, errors: &mut Vec<FieldError>) -> Vec<&'a str> {
    let mut seen: Vec<&str> = Vec::new();
    for (i, volume) in spec.list_at(&["volumes"]).iter().enumerate() {
        let at = format!("{path}.volumes[{i}]");
        let name = volume.str_at(&["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if let Err(why) = names::dns_label(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, why));
        } else if seen.contains(&name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), name));
        }
        let sources = volume.as_map().map_or(0, |m| m.keys().filter(|k| k.as_str() != "name").count());
        if sources > 1 {
            errors.push(FieldError::forbidden(at, "may not specify more than 1 volume type"));
        }
        seen.push(name);
    }
    seen
}

fn validate_container(container: &Value, at: &str, volumes: &[&str], errors: &mut Vec<FieldError>) {
    let name = container.str_at(&["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    } else if let Err(why) = names::dns_label(name) {
        errors.push(FieldError::invalid(format!("{at}.name"), name, why));
    }
    let image = container.str_at(&["image"]);
    if image.is_empty() {
        errors.push(FieldError::required(format!("{at}.image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(format!("{at}.image"), image, "must not have leading or trailing whitespace"));
    }
    enumerated(container, at, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], errors);
    enumerated(container, at, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], errors);
    validate_ports(container, at, errors);
    validate_env(container, at, errors);
    validate_mounts(container, at, volumes, errors);
    validate_resources(container, at, errors);
}

fn validate_ports(container: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, port) in container.list_at(&["ports"]).iter().enumerate() {
        let at = format!("{at}.ports[{i}]");
        let name = port.str_at(&["name"]);
        if !name.is_empty() {
            if let Err(why) = names::port_name(name) {
                errors.push(FieldError::invalid(format!("{at}.name"), name, why));
            } else if seen.contains(&name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), name));
            }
            seen.push(name);
        }
        match port.int_at(&["containerPort"]).unwrap_or(0) {
            0 => errors.push(FieldError::required(format!("{at}.containerPort"), "")),
            n => errors.extend(names::port_number(n).err().map(|why| FieldError::invalid(format!("{at}.containerPort"), n, why))),
        }
        let host = port.int_at(&["hostPort"]).unwrap_or(0);
        if host != 0
            && let Err(why) = names::port_number(host)
        {
            errors.push(FieldError::invalid(format!("{at}.hostPort"), host, why));
        }
        enumerated(port, &at, "protocol", &["TCP", "UDP", "SCTP"], errors);
    }
}

fn validate_env(container: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (i, env) in container.list_at(&["env"]).iter().enumerate() {
        let name = env.str_at(&["name"]);
        let at = format!("{at}.env[{i}]");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if name.contains('=') || !name.bytes().all(|c| (0x20..0x7f).contains(&c)) {
            let why = "a valid environment variable name must consist only of printable ASCII characters other than '='";
            errors.push(FieldError::invalid(format!("{at}.name"), name, why));
        }
        if !env.str_at(&["value"]).is_empty() && env.get("valueFrom").is_some_and(|v| !v.is_empty()) {
            errors.push(FieldError::invalid(format!("{at}.valueFrom"), "", "may not be specified when `value` is not empty"));
        }
    }
}

fn validate_mounts(container: &Value, at: &str, volumes: &[&str], errors: &mut Vec<FieldError>) {
    let mut paths: Vec<&str> = Vec::new();
    for (i, mount) in container.list_at(&["volumeMounts"]).iter().enumerate() {
        let at = format!("{at}.volumeMounts[{i}]");
        let (name, path) = (mount.str_at(&["name"]), mount.str_at(&["mountPath"]));
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if !volumes.contains(&name) {
            errors.push(FieldError { field: format!("{at}.name"), problem: fram_machinery::status::Problem::NotFound(name.into()) });
        }
        if path.is_empty() {
            errors.push(FieldError::required(format!("{at}.mountPath"), ""));
        } else if paths.contains(&path) {
            errors.push(FieldError::invalid(format!("{at}.mountPath"), path, "must be unique"));
        }
        paths.push(path);
        for field in ["subPath", "subPathExpr"] {
            let sub = mount.str_at(&[field]);
            if sub.starts_with('/') {
                errors.push(FieldError::invalid(format!("{at}.{field}"), sub, "must be a relative path"));
            } else if sub.split('/').any(|s| s == "..") {
                errors.push(FieldError::invalid(format!("{at}.{field}"), sub, "must not contain '..'"));
            }
        }
    }
}

fn validate_resources(container: &Value, at: &str, errors: &mut Vec<FieldError>) {
    use fram_machinery::quantity::Quantity;
    let amount = |kind: &str, name: &str| {
        let text = container.at(&["resources", kind, name]).and_then(Value::as_str)?;
        Some((text.to_string(), text.parse::<Quantity>().ok()?))
    };
    for kind in ["limits", "requests"] {
        let map = container.at(&["resources", kind]).and_then(Value::as_map).cloned().unwrap_or_default();
        for name in map.keys() {
            let field = format!("{at}.resources.{kind}[{name}]");
            let Some((text, quantity)) = amount(kind, name) else { continue };
            if quantity.is_negative() {
                errors.push(FieldError::invalid(&field, text.as_str(), "must be greater than or equal to 0"));
            }
            let standard = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
            if !standard && !name.contains('/') {
                errors.push(FieldError::invalid(&field, name.as_str(), "must be a standard resource type or fully qualified"));
            }
            if kind == "requests"
                && let Some((limit, most)) = amount("limits", name)
                && quantity > most
            {
                errors.push(FieldError::invalid(
                    format!("{at}.resources.requests"),
                    text,
                    format!("must be less than or equal to {name} limit of {limit}"),
                ));
            }
        }
    }
}

/// Only images, deadlines, added tolerations and removed scheduling gates may change; see ValidatePodUpdate.
pub(super) fn validate_update(pod: &Value, old: &Value) -> Vec<FieldError> {
    const WHY: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    let mut errors = Vec::new();
    for list in ["containers", "initContainers"] {
        if pod.list_at(&["spec", list]).len() != old.list_at(&["spec", list]).len() {
            errors.push(FieldError::forbidden(format!("spec.{list}"), "pod updates may not add or remove containers"));
            return errors;
        }
    }
    let kept = old.list_at(&["spec", "tolerations"]);
    let tolerations = pod.list_at(&["spec", "tolerations"]);
    if kept.iter().any(|t| !tolerations.contains(t)) {
        errors.push(FieldError::forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds"));
    }
    if let (Some(old), new) = (old.int_at(&["spec", "activeDeadlineSeconds"]), pod.int_at(&["spec", "activeDeadlineSeconds"]))
        && new.is_none_or(|new| new > old)
    {
        let why = "must be less than or equal to previous value";
        errors.push(FieldError::invalid("spec.activeDeadlineSeconds", Value::from(new), why));
    }
    let gates = |p: &Value| p.list_at(&["spec", "schedulingGates"]).to_vec();
    if gates(pod).iter().any(|g| !gates(old).contains(g)) {
        errors.push(FieldError::forbidden("spec.schedulingGates", "only deletion is allowed, but found new scheduling gate"));
    }
    if frozen(pod) != frozen(old) {
        errors.push(FieldError::forbidden("spec", WHY));
    }
    errors
}

/// A pod's spec without what may change.
fn frozen(pod: &Value) -> Value {
    let mut spec = pod.get("spec").cloned().unwrap_or_default();
    let gated = !pod.list_at(&["spec", "schedulingGates"]).is_empty();
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        spec.remove(&[field]);
    }
    if gated {
        // A gated pod may still narrow where it runs.
        spec.remove(&["nodeSelector"]);
        spec.remove(&["affinity"]);
    }
    for list in ["containers", "initContainers"] {
        if !spec.list_at(&[list]).is_empty() {
            spec.place(&[list]).make_list().iter_mut().for_each(|c| drop(c.remove(&["image"])));
        }
    }
    spec
}
