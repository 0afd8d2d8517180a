//! The rules of containers: ports, environment, mounts, probes, handlers, resources, security.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use fram_machinery::quantity::Quantity;
use fram_machinery::status::{FieldError, Problem};
use fram_machinery::{Value, names};

use super::At;
use super::volumes::{backsteps, field_errors, local_path_errors, resource_field_errors};

/// What containers have to know of their pod.
pub(super) struct Pod<'a> {
    pub(super) volumes: HashMap<&'a str, &'a Value>,
    /// The names of its resource claims.
    pub(super) claims: Vec<&'a str>,
    pub(super) restart_policy: &'a str,
    /// The seconds that its containers have to end.
    pub(super) grace: i64,
    pub(super) host_users: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Main,
    Init,
    Ephemeral,
}

pub(super) fn validate(container: &Value, role: Role, at: At<'_>, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
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
    ports(container, at, errors);
    environment(container, at, pod, errors);
    mounts(container, at, pod, errors);
    devices(container, at, pod, errors);
    resources(container.get("resources").unwrap_or(&Value::Null), format_args!("{at}.resources"), &pod.claims, errors);
    resize_policies(container, at, pod.restart_policy, errors);
    if let Some(context) = container.get("securityContext") {
        super::security::container(context, format_args!("{at}.securityContext"), pod.host_users, errors);
    }
    restarts(container, role, at, errors);
    let watched = match role {
        Role::Main => true,
        Role::Init => container.str_at(&["restartPolicy"]) == "Always",
        Role::Ephemeral => false,
    };
    if watched {
        lifecycle(container, at, pod.grace, errors);
        probes(container, at, errors);
        return;
    }
    let forbidden: &[&str] = match role {
        Role::Ephemeral => &["lifecycle", "livenessProbe", "readinessProbe", "startupProbe", "ports", "resources", "resizePolicy"],
        _ => &["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"],
    };
    for field in forbidden {
        let why = match role {
            Role::Ephemeral => "cannot be set for an Ephemeral Container",
            _ => "may not be set for init containers without restartPolicy=Always",
        };
        if container.get(field).is_some_and(|v| !v.is_empty()) {
            errors.push(FieldError::forbidden(format!("{at}.{field}"), why));
        }
    }
}

/// A text that has to be one of these.
pub(super) fn enumerated(value: &Value, path: At<'_>, field: &str, allowed: &[&str], errors: &mut Vec<FieldError>) {
    match value.str_at(&[field]) {
        "" => errors.push(FieldError::required(format!("{path}.{field}"), "")),
        text if allowed.contains(&text) => {}
        text => errors.push(FieldError::not_supported(format!("{path}.{field}"), text, allowed)),
    }
}

/// Containers other than the init containers that stay may not say when they restart, unless the policies allow it.
fn restarts(container: &Value, role: Role, at: At<'_>, errors: &mut Vec<FieldError>) {
    let Some(policy) = container.get("restartPolicy").and_then(Value::as_str) else {
        if !container.list_at(&["restartPolicyRules"]).is_empty() {
            errors.push(FieldError::required(format!("{at}.restartPolicy"), "must specify restartPolicy when restart rules are used"));
        }
        return;
    };
    if role == Role::Ephemeral {
        errors.push(FieldError::forbidden(format!("{at}.restartPolicy"), "cannot be set for an Ephemeral Container"));
    } else if policy.is_empty() {
        errors.push(FieldError::not_supported(format!("{at}.restartPolicy"), "", &["Always", "Never", "OnFailure"]));
    }
}

fn ports(container: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    let mut seen: HashSet<&str> = HashSet::new();
    for (i, port) in container.list_at(&["ports"]).iter().enumerate() {
        let at = format_args!("{at}.ports[{i}]");
        let name = port.str_at(&["name"]);
        if !name.is_empty() {
            if let Err(why) = names::port_name(name) {
                errors.push(FieldError::invalid(format!("{at}.name"), name, why));
            } else if seen.contains(&name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), name));
            }
            seen.insert(name);
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
        enumerated(port, at, "protocol", &["TCP", "UDP", "SCTP"], errors);
    }
}

/// Two ports of containers that run beside each other cannot be the same port of the host.
pub(super) fn host_port_conflicts(containers: &[Value], path: At<'_>, errors: &mut Vec<FieldError>) {
    let mut taken: HashSet<(i64, &str, &str)> = HashSet::new();
    for (c, container) in containers.iter().enumerate() {
        for (p, port) in container.list_at(&["ports"]).iter().enumerate() {
            let host = port.int_at(&["hostPort"]).unwrap_or(0);
            let key = (host, port.str_at(&["protocol"]), port.str_at(&["hostIP"]));
            if host != 0 && taken.contains(&key) {
                errors.push(FieldError::duplicate(format!("{path}[{c}].ports[{p}].hostPort"), format!("{}//{}", key.1, host)));
            }
            taken.insert(key);
        }
    }
}

const NOT_A_VARIABLE: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";

fn is_variable(name: &str) -> bool {
    name.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b'=')
}

/// A key in a file that another container writes into a volume that is the pod's alone.
fn file_key_errors(reference: &Value, at: At<'_>, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let [key, volume, path] = ["key", "volumeName", "path"].map(|field| reference.str_at(&[field]));
    for (field, value) in [("key", key), ("volumeName", volume), ("path", path)] {
        if value.is_empty() {
            errors.push(FieldError::required(format!("{at}.{field}"), ""));
        }
    }
    if !is_variable(key) {
        errors.push(FieldError::invalid(format!("{at}.key"), key, NOT_A_VARIABLE));
    }
    backsteps(path, format_args!("{at}.path"), errors);
    match pod.volumes.get(volume) {
        None => errors.push(FieldError { field: format!("{at}.volumeName"), problem: Problem::NotFound(volume.into()) }),
        Some(of) if of.get("emptyDir").is_none() => {
            errors.push(FieldError::invalid(format!("{at}.volumeName"), volume, "referenced volume must be of type emptyDir"));
        }
        Some(_) => {}
    }
}

fn environment(container: &Value, at: At<'_>, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    for (i, env) in container.list_at(&["env"]).iter().enumerate() {
        let name = env.str_at(&["name"]);
        let at = format_args!("{at}.env[{i}]");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if !is_variable(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, NOT_A_VARIABLE));
        }
        if let Some(source) = env.get("valueFrom") {
            env_source(env, source, format_args!("{at}.valueFrom"), errors);
            if let Some(reference) = source.get("fileKeyRef") {
                file_key_errors(reference, format_args!("{at}.valueFrom.fileKeyRef"), pod, errors);
            }
        }
    }
    for (i, from) in container.list_at(&["envFrom"]).iter().enumerate() {
        let at = format_args!("{at}.envFrom");
        let prefix = from.str_at(&["prefix"]);
        if prefix.contains('=') {
            errors.push(FieldError::invalid(format!("{at}[{i}].prefix"), prefix, "must not contain '='"));
        }
        let sources = ["configMapRef", "secretRef"].into_iter().filter_map(|f| Some((f, from.get(f)?)));
        let sources: Vec<(&str, &Value)> = sources.collect();
        if sources.len() != 1 {
            errors.push(FieldError::invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"));
        }
        for (field, source) in sources {
            let name = source.str_at(&["name"]);
            let at = format_args!("{at}[{i}].{field}.name");
            if name.is_empty() {
                errors.push(FieldError::required(at, ""));
            } else if let Err(why) = names::dns_subdomain(name) {
                errors.push(FieldError::invalid(at, name, why));
            }
        }
    }
}

/// What the value of a variable may be taken from in the pod itself.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const ENV_RESOURCES: [&str; 6] =
    ["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];

fn env_source(env: &Value, source: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    let sources = source.as_map().map_or(0, |m| m.len());
    if sources == 0 {
        errors.push(FieldError::invalid(
            at,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ));
    } else if !env.str_at(&["value"]).is_empty() {
        errors.push(FieldError::invalid(at, "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(FieldError::invalid(at, "", "may not have more than one field specified at a time"));
    }
    if let Some(reference) = source.get("fieldRef") {
        field_errors(reference, &ENV_FIELDS, format_args!("{at}.fieldRef"), errors);
    }
    if let Some(reference) = source.get("resourceFieldRef") {
        resource_field_errors(reference, &ENV_RESOURCES, false, format_args!("{at}.resourceFieldRef"), errors);
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        let Some(reference) = source.get(field) else { continue };
        let name = reference.str_at(&["name"]);
        if let Err(why) = names::dns_subdomain(name) {
            errors.push(FieldError::invalid(format!("{at}.{field}.name"), name, why));
        }
        let key = reference.str_at(&["key"]);
        if key.is_empty() {
            errors.push(FieldError::required(format!("{at}.{field}.key"), ""));
        } else if let Err(why) = names::config_key(key) {
            errors.push(FieldError::invalid(format!("{at}.{field}.key"), key, why));
        }
    }
}

fn mounts(container: &Value, at: At<'_>, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let list = format_args!("{at}.volumeMounts");
    let of_devices = |field| container.list_at(&["volumeDevices"]).iter().map(|d| d.str_at(&[field])).collect::<HashSet<_>>();
    let (device_names, device_paths) = (of_devices("name"), of_devices("devicePath"));
    let mut paths: HashSet<&str> = HashSet::new();
    for (i, mount) in container.list_at(&["volumeMounts"]).iter().enumerate() {
        let at = format_args!("{list}[{i}]");
        let (name, path) = (mount.str_at(&["name"]), mount.str_at(&["mountPath"]));
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        }
        if !pod.volumes.contains_key(name) {
            errors.push(FieldError { field: format!("{at}.name"), problem: Problem::NotFound(name.into()) });
        }
        if path.is_empty() {
            errors.push(FieldError::required(format!("{at}.mountPath"), ""));
        }
        if paths.contains(&path) {
            errors.push(FieldError::invalid(format!("{at}.mountPath"), path, "must be unique"));
        }
        paths.insert(path);
        if device_names.contains(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, "must not already exist in volumeDevices"));
        }
        if device_paths.contains(path) {
            errors.push(FieldError::invalid(format!("{at}.mountPath"), path, "must not already exist as a path in volumeDevices"));
        }
        // Upstream names these fields without the number of the mount.
        for field in ["subPath", "subPathExpr"] {
            local_path_errors(mount.str_at(&[field]), format_args!("{list}.{field}"), errors);
        }
        let both = !mount.str_at(&["subPath"]).is_empty() && !mount.str_at(&["subPathExpr"]).is_empty();
        if both {
            let why = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(format!("{at}.subPathExpr"), mount.str_at(&["subPathExpr"]), why));
        }
        propagation(container, mount, list, errors);
    }
}

fn propagation(container: &Value, mount: &Value, list: At<'_>, errors: &mut Vec<FieldError>) {
    const KINDS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
    let privileged = container.bool_at(&["securityContext", "privileged"]) == Some(true);
    let propagation = mount.get("mountPropagation").and_then(Value::as_str);
    match propagation {
        Some("Bidirectional") if !privileged => {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(FieldError::forbidden(format!("{list}.mountPropagation"), why));
        }
        Some(text) if !KINDS.contains(&text) => errors.push(FieldError::not_supported(format!("{list}.mountPropagation"), text, &KINDS)),
        _ => {}
    }
    let at = format_args!("{list}.recursiveReadOnly");
    match mount.get("recursiveReadOnly").and_then(Value::as_str) {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.bool_at(&["readOnly"]) != Some(true) {
                errors.push(FieldError::forbidden(at, "may only be specified when readOnly is true"));
            }
            if propagation.is_some_and(|p| p != "None") {
                errors.push(FieldError::forbidden(at, "may only be specified when mountPropagation is None or not specified"));
            }
        }
        Some(text) => errors.push(FieldError::not_supported(at, text, &["Disabled", "Enabled", "IfPossible"])),
    }
}

fn devices(container: &Value, at: At<'_>, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let mounted: HashSet<&str> = container.list_at(&["volumeMounts"]).iter().map(|m| m.str_at(&["name"])).collect();
    let (mut names, mut paths): (HashSet<&str>, HashSet<&str>) = Default::default();
    for (i, device) in container.list_at(&["volumeDevices"]).iter().enumerate() {
        let at = format_args!("{at}.volumeDevices[{i}]");
        let (name, path) = (device.str_at(&["name"]), device.str_at(&["devicePath"]));
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        }
        if names.contains(&name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, "must be unique"));
        }
        match pod.volumes.get(name) {
            None => errors.push(FieldError { field: format!("{at}.name"), problem: Problem::NotFound(name.into()) }),
            Some(volume) if volume.get("persistentVolumeClaim").is_none() && volume.get("ephemeral").is_none() => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(FieldError::invalid(format!("{at}.name"), name, why));
            }
            Some(_) => {}
        }
        if path.is_empty() {
            errors.push(FieldError::required(format!("{at}.devicePath"), ""));
        } else if paths.contains(&path) {
            errors.push(FieldError::invalid(format!("{at}.devicePath"), path, "must be unique"));
        } else if path.split('/').any(|s| s == "..") {
            errors.push(FieldError::invalid(format!("{at}.devicePath"), path, "can not contain backsteps ('..')"));
        }
        if mounted.contains(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, "must not already exist in volumeMounts"));
        }
        names.insert(name);
        paths.insert(path);
    }
}

/// Requests and limits; also those of a whole pod and of claims in it.
pub(super) fn resources(resources: &Value, at: At<'_>, claims: &[&str], errors: &mut Vec<FieldError>) {
    let map = |kind: &str| resources.get(kind).and_then(Value::as_map).cloned().unwrap_or_default();
    let (limits, requests) = (map("limits"), map("requests"));
    let amount = |v: Option<&Value>| v.and_then(Value::as_str)?.parse::<Quantity>().ok();
    for (kind, list) in [("limits", &limits), ("requests", &requests)] {
        for (name, value) in list.iter() {
            let field = format!("{at}.{kind}[{name}]");
            resource_name(name, &field, errors);
            let Some(quantity) = amount(Some(value)) else { continue };
            let whole = name.contains('/') || name.starts_with("hugepages-");
            if quantity.is_negative() {
                errors.push(FieldError::invalid(&field, value.clone(), "must be greater than or equal to 0"));
            } else if name.contains('/') && quantity.milli_value() % 1000 != 0 {
                errors.push(FieldError::invalid(&field, value.clone(), "must be an integer"));
            }
            if let Some(size) = name.strip_prefix("hugepages-").and_then(|s| s.parse::<Quantity>().ok())
                && size.value() > 0
                && quantity.value() % size.value() != 0
            {
                errors.push(FieldError::invalid(&field, value.clone(), format!("must be a multiple of {size}")));
            }
            if kind == "requests" {
                let limit = amount(limits.get(name));
                let text = || limits.get(name).and_then(Value::as_str).unwrap_or_default();
                match limit {
                    Some(limit) if whole && limit != quantity => {
                        let why = format!("must be equal to {name} limit of {}", text());
                        errors.push(FieldError::invalid(format!("{at}.requests"), value.clone(), why));
                    }
                    Some(limit) if quantity > limit => {
                        let why = format!("must be less than or equal to {name} limit of {}", text());
                        errors.push(FieldError::invalid(format!("{at}.requests"), value.clone(), why));
                    }
                    None if whole => {
                        errors.push(FieldError::required(format!("{at}.limits"), "Limit must be set for non overcommitable resources"))
                    }
                    _ => {}
                }
            }
        }
    }
    for (i, claim) in resources.list_at(&["claims"]).iter().enumerate() {
        let name = claim.str_at(&["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.claims[{i}]"), ""));
        } else if !claims.contains(&name) {
            errors.push(FieldError { field: format!("{at}.claims[{i}]"), problem: Problem::NotFound(name.into()) });
        }
    }
}

fn resource_name(name: &str, field: &str, errors: &mut Vec<FieldError>) {
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if let Err(why) = names::qualified_name(name) {
        errors.push(FieldError::invalid(field, name, why));
    } else if !standard && !name.contains('/') {
        errors.push(FieldError::invalid(field, name, "must be a standard resource type or fully qualified"));
    } else if name.starts_with("requests.") {
        errors.push(FieldError::invalid(field, name, "doesn't follow extended resource name standard"));
    }
}

fn resize_policies(container: &Value, at: At<'_>, restart_policy: &str, errors: &mut Vec<FieldError>) {
    // Upstream names the list, not the element.
    let list = format_args!("{at}.resizePolicy");
    let mut seen = HashSet::new();
    for (i, policy) in container.list_at(&["resizePolicy"]).iter().enumerate() {
        let resource = policy.str_at(&["resourceName"]);
        if seen.contains(&resource) {
            errors.push(FieldError::duplicate(format!("{list}[{i}]"), resource));
        }
        seen.insert(resource);
        let restart = policy.str_at(&["restartPolicy"]);
        for (text, known) in [(resource, ["cpu", "memory"]), (restart, ["NotRequired", "RestartContainer"])] {
            match text {
                "" => errors.push(FieldError::required(list, "")),
                text if !known.contains(&text) => errors.push(FieldError::not_supported(list, text, &known)),
                _ => {}
            }
        }
        if restart_policy == "Never" && restart != "NotRequired" {
            let why = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(list, restart, why));
        }
    }
}

fn lifecycle(container: &Value, at: At<'_>, grace: i64, errors: &mut Vec<FieldError>) {
    for field in ["postStart", "preStop"] {
        if let Some(found) = container.at(&["lifecycle", field]) {
            handler(found, format_args!("{at}.lifecycle.{field}"), grace, errors);
        }
    }
}

fn probes(container: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get(field) else { continue };
        let at = format_args!("{at}.{field}");
        handler(probe, at, 0, errors);
        if field == "readinessProbe" {
            if let Some(grace) = probe.int_at(&["terminationGracePeriodSeconds"]) {
                let why = "must not be set for readinessProbes";
                errors.push(FieldError::invalid(format!("{at}.terminationGracePeriodSeconds"), grace, why));
            }
        } else if let Some(n) = probe.int_at(&["successThreshold"]).filter(|n| *n != 1) {
            errors.push(FieldError::invalid(format!("{at}.successThreshold"), n, "must be 1"));
        }
    }
}

/// One way to reach into the container, and no more than one.
fn handler(handler: &Value, at: At<'_>, grace: i64, errors: &mut Vec<FieldError>) {
    let mut found = 0;
    for field in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let Some(action) = handler.get(field) else { continue };
        found += 1;
        let at = format_args!("{at}.{field}");
        if found > 1 {
            errors.push(FieldError::forbidden(at, "may not specify more than 1 handler type"));
            continue;
        }
        match field {
            "httpGet" => {
                port_or_name(action.get("port"), format_args!("{at}.port"), errors);
                for header in action.list_at(&["httpHeaders"]) {
                    let name = header.str_at(&["name"]);
                    if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_')) {
                        let why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
                        errors.push(FieldError::invalid(format!("{at}.httpHeaders"), name, why));
                    }
                }
            }
            "tcpSocket" | "grpc" => port_or_name(action.get("port"), format_args!("{at}.port"), errors),
            "sleep" => {
                let seconds = action.int_at(&["seconds"]).unwrap_or(0);
                if seconds < 0 || seconds > grace {
                    let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    errors.push(FieldError::invalid(at, seconds, why));
                }
            }
            _ => {}
        }
    }
    if found == 0 {
        errors.push(FieldError::required(at, "must specify a handler type"));
    }
}

/// A number of a port, or the name of one.
pub(crate) fn port_or_name(port: Option<&Value>, at: At<'_>, errors: &mut Vec<FieldError>) {
    let why = match port {
        Some(Value::String(name)) => names::port_name(name).err(),
        Some(Value::Int(number)) => names::port_number(*number).err(),
        _ => Some("must be between 1 and 65535, inclusive"),
    };
    errors.extend(why.map(|why| FieldError::invalid(at, port.cloned(), why)));
}

/// Whether a text is an address in the form that is stored everywhere.
pub(super) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn a_key_of_a_file_is_a_variable_s_name_in_a_volume_that_is_the_pod_s_alone() {
        let (own, secret) = (object!({ "emptyDir": {} }), object!({ "secret": {} }));
        let pod = Pod {
            volumes: HashMap::from([("own", &own), ("secret", &secret)]),
            claims: Vec::new(),
            restart_policy: "Never",
            grace: 30,
            host_users: true,
        };
        for (volume, path, key, fields) in [
            ("own", "a/b", "KEY", &[][..]),
            ("secret", "a", "KEY", &["x.volumeName"]),
            ("missing", "a", "KEY", &["x.volumeName"]),
            ("own", "../a", "A=B", &["x.key", "x.path"]),
            ("own", "", "", &["x.key", "x.path"]),
        ] {
            let mut errors = Vec::new();
            let reference = object!({ "volumeName": volume, "path": path, "key": key });
            file_key_errors(&reference, format_args!("x"), &pod, &mut errors);
            let found: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
            assert_eq!(found, fields, "{volume} {path} {key}");
        }
    }
}
