//! ResourceQuotas: what each namespace uses. Refusing what is too much is the API server's admission, which also writes what
//! new objects use, in one transaction with them; so what is counted here must not be older than the quota's last charge.

use std::collections::HashMap;
use std::sync::Arc;

use fram_api::quota::{self, Amounts};
use fram_client::resources::{PERSISTENT_VOLUME_CLAIMS, PODS, RESOURCE_QUOTAS, SERVICES};
use fram_client::{Action, Client, Controller, Delta, Informer, ListOptions, Resource};
use fram_machinery::quantity::Quantity;
use fram_machinery::{Map, Status, Value, meta, object};

use crate::objects::{Objects, settled};
use crate::{Context, pods};

pub(crate) fn start(context: &Context) {
    let quotas = context.informers.get(&RESOURCE_QUOTAS);
    let client = context.client("resourcequota-controller");
    let kinds = context.kinds.iter().filter(|k| k.namespaced && k.collected);
    let kinds: HashMap<String, Informer> = kinds.map(|k| (count_name(&k.resource), context.informers.get(&k.resource))).collect();
    let mut controller = Controller::new("resourcequota", 5).owns(&quotas);
    for informer in kinds.values() {
        let (here, resource) = (quotas.clone(), informer.resource().clone());
        controller = controller.watches_deltas(informer, move |delta| match changes_usage(&resource, delta) {
            true => here.by_namespace(meta::namespace(delta.object())).iter().map(|q| meta::key(q)).collect(),
            false => Vec::new(),
        });
    }
    let reconciler = Reconciler { quotas: Objects::new(&client, &quotas), client, kinds, now: context.now.clone() };
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

fn count_name(resource: &Resource) -> String {
    quota::count_name(&resource.group, &resource.plural)
}

/// Whether a pod still uses what it asked for: not when it has ended, nor when its time to end is over.
fn is_used(pod: &Value, now: jiff::Timestamp) -> bool {
    let over = pods::time(pod, &["metadata", "deletionTimestamp"]).is_some_and(|t| now > t);
    !pods::has_ended(pod) && !over
}

/// Whether a change may change what is used: objects that come and go do, and of some their parts.
fn changes_usage(resource: &Resource, delta: &Delta) -> bool {
    let (Some(old), Some(new)) = (&delta.old, &delta.new) else { return true };
    if *resource == PODS {
        let part = |p: &Value| (crate::pods::has_ended(p), meta::is_terminating(p));
        return part(old) != part(new) || old.get("spec") != new.get("spec");
    }
    (*resource == SERVICES || *resource == PERSISTENT_VOLUME_CLAIMS) && old.get("spec") != new.get("spec")
}

struct Reconciler {
    quotas: Objects,
    client: Client,
    /// By the name under which a quota counts them.
    kinds: HashMap<String, Informer>,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let Some(quota) = self.quotas.get(namespace, name) else { return Ok(Action::Done) };
        let cached = |informer: &Informer| informer.by_namespace(namespace);
        let mut objects: HashMap<&str, Vec<Arc<Value>>> = HashMap::new();
        for (name, informer) in self.counted(&quota) {
            objects.insert(name, cached(informer));
        }
        if quota.at(&["status"]) == Some(&self.status(&quota, &objects)) {
            return Ok(Action::Done);
        }
        // The caches may lag behind what admission has charged since. What the server lists now does not, and the write
        // below fails if anything is charged meanwhile.
        for (name, informer) in self.counted(&quota) {
            let page = self.client.within(informer.resource(), namespace).list(ListOptions::default()).await?;
            objects.insert(name, page.items);
        }
        let status = self.status(&quota, &objects);
        settled(self.quotas.write_status(&quota, status).await)?;
        Ok(Action::Done)
    }

    /// The kinds of object that a quota's limits are about.
    fn counted(&self, quota: &Value) -> HashMap<&str, &Informer> {
        let hard = quota.at(&["spec", "hard"]).and_then(Value::as_map);
        let mut out = HashMap::new();
        for name in hard.into_iter().flat_map(|m| m.keys()) {
            let counted = quota::counted_as(name.as_str());
            let counted = match counted.as_str() {
                name if name.starts_with("count/") => name,
                name if name == "services" || name.starts_with("services.") => "count/services",
                name if name == "persistentvolumeclaims" || name == "requests.storage" => "count/persistentvolumeclaims",
                name if name.contains(".storageclass.storage.k8s.io/") => "count/persistentvolumeclaims",
                _ => "count/pods",
            };
            if let Some((name, informer)) = self.kinds.get_key_value(counted) {
                out.insert(name.as_str(), informer);
            }
        }
        out
    }

    fn status(&self, quota: &Value, objects: &HashMap<&str, Vec<Arc<Value>>>) -> Value {
        let hard = quota.at(&["spec", "hard"]).and_then(Value::as_map).cloned().unwrap_or_default();
        let used = self.used(quota, objects);
        let written = |name: &str| used.get(name).map_or("0".to_string(), |q| q.to_string());
        let used: Map = hard.keys().map(|k| (k.clone(), written(k.as_str()))).collect();
        if hard.is_empty() { object!({}) } else { object!({ "hard": hard, "used": used }) }
    }

    fn used(&self, quota: &Value, objects: &HashMap<&str, Vec<Arc<Value>>>) -> Amounts {
        let now = (self.now)();
        let mut amounts = Amounts::new();
        for (name, objects) in objects {
            let Some(resource) = self.kinds.get(*name).map(Informer::resource) else { continue };
            let pods = *resource == PODS;
            if !pods && quota::is_scoped(quota) {
                continue;
            }
            for object in objects.iter().filter(|o| !pods || quota::covers(quota, o)) {
                let mut usage = quota::usage(&resource.group, &resource.plural, object);
                if pods && !is_used(object, now) {
                    // It is still there, though it uses nothing.
                    usage.retain(|name, _| name == "count/pods");
                }
                for (name, amount) in usage {
                    let entry = amounts.entry(name).or_insert(Quantity::zero());
                    *entry = *entry + amount;
                }
            }
        }
        amounts
    }
}
