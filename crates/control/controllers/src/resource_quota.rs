//! ResourceQuotas: what each namespace uses. Refusing what is too much is the API server's admission, which also writes what
//! new objects use, in one transaction with them; so what is counted here must not be older than the quota's last charge.

use std::collections::HashMap;
use std::sync::Arc;

use fram_api::quota::{self, Amounts};
use fram_client::controller::Enqueuer;
use fram_client::resources::{PERSISTENT_VOLUME_CLAIMS, PODS, RESOURCE_CLAIMS, RESOURCE_QUOTAS, SERVICES};
use fram_client::{Action, Client, Controller, Delta, Informer, ListOptions, Resource};
use fram_machinery::quantity::Quantity;
use fram_machinery::{Map, Status, Value, meta, object};
use jiff::Timestamp;
use parking_lot::RwLock;

use crate::context::KindInfo;
use crate::custom_kinds::{self, Follower};
use crate::objects::{Objects, settled};
use crate::{Context, pods};

pub(crate) fn start(context: &Context) {
    let quotas = context.informers.get(&RESOURCE_QUOTAS);
    let client = context.client("resourcequota-controller");
    let kinds = context.kinds.iter().filter(|k| k.namespaced && k.collected);
    let kinds: HashMap<String, Informer> = kinds.map(|k| (count_name(&k.resource), context.informers.get(&k.resource))).collect();
    let custom = Arc::new(RwLock::new(HashMap::new()));
    let mut controller = Controller::new("resourcequota", 5).owns(&quotas);
    for informer in kinds.values() {
        let (here, resource) = (quotas.clone(), informer.resource().clone());
        controller = controller.watches_deltas(informer, move |delta| match changes_usage(&resource, delta) {
            true => here.by_namespace(meta::namespace(delta.object())).iter().map(|q| meta::key(q)).collect(),
            false => Vec::new(),
        });
    }
    let follower = Arc::new(CustomKinds { quotas: quotas.clone(), counted: custom.clone(), enqueuer: controller.enqueuer() });
    let follow = custom_kinds::follow(follower, context.informers.clone(), context.custom_kinds.clone());
    context.tasks.spawn(context.stop.clone().run_until_cancelled_owned(follow));
    let reconciler = Reconciler { quotas: Objects::new(&client, &quotas), client, kinds, custom, now: context.now.clone() };
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

/// Counts the objects of custom resources, as their kinds come and go.
struct CustomKinds {
    quotas: Informer,
    counted: Counted,
    enqueuer: Enqueuer,
}

type Counted = Arc<RwLock<HashMap<String, Informer>>>;

impl CustomKinds {
    /// Has the quotas looked at that count objects by this name.
    fn look(&self, quotas: &[Arc<Value>], name: &str) {
        let counting = quotas.iter().filter(|q| q.at(&["spec", "hard", name]).is_some());
        counting.for_each(|quota| self.enqueuer.add(meta::key(quota)));
    }
}

impl Follower for CustomKinds {
    fn came(&self, kind: &KindInfo, informer: &Informer) {
        if kind.namespaced {
            self.counted.write().insert(count_name(&kind.resource), informer.clone());
        }
    }

    fn listed(&self, kind: &KindInfo) {
        self.look(&self.quotas.list(), &count_name(&kind.resource));
    }

    fn changed(&self, kind: &KindInfo, delta: &Delta) {
        if delta.old.is_none() || delta.new.is_none() {
            self.look(&self.quotas.by_namespace(meta::namespace(delta.object())), &count_name(&kind.resource));
        }
    }

    fn gone(&self, resource: &Resource) {
        self.counted.write().remove(&count_name(resource));
    }
}

fn count_name(resource: &Resource) -> String {
    quota::count_name(&resource.group, &resource.plural)
}

/// Whether a pod still uses what it asked for: not when it has ended, nor when its time to end is over.
fn is_used(pod: &Value, now: Timestamp) -> bool {
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
    let spec = old.get("spec") != new.get("spec");
    match *resource == PERSISTENT_VOLUME_CLAIMS {
        // Which classes it has, and how much was set aside, stands there.
        true => spec || old.get("status") != new.get("status"),
        false => spec && (*resource == SERVICES || *resource == RESOURCE_CLAIMS),
    }
}

struct Reconciler {
    quotas: Objects,
    client: Client,
    /// By the name under which a quota counts them.
    kinds: HashMap<String, Informer>,
    /// The same of custom resources, which come and go.
    custom: Counted,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let Some(quota) = self.quotas.get(namespace, name) else { return Ok(Action::Done) };
        let cached = |informer: &Informer| informer.by_namespace(namespace);
        let counted = self.counted(&quota);
        let mut objects: Contents = counted.values().map(|informer| (informer.resource().clone(), cached(informer))).collect();
        if quota.at(&["status"]) == Some(&status(&quota, &counted, &objects, (self.now)())) {
            return Ok(Action::Done);
        }
        // The caches may lag behind what admission has charged since. What the server lists now does not, and the write
        // below fails if anything is charged meanwhile.
        for informer in counted.values() {
            let page = self.client.within(informer.resource(), namespace).list(ListOptions::default()).await?;
            objects.insert(informer.resource().clone(), page.items);
        }
        let status = status(&quota, &counted, &objects, (self.now)());
        settled(self.quotas.write_status(&quota, status).await)?;
        Ok(Action::Done)
    }

    /// The kinds of object that a quota's limits are about, by the names of the limits.
    fn counted(&self, quota: &Value) -> HashMap<String, Informer> {
        let hard = quota.at(&["spec", "hard"]).and_then(Value::as_map);
        let custom = self.custom.read();
        let of = |name: &str| {
            let kind = counting(name);
            self.kinds.get(&kind).or_else(|| custom.get(&kind)).cloned()
        };
        hard.into_iter().flat_map(|m| m.keys()).filter_map(|name| Some((name.to_string(), of(name.as_str())?))).collect()
    }
}

/// The name under which objects are counted that a limit is about.
fn counting(limit: &str) -> String {
    let name = quota::counted_as(limit);
    let kind = match name.as_str() {
        name if name.starts_with("count/") => name,
        name if name == "services" || name.starts_with("services.") => "count/services",
        name if name == "persistentvolumeclaims" || name == "requests.storage" => "count/persistentvolumeclaims",
        name if name.contains(".storageclass.storage.k8s.io/") => "count/persistentvolumeclaims",
        name if name.ends_with(quota::DEVICES) => "count/resourceclaims.resource.k8s.io",
        _ => "count/pods",
    };
    kind.to_string()
}

/// What a namespace has of the kinds that a quota is about.
type Contents = HashMap<Resource, Vec<Arc<Value>>>;

/// The status of a quota; what nobody can count is not told.
fn status(quota: &Value, counted: &HashMap<String, Informer>, objects: &Contents, now: Timestamp) -> Value {
    let hard = quota.at(&["spec", "hard"]).and_then(Value::as_map).cloned().unwrap_or_default();
    let used = used(quota, objects, now);
    let written = |name: &str| used.get(name).map_or("0".to_string(), |q| q.to_string());
    let known = hard.keys().filter(|k| counted.contains_key(k.as_str()));
    let used: Map = known.map(|k| (k.clone(), written(k.as_str()))).collect();
    if hard.is_empty() { object!({}) } else { object!({ "hard": hard, "used": used }) }
}

fn used(quota: &Value, objects: &Contents, now: Timestamp) -> Amounts {
    let mut amounts = Amounts::new();
    for (resource, objects) in objects {
        for object in objects.iter().filter(|o| quota::covers(quota, &resource.group, &resource.plural, o)) {
            let mut usage = quota::usage(&resource.group, &resource.plural, object);
            if *resource == PODS && !is_used(object, now) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_about_one_kind() {
        for (limit, kind) in [
            ("pods", "count/pods"),
            ("requests.nvidia.com/gpu", "count/pods"),
            ("secrets", "count/secrets"),
            ("services.nodeports", "count/services"),
            ("gold.storageclass.storage.k8s.io/requests.storage", "count/persistentvolumeclaims"),
            ("gold.deviceclass.resource.k8s.io/devices", "count/resourceclaims.resource.k8s.io"),
            ("count/widgets.example.com", "count/widgets.example.com"),
        ] {
            assert_eq!(counting(limit), kind);
        }
    }

    #[test]
    fn what_nobody_can_count_is_not_told_as_none() {
        let quota = object!({ "spec": { "hard": { "count/widgets.example.com": "1" } } });
        let told = status(&quota, &HashMap::new(), &Contents::new(), Timestamp::UNIX_EPOCH);
        assert_eq!(told, object!({ "hard": { "count/widgets.example.com": "1" }, "used": {} }));
    }

    #[test]
    fn a_claims_classes_may_change_what_is_used() {
        let claim = |class: &str| Some(Arc::new(object!({ "spec": {}, "status": { "currentVolumeAttributesClassName": class } })));
        let delta = |old, new| Delta { old, new };
        assert!(changes_usage(&PERSISTENT_VOLUME_CLAIMS, &delta(claim("gold"), claim("silver"))));
        assert!(!changes_usage(&SERVICES, &delta(claim("gold"), claim("silver"))));
    }
}
