//! Revisions of a Deployment. Pure.

use std::sync::Arc;

use fram_machinery::{Value, meta};

use super::plan::{DESIRED, HASH, MAX, REVISION, Set, current_set, same_template};

const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const ROLL_BACK: &str = "deprecated.deployment.rollback.to";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Annotations that are a Deployment's or a set's own, and not copied from one to the other.
const OWN: [&str; 6] = [LAST_APPLIED, REVISION, HISTORY, DESIRED, MAX, ROLL_BACK];

fn revision_of(set: &Value) -> i64 {
    meta::annotation(set, REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// The revision of the current template: one more than any other set's, unless it has it already.
pub(super) fn revision(sets: &[Arc<Value>], current: Option<&Value>) -> String {
    let others = sets.iter().filter(|s| current.is_none_or(|c| meta::uid(c) != meta::uid(s)));
    let highest = others.map(|s| revision_of(s)).max().unwrap_or(0);
    let own = current.map_or(0, revision_of);
    own.max(highest + 1).to_string()
}

/// Notes a set's revision, and the one it had before.
pub(super) fn note_revision(set: &mut Value, revision: &str) {
    let before = meta::annotation(set, REVISION).map(String::from);
    if before.as_deref() == Some(revision) {
        return;
    }
    if let Some(before) = before {
        let history = meta::annotation(set, HISTORY).unwrap_or_default();
        let all = if history.is_empty() { before } else { format!("{history},{before}") };
        meta::set_annotation(set, HISTORY, &all);
    }
    meta::set_annotation(set, REVISION, revision);
}

/// The Deployment's annotations are its sets', but for those that are about one of the two only.
pub(super) fn copy_annotations(deployment: &Value, set: &mut Value) {
    let all = deployment.at(&["metadata", "annotations"]).and_then(Value::as_map).cloned().unwrap_or_default();
    for (key, value) in all.iter().filter(|(k, _)| !OWN.contains(&k.as_str())) {
        set.place(&["metadata", "annotations"]).make_map().insert(key.clone(), value.clone());
    }
}

/// Old sets without pods beyond the history limit, the oldest first.
pub(super) fn surplus(deployment: &Value, sets: &[Set]) -> Vec<String> {
    let limit = usize::try_from(deployment.int_at(&["spec", "revisionHistoryLimit"]).unwrap_or(10)).unwrap_or(0);
    let idle = |s: &&Set| {
        let status = s.object.int_at(&["status", "replicas"]).unwrap_or(0);
        let seen = s.object.int_at(&["status", "observedGeneration"]).unwrap_or(0) >= meta::generation(&s.object);
        !s.is_new && s.replicas == 0 && status == 0 && seen && !meta::is_terminating(&s.object)
    };
    let mut old: Vec<&Set> = sets.iter().filter(idle).collect();
    old.sort_by_key(|s| (revision_of(&s.object), s.created().to_string()));
    let count = old.len().saturating_sub(limit);
    old.into_iter().take(count).map(|s| meta::name(&s.object).to_string()).collect()
}

/// What people are told of a roll-back: whether it is a warning, the reason, and the message.
pub(super) type Told = (bool, &'static str, String);

/// The Deployment as it is after the roll-back that it asks for, by the field that its oldest version had and later ones keep as an
/// annotation: with the template and annotations of the set of that revision, 0 for the last one. None where it asks for none, or
/// its template has no set yet.
pub(super) fn roll_back(deployment: &Value, sets: &[Arc<Value>]) -> Option<(Value, Told)> {
    let wanted: i64 = meta::annotation(deployment, ROLL_BACK)?.parse().ok()?;
    current_set(deployment, sets)?;
    let mut out = deployment.clone();
    out.remove(&["metadata", "annotations", ROLL_BACK]);
    let not_found = |about: &str| (true, "DeploymentRollbackRevisionNotFound", about.to_string());
    let mut revisions: Vec<i64> = sets.iter().map(|set| revision_of(set)).collect();
    revisions.sort_unstable();
    let last = revisions.iter().rev().nth(1).copied().unwrap_or(0);
    let Some(wanted) = Some(if wanted == 0 { last } else { wanted }).filter(|revision| *revision != 0) else {
        return Some((out, not_found("Unable to find last revision.")));
    };
    let Some(set) = sets.iter().find(|set| revision_of(set) == wanted) else {
        return Some((out, not_found("Unable to find the revision to rollback to.")));
    };
    let name = meta::name(deployment);
    if same_template(set, deployment) {
        let about = format!("The rollback revision contains the same template as current deployment {name:?}");
        return Some((out, (true, "DeploymentRollbackTemplateUnchanged", about)));
    }
    let mut template = set.at(&["spec", "template"]).cloned().unwrap_or_default();
    template.remove(&["metadata", "labels", HASH]);
    out.set(&["spec", "template"], template);
    let annotations = out.place(&["metadata", "annotations"]).make_map();
    annotations.retain(|key, _| OWN.contains(&key.as_str()));
    let of_set = set.at(&["metadata", "annotations"]).and_then(Value::as_map).cloned().unwrap_or_default();
    for (key, value) in of_set.iter().filter(|(key, _)| !OWN.contains(&key.as_str())) {
        annotations.insert(key.clone(), value.clone());
    }
    Some((out, (false, "DeploymentRollback", format!("Rolled back deployment {name:?} to revision {wanted}"))))
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn template(image: &str) -> Value {
        object!({ "metadata": { "labels": { "app": "x" } }, "spec": { "containers": [{ "image": image }] } })
    }

    fn object(image: &str, template: Value, annotations: &[(&str, &str)]) -> Value {
        let mut object = object!({ "metadata": { "name": image, "uid": image }, "spec": { "template": template } });
        annotations.iter().for_each(|(key, value)| meta::set_annotation(&mut object, key, value));
        object
    }

    fn set(revision: &str, image: &str) -> Arc<Value> {
        let mut template = template(image);
        meta::set_label(&mut template, HASH, image);
        Arc::new(object(image, template, &[(REVISION, revision), ("cause", image)]))
    }

    #[test]
    fn a_deployment_is_rolled_back_to_the_template_of_a_revision() {
        let sets = [set("1", "one"), set("3", "three"), set("2", "two")];
        // (what is asked for, the image then, the reason)
        let table = [
            ("0", "two", "DeploymentRollback"),
            ("1", "one", "DeploymentRollback"),
            ("3", "three", "DeploymentRollbackTemplateUnchanged"),
            ("9", "three", "DeploymentRollbackRevisionNotFound"),
        ];
        for (asked, image, reason) in table {
            let deployment = object("d", template("three"), &[(ROLL_BACK, asked), (REVISION, "3"), ("cause", "three"), ("own", "x")]);
            let (after, told) = roll_back(&deployment, &sets).unwrap();
            assert_eq!((told.0, told.1), (reason != "DeploymentRollback", reason), "{asked}");
            assert_eq!(after.at(&["spec", "template"]), Some(&template(image)), "{asked}");
            assert_eq!([ROLL_BACK, REVISION, "cause"].map(|key| meta::annotation(&after, key)), [None, Some("3"), Some(image)], "{asked}");
            assert_eq!(meta::annotation(&after, "own").is_none(), !told.0, "those that the set has not are gone");
            assert!(roll_back(&after, &sets).is_none(), "it is done once");
        }
        let asks = |image: &str| object("d", template(image), &[(ROLL_BACK, "0")]);
        assert!(roll_back(&asks("new"), &sets).is_none());
        assert_eq!(roll_back(&asks("one"), &sets[..1]).unwrap().1.2, "Unable to find last revision.");
    }
}
