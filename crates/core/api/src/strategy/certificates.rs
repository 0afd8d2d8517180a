//! CertificateSigningRequests: what is asked, and what approval and signing may write.

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
        for condition in object.place(&["status", "conditions"]).make_list() {
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
        signer_errors(object.str_at(&["spec", "signerName"]), &mut errors);
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
fn signer_errors(name: &str, errors: &mut Vec<FieldError>) {
    const AT: &str = "spec.signerName";
    if name.is_empty() {
        return errors.push(FieldError::required(AT, "signerName must be provided"));
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
        errors.push(FieldError::invalid(AT, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'"));
    } else if name == "kubernetes.io/legacy-unknown" {
        errors.push(FieldError::invalid(AT, name, "the legacy signerName is not allowed via this API version"));
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
}
