//! The objects of a resource as a controller sees them: the shared cache, and over it what the controller itself wrote
//! last. It takes the place of upstream's ControllerExpectations: a plan never misses its own writes, without a list from
//! the server for each reconciliation. What the cache does not confirm in time is asked of the server.

mod written;

use std::sync::Arc;
use std::time::Duration;

use fram_client::{Client, DeleteOptions, FREE_INDEX, Informer, ListOptions, OWNER_INDEX, PatchKind, Preconditions, Resource};
use fram_machinery::{Reason, Status, Value, meta};
use tokio::time::Instant;

use written::Written;

/// How long the cache may lag before a write is looked up at the server.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);

/// What was found, and whether some of it is known only from the controller's own writes: then look again after `SETTLE`.
pub(crate) struct Seen {
    pub(crate) objects: Vec<Arc<Value>>,
    pub(crate) unsettled: bool,
}

impl Seen {
    /// When to look again, where the plan itself asks for `planned`.
    pub(crate) fn again(&self, planned: Option<Duration>) -> Option<Duration> {
        match (planned, self.unsettled) {
            (Some(planned), true) => Some(planned.min(SETTLE)),
            (None, true) => Some(SETTLE),
            (planned, false) => planned,
        }
    }
}

#[derive(Clone)]
pub(crate) struct Objects {
    client: Client,
    informer: Informer,
    written: Arc<Written>,
}

impl Objects {
    pub(crate) fn new(client: &Client, informer: &Informer) -> Self {
        Self { client: client.clone(), informer: informer.clone(), written: Arc::default() }
    }

    fn resource(&self) -> &Resource {
        self.informer.resource()
    }

    /// One object, as it was last seen or written.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = if namespace.is_empty() { name.to_string() } else { format!("{namespace}/{name}") };
        self.written.newest(namespace, name, || self.informer.get(&key))
    }

    /// The objects that name `owner` as an owner, and those of its namespace without a controller that `adoptable` wants: these
    /// of pods, ReplicaSets and ControllerRevisions, which alone are adopted.
    pub(crate) async fn of(&self, owner: &Value, adoptable: impl Fn(&Value) -> bool) -> Result<Seen, Status> {
        let (namespace, uid) = (meta::namespace(owner), meta::uid(owner));
        let owned = |o: &Value| meta::owner_references(o).iter().any(|r| r.str_at(&["uid"]) == uid);
        let find = || {
            let mut found = self.informer.by_index(OWNER_INDEX, uid);
            found.extend(self.informer.by_index(FREE_INDEX, namespace).into_iter().filter(|o| !owned(o) && adoptable(o)));
            found
        };
        self.overlay(namespace, find, |o| owned(o) || meta::controller_of(o).is_none() && adoptable(o)).await
    }

    /// Every object of a namespace.
    pub(crate) async fn within(&self, namespace: &str) -> Result<Seen, Status> {
        self.overlay(namespace, || self.informer.by_namespace(namespace), |_| true).await
    }

    async fn overlay(&self, namespace: &str, find: impl Fn() -> Vec<Arc<Value>>, belongs: impl Fn(&Value) -> bool) -> Result<Seen, Status> {
        self.dispel(namespace).await?;
        for name in self.written.late(namespace, Instant::now(), |name| self.informer.get_in(namespace, name)) {
            // Roles of controllers may list but not always get.
            let options = ListOptions { field_selector: format!("metadata.name={name}"), ..Default::default() };
            let page = self.client.within(self.resource(), namespace).list(options).await?;
            match page.items.into_iter().next() {
                Some(object) => self.written.note(object, Instant::now()),
                None => self.written.forget(namespace, &name),
            }
        }
        let pending = self.written.pending(namespace);
        let mut found = find();
        let unsettled = written::cover(&pending, &mut found, |name| self.informer.get_in(namespace, name));
        found.retain(|o| belongs(o));
        Ok(Seen { objects: found, unsettled })
    }

    /// Finds out at the server what became of creations whose answers were lost: the cache may be behind them.
    async fn dispel(&self, namespace: &str) -> Result<(), Status> {
        let Some(doubt) = self.written.doubt_of(namespace) else { return Ok(()) };
        let page = self.client.within(self.resource(), namespace).list(ListOptions::default()).await?;
        for object in page.items {
            if self.informer.get_in(namespace, meta::name(&object)).is_none() {
                self.written.note(object, Instant::now());
            }
        }
        self.written.dispelled(namespace, doubt);
        Ok(())
    }

    pub(crate) async fn create(&self, namespace: &str, object: Value) -> Result<Arc<Value>, Status> {
        let made = self.client.within(self.resource(), namespace).create(object).await.inspect_err(|status| {
            // What may have been made under a name of the server's choice must not be made again.
            if status.is(Reason::Timeout) {
                self.written.doubt(namespace);
            }
        })?;
        self.written.note(made.clone(), Instant::now());
        Ok(made)
    }

    pub(crate) async fn update(&self, object: Value) -> Result<Arc<Value>, Status> {
        let made = self.client.within(self.resource(), meta::namespace(&object)).update(object).await?;
        self.written.note(made.clone(), Instant::now());
        Ok(made)
    }

    pub(crate) async fn update_status(&self, object: Value) -> Result<Arc<Value>, Status> {
        let made = self.client.within(self.resource(), meta::namespace(&object)).update_status(object).await?;
        self.written.note(made.clone(), Instant::now());
        Ok(made)
    }

    /// Replaces the status where it differs. An object that is gone needs none; one that someone else changed is an error, since
    /// the plan saw an older one.
    pub(crate) async fn write_status(&self, object: &Value, status: Value) -> Result<(), Status> {
        if object.get("status").unwrap_or(&Value::Null) == &status {
            return Ok(());
        }
        let mut changed = object.clone();
        changed.set(&["status"], status);
        settled(self.update_status(changed).await)
    }

    pub(crate) async fn patch(&self, object: &Value, subresource: &str, kind: PatchKind, body: Value) -> Result<Arc<Value>, Status> {
        let made = self.client.within(self.resource(), meta::namespace(object)).patch(meta::name(object), subresource, kind, body).await?;
        self.written.note(made.clone(), Instant::now());
        Ok(made)
    }

    /// Deletes just this object, not one that took its name since; that it is gone already is as good.
    pub(crate) async fn delete(&self, object: &Value, options: DeleteOptions) -> Result<(), Status> {
        let uid = Some(meta::uid(object).to_string());
        let options = DeleteOptions { preconditions: Preconditions { uid, ..options.preconditions }, ..options };
        match self.client.within(self.resource(), meta::namespace(object)).delete(meta::name(object), options).await {
            Ok(left) if meta::uid(&left) == meta::uid(object) && meta::is_terminating(&left) => {
                self.written.note(left, Instant::now());
                Ok(())
            }
            Ok(_) => {
                self.written.note_gone(object, Instant::now());
                Ok(())
            }
            Err(status) if status.is(Reason::NotFound) => {
                self.written.note_gone(object, Instant::now());
                Ok(())
            }
            Err(status) => Err(status),
        }
    }
}

/// What was written; None where somebody else changed the object, which causes another round, or it is gone.
pub(crate) fn unless_it_changed<T>(result: Result<T, Status>) -> Result<Option<T>, Status> {
    match result {
        Ok(written) => Ok(Some(written)),
        Err(status) if matches!(status.reason, Reason::NotFound | Reason::Conflict) => Ok(None),
        Err(status) => Err(status),
    }
}

/// That the object is gone is no failure.
pub(crate) fn settled<T>(result: Result<T, Status>) -> Result<(), Status> {
    match result {
        Err(status) if !status.is(Reason::NotFound) => Err(status),
        _ => Ok(()),
    }
}
