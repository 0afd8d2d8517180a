//! Follows CustomResourceDefinitions by the store's watch: serves their kinds, says so in their status, and clears away the
//! objects of those that are deleted. What a status should say is decided in fram-api.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use fram_api::{CustomResource, custom_status as status};
use fram_machinery::{Reason, Status, Value, json, meta, object};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::keeping::keep;
use crate::registry::{ChangeKind, ListRequest, Place, Registry, WatchRequest, Write};
use crate::server::Server;
use crate::user::{MASTERS, User};

/// Kept by a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

impl Server {
    /// Serves the custom resources that were established before; to be called before the server is ready.
    pub(crate) async fn serve_definitions(&self) -> Result<(), Status> {
        Follower::new(self.registry.clone()).load().await.map(drop)
    }

    /// Follows definitions until `stop`.
    pub async fn follow_definitions(self: Arc<Self>, stop: CancellationToken) {
        let follower = Follower::new(self.registry.clone());
        keep(stop, "following CustomResourceDefinitions", follower, |follower| Box::pin(follower.follow())).await;
    }
}

struct Follower {
    registry: Arc<Registry>,
    /// The names that each definition holds.
    held: HashMap<String, status::Held>,
    /// Definitions whose names conflict with those of another one.
    refused: HashMap<String, Value>,
    /// What is served of each definition. Most changes of a definition are of its status; who watches its objects goes on holding
    /// the kind as it was, so each further one costs as much again.
    served: HashMap<String, u64>,
    cleanups: JoinSet<String>,
    cleaning: Vec<String>,
}

impl Follower {
    fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            held: HashMap::new(),
            refused: HashMap::new(),
            served: HashMap::new(),
            cleanups: JoinSet::new(),
            cleaning: Vec::new(),
        }
    }

    fn place(&self, name: &str) -> Result<Place, Status> {
        let served = self.registry.served("apiextensions.k8s.io", "v1", "customresourcedefinitions");
        Ok(Place { served: served.ok_or_else(Status::no_such_path)?, namespace: String::new(), name: name.into() })
    }

    /// Takes all definitions in as they are; returns the revision from which to watch, and the definitions.
    async fn load(&mut self) -> Result<(u64, Vec<Value>), Status> {
        let all = self.place("")?;
        let listing = self.registry.list(&all, &ListRequest::default()).await?;
        let definitions = listing.items.iter().map(|entry| self.registry.decode(&all.served, entry)).collect::<Result<Vec<_>, _>>()?;
        self.held = definitions.iter().map(|d| (meta::name(d).to_string(), status::Held::by(d))).collect();
        let known = |name: &str| definitions.iter().any(|d| meta::name(d) == name);
        self.served.clear();
        for gone in self.registry.api().custom().filter(|c| !c.stored.custom.as_ref().is_some_and(|c| known(&c.definition))) {
            self.registry.serve(|api| api.without(&gone.stored.group, &gone.stored.plural));
        }
        for definition in definitions.iter().filter(|d| meta::condition_is_true(d, "Established")) {
            self.serve(definition);
        }
        Ok((listing.revision, definitions))
    }

    async fn follow(&mut self) -> Result<(), Status> {
        let (revision, definitions) = self.load().await?;
        let request = WatchRequest { resource_version: revision.to_string(), ..Default::default() };
        let mut watching = self.registry.watch(&self.place("")?, request).await?;
        let mut failed = Ok(());
        for definition in definitions {
            // One that cannot be written does not keep the others from being served.
            failed = failed.and(self.changed(definition).await);
        }
        failed?;
        let served = self.place("")?.served;
        loop {
            let change = tokio::select! {
                biased;
                Some(done) = self.cleanups.join_next() => {
                    let name = done.map_err(Status::internal)?;
                    self.cleaning.retain(|n| *n != name);
                    continue;
                }
                change = watching.next() => change?,
            };
            let Some(entry) = change.entry else { continue };
            let definition = self.registry.decode(&served, &entry)?;
            if change.kind == ChangeKind::Deleted {
                self.gone(&definition).await?;
            } else {
                self.changed(definition).await?;
            }
        }
    }

    /// Serves what a definition says. Its schema was checked when it was written.
    fn serve(&mut self, definition: &Value) {
        let (name, said) = (meta::name(definition).to_string(), said(definition));
        if self.served.insert(name.clone(), said) == Some(said) {
            return;
        }
        let group = definition.str_at(&["spec", "group"]);
        let plural = definition.str_at(&["spec", "names", "plural"]);
        match CustomResource::read(&self.registry.api().schema, definition) {
            Ok(resource) => self.registry.serve(|api| api.with(Arc::new(resource))),
            Err(error) => {
                tracing::warn!(%error, definition = name, "this custom resource cannot be served");
                self.registry.serve(|api| api.without(group, plural));
            }
        }
    }

    async fn changed(&mut self, definition: Value) -> Result<(), Status> {
        let name = meta::name(&definition).to_string();
        let group = definition.str_at(&["spec", "group"]).to_string();
        let built_in = status::Held::built_in(&self.registry.api(), &group);
        let others = self.held.iter().filter(|(n, h)| **n != name && h.group == group).map(|(_, h)| h);
        let others: Vec<&status::Held> = others.chain([&built_in]).collect();
        let wanted = status::plan(&definition, &others, &self.registry.environment().now_text());
        let mut planned = definition.clone();
        planned.set(&["status"], wanted.clone());
        self.held.insert(name.clone(), status::Held::by(&planned));
        self.refused.remove(&name);
        if !meta::condition_is_true(&planned, "NamesAccepted") {
            self.refused.insert(name.clone(), definition.clone());
        }
        {
            // It is served before anyone can read that it is, and found by discovery when that can be read.
            let registry = Arc::clone(&self.registry);
            let _settling = registry.settle().await;
            if meta::condition_is_true(&planned, "Established") {
                self.serve(&planned);
            }
            if definition.get("status") != Some(&wanted) {
                self.write_status(&name, &definition, wanted).await?;
            }
        }
        if meta::is_terminating(&definition) && meta::has_finalizer(&definition, CLEANUP) && !self.cleaning.contains(&name) {
            self.cleaning.push(name.clone());
            let cleanup = Cleanup { registry: self.registry.clone(), definition: self.place(&name)?, object: planned };
            self.cleanups.spawn(async move {
                let mut pause = Duration::from_secs(1);
                while let Err(status) = cleanup.run().await {
                    tracing::warn!(%status, definition = name, "objects of a deleted custom resource are left, for now");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(60));
                }
                name
            });
        }
        Ok(())
    }

    /// Writes what was decided, unless the definition has changed since: then its next event decides anew.
    async fn write_status(&self, name: &str, seen: &Value, wanted: Value) -> Result<(), Status> {
        let place = self.place(name)?;
        let version = meta::resource_version(seen).to_string();
        let decide = |current: &Value| {
            let mut next = current.clone();
            next.set(&["metadata", "resourceVersion"], version.as_str());
            next.set(&["status"], wanted.clone());
            Ok(next)
        };
        settled(self.registry.update(&place, "status", &write(), decide).await.map(drop))
    }

    async fn gone(&mut self, definition: &Value) -> Result<(), Status> {
        let (group, plural) = (definition.str_at(&["spec", "group"]), definition.str_at(&["spec", "names", "plural"]));
        let own = meta::name(definition);
        let api = self.registry.api();
        let served = api.custom().any(|c| c.stored.custom.as_ref().is_some_and(|c| c.definition == own));
        if served {
            self.registry.serve(|api| api.without(group, plural));
        }
        self.held.remove(own);
        self.served.remove(own);
        self.refused.remove(own);
        // Its names may be what others wait for.
        let waiting: Vec<Value> = self.refused.values().filter(|d| d.str_at(&["spec", "group"]) == group).cloned().collect();
        for definition in waiting {
            self.changed(definition).await?;
        }
        Ok(())
    }
}

/// A number for all that a kind is read from; see `CustomResource::read`.
fn said(definition: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in [&["spec"][..], &["status", "acceptedNames"]] {
        definition.at(path).map(json::to_vec).hash(&mut hasher);
    }
    let terminating = meta::condition_is_true(definition, "Terminating") || meta::is_terminating(definition);
    (terminating, meta::generation(definition)).hash(&mut hasher);
    hasher.finish()
}

/// How the server itself writes.
pub(crate) fn write() -> Write {
    let user = User::authenticated("system:apiserver", &[MASTERS]);
    Write { user, field_manager: "kube-apiserver".into(), ..Default::default() }
}

/// What changed or went meanwhile is another event's business.
pub(crate) fn settled(result: Result<(), Status>) -> Result<(), Status> {
    match result {
        Err(status) if status.is(Reason::Conflict) || status.is(Reason::NotFound) => Ok(()),
        other => other,
    }
}

/// The end of a definition: its objects are deleted, then its finalizer goes; see upstream's CRDFinalizer.
struct Cleanup {
    registry: Arc<Registry>,
    definition: Place,
    object: Value,
}

impl Cleanup {
    async fn run(&self) -> Result<(), Status> {
        let api = self.registry.api();
        let resource = api.custom().find(|c| c.stored.custom.as_ref().is_some_and(|c| c.definition == self.definition.name.as_str()));
        // One that was never served has no objects.
        if let Some(resource) = resource.filter(|_| meta::condition_is_true(&self.object, "Established")) {
            let kind = resource.stored.clone();
            let served = crate::registry::Served { kind: kind.clone(), stored: kind };
            self.empty(&Place { served, namespace: String::new(), name: String::new() }).await?;
        }
        let now = self.registry.environment().now_text();
        let done = |current: &Value| {
            let mut next = current.clone();
            let condition = object!({ "type": "Terminating", "status": "False", "reason": "InstanceDeletionCompleted",
                "message": "removed all instances" });
            status::set_condition(next.place(&["status"]), condition, &now);
            Ok(next)
        };
        settled(self.registry.update(&self.definition, "status", &write(), done).await.map(drop))?;
        let release = |current: &Value| {
            let mut next = current.clone();
            meta::remove_finalizer(&mut next, CLEANUP);
            Ok(next)
        };
        settled(self.registry.update(&self.definition, "", &write(), release).await.map(drop))
    }

    /// Deletes all objects and waits for those that their own finalizers hold.
    async fn empty(&self, all: &Place) -> Result<(), Status> {
        let mut watching = self.registry.watch(all, WatchRequest { send_initial_events: None, ..Default::default() }).await?;
        loop {
            let housekeeping = Write { housekeeping: true, ..write() };
            self.registry.delete_collection(all, &Default::default(), &ListRequest::default(), &housekeeping).await?;
            if self.registry.list(all, &ListRequest { limit: 1, ..Default::default() }).await?.items.is_empty() {
                return Ok(());
            }
            while watching.next().await?.kind != ChangeKind::Deleted {}
        }
    }
}
