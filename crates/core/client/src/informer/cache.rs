//! The objects of an informer by key, with their indices. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fram_machinery::{Value, meta};

use super::IndexFn;

struct Index {
    name: &'static str,
    values: IndexFn,
    keys: HashMap<String, BTreeSet<String>>,
}

pub(super) struct Cache {
    objects: BTreeMap<String, Arc<Value>>,
    indices: Vec<Index>,
}

impl Cache {
    pub(super) fn new(indices: Vec<(&'static str, IndexFn)>) -> Self {
        let index = |(name, values)| Index { name, values, keys: HashMap::new() };
        Self { objects: BTreeMap::new(), indices: indices.into_iter().map(index).collect() }
    }

    pub(super) fn get(&self, key: &str) -> Option<Arc<Value>> {
        self.objects.get(key).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Value>)> {
        self.objects.iter().map(|(key, object)| (key.as_str(), object))
    }

    pub(super) fn list(&self) -> Vec<Arc<Value>> {
        self.objects.values().cloned().collect()
    }

    pub(super) fn by_namespace(&self, namespace: &str) -> Vec<Arc<Value>> {
        let from = format!("{namespace}/");
        let within = self.objects.range(from.clone()..).take_while(|(key, _)| key.starts_with(&from));
        within.map(|(_, object)| object.clone()).collect()
    }

    pub(super) fn by_index(&self, name: &str, value: &str) -> Vec<Arc<Value>> {
        let keys = self.indices.iter().find(|i| i.name == name).and_then(|i| i.keys.get(value));
        keys.into_iter().flatten().filter_map(|key| self.get(key)).collect()
    }

    /// Puts or removes (None) an object and returns what stood there.
    pub(super) fn replace(&mut self, key: &str, new: Option<Arc<Value>>) -> Option<Arc<Value>> {
        let old = match &new {
            Some(object) => self.objects.insert(key.to_string(), object.clone()),
            None => self.objects.remove(key),
        };
        for index in &mut self.indices {
            for value in old.as_deref().map(|o| (index.values)(o)).into_iter().flatten() {
                if let Some(keys) = index.keys.get_mut(&value) {
                    keys.remove(key);
                    if keys.is_empty() {
                        index.keys.remove(&value);
                    }
                }
            }
            for value in new.as_deref().map(|o| (index.values)(o)).into_iter().flatten() {
                index.keys.entry(value).or_default().insert(key.to_string());
            }
        }
        old
    }

    /// What a complete list means for the cache: objects that are new or of another version, and those that are gone.
    /// A name that carries another uid is one change; its reader tells the two objects apart by their uids.
    pub(super) fn plan_relist(&self, items: Vec<Arc<Value>>) -> Vec<(String, Option<Arc<Value>>)> {
        let mut changes = Vec::new();
        let mut listed = BTreeSet::new();
        for item in items {
            let key = meta::key(&item);
            listed.insert(key.clone());
            let same =
                |old: &Arc<Value>| meta::resource_version(old) == meta::resource_version(&item) && meta::uid(old) == meta::uid(&item);
            if !self.objects.get(&key).is_some_and(same) {
                changes.push((key, Some(item)));
            }
        }
        let gone = self.objects.keys().filter(|key| !listed.contains(*key));
        changes.extend(gone.map(|key| (key.clone(), None)));
        changes
    }
}
