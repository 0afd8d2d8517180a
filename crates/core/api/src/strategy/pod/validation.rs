//! What a pod must look like, and what of it may change. The rules of its parts stand beside this file.

use fram_machinery::quantity::Quantity;
use fram_machinery::status::{FieldError, Problem};
use fram_machinery::{Value, names};

use super::containers::{self, Role, enumerated, is_ip};
use super::{At, placement, security, volumes};

pub(super) fn validate(pod: &Value) -> Vec<FieldError> {
    let mut errors = validate_spec(pod.get("spec").unwrap_or(&Value::Null), "spec");
    if pod.at(&["spec", "nodeName"]).is_some() && !pod.list_at(&["spec", "schedulingGates"]).is_empty() {
        errors.push(FieldError::forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared"));
    }
    errors
}

/// A pod is not created with what is added to it later.
pub(super) fn validate_new(pod: &Value) -> Vec<FieldError> {
    let mut errors = super::resize::validate_new(pod);
    if !pod.list_at(&["spec", "ephemeralContainers"]).is_empty() {
        errors.push(FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create"));
    }
    errors
}

/// The rules of a pod spec below `path`; templates obey the same ones.
pub(crate) fn validate_spec(spec: &Value, path: &str) -> Vec<FieldError> {
    let path = format_args!("{path}");
    let mut errors = Vec::new();
    let volumes = volumes::validate(spec, path, &mut errors);
    let claims = spec.list_at(&["resourceClaims"]).iter().map(|c| c.str_at(&["name"])).collect();
    let context = containers::Pod {
        // Of several with one name the first counts.
        volumes: volumes.iter().rev().map(|v| (v.str_at(&["name"]), v)).collect(),
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

fn every_container(spec: &Value, path: At<'_>, pod: &containers::Pod<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = Vec::new();
    for (list, role) in [("containers", Role::Main), ("initContainers", Role::Init), ("ephemeralContainers", Role::Ephemeral)] {
        let others = seen.clone();
        for (i, container) in spec.list_at(&[list]).iter().enumerate() {
            let at = format_args!("{path}.{list}[{i}]");
            containers::validate(container, role, at, pod, errors);
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
    containers::host_port_conflicts(spec.list_at(&["containers"]), format_args!("{path}.containers"), errors);
}

fn numbers(spec: &Value, path: At<'_>, errors: &mut Vec<FieldError>) {
    if let Some(deadline) = spec.int_at(&["activeDeadlineSeconds"])
        && !(1..=i64::from(i32::MAX)).contains(&deadline)
    {
        errors.push(FieldError::invalid(format!("{path}.activeDeadlineSeconds"), deadline, "must be between 1 and 2147483647, inclusive"));
    }
}

fn texts(spec: &Value, path: At<'_>, errors: &mut Vec<FieldError>) {
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
    for (i, gate) in spec.list_at(&["readinessGates"]).iter().enumerate() {
        let condition = gate.str_at(&["conditionType"]);
        if let Err(why) = names::qualified_name(condition) {
            errors.push(FieldError::invalid(format!("{path}.readinessGates[{i}].conditionType"), condition, why));
        }
    }
    for (i, alias) in spec.list_at(&["hostAliases"]).iter().enumerate() {
        if !is_ip(alias.str_at(&["ip"])) {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(format!("{path}.hostAliases[{i}].ip"), alias.str_at(&["ip"]), why));
        }
        for name in alias.list_at(&["hostnames"]) {
            if let Err(why) = names::dns_subdomain(name.as_str().unwrap_or_default()) {
                errors.push(FieldError::invalid(format!("{path}.hostAliases.hostnames"), name.clone(), why));
            }
        }
    }
}

/// What shares the namespaces of the node.
fn host(spec: &Value, path: At<'_>, errors: &mut Vec<FieldError>) {
    let is = |field: &str| spec.bool_at(&[field]) == Some(true);
    if is("hostPID") && is("shareProcessNamespace") {
        // Upstream's name of the field is one of its internal form.
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(format!("{path}.securityContext.shareProcessNamespace"), true, why));
    }
    if spec.bool_at(&["hostUsers"]) == Some(false) {
        for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
            if is(field) {
                errors.push(FieldError::forbidden(format!("{path}.{shown}"), "when `hostUsers` is false"));
            }
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
                    let at = format_args!("{path}.{list}[{c}].ports[{p}].hostPort");
                    errors.push(FieldError::invalid(at, host, "must match `containerPort` when `hostNetwork` is true"));
                }
            }
        }
    }
}

fn dns(spec: &Value, path: At<'_>, errors: &mut Vec<FieldError>) {
    let at = format_args!("{path}.dnsConfig");
    let servers = spec.list_at(&["dnsConfig", "nameservers"]);
    if spec.str_at(&["dnsPolicy"]) == "None" {
        if spec.get("dnsConfig").is_none() {
            errors.push(FieldError::required(at, "must provide `dnsConfig` when `dnsPolicy` is None"));
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
    for (i, option) in spec.list_at(&["dnsConfig", "options"]).iter().enumerate() {
        if option.str_at(&["name"]).is_empty() {
            errors.push(FieldError::required(format!("{at}.options[{i}]"), "must not be empty"));
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
fn system(spec: &Value, path: At<'_>, errors: &mut Vec<FieldError>) {
    let at = format_args!("{path}.securityContext");
    let null = Value::Null;
    let context = spec.get("securityContext").unwrap_or(&null);
    security::ids(context, &["runAsUser", "runAsGroup", "fsGroup"], at, errors);
    for (i, id) in context.list_at(&["supplementalGroups"]).iter().enumerate() {
        if id.as_int().is_some_and(|n| !(0..=i64::from(i32::MAX)).contains(&n)) {
            let why = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(format!("{at}.supplementalGroups[{i}]"), id.clone(), why));
        }
    }
    security::profiles(context, at, errors);
    validate_sysctls(spec, path, errors);
    if spec.str_at(&["os", "name"]) == "linux" && context.get("windowsOptions").is_some() {
        errors.push(FieldError::forbidden(format!("{at}.windowsOptions"), "windows options cannot be set for a linux pod"));
    }
    let containers = ["containers", "initContainers", "ephemeralContainers"].into_iter().flat_map(|list| spec.list_at(&[list]));
    let own = containers.filter_map(|c| c.bool_at(&["securityContext", "windowsOptions", "hostProcess"]));
    let hosted = own.chain(context.bool_at(&["windowsOptions", "hostProcess"])).any(|h| h);
    if hosted && spec.bool_at(&["hostNetwork"]) != Some(true) {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid(format!("{path}.hostNetwork"), spec.bool_at(&["hostNetwork"]), why));
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
    match spec.get("os").map(|os| os.str_at(&["name"])) {
        Some("") => errors.push(FieldError::required(format!("{path}.os.name"), "cannot be empty")),
        Some(name) if !["linux", "windows"].contains(&name) => {
            errors.push(FieldError::not_supported(format!("{path}.os"), name, &["linux", "windows"]));
        }
        _ => {}
    }
    if let Some(name) = spec.get("hostnameOverride").and_then(Value::as_str) {
        if spec.bool_at(&["setHostnameAsFQDN"]) == Some(true) {
            errors.push(FieldError::forbidden(format!("{path}.hostnameOverride"), "may not be specified when setHostnameAsFQDN is true"));
        }
        if spec.bool_at(&["hostNetwork"]) == Some(true) {
            errors.push(FieldError::forbidden(format!("{path}.hostnameOverride"), "may not be specified when hostNetwork is true"));
        }
        if name.len() > 64 {
            errors.push(FieldError::too_long(format!("{path}.hostnameOverride"), 64));
        }
        if let Err(why) = names::dns_subdomain(name) {
            errors.push(FieldError::invalid(format!("{path}.hostnameOverride"), name, why));
        }
    }
}

/// The claims of a pod for devices: each from one source.
fn claim_errors(spec: &Value, path: At<'_>, errors: &mut Vec<FieldError>) {
    let claims = spec.list_at(&["resourceClaims"]);
    for (i, claim) in claims.iter().enumerate() {
        let at = format_args!("{path}.resourceClaims[{i}]");
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
            errors.push(FieldError::invalid(at, claim.clone(), why));
        }
        for field in sources {
            if let Err(why) = names::dns_subdomain(claim.str_at(&[field])) {
                errors.push(FieldError::invalid(format!("{at}.{field}"), claim.str_at(&[field]), why));
            }
        }
    }
}

/// Requests and limits of the pod as a whole know fewer resources.
fn pod_resources(resources: &Value, claims: &[&str], path: At<'_>, errors: &mut Vec<FieldError>) {
    let at = format_args!("{path}.resources");
    containers::resources(resources, at, claims, errors);
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

/// What a status may say, and what of it does not change.
pub(super) fn validate_status(pod: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let status = |field: &str| pod.str_at(&["status", field]);
    let nominated = status("nominatedNodeName");
    if !nominated.is_empty()
        && let Err(why) = names::dns_subdomain(nominated)
    {
        errors.push(FieldError::invalid("status.nominatedNodeName", nominated, why));
    }
    for (i, condition) in pod.list_at(&["status", "conditions"]).iter().enumerate() {
        let ty = condition.str_at(&["type"]);
        if let Err(why) = names::qualified_name(ty) {
            // Upstream writes the field with a capital.
            errors.push(FieldError::invalid(format!("status.conditions[{i}].Type"), ty, why));
        }
    }
    let before = old.str_at(&["status", "qosClass"]);
    if status("qosClass") != before && !before.is_empty() {
        errors.push(FieldError::invalid("status.qosClass", status("qosClass"), "field is immutable"));
    }
    address_errors(pod.list_at(&["status", "podIPs"]), "", format_args!("status.podIPs"), &mut errors);
    address_errors(pod.list_at(&["status", "hostIPs"]), ".ip", format_args!("status.hostIPs"), &mut errors);
    let (first, host) = (pod.list_at(&["status", "hostIPs"]).first().map(|h| h.str_at(&["ip"])), status("hostIP"));
    if first.is_some_and(|first| first != host) {
        errors.push(FieldError::invalid("status.hostIPs[0].ip", first.unwrap_or_default(), "must be equal to `hostIP`"));
    }
    errors
}

/// At most one address of each family; `suffix` is how upstream goes on from the element to the address.
fn address_errors(list: &[Value], suffix: &str, at: At<'_>, errors: &mut Vec<FieldError>) {
    let parsed: Vec<Option<std::net::IpAddr>> = list.iter().map(|e| e.str_at(&["ip"]).parse().ok()).collect();
    for (i, (entry, _)) in list.iter().zip(&parsed).enumerate().filter(|(_, (_, ip))| ip.is_none()) {
        let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(FieldError::invalid(format!("{at}[{i}]{suffix}"), entry.str_at(&["ip"]), why));
        if !suffix.is_empty() {
            errors.push(FieldError::invalid(format!("{at}[{i}]"), entry.str_at(&["ip"]), why));
        }
    }
    let families = |v4: bool| parsed.iter().flatten().filter(|ip| ip.is_ipv4() == v4).count();
    if families(true) > 1 || families(false) > 1 {
        errors.push(FieldError::invalid(at, list.to_vec(), "may specify no more than one IP for each IP family"));
    }
}

/// Names of kernel parameters: segments of letters, digits, `-`, `_`, joined by dots or slashes.
fn validate_sysctls(spec: &Value, path: At<'_>, errors: &mut Vec<FieldError>) {
    const WHY: &str =
        "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    let mut seen = Vec::new();
    for (i, sysctl) in spec.list_at(&["securityContext", "sysctls"]).iter().enumerate() {
        let name = sysctl.str_at(&["name"]);
        let at = format_args!("{path}.securityContext.sysctls[{i}].name");
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
        let dotted = name.replace('/', ".");
        let host = |field: &str| spec.bool_at(&[field]) == Some(true);
        let shared = (host("hostNetwork") && dotted.starts_with("net."))
            || (host("hostIPC") && ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|p| dotted.starts_with(p)));
        if shared {
            errors.push(FieldError::invalid(at, name, "may not be specified when the namespace is the host's"));
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
    let untimed = |t: &Value| {
        let mut t = t.clone();
        t.remove(&["tolerationSeconds"]);
        t
    };
    if kept.iter().any(|t| !tolerations.iter().any(|n| untimed(n) == untimed(t))) {
        errors.push(FieldError::forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds"));
    }
    if let (Some(old), new) = (old.int_at(&["spec", "activeDeadlineSeconds"]), pod.int_at(&["spec", "activeDeadlineSeconds"]))
        && new.is_none_or(|new| new > old)
    {
        let why = "must be less than or equal to previous value";
        errors.push(FieldError::invalid("spec.activeDeadlineSeconds", Value::from(new), why));
    }
    let gates = old.list_at(&["spec", "schedulingGates"]);
    for (i, gate) in pod.list_at(&["spec", "schedulingGates"]).iter().enumerate().filter(|(_, gate)| !gates.contains(gate)) {
        let why = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.str_at(&["name"]));
        errors.push(FieldError::forbidden(format!("spec.schedulingGates[{i}].name"), &why));
    }
    let gated = !gates.is_empty();
    if gated {
        narrowing_errors(pod, old, &mut errors);
    }
    if frozen(pod, gated) != frozen(old, gated) {
        errors.push(FieldError::forbidden("spec", WHY));
    }
    errors
}

/// A pod that waits at a gate may be placed more narrowly, never more widely.
fn narrowing_errors(pod: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let map = |pod: &Value| pod.at(&["spec", "nodeSelector"]).and_then(Value::as_map).cloned().unwrap_or_default();
    let (selector, before) = (map(pod), map(old));
    if before.iter().any(|(k, v)| selector.get(k) != Some(v)) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid("spec.nodeSelector", pod.at(&["spec", "nodeSelector"]).cloned(), why));
    }
    const TERMS: [&str; 5] = ["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let (terms, before) = (pod.list_at(&TERMS), old.list_at(&TERMS));
    if before.is_empty() {
        return;
    }
    let at = TERMS.join(".");
    if terms.len() != before.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return errors.push(FieldError::invalid(at, terms.to_vec(), why));
    }
    for (i, (term, before)) in terms.iter().zip(before).enumerate() {
        let extends = |field: &str| {
            let (now, then) = (term.list_at(&[field]), before.list_at(&[field]));
            now.len() >= then.len() && now[..then.len()] == *then
        };
        if !extends("matchExpressions") || !extends("matchFields") {
            let why = "only additions are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(format!("{at}[{i}]"), term.clone(), why));
        }
    }
}

/// A pod's spec without what may change; of one that waits at a gate that is more.
fn frozen(pod: &Value, gated: bool) -> Value {
    let mut spec = pod.get("spec").cloned().unwrap_or_default();
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        spec.remove(&[field]);
    }
    if spec.int_at(&["terminationGracePeriodSeconds"]) == Some(1) {
        spec.set(&["terminationGracePeriodSeconds"], -1);
    }
    if gated {
        spec.remove(&["nodeSelector"]);
        spec.remove(&["affinity", "nodeAffinity"]);
        if spec.get("affinity").is_some_and(Value::is_empty) {
            spec.remove(&["affinity"]);
        }
    }
    for list in ["containers", "initContainers"] {
        if !spec.list_at(&[list]).is_empty() {
            spec.place(&[list]).make_list().make_mut().iter_mut().for_each(|c| drop(c.remove(&["image"])));
        }
    }
    spec
}
