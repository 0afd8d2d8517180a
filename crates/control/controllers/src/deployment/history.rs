//! Revisions of a Deployment. Pure.

use std::sync::Arc;

use fram_machinery::{Value, meta};

use super::plan::{DESIRED, MAX, REVISION, Set};

const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

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
    let own = [LAST_APPLIED, REVISION, HISTORY, DESIRED, MAX, "deprecated.deployment.rollback.to"];
    let all = deployment.at(&["metadata", "annotations"]).and_then(Value::as_map).cloned().unwrap_or_default();
    for (key, value) in all.iter().filter(|(k, _)| !own.contains(&k.as_str())) {
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
