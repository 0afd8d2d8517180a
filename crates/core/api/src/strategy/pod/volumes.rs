//! The rules of a pod's volumes.

use fram_machinery::quantity::Quantity;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

use crate::strategy::certificates::projections;
use crate::strategy::claims::claim_spec_errors;
use crate::strategy::pod::At;

/// Checks the volumes of a pod spec; returns those that are as they should be, which containers can mount.
pub(super) fn validate(spec: &Value, path: At<'_>, errors: &mut Vec<FieldError>) -> Vec<Value> {
    let mut seen: Vec<&str> = Vec::new();
    let mut sound = Vec::new();
    for (i, volume) in spec.list_at(&["volumes"]).iter().enumerate() {
        let at = format_args!("{path}.volumes[{i}]");
        let before = errors.len();
        sources(volume, at, errors);
        let name = volume.str_at(&["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if let Err(why) = names::dns_label(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, why));
        } else if seen.contains(&name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), name));
        }
        seen.push(name);
        if errors.len() == before {
            sound.push(volume.clone());
        }
    }
    sound
}

/// What a source cannot be without.
const REQUIRED: [(&str, &[&str]); 20] = [
    ("hostPath", &["path"]),
    ("gitRepo", &["repository"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("secret", &["secretName"]),
    ("nfs", &["server"]),
    ("iscsi", &["targetPortal"]),
    ("glusterfs", &["endpoints", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("rbd", &["monitors", "image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("quobyte", &["registry", "volume"]),
];

/// One source and no more. What descriptions say about the fields of the sources is checked with all other fields.
fn sources(volume: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    let present = volume.as_map().into_iter().flat_map(|m| m.iter()).filter(|(key, _)| key.as_str() != "name");
    let (mut count, whole) = (0, at);
    for (kind, source) in in_upstream_order(present.map(|(k, v)| (k.as_str(), v)).collect()) {
        count += 1;
        let at = format_args!("{at}.{kind}");
        if count > 1 {
            errors.push(FieldError::forbidden(at, "may not specify more than 1 volume type"));
            continue;
        }
        for field in REQUIRED.iter().filter(|(k, _)| *k == kind).flat_map(|(_, fields)| fields.iter()) {
            if source.get(field).is_none_or(|v| v.is_empty() || v.as_str() == Some("")) {
                errors.push(FieldError::required(format!("{at}.{field}"), ""));
            }
        }
        match kind {
            "emptyDir" => {
                let size = source.str_at(&["sizeLimit"]).parse::<Quantity>().ok();
                if size.is_some_and(|s| s.is_negative()) {
                    errors.push(FieldError::forbidden(format!("{at}.sizeLimit"), "SizeLimit field must be a valid resource quantity"));
                }
            }
            "hostPath" => backsteps(source.str_at(&["path"]), format_args!("{at}.path"), errors),
            "nfs" => absolute(source.str_at(&["path"]), format_args!("{at}.path"), errors),
            "gitRepo" => local_path_errors(source.str_at(&["directory"]), format_args!("{at}.directory"), errors),
            "gcePersistentDisk" => {
                if let Some(n) = source.int_at(&["partition"]).filter(|n| !(0..=255).contains(n)) {
                    let at = at.to_string().replace("gcePersistentDisk", "persistentDisk.partition");
                    errors.push(FieldError::invalid(at, n, "must be between 0 and 255, inclusive"));
                }
            }
            "secret" | "configMap" => named(source, kind, at, errors),
            "downwardAPI" => downward(source, at, errors),
            "projected" => projected(source, at, errors),
            "iscsi" => {
                iscsi(source, at, errors);
                iscsi_name(volume, source, whole, errors);
            }
            "fc" => fibre_channel(source, at, errors),
            "csi" => csi(source, at, errors),
            "azureDisk" => azure_disk(source, at, errors),
            "image" if source.str_at(&["reference"]).is_empty() => errors.push(FieldError::required(format!("{at}.reference"), "")),
            "ephemeral" => ephemeral(source, at, errors),
            _ => {}
        }
    }
    if count == 0 {
        errors.push(FieldError::required(at, "must specify a volume type"));
    }
}

/// The first source is the one that is meant; upstream looks at them in this order.
fn in_upstream_order<'a>(mut present: Vec<(&'a str, &'a Value)>) -> Vec<(&'a str, &'a Value)> {
    const FIRST: [&str; 5] = ["emptyDir", "hostPath", "gitRepo", "gcePersistentDisk", "awsElasticBlockStore"];
    present.sort_by_key(|(kind, _)| FIRST.iter().position(|f| f == kind).unwrap_or(FIRST.len()));
    present
}

fn named(source: &Value, kind: &str, at: At<'_>, errors: &mut Vec<FieldError>) {
    if kind == "configMap" && source.str_at(&["name"]).is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    }
    for (i, item) in source.list_at(&["items"]).iter().enumerate() {
        local_path_errors(item.str_at(&["path"]), format_args!("{at}.items[{i}].path"), errors);
    }
}

pub(crate) fn backsteps(path: &str, at: At<'_>, errors: &mut Vec<FieldError>) {
    if path.split('/').any(|s| s == "..") {
        errors.push(FieldError::invalid(at, path, "must not contain '..'"));
    }
}

pub(crate) fn absolute(path: &str, at: At<'_>, errors: &mut Vec<FieldError>) {
    if path.is_empty() {
        errors.push(FieldError::required(at, ""));
    }
    if !path.starts_with('/') {
        errors.push(FieldError::invalid(at, path, "must be an absolute path"));
    }
}

/// A path below something: relative, and never upward.
pub(super) fn local_path_errors(path: &str, at: At<'_>, errors: &mut Vec<FieldError>) {
    if path.starts_with('/') {
        errors.push(FieldError::invalid(at, path, "must be a relative path"));
    }
    backsteps(path, at, errors);
}

fn is_subscript(path: &str) -> Option<(&str, &str)> {
    let (base, rest) = path.split_once("['")?;
    Some((base, rest.strip_suffix("']")?))
}

/// A reference to a field of the pod itself.
pub(super) fn field_errors(reference: &Value, allowed: &[&str], at: At<'_>, errors: &mut Vec<FieldError>) {
    let (version, path) = (reference.str_at(&["apiVersion"]), reference.str_at(&["fieldPath"]));
    let field = format!("{at}.fieldPath");
    if version.is_empty() {
        return errors.push(FieldError::required(format!("{at}.apiVersion"), ""));
    }
    if path.is_empty() {
        return errors.push(FieldError::required(field, ""));
    }
    let known = matches!(
        path,
        "metadata.labels"
            | "metadata.annotations"
            | "metadata.name"
            | "metadata.namespace"
            | "metadata.uid"
            | "spec.nodeName"
            | "spec.restartPolicy"
            | "spec.serviceAccountName"
            | "spec.schedulerName"
            | "status.phase"
            | "status.hostIP"
            | "status.hostIPs"
            | "status.podIP"
            | "status.podIPs"
    );
    match is_subscript(path) {
        Some(("metadata.labels" | "metadata.annotations", key)) if version == "v1" => {
            if let Err(why) = names::qualified_name(&key.to_lowercase()) {
                errors.push(FieldError::invalid(at, key, why));
            }
        }
        None if version == "v1" && known => {
            if !allowed.contains(&path) {
                errors.push(FieldError::not_supported(field, path, allowed));
            }
        }
        _ => errors.push(FieldError::invalid(field, path, format!("error converting fieldPath: field label not supported: {path}"))),
    }
}

/// A reference to a resource of a container; files have to say of which one.
pub(super) fn resource_field_errors(reference: &Value, allowed: &[&str], in_file: bool, at: At<'_>, errors: &mut Vec<FieldError>) {
    let resource = reference.str_at(&["resource"]);
    if in_file && reference.str_at(&["containerName"]).is_empty() {
        errors.push(FieldError::required(format!("{at}.containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(format!("{at}.resource"), ""));
    } else if !allowed.contains(&resource) && !resource.contains(".hugepages-") {
        errors.push(FieldError::not_supported(format!("{at}.resource"), resource, allowed));
    }
    let Some(divisor) = reference.get("divisor").and_then(Value::as_str) else { return };
    let units: &[&str] = match resource.split_once('.').map(|(_, r)| r) {
        Some("cpu") => &["1m", "1"],
        Some("memory" | "ephemeral-storage") => &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"],
        _ => return,
    };
    if divisor != "0" && !units.contains(&divisor) {
        errors.push(FieldError::invalid(format!("{at}.divisor"), divisor, "only divisor's values of the resource's units are supported"));
    }
}

const FILE_FIELDS: [&str; 5] = ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const FILE_RESOURCES: [&str; 6] =
    ["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];

/// Upstream names what is below the list without the number of the item.
fn downward(source: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    for item in source.list_at(&["items"]) {
        let path = item.str_at(&["path"]);
        if path.is_empty() {
            errors.push(FieldError::required(format!("{at}.path"), ""));
        }
        local_path_errors(path, format_args!("{at}.path"), errors);
        match (item.get("fieldRef"), item.get("resourceFieldRef")) {
            (Some(_), Some(_)) => {
                errors.push(FieldError::invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
            }
            (Some(reference), None) => field_errors(reference, &FILE_FIELDS, format_args!("{at}.fieldRef"), errors),
            (None, Some(reference)) => {
                resource_field_errors(reference, &FILE_RESOURCES, true, format_args!("{at}.resourceFieldRef"), errors)
            }
            (None, None) => errors.push(FieldError::required(at, "one of fieldRef and resourceFieldRef is required")),
        }
        if let Some(mode) = item.int_at(&["mode"]).filter(|m| !(0..=0o777).contains(m)) {
            errors.push(FieldError::invalid(format!("{at}.mode"), mode, "must be a number between 0 and 0777 (octal), both inclusive"));
        }
    }
}

fn projected(source: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    let mut paths: Vec<String> = Vec::new();
    let mut take = |path: &str, errors: &mut Vec<FieldError>| {
        if paths.iter().any(|p| p == path) && !path.is_empty() {
            errors.push(FieldError::invalid(at, path, "conflicting duplicate paths"));
        }
        paths.push(path.to_string());
    };
    for (i, part) in source.list_at(&["sources"]).iter().enumerate() {
        let place = format_args!("{at}.sources[{i}]");
        let kinds = ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
        let found: Vec<(&str, &Value)> = kinds.into_iter().filter_map(|k| Some((k, part.get(k)?))).collect();
        if found.len() > 1 {
            errors.push(FieldError::forbidden(place, "may not specify more than 1 volume type"));
        }
        for (kind, source) in found {
            let inner = format_args!("{place}.{kind}");
            match kind {
                "secret" | "configMap" => {
                    if source.str_at(&["name"]).is_empty() {
                        errors.push(FieldError::required(format!("{inner}.name"), ""));
                    }
                    for (i, item) in source.list_at(&["items"]).iter().enumerate() {
                        local_path_errors(item.str_at(&["path"]), format_args!("{inner}.items[{i}].path"), errors);
                        take(item.str_at(&["path"]), errors);
                    }
                }
                "downwardAPI" => {
                    downward(source, inner, errors);
                    source.list_at(&["items"]).iter().for_each(|item| take(item.str_at(&["path"]), errors));
                }
                "serviceAccountToken" => {
                    token_lifetime(source, format_args!("{inner}.expirationSeconds"), errors);
                    if source.str_at(&["path"]).is_empty() {
                        errors.push(FieldError::required(format!("{at}.path"), ""));
                    }
                    local_path_errors(source.str_at(&["path"]), format_args!("{at}.path"), errors);
                }
                "clusterTrustBundle" => {
                    projections::trust_bundle(source, &inner.to_string(), errors);
                    local_path_errors(source.str_at(&["path"]), format_args!("{inner}.path"), errors);
                    take(source.str_at(&["path"]), errors);
                }
                _ => {
                    projections::pod_certificate(source, &inner.to_string(), errors);
                    for path in projections::PATHS {
                        local_path_errors(source.str_at(&[path]), format_args!("{inner}.{path}"), errors);
                        take(source.str_at(&[path]), errors);
                    }
                }
            }
        }
    }
}

fn token_lifetime(source: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    let Some(seconds) = source.int_at(&["expirationSeconds"]) else { return };
    if seconds < 600 {
        errors.push(FieldError::invalid(at, seconds, "may not specify a duration less than 10 minutes"));
    } else if seconds > 1 << 32 {
        errors.push(FieldError::invalid(at, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
}

fn is_qualified_iscsi(name: &str) -> bool {
    let dated = |rest: &str| {
        let b = rest.as_bytes();
        b.len() > 8 && b[..4].iter().all(u8::is_ascii_digit) && b[4] == b'-' && b[5..7].iter().all(u8::is_ascii_digit) && b[7] == b'.'
    };
    match name.split_once('.') {
        Some(("iqn", rest)) => dated(rest) && !name.contains(char::is_whitespace) && name.len() <= 223,
        Some(("eui", rest)) => rest.len() == 16 && rest.bytes().all(|c| c.is_ascii_hexdigit()),
        Some(("naa", rest)) => matches!(rest.len(), 16 | 32) && rest.bytes().all(|c| c.is_ascii_hexdigit()),
        _ => false,
    }
}

pub(crate) fn iscsi(source: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    let iqn = source.str_at(&["iqn"]);
    if iqn.is_empty() {
        errors.push(FieldError::required(format!("{at}.iqn"), ""));
    } else if !is_qualified_iscsi(iqn) {
        errors.push(FieldError::invalid(format!("{at}.iqn"), iqn, "must be valid format"));
    }
    if let Some(name) = source.get("initiatorName").and_then(Value::as_str)
        && !is_qualified_iscsi(name)
    {
        errors.push(FieldError::invalid(format!("{at}.initiatorname"), name, "must be valid format"));
    }
    let chap = ["chapAuthDiscovery", "chapAuthSession"].iter().any(|f| source.bool_at(&[f]) == Some(true));
    if chap && source.get("secretRef").is_none() {
        errors.push(FieldError::required(format!("{at}.secretRef"), ""));
    }
}

/// With an initiator the name of the volume and its portal make a name.
fn iscsi_name(volume: &Value, source: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    const LONGEST: usize = 64;
    let name = volume.str_at(&["name"]);
    let named = source.get("initiatorName").is_some_and(|n| !n.is_null());
    if named && name.len() + 1 + source.str_at(&["targetPortal"]).len() > LONGEST {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.push(FieldError::invalid(format!("{at}.name"), name, why));
    }
}

pub(crate) fn fibre_channel(source: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    let (names, ids) = (source.list_at(&["targetWWNs"]), source.list_at(&["wwids"]));
    if names.is_empty() && ids.is_empty() {
        errors.push(FieldError::required(format!("{at}.targetWWNs"), "must specify either targetWWNs or wwids, but not both"));
    }
    if !names.is_empty() && !ids.is_empty() {
        let why = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(FieldError::invalid(format!("{at}.targetWWNs"), names.to_vec(), why));
    }
    if !names.is_empty() {
        match source.int_at(&["lun"]) {
            None => errors.push(FieldError::required(format!("{at}.lun"), "lun is required if targetWWNs is specified")),
            Some(n) if !(0..=255).contains(&n) => {
                errors.push(FieldError::invalid(format!("{at}.lun"), n, "must be between 0 and 255, inclusive"));
            }
            Some(_) => {}
        }
    }
}

/// The name of a CSI driver: a domain name that may have capitals.
pub(crate) fn driver_name(name: &str, at: At<'_>, errors: &mut Vec<FieldError>) {
    if name.is_empty() {
        return errors.push(FieldError::required(at, ""));
    }
    if name.len() > 63 {
        errors.push(FieldError::too_long(at, 63));
    }
    if let Err(why) = names::dns_subdomain(&name.to_lowercase()) {
        errors.push(FieldError::invalid(at, name, why));
    }
}

fn csi(source: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    driver_name(source.str_at(&["driver"]), format_args!("{at}.driver"), errors);
    if let Some(secret) = source.get("nodePublishSecretRef") {
        let name = secret.str_at(&["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.nodePublishSecretRef.name"), ""));
        } else if let Err(why) = names::dns_subdomain(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, why));
        }
    }
}

pub(crate) fn azure_disk(source: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    let uri = source.str_at(&["diskURI"]);
    let known = match source.str_at(&["kind"]) {
        "Managed" => uri.starts_with("/subscriptions"),
        _ => uri.starts_with("https://"),
    };
    if !uri.is_empty() && !known {
        errors.push(FieldError::not_supported(
            format!("{at}.diskURI"),
            uri,
            &["https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"],
        ));
    }
}

fn ephemeral(source: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    let at = format_args!("{at}.volumeClaimTemplate");
    let Some(template) = source.get("volumeClaimTemplate") else {
        return errors.push(FieldError::required(at, ""));
    };
    // The claim is named after the pod and the volume.
    for field in template.get("metadata").and_then(Value::as_map).iter().flat_map(|m| m.keys()) {
        if !matches!(field.as_str(), "labels" | "annotations" | "creationTimestamp") {
            errors.push(FieldError::forbidden(format!("{at}.metadata.{field}"), "cannot be set"));
        }
    }
    super::super::label_errors(template.get("metadata").unwrap_or(&Value::Null), &format!("{at}.metadata"), errors);
    claim_spec_errors(template.get("spec").unwrap_or(&Value::Null), &format!("{at}.spec"), errors);
}
