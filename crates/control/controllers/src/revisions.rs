//! ControllerRevisions: the templates that a DaemonSet or StatefulSet has had, numbered.

use std::sync::Arc;

use fram_client::resources::CONTROLLER_REVISIONS;
use fram_client::{Client, DeleteOptions};
use fram_machinery::{Reason, Status, Value, json, meta, object};

use crate::objects::Objects;

/// On pods and revisions; see apps.ControllerRevisionHashLabelKey.
pub(crate) const HASH: &str = "controller-revision-hash";
/// Letters and digits that make no words; see rand.SafeEncodeString.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// What a revision holds of its owner: a patch that puts the template back.
pub(crate) fn data(owner: &Value) -> Value {
    let mut template = owner.at(&["spec", "template"]).cloned().unwrap_or_default();
    template.set(&["$patch"], "replace");
    object!({ "spec": { "template": template } })
}

/// The template that a revision holds.
pub(crate) fn template(revision: &Value) -> Value {
    let mut template = revision.at(&["data", "spec", "template"]).cloned().unwrap_or_default();
    template.remove(&["$patch"]);
    template
}

pub(crate) fn number(revision: &Value) -> i64 {
    revision.int_at(&["revision"]).unwrap_or(0)
}

/// A hash of what a revision holds, and of how often it collided. FNV-1a, written in the safe alphabet.
pub(crate) fn hash(data: &Value, collisions: i64) -> String {
    let mut bytes = json::to_vec(data);
    if collisions > 0 {
        bytes.extend(collisions.to_le_bytes());
    }
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    // The decimal digits of 32 bits, as upstream: names stay short.
    let folded = (hash ^ (hash >> 32)) as u32;
    folded.to_string().bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

/// What has to be done so that the owner's template is its newest revision.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// It is already.
    Is(Arc<Value>),
    /// An older one has come back.
    Renumber(Value),
    Create(Value),
}

pub(crate) fn decide(owner: &Value, all: &[Arc<Value>], collisions: i64) -> Step {
    let wanted = data(owner);
    let highest = all.iter().map(|r| number(r)).max().unwrap_or(0);
    let same = all.iter().filter(|r| r.get("data") == Some(&wanted)).max_by_key(|r| number(r));
    match same {
        Some(revision) if number(revision) == highest => Step::Is(revision.clone()),
        Some(revision) => {
            let mut next = (**revision).clone();
            next.set(&["revision"], highest + 1);
            Step::Renumber(next)
        }
        None => {
            let hash = hash(&wanted, collisions);
            let mut labels = owner.at(&["spec", "template", "metadata", "labels"]).and_then(Value::as_map).cloned().unwrap_or_default();
            labels.insert(HASH, hash.as_str());
            let mut annotations = owner.at(&["metadata", "annotations"]).and_then(Value::as_map).cloned().unwrap_or_default();
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            Step::Create(object!({ "apiVersion": "apps/v1", "kind": "ControllerRevision",
                "metadata": { "name": (format!("{}-{hash}", meta::name(owner))), "namespace": (meta::namespace(owner)), "labels": labels,
                    "annotations": annotations, "ownerReferences": [(meta::controller_reference(owner))] },
                "revision": (highest + 1), "data": wanted }))
        }
    }
}

/// Revisions that may go: those that are not `live`, beyond the owner's limit, the oldest first.
pub(crate) fn surplus(owner: &Value, all: &[Arc<Value>], live: impl Fn(&Value) -> bool) -> Vec<Arc<Value>> {
    let limit = usize::try_from(owner.int_at(&["spec", "revisionHistoryLimit"]).unwrap_or(10)).unwrap_or(0);
    let mut old: Vec<Arc<Value>> = all.iter().filter(|r| !live(r)).cloned().collect();
    old.sort_by_key(|r| number(r));
    old.truncate(old.len().saturating_sub(limit));
    old
}

/// The revision of the owner's template, written where it has to be. None: its name is another's, and the owner's count of
/// collisions has to grow.
pub(crate) async fn sync(
    revisions: &Objects,
    client: &Client,
    owner: &Value,
    all: &[Arc<Value>],
    collisions: i64,
) -> Result<Option<Arc<Value>>, Status> {
    match decide(owner, all, collisions) {
        Step::Is(revision) => Ok(Some(revision)),
        Step::Renumber(revision) => revisions.update(revision).await.map(Some),
        Step::Create(revision) => {
            let namespace = meta::namespace(owner);
            match revisions.create(namespace, revision.clone()).await {
                Err(status) if status.is(Reason::AlreadyExists) => {
                    let other = client.within(&CONTROLLER_REVISIONS, namespace).get(meta::name(&revision)).await?;
                    let mine = meta::controller_of(&other).is_some_and(|o| o.str_at(&["uid"]) == meta::uid(owner));
                    Ok((mine && other.get("data") == revision.get("data")).then_some(other))
                }
                made => made.map(Some),
            }
        }
    }
}

pub(crate) async fn delete(revisions: &Objects, surplus: &[Arc<Value>]) -> Result<(), Status> {
    for revision in surplus {
        revisions.delete(revision, DeleteOptions::default()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(image: &str) -> Value {
        object!({ "metadata": { "name": "web", "namespace": "ns", "uid": "u" }, "spec": { "revisionHistoryLimit": 1, "template": { "spec": { "image": image } } } })
    }

    fn made(image: &str, n: i64) -> Arc<Value> {
        let Step::Create(mut revision) = decide(&owner(image), &[], 0) else { panic!("no revision") };
        revision.set(&["revision"], n);
        Arc::new(revision)
    }

    #[test]
    fn a_template_is_one_revision_and_comes_back_with_a_new_number() {
        let all = [made("a", 1), made("b", 2)];
        assert_eq!(decide(&owner("b"), &all, 0), Step::Is(all[1].clone()));
        assert!(matches!(decide(&owner("a"), &all, 0), Step::Renumber(r) if number(&r) == 3 && meta::name(&r) == meta::name(&all[0])));
        assert!(
            matches!(decide(&owner("c"), &all, 0), Step::Create(r) if number(&r) == 3 && template(&r) == object!({ "spec": { "image": "c" } }))
        );
        assert_ne!(hash(&data(&owner("a")), 0), hash(&data(&owner("a")), 1));
    }

    #[test]
    fn the_oldest_revisions_beyond_the_limit_go_but_no_live_one() {
        let all = [made("c", 3), made("a", 1), made("b", 2)];
        let gone = surplus(&owner("c"), &all, |r| number(r) == 1);
        assert_eq!(gone.iter().map(|r| number(r)).collect::<Vec<_>>(), [2]);
    }
}
