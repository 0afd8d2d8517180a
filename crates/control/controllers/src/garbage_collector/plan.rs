//! What becomes of an object by its owners and dependents. Pure.

use std::sync::Arc;

use fram_client::Propagation;
use fram_machinery::{Value, meta};

use super::{FOREGROUND, ORPHAN};

/// What an owner reference leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Solid,
    /// Terminates in the foreground and may wait for this dependent.
    Waiting,
    Absent,
    /// Of a kind that nobody here knows: nothing is concluded from it.
    Unknown,
    /// In some namespace, which an object without one cannot say: nothing is ever concluded from it.
    Unreachable,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The object itself goes.
    Delete(Propagation),
    /// References to these owners go.
    DropReferences(Vec<String>),
    /// The dependent at this place goes, and its own dependents before it.
    DeleteDependent(usize),
    OrphanDependents,
    /// The object's owners need not wait for it any more.
    Unblock,
    RemoveFinalizer(&'static str),
}

/// `owners` are in the order of the object's owner references; `circular` says that the object waits, over others, for itself.
pub(super) fn decide(object: &Value, owners: &[Owner], dependents: &[Arc<Value>], circular: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if meta::is_terminating(object) {
        if meta::has_finalizer(object, ORPHAN) {
            steps.extend([Step::OrphanDependents, Step::RemoveFinalizer(ORPHAN)]);
        } else if meta::has_finalizer(object, FOREGROUND) {
            steps.extend(foreground(object, dependents));
            let blocks = |r: &Value| r.bool_at(&["blockOwnerDeletion"]) == Some(true);
            if circular && meta::owner_references(object).iter().any(blocks) {
                steps.push(Step::Unblock);
            }
        }
        return steps;
    }
    let references = meta::owner_references(object);
    if references.is_empty() || owners.iter().any(|owner| matches!(owner, Owner::Unknown | Owner::Unreachable)) {
        return steps;
    }
    let gone: Vec<String> = references
        .iter()
        .zip(owners)
        .filter(|(_, owner)| matches!(owner, Owner::Absent | Owner::Waiting))
        .map(|(r, _)| r.str_at(&["uid"]).to_string())
        .collect();
    if owners.contains(&Owner::Solid) {
        if !gone.is_empty() {
            steps.push(Step::DropReferences(gone));
        }
        return steps;
    }
    let waited_for = owners.contains(&Owner::Waiting) && !dependents.is_empty();
    // What somebody has asked of the object's own dependents is kept.
    let propagation = match waited_for {
        true => Propagation::Foreground,
        false if meta::has_finalizer(object, ORPHAN) => Propagation::Orphan,
        false if meta::has_finalizer(object, FOREGROUND) => Propagation::Foreground,
        false => Propagation::Background,
    };
    steps.push(Step::Delete(propagation));
    steps
}

/// An object in foreground deletion deletes its dependents and waits for those that block it.
fn foreground(object: &Value, dependents: &[Arc<Value>]) -> Vec<Step> {
    let blocks = |d: &Arc<Value>| {
        let to_owner = meta::owner_references(d).iter().find(|r| r.str_at(&["uid"]) == meta::uid(object));
        to_owner.is_some_and(|r| r.bool_at(&["blockOwnerDeletion"]) == Some(true))
    };
    if !dependents.iter().any(blocks) {
        return vec![Step::RemoveFinalizer(FOREGROUND)];
    }
    let others = |d: &Arc<Value>| meta::owner_references(d).len() > 1;
    // A dependent with another owner decides for itself when it is looked at.
    dependents.iter().enumerate().filter(|(_, d)| !meta::is_terminating(d) && !others(d)).map(|(i, _)| Step::DeleteDependent(i)).collect()
}

/// Whether nothing has changed by which an object goes or stays; what failed before is tried again by itself.
pub(super) fn stands_the_same(old: &Value, new: &Value) -> bool {
    let same = |field: &str| old.at(&["metadata", field]) == new.at(&["metadata", field]);
    ["uid", "ownerReferences", "deletionTimestamp", "finalizers"].into_iter().all(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn owned(uids: &[&str]) -> Value {
        let refs: Vec<Value> = uids.iter().map(|u| object!({ "uid": (*u), "blockOwnerDeletion": true })).collect();
        object!({ "metadata": { "name": "x", "uid": "x", "ownerReferences": refs } })
    }

    fn ending(finalizer: &str) -> Value {
        object!({ "metadata": { "uid": "o", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer] } })
    }

    #[test]
    fn a_dependent_without_owners_left_is_deleted() {
        assert_eq!(decide(&owned(&["a", "b"]), &[Owner::Absent, Owner::Absent], &[], false), [Step::Delete(Propagation::Background)]);
        assert_eq!(decide(&owned(&["a", "b"]), &[Owner::Absent, Owner::Solid], &[], false), [Step::DropReferences(vec!["a".into()])]);
        assert_eq!(decide(&owned(&["a"]), &[Owner::Solid], &[], false), []);
        assert_eq!(decide(&owned(&["a"]), &[Owner::Unknown], &[], false), []);
        for (finalizer, propagation) in [(ORPHAN, Propagation::Orphan), (FOREGROUND, Propagation::Foreground)] {
            let mut object = owned(&["a"]);
            meta::add_finalizer(&mut object, finalizer);
            assert_eq!(decide(&object, &[Owner::Absent], &[], false), [Step::Delete(propagation)]);
        }
    }

    #[test]
    fn an_owner_in_the_foreground_waits_for_those_that_block_it() {
        let blocking = Arc::new(owned(&["o"]));
        assert_eq!(decide(&ending(FOREGROUND), &[], &[blocking], false), [Step::DeleteDependent(0)]);
        let mut free = owned(&["o"]);
        free.set(&["metadata", "ownerReferences"], object!([{ "uid": "o" }]));
        assert_eq!(decide(&ending(FOREGROUND), &[], &[Arc::new(free)], false), [Step::RemoveFinalizer(FOREGROUND)]);
    }

    #[test]
    fn a_circle_is_broken_by_those_in_it() {
        let mut object = ending(FOREGROUND);
        object.set(&["metadata", "ownerReferences"], object!([{ "uid": "x", "blockOwnerDeletion": true }]));
        let mut dependent = owned(&["o"]);
        dependent.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
        let dependents = [Arc::new(dependent)];
        assert_eq!(decide(&object, &[Owner::Waiting], &dependents, false), []);
        assert_eq!(decide(&object, &[Owner::Waiting], &dependents, true), [Step::Unblock]);
    }

    #[test]
    fn an_owner_that_orphans_lets_its_dependents_go_first() {
        assert_eq!(decide(&ending(ORPHAN), &[], &[], false), [Step::OrphanDependents, Step::RemoveFinalizer(ORPHAN)]);
    }

    #[test]
    fn only_what_owns_an_object_and_what_keeps_it_matters() {
        let before = object!({ "metadata": { "uid": "u", "resourceVersion": "1", "ownerReferences": [{ "uid": "o" }] }, "spec": {} });
        let table: [(&[&str], Value, bool); 7] = [
            (&["metadata", "resourceVersion"], "2".into(), true),
            (&["spec", "renewTime"], "now".into(), true),
            (&["metadata", "labels"], object!({ "a": "b" }), true),
            (&["metadata", "uid"], "another".into(), false),
            (&["metadata", "ownerReferences"], object!([{ "uid": "o", "blockOwnerDeletion": true }]), false),
            (&["metadata", "finalizers"], object!([ORPHAN]), false),
            (&["metadata", "deletionTimestamp"], "now".into(), false),
        ];
        for (path, value, expect) in table {
            let mut after = before.clone();
            after.set(path, value);
            assert_eq!(stands_the_same(&before, &after), expect, "{path:?}");
        }
    }
}
