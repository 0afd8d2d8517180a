//! Field ownership and server-side apply on a small type.

use super::*;
use crate::object;
use crate::schema::{Field, PatchStrategy, Schema, StructType, Topology, Type, TypeId};
use crate::value::{Key, Value};

fn field(name: &'static str, ty: Type, topology: Topology) -> Field {
    Field {
        number: 1,
        name: Key::Static(name),
        ty,
        pointer: true,
        always: false,
        omit_zero: false,
        inline: false,
        required: false,
        topology,
        atomic: false,
        granular: false,
        patch: PatchStrategy::default(),
        default: None,
        allowed: vec![],
        rules: vec![],
        filled: false,
    }
}

/// An object with scalars, a map, an associative list, a set and an atomic list.
pub(super) fn schema() -> (Schema, TypeId) {
    let mut schema = Schema::new();
    let [root, spec, item] = ["Root", "Spec", "Item"].map(|n| schema.declare(n).unwrap());
    let strings = || Type::List(Box::new(Type::String));
    let items = Type::List(Box::new(Type::Struct(item)));
    schema.define(root, StructType::new("Root", String::new(), vec![field("spec", Type::Struct(spec), Topology::Atomic)]));
    let fields = vec![
        field("replicas", Type::Int32, Topology::Atomic),
        field("paused", Type::Bool, Topology::Atomic),
        field("labels", Type::Map(Box::new(Type::String)), Topology::Atomic),
        field("items", items, Topology::Map(vec![Key::Static("name")])),
        field("tags", strings(), Topology::Set),
        field("args", strings(), Topology::Atomic),
    ];
    schema.define(spec, StructType::new("Spec", String::new(), fields));
    let fields = vec![field("name", Type::String, Topology::Atomic), field("v", Type::Int32, Topology::Atomic)];
    schema.define(item, StructType::new("Item", String::new(), fields));
    schema.finish();
    (schema, root)
}

fn applier(name: &str) -> Manager {
    Manager { name: name.into(), operation: Operation::Apply, api_version: "v1".into(), subresource: String::new() }
}

fn updater(name: &str) -> Manager {
    Manager { operation: Operation::Update, ..applier(name) }
}

#[track_caller]
fn applied(live: &Value, config: Value, manager: &str) -> Value {
    let (schema, root) = schema();
    apply(&schema, root, live, &config, &applier(manager), false, true, "t").unwrap()
}

fn spec(object: &Value) -> Value {
    object.get("spec").cloned().unwrap_or_default()
}

fn owned(object: &Value, manager: &str) -> Vec<String> {
    let entry = object.list_at(&["metadata", "managedFields"]).iter().find(|e| e.str_at(&["manager"]) == manager);
    entry.and_then(|e| e.get("fieldsV1")).map(|f| FieldSet::from_value(f).paths()).unwrap_or_default()
}

#[test]
fn a_field_set_comes_back_from_its_text() {
    let value = object!({ "f:spec": { "f:items": { "k:{\"name\":\"a\"}": { ".": {}, "f:v": {} } }, "f:tags": { "v:\"x\"": {} } } });
    let set = FieldSet::from_value(&value);
    assert_eq!(set.to_value(), value);
    assert_eq!(set.paths(), [".spec.items[name=\"a\"]", ".spec.items[name=\"a\"].v", ".spec.tags[=\"x\"]"]);
}

#[test]
fn appliers_share_an_object_field_by_field() {
    let a = applied(&object!({}), object!({ "spec": { "replicas": 1, "items": [{ "name": "x", "v": 1 }], "tags": ["p"] } }), "a");
    let b = applied(&a, object!({ "spec": { "paused": true, "items": [{ "name": "y" }], "tags": ["q"] } }), "b");
    let expect = object!({ "replicas": 1, "paused": true, "items": [{ "name": "x", "v": 1 }, { "name": "y" }], "tags": ["p", "q"] });
    assert_eq!(spec(&b).at(&["replicas"]), expect.at(&["replicas"]));
    let mut names: Vec<&str> = b.list_at(&["spec", "items"]).iter().map(|i| i.str_at(&["name"])).collect();
    names.sort_unstable();
    assert_eq!(names, ["x", "y"]);
    assert_eq!(
        owned(&b, "a"),
        [".spec.items[name=\"x\"]", ".spec.items[name=\"x\"].name", ".spec.items[name=\"x\"].v", ".spec.replicas", ".spec.tags[=\"p\"]"]
    );
}

#[test]
fn what_a_manager_no_longer_states_is_removed_unless_another_owns_it() {
    let a = applied(
        &object!({}),
        object!({ "spec": { "replicas": 1, "labels": { "k": "v", "l": "w" }, "items": [{ "name": "x", "v": 1 }] } }),
        "a",
    );
    let b = applied(&a, object!({ "spec": { "labels": { "k": "v" }, "items": [{ "name": "x" }] } }), "b");
    let c = applied(&b, object!({ "spec": { "paused": true } }), "a");
    assert_eq!(spec(&c), object!({ "paused": true, "labels": { "k": "v" }, "items": [{ "name": "x" }] }));
}

#[test]
fn a_field_of_another_is_a_conflict_without_force() {
    let (schema, root) = schema();
    let a = applied(&object!({}), object!({ "spec": { "replicas": 1, "args": ["x"] } }), "a");
    let config = object!({ "spec": { "replicas": 2, "args": ["y"] } });
    let error = apply(&schema, root, &a, &config, &applier("b"), false, true, "t").unwrap_err();
    let fields = |conflicts: Vec<Conflict>| conflicts.into_iter().map(|c| c.field).collect::<Vec<_>>();
    match error {
        ApplyError::Conflicts(conflicts) => assert_eq!(fields(conflicts), [".spec.args", ".spec.replicas"]),
        other => panic!("{other}"),
    }
    let forced = apply(&schema, root, &a, &config, &applier("b"), true, true, "t").unwrap();
    assert_eq!(forced.int_at(&["spec", "replicas"]), Some(2));
    assert_eq!(owned(&forced, "a"), Vec::<String>::new());
    // The same value is no conflict: both own it.
    let shared = applied(&a, object!({ "spec": { "replicas": 1 } }), "b");
    assert_eq!((owned(&shared, "a").len(), owned(&shared, "b").len()), (2, 1));
}

#[test]
fn an_update_takes_what_it_changes() {
    let (schema, root) = schema();
    let a = applied(&object!({}), object!({ "spec": { "replicas": 1, "paused": true } }), "a");
    let mut changed = a.clone();
    changed.set(&["spec", "replicas"], 5);
    track(&schema, root, &a, &mut changed, &updater("u"), "later");
    assert_eq!(owned(&changed, "a"), [".spec.paused"]);
    assert_eq!(owned(&changed, "u"), [".spec.replicas"]);
    let mut same = changed.clone();
    track(&schema, root, &changed, &mut same, &updater("w"), "latest");
    assert_eq!(same, changed);
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let config = || object!({ "spec": { "replicas": 1, "items": [{ "name": "x" }] } });
    let (schema, root) = schema();
    let a = applied(&object!({}), config(), "a");
    assert_eq!(apply(&schema, root, &a, &config(), &applier("a"), false, true, "later").unwrap(), a);
}

#[test]
fn an_element_that_stands_twice_is_refused() {
    let (schema, root) = schema();
    for (config, expect) in [
        (
            object!({ "spec": { "items": [{ "name": "a" }, { "name": "a", "v": 1 }] } }),
            r#".spec.items: duplicate entries for key [name="a"]"#,
        ),
        (object!({ "spec": { "tags": ["x", "x"] } }), r#".spec.tags: duplicate entries for key ["x"]"#),
    ] {
        let error = apply(&schema, root, &object!({}), &config, &applier("m"), false, true, "t").unwrap_err();
        assert_eq!(error, ApplyError::Duplicate(expect.into()));
    }
    assert!(apply(&schema, root, &object!({}), &object!({ "spec": { "args": ["x", "x"] } }), &applier("m"), false, true, "t").is_ok());
}

#[test]
fn long_lists_cost_no_more_than_their_length() {
    let (schema, root) = schema();
    let long = |v: i64| {
        let items: Vec<Value> = (0..15_000).map(|i| object!({ "name": (format!("n{i}")), "v": v })).collect();
        object!({ "spec": { "items": items } })
    };
    // Compared with each other element by element, these would take minutes.
    let begun = std::time::Instant::now();
    let mut live = long(1);
    track(&schema, root, &object!({}), &mut live, &updater("u"), "t");
    let applied = apply(&schema, root, &live, &long(2), &applier("m"), true, true, "t").unwrap();
    assert_eq!(applied.list_at(&["spec", "items"]).len(), 15_000);
    crate::patch::strategic(&schema, root, &live, &long(3)).unwrap();
    let entry = |i: i64| {
        let mut entry = object!({ "manager": (format!("m{i}")), "operation": "Update" });
        entry.set(&["fieldsV1", "f:spec", &format!("f:f{i}")], object!({}));
        entry
    };
    let owners: Vec<Value> = (0..5_000).map(entry).collect();
    let old = object!({ "metadata": { "managedFields": owners } });
    let mut new = object!({ "spec": { "paused": true } });
    track(&schema, root, &old, &mut new, &updater("u"), "t");
    assert!(new.list_at(&["metadata", "managedFields"]).len() <= 10);
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object as kubectl's client-side apply leaves it.
fn applied_by_client(config: &Value) -> Value {
    let (schema, root) = schema();
    let mut config = config.clone();
    config.set(&["apiVersion"], "v1");
    let mut live = config.clone();
    live.set(&["metadata", "annotations", LAST_APPLIED], crate::json::to_string(&config));
    track_new(&schema, root, &object!({}), &mut live, &updater("kubectl-client-side-apply"), "t");
    live
}

#[test]
fn kubectl_takes_what_its_client_side_apply_left_as_it_was() {
    let (schema, root) = schema();
    let live = applied_by_client(&object!({ "spec": { "replicas": 1, "paused": true } }));
    let config = object!({ "spec": { "replicas": 2 } });
    let by = |live: &Value, manager: &str| apply(&schema, root, live, &config, &applier(manager), false, true, "t");
    assert_eq!(spec(&by(&live, "kubectl").unwrap()), object!({ "replicas": 2, "paused": true }));
    assert!(matches!(by(&live, "other"), Err(ApplyError::Conflicts(_))));
    let mut changed = live.clone();
    changed.set(&["spec", "replicas"], 3);
    track(&schema, root, &live, &mut changed, &updater("scaler"), "t");
    let Err(ApplyError::Conflicts(conflicts)) = by(&changed, "kubectl") else { panic!("what somebody else changed is taken") };
    assert_eq!(conflicts.iter().map(|c| c.manager.name.as_str()).collect::<Vec<_>>(), ["scaler"]);
    let mut other_version = live.clone();
    other_version.set(&["metadata", "annotations", LAST_APPLIED], r#"{"apiVersion":"v2","spec":{"replicas":1}}"#);
    assert!(matches!(by(&other_version, "kubectl"), Err(ApplyError::Conflicts(_))));
}

#[test]
fn kubectls_annotation_goes_with_what_it_applies() {
    let live = applied_by_client(&object!({ "spec": { "replicas": 1 } }));
    let config = object!({ "apiVersion": "v1", "metadata": { "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "old" } }, "spec": { "paused": true } });
    let noted = |object: &Value, manager: &str| {
        let mut object = object.clone();
        note(&mut object, &config, &applier(manager));
        object.str_at(&["metadata", "annotations", LAST_APPLIED]).to_string()
    };
    let expect = "{\"apiVersion\":\"v1\",\"metadata\":{\"annotations\":{}},\"spec\":{\"paused\":true}}\n";
    assert_eq!(noted(&live, "kubectl"), expect);
    assert_eq!(noted(&live, "other"), live.str_at(&["metadata", "annotations", LAST_APPLIED]));
    assert_eq!(noted(&object!({}), "kubectl"), "");
    let mut full = live.clone();
    full.set(&["metadata", "annotations", "a"], "x".repeat((256 << 10) - 100));
    assert_eq!(noted(&full, "kubectl"), "");
}

#[test]
fn who_writes_an_object_may_say_who_owns_what() {
    let (schema, root) = schema();
    let live = applied(&object!({}), object!({ "spec": { "replicas": 1 } }), "a");
    let written = |fields: Value, manager: &Manager| {
        let mut new = live.clone();
        new.set(&["metadata", "managedFields"], fields);
        track(&schema, root, &live, &mut new, manager, "later");
        new
    };
    let entry = |operation: &str, fields: Value| object!({ "manager": "b", "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields });
    let replicas = || object!({ "f:spec": { "f:replicas": {} } });
    let given = written(object!([(entry("Apply", replicas()))]), &updater("u"));
    assert_eq!(owned(&given, "b"), [".spec.replicas"]);
    assert!(owned(&given, "a").is_empty());
    let none = written(object!([{}]), &updater("u"));
    assert!(none.at(&["metadata", "managedFields"]).is_none());
    let through_status = Manager { subresource: "status".into(), ..updater("u") };
    for kept in [
        written(object!([]), &updater("u")),
        written(object!([(entry("Stir", replicas()))]), &updater("u")),
        written(object!([(entry("Apply", object!({ "spec": {} })))]), &updater("u")),
        written(object!([(entry("Apply", object!({ "f:spec": { "k:name": {} } })))]), &updater("u")),
        written(object!([{}]), &through_status),
    ] {
        assert_eq!(owned(&kept, "a"), [".spec.replicas"]);
    }
}

#[test]
fn who_applies_is_the_same_in_every_version() {
    let (schema, root) = schema();
    let live = applied(&object!({}), object!({ "spec": { "replicas": 1, "paused": true } }), "a");
    let newer = Manager { api_version: "v2".into(), ..applier("a") };
    let config = object!({ "spec": { "replicas": 2 } });
    let object = apply(&schema, root, &live, &config, &newer, false, true, "later").unwrap();
    assert_eq!(spec(&object), spec(&config));
    let versions: Vec<&str> = object.list_at(&["metadata", "managedFields"]).iter().map(|e| e.str_at(&["apiVersion"])).collect();
    assert_eq!(versions, ["v2"]);
}

#[test]
fn of_entries_that_a_write_carries_each_manager_has_its_last_and_none_is_empty() {
    let (schema, root) = schema();
    let live = applied(&object!({}), object!({ "spec": { "replicas": 1, "paused": true } }), "a");
    let entry = |manager: &str, fields: Value| {
        let mut entry =
            object!({ "manager": manager, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields });
        if entry.get("fieldsV1").is_none_or(Value::is_null) {
            entry.remove(&["fieldsV1"]);
        }
        entry
    };
    let carried = vec![
        entry("a", object!({ "f:spec": { "f:replicas": {} } })),
        entry("b", object!({})),
        entry("a", object!({ "f:spec": { "f:paused": {} } })),
        entry("c", Value::Null),
    ];
    let mut new = live.clone();
    new.set(&["metadata", "managedFields"], carried);
    track(&schema, root, &live, &mut new, &updater("u"), "later");
    assert_eq!(owned(&new, "a"), [".spec.paused"]);
    assert_eq!(new.list_at(&["metadata", "managedFields"]).len(), 1);
}
