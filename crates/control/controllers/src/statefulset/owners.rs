//! Who owns the claims of a StatefulSet, by its retention policy. Pure; see upstream's isClaimOwnerUpToDate and
//! updateClaimOwnerRefForSetAndPod.

use fram_machinery::{Value, meta};

/// A claim and what its owner is to be: the set, the pod that uses it, or nobody.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Owned {
    pub(super) claim: String,
    /// The pod that uses the claim: its name, and its UID where it is there.
    pub(super) pod: (String, String),
    pub(super) owner: Option<Value>,
}

/// The references that a claim is to have; None where it stays as it is.
pub(super) fn references(claim: &Value, set: &Value, owned: &Owned) -> Option<Vec<Value>> {
    let names = |r: &Value, kind: &str, name: &str| r.str_at(&["kind"]) == kind && r.str_at(&["name"]) == name;
    let names_set = |r: &Value| names(r, "StatefulSet", meta::name(set)) && r.str_at(&["apiVersion"]).starts_with("apps/");
    let names_pod = |r: &Value| names(r, "Pod", &owned.pod.0);
    let ours = |r: &Value| names_set(r) || names_pod(r);
    let now = meta::owner_references(claim);
    let stale = |r: &Value| names_set(r) && r.str_at(&["uid"]) != meta::uid(set) || names_pod(r) && r.str_at(&["uid"]) != owned.pod.1;
    if now.iter().any(stale) {
        // It belongs to an earlier set or pod of that name, and goes with it.
        return None;
    }
    let policy = |when: &str| set.str_at(&["spec", "persistentVolumeClaimRetentionPolicy", when]) == "Delete";
    let controls = |r: &Value| r.bool_at(&["controller"]) == Some(true);
    let foreign = (policy("whenDeleted") || policy("whenScaled")) && now.iter().any(|r| !ours(r) && controls(r));
    let mut wanted: Vec<Value> = now.iter().filter(|r| !ours(r)).cloned().collect();
    if !foreign {
        wanted.extend(owned.owner.clone());
    }
    let told = |list: &[Value]| list.iter().map(|r| (r.str_at(&["uid"]).to_string(), controls(r))).collect::<Vec<_>>();
    (told(&wanted) != told(now)).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn reference(kind: &str, name: &str, uid: &str, controller: bool) -> Value {
        let version = if kind == "Pod" || kind == "ConfigMap" { "v1" } else { "apps/v1" };
        object!({ "apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": controller })
    }

    fn own() -> Value {
        reference("StatefulSet", "web", "s", true)
    }

    #[track_caller]
    fn check(policy: &str, now: Vec<Value>, owner: Option<Value>, expect: Option<&[&str]>) {
        let set = object!({ "metadata": { "name": "web", "uid": "s" },
            "spec": { "persistentVolumeClaimRetentionPolicy": { "whenDeleted": policy, "whenScaled": "Retain" } } });
        let claim = object!({ "metadata": { "name": "data-web-0", "ownerReferences": now } });
        let owned = Owned { claim: "data-web-0".into(), pod: ("web-0".into(), "p".into()), owner };
        let found = references(&claim, &set, &owned);
        let uids = found.as_ref().map(|list| list.iter().map(|r| r.str_at(&["uid"])).collect::<Vec<_>>());
        assert_eq!(uids.as_deref(), expect);
    }

    #[test]
    fn the_owner_is_put_beside_others_and_taken_away_again() {
        let other = reference("ConfigMap", "c", "o", false);
        check("Delete", vec![other.clone()], Some(own()), Some(&["o", "s"]));
        check("Delete", vec![own()], Some(own()), None);
        check("Retain", vec![own()], None, Some(&[]));
        check("Delete", vec![reference("StatefulSet", "web", "s", false)], Some(own()), Some(&["s"]));
    }

    #[test]
    fn a_claim_of_another_controller_is_left_to_it() {
        let other = reference("ConfigMap", "c", "o", true);
        check("Delete", vec![other.clone()], Some(own()), None);
        check("Delete", vec![other, own()], Some(own()), Some(&["o"]));
    }

    #[test]
    fn a_claim_of_an_earlier_set_or_pod_goes_with_it() {
        check("Delete", vec![reference("StatefulSet", "web", "old", true)], Some(own()), None);
        check("Delete", vec![reference("Pod", "web-0", "old", true)], Some(own()), None);
        check("Delete", vec![reference("Pod", "web-0", "p", true)], Some(own()), Some(&["s"]));
    }
}
