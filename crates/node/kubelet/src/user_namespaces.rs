//! Which users of the node those of a pod's own user namespace are (KEP-127): each pod has a range that no other has, and keeps it
//! for as long as it is here. See upstream's pkg/kubelet/userns.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use fram_cri::{IdMapping, NamespaceMode, RuntimeHandler, UserNamespace};
use fram_machinery::{Value, json, meta, object};
use parking_lot::Mutex;

use crate::config::KubeletConfig;
use crate::durable::{self, DurableError, Flush};

/// What is kept in the pod's directory; upstream's mappingsFile.
const FILE: &str = "userns";
/// Upstream's length of a range; what `idsPerPod` says is a multiple of it.
pub(crate) const RANGE: u32 = 65536;
/// Whose ranges the files of subordinate ids name, where an administrator has given the kubelet some.
const OWNER: &str = "kubelet";

#[derive(Debug, thiserror::Error)]
pub(crate) enum UserNamespaceError {
    #[error("no range of user ids is left: all {0} are in use")]
    Exhausted(u32),
    #[error(transparent)]
    Durable(#[from] DurableError),
}

/// Whether pods of a handler can have users of their own. Runtimes that know nothing of user namespaces would run them as the node's
/// users without a word; those that are old say nothing of their handlers.
pub(crate) fn supported(handlers: &[RuntimeHandler], name: &str) -> Result<(), String> {
    let found = handlers.iter().find(|handler| handler.name == name);
    let who = if name.is_empty() { "runtime".to_string() } else { format!("RuntimeClass handler {name:?}") };
    let refused = format!("can't set `spec.hostUsers: false`, {who} does not support user namespaces");
    match found {
        Some(handler) if handler.features.user_namespaces => Ok(()),
        None if !handlers.is_empty() => Err(format!("{refused}: the handler {name:?} is not known")),
        _ => Err(refused),
    }
}

/// The ids of a pod. Those that are here may be of another length than those that are given now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    length: u32,
}

impl Range {
    fn overlaps(&self, other: &Self) -> bool {
        let end = |range: &Self| u64::from(range.first) + u64::from(range.length);
        u64::from(self.first) < end(other) && u64::from(other.first) < end(self)
    }
}

/// The ids that pods may have: the first one, and how many ranges there are from it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pool {
    first: u32,
    length: u32,
    ranges: u32,
}

impl Pool {
    /// Behind those of the node itself, or what /etc/subuid and /etc/subgid give, if they agree.
    fn new(max_pods: u32, length: u32, subuid: &str, subgid: &str) -> Self {
        let own = subordinate(subuid).filter(|own| subordinate(subgid).as_ref() == Some(own));
        match own {
            Some((first, count)) if first >= RANGE && count >= length => Self { first, length, ranges: count / length },
            _ => Self { first: length, length, ranges: max_pods.min((u32::MAX - length) / length) },
        }
    }

    /// A range that nobody has. Where the search begins, the pod's UID says: pods of two nodes that share a file system should
    /// not be the same users.
    fn free(&self, given: &BTreeMap<String, Range>, uid: &str) -> Option<Range> {
        let mut hasher = DefaultHasher::new();
        uid.hash(&mut hasher);
        let start = hasher.finish() % u64::from(self.ranges.max(1));
        let all = (0..u64::from(self.ranges)).map(|n| ((start + n) % u64::from(self.ranges)) as u32);
        let range = |n: u32| Range { first: self.first + n * self.length, length: self.length };
        all.map(range).find(|range| !given.values().any(|taken| taken.overlaps(range)))
    }
}

/// The kubelet's range in a file of subordinate ids.
fn subordinate(text: &str) -> Option<(u32, u32)> {
    let mut fields = text.lines().find(|line| line.split(':').next() == Some(OWNER))?.split(':').skip(1);
    Some((fields.next()?.trim().parse().ok()?, fields.next()?.trim().parse().ok()?))
}

pub(crate) struct UserNamespaces {
    pool: Pool,
    pods: PathBuf,
    given: Mutex<BTreeMap<String, Range>>,
}

impl UserNamespaces {
    /// Takes up who has what.
    pub(crate) fn open(config: &KubeletConfig) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let pool = Pool::new(config.max_pods, config.ids_per_pod, &read("/etc/subuid"), &read("/etc/subgid"));
        let pods = config.root_dir.join("pods");
        let mut given = BTreeMap::new();
        for entry in std::fs::read_dir(&pods).into_iter().flatten().flatten() {
            if let Some(range) = recorded(&entry.path()) {
                given.insert(entry.file_name().to_string_lossy().into_owned(), range);
            }
        }
        Self { pool, pods, given: Mutex::new(given) }
    }

    /// The pod's mapping, which it keeps; None where it is in the node's user namespace.
    pub(crate) fn take(&self, pod: &Value) -> Result<Option<UserNamespace>, UserNamespaceError> {
        if !is_own(pod) {
            return Ok(None);
        }
        let mut given = self.given.lock();
        let uid = meta::uid(pod);
        if let Some(range) = given.get(uid) {
            return Ok(Some(mapping(*range)));
        }
        let range = self.pool.free(&given, uid).ok_or(UserNamespaceError::Exhausted(self.pool.ranges))?;
        self.record(uid, range)?;
        given.insert(uid.to_string(), range);
        Ok(Some(mapping(range)))
    }

    pub(crate) fn release(&self, uid: &str) {
        self.given.lock().remove(uid);
    }

    fn record(&self, uid: &str, Range { first, length }: Range) -> Result<(), UserNamespaceError> {
        let path = self.pods.join(uid).join(FILE);
        let range = || object!([{ "hostId": (i64::from(first)), "containerId": 0, "length": (i64::from(length)) }]);
        let document = object!({ "uidMappings": (range()), "gidMappings": (range()) });
        Ok(durable::replace(&path, &json::to_vec(&document), Flush::Yes)?)
    }
}

fn mapping(Range { first, length }: Range) -> UserNamespace {
    let range = || vec![IdMapping { host_id: first, container_id: 0, length }];
    UserNamespace { mode: NamespaceMode::Pod, uids: range(), gids: range() }
}

/// Whether a pod asks for a user namespace of its own.
fn is_own(pod: &Value) -> bool {
    pod.bool_at(&["spec", "hostUsers"]) == Some(false)
}

fn recorded(pod_dir: &Path) -> Option<Range> {
    let document = json::from_slice(&std::fs::read(pod_dir.join(FILE)).ok()?).ok()?;
    let mapping = document.list_at(&["uidMappings"]).first()?;
    let number = |field: &str| mapping.int_at(&[field]).and_then(|n| u32::try_from(n).ok());
    Some(Range { first: number("hostId")?, length: number("length")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_does_not_say_that_it_has_user_namespaces_has_none() {
        let handler = |name: &str, user_namespaces: bool| {
            let features = fram_cri::RuntimeHandlerFeatures { user_namespaces, ..Default::default() };
            RuntimeHandler { name: name.into(), features }
        };
        let some = [handler("", true), handler("old", false)];
        assert_eq!(supported(&some, ""), Ok(()));
        for (handlers, name, told) in [
            (&some[..0], "", "runtime does not support user namespaces"),
            (&some, "old", "RuntimeClass handler \"old\" does not support user namespaces"),
            (&some, "no", "the handler \"no\" is not known"),
        ] {
            let why = supported(handlers, name).unwrap_err();
            assert!(why.starts_with("can't set `spec.hostUsers: false`, ") && why.ends_with(told), "{why}");
        }
    }

    #[test]
    fn ranges_lie_behind_the_nodes_own_ids_or_where_an_administrator_has_put_them() {
        let pool = |subuid: &str, subgid: &str| {
            let pool = Pool::new(110, RANGE, subuid, subgid);
            (pool.first, pool.ranges)
        };
        let given = "user:100000:65536\nkubelet:655360:131072\n";
        assert_eq!(pool("", ""), (65536, 110));
        assert_eq!(pool(given, given), (655_360, 2));
        for (subuid, subgid) in [(given, ""), ("kubelet:0:65536\n", "kubelet:0:65536\n"), ("kubelet:x\n", "kubelet:x\n")] {
            assert_eq!(pool(subuid, subgid), (65536, 110));
        }
        assert_eq!(Pool::new(u32::MAX, 1 << 30, "", "").ranges, 2);
    }

    #[test]
    fn the_first_pods_of_two_nodes_have_different_ranges() {
        let pool = Pool::new(110, RANGE, "", "");
        let first = |uid: &str| pool.free(&BTreeMap::new(), uid).unwrap().first;
        assert_ne!(first("3f1e0d9a-6f0a-4a52-9f5b-0b6f1f6a7c11"), first("b1c9e3d2-7a44-4c0e-8a37-52f9b0c3d6e8"));
    }

    #[test]
    fn no_range_reaches_into_one_of_another_length() {
        let pool = Pool::new(2, 2 * RANGE, "", "");
        let given = BTreeMap::from([("old".to_string(), Range { first: 3 * RANGE, length: RANGE })]);
        assert_eq!(pool.free(&given, "new"), Some(Range { first: 4 * RANGE, length: 2 * RANGE }));
    }

    #[test]
    fn a_pod_keeps_its_range_over_a_restart_and_no_other_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = KubeletConfig::new("n", Vec::new(), dir.path().into(), dir.path().into());
        config.max_pods = 2;
        let pod = |uid: &str, own: bool| object!({ "metadata": { "uid": uid }, "spec": { "hostUsers": (!own) } });
        for uid in ["a", "b", "c"] {
            std::fs::create_dir_all(config.pod_dir(uid)).unwrap();
        }
        let namespaces = UserNamespaces::open(&config);
        let first = |namespaces: &UserNamespaces, uid: &str| namespaces.take(&pod(uid, true)).map(|own| own.unwrap().uids[0].host_id);
        assert_eq!(namespaces.take(&pod("a", false)).unwrap(), None);
        let (a, b) = (first(&namespaces, "a").unwrap(), first(&namespaces, "b").unwrap());
        assert_eq!(std::collections::BTreeSet::from([a, b]), [65536, 131_072].into());
        assert!(first(&namespaces, "c").is_err());
        let namespaces = UserNamespaces::open(&config);
        assert_eq!(first(&namespaces, "b").unwrap(), b);
        namespaces.release("a");
        assert_eq!(first(&namespaces, "c").unwrap(), a);
    }
}
