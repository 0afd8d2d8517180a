//! What a pod must look like, and what of it may change. The rules of its parts stand beside this file.

use fram_machinery::quantity::Quantity;
use fram_machinery::status::{FieldError, Problem};
use fram_machinery::{Value, names};

use super::containers::{self, Role, enumerated, is_ip};
use super::{placement, security, volumes};

pub(super) fn validate(pod: &Value) -> Vec<FieldError> {
    let mut errors = validate_spec(pod.get("spec").unwrap_or(&Value::Null), "spec");
    if pod.at(&["spec", "nodeName"]).is_some() && !pod.list_at(&["spec", "schedulingGates"]).is_empty() {
        errors.push(FieldError::forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared"));
    }
    errors
}

/// A pod is not created with what is added to it later.
pub(super) fn validate_new(pod: &Value) -> Vec<FieldError> {
    if pod.list_at(&["spec", "ephemeralContainers"]).is_empty() {
        return Vec::new();
    }
    vec![FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create")]
}

/// The rules of a pod spec below `path`; templates obey the same ones.
pub(crate) fn validate_spec(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let volumes = volumes::validate(spec, path, &mut errors);
    let claims = spec.list_at(&["resourceClaims"]).iter().map(|c| c.str_at(&["name"])).collect();
    let context = containers::Pod {
        volumes: &volumes,
        claims,
        restart_policy: spec.str_at(&["restartPolicy"]),
        grace: spec.int_at(&["terminationGracePeriodSeconds"]).unwrap_or(0),
        host_users: spec.bool_at(&["hostUsers"]) != Some(false),
    };
    every_container(spec, path, &context, &mut errors);
    claim_errors(spec, path, &mut errors);
    if let Some(resources) = spec.get("resources") {
        pod_resources(resources, &context.claims, path, &mut errors);
    }
    enumerated(spec, path, "restartPolicy", &["Always", "OnFailure", "Never"], &mut errors);
    enumerated(spec, path, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], &mut errors);
    numbers(spec, path, &mut errors);
    texts(spec, path, &mut errors);
    host(spec, path, &mut errors);
    dns(spec, path, &mut errors);
    placement::validate(spec, path, &mut errors);
    system(spec, path, &mut errors);
    for (i, gate) in spec.list_at(&["schedulingGates"]).iter().enumerate() {
        let name = gate.str_at(&["name"]);
        if let Err(why) = names::qualified_name(name) {
            errors.push(FieldError::invalid(format!("{path}.schedulingGates[{i}]"), name, why));
        } else if spec.list_at(&["schedulingGates"])[..i].iter().any(|g| g.str_at(&["name"]) == name) {
            errors.push(FieldError::duplicate(format!("{path}.schedulingGates[{i}]"), name));
        }
    }
    errors
}

fn every_container(spec: &Value, path: &str, pod: &containers::Pod<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = Vec::new();
    for (list, role) in [("containers", Role::Main), ("initContainers", Role::Init), ("ephemeralContainers", Role::Ephemeral)] {
        let others = seen.clone();
        for (i, container) in spec.list_at(&[list]).iter().enumerate() {
            let at = format!("{path}.{list}[{i}]");
            containers::validate(container, role, &at, pod, errors);
            let name = container.str_at(&["name"]);
            if seen.contains(&name) && !name.is_empty() {
                errors.push(FieldError::duplicate(format!("{at}.name"), name));
            }
            seen.push(name);
            let target = container.str_at(&["targetContainerName"]);
            if !target.is_empty() && !others.contains(&target) {
                errors.push(FieldError { field: format!("{at}.targetContainerName"), problem: Problem::NotFound(target.into()) });
            }
        }
    }
    if spec.list_at(&["containers"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    containers::host_port_conflicts(spec.list_at(&["containers"]), &format!("{path}.containers"), errors);
}

fn numbers(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(deadline) = spec.int_at(&["activeDeadlineSeconds"])
        && !(1..=i64::from(i32::MAX)).contains(&deadline)
    {
        errors.push(FieldError::invalid(format!("{path}.activeDeadlineSeconds"), deadline, "must be between 1 and 2147483647, inclusive"));
    }
}

fn texts(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (field, rule) in [
        ("hostname", names::dns_label as super::NameRule),
        ("subdomain", names::dns_label),
        ("nodeName", names::dns_subdomain),
        ("serviceAccountName", names::dns_subdomain),
        ("priorityClassName", names::dns_subdomain),
        ("runtimeClassName", names::dns_subdomain),
    ] {
        let text = spec.str_at(&[field]);
        if !text.is_empty()
            && let Err(why) = rule(text)
        {
            errors.push(FieldError::invalid(format!("{path}.{field}"), text, why));
        }
    }
    let selector = spec.get("nodeSelector").and_then(Value::as_map).cloned().unwrap_or_default();
    super::super::label_map_errors(&selector, &format!("{path}.nodeSelector"), errors);
    for (i, secret) in spec.list_at(&["imagePullSecrets"]).iter().enumerate() {
        if secret.str_at(&["name"]).is_empty() {
            errors.push(FieldError::required(format!("{path}.imagePullSecrets[{i}].name"), ""));
        }
    }
    for alias in spec.list_at(&["hostAliases"]) {
        if !is_ip(alias.str_at(&["ip"])) {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(format!("{path}.hostAliases.ip"), alias.str_at(&["ip"]), why));
        }
        for name in alias.list_at(&["hostnames"]) {
            if let Err(why) = names::dns_subdomain(name.as_str().unwrap_or_default()) {
                errors.push(FieldError::invalid(format!("{path}.hostAliases.hostnames"), name.clone(), why));
            }
        }
    }
}

/// What shares the namespaces of the node.
fn host(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let is = |field: &str| spec.bool_at(&[field]) == Some(true);
    if is("hostPID") && is("shareProcessNamespace") {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(format!("{path}.shareProcessNamespace"), true, why));
    }
    if spec.bool_at(&["hostUsers"]) == Some(false) {
        for field in ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|f| is(f)) {
            errors.push(FieldError::forbidden(format!("{path}.{field}"), "when `hostUsers` is false"));
        }
    }
    if !is("hostNetwork") {
        return;
    }
    for list in ["containers", "initContainers"] {
        for (c, container) in spec.list_at(&[list]).iter().enumerate() {
            for (p, port) in container.list_at(&["ports"]).iter().enumerate() {
                let (host, own) = (port.int_at(&["hostPort"]).unwrap_or(0), port.int_at(&["containerPort"]).unwrap_or(0));
                if host != 0 && host != own {
                    let at = format!("{path}.{list}[{c}].ports[{p}].containerPort");
                    errors.push(FieldError::invalid(at, own, "must match `hostPort` when `hostNetwork` is true"));
                }
            }
        }
    }
}

fn dns(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let at = format!("{path}.dnsConfig");
    let servers = spec.list_at(&["dnsConfig", "nameservers"]);
    if spec.str_at(&["dnsPolicy"]) == "None" {
        if spec.get("dnsConfig").is_none() {
            errors.push(FieldError::required(&at, "must provide `dnsConfig` when `dnsPolicy` is None"));
        } else if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(format!("{at}.nameservers"), why));
        }
    }
    if servers.len() > 3 {
        errors.push(FieldError::invalid(format!("{at}.nameservers"), servers.to_vec(), "must not have more than 3 nameservers"));
    }
    for (i, server) in servers.iter().enumerate() {
        if !is_ip(server.as_str().unwrap_or_default()) {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(format!("{at}.nameservers[{i}]"), server.clone(), why));
        }
    }
    let searches = spec.list_at(&["dnsConfig", "searches"]);
    if searches.len() > 32 {
        errors.push(FieldError::invalid(format!("{at}.searches"), searches.to_vec(), "must not have more than 32 search paths"));
    }
    for (i, search) in searches.iter().enumerate() {
        let text = search.as_str().unwrap_or_default();
        let plain = text.strip_suffix('.').unwrap_or(text).replace('_', "a");
        if text != "." && names::dns_subdomain(&plain).is_err() {
            errors.push(FieldError::invalid(format!("{at}.searches[{i}]"), text, names::DNS_SUBDOMAIN));
        }
    }
}

/// Security of the pod, and what does not go with its operating system.
fn system(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let at = format!("{path}.securityContext");
    let null = Value::Null;
    let context = spec.get("securityContext").unwrap_or(&null);
    security::ids(context, &["runAsUser", "runAsGroup", "fsGroup"], &at, errors);
    for (i, id) in context.list_at(&["supplementalGroups"]).iter().enumerate() {
        if id.as_int().is_some_and(|n| !(0..=i64::from(i32::MAX)).contains(&n)) {
            let why = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(format!("{at}.supplementalGroups[{i}]"), id.clone(), why));
        }
    }
    security::profiles(context, &at, errors);
    validate_sysctls(spec, path, errors);
    if spec.str_at(&["os", "name"]) == "linux" && context.get("windowsOptions").is_some() {
        errors.push(FieldError::forbidden(format!("{at}.windowsOptions"), "windows options cannot be set for a linux pod"));
    }
    let windows = spec.str_at(&["os", "name"]) == "windows";
    if windows {
        const LINUX: [&str; 12] = [
            "seLinuxOptions",
            "seLinuxChangePolicy",
            "seccompProfile",
            "appArmorProfile",
            "fsGroup",
            "fsGroupChangePolicy",
            "sysctls",
            "runAsUser",
            "runAsGroup",
            "supplementalGroups",
            "supplementalGroupsPolicy",
            "hostUsers",
        ];
        for field in LINUX.into_iter().filter(|f| context.get(f).is_some_and(|v| !v.is_null())) {
            errors.push(FieldError::forbidden(format!("{at}.{field}"), "cannot be set for a windows pod"));
        }
        for field in ["hostPID", "hostIPC", "shareProcessNamespace"].into_iter().filter(|f| spec.bool_at(&[f]) == Some(true)) {
            errors.push(FieldError::forbidden(format!("{path}.{field}"), "cannot be set for a windows pod"));
        }
    }
    if let Some(os) = spec.get("os").filter(|os| os.str_at(&["name"]).is_empty()) {
        let _ = os;
        errors.push(FieldError::required(format!("{path}.os.name"), "cannot be empty"));
    }
}

/// The claims of a pod for devices: each from one source.
fn claim_errors(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let claims = spec.list_at(&["resourceClaims"]);
    for (i, claim) in claims.iter().enumerate() {
        let at = format!("{path}.resourceClaims[{i}]");
        let name = claim.str_at(&["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if claims[..i].iter().any(|c| c.str_at(&["name"]) == name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), name));
        } else if let Err(why) = names::dns_label(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, why));
        }
        let sources: Vec<&str> =
            ["resourceClaimName", "resourceClaimTemplateName"].into_iter().filter(|f| claim.get(f).is_some_and(|v| !v.is_null())).collect();
        if sources.len() != 1 {
            let why = "must specify exactly one of: `resourceClaimName`, `resourceClaimTemplateName`";
            errors.push(FieldError::invalid(&at, claim.clone(), why));
        }
        for field in sources {
            if let Err(why) = names::dns_subdomain(claim.str_at(&[field])) {
                errors.push(FieldError::invalid(format!("{at}.{field}"), claim.str_at(&[field]), why));
            }
        }
    }
}

/// Requests and limits of the pod as a whole know fewer resources.
fn pod_resources(resources: &Value, claims: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    let at = format!("{path}.resources");
    containers::resources(resources, &at, claims, errors);
    for kind in ["limits", "requests"] {
        for name in resources.get(kind).and_then(Value::as_map).iter().flat_map(|m| m.keys()) {
            if !matches!(name.as_str(), "cpu" | "memory") && !name.starts_with("hugepages-") {
                let names = ["cpu", "hugepages-", "memory"];
                errors.push(FieldError::not_supported(format!("{at}.{kind}[{name}]"), name.as_str(), &names));
            }
        }
    }
    for (name, amount) in resources.get("overhead").and_then(Value::as_map).iter().flat_map(|m| m.iter()) {
        if amount.as_str().and_then(|t| t.parse::<Quantity>().ok()).is_some_and(|q| q.is_negative()) {
            errors.push(FieldError::invalid(format!("{path}.overhead[{name}]"), amount.clone(), "must be greater than or equal to 0"));
        }
    }
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
