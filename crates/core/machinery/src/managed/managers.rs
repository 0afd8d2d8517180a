//! The managers of an object and what each owns.

use super::compare::compare;
use super::set::{FieldSet, PathElement};
use crate::schema::{Schema, TypeId};
use crate::value::{Key, Value};
use crate::{Map, object};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Apply,
    Update,
}

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    pub name: String,
    pub operation: Operation,
    pub api_version: String,
    /// Empty for the object itself.
    pub subresource: String,
}

/// A manager with its fields.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Owner {
    pub(super) manager: Manager,
    pub(super) time: String,
    pub(super) fields: FieldSet,
}

/// More managers by update are folded into one; see capManagersManager.
const MOST_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// Reads an object's managedFields.
pub(super) fn read(object: &Value) -> Vec<Owner> {
    let entry = |e: &Value| Owner {
        manager: Manager {
            name: e.str_at(&["manager"]).into(),
            operation: if e.str_at(&["operation"]) == "Apply" { Operation::Apply } else { Operation::Update },
            api_version: e.str_at(&["apiVersion"]).into(),
            subresource: e.str_at(&["subresource"]).into(),
        },
        time: e.str_at(&["time"]).into(),
        fields: e.get("fieldsV1").map(FieldSet::from_value).unwrap_or_default(),
    };
    object.list_at(&["metadata", "managedFields"]).iter().map(entry).collect()
}

/// Writes an object's managedFields: appliers first, then by time and name.
pub(super) fn write(object: &mut Value, mut owners: Vec<Owner>) {
    owners.retain(|o| !o.fields.is_empty());
    fold_ancient(&mut owners);
    owners.sort_by(|a, b| {
        let order =
            |o: &Owner| (o.manager.operation == Operation::Update, o.time.clone(), o.manager.name.clone(), o.manager.subresource.clone());
        order(a).cmp(&order(b))
    });
    if owners.is_empty() {
        object.remove(&["metadata", "managedFields"]);
        return;
    }
    let entry = |o: Owner| {
        let operation = if o.manager.operation == Operation::Apply { "Apply" } else { "Update" };
        let mut entry = object!({ "manager": (o.manager.name), "operation": operation, "apiVersion": (o.manager.api_version),
            "fieldsType": "FieldsV1", "fieldsV1": (o.fields.to_value()) });
        if !o.time.is_empty() {
            entry.set(&["time"], o.time);
        }
        if !o.manager.subresource.is_empty() {
            entry.set(&["subresource"], o.manager.subresource);
        }
        entry
    };
    object.set(&["metadata", "managedFields"], owners.into_iter().map(entry).collect::<Vec<_>>());
}

fn fold_ancient(owners: &mut Vec<Owner>) {
    let mut updaters: Vec<usize> = (0..owners.len()).filter(|&i| owners[i].manager.operation == Operation::Update).collect();
    if updaters.len() <= MOST_UPDATERS {
        return;
    }
    updaters.sort_by(|&a, &b| {
        let order = |i: usize| (owners[i].manager.name != ANCIENT, owners[i].time.as_str());
        order(a).cmp(&order(b))
    });
    let gone = &updaters[..=updaters.len() - MOST_UPDATERS];
    let (first, last) = (gone[0], gone[gone.len() - 1]);
    let mut kept = owners[first].clone();
    kept.manager.name = ANCIENT.into();
    kept.time.clone_from(&owners[last].time);
    gone[1..].iter().for_each(|&i| kept.fields.absorb(&owners[i].fields));
    owners[first] = kept;
    let gone: std::collections::BTreeSet<usize> = gone[1..].iter().copied().collect();
    let mut at = 0..;
    owners.retain(|_| at.next().is_none_or(|i| !gone.contains(&i)));
}

/// An object without what nobody owns: its identity and what the server keeps.
pub(super) fn stripped(object: &Value) -> Value {
    let mut out = object.clone();
    if let Value::Map(map) = &mut out {
        map.remove("apiVersion");
        map.remove("kind");
    }
    if let Some(Value::Map(metadata)) = out.get("metadata").cloned() {
        let mut metadata: Map = metadata;
        for field in [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "selfLink",
            "managedFields",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            metadata.remove(field);
        }
        if metadata.is_empty() {
            out.remove(&["metadata"]);
        } else {
            out.set(&["metadata"], metadata);
        }
    }
    out
}

/// Takes the fields that a write through this door cannot change out of a set: the status of the object itself, and all
/// but the status through the status subresource.
pub(super) fn within_reach(mut set: FieldSet, subresource: &str, has_status: bool) -> FieldSet {
    let status = PathElement::Field(Key::Static("status"));
    if subresource == "status" {
        set.children.retain(|step, _| *step == status || *step == PathElement::Field(Key::Static("metadata")));
    } else if has_status {
        set.children.remove(&status);
    }
    set
}

/// Notes a write that was no apply: the manager owns what it added or changed, and nobody else does any more.
pub fn track(schema: &Schema, ty: TypeId, old: &Value, new: &mut Value, manager: &Manager, now: &str) {
    let difference = compare(schema, ty, &stripped(old), &stripped(new));
    let mut owners = read(old);
    if !difference.is_empty() {
        let mut taken = difference.added;
        taken.absorb(&difference.modified);
        let others = owners.iter().any(|owner| owner.manager != *manager);
        let lost = if others { taken.union(&difference.removed) } else { FieldSet::default() };
        match owners.iter().position(|owner| owner.manager == *manager) {
            Some(at) => {
                let owner = &mut owners[at];
                let fields = owner.fields.difference(&difference.removed).union(&taken);
                if fields != owner.fields {
                    owner.time = now.to_string();
                }
                owner.fields = fields;
            }
            None if taken.is_empty() => {}
            None => owners.push(Owner { manager: manager.clone(), time: now.to_string(), fields: taken }),
        }
        for owner in owners.iter_mut().filter(|owner| owner.manager != *manager) {
            owner.fields = owner.fields.difference(&lost);
        }
    }
    write(new, owners);
}
