//! Custom resources as their users see them: a server on an in-memory store, asked in process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common {
    pub(crate) mod server;
}

use std::sync::Arc;

use common::server::{client_as, in_memory, server};
use fram_apiserver::User;
use fram_client::{Call, Client, DeleteOptions, EventKind, ListOptions, PatchKind, Resource, Resources, Verb};
use fram_machinery::{Reason, Value, meta, object};
use fram_store::Store;
use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const DEFINITIONS: Resource = Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
const FOOS: Resource = Resource::new("example.com", "v1", "foos");

/// A server with its follower of definitions, which ends with it.
struct Cell {
    client: Client,
    _tasks: JoinSet<()>,
}

async fn start(store: Arc<dyn Store>) -> Cell {
    let server = server(store).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(server.clone().follow_definitions(CancellationToken::new()));
    let user = User::authenticated("admin", &["system:masters"]);
    Cell { client: client_as(&server, user), _tasks: tasks }
}

fn definition() -> Value {
    object!({
        "metadata": { "name": "foos.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": { "plural": "foos", "kind": "Foo" },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": { "status": {}, "scale": { "specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n" } },
                "selectableFields": [{ "jsonPath": ".spec.color" }],
                "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                    "spec": { "type": "object", "properties": {
                        "color": { "type": "string", "default": "red" }, "n": { "type": "integer", "minimum": 0 },
                        "parts": { "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                            "items": { "type": "object", "required": ["name"], "properties": { "name": { "type": "string" }, "v": { "type": "integer" } } } }
                    } },
                    "status": { "type": "object", "x-kubernetes-preserve-unknown-fields": true }
                } } }
            }]
        }
    })
}

/// Makes the definition and waits until it is established.
async fn established(client: &Client, definition: Value) {
    let all = client.all(&DEFINITIONS);
    let name = meta::name(&definition).to_string();
    all.create(definition).await.unwrap();
    until(&all, &name, |d| d.is_some_and(|d| meta::condition_is_true(d, "Established"))).await;
}

/// Waits until an object is as wanted, or gone.
async fn until(resources: &Resources, name: &str, wanted: impl Fn(Option<&Value>) -> bool) {
    let options = ListOptions { field_selector: format!("metadata.name={name}"), ..Default::default() };
    let mut watch = resources.watch(options).await.unwrap();
    if wanted(resources.find(name).await.unwrap().as_deref()) {
        return;
    }
    loop {
        let event = watch.next().await.unwrap().unwrap();
        let object = (event.kind != EventKind::Deleted).then_some(&*event.object);
        if event.kind != EventKind::Bookmark && wanted(object) {
            return;
        }
    }
}

fn foo(name: &str, spec: Value) -> Value {
    object!({ "metadata": { "name": name }, "spec": spec })
}

#[tokio::test]
async fn a_custom_resource_is_served_when_its_definition_says_so() {
    let cell = start(in_memory()).await;
    let foos = cell.client.within(&FOOS, "default");
    assert!(foos.list(ListOptions::default()).await.unwrap_err().is(Reason::NotFound));
    established(&cell.client, definition()).await;
    let made = foos.create(foo("a", object!({ "n": 2, "other": 1 }))).await.unwrap();
    assert_eq!(made.get("spec"), Some(&object!({ "color": "red", "n": 2 })));
    assert_eq!(made.str_at(&["kind"]), "Foo");
    let error = foos.create(foo("b", object!({ "n": (-1) }))).await.unwrap_err();
    assert_eq!(
        error.message,
        r#"Foo.example.com "b" is invalid: spec.n: Invalid value: -1: spec.n in body should be greater than or equal to 0"#
    );
    let patched = foos.patch("a", "", PatchKind::Merge, object!({ "spec": { "color": "blue" } })).await.unwrap();
    assert_eq!(meta::generation(&patched), 2);
    let strategic = foos.patch("a", "", PatchKind::Strategic, object!({ "spec": { "color": "x" } })).await.unwrap_err();
    assert!(strategic.is(Reason::UnsupportedMediaType));
    let blue = ListOptions { field_selector: "spec.color=blue".into(), ..Default::default() };
    assert_eq!(foos.list(blue).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn status_and_scale_are_apart_from_the_rest() {
    let cell = start(in_memory()).await;
    established(&cell.client, definition()).await;
    let foos = cell.client.within(&FOOS, "default");
    let mut object = foo("a", object!({ "n": 2 }));
    object.set(&["status", "n"], 7);
    let made = foos.create(object).await.unwrap();
    assert_eq!(made.get("status"), None);
    let mut changed = (*made).clone();
    changed.set(&["status", "n"], 1);
    changed.set(&["spec", "n"], 9);
    let written = foos.update_status(changed).await.unwrap();
    assert_eq!((written.int_at(&["spec", "n"]), written.int_at(&["status", "n"])), (Some(2), Some(1)));
    assert_eq!(meta::generation(&written), 1);
    let scaled = foos.patch("a", "scale", PatchKind::Merge, object!({ "spec": { "replicas": 5 } })).await.unwrap();
    assert_eq!((scaled.int_at(&["spec", "replicas"]), scaled.int_at(&["status", "replicas"])), (Some(5), Some(1)));
    assert_eq!(foos.get("a").await.unwrap().int_at(&["spec", "n"]), Some(5));
}

#[tokio::test]
async fn apply_merges_lists_by_the_keys_of_the_definition() {
    let cell = start(in_memory()).await;
    established(&cell.client, definition()).await;
    let foos = cell.client.within(&FOOS, "default");
    let config = |name: &str| object!({ "apiVersion": "example.com/v1", "kind": "Foo", "metadata": { "name": "a" }, "spec": { "parts": [{ "name": name, "v": 1 }] } });
    let apply = |manager: &'static str, body: Value| {
        let call = Call {
            resource: FOOS,
            namespace: "default".into(),
            name: "a".into(),
            subresource: String::new(),
            verb: Verb::Patch {
                patch: fram_client::Patch { kind: PatchKind::Apply, body },
                options: fram_client::WriteOptions { field_manager: manager.into(), ..Default::default() },
            },
        };
        cell.client.call(call)
    };
    apply("one", config("x")).await.unwrap();
    apply("two", config("y")).await.unwrap();
    let names = |o: &Value| o.list_at(&["spec", "parts"]).iter().map(|p| p.str_at(&["name"]).to_string()).collect::<Vec<_>>();
    assert_eq!(names(&foos.get("a").await.unwrap()), ["x", "y"]);
    // Who states it no more gives it up.
    apply("one", object!({ "apiVersion": "example.com/v1", "kind": "Foo", "metadata": { "name": "a" } })).await.unwrap();
    assert_eq!(names(&foos.get("a").await.unwrap()), ["y"]);
}

#[tokio::test]
async fn an_old_object_gets_the_defaults_of_a_new_schema_when_it_is_read() {
    let cell = start(in_memory()).await;
    established(&cell.client, definition()).await;
    let foos = cell.client.within(&FOOS, "default");
    foos.create(foo("a", object!({}))).await.unwrap();
    let patch = object!([{ "op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/size",
        "value": { "type": "string", "default": "big" } }]);
    let definitions = cell.client.all(&DEFINITIONS);
    let mut watch = foos.watch(ListOptions::default()).await.unwrap();
    watch.next().await.unwrap().unwrap();
    definitions.patch("foos.example.com", "", PatchKind::Json, patch).await.unwrap();
    // The follower acts on the definition's event: an object made after it was taken in says that it was.
    let size = |o: &Value| o.str_at(&["spec", "size"]).to_string();
    for i in 0.. {
        let made = foos.create(foo(&format!("b{i}"), object!({}))).await.unwrap();
        watch.next().await.unwrap().unwrap();
        if size(&made) == "big" {
            break;
        }
    }
    assert_eq!(size(&foos.get("a").await.unwrap()), "big");
}

#[tokio::test]
async fn an_update_may_keep_only_the_wrong_things_that_are_known_to_be_the_same() {
    let cell = start(in_memory()).await;
    established(&cell.client, definition()).await;
    let foos = cell.client.within(&FOOS, "default");
    let words = |items: Value| object!({ "spec": { "words": items, "color": "blue" } });
    let schema = |items: Value| {
        let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/words";
        object!([{ "op": "add", "path": path, "value": { "type": "array", "items": items } }])
    };
    let definitions = cell.client.all(&DEFINITIONS);
    definitions.patch("foos.example.com", "", PatchKind::Json, schema(object!({ "type": "string" }))).await.unwrap();
    // Before the definition is taken in, the words are pruned.
    for i in 0.. {
        let made = foos.create(foo(&format!("a{i}"), object!({ "words": ["old"] }))).await.unwrap();
        if !made.list_at(&["spec", "words"]).is_empty() {
            foos.create(foo("a", object!({ "words": ["old"] }))).await.unwrap();
            break;
        }
    }
    let strict = schema(object!({ "type": "string", "enum": ["new"] }));
    definitions.patch("foos.example.com", "", PatchKind::Json, strict).await.unwrap();
    for i in 0.. {
        if foos.create(foo(&format!("b{i}"), object!({ "words": ["old"] }))).await.is_err() {
            break;
        }
    }
    foos.patch("a", "", PatchKind::Merge, object!({ "spec": { "color": "blue" } })).await.unwrap();
    // Which of the words of another list are the old ones, nobody knows.
    let refused = foos.patch("a", "", PatchKind::Merge, words(object!(["old", "new"]))).await.unwrap_err();
    assert!(refused.is(Reason::Invalid) && refused.message.contains("spec.words[0]"), "{}", refused.message);
}

#[tokio::test]
async fn a_custom_resource_is_served_at_once_after_a_restart() {
    let store = in_memory();
    let first = start(store.clone()).await;
    established(&first.client, definition()).await;
    first.client.within(&FOOS, "default").create(foo("a", object!({}))).await.unwrap();
    drop(first);
    let second = start(store).await;
    assert_eq!(second.client.within(&FOOS, "default").list(ListOptions::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along() {
    let cell = start(in_memory()).await;
    established(&cell.client, definition()).await;
    let foos = cell.client.within(&FOOS, "default");
    foos.create(foo("a", object!({}))).await.unwrap();
    let mut held = foo("b", object!({}));
    meta::add_finalizer(&mut held, "example.com/held");
    foos.create(held).await.unwrap();
    let definitions = cell.client.all(&DEFINITIONS);
    definitions.delete("foos.example.com", DeleteOptions::default()).await.unwrap();
    until(&foos, "b", |o| o.is_some_and(meta::is_terminating)).await;
    assert!(foos.create(foo("c", object!({}))).await.unwrap_err().is(Reason::MethodNotAllowed));
    assert!(definitions.find("foos.example.com").await.unwrap().is_some());
    foos.patch("b", "", PatchKind::Json, object!([{ "op": "remove", "path": "/metadata/finalizers" }])).await.unwrap_err();
}

#[tokio::test]
async fn a_definition_that_takes_anothers_names_waits_for_them() {
    let cell = start(in_memory()).await;
    established(&cell.client, definition()).await;
    let mut second = definition();
    second.set(&["metadata", "name"], "bars.example.com");
    second.set(&["spec", "names", "plural"], "bars");
    let definitions = cell.client.all(&DEFINITIONS);
    definitions.create(second).await.unwrap();
    let refused = |d: Option<&Value>| d.and_then(|d| meta::condition(d, "NamesAccepted")).is_some_and(|c| c.str_at(&["status"]) == "False");
    until(&definitions, "bars.example.com", refused).await;
    definitions.delete("foos.example.com", DeleteOptions::default()).await.unwrap();
    until(&definitions, "bars.example.com", |d| d.is_some_and(|d| meta::condition_is_true(d, "Established"))).await;
}
