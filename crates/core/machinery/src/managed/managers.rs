//! The managers of an object and what each owns.

use std::collections::HashMap;

use super::compare::compare;
use super::fresh::everything;
use super::set::{FieldSet, PathElement};
use crate::schema::{Schema, TypeId};
use crate::value::{Key, Text, Value};
use crate::{Map, object};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// By what managers are told apart: name, operation, version and subresource.
type Identity<'a> = (&'a str, Operation, &'a str, &'a str);

/// Who applies is the same in every version; see upstream's BuildManagerIdentifier.
fn identity<'a>(name: &'a str, operation: Operation, api_version: &'a str, subresource: &'a str) -> Identity<'a> {
    (name, operation, if operation == Operation::Apply { "" } else { api_version }, subresource)
}

impl Manager {
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }

    fn identity(&self) -> Identity<'_> {
        identity(&self.name, self.operation, &self.api_version, &self.subresource)
    }
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
/// In bytes; see FieldManagerMaxLength.
const LONGEST_NAME: usize = 128;
const ANCIENT: &str = "ancient-changes";

/// Reads an object's managedFields.
pub(super) fn read(object: &Value) -> Vec<Owner> {
    let owner = |e: Value| Owner {
        manager: Manager {
            name: e.str_at(&["manager"]).into(),
            operation: operation_of(&e),
            api_version: e.str_at(&["apiVersion"]).into(),
            subresource: e.str_at(&["subresource"]).into(),
        },
        time: e.str_at(&["time"]).into(),
        fields: fields_of(&e),
    };
    each_once(object.list_at(&["metadata", "managedFields"])).into_iter().map(owner).collect()
}

fn operation_of(entry: &Value) -> Operation {
    if is_update(entry) { Operation::Update } else { Operation::Apply }
}

fn identity_of(entry: &Value) -> Identity<'_> {
    let text = |field| entry.str_at(&[field]);
    identity(text("manager"), operation_of(entry), text("apiVersion"), text("subresource"))
}

/// Entries with each manager once: what is said of it last counts.
fn each_once(entries: &[Value]) -> Vec<Value> {
    let mut places = HashMap::with_capacity(entries.len());
    let mut out: Vec<Value> = Vec::with_capacity(entries.len());
    for entry in entries {
        let place = *places.entry(identity_of(entry)).or_insert(out.len());
        match out.get_mut(place) {
            Some(known) => *known = entry.clone(),
            None => out.push(entry.clone()),
        }
    }
    out
}

/// Writes an object's managedFields.
pub(super) fn write(object: &mut Value, owners: Vec<Owner>) {
    let owners = owners.into_iter().filter(|o| !o.fields.is_empty());
    put(object, owners.map(|o| entry(&o.manager, &o.time, o.fields.to_value())).collect());
}

fn entry(manager: &Manager, time: &str, fields: Value) -> Value {
    let operation = if manager.operation == Operation::Apply { "Apply" } else { "Update" };
    let mut entry = object!({ "manager": (manager.name.as_str()), "operation": operation, "apiVersion": (manager.api_version.as_str()),
        "fieldsType": "FieldsV1", "fieldsV1": fields });
    if !time.is_empty() {
        entry.set(&["time"], time);
    }
    if !manager.subresource.is_empty() {
        entry.set(&["subresource"], manager.subresource.as_str());
    }
    entry
}

/// Puts entries of managedFields in their order: appliers first, then by time and name.
fn put(object: &mut Value, mut entries: Vec<Value>) {
    fold_ancient(&mut entries);
    let order = |e: &'_ Value| -> (bool, Text, Text, Text) {
        let text = |field| e.get(field).and_then(Value::as_text).cloned().unwrap_or_default();
        (is_update(e), text("time"), text("manager"), text("subresource"))
    };
    entries.sort_by_cached_key(order);
    if entries.is_empty() {
        object.remove(&["metadata", "managedFields"]);
    } else {
        object.set(&["metadata", "managedFields"], entries);
    }
}

fn is_update(entry: &Value) -> bool {
    entry.str_at(&["operation"]) != "Apply"
}

fn fields_of(entry: &Value) -> FieldSet {
    entry.get("fieldsV1").map(FieldSet::from_value).unwrap_or_default()
}

fn fold_ancient(entries: &mut Vec<Value>) {
    let mut updaters: Vec<usize> = (0..entries.len()).filter(|&i| is_update(&entries[i])).collect();
    if updaters.len() <= MOST_UPDATERS {
        return;
    }
    updaters.sort_by(|&a, &b| {
        let order = |i: usize| (entries[i].str_at(&["manager"]) != ANCIENT, entries[i].str_at(&["time"]));
        order(a).cmp(&order(b))
    });
    let gone = &updaters[..=updaters.len() - MOST_UPDATERS];
    let (first, last) = (gone[0], gone[gone.len() - 1]);
    let mut fields = fields_of(&entries[first]);
    gone[1..].iter().for_each(|&i| fields.absorb(&fields_of(&entries[i])));
    let time = entries[last].get("time").cloned();
    let kept = &mut entries[first];
    kept.set(&["manager"], ANCIENT);
    kept.set(&["fieldsV1"], fields.to_value());
    if let Some(time) = time {
        kept.set(&["time"], time);
    }
    let gone: std::collections::BTreeSet<usize> = gone[1..].iter().copied().collect();
    let mut at = 0..;
    entries.retain(|_| at.next().is_none_or(|i| !gone.contains(&i)));
}

/// Notes the write that made an object: the manager owns all of it that is not in `nothing`, the type's empty object.
pub fn track_new(schema: &Schema, ty: TypeId, nothing: &Value, new: &mut Value, manager: &Manager, now: &str) {
    let fields = everything(schema, ty, &written(nothing), &written(new));
    let entries = if fields.is_empty() { Vec::new() } else { vec![entry(manager, now, fields)] };
    put(new, entries);
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

/// The same for who writes whole objects: these have metadata, if it be empty.
fn written(object: &Value) -> Value {
    let mut out = stripped(object);
    if out.get("metadata").is_none() {
        out.set(&["metadata"], Map::new());
    }
    out
}

/// Takes the fields that a write through this door cannot change out of a set: the status of the object itself, and all
/// but the status through the status subresource.
pub(super) fn within_reach(mut set: FieldSet, subresource: &str, has_status: bool) -> FieldSet {
    let status = PathElement::Field(Key::Static("status"));
    if subresource == "status" {
        set.retain_children(|step| *step == status || *step == PathElement::Field(Key::Static("metadata")));
    } else if has_status {
        set.retain_children(|step| *step != status);
    }
    set
}

/// Notes a write that was no apply: the manager owns what it added or changed, and nobody else does any more. Entries that the write
/// does not touch are not even read.
pub fn track(schema: &Schema, ty: TypeId, old: &Value, new: &mut Value, manager: &Manager, now: &str) {
    let mut entries = before(old, new, manager);
    // Of an object of which nobody owns anything nobody is to, as long as it is not applied; see upstream's skipNonAppliedManager.
    if entries.is_empty() {
        return put(new, entries);
    }
    let difference = compare(schema, ty, &written(old), &written(new));
    if difference.is_empty() {
        entries.retain(owns_something);
        return put(new, entries);
    }
    let mut taken = difference.added;
    taken.absorb(&difference.modified);
    let mine = entries.iter().position(|e| identity_of(e) == manager.identity());
    let lost = if entries.len() > usize::from(mine.is_some()) { taken.union(&difference.removed) } else { FieldSet::default() };
    for (i, entry) in entries.iter_mut().enumerate() {
        let fields = entry.get("fieldsV1").unwrap_or(&Value::Null);
        if Some(i) != mine {
            if lost.meets(fields) {
                entry.set(&["fieldsV1"], FieldSet::from_value(fields).difference(&lost).to_value());
            }
        } else if difference.removed.meets(fields) || !taken.is_within(fields) {
            let fields = FieldSet::from_value(fields).difference(&difference.removed).union(&taken);
            entry.set(&["fieldsV1"], fields.to_value());
            entry.set(&["time"], now);
        }
    }
    if mine.is_none() && !taken.is_empty() {
        entries.push(self::entry(manager, now, taken.to_value()));
    }
    entries.retain(owns_something);
    put(new, entries);
}

fn owns_something(entry: &Value) -> bool {
    entry.get("fieldsV1").is_some_and(|fields| !fields.is_empty())
}

/// The entries that a write begins with: those that it carries itself, if it is of the whole object and they can be read, else those
/// that are there. One empty entry stands for none; see upstream's decodeLiveOrNew.
fn before(old: &Value, new: &Value, manager: &Manager) -> Vec<Value> {
    let [live, carried] = [old, new].map(|object| object.list_at(&["metadata", "managedFields"]));
    // Most writes bring back what they read: that need not be looked into.
    if !manager.subresource.is_empty() || carried.is_empty() || carried == live {
        return live.to_vec();
    }
    match carried {
        [only] if only.is_empty() => Vec::new(),
        all if all.iter().all(is_entry) => each_once(all),
        _ => live.to_vec(),
    }
}

fn is_entry(entry: &Value) -> bool {
    matches!(entry.str_at(&["operation"]), "Apply" | "Update")
        && !entry.str_at(&["apiVersion"]).is_empty()
        && entry.str_at(&["manager"]).len() <= LONGEST_NAME
        && entry.str_at(&["fieldsType"]) == "FieldsV1"
        && entry.get("fieldsV1").is_none_or(FieldSet::is_form)
}
