//! What a controller wrote and the cache may not show yet. No I/O; the time is handed in.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use fram_machinery::{Value, meta};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::SETTLE;

pub(super) struct Entry {
    name: String,
    uid: String,
    /// None: it was deleted.
    object: Option<Arc<Value>>,
    at: Instant,
}

/// By namespace and name.
#[derive(Default)]
pub(super) struct Written {
    entries: Mutex<HashMap<String, HashMap<String, Arc<Entry>>>>,
    /// Namespaces in which something may have been made that nobody was told of, each with a number of its own.
    doubts: Mutex<(u64, HashMap<String, u64>)>,
}

/// Resource versions are numbers in one order; see KEP-5504.
fn version(object: &Value) -> u64 {
    meta::resource_version(object).parse().unwrap_or(0)
}

impl Entry {
    /// Whether the cache has what was written, or something later.
    fn is_in(&self, cached: Option<&Value>) -> bool {
        match (&self.object, cached) {
            (Some(written), Some(cached)) => version(cached) >= version(written),
            (Some(_), None) => false,
            (None, Some(cached)) => meta::uid(cached) != self.uid,
            (None, None) => true,
        }
    }
}

impl Written {
    pub(super) fn doubt(&self, namespace: &str) {
        let mut doubts = self.doubts.lock();
        doubts.0 += 1;
        let number = doubts.0;
        doubts.1.insert(namespace.into(), number);
    }

    pub(super) fn doubt_of(&self, namespace: &str) -> Option<u64> {
        self.doubts.lock().1.get(namespace).copied()
    }

    /// Until then every owner in the namespace asks for itself; a doubt that came meanwhile stays.
    pub(super) fn dispelled(&self, namespace: &str, doubt: u64) {
        let mut doubts = self.doubts.lock();
        if doubts.1.get(namespace) == Some(&doubt) {
            doubts.1.remove(namespace);
        }
    }

    pub(super) fn note(&self, object: Arc<Value>, now: Instant) {
        let (namespace, name) = (meta::namespace(&object).to_string(), meta::name(&object).to_string());
        let mut entries = self.entries.lock();
        let here = entries.entry(namespace).or_default();
        if here.get(&name).and_then(|e| e.object.as_ref()).is_some_and(|o| version(o) > version(&object)) {
            return;
        }
        let uid = meta::uid(&object).to_string();
        here.insert(name.clone(), Arc::new(Entry { name, uid, object: Some(object), at: now }));
    }

    pub(super) fn note_gone(&self, object: &Value, now: Instant) {
        let name = meta::name(object).to_string();
        let entry = Arc::new(Entry { name: name.clone(), uid: meta::uid(object).to_string(), object: None, at: now });
        self.entries.lock().entry(meta::namespace(object).into()).or_default().insert(name, entry);
    }

    pub(super) fn forget(&self, namespace: &str, name: &str) {
        let mut entries = self.entries.lock();
        if let Some(here) = entries.get_mut(namespace) {
            here.remove(name);
            if here.is_empty() {
                entries.remove(namespace);
            }
        }
    }

    /// The newer of what was written and what the cache has. The cache is read after what was written, which is forgotten only
    /// when the cache has it.
    pub(super) fn newest(&self, namespace: &str, name: &str, cached: impl Fn() -> Option<Arc<Value>>) -> Option<Arc<Value>> {
        let mut entries = self.entries.lock();
        let Some(here) = entries.get_mut(namespace) else { return cached() };
        let Some(entry) = here.get(name).cloned() else { return cached() };
        let cached = cached();
        if entry.is_in(cached.as_deref()) {
            here.remove(name);
            return cached;
        }
        match &entry.object {
            // An object that the cache does not know was deleted by someone else, if it is not new.
            Some(_) if cached.is_none() && entry.at.elapsed() >= SETTLE => {
                here.remove(name);
                None
            }
            object => object.clone(),
        }
    }

    /// Forgets what the cache confirms; gives the names of those that it should have confirmed long ago.
    pub(super) fn late(&self, namespace: &str, now: Instant, cached: impl Fn(&str) -> Option<Arc<Value>>) -> Vec<String> {
        let mut entries = self.entries.lock();
        let Some(here) = entries.get_mut(namespace) else { return Vec::new() };
        here.retain(|name, entry| !entry.is_in(cached(name).as_deref()));
        let late = here.iter().filter(|(_, e)| now.duration_since(e.at) >= SETTLE).map(|(n, _)| n.clone()).collect();
        if here.is_empty() {
            entries.remove(namespace);
        }
        late
    }

    /// What was written and the cache may not have, to be asked for before the cache is read.
    pub(super) fn pending(&self, namespace: &str) -> Vec<Arc<Entry>> {
        self.entries.lock().get(namespace).into_iter().flat_map(|here| here.values().cloned()).collect()
    }
}

/// Replaces in what was found in the cache what was written since, adds what is new and takes out what is gone. True where the
/// cache is behind. `cached` is newer than `found`, and may have what `found` has not.
pub(super) fn cover(pending: &[Arc<Entry>], found: &mut Vec<Arc<Value>>, cached: impl Fn(&str) -> Option<Arc<Value>>) -> bool {
    let mut behind = false;
    let written: HashSet<&str> = pending.iter().map(|entry| entry.name.as_str()).collect();
    found.retain(|o| !written.contains(meta::name(o)));
    for entry in pending {
        let now = cached(&entry.name);
        let confirmed = entry.is_in(now.as_deref());
        behind |= !confirmed;
        found.extend(if confirmed { now } else { entry.object.clone() });
    }
    behind
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn pod(name: &str, version: i64) -> Arc<Value> {
        Arc::new(object!({ "metadata": { "namespace": "ns", "name": name, "uid": name, "resourceVersion": (version.to_string()) } }))
    }

    fn names(found: &[Arc<Value>]) -> Vec<String> {
        found.iter().map(|o| format!("{}@{}", meta::name(o), meta::resource_version(o))).collect()
    }

    #[test]
    fn what_was_written_covers_the_cache_until_it_catches_up() {
        let written = Written::default();
        let now = Instant::now();
        written.note(pod("a", 5), now);
        let mut found = vec![];
        assert!(cover(&written.pending("ns"), &mut found, |_| None));
        assert_eq!(names(&found), ["a@5"]);
        let mut found = vec![pod("a", 3)];
        assert!(cover(&written.pending("ns"), &mut found, |_| Some(pod("a", 3))));
        assert_eq!(names(&found), ["a@5"]);
        let mut found = vec![pod("a", 7)];
        assert!(!cover(&written.pending("ns"), &mut found, |_| Some(pod("a", 7))));
        assert_eq!(names(&found), ["a@7"]);
    }

    #[test]
    fn what_was_deleted_is_not_seen_again_but_its_successor_is() {
        let written = Written::default();
        written.note_gone(&pod("a", 5), Instant::now());
        let mut found = vec![pod("a", 5), pod("b", 2)];
        assert!(cover(&written.pending("ns"), &mut found, |_| Some(pod("a", 5))));
        assert_eq!(names(&found), ["b@2"]);
        let mut successor = (*pod("a", 9)).clone();
        successor.set(&["metadata", "uid"], "other");
        let successor = Arc::new(successor);
        let mut found = vec![successor.clone()];
        assert!(!cover(&written.pending("ns"), &mut found, |_| Some(successor.clone())));
        assert_eq!(names(&found), ["a@9"]);
    }

    #[test]
    fn what_the_cache_learns_after_it_was_looked_through_is_not_lost() {
        let written = Written::default();
        written.note(pod("a", 5), Instant::now());
        let (pending, mut found) = (written.pending("ns"), vec![]);
        assert!(written.late("ns", Instant::now(), |_| Some(pod("a", 5))).is_empty());
        assert!(!cover(&pending, &mut found, |_| Some(pod("a", 6))));
        assert_eq!(names(&found), ["a@6"]);
    }

    #[test]
    fn a_write_that_the_cache_never_shows_is_reported_late_once_and_can_be_forgotten() {
        let written = Written::default();
        let now = Instant::now();
        written.note(pod("a", 5), now);
        assert!(written.late("ns", now, |_| None).is_empty());
        assert_eq!(written.late("ns", now + SETTLE, |_| None), ["a"]);
        written.forget("ns", "a");
        assert!(written.late("ns", now + SETTLE, |_| None).is_empty());
    }
}
