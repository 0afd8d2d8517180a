//! The APIServices of what this server answers itself: which there should be, and what has to be done so that they are. Pure; see
//! upstream's autoRegisterController and crdRegistrationController.

use std::collections::BTreeMap;

use fram_api::Api;
use fram_machinery::{Value, meta, object};

use super::service::{OWN_GROUP, Priority};

/// Marks what is kept here: `onstart` once, `true` always.
pub(crate) const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Made when the server starts; who changes it then has his way until the next start.
    OnStart,
    Always,
}

/// An APIService that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Local {
    group: String,
    version: String,
    priority: Priority,
    kept: Kept,
}

/// Group, version, and their priorities; see DefaultGenericAPIServicePriorities and apiVersionPriorities.
const PRIORITIES: &[(&str, &str, i64, i64)] = &[
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("resource.k8s.io", "v1", 16_200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("authentication.k8s.io", "v1beta1", 17_700, 9),
    ("certificates.k8s.io", "v1beta1", 17_300, 9),
    ("certificates.k8s.io", "v1alpha1", 17_300, 1),
    ("networking.k8s.io", "v1beta1", 17_200, 9),
    ("storage.k8s.io", "v1beta1", 16_800, 9),
    ("admissionregistration.k8s.io", "v1beta1", 16_700, 12),
    ("admissionregistration.k8s.io", "v1alpha1", 16_700, 9),
    ("scheduling.k8s.io", "v1alpha2", 16_600, 2),
    ("coordination.k8s.io", "v1beta1", 16_500, 13),
    ("coordination.k8s.io", "v1alpha2", 16_500, 12),
    ("resource.k8s.io", "v1beta2", 16_200, 15),
    ("resource.k8s.io", "v1beta1", 16_200, 9),
    ("resource.k8s.io", "v1alpha3", 16_200, 1),
    ("internal.apiserver.k8s.io", "v1alpha1", 16_000, 9),
    ("storagemigration.k8s.io", "v1beta1", 15_800, 9),
];
/// See getGroupPriorityMin and handleVersionUpdate.
const CUSTOM: Priority = Priority { group: 1000, version: 100 };

/// The priority of a built-in group version. Those that are not here are not registered, so that others may take their place.
pub(crate) fn priority(group: &str, version: &str) -> Option<Priority> {
    let known = PRIORITIES.iter().find(|(g, v, ..)| *g == group && *v == version);
    known.map(|&(_, _, group, version)| Priority { group, version })
}

impl Local {
    fn name(&self) -> String {
        format!("{}.{}", self.version, self.group)
    }

    fn spec(&self) -> Value {
        let mut spec = object!({ "version": (self.version.as_str()), "groupPriorityMinimum": (self.priority.group),
            "versionPriority": (self.priority.version) });
        if !self.group.is_empty() {
            spec.set(&["group"], self.group.as_str());
        }
        spec
    }

    pub(crate) fn object(&self) -> Value {
        let kept = if self.kept == Kept::Always { "true" } else { "onstart" };
        let mut object = object!({ "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": { "name": (self.name()) }, "spec": (self.spec()) });
        meta::set_label(&mut object, MANAGED, kept);
        object
    }
}

/// What should be there, by name.
pub(crate) fn wanted(api: &Api) -> BTreeMap<String, Local> {
    let served = api.kinds().filter(|k| !k.plural.is_empty() && k.group != OWN_GROUP);
    let mut all = BTreeMap::new();
    // Built-in kinds come first, and a built-in group version stays one.
    for kind in served {
        let (group, version) = (kind.group.to_string(), kind.version.to_string());
        let (priority, kept) = match (priority(&group, &version), &kind.custom) {
            (Some(priority), _) => (priority, Kept::OnStart),
            (None, Some(_)) => (CUSTOM, Kept::Always),
            (None, None) => continue,
        };
        let local = Local { group, version, priority, kept };
        all.entry(local.name()).or_insert(local);
    }
    all
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Nothing,
    Create(Value),
    Update(Value),
    Delete { uid: String },
}

/// What is known of an APIService beside what it is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Before {
    /// It was brought into order once since the start.
    pub(crate) synced: bool,
    /// It was there when the server started.
    pub(crate) at_start: bool,
}

/// What is to be done about one APIService; see checkAPIService.
pub(crate) fn plan(wanted: Option<&Local>, current: Option<&Value>, before: Before) -> Step {
    if wanted.is_some_and(|w| w.kept == Kept::OnStart) && before.synced {
        return Step::Nothing;
    }
    let Some(current) = current else {
        return wanted.map_or(Step::Nothing, |w| Step::Create(w.object()));
    };
    let once = match meta::label(current, MANAGED) {
        Some("onstart") => true,
        Some("true") => false,
        _ => return Step::Nothing,
    };
    if once && (!before.at_start || before.synced) {
        return Step::Nothing;
    }
    match wanted {
        None => Step::Delete { uid: meta::uid(current).into() },
        Some(wanted) if current.get("spec") == Some(&wanted.spec()) => Step::Nothing,
        Some(wanted) => {
            let mut next = current.clone();
            next.set(&["spec"], wanted.spec());
            Step::Update(next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(kept: Kept) -> Local {
        Local { group: "a.com".into(), version: "v1".into(), priority: CUSTOM, kept }
    }

    fn current(managed: &str, changed: bool) -> Value {
        let mut object = local(Kept::Always).object();
        object.set(&["metadata", "uid"], "u");
        meta::set_label(&mut object, MANAGED, managed);
        if changed {
            object.set(&["spec", "versionPriority"], 7);
        }
        object
    }

    #[track_caller]
    fn check(wanted: Option<Kept>, current: Option<(&str, bool)>, (synced, at_start): (bool, bool), expect: &str) {
        let current = current.map(|(managed, changed)| self::current(managed, changed));
        let step = plan(wanted.map(local).as_ref(), current.as_ref(), Before { synced, at_start });
        let name = match step {
            Step::Nothing => "nothing",
            Step::Create(_) => "create",
            Step::Update(_) => "update",
            Step::Delete { .. } => "delete",
        };
        assert_eq!(name, expect);
    }

    #[test]
    fn what_is_kept_always_is_made_put_right_and_removed() {
        let always = Some(Kept::Always);
        check(always, None, (false, false), "create");
        check(always, None, (true, false), "create");
        check(always, Some(("true", false)), (true, true), "nothing");
        check(always, Some(("true", true)), (true, true), "update");
        check(None, Some(("true", false)), (true, true), "delete");
        check(None, None, (false, false), "nothing");
    }

    #[test]
    fn what_is_kept_on_start_is_left_alone_afterwards() {
        let once = Some(Kept::OnStart);
        check(once, None, (false, false), "create");
        check(once, None, (true, false), "nothing");
        check(once, Some(("onstart", true)), (false, true), "update");
        check(once, Some(("onstart", true)), (true, true), "nothing");
        check(None, Some(("onstart", false)), (false, true), "delete");
        check(None, Some(("onstart", false)), (false, false), "nothing");
    }

    #[test]
    fn what_somebody_else_made_is_never_touched() {
        for wanted in [None, Some(Kept::Always), Some(Kept::OnStart)] {
            check(wanted, Some(("", true)), (false, true), "nothing");
        }
    }

    #[test]
    fn every_built_in_group_version_has_one_but_those_that_others_may_answer() {
        let all = wanted(&Api::builtin().unwrap());
        for name in ["v1.", "v1.apps", "v2.autoscaling", "v1.rbac.authorization.k8s.io"] {
            assert!(all.contains_key(name), "{name}");
        }
        for name in ["v1.apiregistration.k8s.io", "v1beta1.metrics.k8s.io"] {
            assert!(!all.contains_key(name), "{name}");
        }
        assert_eq!(
            all["v1."].object().at(&["spec"]),
            Some(&object!({ "version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1 }))
        );
    }
}
