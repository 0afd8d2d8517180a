//! Pruning and defaulting of objects by a structural schema. What a schema does not specify is dropped and reported; nulls
//! that may not be are dropped before defaults come in.

use std::fmt::Write;

use super::{Additional, Structural};
use crate::normalize::{self, TypeError};
use crate::schema::{Schema, TypeId};
use crate::value::{Entries, Key, List, Value};

/// A pruning under way.
pub(crate) struct Pruning<'a> {
    pub(crate) schema: &'a Schema,
    /// The type of the metadata of embedded resources.
    pub(crate) metadata: Option<TypeId>,
    pub(crate) path: String,
    pub(crate) unknown: &'a mut Vec<String>,
}

impl Pruning<'_> {
    fn step(&mut self, key: &str) -> usize {
        let back = self.path.len();
        if back > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        back
    }

    /// Drops from a value what its schema does not have. Where unknown fields are preserved, known ones below are pruned
    /// all the same.
    pub(crate) fn prune(&mut self, node: &Structural, value: Value) -> Result<Value, TypeError> {
        match value {
            Value::Map(map) => {
                let mut entries = Entries::with_capacity(map.len());
                for (key, item) in map.into_entries() {
                    let back = self.step(&key);
                    if let Some(item) = self.entry(node, &key, item)? {
                        entries.push((key, item));
                    }
                    self.path.truncate(back);
                }
                Ok(Value::Map(crate::Map::from_entries(entries)))
            }
            Value::List(list) => match &node.items {
                Some(items) => {
                    let mut out = List::with_capacity(list.len());
                    for (i, item) in list.into_iter().enumerate() {
                        let back = self.path.len();
                        // Writing to a String cannot fail.
                        let _ = write!(self.path, "[{i}]");
                        out.push(self.prune(items, item)?);
                        self.path.truncate(back);
                    }
                    Ok(out.into())
                }
                None => Ok(Value::List(list)),
            },
            scalar => Ok(scalar),
        }
    }

    fn entry(&mut self, node: &Structural, key: &Key, item: Value) -> Result<Option<Value>, TypeError> {
        if node.embedded {
            match (key.as_str(), self.metadata) {
                ("apiVersion" | "kind", _) => return Ok(Some(item)),
                ("metadata", Some(ty)) if item.as_map().is_some() => {
                    let decoded = normalize::decode_sparse(self.schema, ty, item)?;
                    self.unknown.extend(decoded.unknown.into_iter().map(|below| format!("{}.{below}", self.path)));
                    return Ok(Some(decoded.value));
                }
                ("metadata", _) => return Ok(Some(item)),
                _ => {}
            }
        }
        if let Some(below) = node.below(key) {
            return self.prune(below, item).map(Some);
        }
        if node.preserve || matches!(node.additional, Additional::Any) {
            return Ok(Some(item));
        }
        self.unknown.push(self.path.clone());
        Ok(None)
    }
}

impl Structural {
    /// Fills in defaults. A null where none may be is dropped first.
    pub fn apply_defaults(&self, value: &mut Value) {
        match value {
            Value::Map(map) => {
                for (name, below) in &self.properties {
                    let absent = match map.get(name) {
                        None => true,
                        Some(Value::Null) if !below.nullable => {
                            map.remove(name);
                            true
                        }
                        Some(_) => false,
                    };
                    if let Some(default) = below.default.as_ref().filter(|_| absent) {
                        map.insert(name.clone(), default.clone());
                    }
                    if map.get(name).is_some_and(|v| !v.is_null() && below.reaches_defaults())
                        && let Some(item) = map.get_mut(name)
                    {
                        below.apply_defaults(item);
                    }
                }
                if let Additional::Each(each) = &self.additional {
                    let others: Vec<Key> = map.keys().filter(|k| self.property(k).is_none()).cloned().collect();
                    for name in others {
                        if map.get(&name).is_some_and(Value::is_null) && !each.nullable {
                            map.remove(&name);
                            if let Some(default) = &each.default {
                                map.insert(name.clone(), default.clone());
                            }
                        }
                        if let Some(item) = map.get_mut(&name) {
                            each.apply_defaults(item);
                        }
                    }
                }
            }
            Value::List(_) => {
                if let Some(items) = self.items.as_ref().filter(|i| i.reaches_defaults()) {
                    value.make_list().make_mut().iter_mut().for_each(|item| items.apply_defaults(item));
                }
            }
            _ => {}
        }
    }

    /// Whether anything below may be defaulted, or be a null that has to go.
    fn reaches_defaults(&self) -> bool {
        !self.properties.is_empty() || self.items.is_some() || matches!(self.additional, Additional::Each(_))
    }
}
