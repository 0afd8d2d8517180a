//! What becomes of resource claims. Pure.

use std::hash::Hasher;
use std::sync::Arc;

use fram_api::devices::POD_CLAIM_NAME;
use fram_machinery::{Value, meta, object};

use crate::pods::has_ended;

/// Names have at most so many characters.
const LONGEST: usize = 253;

/// Whether a pod uses nothing any more.
pub(super) fn is_done(pod: &Value) -> bool {
    has_ended(pod) || meta::is_terminating(pod) && pod.str_at(&["spec", "nodeName"]).is_empty()
}

pub(super) fn is_allocated(claim: &Value) -> bool {
    claim.at(&["status", "allocation"]).is_some_and(|a| !a.is_null())
}

pub(super) fn is_used_by(claim: &Value, pod: &Value) -> bool {
    claim.list_at(&["status", "reservedFor"]).iter().any(|user| user.str_at(&["uid"]) == meta::uid(pod))
}

/// The name of a pod's claim: upstream's form, with an end that is the same each time, so that no claim is made twice.
pub(super) fn name(pod: &Value, claim: &str) -> String {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(meta::uid(pod).as_bytes());
    hasher.write(claim.as_bytes());
    let end = format!("{:05x}", hasher.finish() & 0xf_ffff);
    let start: String = format!("{}-{claim}", meta::name(pod)).chars().take(LONGEST - 1 - end.len()).collect();
    format!("{}-{end}", start.trim_end_matches(['-', '.']))
}

/// A pod's claim, as its template says.
pub(super) fn claim(pod: &Value, claim: &str, template: &Value) -> Value {
    let mut out = object!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": { "name": (name(pod, claim)), "namespace": (meta::namespace(pod)) } });
    for field in ["labels", "annotations"] {
        if let Some(said) = template.at(&["spec", "metadata", field]).filter(|v| !v.is_null()) {
            out.set(&["metadata", field], said.clone());
        }
    }
    meta::set_annotation(&mut out, POD_CLAIM_NAME, claim);
    let owner = object!({ "apiVersion": "v1", "kind": "Pod", "name": (meta::name(pod)), "uid": (meta::uid(pod)), "controller": true,
        "blockOwnerDeletion": true });
    out.set(&["metadata", "ownerReferences"], vec![owner]);
    out.set(&["spec"], template.at(&["spec", "spec"]).cloned());
    out
}

/// Whether a pod's status names these claims.
pub(super) fn says(pod: &Value, statuses: &[Value]) -> bool {
    let said = pod.list_at(&["status", "resourceClaimStatuses"]);
    statuses.iter().all(|status| said.iter().any(|s| ["name", "resourceClaimName"].iter().all(|f| s.str_at(&[f]) == status.str_at(&[f]))))
}

/// The claim's status without those who use it no more, and without its devices where nobody does; None where it is right. A claim
/// whose devices were never used, as its pod could not be bound in the end, keeps them until it is deleted.
pub(super) fn status(claim: &Value, pod: impl Fn(&str) -> Option<Arc<Value>>) -> Option<Value> {
    let users = claim.list_at(&["status", "reservedFor"]);
    let uses = |user: &&Value| {
        let is_pod = user.str_at(&["apiGroup"]).is_empty() && user.str_at(&["resource"]) == "pods";
        !is_pod || pod(user.str_at(&["name"])).is_some_and(|p| meta::uid(&p) == user.str_at(&["uid"]) && !is_done(&p))
    };
    let left: Vec<Value> = users.iter().filter(uses).cloned().collect();
    let given_back = left.is_empty() && is_allocated(claim) && (!users.is_empty() || meta::is_terminating(claim));
    if left.len() == users.len() && !given_back {
        return None;
    }
    let mut status = claim.get("status").cloned().unwrap_or_default();
    status.set(&["reservedFor"], Value::from(left));
    if given_back {
        status.set(&["allocation"], Value::Null);
        status.set(&["devices"], Value::Null);
    }
    Some(status)
}

/// Whether a claim was made for a pod that has ended.
pub(super) fn is_over(claim: &Value, pod: impl Fn(&str) -> Option<Arc<Value>>) -> bool {
    let owner = meta::controller_of(claim).filter(|o| o.str_at(&["kind"]) == "Pod" && o.str_at(&["apiVersion"]) == "v1");
    owner.is_some_and(|o| pod(o.str_at(&["name"])).is_some_and(|p| meta::uid(&p) == o.str_at(&["uid"]) && is_done(&p)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str) -> Arc<Value> {
        Arc::new(
            object!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u" }, "spec": { "nodeName": "n" }, "status": { "phase": phase } }),
        )
    }

    #[test]
    fn a_claim_is_made_as_its_template_says_and_belongs_to_the_pod() {
        let template = object!({ "spec": { "metadata": { "labels": { "a": "b" } }, "spec": { "devices": {} } } });
        let made = claim(&pod("Pending"), "gpu", &template);
        assert!(meta::name(&made).starts_with("p-gpu-") && meta::name(&made) == name(&pod("Running"), "gpu"));
        assert_eq!((meta::label(&made, "a"), meta::annotation(&made, POD_CLAIM_NAME)), (Some("b"), Some("gpu")));
        assert_eq!(meta::controller_of(&made).unwrap().str_at(&["uid"]), "u");
        assert_ne!(name(&pod(""), "gpu"), name(&pod(""), "nic"));
    }

    #[test]
    fn devices_are_given_back_with_the_last_user() {
        let user = |uid: &str| object!({ "resource": "pods", "name": "p", "uid": uid });
        let claim = |users: Value| object!({ "status": { "allocation": { "devices": {} }, "reservedFor": users } });
        let with = |users: Value, phase: &'static str| status(&claim(users), |_| Some(pod(phase)));
        assert_eq!(with(object!([(user("u"))]), "Running"), None);
        assert_eq!(with(object!([]), "Running"), None);
        let given_back = with(object!([(user("u"))]), "Succeeded").unwrap();
        assert!(given_back.list_at(&["reservedFor"]).is_empty() && given_back.get("allocation").is_none_or(Value::is_null));
        let kept = with(object!([(user("u")), (user("before"))]), "Running").unwrap();
        assert_eq!((kept.list_at(&["reservedFor"]).len(), kept.get("allocation").is_some()), (1, true));
    }

    #[test]
    fn a_claim_from_a_template_ends_with_its_pod() {
        let made = claim(&pod("Running"), "gpu", &object!({}));
        assert!(!is_over(&made, |_| Some(pod("Running"))) && is_over(&made, |_| Some(pod("Failed"))) && !is_over(&made, |_| None));
    }
}
