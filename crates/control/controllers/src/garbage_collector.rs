//! The garbage collector: dependents follow their owners, in the background, in the foreground, or not at all. The graph
//! is the informers' own index from owner to dependents.

mod plan;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use fram_client::resources::NAMESPACES;
use fram_client::{
    Action, Client, Controller, DeleteOptions, Delta, Enqueuer, EventRecorder, Informer, PatchKind, Preconditions, Propagation, Resource,
    SharedInformers,
};
use fram_machinery::{Status, Value, meta, object};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::Context;
use crate::context::KindInfo;
use crate::custom_kinds::{self, Follower};
use crate::objects::settled;
use plan::{Owner, Step, decide, stands_the_same};

const DEFINITIONS: Resource = Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
pub(crate) const ORPHAN: &str = "orphan";
pub(crate) const FOREGROUND: &str = "foregroundDeletion";

pub(crate) fn start(context: &Context) {
    let kinds: Vec<Source> =
        context.kinds.iter().filter(|k| k.collected).map(|k| (k.clone(), informer(&context.informers, &k.resource))).collect();
    let graph = Arc::new(Graph { kinds: RwLock::new(kinds.clone()), unknown: Mutex::default(), departed: Mutex::default() });
    let collector = Collector {
        client: context.client("generic-garbage-collector"),
        graph: graph.clone(),
        undiscovered: context.undiscovered.clone(),
        events: context.recorder("generic-garbage-collector", "garbage-collector-controller"),
    };
    let mut controller = Controller::new("garbage-collector", 20);
    for (kind, informer) in kinds {
        let graph = graph.clone();
        controller = controller.watches_deltas(&informer, move |delta| graph.concerned(&kind, delta));
    }
    let (mut undiscovered, waiting, again) = (context.undiscovered.clone(), graph.clone(), controller.enqueuer());
    let heard = async move {
        while undiscovered.changed().await.is_ok() {
            waiting.take_waiting_for_departed().into_iter().for_each(|key| again.add(key));
        }
    };
    let stop = context.stop.clone();
    context.tasks.spawn(async move { stop.run_until_cancelled(heard).await });
    let follower = Arc::new(CustomKinds { graph, informers: context.informers.clone(), enqueuer: controller.enqueuer() });
    let follow = custom_kinds::follow(follower, context.informers.clone(), context.custom_kinds.clone());
    let (stop, informers, custom) = (context.stop.clone(), context.informers.clone(), context.custom_kinds.clone());
    context.tasks.spawn(async move {
        stop.run_until_cancelled(follow).await;
        // A kind that goes while another server leads would be asked for here for ever.
        custom.borrow().iter().for_each(|kind| informers.forget(&kind.resource));
    });
    context.run(controller, collector, |c, key| async move { c.reconcile(&key).await });
}

/// Definitions are large and many, and no other controller looks at them: of these the metadata is enough.
fn informer(informers: &SharedInformers, resource: &Resource) -> Informer {
    let alone = resource.plural == "customresourcedefinitions";
    if alone { informers.metadata(resource) } else { informers.get(resource) }
}

/// Takes kinds of custom resources into the graph as they come, and out as they go.
struct CustomKinds {
    graph: Arc<Graph>,
    informers: SharedInformers,
    enqueuer: Enqueuer,
}

impl Follower for CustomKinds {
    fn came(&self, kind: &KindInfo, informer: &Informer) {
        self.graph.departed.lock().remove(&owner_name(&kind.resource.group, &kind.kind));
        self.graph.kinds.write().push((kind.clone(), informer.clone()));
    }

    /// What refers to an owner of this kind can be judged from now on.
    fn listed(&self, kind: &KindInfo) {
        let waiting = self.graph.unknown.lock().remove(&owner_name(&kind.resource.group, &kind.kind)).unwrap_or_default();
        waiting.into_iter().for_each(|key| self.enqueuer.add(key));
    }

    fn changed(&self, kind: &KindInfo, delta: &Delta) {
        self.graph.concerned(kind, delta).into_iter().for_each(|key| self.enqueuer.add(key));
    }

    /// Its last objects may have gone unseen: what refers to the kind is judged again.
    fn gone(&self, resource: &Resource) {
        let gone: Vec<Source> = self.graph.kinds.write().extract_if(.., |(k, _)| k.resource == *resource).collect();
        self.informers.forget(resource);
        for (kind, _) in gone.iter().filter(|(kind, _)| kind.defined) {
            self.graph.depart(kind).into_iter().for_each(|key| self.enqueuer.add(key));
        }
    }
}

type Source = (KindInfo, Informer);

/// `group/kind`
fn owner_name(group: &str, kind: &str) -> String {
    format!("{group}/{kind}")
}

/// The same of what an owner reference speaks of.
fn referred(reference: &Value) -> String {
    owner_name(group_of(reference.str_at(&["apiVersion"])), reference.str_at(&["kind"]))
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// All objects that are collected.
struct Graph {
    kinds: RwLock<Vec<Source>>,
    /// Keys of objects with owners of a kind that is not known yet, by that kind.
    unknown: Mutex<HashMap<String, BTreeSet<String>>>,
    /// The definitions of kinds that went, by kind: where a definition is gone, no object of its kind is left.
    departed: Mutex<HashMap<String, String>>,
}

impl Graph {
    /// The keys to look at after a change of an object.
    fn concerned(&self, kind: &KindInfo, delta: &Delta) -> Vec<String> {
        // Most changes are of statuses, and of Leases, which nodes own.
        if let (Some(old), Some(new)) = (&delta.old, &delta.new)
            && stands_the_same(old, new)
        {
            return Vec::new();
        }
        let object = delta.object();
        let mut keys = Vec::new();
        if delta.new.is_some() {
            let owned = || meta::owner_references(object).iter().all(|reference| self.has_owner(object, reference));
            let waited_for = || [ORPHAN, FOREGROUND].into_iter().any(|finalizer| meta::has_finalizer(object, finalizer));
            let matters = if meta::is_terminating(object) { waited_for() } else { !owned() };
            keys.extend(matters.then(|| self.key(kind, object)));
            // A dependent with another owner has to let go of one that waits for it.
            let shared = |d: &Value| meta::owner_references(d).len() > 1;
            let waiting = delta.old.as_deref().is_none_or(|old| !waits(old)) && waits(object);
            let dependents = if waiting { self.dependents(meta::uid(object)) } else { Default::default() };
            keys.extend(dependents.iter().filter(|(_, d)| shared(d)).map(|(k, d)| self.key(k, d)));
            // An owner that this object blocked may be free now.
            let before = delta.old.iter().flat_map(|old| meta::owner_references(old));
            let changed = before.filter(|r| !meta::owner_references(object).contains(r));
            keys.extend(changed.filter_map(|r| self.waiting_owner(object, r)));
        } else {
            keys.extend(self.dependents(meta::uid(object)).into_iter().map(|(k, o)| self.key(&k, &o)));
            // The owner may wait in the foreground for just this one.
            keys.extend(meta::owner_references(object).iter().filter_map(|r| self.waiting_owner(object, r)));
        }
        keys
    }

    /// `group|plural|namespace/name`.
    fn key(&self, kind: &KindInfo, object: &Value) -> String {
        format!("{}|{}|{}", kind.resource.group, kind.resource.plural, meta::key(object))
    }

    fn find(&self, key: &str) -> Option<(KindInfo, Arc<Value>)> {
        let mut parts = key.splitn(3, '|');
        let (group, plural, name) = (parts.next()?, parts.next()?, parts.next()?);
        let kinds = self.kinds.read();
        let (kind, informer) = kinds.iter().find(|(k, _)| k.resource.group == group && k.resource.plural == plural)?;
        Some((kind.clone(), informer.get(name)?))
    }

    fn dependents(&self, uid: &str) -> Vec<(KindInfo, Arc<Value>)> {
        let of_kind = |(kind, informer): &(KindInfo, Informer)| {
            let found = informer.by_index(fram_client::OWNER_INDEX, uid);
            found.into_iter().map(|o| (kind.clone(), o)).collect::<Vec<_>>()
        };
        self.kinds.read().iter().flat_map(of_kind).collect()
    }

    /// An owner that the cache knows, and its key. What is not there yet, or does not wait yet, is looked at when it comes or begins to:
    /// of two changes at the same time one sees the other, since each is in its cache before it is looked at.
    fn owner(&self, dependent: &Value, reference: &Value) -> Option<(String, Arc<Value>)> {
        let key = self.owner_key(dependent, reference)?;
        let (_, owner) = self.find(&key)?;
        (meta::uid(&owner) == reference.str_at(&["uid"])).then_some((key, owner))
    }

    /// Whether an owner is there and does not wait for its dependents to go.
    fn has_owner(&self, dependent: &Value, reference: &Value) -> bool {
        self.owner(dependent, reference).is_some_and(|(_, owner)| !waits(&owner))
    }

    /// The key of an owner that waits for its dependents to go.
    fn waiting_owner(&self, dependent: &Value, reference: &Value) -> Option<String> {
        self.owner(dependent, reference).filter(|(_, owner)| waits(owner)).map(|(key, _)| key)
    }

    /// The kind that an owner reference speaks of, in whatever version.
    fn owner_kind(&self, reference: &Value) -> Option<Source> {
        let group = group_of(reference.str_at(&["apiVersion"]));
        self.kinds.read().iter().find(|(k, _)| k.resource.group == group && k.kind == reference.str_at(&["kind"])).cloned()
    }

    /// Whether the owners that wait for an object, and those that wait for them, lead back to it.
    fn waits_for_itself(&self, object: &Value) -> bool {
        let mut pending = vec![Arc::new(object.clone())];
        let mut seen = std::collections::HashSet::new();
        while let Some(next) = pending.pop() {
            for reference in meta::owner_references(&next).iter().filter(|r| r.bool_at(&["blockOwnerDeletion"]) == Some(true)) {
                if reference.str_at(&["uid"]) == meta::uid(object) {
                    return true;
                }
                let Some((_, owner)) = self.owner_key(&next, reference).and_then(|key| self.find(&key)) else { continue };
                if meta::uid(&owner) == reference.str_at(&["uid"]) && waits(&owner) && seen.insert(meta::uid(&owner).to_string()) {
                    pending.push(owner);
                }
            }
        }
        false
    }

    /// Whether some namespace has the object, as far as the caches know.
    fn is_elsewhere(&self, informer: &Informer, name: &str, uid: &str) -> bool {
        let namespaces = self.kinds.read().iter().find(|(kind, _)| kind.resource == NAMESPACES).map(|(_, informer)| informer.list());
        let has = |namespace: &Arc<Value>| informer.get_in(meta::name(namespace), name).is_some_and(|o| meta::uid(&o) == uid);
        namespaces.iter().flatten().any(has)
    }

    fn owner_key(&self, dependent: &Value, reference: &Value) -> Option<String> {
        let (kind, _) = self.owner_kind(reference)?;
        let name = reference.str_at(&["name"]);
        let path = if kind.namespaced { format!("{}/{name}", meta::namespace(dependent)) } else { name.to_string() };
        Some(format!("{}|{}|{path}", kind.resource.group, kind.resource.plural))
    }
}

impl Graph {
    /// A kind that a definition had is served no longer: the keys of all that refers to it.
    fn depart(&self, kind: &KindInfo) -> Vec<String> {
        let (resource, name) = (&kind.resource, owner_name(&kind.resource.group, &kind.kind));
        self.departed.lock().insert(name.clone(), format!("{}.{}", resource.plural, resource.group));
        let refers = |object: &Value| meta::owner_references(object).iter().any(|reference| referred(reference) == name);
        let of_kind = |(kind, informer): &Source| {
            let found = informer.list().into_iter().filter(|object| refers(object));
            found.map(|object| self.key(kind, &object)).collect::<Vec<_>>()
        };
        self.kinds.read().iter().flat_map(of_kind).collect()
    }

    /// The object of this key is to be judged again when the kind of its owner is known.
    fn wait_for(&self, reference: &Value, key: &str) {
        self.unknown.lock().entry(referred(reference)).or_default().insert(key.to_string());
    }

    /// Takes the keys of what waits for kinds that went.
    fn take_waiting_for_departed(&self) -> Vec<String> {
        let departed: Vec<String> = self.departed.lock().keys().cloned().collect();
        let mut unknown = self.unknown.lock();
        departed.iter().filter_map(|kind| unknown.remove(kind)).flatten().collect()
    }
}

struct Collector {
    client: Client,
    graph: Arc<Graph>,
    /// Group versions whose servers do not say which kinds they have.
    undiscovered: watch::Receiver<Arc<[String]>>,
    events: EventRecorder,
}

impl Collector {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some((kind, object)) = self.graph.find(key) else { return Ok(Action::Done) };
        let mut owners = Vec::new();
        for reference in meta::owner_references(&object) {
            let owner = self.owner(&object, reference).await?;
            if owner == Owner::Unknown {
                self.graph.wait_for(reference, key);
            }
            owners.push(owner);
        }
        let asked = meta::is_terminating(&object) || owners.contains(&Owner::Waiting);
        let dependents = if asked { self.graph.dependents(meta::uid(&object)) } else { Vec::new() };
        let found: Vec<Arc<Value>> = dependents.iter().map(|(_, o)| o.clone()).collect();
        let circular = waits(&object) && self.graph.waits_for_itself(&object);
        for step in decide(&object, &owners, &found, circular) {
            match step {
                Step::Delete(propagation) => self.delete(&kind.resource, &object, propagation).await?,
                Step::DropReferences(uids) => self.drop_references(&kind.resource, &object, &uids).await?,
                Step::DeleteDependent(i) => self.delete(&dependents[i].0.resource, &dependents[i].1, Propagation::Foreground).await?,
                Step::OrphanDependents => {
                    for (kind, dependent) in &dependents {
                        self.drop_references(&kind.resource, dependent, &[meta::uid(&object).to_string()]).await?;
                    }
                }
                Step::Unblock => self.unblock(&kind.resource, &object).await?,
                Step::RemoveFinalizer(finalizer) => self.remove_finalizer(&kind.resource, &object, finalizer).await?,
            }
        }
        Ok(Action::Done)
    }

    /// What an owner reference leads to; the cache's word that there is no owner is checked with the server.
    async fn owner(&self, dependent: &Value, reference: &Value) -> Result<Owner, Status> {
        let Some((kind, informer)) = self.graph.owner_kind(reference) else { return self.departed(reference).await };
        if !informer.has_synced() {
            return Ok(Owner::Unknown);
        }
        let namespace = if kind.namespaced { meta::namespace(dependent) } else { "" };
        if kind.namespaced && namespace.is_empty() {
            self.tell_invalid(dependent, reference);
            return Ok(Owner::Unreachable);
        }
        let (name, uid) = (reference.str_at(&["name"]), reference.str_at(&["uid"]));
        let cached = if kind.namespaced { informer.get_in(namespace, name) } else { informer.get(name) };
        let owner = match cached.filter(|o| meta::uid(o) == uid) {
            Some(owner) => Some(owner),
            None => self.client.within(&kind.resource, namespace).find(name).await?.filter(|o| meta::uid(o) == uid),
        };
        Ok(match owner {
            None => {
                if kind.namespaced && self.graph.is_elsewhere(&informer, name, uid) {
                    self.tell_invalid(dependent, reference);
                }
                Owner::Absent
            }
            Some(o) if waits(&o) => Owner::Waiting,
            Some(_) => Owner::Solid,
        })
    }

    /// An owner of a kind that is not served: it is gone where its definition is, which may also be one that cannot be served now. A server
    /// that is not heard of may have the kind instead.
    async fn departed(&self, reference: &Value) -> Result<Owner, Status> {
        let Some(definition) = self.graph.departed.lock().get(&referred(reference)).cloned() else { return Ok(Owner::Unknown) };
        if self.undiscovered.borrow().iter().any(|version| group_of(version) == group_of(reference.str_at(&["apiVersion"]))) {
            return Ok(Owner::Unknown);
        }
        let there = self.client.all(&DEFINITIONS).find(&definition).await?.is_some();
        // The kind may have come again meanwhile.
        let is_gone = !there && self.graph.departed.lock().contains_key(&referred(reference));
        Ok(if is_gone { Owner::Absent } else { Owner::Unknown })
    }

    /// An owner has to be of the dependent's namespace, or of none: what somebody gets wrong, and sees by this alone.
    fn tell_invalid(&self, dependent: &Value, reference: &Value) {
        let (namespace, text) = (meta::namespace(dependent), |field: &str| reference.str_at(&[field]));
        let owner =
            format!("[{}/{}, namespace: {namespace}, name: {}, uid: {}]", text("apiVersion"), text("kind"), text("name"), text("uid"));
        let message = format!("ownerRef {owner} does not exist in namespace {namespace:?}");
        self.events.event(dependent, true, "OwnerRefInvalidNamespace", message);
    }

    async fn delete(&self, resource: &Resource, object: &Value, propagation: Propagation) -> Result<(), Status> {
        let options = DeleteOptions {
            propagation: Some(propagation),
            preconditions: Preconditions { uid: Some(meta::uid(object).into()), resource_version: None },
            ..Default::default()
        };
        settled(self.client.within(resource, meta::namespace(object)).delete(meta::name(object), options).await)
    }

    async fn drop_references(&self, resource: &Resource, object: &Value, uids: &[String]) -> Result<(), Status> {
        let here = self.client.within(resource, meta::namespace(object));
        let Some(current) = here.find(meta::name(object)).await?.filter(|o| meta::uid(o) == meta::uid(object)) else { return Ok(()) };
        let kept: Vec<Value> =
            meta::owner_references(&current).iter().filter(|r| !uids.iter().any(|u| u == r.str_at(&["uid"]))).cloned().collect();
        let kept = if kept.is_empty() { Value::Null } else { kept.into() };
        let patch = object!({ "metadata": { "uid": (meta::uid(object)), "resourceVersion": (meta::resource_version(&current)), "ownerReferences": kept } });
        settled(here.patch(meta::name(object), "", PatchKind::Merge, patch).await)
    }

    /// The object's references no longer block its owners; see attemptToDeleteItem's way out of a circle.
    async fn unblock(&self, resource: &Resource, object: &Value) -> Result<(), Status> {
        let mut references = meta::owner_references(object).to_vec();
        references.iter_mut().for_each(|r| r.set(&["blockOwnerDeletion"], false));
        let version = meta::resource_version(object);
        let patch = object!({ "metadata": { "uid": (meta::uid(object)), "resourceVersion": version, "ownerReferences": references } });
        let here = self.client.within(resource, meta::namespace(object));
        settled(here.patch(meta::name(object), "", PatchKind::Merge, patch).await)
    }

    async fn remove_finalizer(&self, resource: &Resource, object: &Value, finalizer: &str) -> Result<(), Status> {
        let here = self.client.within(resource, meta::namespace(object));
        let Some(current) = here.find(meta::name(object)).await?.filter(|o| meta::uid(o) == meta::uid(object)) else { return Ok(()) };
        let kept: Vec<Value> = meta::finalizers(&current).filter(|f| *f != finalizer).map(Value::from).collect();
        let kept = if kept.is_empty() { Value::Null } else { kept.into() };
        let patch = object!({ "metadata": { "resourceVersion": (meta::resource_version(&current)), "finalizers": kept } });
        settled(here.patch(meta::name(object), "", PatchKind::Merge, patch).await)
    }
}

/// Whether an object waits for its dependents to go.
fn waits(object: &Value) -> bool {
    meta::is_terminating(object) && meta::has_finalizer(object, FOREGROUND)
}
