//! CertificateSigningRequests: what is asked, and what approval and signing may write.

pub(super) mod projections;

use base64::Engine;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta, names};

use super::{NameRule, Strategy};

/// See extractCSRStatus of upstream's printers.
fn condition_text(request: &Value) -> String {
    let has = |ty: &str| meta::condition(request, ty).is_some();
    let mut text = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_string();
    if has("Failed") {
        text.push_str(",Failed");
    }
    if !request.str_at(&["status", "certificate"]).is_empty() {
        text.push_str(",Issued");
    }
    text
}

pub(super) struct CertificateSigningRequest;
impl Strategy for CertificateSigningRequest {
    fn name_rule(&self) -> NameRule {
        names::path_segment
    }

    fn stamp(&self, object: &mut Value, _: Option<&Value>, now: &str) {
        if object.list_at(&["status", "conditions"]).is_empty() {
            return;
        }
        for condition in object.place(&["status", "conditions"]).make_list().make_mut() {
            for field in ["lastUpdateTime", "lastTransitionTime"] {
                if condition.str_at(&[field]).is_empty() {
                    condition.set(&[field], now);
                }
            }
        }
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        match column {
            "RequestedDuration" => {
                let asked = object.int_at(&["spec", "expirationSeconds"]);
                asked.map_or_else(|| "<none>".to_string(), fram_machinery::human::duration).into()
            }
            "Condition" => condition_text(object).into(),
            _ => Value::Null,
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let request = object.str_at(&["spec", "request"]);
        if !holds(request, "CERTIFICATE REQUEST") {
            errors.push(FieldError::invalid("spec.request", request, "PEM block type must be CERTIFICATE REQUEST"));
        }
        let usages = object.list_at(&["spec", "usages"]);
        if usages.is_empty() {
            errors.push(FieldError::required("spec.usages", "usages must have at least one item"));
        }
        for (i, usage) in usages.iter().enumerate().filter(|(i, usage)| usages[..*i].contains(usage)) {
            errors.push(FieldError::duplicate(format!("spec.usages[{i}]"), usage.clone()));
        }
        signer_errors(object.str_at(&["spec", "signerName"]), "spec.signerName", &mut errors);
        if let Some(seconds) = object.int_at(&["spec", "expirationSeconds"]).filter(|s| *s < 600) {
            errors.push(FieldError::invalid(
                "spec.expirationSeconds",
                seconds,
                "may not specify a duration less than 600 seconds (10 minutes)",
            ));
        }
        errors
    }

    fn validate_subresource(&self, subresource: &str, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let conditions = object.list_at(&["status", "conditions"]);
        for (i, condition) in conditions.iter().enumerate() {
            let at = format!("status.conditions[{i}]");
            let (ty, status) = (condition.str_at(&["type"]), condition.str_at(&["status"]));
            match ty {
                "" => errors.push(FieldError::required(format!("{at}.type"), "")),
                "Approved" | "Denied" | "Failed" if !status.is_empty() && status != "True" => {
                    errors.push(FieldError::not_supported(format!("{at}.status"), status, &["True"]));
                }
                _ => {}
            }
            if status.is_empty() {
                errors.push(FieldError::required(format!("{at}.status"), ""));
            }
            if conditions[..i].iter().any(|c| c.str_at(&["type"]) == ty) {
                errors.push(FieldError::duplicate(format!("{at}.type"), ty));
            }
        }
        let has = |object: &Value, ty: &str| object.list_at(&["status", "conditions"]).iter().any(|c| c.str_at(&["type"]) == ty);
        if has(object, "Approved") && has(object, "Denied") {
            errors.push(FieldError::invalid("status.conditions", "Denied", "Approved and Denied conditions are mutually exclusive"));
        }
        for ty in ["Approved", "Denied", "Failed"] {
            let added = has(object, ty) && !has(old, ty) && subresource == "status" && ty != "Failed";
            if (has(old, ty) && !has(object, ty)) || added {
                errors.push(FieldError::forbidden("status.conditions", "updates may not add or remove a condition of this type"));
            }
        }
        let (new, before) = (object.str_at(&["status", "certificate"]), old.str_at(&["status", "certificate"]));
        if !new.is_empty() && !holds(new, "CERTIFICATE") {
            errors.push(FieldError::invalid("status.certificate", "<certificate data>", "must contain PEM data"));
        }
        if !before.is_empty() && new != before {
            errors.push(FieldError::forbidden("status.certificate", "updates may not set certificate content if it is already set"));
        }
        errors
    }
}

/// Whether these bytes are a PEM block of that kind.
fn holds(encoded: &str, kind: &str) -> bool {
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.contains(&format!("-----BEGIN {kind}-----")) && text.contains(&format!("-----END {kind}-----"))
}

/// A domain and a path below it, such as `example.com/my.signer`.
fn signer_errors(name: &str, at: &str, errors: &mut Vec<FieldError>) {
    if name.is_empty() {
        return errors.push(FieldError::required(at, "signerName must be provided"));
    }
    let valid = match name.split_once('/') {
        Some((domain, path)) => {
            domain.contains('.')
                && names::dns_subdomain(domain).is_ok()
                && !path.contains('/')
                && path.split('.').all(|p| names::dns_label(&p.to_lowercase()).is_ok())
        }
        None => false,
    };
    if !valid {
        errors.push(FieldError::invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'"));
    } else if name == "kubernetes.io/legacy-unknown" {
        errors.push(FieldError::invalid(at, name, "the legacy signerName is not allowed via this API version"));
    }
}

/// What is wrong with the name of a bundle of that signer, or of none.
fn bundle_name_problem(name: &str, signer: &str) -> Option<String> {
    let own = match signer {
        "" if name.contains(':') => Err("ClusterTrustBundle without signer name must not have \":\" in its name".to_string()),
        "" => Ok(name),
        _ => {
            let prefix = format!("{}:", signer.replace('/', ":"));
            let why = format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
            name.strip_prefix(&prefix).ok_or(why)
        }
    };
    own.and_then(|own| names::dns_subdomain(own).map_err(Into::into)).err()
}

/// What a pod's user tells its signer stands under keys of domains.
fn annotation_errors(annotations: Option<&Value>, at: &str, errors: &mut Vec<FieldError>) {
    for key in annotations.and_then(Value::as_map).iter().flat_map(|map| map.keys()) {
        if !key.contains('/') || names::qualified_name(&key.to_lowercase()).is_err() {
            let why = "must be a domain-prefixed key (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid(at, key.as_str(), why));
        }
    }
}

fn is_of_kubernetes(signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    domain == "kubernetes.io" || domain.ends_with(".kubernetes.io")
}

/// See MaxTrustBundleSize.
const LARGEST_BUNDLE: usize = 1 << 20;

/// What is in the bundle is looked at on admission: it takes a parser of certificates.
pub(super) struct ClusterTrustBundle;
impl Strategy for ClusterTrustBundle {
    fn name_rule(&self) -> NameRule {
        names::path_segment
    }

    /// A signer's bundles are named after it; see ValidateClusterTrustBundleName.
    fn validate(&self, bundle: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (name, signer) = (meta::name(bundle), bundle.str_at(&["spec", "signerName"]));
        if let Some(why) = bundle_name_problem(name, signer) {
            errors.push(FieldError::invalid("metadata.name", name, &why));
        }
        if !signer.is_empty() {
            signer_errors(signer, "spec.signerName", &mut errors);
        }
        if bundle.str_at(&["spec", "trustBundle"]).len() > LARGEST_BUNDLE {
            errors.push(FieldError::too_long("spec.trustBundle", LARGEST_BUNDLE));
        }
        errors
    }
}

/// Seconds that a certificate of a pod may be good for: at least, at most, and at most for signers of Kubernetes itself; see
/// MinMaxExpirationSeconds and those after it.
const LIFETIMES: [i64; 3] = [3_600, 91 * 86_400, 86_400];
/// See MaxPKIXPublicKeySize, MaxProofOfPossessionSize and MaxStubPKCS10RequestSize.
const LARGEST_KEY: usize = 10 * 1024;
/// See MaxCertificateChainSize.
const LARGEST_CHAIN: usize = 100 * 1024;
/// The conditions by which a request of a pod has ended.
const ENDS: [&str; 3] = ["Issued", "Denied", "Failed"];

/// Proofs and certificates are looked at on admission.
pub(super) struct PodCertificateRequest;
impl Strategy for PodCertificateRequest {
    fn validate_create(&self, request: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let signer = request.str_at(&["spec", "signerName"]);
        signer_errors(signer, "spec.signerName", &mut errors);
        for field in ["podUID", "serviceAccountUID", "nodeUID"] {
            let uid = request.str_at(&["spec", field]);
            if uid.is_empty() {
                errors.push(FieldError::invalid(format!("spec.{field}"), uid, "must not be empty"));
            } else if uid.len() > 128 {
                errors.push(FieldError::too_long(format!("spec.{field}"), 128));
            }
        }
        annotation_errors(request.at(&["spec", "unverifiedUserAnnotations"]), "spec.unverifiedUserAnnotations", &mut errors);
        let most = LIFETIMES[if is_of_kubernetes(signer) { 2 } else { 1 }];
        let asked = request.int_at(&["spec", "maxExpirationSeconds"]).unwrap_or_default();
        if !(LIFETIMES[0]..=most).contains(&asked) {
            let why = format!("must be in the range [{}, {most}]", LIFETIMES[0]);
            errors.push(FieldError::invalid("spec.maxExpirationSeconds", asked, &why));
        }
        let given = ["stubPKCS10Request", "pkixPublicKey", "proofOfPossession"].map(|f| !request.str_at(&["spec", f]).is_empty());
        if !matches!(given, [true, false, false] | [false, true, true]) {
            let why = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
            errors.push(FieldError::invalid("spec", "", why));
        }
        for field in ["stubPKCS10Request", "pkixPublicKey", "proofOfPossession"] {
            if request.str_at(&["spec", field]).len() / 4 * 3 > LARGEST_KEY {
                errors.push(FieldError::too_long(format!("spec.{field}"), LARGEST_KEY));
            }
        }
        errors
    }

    fn validate_subresource(&self, _: &str, request: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let conditions = request.list_at(&["status", "conditions"]);
        for (i, condition) in conditions.iter().enumerate() {
            let (at, ty, status) = (format!("status.conditions[{i}]"), condition.str_at(&["type"]), condition.str_at(&["status"]));
            if !ENDS.contains(&ty) {
                errors.push(FieldError::not_supported(format!("{at}.type"), ty, &ENDS));
            } else if i > 0 {
                let why = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
                errors.push(FieldError::invalid(format!("{at}.type"), ty, why));
            }
            if status != "True" {
                errors.push(FieldError::not_supported(format!("{at}.status"), status, &["True"]));
            }
        }
        super::limits::condition_errors(conditions, "status.conditions", &mut errors);
        let ended = |request: &Value| ENDS.iter().find(|ty| meta::condition(request, ty).is_some()).copied();
        let others = ["certificateChain", "notBefore", "beginRefreshAt", "notAfter"];
        let is_set = |field: &&str| !request.str_at(&["status", field]).is_empty();
        match (ended(old), ended(request)) {
            (Some(_), _) if request.get("status") != old.get("status") => {
                let why = "immutable after PodCertificateRequest is issued, denied, or failed";
                errors.push(FieldError::invalid("status", "", why));
            }
            (None, Some("Issued")) => {
                if request.str_at(&["status", "certificateChain"]).len() > LARGEST_CHAIN {
                    errors.push(FieldError::too_long("status.certificateChain", LARGEST_CHAIN));
                }
                for field in others.iter().filter(|field| !is_set(field)) {
                    let why = "must be present and consistent with the issued certificate";
                    errors.push(FieldError::required(format!("status.{field}"), why));
                }
            }
            (None, _) if others.iter().any(is_set) => {
                let why = "non-condition status fields must be empty unless the PodCertificateRequest is issued";
                errors.push(FieldError::invalid("status", "", why));
            }
            _ => {}
        }
        errors
    }

    fn cell(&self, request: &Value, column: &str) -> Value {
        match column {
            "State" => {
                let mut conditions = request.list_at(&["status", "conditions"]).iter().map(|c| c.str_at(&["type"]));
                conditions.rfind(|ty| ENDS.contains(ty)).unwrap_or("Pending").into()
            }
            "UnverifiedUserAnnotations" => {
                let map = request.at(&["spec", "unverifiedUserAnnotations"]).and_then(Value::as_map).cloned().unwrap_or_default();
                let all: Vec<String> = map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
                if all.is_empty() { "<none>".into() } else { all.join(",").into() }
            }
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn a_table_tells_what_was_decided_and_whether_a_certificate_is_there() {
        let request = |types: &[&str], certificate: &str| {
            let conditions: Vec<Value> = types.iter().map(|ty| object!({ "type": (*ty), "status": "True" })).collect();
            object!({ "spec": { "expirationSeconds": 3600 }, "status": { "conditions": conditions, "certificate": certificate } })
        };
        for (types, certificate, expect) in [
            (&[][..], "", "Pending"),
            (&["Approved"], "", "Approved"),
            (&["Approved"], "eA==", "Approved,Issued"),
            (&["Approved", "Failed"], "", "Approved,Failed"),
            (&["Denied", "Approved"], "", "Denied"),
        ] {
            assert_eq!(CertificateSigningRequest.cell(&request(types, certificate), "Condition"), Value::from(expect));
        }
        assert_eq!(CertificateSigningRequest.cell(&request(&[], ""), "RequestedDuration"), Value::from("60m"));
        assert_eq!(CertificateSigningRequest.cell(&object!({}), "RequestedDuration"), Value::from("<none>"));
    }

    #[test]
    fn a_signer_s_bundles_are_named_after_it() {
        let errors = |name: &str, signer: &str| {
            ClusterTrustBundle
                .validate(&object!({ "metadata": { "name": (name) }, "spec": { "signerName": (signer), "trustBundle": "x" } }))
                .len()
        };
        assert_eq!(errors("plain", ""), 0);
        assert_eq!(errors("a:b", ""), 1);
        assert_eq!(errors("example.com:mine:x", "example.com/mine"), 0);
        assert_eq!(errors("example.com:other:x", "example.com/mine"), 1);
        assert_eq!(errors("example.com:mine:X_", "example.com/mine"), 1);
    }

    #[test]
    fn a_pod_s_request_ends_once_and_says_how() {
        let with = |ty: &str, chain: &str| {
            let mut request = object!({ "status": { "conditions": [{ "type": (ty), "status": "True", "reason": "R",
                "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
            for field in ["certificateChain", "notBefore", "beginRefreshAt", "notAfter"].iter().filter(|_| !chain.is_empty()) {
                request.set(&["status", field], chain);
            }
            request
        };
        let count = |now: &Value, old: &Value| PodCertificateRequest.validate_subresource("status", now, old).len();
        let open = object!({});
        assert_eq!(count(&with("Denied", ""), &open), 0);
        assert_eq!(count(&with("Denied", "c"), &open), 1);
        assert_eq!(count(&with("Issued", "c"), &open), 0);
        assert_eq!(count(&with("Issued", ""), &open), 4);
        assert_eq!(count(&with("Issued", "d"), &with("Issued", "c")), 1);
        assert_eq!(count(&with("Other", ""), &open), 1);
    }
}
