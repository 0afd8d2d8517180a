//! The rules of projected volumes that show trust bundles and certificates of their pod. See upstream's validateProjectionSources.

use fram_machinery::Value;
use fram_machinery::status::FieldError;

use super::{LIFETIMES, annotation_errors, bundle_name_problem, is_of_kubernetes, signer_errors};
use crate::strategy::label_selector_errors;

/// The rules of a source `clusterTrustBundle`, but for its path.
pub(in crate::strategy) fn trust_bundle(source: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let text = |field: &str| source.get(field).and_then(Value::as_str);
    let selector = source.get("labelSelector");
    match (text("name"), text("signerName")) {
        (Some(_), Some(_)) => errors.push(FieldError::invalid(at, source.clone(), "only one of name and signerName may be used")),
        (Some(name), None) => {
            if name.is_empty() {
                errors.push(FieldError::required(format!("{at}.name"), "must be a valid object name"));
            }
            // What stands before the last colon names the signer.
            let signer = name.rsplit_once(':').map(|(signer, _)| signer.replace(':', "/")).unwrap_or_default();
            if let Some(why) = bundle_name_problem(name, &signer) {
                errors.push(FieldError::invalid(format!("{at}.name"), name, format!("not a valid clustertrustbundlename: {why}")));
            }
            if let Some(selector) = selector {
                let why = "labelSelector must be unset if name is specified";
                errors.push(FieldError::invalid(format!("{at}.labelSelector"), selector.clone(), why));
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                errors.push(FieldError::required(format!("{at}.signerName"), "must be a valid signer name"));
            }
            signer_errors(signer, &format!("{at}.signerName"), errors);
            if let Some(selector) = selector {
                label_selector_errors(selector, &format!("{at}.labelSelector"), errors);
            }
        }
        (None, None) => errors.push(FieldError::required(at, "either name or signerName must be specified")),
    }
    if source.str_at(&["path"]).is_empty() {
        errors.push(FieldError::required(format!("{at}.path"), ""));
    }
}

/// The rules of a source `podCertificate`, but for what its paths are. The types of keys are in the description.
pub(in crate::strategy) fn pod_certificate(source: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let signer = source.str_at(&["signerName"]);
    signer_errors(signer, &format!("{at}.signerName"), errors);
    annotation_errors(source.get("userAnnotations"), &format!("{at}.userAnnotations"), errors);
    if let Some(seconds) = source.int_at(&["maxExpirationSeconds"]) {
        let [least, most, most_of_kubernetes] = LIFETIMES;
        let most = if is_of_kubernetes(signer) { most_of_kubernetes } else { most };
        let mut refuse = |sign, limit| {
            errors.push(FieldError::invalid(
                format!("{at}.maxExpirationSeconds"),
                seconds,
                format!("if provided, maxExpirationSeconds must be {sign} {limit}"),
            ))
        };
        if seconds < least {
            refuse(">=", least);
        }
        if seconds > most {
            refuse("<=", most);
        }
    }
    if PATHS.iter().all(|path| source.str_at(&[*path]).is_empty()) {
        errors.push(FieldError::required(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"));
    }
}

pub(in crate::strategy) const PATHS: [&str; 3] = ["credentialBundlePath", "keyPath", "certificateChainPath"];

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn faults(check: fn(&Value, &str, &mut Vec<FieldError>), source: Value) -> Vec<String> {
        let mut errors = Vec::new();
        check(&source, "s", &mut errors);
        errors.iter().map(|e| e.to_string().split(": ").next().unwrap_or_default().to_string()).collect()
    }

    #[test]
    fn a_bundle_is_asked_for_by_name_or_by_signer() {
        let check = |source| faults(trust_bundle, source);
        let none: [&str; 0] = [];
        assert_eq!(check(object!({ "name": "plain", "path": "p" })), none);
        assert_eq!(check(object!({ "name": "a.b:c:d", "path": "p" })), none);
        assert_eq!(check(object!({ "signerName": "a.b/c", "labelSelector": {}, "path": "p" })), none);
        assert_eq!(check(object!({ "path": "p" })), ["s"]);
        assert_eq!(check(object!({ "name": "n", "signerName": "a.b/c", "path": "p" })), ["s"]);
        assert_eq!(check(object!({ "name": "n", "labelSelector": {}, "path": "p" })), ["s.labelSelector"]);
        assert_eq!(check(object!({ "signerName": "c" })), ["s.signerName", "s.path"]);
    }

    #[test]
    fn a_certificate_has_a_signer_a_path_and_a_bounded_life() {
        let check = |seconds: i64, signer: &str| {
            faults(pod_certificate, object!({ "signerName": signer, "maxExpirationSeconds": seconds, "keyPath": "k" }))
        };
        let none: [&str; 0] = [];
        assert_eq!((check(3_600, "a.b/c"), check(91 * 86_400, "a.b/c")), (vec![], vec![]));
        assert_eq!(check(3_599, "a.b/c"), ["s.maxExpirationSeconds"]);
        assert_eq!(check(91 * 86_400 + 1, "a.b/c"), ["s.maxExpirationSeconds"]);
        assert_eq!(check(86_400, "kubernetes.io/c"), none);
        assert_eq!(check(86_401, "kubernetes.io/c"), ["s.maxExpirationSeconds"]);
        let annotated = object!({ "signerName": "a.b/c", "userAnnotations": { "plain": "x" } });
        assert_eq!(faults(pod_certificate, annotated), ["s.userAnnotations", "s"]);
    }
}
