//! Server-side apply: a manager states the fields it wants; they are merged into the object, what it stated before and
//! does not any more is removed, and fields of others are not taken without force.

use super::compare::{compare, index, stated};
use super::duplicate::duplicate;
use super::element::{Shape, name, shape};
use super::last_applied::left_by_client;
use super::managers::{Manager, Owner, read, stripped, within_reach, write};
use super::set::{FieldSet, PathElement};
use crate::schema::{Field, Schema, Type, TypeId};
use crate::value::Value;

/// A field that another manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub manager: Manager,
    /// As conflicts name it: `.spec.replicas`.
    pub field: String,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApplyError {
    #[error("Apply failed with {} conflict{}", .0.len(), if .0.len() == 1 { "" } else { "s" })]
    Conflicts(Vec<Conflict>),
    #[error("metadata.managedFields must be nil")]
    ManagedFields,
    /// An element of a list stands twice in the configuration.
    #[error("{0}")]
    Duplicate(String),
}

/// Applies a configuration to an object; `live` is the type's empty object where there is none yet. The answer carries
/// the new managedFields. Where the status is a subresource, what is stated of it reaches it through that alone.
pub fn apply(
    schema: &Schema,
    ty: TypeId,
    live: &Value,
    config: &Value,
    manager: &Manager,
    force: bool,
    has_status: bool,
    now: &str,
) -> Result<Value, ApplyError> {
    if config.at(&["metadata", "managedFields"]).is_some_and(|m| !m.is_empty()) {
        return Err(ApplyError::ManagedFields);
    }
    if let Some(found) = duplicate(schema, ty, config) {
        return Err(ApplyError::Duplicate(found));
    }
    let wanted = within_reach(stated(schema, ty, &stripped(config)), &manager.subresource, has_status);
    let mut owners = read(live);
    let before = owners.iter().position(|o| o.manager.is_same(manager));
    let last = before.map(|i| owners[i].fields.clone()).unwrap_or_default();
    let mut merged = merge_struct(schema, ty, live, config);
    let mut kept = wanted.clone();
    owners.iter().filter(|o| !o.manager.is_same(manager)).for_each(|o| kept.absorb(&o.fields));
    prune_struct(schema, ty, &mut merged, &last.difference(&wanted), &kept);
    for field in ["apiVersion", "kind"] {
        if let Some(kept) = live.get(field).or(config.get(field)) {
            merged.set(&[field], kept.clone());
        }
    }
    let difference = compare(schema, ty, &stripped(live), &stripped(&merged));
    let taken = difference.added.union(&difference.modified);
    if !force {
        refuse_conflicts(&owners, manager, &taken, || left_by_client(schema, ty, live, manager))?;
    }
    for owner in owners.iter_mut().filter(|o| !o.manager.is_same(manager)) {
        owner.fields = owner.fields.difference(&taken).difference(&difference.removed);
    }
    match before {
        Some(i) if owners[i].manager == *manager && owners[i].fields == wanted && difference.is_empty() => {}
        Some(i) => owners[i] = Owner { manager: manager.clone(), time: now.into(), fields: wanted },
        None => owners.push(Owner { manager: manager.clone(), time: now.into(), fields: wanted }),
    }
    write(&mut merged, owners);
    Ok(merged)
}

/// Fails where others own what is taken, but for what is free to be taken.
fn refuse_conflicts(owners: &[Owner], manager: &Manager, taken: &FieldSet, free: impl Fn() -> FieldSet) -> Result<(), ApplyError> {
    let others = owners.iter().filter(|o| !o.manager.is_same(manager)).map(|o| (o, o.fields.intersection(taken)));
    let held: Vec<(&Owner, FieldSet)> = others.filter(|(_, fields)| !fields.is_empty()).collect();
    if held.is_empty() {
        return Ok(());
    }
    let free = free();
    let of = |(owner, fields): (&Owner, FieldSet)| -> Vec<Conflict> {
        let paths = fields.difference(&free).paths().into_iter();
        paths.map(|field| Conflict { manager: owner.manager.clone(), field }).collect()
    };
    let conflicts: Vec<Conflict> = held.into_iter().flat_map(of).collect();
    if conflicts.is_empty() { Ok(()) } else { Err(ApplyError::Conflicts(conflicts)) }
}

pub(super) fn merge_struct(schema: &Schema, id: TypeId, live: &Value, config: &Value) -> Value {
    let mut out = live.as_map().cloned().unwrap_or_default();
    for (key, wanted) in config.as_map().into_iter().flat_map(|m| m.iter()) {
        let merged = match schema.get(id).type_of(key) {
            Some((ty, field)) => merge_value(schema, ty, field, out.get(key), wanted),
            None => wanted.clone(),
        };
        out.insert(key.clone(), merged);
    }
    Value::Map(out)
}

fn merge_value(schema: &Schema, ty: &Type, field: Option<&Field>, live: Option<&Value>, wanted: &Value) -> Value {
    let Some(live) = live.filter(|l| !l.is_null()) else { return wanted.clone() };
    if wanted.is_null() {
        return wanted.clone();
    }
    match shape(schema, ty, field, [Some(live), Some(wanted)]) {
        Shape::Leaf => wanted.clone(),
        Shape::Struct(id) => merge_struct(schema, id, live, wanted),
        Shape::Map(item) => {
            let mut out = live.as_map().cloned().unwrap_or_default();
            for (key, below) in wanted.as_map().into_iter().flat_map(|m| m.iter()) {
                let merged = merge_value(schema, item, None, out.get(key), below);
                out.insert(key.clone(), merged);
            }
            Value::Map(out)
        }
        Shape::List { item, field } => merge_list(schema, item, field, live, wanted),
    }
}

/// Elements that the configuration names stand in its order; the others keep their place before the next of them. See
/// structured-merge-diff's merge of lists.
fn merge_list(schema: &Schema, item: &Type, field: &Field, live: &Value, wanted: &Value) -> Value {
    let elements = |v: &Value| v.as_list().map_or(Vec::new(), |l| l.to_vec());
    let names = |list: &[Value]| -> Vec<Option<PathElement>> { list.iter().map(|e| name(schema, field, item, e)).collect() };
    let (live, wanted) = (elements(live), elements(wanted));
    let (live_names, wanted_names) = (names(&live), names(&wanted));
    let (live_index, wanted_index) = (index(&live_names), index(&wanted_names));
    let is_wanted = |n: &Option<PathElement>| n.as_ref().is_some_and(|n| wanted_index.contains_key(n));
    let mut out = Vec::new();
    let mut rest = live_names.iter().zip(&live).peekable();
    for (name, value) in wanted_names.iter().zip(&wanted) {
        let at = name.as_ref().and_then(|n| live_index.get(n)).map(|i| &live[*i]);
        if at.is_some() {
            // What stood before this element in the object goes on standing before it.
            while let Some((n, v)) = rest.next_if(|(n, _)| *n != name) {
                if !is_wanted(n) {
                    out.push(v.clone());
                }
            }
            rest.next_if(|(n, _)| *n == name);
        } else {
            // A new element comes after those of others that are next.
            out.extend(std::iter::from_fn(|| rest.next_if(|(n, _)| !is_wanted(n))).map(|(_, v)| v.clone()));
        }
        out.push(merge_value(schema, item, None, at, value));
    }
    out.extend(rest.filter(|(n, _)| !is_wanted(n)).map(|(_, v)| v.clone()));
    out.into()
}

fn prune_struct(schema: &Schema, id: TypeId, value: &mut Value, gone: &FieldSet, kept: &FieldSet) {
    for (step, node) in gone.children() {
        let PathElement::Field(key) = step else { continue };
        prune_entry(schema, schema.get(id).type_of(key), value, step, node, kept);
    }
}

/// Removes a map entry where nobody keeps any of it, else what is gone below it.
fn prune_entry(
    schema: &Schema,
    ty: Option<(&Type, Option<&Field>)>,
    value: &mut Value,
    step: &PathElement,
    gone: &FieldSet,
    kept: &FieldSet,
) {
    let PathElement::Field(key) = step else { return };
    let Value::Map(map) = value else { return };
    match kept.child(step) {
        None if gone.member => drop(map.remove(key)),
        below => {
            let nothing = FieldSet::default();
            if let (Some((ty, field)), Some(item)) = (ty, map.get_mut(key)) {
                prune_value(schema, ty, field, item, gone, below.unwrap_or(&nothing));
            }
        }
    }
}

fn prune_value(schema: &Schema, ty: &Type, field: Option<&Field>, value: &mut Value, gone: &FieldSet, kept: &FieldSet) {
    match shape(schema, ty, field, [Some(&*value)]) {
        Shape::Leaf => {}
        Shape::Struct(id) => prune_struct(schema, id, value, gone, kept),
        Shape::Map(item) => gone.children().for_each(|(step, node)| prune_entry(schema, Some((item, None)), value, step, node, kept)),
        Shape::List { item, field } => {
            let Value::List(_) = value else { return };
            let list = value.make_list();
            list.retain(|element| {
                let Some(step) = name(schema, field, item, element) else { return true };
                let Some(node) = gone.child(&step) else { return true };
                match kept.child(&step) {
                    None if node.member => false,
                    below => {
                        let nothing = FieldSet::default();
                        prune_value(schema, item, None, element, node, below.unwrap_or(&nothing));
                        true
                    }
                }
            });
        }
    }
}
