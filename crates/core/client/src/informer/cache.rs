//! The objects of an informer by key, with their indices. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use fram_machinery::{Text, Value, meta};

use super::IndexFn;

struct Index {
    name: &'static str,
    values: IndexFn,
    keys: HashMap<Text, BTreeSet<Arc<str>>>,
}

impl Index {
    /// Finds an object where it is found by its new state, and no longer by the former.
    fn replace(&mut self, key: &Arc<str>, old: Option<&Value>, new: Option<&Value>) {
        let values = |object: Option<&Value>| object.map(|o| (self.values)(o)).unwrap_or_default();
        let (before, after) = (values(old), values(new));
        if before == after {
            return;
        }
        for value in before {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
        for value in after {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }
}

pub(super) struct Cache {
    objects: BTreeMap<Arc<str>, Arc<Value>>,
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

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Value>)> {
        self.objects.iter()
    }

    pub(super) fn list(&self) -> Vec<Arc<Value>> {
        self.objects.values().cloned().collect()
    }

    pub(super) fn by_namespace(&self, namespace: &str) -> Vec<Arc<Value>> {
        let from = format!("{namespace}/");
        let within =
            self.objects.range::<str, _>((Bound::Included(from.as_str()), Bound::Unbounded)).take_while(|(key, _)| key.starts_with(&from));
        within.map(|(_, object)| object.clone()).collect()
    }

    pub(super) fn by_index(&self, name: &str, value: &str) -> Vec<Arc<Value>> {
        let keys = self.indices.iter().find(|i| i.name == name).and_then(|i| i.keys.get(value));
        keys.into_iter().flatten().filter_map(|key| self.get(key)).collect()
    }

    /// Puts or removes (None) an object and returns what stood there.
    pub(super) fn replace(&mut self, key: &Arc<str>, new: Option<Arc<Value>>) -> Option<Arc<Value>> {
        let old = match &new {
            Some(object) => self.objects.insert(key.clone(), object.clone()),
            None => self.objects.remove(key),
        };
        self.indices.iter_mut().for_each(|index| index.replace(key, old.as_deref(), new.as_deref()));
        old
    }

    /// What a complete list means for the cache: objects that are new or of another version, and those that are gone.
    /// A name that carries another uid is one change; its reader tells the two objects apart by their uids.
    pub(super) fn plan_relist(&self, items: Vec<Arc<Value>>) -> Vec<(Arc<str>, Option<Arc<Value>>)> {
        let mut changes = Vec::new();
        let mut listed = BTreeSet::new();
        for item in items {
            let key: Arc<str> = meta::key(&item).into();
            listed.insert(key.clone());
            let same =
                |old: &Arc<Value>| meta::resource_version(old) == meta::resource_version(&item) && meta::uid(old) == meta::uid(&item);
            if !self.objects.get(&*key).is_some_and(same) {
                changes.push((key, Some(item)));
            }
        }
        let gone = self.objects.keys().filter(|key| !listed.contains(*key));
        changes.extend(gone.map(|key| (key.clone(), None)));
        changes
    }
}
