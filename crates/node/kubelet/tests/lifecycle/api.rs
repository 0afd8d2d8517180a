//! A model of the API server: objects in a map, lists, watches, merge patches with preconditions.

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_client::{Call, DeleteOptions, EventKind, ListOptions, Page, Reply, Resource, Transport, Verb, WatchEvent, WatchStream};
use fram_machinery::labels::FieldSelector;
use fram_machinery::{Status, Value, meta, object};
use parking_lot::Mutex;
use tokio::sync::watch;

#[derive(Default)]
struct State {
    objects: BTreeMap<(String, String), Arc<Value>>,
    /// Everything that happened, in order: what watches read.
    history: Vec<(String, EventKind, Arc<Value>)>,
    last: BTreeMap<String, Arc<Value>>,
    uids: u32,
}

#[derive(Clone)]
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<usize>,
}

impl Default for Api {
    fn default() -> Self {
        Self { state: Arc::default(), changed: watch::Sender::new(0) }
    }
}

fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.into() } else { format!("{namespace}/{name}") }
}

impl Api {
    pub(crate) fn changes(&self) -> watch::Receiver<usize> {
        self.changed.subscribe()
    }

    pub(crate) fn get(&self, plural: &str, key: &str) -> Option<Arc<Value>> {
        self.state.lock().objects.get(&(plural.to_string(), key.to_string())).cloned()
    }

    /// Every object of a resource.
    pub(crate) fn all(&self, plural: &str) -> Vec<Arc<Value>> {
        self.state.lock().objects.iter().filter(|((p, _), _)| p == plural).map(|(_, o)| o.clone()).collect()
    }

    /// Creates or replaces an object as a user would.
    pub(crate) fn put(&self, plural: &str, object: Value) -> Arc<Value> {
        let at = (plural.to_string(), meta::key(&object));
        let mut object = object;
        let mut state = self.state.lock();
        match state.objects.get(&at).map(|o| meta::uid(o).to_string()) {
            Some(uid) => object.set(&["metadata", "uid"], uid),
            None => {
                state.uids += 1;
                let uid = format!("uid-{}", state.uids);
                object.set(&["metadata", "uid"], uid);
                object.set(&["metadata", "creationTimestamp"], "2026-01-01T00:00:00Z");
            }
        }
        let kind = if state.objects.contains_key(&at) { EventKind::Modified } else { EventKind::Added };
        self.record(&mut state, at, kind, object)
    }

    fn record(&self, state: &mut State, at: (String, String), kind: EventKind, mut object: Value) -> Arc<Value> {
        object.set(&["metadata", "resourceVersion"], (state.history.len() + 1).to_string());
        let object = Arc::new(object);
        match kind {
            EventKind::Deleted => state.objects.remove(&at),
            _ => state.objects.insert(at.clone(), object.clone()),
        };
        if at.0 == "pods" {
            state.last.insert(meta::name(&object).to_string(), object.clone());
        }
        state.history.push((at.0, kind, object.clone()));
        self.changed.send_replace(state.history.len());
        object
    }

    pub(crate) fn remove(&self, plural: &str, name: &str) {
        let mut state = self.state.lock();
        let at = (plural.to_string(), key("ns", name));
        let old = state.objects.get(&at).cloned().unwrap();
        self.record(&mut state, at, EventKind::Deleted, (*old).clone());
    }

    /// What a pod was when last seen, deleted or not.
    pub(crate) fn last(&self, name: &str) -> Arc<Value> {
        self.state.lock().last[name].clone()
    }

    pub(crate) fn delete_pod(&self, name: &str, grace: i64) {
        let mut pod = (*self.get("pods", &key("ns", name)).unwrap()).clone();
        pod.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:30Z");
        pod.set(&["metadata", "deletionGracePeriodSeconds"], grace);
        self.put("pods", pod);
    }

    /// `reason message` of each event.
    pub(crate) fn events(&self) -> Vec<String> {
        let state = self.state.lock();
        let events = state.objects.iter().filter(|((plural, _), _)| plural == "events");
        events.map(|(_, e)| format!("{} {}", e.str_at(&["reason"]), e.str_at(&["message"]))).collect()
    }

    fn delete(&self, call: &Call, options: &DeleteOptions) -> Result<Reply, Status> {
        let mut state = self.state.lock();
        let at = (call.resource.plural.to_string(), key(&call.namespace, &call.name));
        let Some(old) = state.objects.get(&at).cloned() else { return Err(Status::not_found("", &at.0, &call.name)) };
        if options.preconditions.uid.as_deref().is_some_and(|uid| uid != meta::uid(&old)) {
            return Err(Status::conflict("", &at.0, &call.name, "the UID in the precondition does not match"));
        }
        Ok(Reply::Object(self.record(&mut state, at, EventKind::Deleted, (*old).clone())))
    }

    fn patch(&self, call: &Call, body: &Value) -> Result<Reply, Status> {
        let mut state = self.state.lock();
        let at = (call.resource.plural.to_string(), key(&call.namespace, &call.name));
        let Some(old) = state.objects.get(&at).cloned() else { return Err(Status::not_found("", &at.0, &call.name)) };
        let wanted = meta::resource_version(body);
        if !wanted.is_empty() && wanted != meta::resource_version(&old) {
            return Err(Status::conflict("", &at.0, &call.name, "the object has been modified"));
        }
        let merged = fram_machinery::patch::merge(&old, body);
        Ok(Reply::Object(self.record(&mut state, at, EventKind::Modified, merged)))
    }

    fn list(&self, call: &Call, options: &ListOptions) -> Reply {
        let state = self.state.lock();
        let plural = call.resource.plural.to_string();
        let wanted = |o: &Arc<Value>| selected(o, &call.namespace, &options.field_selector);
        let items = state.objects.iter().filter(|((p, _), o)| *p == plural && wanted(o)).map(|(_, o)| o.clone()).collect();
        Reply::Page(Page { resource_version: state.history.len().to_string(), continue_token: String::new(), items })
    }
}

fn selected(object: &Value, namespace: &str, fields: &str) -> bool {
    let value = |path: &str| object.str_at(&path.split('.').collect::<Vec<_>>()).to_string();
    (namespace.is_empty() || meta::namespace(object) == namespace) && FieldSelector::parse(fields).unwrap().matches_with(value)
}

#[async_trait::async_trait]
impl Transport for Api {
    async fn call(&self, call: Call) -> Result<Reply, Status> {
        let plural = call.resource.plural.to_string();
        match &call.verb {
            Verb::Get => {
                let found = self.get(&plural, &key(&call.namespace, &call.name));
                found.map(Reply::Object).ok_or_else(|| Status::not_found("", &plural, &call.name))
            }
            Verb::List(options) => Ok(self.list(&call, options)),
            Verb::Create { object: _, .. } if call.subresource == "token" => {
                let status = object!({ "token": "jwt", "expirationTimestamp": "2100-01-01T00:00:00Z" });
                Ok(Reply::Object(Arc::new(object!({ "status": status, "spec": { "expirationSeconds": 3600 } }))))
            }
            Verb::Create { object, .. } if meta::name(object).is_empty() => {
                let (mut object, number) = (object.clone(), self.state.lock().history.len());
                let name = format!("{}{number}", object.str_at(&["metadata", "generateName"]));
                object.set(&["metadata", "name"], name);
                Ok(Reply::Object(self.put(&plural, object)))
            }
            Verb::Create { object, .. } => {
                if self.get(&plural, &meta::key(object)).is_some() {
                    return Err(Status::already_exists("", &plural, meta::name(object)));
                }
                Ok(Reply::Object(self.put(&plural, object.clone())))
            }
            Verb::Update { object, .. } => Ok(Reply::Object(self.put(&plural, object.clone()))),
            Verb::Patch { patch, .. } => self.patch(&call, &patch.body),
            Verb::Delete(options) => self.delete(&call, options),
            Verb::DeleteCollection { .. } => Err(Status::internal("not in the model")),
        }
    }

    async fn watch(&self, resource: &Resource, namespace: &str, options: ListOptions) -> Result<WatchStream, Status> {
        let from: usize = options.resource_version.parse().unwrap();
        let (api, plural, namespace) = (self.clone(), resource.plural.to_string(), namespace.to_string());
        let receiver = self.changed.subscribe();
        let next = move |(mut at, mut receiver): (usize, watch::Receiver<usize>)| {
            let (api, plural, namespace, fields) = (api.clone(), plural.clone(), namespace.clone(), options.field_selector.clone());
            async move {
                loop {
                    let entry = api.state.lock().history.get(at).cloned();
                    match entry {
                        Some((p, kind, object)) => {
                            at += 1;
                            if p == plural && selected(&object, &namespace, &fields) {
                                return Some((Ok(WatchEvent { kind, object }), (at, receiver)));
                            }
                        }
                        None => receiver.changed().await.ok()?,
                    }
                }
            }
        };
        Ok(Box::pin(futures_util::stream::unfold((from, receiver), next)))
    }
}
